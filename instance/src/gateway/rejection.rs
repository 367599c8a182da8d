//! Sends the error to a client that the gateway cannot forward. It is an `ErrorResponse` of the
//! Postgres protocol, so that every driver shows it. A client that asks for TLS gets TLS with this
//! node's certificate: otherwise a client that requires TLS would show "server does not support
//! SSL" instead of the reason.

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

/// For everything, from the client's request to the error.
const TIMEOUT: Duration = Duration::from_secs(5);
/// Requests for encryption before the startup packet: TLS, GSS, and one of them once more.
const MAX_REQUESTS: usize = 4;

/// Why a client is rejected.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rejection {
    /// No primary accepted it within this time.
    NoPrimary(WaitCause, Duration),
    /// The gateway already serves this many clients.
    TooManyClients(usize),
}

impl Rejection {
    /// The `ErrorResponse` in the format of the protocol.
    pub fn message(self) -> Vec<u8> {
        let (code, text, detail, hint) = match self {
            Self::NoPrimary(cause, time) => (
                "57P03",
                format!("no primary accepted the connection within {}: {cause}", text(time)),
                None,
                "Try again. On any member, pgraft_failover() and pgraft_members show which members \
                 are missing.",
            ),
            Self::TooManyClients(limit) => (
                "53300",
                "too many clients for the read-write gateway".to_owned(),
                Some(format!("The gateway of this member serves at most {limit} clients.")),
                "Use a connection pooler, connect through another member, or increase \
                 gateway.maxConnections.",
            ),
        };
        let mut fields = vec![];
        for (kind, value) in [
            (b'S', Some("FATAL")),
            (b'V', Some("FATAL")),
            (b'C', Some(code)),
            (b'M', Some(&text)),
            (b'D', detail.as_deref()),
            (b'H', Some(hint)),
        ] {
            let Some(value) = value else { continue };
            fields.push(kind);
            fields.extend_from_slice(value.as_bytes());
            fields.push(0);
        }
        fields.push(0);
        let length = u32::try_from(fields.len() + 4).unwrap_or(u32::MAX);
        [&b"E"[..], &length.to_be_bytes(), &fields].concat()
    }
}

/// A duration as Postgres prints it: `10s`, `500ms`.
fn text(time: Duration) -> String {
    let ms = time.as_millis();
    if ms.is_multiple_of(1000) { format!("{}s", ms / 1000) } else { format!("{ms}ms") }
}

/// Sends the rejection. `first` is what the client has already sent. With `tls_granted` the client
/// expects TLS now.
pub async fn send<S>(
    rejection: Rejection,
    settings: &Settings,
    client: S,
    first: Vec<u8>,
    tls_granted: bool,
) where
    S: AsyncRead + AsyncWrite + Unpin + Send,
{
    // An error means that the client has disconnected or sent an invalid request.
    let _ = timeout(TIMEOUT, converse(rejection, settings, client, first, tls_granted)).await;
}

async fn converse<S>(
    rejection: Rejection,
    settings: &Settings,
    mut client: S,
    mut received: Vec<u8>,
    tls_granted: bool,
) -> std::io::Result<()>
where
    S: AsyncRead + AsyncWrite + Unpin + Send,
{
    for _ in 0..MAX_REQUESTS {
        match read_request(&mut client, &mut received).await? {
            StartupRequest::Startup if !tls_granted => return finish(&mut client, rejection).await,
            StartupRequest::ClientHello => {
                let Some(acceptor) = acceptor(settings) else { return Ok(()) };
                return encrypted(rejection, &acceptor, Resumed { received, stream: client }).await;
            }
            StartupRequest::Ssl => {
                if let Some(acceptor) = acceptor(settings) {
                    client.write_all(b"S").await?;
                    return encrypted(rejection, &acceptor, client).await;
                }
                client.write_all(b"N").await?;
                received.clear();
            }
            StartupRequest::Gss => {
                client.write_all(b"N").await?;
                received.clear();
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
    match read_request(&mut inside, &mut vec![]).await? {
        StartupRequest::Startup => finish(&mut inside, rejection).await,
        _ => Ok(()),
    }
}

async fn read_request<S: AsyncRead + Unpin>(
    client: &mut S,
    received: &mut Vec<u8>,
) -> std::io::Result<StartupRequest> {
    loop {
        match request(received).0 {
            StartupRequest::Incomplete if client.read_buf(received).await? == 0 => {
                return Ok(StartupRequest::Invalid);
            }
            StartupRequest::Incomplete => {}
            known => return Ok(known),
        }
    }
}

async fn finish<S: AsyncWrite + Unpin>(
    client: &mut S,
    rejection: Rejection,
) -> std::io::Result<()> {
    client.write_all(&rejection.message()).await?;
    client.shutdown().await
}

fn acceptor(settings: &Settings) -> Option<TlsAcceptor> {
    let files = PostgresTlsFiles::read(settings).ok().flatten()?;
    let mut config = files.server().ok()?;
    // A client with `sslnegotiation=direct` requires this protocol name.
    config.alpn_protocols = vec![b"postgresql".to_vec()];
    Some(TlsAcceptor::from(Arc::new(config)))
}

/// A connection from which some bytes have already been read.
struct Resumed<S> {
    received: Vec<u8>,
    stream: S,
}

impl<S: AsyncRead + Unpin> AsyncRead for Resumed<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<std::io::Result<()>> {
        if self.received.is_empty() {
            return Pin::new(&mut self.stream).poll_read(context, buffer);
        }
        let length = self.received.len().min(buffer.remaining());
        buffer.put_slice(&self.received[..length]);
        self.received.drain(..length);
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
    fn messages_that_a_client_sees() {
        let time = Duration::from_secs(10);
        let shown = [
            Rejection::NoPrimary(WaitCause::Changing, time),
            Rejection::NoPrimary(WaitCause::NotNow, Duration::from_millis(1500)),
            Rejection::TooManyClients(1000),
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
    async fn without_certificates_a_client_that_asks_for_tls_gets_the_error_in_the_clear() {
        let (mut client, server) = tokio::io::duplex(1000);
        let rejection = Rejection::NoPrimary(WaitCause::NoAnswer, TIMEOUT);
        let sent = tokio::spawn(async move {
            send(rejection, &example(), server, SSL_REQUEST.to_vec(), false).await;
        });
        assert_eq!(client.read_u8().await.unwrap(), b'N');
        client.write_all(&startup_packet("app", "app")).await.unwrap();
        let mut answer = vec![];
        client.read_to_end(&mut answer).await.unwrap();
        assert_eq!(answer, rejection.message());
        sent.await.unwrap();
    }
}
