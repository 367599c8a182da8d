//! The book as a whole: every page is in `SUMMARY.md`, and every link to a file leads to one.

use std::collections::BTreeSet;
use std::path::Path;

/// What is wrong; nothing when all is well.
pub fn check(docs: &Path) -> Vec<String> {
    let mut troubles = Vec::new();
    let pages: BTreeSet<String> = match std::fs::read_dir(docs) {
        Ok(entries) => entries.filter_map(|e| e.ok()?.file_name().into_string().ok()).filter(|name| is_page(name)).collect(),
        Err(error) => return vec![format!("{}: {error}", docs.display())],
    };
    let mut listed = BTreeSet::new();
    for page in &pages {
        let text = std::fs::read_to_string(docs.join(page)).unwrap_or_default();
        for target in links(&text) {
            if !docs.join(&target).exists() {
                troubles.push(format!("docs/{page}: the link to {target} leads nowhere"));
            }
            if page == "SUMMARY.md" {
                listed.insert(target);
            }
        }
    }
    let missing = pages.iter().filter(|page| *page != "SUMMARY.md" && !listed.contains(*page));
    troubles.extend(missing.map(|page| format!("docs/{page} is not in docs/SUMMARY.md")));
    troubles
}

fn is_page(name: &str) -> bool {
    Path::new(name).extension().is_some_and(|e| e == "md")
}

/// The files that a page links to, without what is within them.
fn links(text: &str) -> Vec<String> {
    let targets = text.split("](").skip(1).filter_map(|rest| rest.split_once(')')).map(|(target, _)| target);
    let local = targets.filter(|t| !t.contains("://") && !t.starts_with('#') && !t.contains(' '));
    local.filter_map(|t| t.split('#').next()).map(str::to_owned).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn links_to_files_are_found() {
        let text = "[a](x.md) and [b](y.md#part), [c](https://example.org/z.md), [d](#here)";
        assert_eq!(links(text), ["x.md", "y.md"]);
    }
}
