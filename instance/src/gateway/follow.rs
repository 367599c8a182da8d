//! Follows the primary view of this node's member over its control socket. The member answers a
//! request when its view has changed.

use std::sync::Arc;
use std::time::Duration;

use pgraft_core::control::{Request, Response};
use pgraft_core::primary_view::PrimaryUpdate;
use tokio::net::UnixStream;

use super::Gateway;
use crate::control::{ControlError, exchange};

/// For one answer. The member answers within a second in any case.
const TIMEOUT: Duration = Duration::from_secs(2);
/// Before the next connection attempt.
const RETRY_DELAY: Duration = Duration::from_millis(20);

/// Runs until the process ends.
pub async fn follow(gateway: Arc<Gateway>) {
    let socket = gateway.view.borrow().settings.paths.control_socket();
    loop {
        if let Ok(mut stream) = UnixStream::connect(&socket).await {
            let error = listen(&gateway, &mut stream).await;
            tracing::debug!(%error, "lost the connection to this node's member");
        }
        gateway.knowledge.member_is_silent();
        tokio::time::sleep(RETRY_DELAY).await;
    }
}

async fn listen(gateway: &Gateway, stream: &mut UnixStream) -> ControlError {
    let mut last: Option<PrimaryUpdate> = None;
    loop {
        let request = Request::WatchPrimary { heard: last.take() };
        match tokio::time::timeout(TIMEOUT, exchange(stream, &request)).await {
            Ok(Ok(Response::WatchPrimary(update))) => {
                gateway.knowledge.update(update.clone());
                last = Some(update);
            }
            Ok(Ok(_)) => return ControlError::Mismatch,
            Ok(Err(error)) => return error,
            Err(_) => return ControlError::Deadline,
        }
    }
}
