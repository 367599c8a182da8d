//! The words that the operator uses: reasons of Events and of conditions.

use pgraft_operator::core::news::Headline;
use pgraft_operator::core::status::Reason;
use strum::{EnumMessage, IntoEnumIterator};

use crate::section::{Section, table};

/// The Events.
pub fn events() -> Section {
    let rows = Headline::iter().map(|h| {
        let kind = if h.is_warning() { "Warning" } else { "Normal" };
        vec![format!("`{h:?}`"), kind.to_owned(), meaning(&h)]
    });
    Section {
        page: "reference-kubernetes.md",
        name: "events",
        text: table(&["reason", "type", "meaning"], rows),
    }
}

/// The reasons of conditions.
pub fn reasons() -> Section {
    let rows = Reason::iter().map(|r| vec![format!("`{r:?}`"), meaning(&r)]);
    Section {
        page: "reference-kubernetes.md",
        name: "reasons",
        text: table(&["reason", "meaning"], rows),
    }
}

/// What the variant's own documentation says.
fn meaning(variant: &impl EnumMessage) -> String {
    variant.get_documentation().unwrap_or_default().trim_end_matches('.').to_owned()
}
