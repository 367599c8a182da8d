//! The operator's process, and its memory and processor time.

use std::path::Path;
use std::process::Stdio;
use std::time::Duration;
use tempfile::TempDir;
use tokio::process::{Child, Command};

use crate::failure::BenchFailure;
use crate::machine::field;

/// A running operator.
pub struct Operator {
    child: std::sync::Mutex<Child>,
    pid: u32,
    folder: TempDir,
}

/// Memory in MiB, as text.
pub struct ProcessMemory {
    /// The resident set size.
    pub rss: String,
    /// The proportional set size.
    pub pss: String,
}

impl Operator {
    /// Starts an operator for the API server on a port.
    pub fn start(binary: &Path, api: u16) -> Result<Self, BenchFailure> {
        let folder = tempfile::tempdir().map_err(BenchFailure::io("making a folder"))?;
        let config = serde_json::json!({
            "apiVersion": "v1", "kind": "Config", "current-context": "bench",
            "clusters": [{"name": "bench", "cluster": {"server": format!("http://127.0.0.1:{api}")}}],
            "users": [{"name": "bench", "user": {}}],
            "contexts": [{"name": "bench", "context": {"cluster": "bench", "user": "bench", "namespace": "default"}}],
        });
        let path = folder.path().join("kubeconfig");
        std::fs::write(&path, config.to_string())
            .map_err(BenchFailure::io("writing a kubeconfig"))?;
        let log = std::fs::File::create(folder.path().join("log"))
            .map_err(BenchFailure::io("making a log"))?;
        let child = Command::new(binary)
            .arg("run")
            .env("KUBECONFIG", &path)
            .env("HTTP_LISTEN", "127.0.0.1:0")
            .env("LEASE_NAME", "pgraft-operator")
            .env("POD_NAMESPACE", "default")
            .env("LOG_LEVEL", std::env::var("BENCH_OPERATOR_LOG").unwrap_or_else(|_| "warn".into()))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .kill_on_drop(true)
            .spawn()
            .map_err(BenchFailure::io(format!("starting {}", binary.display())))?;
        let pid = child.id().unwrap_or_default();
        Ok(Self { child: std::sync::Mutex::new(child), pid, folder })
    }

    /// Returns an error with the end of its log if it has stopped.
    pub fn is_alive(&self) -> Result<(), BenchFailure> {
        let mut child = self.child.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        match child.try_wait() {
            Ok(None) => Ok(()),
            Ok(Some(status)) => Err(BenchFailure::Wrong(format!(
                "the operator has stopped ({status}): {}",
                self.log()
            ))),
            Err(source) => Err(BenchFailure::io("checking the operator")(source)),
        }
    }

    fn log(&self) -> String {
        let log = std::fs::read_to_string(self.folder.path().join("log")).unwrap_or_default();
        log.lines().rev().take(5).collect::<Vec<_>>().join("\n")
    }

    /// Sends SIGTERM and waits for its end.
    pub async fn stop(self) -> Result<(), BenchFailure> {
        let pid = nix::unistd::Pid::from_raw(i32::try_from(self.pid).unwrap_or_default());
        nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGTERM)
            .map_err(|e| BenchFailure::io("stopping the operator")(e.into()))?;
        let mut child = self.child.into_inner().unwrap_or_else(std::sync::PoisonError::into_inner);
        child.wait().await.map_err(BenchFailure::io("waiting for the operator")).map(drop)
    }

    /// The peak resident set size.
    pub fn peak(&self) -> Result<String, BenchFailure> {
        Ok(mib(&self.proc("status")?, "VmHWM:"))
    }

    /// The current memory.
    pub fn memory(&self) -> Result<ProcessMemory, BenchFailure> {
        let text = self.proc("smaps_rollup")?;
        Ok(ProcessMemory { rss: mib(&text, "Rss:"), pss: mib(&text, "Pss:") })
    }

    /// The processor time so far.
    pub fn cpu(&self) -> Result<Duration, BenchFailure> {
        let stat = self.proc("stat")?;
        let after = stat.rsplit(')').next().unwrap_or_default();
        let ticks: u64 =
            after.split_whitespace().skip(11).take(2).filter_map(|n| n.parse::<u64>().ok()).sum();
        Ok(Duration::from_millis(ticks * 10)) // USER_HZ is 100 on every Linux target of Rust
    }

    fn proc(&self, file: &str) -> Result<String, BenchFailure> {
        std::fs::read_to_string(format!("/proc/{}/{file}", self.pid))
            .map_err(BenchFailure::io(format!("reading {file} of the operator")))
    }
}

fn mib(text: &str, name: &str) -> String {
    let kib = field(text, name).and_then(|kib| kib.parse::<u32>().ok()).unwrap_or_default();
    format!("{:.1} MiB", f64::from(kib) / 1024.0)
}
