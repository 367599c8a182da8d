//! What all test servers share: the user that runs Postgres, its directories and its programs.

use std::fs;
use std::os::unix::fs::{PermissionsExt, chown};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Stdio};

use nix::unistd::{Pid, User, geteuid};
use tempfile::TempDir;

/// The user that runs Postgres if the tests run as root: Postgres refuses to run as root.
///
/// # Panics
///
/// If root runs the tests and there is no user `postgres`.
pub fn postgres_user() -> Option<User> {
    geteuid().is_root().then(|| {
        User::from_name("postgres")
            .unwrap()
            .expect("tests that run as root need a user named postgres")
    })
}

/// Makes the user that runs Postgres the owner of a file.
pub fn give(path: &Path) {
    if let Some(user) = postgres_user() {
        chown(path, Some(user.uid.as_raw()), Some(user.gid.as_raw())).unwrap();
    }
}

/// A new directory below `/tmp`, owned by the user that runs Postgres.
pub fn scratch() -> TempDir {
    scratch_in(Path::new("/tmp"))
}

/// A new directory below `parent`, owned by the user that runs Postgres.
pub fn scratch_in(parent: &Path) -> TempDir {
    let dir = tempfile::Builder::new().prefix("pgraft-").tempdir_in(parent).unwrap();
    fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o755)).unwrap();
    give(dir.path());
    dir
}

/// A Postgres program, run as the user that runs Postgres; in the network namespace of the process
/// `namespace`, if there is one.
pub fn program(bin: &Path, name: &str, namespace: Option<u32>) -> Command {
    let path = bin.join(name);
    let user = postgres_user();
    let mut command = if let Some(process) = namespace {
        let mut command = Command::new("nsenter");
        command.arg(format!("--net=/proc/{process}/ns/net"));
        if let Some(user) = user {
            command.arg(format!("--setgid={}", user.gid)).arg(format!("--setuid={}", user.uid));
        }
        command.arg(path);
        command
    } else {
        let mut command = Command::new(path);
        if let Some(user) = user {
            command.uid(user.uid.as_raw()).gid(user.gid.as_raw());
        }
        command
    };
    command.env("LC_ALL", "C.UTF-8").current_dir("/").stdin(Stdio::null());
    command
}

/// Runs a command to its end.
///
/// # Panics
///
/// If it fails, with its output.
pub fn run(command: &mut Command) {
    let output = command.output().unwrap();
    assert!(
        output.status.success(),
        "{command:?}: {}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
}

/// The process id in `postmaster.pid`, if the file exists.
pub fn postmaster(pgdata: &Path) -> Option<Pid> {
    let text = fs::read_to_string(pgdata.join("postmaster.pid")).ok()?;
    Some(Pid::from_raw(text.lines().next()?.trim().parse().ok()?))
}
