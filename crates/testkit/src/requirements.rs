//! What a test needs from the machine. A test whose requirements are not met fails, unless
//! `PGRAFT_TEST_SKIP=1` is set: then it passes and prints why nothing was tested.

use nix::unistd::geteuid;
use std::path::{Path, PathBuf};
use std::process::Command;

/// The directory of the Postgres programs under test, from `PGRAFT_TEST_BINDIR`. The pgraft
/// extension must be installed there (`just install`).
pub fn bin_directory() -> Option<PathBuf> {
    match std::env::var_os("PGRAFT_TEST_BINDIR") {
        Some(directory) => Some(directory.into()),
        None => unmet("PGRAFT_TEST_BINDIR is not set (just test sets it)"),
    }
}

/// Reports an unmet requirement.
///
/// # Panics
///
/// Unless `PGRAFT_TEST_SKIP` is `1`.
pub fn unmet<T>(requirement: &str) -> Option<T> {
    assert!(
        std::env::var("PGRAFT_TEST_SKIP").is_ok_and(|value| value == "1"),
        "{requirement}; PGRAFT_TEST_SKIP=1 skips the tests that need it"
    );
    eprintln!("skipped: {requirement}");
    None
}

/// Reports that a test needs privileges which this process does not have. Without
/// `PGRAFT_TEST_NAMESPACES` such a test is skipped, so that the other tests can run in a plain
/// container.
///
/// # Panics
///
/// If `PGRAFT_TEST_NAMESPACES` is set.
pub fn unprivileged<T>(requirement: &str) -> Option<T> {
    assert!(
        std::env::var_os("PGRAFT_TEST_NAMESPACES").is_none(),
        "{requirement}, but PGRAFT_TEST_NAMESPACES is set"
    );
    eprintln!("skipped: {requirement}");
    None
}

/// Whether a test may mount file systems in a namespace of its own: as root, if
/// `PGRAFT_TEST_NAMESPACES` is set.
pub fn may_mount() -> bool {
    geteuid().is_root() && std::env::var_os("PGRAFT_TEST_NAMESPACES").is_some()
}

/// Compiles a C file with the given compiler options.
///
/// # Panics
///
/// If the compiler is missing or reports an error. Rust needs `cc` for linking, so it exists.
pub fn compile(source: &Path, options: &[&str], output: &Path) {
    let compiled =
        Command::new("cc").args(options).arg("-O1").arg("-o").arg(output).arg(source).status();
    assert!(
        compiled.is_ok_and(|status| status.success()),
        "cc could not compile {}",
        source.display()
    );
}
