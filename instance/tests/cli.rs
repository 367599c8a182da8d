//! Invalid command lines, configurations and hosts: one clear line and exit code 2.

#![allow(clippy::unwrap_used, reason = "used by tests only")]

use std::path::Path;
use std::process::{Command, Output};

fn run(config: &Path, node: &str) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_pgraft-instance"));
    command
        .args(["run", "--node-id", node, "--advertise-address", "localhost", "--config"])
        .arg(config);
    command.output().unwrap()
}

fn refused(output: &Output) -> String {
    let text = String::from_utf8(output.stderr.clone()).unwrap();
    assert_eq!(output.status.code(), Some(2), "{text}");
    assert_eq!(text.lines().count(), 1, "{text}");
    text
}

#[test]
fn an_invalid_configuration_is_one_line_and_exit_code_2() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("instance.yaml");
    assert!(refused(&run(&file, "1")).contains("No such file or directory"));
    std::fs::write(&file, "nonsense: 1\n").unwrap();
    assert!(refused(&run(&file, "1")).contains("nonsense"));
    let base = dir.path().display().to_string();
    let good = format!(
        "dataDirectory: {base}/d\nraftDirectory: {base}/r\nbinDirectory: {base}/nowhere\nsocketDirectory: {base}\nhttpListen: 127.0.0.1:1\nsecretsDirectory: {base}\npostgresql: {{port: 1, listenAddresses: ''}}\n"
    );
    std::fs::write(&file, good).unwrap();
    assert!(refused(&run(&file, "0")).contains("invalid node id 0"));
    let host = refused(&run(&file, "1"));
    assert!(host.contains("must not run as root") || host.contains("binDirectory: "), "{host}");
}
