//! Has Postgres check a candidate in a scratch data directory, whether or not the server is running.
//!
//! ```text
//!  <work>/check/   PG_VERSION and global/pg_control of the server; postgresql.conf, postgresql.auto.conf and pg_hba.conf of the candidate
//!    postgres -C shared_memory_size     reads and checks all settings, loads the libraries, computes the memory
//!    postgres                           with the libraries and their parameters, which the first run does not check; reads pg_hba.conf and
//!                                       ends then, because there is no WAL
//! ```
//!
//! pgraft's library is not loaded, and the server's port and socket are not used.

use nix::sys::signal::Signal;
use std::fs;
use std::path::PathBuf;

use super::faults::{self, Blame, ConfigurationFault};
use super::settle::{Candidate, ConfigurationCheck, names};
use crate::files::{self, FileError};
use crate::postgres::config;
use crate::postgres::log::{Assembler, LogRecord};
use crate::postgres::process::{self, ProcessError};
use crate::reaper::{Ending, Reaper};
use crate::settings::Settings;

/// Settings of the server's command line that the check does not use.
const NOT_FOR_TRIALS: [&str; 8] = [
    "config_file",
    "hba_file",
    "ident_file",
    "listen_addresses",
    "port",
    "unix_socket_directories",
    "shared_preload_libraries",
    "log_line_prefix",
];

/// A server with minimal resources.
const SMALL: &str = "shared_buffers = 1MB
max_connections = 10
max_wal_senders = 2
fsync = off
autovacuum = off
";

/// Why Postgres could not check a candidate.
#[derive(Debug, thiserror::Error)]
pub enum TrialError {
    /// Disk.
    #[error(transparent)]
    File(#[from] FileError),
    /// Postgres.
    #[error(transparent)]
    Process(#[from] ProcessError),
    /// A signal of another process.
    #[error("Postgres was killed during the check")]
    Killed,
}

/// Checks candidates with Postgres.
pub struct Trial<'a> {
    settings: &'a Settings,
    reaper: &'a Reaper,
    /// Why Postgres could not check the last candidate.
    pub error: Option<TrialError>,
}

impl<'a> Trial<'a> {
    /// A check that has not run yet.
    pub const fn new(settings: &'a Settings, reaper: &'a Reaper) -> Self {
        Self { settings, reaper, error: None }
    }

    async fn run(&mut self, candidate: &Candidate) -> Result<Vec<ConfigurationFault>, TrialError> {
        let settings = super::with(self.settings, &candidate.user);
        let scratch = scratch(&settings, candidate)?;
        let (mut found, shared_memory) = self.configuration(&settings, candidate, &scratch).await?;
        if let (true, Some(megabytes), Some(limit)) =
            (found.is_empty(), shared_memory, memory_limit())
            && megabytes > limit
        {
            let message = format!(
                "Postgres would need {megabytes} MB of shared memory, but this host or container has {limit} MB"
            );
            found.push(ConfigurationFault { blame: Blame::Unknown, message });
        }
        for fault in self.start(&settings, candidate, &scratch).await? {
            if !found.iter().any(|f| f.blame == fault.blame) {
                found.push(fault);
            }
        }
        Ok(found)
    }

    async fn configuration(
        &self,
        settings: &Settings,
        candidate: &Candidate,
        scratch: &std::path::Path,
    ) -> Result<(Vec<ConfigurationFault>, Option<u64>), TrialError> {
        let mut command = process::program(settings, "postgres", settings.paths.parent());
        command.arg("-D").arg(scratch).args(["-C", "shared_memory_size"]);
        let line = config::command_line(settings);
        for pair in line[2..].chunks(2) {
            let name = pair.last().and_then(|set| set.split_once('=')).map_or("", |(name, _)| name);
            if !NOT_FOR_TRIALS.contains(&name) && !name.starts_with("pgraft.") {
                command.args(pair);
            }
        }
        set(&mut command, "config_file", &scratch.join("postgresql.conf").display().to_string());
        set(&mut command, "shared_preload_libraries", &libraries(candidate));
        let (ending, output) = self.output(command).await?;
        let text = String::from_utf8_lossy(&output);
        let shared_memory = text.lines().rev().find_map(|line| line.trim().parse().ok());
        let records: Vec<LogRecord> =
            records(&output).into_iter().filter(|r| r.msg.trim().parse::<u64>().is_err()).collect();
        Ok((faults::of_configuration(&records, ending != Ending::Code(0)), shared_memory))
    }

    /// Postgres reads `pg_hba.conf` late, so a small server is started. It finds no WAL and ends.
    async fn start(
        &self,
        settings: &Settings,
        candidate: &Candidate,
        scratch: &std::path::Path,
    ) -> Result<Vec<ConfigurationFault>, TrialError> {
        // The first run's file must not affect this one.
        files::remove_file(&scratch.join("postgresql.auto.conf"))?;
        let mut command = process::program(settings, "postgres", settings.paths.parent());
        command.arg("-D").arg(scratch);
        let at = |name: &str| scratch.join(name).display().to_string();
        let pid = std::process::id();
        let own = [
            ("config_file", at("small.conf")),
            ("hba_file", at("pg_hba.conf")),
            ("ident_file", at("pg_ident.conf")),
        ];
        // In the abstract namespace: no file, and no conflict with another server.
        let socket = [
            ("listen_addresses", String::new()),
            ("unix_socket_directories", format!("@pgraft-check-{pid}")),
            ("port", "1".into()),
        ];
        for (name, value) in own
            .into_iter()
            .chain(socket)
            .chain([("shared_preload_libraries", libraries(candidate))])
        {
            set(&mut command, name, &value);
        }
        let (_, output) = self.output(command).await?;
        let own = config::own_hba(settings).lines().count();
        let count = settings.config.postgresql.pg_hba.len();
        let of_user = |fault: ConfigurationFault| match fault.blame {
            Blame::Hba(Some(line)) => {
                let index = line.checked_sub(own).filter(|index| (1..=count).contains(index));
                ConfigurationFault {
                    blame: index.map_or(Blame::Unknown, |index| Blame::Hba(Some(index))),
                    ..fault
                }
            }
            _ => fault,
        };
        let records = records(&output);
        // This run always fails. Only warnings count, because the first run has found the errors.
        let warnings: Vec<LogRecord> =
            records.iter().filter(|record| record.level == "WARNING").cloned().collect();
        let of_libraries = faults::of_configuration(&warnings, false);
        Ok(of_libraries
            .into_iter()
            .chain(faults::of_hba(&records).into_iter().map(of_user))
            .collect())
    }

