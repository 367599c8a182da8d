//! Follows the own member over its control socket: a question that is answered when there is
//! something new.

use std::sync::Arc;
use std::time::Duration;

use pgraft_core::control::{Request, Response};
use pgraft_core::primary_view::PrimaryUpdate;
use tokio::net::UnixStream;

use super::Gateway;
use crate::control::{ControlError, exchange};

/// The member answers every second at the latest; one that does not for so long is as good as gone.
const TIMEOUT: Duration = Duration::from_secs(2);
/// Before a member that is not there is looked for again.
const RETRY_DELAY: Duration = Duration::from_millis(20);

/// For as long as the process lives.
pub async fn follow(gateway: Arc<Gateway>) {
    let socket = gateway.view.borrow().settings.paths.control_socket();
    loop {
        if let Ok(mut stream) = UnixStream::connect(&socket).await {
            let error = listen(&gateway, &mut stream).await;
            tracing::debug!(%error, "the gateway does not hear from its member");
        }
        gateway.knowledge.silent();
        tokio::time::sleep(RETRY_DELAY).await;
    }
}

async fn listen(gateway: &Gateway, stream: &mut UnixStream) -> ControlError {
    let mut heard: Option<PrimaryUpdate> = None;
    loop {
        let question = Request::WatchPrimary { heard: heard.take() };
        match tokio::time::timeout(TIMEOUT, exchange(stream, &question)).await {
            Ok(Ok(Response::WatchPrimary(news))) => {
                gateway.knowledge.update(news.clone());
                heard = Some(news);
            }
            Ok(Ok(_)) => return ControlError::Mismatch,
            Ok(Err(error)) => return error,
            Err(_) => return ControlError::Deadline,
        }
    }
}
