//! What happened, as a person reads it: one line a happening, with its time.

use std::fmt::Write as _;

use crate::clock::{Time, show};

/// The lines, oldest first.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Story {
    lines: Vec<String>,
}

impl Story {
    /// Adds a line.
    pub fn tell(&mut self, at: Time, what: impl std::fmt::Display) {
        self.lines.push(format!("{}  {what}", show(at)));
    }

    /// All of it.
    pub fn text(&self) -> String {
        self.tail(usize::MAX)
    }

    /// The last lines.
    pub fn tail(&self, lines: usize) -> String {
        let skipped = self.lines.len().saturating_sub(lines);
        let mut text = String::new();
        if skipped > 0 {
            let _ = writeln!(text, "          … {skipped} lines before");
        }
        for line in &self.lines[skipped..] {
            let _ = writeln!(text, "{line}");
        }
        text
    }
}

/// Ids as a sentence has them: `1 2 3`.
pub fn ids<T: std::fmt::Display>(ids: impl IntoIterator<Item = T>) -> String {
    ids.into_iter().map(|id| id.to_string()).collect::<Vec<_>>().join(" ")
}
