//! HAProxy in TCP mode before a server, for comparison with the gateway.

use std::fs;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use crate::failure::BenchFailure;
use pgraft_testkit::free_port;

/// The process ends when this is dropped.
pub struct Haproxy {
    process: Child,
    port: u16,
}

impl Haproxy {
    /// Returns `None` if HAProxy is not installed.
    pub fn to(host: &str, port: u16, dir: &Path) -> Result<Option<Self>, BenchFailure> {
        let own = free_port();
        let file = dir.join("haproxy.cfg");
        let settings = format!(
            "defaults\n  mode tcp\n  timeout connect 5s\n  timeout client 1h\n  timeout server 1h\n\
             listen postgres\n  bind 127.0.0.1:{own}\n  server primary {host}:{port}\n"
        );
        fs::write(&file, settings).map_err(BenchFailure::io(file.display().to_string()))?;
        match Command::new("haproxy")
            .arg("-db")
            .arg("-f")
            .arg(&file)
            .stdin(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
        {
            Ok(process) => Ok(Some(Self { process, port: own })),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                println!("haproxy is not on PATH; the gateway is not compared with it");
                Ok(None)
            }
            Err(error) => Err(BenchFailure::io("haproxy")(error)),
        }
    }

    pub const fn port(&self) -> u16 {
        self.port
    }
}

impl Drop for Haproxy {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}
