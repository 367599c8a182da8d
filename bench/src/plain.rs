//! Postgres without pgraft, with the settings of a server that has it: a primary and synchronous
//! standbys.

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};

use nix::sys::signal::{Signal, kill};
use pgraft_testkit::TestNode;
use pgraft_testkit::postgres::{postmaster, program};

use crate::failure::BenchFailure;
use crate::servers::{connect, until};
use pgraft_testkit::free_port;

/// Parts of the names of settings that are not copied: a server's own, and pgraft's.
const NOT_TAKEN_OVER: [&str; 16] = [
    "pgraft.",
    "shared_preload_libraries",
    "port",
    "listen_addresses",
    "unix_socket_",
    "primary_",
    "synchronous_standby_names",
    "_file",
    "data_directory",
    "log_",
    "logging_",
    "cluster_name",
    "restore_command",
    "ssl",
    "recovery_",
    "DateStyle",
];

/// The servers stop when this is dropped.
pub struct Plain {
    /// The first one is the primary.
    servers: Vec<PlainServer>,
}

struct PlainServer {
    data: PathBuf,
    port: u16,
}

impl Plain {
    /// A primary with this many standbys, one of which must confirm each commit.
    pub async fn like(
        node: &TestNode,
        bin: &Path,
        parent: &Path,
        standbys: usize,
    ) -> Result<Self, BenchFailure> {
        let settings = settings_of(node).await?;
        let primary = PlainServer { data: parent.join("plain-0"), port: free_port() };
        primary.run(
            bin,
            "initdb",
            &[
                "-A",
                "trust",
                "-U",
                "postgres",
                "--data-checksums",
                "--encoding=UTF8",
                "--locale=C.UTF-8",
            ],
        )?;
        primary.set(&settings)?;
        primary.set("synchronous_standby_names = 'ANY 1 (*)'\n")?;
        primary.start(bin)?;
        let mut plain = Self { servers: vec![primary] };
        for n in 1..=standbys {
            let standby =
                PlainServer { data: parent.join(format!("plain-{n}")), port: free_port() };
            let from = format!(
                "host=127.0.0.1 port={} user=postgres application_name=plain_{n}",
                plain.port()
            );
            standby.run(bin, "pg_basebackup", &["-d", &from, "-R", "-c", "fast"])?;
            standby.set("synchronous_standby_names = ''\n")?;
            standby.start(bin)?;
            plain.servers.push(standby);
        }
        let client =
            connect(&format!("host=127.0.0.1 port={} user=postgres dbname=postgres", plain.port()))
                .await;
        let client = client.map_err(BenchFailure::sql(0))?;
        until("streaming standbys", || async {
            let row = client
                .query_one(
                    "select count(*) from pg_stat_replication where state = 'streaming'",
                    &[],
                )
                .await;
            Ok(usize::try_from(row.map_err(BenchFailure::sql(0))?.get::<_, i64>(0))
                .is_ok_and(|n| n == standbys))
        })
        .await?;
        Ok(plain)
    }

    pub fn port(&self) -> u16 {
        self.servers[0].port
    }
}

async fn settings_of(node: &TestNode) -> Result<String, BenchFailure> {
    let sql = BenchFailure::sql(u16::try_from(node.id).unwrap_or(0));
    let client = node.connect("postgres", "superuser-1", "postgres").await.map_err(&sql)?;
    let set = "select name, current_setting(name) from pg_settings where source in ('configuration file', 'command line') order by name";
    let rows = client.query(set, &[]).await.map_err(&sql)?;
    let pairs = rows.iter().map(|row| (row.get::<_, String>(0), row.get::<_, String>(1)));
    let taken = pairs.filter(|(name, _)| !NOT_TAKEN_OVER.iter().any(|not| name.contains(not)));
    let lines: Vec<String> =
        taken.map(|(name, value)| format!("{name} = '{}'\n", value.replace('\'', "''"))).collect();
    Ok(lines.concat())
}

impl PlainServer {
    fn set(&self, settings: &str) -> Result<(), BenchFailure> {
        let own = format!(
            "port = {}\nunix_socket_directories = ''\nlisten_addresses = '127.0.0.1'\n",
            self.port
        );
        let path = self.data.join("postgresql.conf");
        let file = fs::OpenOptions::new().append(true).open(&path);
        file.and_then(|mut file| file.write_all(format!("{settings}{own}").as_bytes()))
            .map_err(BenchFailure::io(path.display().to_string()))
    }

    fn log(&self) -> PathBuf {
        self.data.with_extension("log")
    }

    fn start(&self, bin: &Path) -> Result<(), BenchFailure> {
        self.run(
            bin,
            "pg_ctl",
            &["-l", &self.log().display().to_string(), "-t", "120", "-w", "start"],
        )
    }

    fn run(&self, bin: &Path, name: &str, arguments: &[&str]) -> Result<(), BenchFailure> {
        let output = program(bin, name, None)
            .arg("-D")
            .arg(&self.data)
            .args(arguments)
            .output()
            .map_err(BenchFailure::io(name))?;
        if output.status.success() {
            return Ok(());
        }
        let log = fs::read_to_string(self.log()).unwrap_or_default();
        let error = String::from_utf8_lossy(&output.stderr);
        Err(BenchFailure::Program(format!("{name}: {error}{log}")))
    }
}

impl Drop for PlainServer {
    fn drop(&mut self) {
        if let Some(pid) = postmaster(&self.data) {
            let _ = kill(pid, Signal::SIGQUIT);
        }
    }
}
