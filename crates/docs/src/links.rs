//! Verifies the links: every page of `docs/` is in the navigation, every link to a file or to a
//! heading has a target, and so has every `docs/PAGE.md#heading` in a source comment.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

/// The folders with Rust code.
pub const SOURCES: [&str; 6] = ["bench", "crates", "e2e", "extension", "instance", "operator"];

/// Checks the pages in and below `docs`, and those in the directory that contains it. `listed` are
/// the pages of the navigation, relative to `docs`. Returns one message for each problem.
pub fn check(docs: &Path, listed: impl IntoIterator<Item = &'static str>) -> Vec<String> {
    let book = match files(docs, "md") {
        Ok(book) => book,
        Err(error) => return vec![format!("{}: {error}", docs.display())],
    };
    let around = docs.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let mut problems = Vec::new();
    for page in book.iter().chain(&pages(around).unwrap_or_default()) {
        for link in links(&read(page)) {
            let target = page.with_file_name(&link.file);
            let target = if link.file.is_empty() { page } else { &target };
            problems.extend(link.problem(page, target));
        }
    }
    let listed: BTreeSet<&str> = listed.into_iter().chain(["README.md", "SUMMARY.md"]).collect();
    let names = book.iter().filter_map(|page| page.strip_prefix(docs).ok()?.to_str());
    let missing = names.filter(|name| !listed.contains(name));
    problems
        .extend(missing.map(|page| format!("docs/{page} is not in crates/docs/src/navigation.rs")));
    problems
}

/// Checks what comments and messages below `root` say about pages: `docs/PAGE.md`, with or without
/// a heading.
pub fn check_sources(root: &Path) -> Vec<String> {
    let mut problems = Vec::new();
    for folder in SOURCES {
        for source in files(&root.join(folder), "rs").unwrap_or_default() {
            if source.starts_with(root.join("crates/docs")) {
                continue; // the tests of this crate name pages that do not exist
            }
            for link in references(&read(&source)) {
                problems.extend(link.problem(&source, &root.join(&link.file)));
            }
        }
    }
    problems
}

/// The text of a file; empty if it cannot be read.
pub fn read(page: &Path) -> String {
    std::fs::read_to_string(page).unwrap_or_default()
}

/// The pages directly in a directory.
fn pages(directory: &Path) -> std::io::Result<BTreeSet<PathBuf>> {
    let all = std::fs::read_dir(directory)?.filter_map(|e| Some(e.ok()?.path()));
    Ok(all.filter(|path| path.extension().is_some_and(|e| e == "md")).collect())
}

/// All files with that extension in and below a directory.
///
/// # Errors
/// A directory cannot be read.
pub fn files(directory: &Path, extension: &str) -> std::io::Result<BTreeSet<PathBuf>> {
    let mut found = BTreeSet::new();
    for entry in std::fs::read_dir(directory)? {
        let path = entry?.path();
        if path.is_dir() {
            found.extend(files(&path, extension)?);
        } else if path.extension().is_some_and(|e| e == extension) {
            found.insert(path);
        }
    }
    Ok(found)
}

/// A link within the project.
#[derive(Debug, PartialEq, Eq)]
struct DocLink {
    /// Empty for the page itself.
    file: String,
    /// The anchor of a heading.
    heading: Option<String>,
}

impl DocLink {
    fn to(target: &str) -> Self {
        let (file, heading) =
            target.split_once('#').map_or((target, None), |(file, heading)| (file, Some(heading)));
        Self { file: file.to_owned(), heading: heading.map(str::to_owned) }
    }

    /// What is wrong with it.
    fn problem(&self, page: &Path, target: &Path) -> Option<String> {
        let page = page.display();
        if !target.exists() {
            return Some(format!("{page}: the link to {} has no target", self.file));
        }
        let heading = self.heading.as_ref().filter(|h| !headings(&read(target)).contains(*h))?;
        Some(format!("{page}: the link to {}#{heading} has no heading to lead to", self.file))
    }
}

fn links(text: &str) -> Vec<DocLink> {
    let targets =
        text.split("](").skip(1).filter_map(|rest| rest.split_once(')')).map(|(target, _)| target);
    targets.filter(|t| !t.contains("://") && !t.contains(' ')).map(DocLink::to).collect()
}

/// What a source file says about pages in `docs/`.
fn references(text: &str) -> Vec<DocLink> {
    let is_part = |c: char| c.is_ascii_alphanumeric() || "-_./#".contains(c);
    let after = text.split("docs/").skip(1);
    let words = after.map(|rest| rest.split(|c| !is_part(c)).next().unwrap_or_default());
    let pages = words.map(|word| word.trim_end_matches('.')).filter(|word| word.contains(".md"));
    pages.map(|page| DocLink::to(&format!("docs/{page}"))).collect()
}

/// The anchors of a page's headings, as GitHub and mdBook make them.
fn headings(text: &str) -> BTreeSet<String> {
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

    fn link(file: &str, heading: Option<&str>) -> DocLink {
        DocLink { file: file.into(), heading: heading.map(str::to_owned) }
    }

    #[test]
    fn links_are_found_and_anchors_are_as_github_makes_them() {
        let text = "[a](x.md) and [b](y.md#part), [c](https://example.org/z.md), [d](#here)";
        assert_eq!(
            links(text),
            [link("x.md", None), link("y.md", Some("part")), link("", Some("here"))]
        );
        assert_eq!(
            anchor("What `pgraft.data_dir` holds, and why"),
            "what-pgraftdata_dir-holds-and-why"
        );
        assert_eq!(
            references("//! docs/a.md#one-two. And docs/b/c.md, but not docs/d."),
            [link("docs/a.md", Some("one-two")), link("docs/b/c.md", None)]
        );
    }

    #[test]
    fn every_problem_is_reported() {
        let dir = tempfile::tempdir().unwrap();
        let docs = dir.path().join("docs");
        let write = |file: &str, text: &str| {
            let path = dir.path().join(file);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, text).unwrap();
        };
        write("docs/SUMMARY.md", "[one](one.md)");
        write("docs/one.md", "# One\n## A part\n[here](#a-part) [there](#b-part)");
        write("docs/in/two.md", "# Two\n[up](../one.md#a-part)");
        write(
            "README.md",
            "[good](docs/one.md#a-part) [bad](docs/one.md#c-part) [none](docs/three.md)",
        );
        write("crates/x/src/lib.rs", "//! docs/one.md#a-part, docs/one.md#d-part, docs/four.md.");
        let mut problems = check(&docs, ["one.md"]);
        problems.extend(check_sources(dir.path()));
        assert_eq!(problems.len(), 6, "{problems:?}");
        for (problem, part) in problems.iter().zip([
            "one.md: the link to #b-part",
            "README.md: the link to docs/one.md#c-part",
            "docs/three.md has no target",
            "docs/in/two.md is not in",
            "lib.rs: the link to docs/one.md#d-part",
            "docs/four.md has no target",
        ]) {
            assert!(problem.contains(part), "{problem}");
        }
    }
}
