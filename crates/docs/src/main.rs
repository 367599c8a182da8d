//! `pgraft-docs check` compares the generated parts of `docs/` with the code, `pgraft-docs write`
//! writes them anew. For developers; nothing of it ships.
//!
//! It also looks whether the dependencies are what `deny.toml` allows.
//!
//! A generated part stands in a page between `<!-- generated: NAME -->` and `<!-- end -->`; what is
//! around it is written by people. What a server knows better than its source (functions, settings)
//! is checked by the extension's own tests.

mod crd;
mod dependencies;
mod errors;
mod links;
mod operator;
mod section;

use std::path::Path;
use std::process::ExitCode;

fn main() -> ExitCode {
    let write = match std::env::args().nth(1).as_deref() {
        Some("write") => true,
        Some("check") => false,
        _ => {
            eprintln!("usage: pgraft-docs check|write, in the project's directory");
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
    for section in sections {
        if let Err(why) = section.and_then(|s| {
            if write { s.write(Path::new("docs")) } else { s.check(Path::new("docs")) }
        }) {
            eprintln!("{why}");
            failed = true;
        }
    }
    for trouble in links::check(Path::new("docs")).into_iter().chain(dependencies::check()) {
        eprintln!("{trouble}");
        failed = true;
    }
    if failed { ExitCode::FAILURE } else { ExitCode::SUCCESS }
}