    async fn output(
        &self,
        mut command: std::process::Command,
    ) -> Result<(Ending, Vec<u8>), TrialError> {
        let words = [
            ("log_line_prefix", config::LOG_LINE_PREFIX),
            ("log_min_messages", "info"),
            ("log_error_verbosity", "default"),
        ];
        for (name, value) in words.into_iter().chain([
            ("lc_messages", "C"),
            ("logging_collector", "off"),
            ("log_destination", "stderr"),
        ]) {
            set(&mut command, name, value);
        }
        let (ending, output) = process::output(self.reaper, command).await?;
        match ending {
            // Killed by the kernel for lack of memory, or by a person: says nothing about the candidate.
            Ending::Signal(Signal::SIGKILL | Signal::SIGTERM | Signal::SIGINT) => {
                Err(TrialError::Killed)
            }
            _ => Ok((ending, output)),
        }
    }
}

impl ConfigurationCheck for Trial<'_> {
    async fn judge(&mut self, candidate: &Candidate) -> Vec<ConfigurationFault> {
        match self.run(candidate).await {
            Ok(faults) => faults,
            Err(error) => {
                self.error = Some(error);
                vec![]
            }
        }
    }
}

/// Creates the part of a data directory that Postgres needs to read its configuration.
fn scratch(settings: &Settings, candidate: &Candidate) -> Result<PathBuf, TrialError> {
    let (scratch, data) = (settings.paths.check(), &settings.paths.data);
    files::remove_directory(&scratch)?;
    for directory in [
        "global",
        "base",
        "pg_notify",
        "pg_stat",
        "pg_stat_tmp",
        "pg_tblspc",
        "pg_replslot",
        "pg_dynshmem",
    ] {
        files::private_directory(&scratch.join(directory))?;
    }
    files::private_directory(&scratch)?;
    for name in ["PG_VERSION", "global/pg_control"] {
        fs::copy(data.join(name), scratch.join(name))
            .map_err(FileError::at("copy", &data.join(name)))?;
    }
    let write = |name: &str, text: &str| {
        let path = scratch.join(name);
        fs::write(&path, text).map_err(FileError::at("write", &path))
    };
    write("postgresql.conf", &config::postgresql_conf(settings, None).text)?;
    write("postgresql.auto.conf", &candidate.auto)?;
    write("pg_hba.conf", &config::hba(settings))?;
    write("pg_ident.conf", "")?;
    // With the parameters of libraries, which have a dot in their names.
    let of_libraries = candidate.user.parameters.iter().filter(|(name, _)| name.contains('.'));
    let lines = of_libraries.map(|(name, value)| format!("{name} = {}\n", config::quoted(value)));
    write("small.conf", &std::iter::once(SMALL.to_owned()).chain(lines).collect::<String>())?;
    Ok(scratch)
}

/// All libraries that the server or its sessions load. A session that cannot load a library is
/// refused.
fn libraries(candidate: &Candidate) -> String {
    let lists = [
        ("shared_preload_libraries", ""),
        ("session_preload_libraries", ""),
        ("local_preload_libraries", "$libdir/plugins/"),
    ];
    let lists = lists
        .iter()
        .filter_map(|(list, directory)| Some((candidate.user.parameters.get(*list)?, directory)));
    let all = lists.flat_map(|(list, directory)| {
        names(list).into_iter().map(move |name| format!("\"{directory}{name}\""))
    });
    all.filter(|name| name != "\"pgraft\"").collect::<Vec<_>>().join(",")
}

fn set(command: &mut std::process::Command, name: &str, value: &str) {
    command.arg("-c").arg(format!("{name}={value}"));
}

fn records(output: &[u8]) -> Vec<LogRecord> {
    let mut assembler = Assembler::default();
    let mut records = assembler.feed(output);
    records.extend(assembler.close());
    records
}

/// The memory of this host or container, in megabytes.
fn memory_limit() -> Option<u64> {
    let host = fs::read_to_string("/proc/meminfo").ok().and_then(|text| total(&text));
    let group = fs::read_to_string("/sys/fs/cgroup/memory.max")
        .ok()
        .and_then(|text| text.trim().parse::<u64>().ok())
        .map(|bytes| bytes >> 20);
    host.into_iter().chain(group).min()
}

fn total(meminfo: &str) -> Option<u64> {
    let line = meminfo.lines().find_map(|line| line.strip_prefix("MemTotal:"))?;
    line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok().map(|kilobytes| kilobytes >> 10)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_memory_of_the_host_is_read() {
        assert_eq!(total("MemTotal:       16384000 kB\nMemFree: 1 kB\n"), Some(16000));
        assert!(memory_limit().is_some_and(|megabytes| megabytes > 0));
    }
}
