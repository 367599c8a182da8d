//! Verifies that the log lines which the documentation explains are still in the sources. A page
//! writes `…`, or an example with digits, where the program inserts a value; the text between those
//! must be in a source file.

use std::path::Path;

use crate::links::{SOURCES, files, read};

/// The pages, and the heading below which the first column of each table row quotes log lines.
const QUOTING: [(&str, &str); 2] =
    [("docs/errors.md", "## In the server log"), ("docs/certificates.md", "## What the log says")];

/// Shorter pieces of a line prove nothing.
const MIN_CHARS: usize = 14;

/// Returns one message for each piece of a quoted line that is in no source file below `root`.
pub fn check(root: &Path) -> Vec<String> {
    let sources = sources(root);
    let mut problems = Vec::new();
    for (page, heading) in QUOTING {
        let text = read(&root.join(page));
        let Some((_, section)) = text.split_once(heading) else {
            problems.push(format!("{page} has no heading \"{heading}\""));
            continue;
        };
        let missing = pieces(section).filter(|piece| !sources.contains(piece.as_str()));
        problems.extend(
            missing.map(|piece| format!("{page} quotes a line that no program logs: \"{piece}\"")),
        );
    }
    problems
}

/// All code in one text, with long string literals on one line. This crate is left out.
fn sources(root: &Path) -> String {
    let folders = SOURCES.iter().flat_map(|folder| files(&root.join(folder), "rs"));
    let paths = folders.flatten().filter(|path| !path.starts_with(root.join("crates/docs")));
    let mut text = String::new();
    for path in paths {
        for line in read(&path).lines() {
            match line.strip_suffix('\\') {
                Some(continued) => text.push_str(continued.trim_start()),
                None => text.extend([line.trim_start(), "\n"]),
            }
        }
    }
    text
}

/// The constant pieces of the lines that the first column quotes.
fn pieces(section: &str) -> impl Iterator<Item = String> + '_ {
    let rows = section.lines().filter_map(|line| line.strip_prefix('|')?.split('|').next());
    let quotes = rows.flat_map(|cell| cell.split('`').skip(1).step_by(2));
    quotes.flat_map(|quote| {
        // `its certificate` precedes the reason in most lines, and is a string of its own.
        let text = quote.replace("its certificate", "…").replace(": ", "…");
        let varies =
            |word: &str| word.chars().any(|c| c.is_ascii_digit()) || word.contains(".json");
        let words = text.split(' ').map(|word| if varies(word) { "…" } else { word });
        let text = words.collect::<Vec<_>>().join(" ");
        let pieces = text.split('…').map(|piece| piece.trim().to_owned());
        pieces.filter(|piece| piece.chars().count() >= MIN_CHARS).collect::<Vec<_>>()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_left_out_of_a_quote() {
        let section = "| line | do |\n| `node 3 at …, which is long enough: its certificate is for node-2.pgraft, and not for this one` | `not a quoted line here` |\n";
        let found: Vec<_> = pieces(section).collect();
        assert_eq!(found, [", which is long enough", "and not for this one"]);
    }

    #[test]
    fn a_line_that_is_not_logged_is_reported() {
        let root = tempfile::tempdir().unwrap();
        let write = |file: &str, text: &str| {
            let path = root.path().join(file);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, text).unwrap();
        };
        write(
            "instance/src/a.rs",
            "    \"the first part of a line \\\n     and its second part\"\n",
        );
        write("crates/docs/src/a.rs", "\"a line that nothing else has\"\n");
        write(
            "docs/errors.md",
            "## In the server log\n| `the first part of a line and its second part` |\n| `a line that nothing else has` |\n",
        );
        assert_eq!(
            check(root.path()),
            [
                "docs/errors.md quotes a line that no program logs: \"a line that nothing else has\"",
                "docs/certificates.md has no heading \"## What the log says\"",
            ]
        );
    }
}
