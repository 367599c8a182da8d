//! Sends requests to the worker over its control socket (`pgraft_core::control`).

use pgraft_core::control::{MAX_FRAME, Request, Response};
use pgraft_core::{NodeStatus, SqlState, control};
use std::path::Path;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;

use crate::settings::Settings;

/// How long a primary waits for a standby to take over. Up to a lease timeout is added for standbys
/// that have just started.
const HAND_OVER_TIMEOUT: Duration = Duration::from_secs(3);

/// Why a request has no valid answer.
#[derive(Debug, thiserror::Error)]
pub enum ControlError {
    /// No connection.
    #[error("could not communicate with the pgraft worker: {0}")]
    Io(#[from] std::io::Error),
    /// No answer in time.
    #[error("the pgraft worker did not answer in time")]
    Deadline,
    /// An invalid answer, perhaps of another version.
    #[error("invalid answer from the pgraft worker: {0}")]
    Json(#[from] serde_json::Error),
    /// The frame is too long.
    #[error("invalid answer from the pgraft worker: {0} bytes exceed the limit of {max}", max = control::MAX_FRAME)]
    TooLong(usize),
    /// The worker refused the request.
    #[error("the pgraft worker refused ({sqlstate}): {message}")]
    Refused {
        /// The code of the refusal.
        sqlstate: SqlState,
        /// The reason.
        message: String,
    },
    /// The answer does not match the request.
    #[error("invalid answer from the pgraft worker: it does not match the request")]
    Mismatch,
}

/// Sends one request and returns its answer.
pub async fn ask(
    socket: &Path,
    request: &Request,
    deadline: Duration,
) -> Result<Response, ControlError> {
    let asked = async { exchange(&mut UnixStream::connect(socket).await?, request).await };
    match tokio::time::timeout(deadline, asked).await {
        Ok(Ok(Response::Refused { sqlstate, message, .. })) => {
            Err(ControlError::Refused { sqlstate, message })
        }
        Ok(answer) => answer,
        Err(_) => Err(ControlError::Deadline),
    }
}

/// The node's status.
pub async fn status(socket: &Path, deadline: Duration) -> Result<NodeStatus, ControlError> {
    match ask(socket, &Request::Status, deadline).await? {
        Response::Status(status) => Ok(*status),
        _ => Err(ControlError::Mismatch),
    }
}

/// Sends a request over an open connection, without a deadline.
pub async fn exchange(
    stream: &mut UnixStream,
    request: &Request,
) -> Result<Response, ControlError> {
    let body = serde_json::to_vec(request)?;
    let length = u32::try_from(body.len()).map_err(|_| ControlError::TooLong(body.len()))?;
    stream.write_all(&length.to_be_bytes()).await?;
    stream.write_all(&body).await?;
    let length = usize::try_from(stream.read_u32().await?).unwrap_or(usize::MAX);
    if length > MAX_FRAME {
        return Err(ControlError::TooLong(length));
    }
    let mut body = vec![0; length];
    stream.read_exact(&mut body).await?;
    Ok(serde_json::from_slice(&body)?)
}

/// Hands over from this primary to a standby. Returns None if one has taken over, otherwise why there
/// was nothing to do.
pub async fn hand_over(settings: &Settings) -> Result<Option<String>, ControlError> {
    match ask(
        &settings.paths.control_socket(),
        &Request::HandOver,
        HAND_OVER_TIMEOUT + settings.lease.min(HAND_OVER_TIMEOUT),
    )
    .await?
    {
        Response::Done { notice } => Ok(notice),
        _ => Err(ControlError::Mismatch),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::net::UnixListener;

    const TIMEOUT: Duration = Duration::from_secs(20);

    #[tokio::test]
    async fn each_kind_of_invalid_answer_has_its_error() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("control.sock");
        assert!(matches!(status(&path, TIMEOUT).await, Err(ControlError::Io(_))));
        let listener = UnixListener::bind(&path).unwrap();
        let refused: Vec<u8> =
            br#"{"response":"refused","sqlstate":"PGR01","message":"no","hint":""}"#.to_vec();
        let frame =
            |body: &[u8]| [&u32::try_from(body.len()).unwrap().to_be_bytes(), body].concat();
        let answers = [
            frame(&refused),
            frame(br#"{"response":"done","notice":null}"#),
            frame(b"{}"),
            u32::MAX.to_be_bytes().to_vec(),
        ];
        let server = tokio::spawn(async move {
            for answer in answers {
                let (mut stream, _) = listener.accept().await.unwrap();
                let length = stream.read_u32().await.unwrap();
                let mut request = vec![0; usize::try_from(length).unwrap()];
                stream.read_exact(&mut request).await.unwrap();
                assert_eq!(request, br#"{"request":"status"}"#);
                stream.write_all(&answer).await.unwrap();
            }
            listener
        });
        assert!(matches!(status(&path, TIMEOUT).await, Err(ControlError::Refused { .. })));
        assert!(matches!(status(&path, TIMEOUT).await, Err(ControlError::Mismatch)));
        assert!(matches!(status(&path, TIMEOUT).await, Err(ControlError::Json(_))));
        assert!(matches!(status(&path, TIMEOUT).await, Err(ControlError::TooLong(_))));
        let _listener = server.await.unwrap();
        assert!(
            matches!(status(&path, Duration::from_millis(1)).await, Err(ControlError::Deadline)),
            "it is not accepted any more"
        );
    }
}
