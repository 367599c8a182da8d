//! What the status says of this member's own server. Written by the agent alone.

use std::collections::BTreeSet;

use parking_lot::Mutex;
use pgraft_core::NodeId;

use crate::machine::watch;

/// The step under way, and the standbys that it waits for.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct StepText {
    pub step: String,
    pub waits_for: BTreeSet<NodeId>,
}

/// What the agent shows.
pub struct Progress {
    text: Mutex<StepText>,
    /// The node from whose history this server's WAL has diverged.
    rewind: watch::Sender<Option<NodeId>>,
}

impl Default for Progress {
    fn default() -> Self {
        Self { text: Mutex::default(), rewind: watch::channel(None).0 }
    }
}

impl Progress {
    /// Shows a step; whether its text is new.
    pub fn show(&self, step: String, waits_for: BTreeSet<NodeId>) -> bool {
        let mut text = self.text.lock();
        let changed = text.step != step;
        *text = StepText { step, waits_for };
        changed
    }

    /// The step under way.
    pub fn text(&self) -> StepText {
        self.text.lock().clone()
    }

    /// Sets the node to whose history this server must be rewound.
    pub fn set_rewind(&self, to: Option<NodeId>) {
        self.rewind.send_if_modified(|present| std::mem::replace(present, to) != to);
    }

    /// Follows [`Self::set_rewind`].
    pub fn rewind(&self) -> watch::Receiver<Option<NodeId>> {
        self.rewind.subscribe()
    }
}
