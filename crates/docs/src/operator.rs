//! The reasons of the operator's Events and conditions.

use pgraft_api::conditions::ConditionReason;
use pgraft_api::events::EventReason;
use strum::{EnumMessage, IntoEnumIterator};

use crate::section::{Section, table};

/// The Events.
pub fn events() -> Section {
    let rows = EventReason::iter().map(|h| {
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
    let rows = ConditionReason::iter().map(|r| vec![format!("`{r:?}`"), meaning(&r)]);
    Section {
        page: "reference-kubernetes.md",
        name: "reasons",
        text: table(&["reason", "meaning"], rows),
    }
}

/// The documentation of the variant, as one line without the full stop.
fn meaning(variant: &impl EnumMessage) -> String {
    let words: Vec<&str> =
        variant.get_documentation().unwrap_or_default().split_whitespace().collect();
    words.join(" ").trim_end_matches('.').to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_meaning_of_two_lines_is_one_line() {
        #[derive(EnumMessage)]
        enum Example {
            /// One line,
            /// and another.
            Variant,
        }
        assert_eq!(meaning(&Example::Variant), "One line, and another");
    }
}
