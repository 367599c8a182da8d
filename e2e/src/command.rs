//! Runs commands as users type them.

use std::process::Stdio;
use tokio::io::AsyncWriteExt;
use tokio::process::Command;

use crate::failure::E2eFailure;

/// Runs a command and returns its standard output.
///
/// # Errors
/// [`E2eFailure::Command`] with its output if it fails.
pub async fn run(program: &str, arguments: &[&str]) -> Result<String, E2eFailure> {
    run_with_input(program, arguments, "").await
}

/// As [`run`], with standard input.
///
/// # Errors
/// As [`run`].
pub async fn run_with_input(
    program: &str,
    arguments: &[&str],
    input: &str,
) -> Result<String, E2eFailure> {
    let command = format!("{program} {}", arguments.join(" "));
    let mut child = Command::new(program)
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .map_err(|e| E2eFailure::Command { command: command.clone(), output: e.to_string() })?;
    if let Some(mut stdin) = child.stdin.take() {
        stdin.write_all(input.as_bytes()).await?;
    }
    let output = child.wait_with_output().await?;
    let printed = String::from_utf8_lossy(&output.stdout).into_owned();
    if output.status.success() {
        return Ok(printed);
    }
    Err(E2eFailure::Command {
        command,
        output: format!("{printed}{}", String::from_utf8_lossy(&output.stderr)).trim().to_owned(),
    })
}
