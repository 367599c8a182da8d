//! The order of the book. `docs/SUMMARY.md`, the table in `docs/README.md` and the list in
//! `README.md` are all written from [`BOOK`], so that they cannot differ.

use std::fmt::Write as _;

use crate::section::{Section, table};

/// A part of the book, named after what the reader wants to do.
struct Part {
    title: &'static str,
    pages: &'static [DocPage],
}

struct DocPage {
    /// Below `docs/`.
    file: &'static str,
    title: &'static str,
    /// Completes the sentence "read this page to ...".
    purpose: &'static str,
}

const fn page(file: &'static str, title: &'static str, purpose: &'static str) -> DocPage {
    DocPage { file, title, purpose }
}

const BOOK: &[Part] = &[
    Part {
        title: "Get started",
        pages: &[
            page("concepts.md", "Concepts", "learn what pgraft does, in five minutes"),
            page("install.md", "Install the operator", "install the operator with Helm"),
            page(
                "kubernetes.md",
                "A cluster on Kubernetes",
                "create, inspect, change and delete a cluster",
            ),
            page(
                "hosts.md",
                "A cluster on plain hosts",
                "run a cluster under systemd, without Kubernetes",
            ),
        ],
    },
    Part {
        title: "Operate",
        pages: &[
            page("scale.md", "Scale a cluster", "add and remove members"),
            page("switchover.md", "Switch over", "move the primary to another member"),
            page("replace-a-node.md", "Replace a node", "replace a member that lost its disk"),
            page("certificates.md", "Certificates", "create, renew and replace certificates"),
            page("monitoring.md", "Monitoring", "collect metrics and logs, and set up alerts"),
            page("gitops.md", "GitOps: Argo CD and Flux", "keep a cluster in Git"),
        ],
    },
    Part {
        title: "Connect",
        pages: &[page(
            "connect.md",
            "Connect applications",
            "configure drivers, Services and the gateway",
        )],
    },
    Part {
        title: "Understand",
        pages: &[
            page("failover.md", "How failover works", "know what happens when the primary is lost"),
            page("durability.md", "What a commit promises", "know what a confirmed commit means"),
            page("benchmarks.md", "Benchmarks", "see what was measured, and how"),
        ],
    },
    Part {
        title: "Reference",
        pages: &[
            page("reference.md", "SQL and settings", "look up a function, a view or a setting"),
            page(
                "reference-kubernetes.md",
                "PgRaftCluster",
                "look up a field, a condition or an Event",
            ),
            page("errors.md", "Errors", "find out what an error or a log line asks for"),
            page("glossary.md", "Glossary", "look up a term"),
        ],
    },
    Part {
        title: "Internals",
        pages: &[
            page(
                "internals/protocol.md",
                "The failover protocol",
                "check why no confirmed commit is lost",
            ),
            page("internals/rewind.md", "Rewinds and base backups", "see which files are copied"),
            page("internals/security.md", "Security", "see who may do what, and what stops them"),
            page("internals/faults.md", "Reported faults", "find the test for a reported fault"),
            page(
                "internals/upstream.md",
                "Reports to PostgreSQL",
                "read the bug report for PostgreSQL",
            ),
        ],
    },
];

/// The files of the book, below `docs/`, in reading order.
pub fn files() -> impl Iterator<Item = &'static str> {
    BOOK.iter().flat_map(|part| part.pages).map(|page| page.file)
}

/// The three places that the order is written to.
pub fn sections() -> [Section; 3] {
    let section = |page, text| Section { page, name: "navigation", text };
    [
        section("SUMMARY.md", summary()),
        section("README.md", index()),
        section("../README.md", list()),
    ]
}

/// As mdBook reads it.
fn summary() -> String {
    let mut text = "[pgraft](README.md)\n".to_owned();
    for part in BOOK {
        let _ = write!(text, "\n# {}\n\n", part.title);
        for page in part.pages {
            let _ = writeln!(text, "- [{}]({})", page.title, page.file);
        }
    }
    text
}

fn index() -> String {
    let parts = BOOK.iter().map(|part| {
        let rows = part
            .pages
            .iter()
            .map(|page| vec![page.purpose.to_owned(), format!("[{}]({})", page.title, page.file)]);
        format!("## {}\n\n{}", part.title, table(&["to", "read"], rows))
    });
    parts.collect::<Vec<_>>().join("\n")
}

fn list() -> String {
    let mut text = String::new();
    for part in BOOK {
        let links: Vec<String> =
            part.pages.iter().map(|page| format!("[{}](docs/{})", page.title, page.file)).collect();
        let _ = writeln!(text, "- **{}:** {}", part.title, links.join(" · "));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_page_is_once_in_all_three() {
        let (summary, index, list) = (summary(), index(), list());
        for file in files() {
            assert_eq!(summary.matches(&format!("]({file})")).count(), 1, "{file}");
            assert_eq!(index.matches(&format!("]({file})")).count(), 1, "{file}");
            assert_eq!(list.matches(&format!("](docs/{file})")).count(), 1, "{file}");
        }
    }

    #[test]
    fn the_summary_is_what_mdbook_reads() {
        assert!(summary().starts_with("[pgraft](README.md)\n\n# Get started\n\n- [Concepts]("));
    }
}
