//! What is said to a client that is not let through: Postgres' own error message, so that every driver shows it. A client that asks for TLS first gets it,
//! with this node's certificate: one that insists on it would otherwise see "server does not support SSL" and never the reason.

use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::time::timeout;
use tokio_rustls::TlsAcceptor;

use super::aim::Why;
use crate::settings::Settings;
use crate::tls::TlsFiles;

/// How long the conversation may take.
const PATIENCE: Duration = Duration::from_secs(5);
/// Postgres reads no longer startup packet (`MAX_STARTUP_PACKET_LENGTH`).
const LONGEST: usize = 10_000;
/// Requests for encryption before the startup packet: TLS, GSS, and one of them again.
const MOST_REQUESTS: usize = 4;

/// What a client begins with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Beginning {
    /// Not all of it is there.
    Incomplete,
    /// `SSLRequest`
    Tls,
    /// `GSSENCRequest`
    Gss,
    /// `CancelRequest`: no answer comes to it.
    Cancel,
    /// The startup packet of a session.
    Startup,
    /// TLS from the first byte.
    DirectTls,
    /// Nothing that Postgres would answer.
    Other,
}

impl Beginning {
    /// Of the bytes that have come.
    pub fn of(bytes: &[u8]) -> Self {
        if bytes.first() == Some(&0x16) {
            return Self::DirectTls;
        }
        let (Some(length), code) = (word(bytes, 0), word(bytes, 4)) else { return Self::Incomplete };
        let length = usize::try_from(length).unwrap_or(usize::MAX);
        if !(8..=LONGEST).contains(&length) {
            return Self::Other;
        }
        if bytes.len() < length {
            return Self::Incomplete;
        }
        // Two halves of 1234 and a number, which no protocol's version will ever be.
        match code.map(|code| (code >> 16, code & 0xffff)) {
            Some((1234, 5678)) => Self::Cancel,
            Some((1234, 5679)) => Self::Tls,
            Some((1234, 5680)) => Self::Gss,
            Some((3, _)) => Self::Startup,
            _ => Self::Other,
        }
    }

    /// Whether the server has a word to say before it goes: a connection that ends without one was lost, and another may be tried.
    pub const fn wants_an_answer(self) -> bool {
        matches!(self, Self::Tls | Self::Gss | Self::Startup | Self::DirectTls)
    }
}

fn word(bytes: &[u8], at: usize) -> Option<u32> {
    bytes.get(at..at + 4)?.try_into().ok().map(u32::from_be_bytes)
}

/// Why a client is not let through.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Farewell {
    /// Nobody took it for so long.
    NoPrimary(Why, Duration),
    /// There are so many already.
    TooMany(usize),
}

impl Farewell {
    /// `ErrorResponse`, as Postgres writes it.
    pub fn message(self) -> Vec<u8> {
        let (code, text, hint) = match self {
            Self::NoPrimary(why, time) => (
                "57P03",
                format!("no primary took this connection within {time:?}: {why}"),
                "Try again. pgraft_failover() and pgraft_members on any member say who is missing.".to_owned(),
            ),
            Self::TooMany(most) => (
                "53300",
                format!("the read-write gateway has its {most} clients already"),
                "Connect to another member's, use a connection pool, or raise gateway.maxConnections.".to_owned(),
            ),
        };
        let mut fields = vec![];
        for (kind, value) in [(b'S', "FATAL"), (b'V', "FATAL"), (b'C', code), (b'M', &text), (b'H', &hint)] {
            fields.push(kind);
            fields.extend_from_slice(value.as_bytes());
            fields.push(0);
        }
        fields.push(0);
        let length = u32::try_from(fields.len() + 4).unwrap_or(u32::MAX);
        [&b"E"[..], &length.to_be_bytes(), &fields].concat()
    }
}

/// Says it. `first` is what the client has said already.
pub async fn say<S>(farewell: Farewell, settings: &Settings, client: S, first: Vec<u8>)
where
    S: AsyncRead + AsyncWrite + Unpin + Send,
{
    // Whoever is gone, or says nothing that could be answered, needs no answer.
    let _ = timeout(PATIENCE, converse(farewell, settings, client, first)).await;
}

