//! Asks the worker over its control socket (`pgraft_core::control`).

use pgraft_core::control::{MAX_FRAME, Request, Response};
use pgraft_core::{NodeStatus, SqlState, control};
use std::path::Path;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;

use crate::settings::Settings;

/// How long a primary waits for a standby to take over, and as long again, a lease at most, for
/// those that have just started.
const HAND_OVER: Duration = Duration::from_secs(3);

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum ControlError {
    /// The worker isn't there.
    #[error("the pgraft worker does not answer on its control socket: {0}")]
    Io(#[from] std::io::Error),
    /// It is there and says nothing.
    #[error("the pgraft worker does not answer on its control socket in time")]
    Deadline,
    /// Another version's words.
    #[error("the pgraft worker's answer can't be read: {0}")]
    Json(#[from] serde_json::Error),
    /// A frame that is too long.
    #[error("the pgraft worker's answer has {0} bytes, more than {max} are not read", max = control::MAX_FRAME)]
    TooLong(usize),
    /// The worker said no.
    #[error("the pgraft worker refused ({sqlstate}): {message}")]
    Refused {
        /// The code of the refusal.
        sqlstate: SqlState,
        /// What is wrong.
        message: String,
    },
    /// An answer to another question.
    #[error("the pgraft worker answered another question")]
    Mismatch,
}

/// One request and its answer.
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

/// What the node knows.
pub async fn status(socket: &Path, deadline: Duration) -> Result<NodeStatus, ControlError> {
    match ask(socket, &Request::Status, deadline).await? {
        Response::Status(status) => Ok(*status),
        _ => Err(ControlError::Mismatch),
    }
}

/// The same over a connection that may be used again; without a deadline.
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

/// Has this primary give its place to a standby. None when one has taken over, else why there was
/// nothing to do.
pub async fn hand_over(settings: &Settings) -> Result<Option<String>, ControlError> {
    match ask(
        &settings.paths.control_socket(),
        &Request::HandOver,
        HAND_OVER + settings.lease.min(HAND_OVER),
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
    async fn every_answer_that_is_none_has_its_words() {
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
