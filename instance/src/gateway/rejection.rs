//! What is said to a client that is not let through: Postgres' own error message, so that every
//! driver shows it. A client that asks for TLS first gets it, with this node's certificate: one
//! that insists on it would otherwise see "server does not support SSL" and never the reason.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadBuf};
use tokio::time::timeout;
use tokio_rustls::TlsAcceptor;

use super::route::WaitCause;
use super::startup::{StartupRequest, request};
use crate::settings::Settings;
use crate::tls::PostgresTlsFiles;

/// How long the conversation may take.
const TIMEOUT: Duration = Duration::from_secs(5);
/// Requests for encryption before the startup packet: TLS, GSS, and one of them again.
const MAX_REQUESTS: usize = 4;

/// Why a client is not let through.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rejection {
    /// Nobody took it for so long.
    NoPrimary(WaitCause, Duration),
    /// There are so many already.
    TooMany(usize),
}

impl Rejection {
    /// `ErrorResponse`, as Postgres writes it.
    pub fn message(self) -> Vec<u8> {
        let (code, text, hint) = match self {
            Self::NoPrimary(why, time) => (
                "57P03",
                format!("no primary took this connection within {time:?}: {why}"),
                "Try again. pgraft_failover() and pgraft_members on any member say who is missing."
                    .to_owned(),
            ),
            Self::TooMany(most) => (
                "53300",
                format!("the read-write gateway already has {most} clients, its maximum"),
                "Use a connection pooler, or connect through another member.".to_owned(),
            ),
        };
        let mut fields = vec![];
        for (kind, value) in
            [(b'S', "FATAL"), (b'V', "FATAL"), (b'C', code), (b'M', &text), (b'H', &hint)]
        {
            fields.push(kind);
            fields.extend_from_slice(value.as_bytes());
            fields.push(0);
        }
        fields.push(0);
        let length = u32::try_from(fields.len() + 4).unwrap_or(u32::MAX);
        [&b"E"[..], &length.to_be_bytes(), &fields].concat()
    }
}

/// Says it. `first` is what the client has said already; with `tls_granted` it expects TLS now.
pub async fn say<S>(
    rejection: Rejection,
    settings: &Settings,
    client: S,
    first: Vec<u8>,
    tls_granted: bool,
) where
    S: AsyncRead + AsyncWrite + Unpin + Send,
{
    // Whoever is gone, or says nothing that could be answered, needs no answer.
    let _ = timeout(TIMEOUT, converse(rejection, settings, client, first, tls_granted)).await;
}

async fn converse<S>(
    rejection: Rejection,
    settings: &Settings,
    mut client: S,
    mut said: Vec<u8>,
    tls_granted: bool,
) -> std::io::Result<()>
where
    S: AsyncRead + AsyncWrite + Unpin + Send,
{
    for _ in 0..MAX_REQUESTS {
        match begins(&mut client, &mut said).await? {
            StartupRequest::Startup if !tls_granted => return part(&mut client, rejection).await,
            StartupRequest::ClientHello => {
                let Some(acceptor) = acceptor(settings) else { return Ok(()) };
                return encrypted(rejection, &acceptor, Resumed { said, stream: client }).await;
            }
            StartupRequest::Ssl => {
                if let Some(acceptor) = acceptor(settings) {
                    client.write_all(b"S").await?;
                    return encrypted(rejection, &acceptor, client).await;
                }
                client.write_all(b"N").await?;
                said.clear();
            }
            StartupRequest::Gss => {
                client.write_all(b"N").await?;
                said.clear();
            }
            _ => return Ok(()),
        }
    }
    Ok(())
}

async fn encrypted<S>(
    rejection: Rejection,
    acceptor: &TlsAcceptor,
    client: S,
) -> std::io::Result<()>
where
    S: AsyncRead + AsyncWrite + Unpin + Send,
{
    let mut inside = acceptor.accept(client).await?;
    match begins(&mut inside, &mut vec![]).await? {
        StartupRequest::Startup => part(&mut inside, rejection).await,
        _ => Ok(()),
    }
}

async fn begins<S: AsyncRead + Unpin>(
    client: &mut S,
    said: &mut Vec<u8>,
) -> std::io::Result<StartupRequest> {
    loop {
        match request(said).0 {
            StartupRequest::Incomplete if client.read_buf(said).await? == 0 => {
                return Ok(StartupRequest::Invalid);
            }
            StartupRequest::Incomplete => {}
            known => return Ok(known),
        }
    }
}

async fn part<S: AsyncWrite + Unpin>(client: &mut S, rejection: Rejection) -> std::io::Result<()> {
    client.write_all(&rejection.message()).await?;
    client.shutdown().await
}

fn acceptor(settings: &Settings) -> Option<TlsAcceptor> {
    let files = PostgresTlsFiles::read(settings).ok().flatten()?;
    let mut config = files.server().ok()?;
    // A client with `sslnegotiation=direct` goes on with nobody who does not name the protocol.
    config.alpn_protocols = vec![b"postgresql".to_vec()];
    Some(TlsAcceptor::from(Arc::new(config)))
}

/// A connection of which some bytes were read already.
struct Resumed<S> {
    said: Vec<u8>,
    stream: S,
}

impl<S: AsyncRead + Unpin> AsyncRead for Resumed<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<std::io::Result<()>> {
        if self.said.is_empty() {
            return Pin::new(&mut self.stream).poll_read(context, buffer);
        }
        let length = self.said.len().min(buffer.remaining());
        buffer.put_slice(&self.said[..length]);
        self.said.drain(..length);
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Resumed<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<std::io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(context, bytes)
    }

    fn poll_flush(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gateway::startup::{SSL_REQUEST, startup_packet};
    use crate::settings::tests::example;

    fn word(bytes: &[u8], at: usize) -> u32 {
        u32::from_be_bytes(bytes[at..at + 4].try_into().unwrap())
    }

    #[test]
    fn the_messages_that_a_client_sees() {
        let time = Duration::from_secs(10);
        let shown = [
            Rejection::NoPrimary(WaitCause::Changing, time),
            Rejection::NoPrimary(WaitCause::NotNow, time),
            Rejection::TooMany(1000),
        ]
        .map(|rejection| {
            let message = rejection.message();
            let length = word(&message, 1);
            assert_eq!((message[0], usize::try_from(length).unwrap()), (b'E', message.len() - 1));
            String::from_utf8_lossy(&message[5..]).replace('\0', "\n").trim_end().to_owned()
        });
        insta::assert_snapshot!(shown.join("\n---\n"));
    }

    #[tokio::test]
    async fn a_client_that_asks_for_tls_where_there_is_none_gets_the_message_in_the_clear() {
        let (mut client, server) = tokio::io::duplex(1000);
        let rejection = Rejection::NoPrimary(WaitCause::NobodyAnswers, TIMEOUT);
        let said = tokio::spawn(async move {
            say(rejection, &example(), server, SSL_REQUEST.to_vec(), false).await;
        });
        assert_eq!(client.read_u8().await.unwrap(), b'N');
        client.write_all(&startup_packet("app", "app")).await.unwrap();
        let mut answer = vec![];
        client.read_to_end(&mut answer).await.unwrap();
        assert_eq!(answer, rejection.message());
        said.await.unwrap();
    }
}