async fn converse<S>(farewell: Farewell, settings: &Settings, mut client: S, mut said: Vec<u8>) -> std::io::Result<()>
where
    S: AsyncRead + AsyncWrite + Unpin + Send,
{
    for _ in 0..MOST_REQUESTS {
        match begins(&mut client, &mut said).await? {
            Beginning::Startup => return part(&mut client, farewell).await,
            Beginning::Tls => {
                let Some(acceptor) = acceptor(settings) else {
                    client.write_all(b"N").await?;
                    said.clear();
                    continue;
                };
                client.write_all(b"S").await?;
                let mut inside = acceptor.accept(client).await?;
                return match begins(&mut inside, &mut vec![]).await? {
                    Beginning::Startup => part(&mut inside, farewell).await,
                    _ => Ok(()),
                };
            }
            Beginning::Gss => {
                client.write_all(b"N").await?;
                said.clear();
            }
            _ => return Ok(()),
        }
    }
    Ok(())
}

async fn begins<S: AsyncRead + Unpin>(client: &mut S, said: &mut Vec<u8>) -> std::io::Result<Beginning> {
    loop {
        match Beginning::of(said) {
            Beginning::Incomplete if client.read_buf(said).await? == 0 => return Ok(Beginning::Other),
            Beginning::Incomplete => {}
            known => return Ok(known),
        }
    }
}

async fn part<S: AsyncWrite + Unpin>(client: &mut S, farewell: Farewell) -> std::io::Result<()> {
    client.write_all(&farewell.message()).await?;
    client.shutdown().await
}

fn acceptor(settings: &Settings) -> Option<TlsAcceptor> {
    let files = TlsFiles::read(settings).ok().flatten()?;
    files.server().ok().map(|config| TlsAcceptor::from(Arc::new(config)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::settings::tests::example;

    fn packet(code: u32, rest: &[u8]) -> Vec<u8> {
        let length = u32::try_from(rest.len() + 8).unwrap();
        [&length.to_be_bytes()[..], &code.to_be_bytes(), rest].concat()
    }

    const SSL: u32 = 80_877_103;

    #[test]
    fn what_a_client_begins_with() {
        let startup = packet(196_608, b"user\0app\0\0");
        for (bytes, want) in [
            (&b""[..], Beginning::Incomplete),
            (&startup[..7], Beginning::Incomplete),
            (&startup[..17], Beginning::Incomplete),
            (&startup, Beginning::Startup),
            (&packet(196_610, b"\0"), Beginning::Startup),
            (&packet(SSL, b""), Beginning::Tls),
            (&packet(80_877_104, b""), Beginning::Gss),
            (&packet(80_877_102, b"12345678"), Beginning::Cancel),
            (&[0x16, 3, 1], Beginning::DirectTls),
            (b"GET / HTTP/1.1\r\n", Beginning::Other),
            (&packet(131_072, b""), Beginning::Other),
            (&[0, 0, 0, 4, 0, 0, 0, 0], Beginning::Other),
        ] {
            assert_eq!(Beginning::of(bytes), want, "{bytes:?}");
        }
    }

    #[test]
    fn the_messages_that_a_client_sees() {
        let shown = [Farewell::NoPrimary(Why::Changing, Duration::from_secs(10)), Farewell::TooMany(1000)].map(|farewell| {
            let message = farewell.message();
            let length = word(&message, 1).unwrap();
            assert_eq!((message[0], usize::try_from(length).unwrap()), (b'E', message.len() - 1));
            String::from_utf8_lossy(&message[5..]).replace('\0', "\n").trim_end().to_owned()
        });
        insta::assert_snapshot!(shown.join("\n---\n"));
    }

    #[tokio::test]
    async fn a_client_that_asks_for_tls_where_there_is_none_gets_the_message_in_the_clear() {
        let (mut client, server) = tokio::io::duplex(1000);
        let farewell = Farewell::NoPrimary(Why::NobodyAnswers, PATIENCE);
        let said = tokio::spawn(async move { say(farewell, &example(), server, packet(SSL, b"")).await });
        assert_eq!(client.read_u8().await.unwrap(), b'N');
        client.write_all(&packet(196_608, b"user\0app\0\0")).await.unwrap();
        let mut answer = vec![];
        client.read_to_end(&mut answer).await.unwrap();
        assert_eq!(answer, farewell.message());
        said.await.unwrap();
    }
}
