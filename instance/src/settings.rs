//! The command line and the configuration file, checked once. All other modules use valid values.

use pgraft_core::instance_config::{
    GatewayConfig, InstanceConfig, RaftConfig, StandbyConfig, TlsConfig,
};
use pgraft_core::{Address, NodeId, Refusal, defaults};
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::cli::InstanceRunArgs;
use crate::freshness::Bounds;
use crate::paths::Paths;

/// The settings of a node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// This node.
    pub node: NodeId,
    /// The address at which other nodes reach its Postgres server.
    pub postgres: Address,
    /// `--bootstrap`.
    pub bootstrap: bool,
    /// Whether the extension is loaded. False in tests only.
    pub extension: bool,
    /// Postgres' `fsync`.
    pub fsync: Fsync,
    /// The members choose the primary.
    pub failover: bool,
    /// The lease timeout of the primary.
    pub lease: Duration,
    /// How long a server may be unresponsive before it is killed.
    pub unresponsive: Duration,
    /// The read-write gateway, if one is configured.
    pub gateway: Option<GatewaySettings>,
    /// How far a standby may lag behind and still be ready.
    pub standby: Bounds,
    /// The size of the disk with the WAL, in bytes, if known.
    pub wal_disk: Option<u64>,
    /// How long a fast shutdown may take.
    pub stop_timeout: Duration,
    /// The configuration file.
    pub config: InstanceConfig,
    /// The files of the node.
    pub paths: Paths,
}

/// Postgres' setting of that name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fsync {
    /// Commits survive a crash of the machine.
    On,
    /// In tests only.
    Off,
}

/// The read-write gateway.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GatewaySettings {
    /// `host:port`
    pub listen: String,
    /// How long a client is held while there is no primary.
    pub hold: Duration,
    /// How many clients may be held or forwarded at a time.
    pub max_connections: usize,
    /// How long no client must have arrived before the gateway of a stopping node ends.
    pub drain: Option<Duration>,
}

/// What is wrong with the command line or the configuration file.
#[derive(Debug, thiserror::Error)]
pub enum SettingsError {
    /// The file cannot be read.
    #[error("could not read {}: {source}", path.display())]
    Unreadable {
        /// `--config`.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The file is not valid.
    #[error("{}: {why}", path.display())]
    Syntax {
        /// `--config`.
        path: PathBuf,
        /// The error, on one line.
        why: String,
    },
    /// Node id or address.
    #[error(transparent)]
    Identity(#[from] Refusal),
    /// A relative path.
    #[error("{name}: \"{value}\" is not an absolute path")]
    NotAbsolute {
        /// The key.
        name: &'static str,
        /// Its value.
        value: String,
    },
    /// One directory is within the other.
    #[error(
        "raftDirectory and dataDirectory must not be within each other, because a base backup would copy the node's identity"
    )]
    Nested,
    /// Not `host:port`.
    #[error("{name}: \"{value}\" is not host:port")]
    NotHostPort {
        /// The key.
        name: &'static str,
        /// Its value.
        value: String,
    },
    /// Port 0.
    #[error("{0} must be between 1 and 65535")]
    NoPort(&'static str),
    /// The server would be killed before its lease ends.
    #[error("raft.unresponsiveTimeout must not be shorter than raft.leaseTimeout")]
    UnresponsiveTimeout,
    /// No connections.
    #[error("gateway.maxConnections must be at least 1")]
    NoConnections,
    /// Not a duration.
    #[error("{name}: \"{value}\" is not a valid duration; use a value such as 2s or 1500ms")]
    Time {
        /// The key.
        name: &'static str,
        /// Its value.
        value: String,
    },
    /// Not a size.
    #[error("{name}: \"{value}\" is not a valid size; use a value such as 64MB or 1GB")]
    Size {
        /// The key.
        name: &'static str,
        /// Its value.
        value: String,
    },
    /// A name that Postgres does not accept or that is reserved.
    #[error("bootstrap.{name}: \"{value}\" is not a valid name, or is reserved")]
    Name {
        /// `database` or `owner`.
        name: &'static str,
        /// Its value.
        value: String,
    },
}

impl Settings {
    /// Reads the file.
    pub fn load(args: &InstanceRunArgs) -> Result<Self, SettingsError> {
        let path = args.config.clone();
        let text = std::fs::read_to_string(&path)
            .map_err(|source| SettingsError::Unreadable { path: path.clone(), source })?;
        let config = serde_saphyr::from_str(&text)
            .map_err(|e| SettingsError::Syntax { path, why: one_line(&e.to_string()) })?;
        Self::check(args, config)
    }

