//! Whether another member could become the primary, by the status of this node's own member. Asked
//! only while the server may be unresponsive.

use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use pgraft_core::NodeStatus;
use tokio::task::JoinSet;
use tokio::time::Instant;

use crate::control;
use crate::settings::Settings;

/// The last status of this node's member. Dropping it ends the request in progress.
#[derive(Default)]
pub struct GroupObserver {
    last: Arc<Mutex<Option<(Instant, NodeStatus)>>>,
    request: JoinSet<()>,
}

impl GroupObserver {
    /// Asks the member for its status, unless a request is in progress. It fails after `timeout`.
    pub fn ask(&mut self, settings: &Settings, timeout: Duration) {
        while self.request.try_join_next().is_some() {}
        if !self.request.is_empty() {
            return;
        }
        let (last, socket) = (Arc::clone(&self.last), settings.paths.control_socket());
        self.request.spawn(async move {
            let asked = Instant::now();
            match control::status(&socket, timeout).await {
                Ok(status) => *last.lock() = Some((asked, status)),
                Err(error) => tracing::debug!(%error, "the member gave no status"),
            }
        });
    }

    /// The last status, unless it is older than `max_age`.
    pub fn status(&self, max_age: Duration) -> Option<NodeStatus> {
        let last = self.last.lock();
        last.as_ref().filter(|(at, _)| at.elapsed() <= max_age).map(|(_, status)| status.clone())
    }
}
