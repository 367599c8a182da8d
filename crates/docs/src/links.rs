//! The book as a whole, and the pages beside it: every page of the book is in `SUMMARY.md`, and
//! every link to a file, or to a part of one, leads there.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

/// What is wrong in `docs` and in the pages of the directory around it; nothing when all is well.
pub fn check(docs: &Path) -> Vec<String> {
    let book = match pages(docs) {
        Ok(book) => book,
        Err(error) => return vec![format!("{}: {error}", docs.display())],
    };
    let around = docs.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let mut troubles = Vec::new();
    let mut listed = BTreeSet::new();
    for page in book.iter().chain(&pages(around).unwrap_or_default()) {
        let text = read(page);
        for link in links(&text) {
            let target = page.with_file_name(&link.file);
            let target = if link.file.is_empty() { page } else { &target };
            if !target.exists() {
                troubles.push(format!(
                    "{}: the link to {} leads nowhere",
                    page.display(),
                    link.file
                ));
            } else if link.part.as_ref().is_some_and(|part| !parts(&read(target)).contains(part)) {
                let part = link.part.unwrap_or_default();
                troubles.push(format!(
                    "{}: the link to {}#{part} leads to no heading",
                    page.display(),
                    link.file
                ));
            }
            if page.ends_with("SUMMARY.md") {
                listed.insert(link.file);
            }
        }
    }
    let names = book.iter().filter_map(|page| page.file_name()?.to_str());
    let missing = names.filter(|name| *name != "SUMMARY.md" && !listed.contains(*name));
    troubles.extend(missing.map(|page| format!("docs/{page} is not in docs/SUMMARY.md")));
    troubles
}

fn read(page: &Path) -> String {
    std::fs::read_to_string(page).unwrap_or_default()
}

fn pages(directory: &Path) -> std::io::Result<BTreeSet<PathBuf>> {
    let all = std::fs::read_dir(directory)?.filter_map(|e| Some(e.ok()?.path()));
    Ok(all.filter(|path| path.extension().is_some_and(|e| e == "md")).collect())
}

/// A link within the project.
#[derive(Debug, PartialEq, Eq)]
struct Link {
    /// Empty where it is the page itself.
    file: String,
    /// The heading, as an anchor.
    part: Option<String>,
}

fn links(text: &str) -> Vec<Link> {
    let targets =
        text.split("](").skip(1).filter_map(|rest| rest.split_once(')')).map(|(target, _)| target);
    let local = targets.filter(|t| !t.contains("://") && !t.contains(' '));
    let parted =
        local.map(|t| t.split_once('#').map_or((t, None), |(file, part)| (file, Some(part))));
    parted
        .map(|(file, part)| Link { file: file.to_owned(), part: part.map(str::to_owned) })
        .collect()
}

/// The anchors of a page's headings, as GitHub and mdBook make them.
fn parts(text: &str) -> BTreeSet<String> {
    let headings = text.lines().filter(|line| line.starts_with('#'));
    headings.map(|heading| anchor(heading.trim_start_matches('#').trim())).collect()
}

fn anchor(heading: &str) -> String {
    let kept = heading.chars().filter(|c| c.is_alphanumeric() || matches!(c, ' ' | '-' | '_'));
    kept.map(|c| if c == ' ' { '-' } else { c.to_ascii_lowercase() }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn links_and_where_they_lead() {
        let text = "[a](x.md) and [b](y.md#part), [c](https://example.org/z.md), [d](#here)";
        let link = |file: &str, part: Option<&str>| Link {
            file: file.into(),
            part: part.map(str::to_owned),
        };
        assert_eq!(
            links(text),
            [link("x.md", None), link("y.md", Some("part")), link("", Some("here"))]
        );
        assert_eq!(
            anchor("What `pgraft.data_dir` holds, and why"),
            "what-pgraftdata_dir-holds-and-why"
        );

        let dir = tempfile::tempdir().unwrap();
        let docs = dir.path().join("docs");
        std::fs::create_dir(&docs).unwrap();
        std::fs::write(docs.join("SUMMARY.md"), "[one](one.md)").unwrap();
        std::fs::write(docs.join("one.md"), "# One\n## A part\n[here](#a-part) [there](#b-part)")
            .unwrap();
        std::fs::write(docs.join("two.md"), "# Two").unwrap();
        std::fs::write(
            dir.path().join("README.md"),
            "[good](docs/one.md#a-part) [bad](docs/one.md#c-part) [none](docs/three.md)",
        )
        .unwrap();
        let troubles = check(&docs);
        assert_eq!(troubles.len(), 4, "{troubles:?}");
        for (trouble, word) in troubles.iter().zip([
            "#b-part",
            "#c-part",
            "docs/three.md leads nowhere",
            "docs/two.md is not in",
        ]) {
            assert!(trouble.contains(word), "{trouble}");
        }
    }
}