    /// Checks a configuration. No IO.
    pub fn check(args: &InstanceRunArgs, config: InstanceConfig) -> Result<Self, SettingsError> {
        directories(&config)?;
        if config.postgresql.port == 0 {
            return Err(SettingsError::NoPort("postgresql.port"));
        }
        let lease = match &config.raft.lease_timeout {
            None => defaults::LEASE_TIMEOUT,
            Some(text) => time("raft.leaseTimeout", text)?,
        };
        let unresponsive = match &config.raft.unresponsive_timeout {
            None => lease * defaults::UNRESPONSIVE_LEASES,
            Some(text) => time("raft.unresponsiveTimeout", text)?,
        };
        if unresponsive < lease {
            return Err(SettingsError::UnresponsiveTimeout);
        }
        for value in std::iter::once(&config.http_listen).chain(&config.peers) {
            let name = if value == &config.http_listen { "httpListen" } else { "peers" };
            host_port(value)
                .ok_or_else(|| SettingsError::NotHostPort { name, value: value.clone() })?;
        }
        // Invalid parameters and pg_hba lines do not prevent a start: `configuration` leaves them
        // out and reports them.
        for (name, value) in
            [("database", &config.bootstrap.database), ("owner", &config.bootstrap.owner)]
        {
            // Longer than NAMEDATALEN - 1, or reserved by Postgres or pgraft.
            let reserved = value.starts_with("pg_")
                || (name == "owner" && (value.starts_with("pgraft_") || value == "postgres"));
            if value.is_empty()
                || value.len() > 63
                // A line break would end a line of pg_ident.conf.
                || value.chars().any(char::is_control)
                || reserved
                || ["template0", "template1"].contains(&value.as_str())
            {
                return Err(SettingsError::Name { name, value: value.clone() });
            }
        }
        Ok(Self {
            node: NodeId::new(args.node_id).map_err(Refusal::from)?,
            postgres: Address::new(&args.advertise_address, config.postgresql.port.into())
                .map_err(Refusal::from)?,
            bootstrap: args.bootstrap,
            extension: !args.without_extension,
            fsync: if args.unsafe_without_fsync { Fsync::Off } else { Fsync::On },
            failover: config.failover && !args.without_extension,
            lease,
            unresponsive,
            gateway: config.gateway.as_ref().map(gateway).transpose()?,
            standby: standby(&config.standby)?,
            wal_disk: None,
            stop_timeout: Duration::from_secs(args.stop_timeout),
            paths: Paths::new(&config),
            config,
        })
    }
}

impl Settings {
    /// Applies the part of a changed file that takes effect while this process runs. Returns the
    /// names of changed settings that need a restart, too.
    #[must_use]
    pub fn reloaded(&self, new: Self) -> (Self, Vec<&'static str>) {
        let InstanceConfig {
            data_directory,
            raft_directory,
            bin_directory,
            socket_directory,
            postgresql,
            raft,
            failover,
            standby: _,
            gateway,
            tls,
            http_listen,
            peers: _,
            bootstrap: _,
            secrets_directory,
        } = &self.config;
        let fixed = [
            ("dataDirectory", *data_directory != new.config.data_directory),
            ("raftDirectory", *raft_directory != new.config.raft_directory),
            ("binDirectory", *bin_directory != new.config.bin_directory),
            ("socketDirectory", *socket_directory != new.config.socket_directory),
            ("secretsDirectory", *secrets_directory != new.config.secrets_directory),
            ("httpListen", *http_listen != new.config.http_listen),
            ("postgresql.port", postgresql.port != new.config.postgresql.port),
            (
                "postgresql.listenAddresses",
                postgresql.listen_addresses != new.config.postgresql.listen_addresses,
            ),
            (
                "raft",
                *raft
                    != RaftConfig {
                        unresponsive_timeout: raft.unresponsive_timeout.clone(),
                        ..new.config.raft.clone()
                    },
            ),
            ("failover", *failover != new.config.failover),
            ("gateway", unlimited(gateway.as_ref()) != unlimited(new.config.gateway.as_ref())),
            ("tls", *tls != new.config.tls),
        ];
        let mut next = self.clone();
        next.config.postgresql.parameters = new.config.postgresql.parameters;
        next.config.postgresql.pg_hba = new.config.postgresql.pg_hba;
        next.config.peers = new.config.peers;
        next.config.standby = new.config.standby;
        next.standby = new.standby;
        next.config.raft.unresponsive_timeout = new.config.raft.unresponsive_timeout;
        next.unresponsive = new.unresponsive;
        next.config.bootstrap = new.config.bootstrap;
        if let (Some(next), Some(new)) = (&mut next.config.gateway, new.config.gateway) {
            next.max_connections = new.max_connections;
        }
        if let (Some(next), Some(new)) = (&mut next.gateway, new.gateway) {
            next.max_connections = new.max_connections;
        }
        (next, fixed.into_iter().filter_map(|(name, changed)| changed.then_some(name)).collect())
    }
}

/// The gateway's configuration without `maxConnections`, which may change at any time.
fn unlimited(gateway: Option<&GatewayConfig>) -> Option<GatewayConfig> {
    gateway.map(|gateway| GatewayConfig { max_connections: 0, ..gateway.clone() })
}

fn directories(config: &InstanceConfig) -> Result<(), SettingsError> {
    let named = [
        ("dataDirectory", &config.data_directory),
        ("raftDirectory", &config.raft_directory),
        ("binDirectory", &config.bin_directory),
        ("socketDirectory", &config.socket_directory),
        ("secretsDirectory", &config.secrets_directory),
    ];
    for (name, value) in named.into_iter().chain(config.tls.iter().flat_map(TlsConfig::files)) {
        // A control character would break the lines of postgresql.conf and pgpass.
        if !Path::new(value).is_absolute()
            || Path::new(value).file_name().is_none()
            || value.chars().any(char::is_control)
        {
            return Err(SettingsError::NotAbsolute { name, value: value.clone() });
        }
    }
    let (data, raft) = (Path::new(&config.data_directory), Path::new(&config.raft_directory));
    if data.starts_with(raft) || raft.starts_with(data) {
        Err(SettingsError::Nested)
    } else {
        Ok(())
    }
}

fn gateway(config: &GatewayConfig) -> Result<GatewaySettings, SettingsError> {
    let GatewayConfig { port, listen_address, hold_time, max_connections, drain_time } = config;
    if *port == 0 {
        return Err(SettingsError::NoPort("gateway.port"));
    }
    if *max_connections == 0 {
        return Err(SettingsError::NoConnections);
    }
    let bare = listen_address.contains(':') && !listen_address.starts_with('[');
    let listen = if bare {
        format!("[{listen_address}]:{port}")
    } else {
        format!("{listen_address}:{port}")
    };
    host_port(&listen)
        .ok_or_else(|| SettingsError::NotHostPort { name: "gateway", value: listen.clone() })?;
    let drain = drain_time.as_ref().map(|text| time("gateway.drainTime", text)).transpose()?;
    Ok(GatewaySettings {
        listen,
        hold: time("gateway.holdTime", hold_time)?,
        max_connections: *max_connections,
        drain,
    })
}

fn standby(config: &StandbyConfig) -> Result<Bounds, SettingsError> {
    let StandbyConfig { max_lag, max_lag_bytes } = config;
    let size = |text: &String| {
        bytes(text)
            .ok_or_else(|| SettingsError::Size { name: "standby.maxLagBytes", value: text.clone() })
    };
    Ok(Bounds {
        lag: time("standby.maxLag", max_lag)?,
        bytes: max_lag_bytes.as_ref().map(size).transpose()?,
    })
}

/// Parses a size with one of Postgres' units; without a unit it is in bytes.
fn bytes(text: &str) -> Option<u64> {
    let text = text.trim();
    let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let shift = match unit.trim() {
        "" | "B" => 0,
        "kB" => 10,
        "MB" => 20,
        "GB" => 30,
        "TB" => 40,
        _ => return None,
    };
    number.parse::<u64>().ok().filter(|n| *n > 0)?.checked_mul(1 << shift)
}

/// Splits `host:port`. An IPv6 address must be in brackets.
pub fn host_port(text: &str) -> Option<(&str, u16)> {
    let (host, port) = text.rsplit_once(':')?;
    let port = port.parse().ok().filter(|p| *p > 0)?;
    let host = match host.strip_prefix('[').and_then(|h| h.strip_suffix(']')) {
        Some(inside) => Some(inside).filter(|host| host.contains(':')),
        None => Some(host).filter(|host| !host.contains([':', '[', ']'])),
    }?;
    (!host.is_empty()).then_some((host, port))
}

fn time(name: &'static str, value: &str) -> Result<Duration, SettingsError> {
    duration(value).ok_or_else(|| SettingsError::Time { name, value: value.to_owned() })
}

/// Parses a duration with one of Postgres' units; without a unit it is in milliseconds.
pub fn duration(text: &str) -> Option<Duration> {
    let text = text.trim();
    let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let milliseconds = match unit.trim() {
        "ms" | "" => 1,
        "s" => 1000,
        "min" => 60_000,
        "h" => 3_600_000,
        _ => return None,
    };
    number
        .parse::<u64>()
        .ok()
        .filter(|n| *n > 0)?
        .checked_mul(milliseconds)
        .map(Duration::from_millis)
}

fn one_line(text: &str) -> String {
    text.lines().map(str::trim).find(|l| !l.is_empty()).unwrap_or("unreadable").to_owned()
}

#[cfg(test)]
pub(crate) mod tests;
