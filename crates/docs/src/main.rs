//! `pgraft-docs check` compares the generated sections of the documentation with the code;
//! `pgraft-docs write` updates them. A tool for developers; it does not ship.
//!
//! `check` also verifies every link between pages, every reference from a source comment to a page,
//! every quoted log line, that the dependencies are allowed by `deny.toml`, and the structure of the
//! sources: module cycles, type names and file lengths.
//!
//! A generated section is enclosed in `<!-- generated: NAME -->` and `<!-- end -->`; the text
//! around it is written by hand. The sections about functions and settings are checked by the
//! extension's own tests, because only a running server knows them.

mod crd;
mod dependencies;
mod errors;
mod links;
mod navigation;
mod operator;
mod quotes;
mod section;
mod structure;

use std::path::Path;
use std::process::ExitCode;

fn main() -> ExitCode {
    let write = match std::env::args().nth(1).as_deref() {
        Some("write") => true,
        Some("check") => false,
        _ => {
            eprintln!("usage: pgraft-docs check|write, in the directory of the project");
            return ExitCode::from(2);
        }
    };
    let sections = [
        errors::section(),
        crd::spec(),
        crd::status(),
        crd::rules(),
        Ok(operator::events()),
        Ok(operator::reasons()),
    ];
    let mut failed = false;
    for section in sections.into_iter().chain(navigation::sections().map(Ok)) {
        if let Err(why) = section.and_then(|s| {
            if write { s.write(Path::new("docs")) } else { s.check(Path::new("docs")) }
        }) {
            eprintln!("{why}");
            failed = true;
        }
    }
    let links = links::check(Path::new("docs"), navigation::files());
    let references = links::check_sources(Path::new("."));
    let quotes = quotes::check(Path::new("."));
    let structure = structure::check(Path::new("."));
    let texts = links.into_iter().chain(references).chain(quotes);
    for trouble in texts.chain(dependencies::check()).chain(structure) {
        eprintln!("{trouble}");
        failed = true;
    }
    if failed { ExitCode::FAILURE } else { ExitCode::SUCCESS }
}
