//! The settings (GUCs). Those of the member are read once, when the worker starts.

use std::ffi::CString;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use pgraft_core::{Address, NodeId, Refusal, defaults};
use pgraft_raft::{PROMISES_FILE, Protection, RaftSettings, RaftSettingsError, SNAPSHOT_EVERY};
use pgrx::{GucContext, GucFlags, GucRegistry, GucSetting};

use durability::Durability;

static NODE_ID: GucSetting<i32> = GucSetting::<i32>::new(0);
static LISTEN_ADDRESS: GucSetting<Option<CString>> =
    GucSetting::<Option<CString>>::new(Some(c"localhost"));
static PORT: GucSetting<i32> = GucSetting::<i32>::new(defaults::RAFT_PORT as i32);
static ADVERTISE_ADDRESS: GucSetting<Option<CString>> =
    GucSetting::<Option<CString>>::new(Some(c""));
static DATA_DIR: GucSetting<Option<CString>> = GucSetting::<Option<CString>>::new(Some(c""));
static HEARTBEAT_INTERVAL: GucSetting<i32> =
    GucSetting::<i32>::new(ms(defaults::HEARTBEAT_INTERVAL));
static ELECTION_TIMEOUT: GucSetting<i32> = GucSetting::<i32>::new(ms(defaults::ELECTION_TIMEOUT));
static JOIN_TIMEOUT: GucSetting<i32> = GucSetting::<i32>::new(ms(defaults::JOIN_TIMEOUT));
static ZONE: GucSetting<Option<CString>> = GucSetting::<Option<CString>>::new(Some(c""));
static TLS_CERT_FILE: GucSetting<Option<CString>> = GucSetting::<Option<CString>>::new(Some(c""));
static TLS_KEY_FILE: GucSetting<Option<CString>> = GucSetting::<Option<CString>>::new(Some(c""));
static TLS_CA_FILE: GucSetting<Option<CString>> = GucSetting::<Option<CString>>::new(Some(c""));
static ALLOW_PLAINTEXT: GucSetting<bool> = GucSetting::<bool>::new(false);
static FAILOVER: GucSetting<bool> = GucSetting::<bool>::new(false);
static LEASE_TIMEOUT: GucSetting<i32> = GucSetting::<i32>::new(ms(defaults::LEASE_TIMEOUT));
static FENCE_READS: GucSetting<bool> = GucSetting::<bool>::new(true);
static DURABILITY: GucSetting<Durability> = GucSetting::<Durability>::new(Durability::Quorum);

/// A copy of `FAILOVER` for all threads; pgrx's settings belong to the main thread.
static FAILOVER_ON: AtomicBool = AtomicBool::new(false);

#[allow(unsafe_code, reason = "pgrx's macro expands to it")]
mod durability {
    use pgrx::PostgresGucEnum;

    /// `pgraft.durability`
    #[derive(Debug, Clone, Copy, PartialEq, Eq, PostgresGucEnum)]
    pub enum Durability {
        #[name = c"quorum"]
        Quorum,
        #[name = c"strict"]
        Strict,
    }
}

/// Defines the settings. Called by the postmaster only.
pub fn define() {
    GucRegistry::define_int_guc(
        c"pgraft.node_id",
        c"Sets the node id of this server in its cluster.",
        c"Must be unique, also among removed nodes. pgraft does not start if it is 0.",
        &NODE_ID,
        0,
        i32::MAX,
        GucContext::Postmaster,
        GucFlags::default(),
    );
    GucRegistry::define_string_guc(
        c"pgraft.listen_address",
        c"Sets the host name or IP address that the Raft member listens on.",
        c"\"*\" means all addresses of this host.",
        &LISTEN_ADDRESS,
        GucContext::Postmaster,
        GucFlags::default(),
    );
    GucRegistry::define_int_guc(
        c"pgraft.port",
        c"Sets the TCP port that the Raft member listens on.",
        c"",
        &PORT,
        1,
        65535,
        GucContext::Postmaster,
        GucFlags::default(),
    );
    GucRegistry::define_string_guc(
        c"pgraft.advertise_address",
        c"Sets the host name or IP address at which other members reach this node.",
        c"If empty, pgraft.listen_address is used.",
        &ADVERTISE_ADDRESS,
        GucContext::Postmaster,
        GucFlags::default(),
    );
    GucRegistry::define_string_guc(
        c"pgraft.data_dir",
        c"Sets the directory of the Raft member.",
        c"Must be an absolute path outside the data directory that no other node uses.",
        &DATA_DIR,
        GucContext::Postmaster,
        GucFlags::default(),
    );
    GucRegistry::define_int_guc(
        c"pgraft.heartbeat_interval",
        c"Sets the interval between heartbeats of the Raft leader.",
        c"",
        &HEARTBEAT_INTERVAL,
        10,
        60_000,
        GucContext::Postmaster,
        GucFlags::UNIT_MS,
    );
    GucRegistry::define_int_guc(
        c"pgraft.election_timeout",
        c"Sets the time without a heartbeat of the Raft leader after which a new leader is elected.",
        c"Must be at least three times pgraft.heartbeat_interval.",
        &ELECTION_TIMEOUT,
        100,
        600_000,
        GucContext::Postmaster,
        GucFlags::UNIT_MS,
    );
    GucRegistry::define_int_guc(
        c"pgraft.join_timeout",
        c"Sets the time after which a new node that was never reached is removed again.",
        c"The value on the leader applies. 0 disables the timeout.",
        &JOIN_TIMEOUT,
        0,
        i32::MAX,
        GucContext::Postmaster,
        GucFlags::UNIT_MS,
    );
    GucRegistry::define_string_guc(
        c"pgraft.zone",
        c"Sets the name of the failure domain of this node.",
        c"Shown in pgraft_members; it has no effect.",
        &ZONE,
        GucContext::Postmaster,
        GucFlags::default(),
    );
    define_protection();
    define_failover();
}

fn define_failover() {
    GucRegistry::define_bool_guc(
        c"pgraft.failover",
        c"Enables automatic failover.",
        c"The members choose the primary, and a server accepts reads and writes only while it holds the primary's lease.",
        &FAILOVER,
        GucContext::Postmaster,
        GucFlags::default(),
    );
    GucRegistry::define_int_guc(
        c"pgraft.lease_timeout",
        c"Sets how long a primary may continue without contact to a majority of the voters.",
        c"Must be the same on all members. A lost primary is replaced after this time, or sooner if its server was seen to stop.",
        &LEASE_TIMEOUT,
        300,
        600_000,
        GucContext::Postmaster,
        GucFlags::UNIT_MS,
    );
    GucRegistry::define_bool_guc(
        c"pgraft.fence_reads",
        c"Refuses reads on a primary that has lost its lease.",
        c"Its data may be out of date. Superusers connected through the Unix socket are exempt.",
        &FENCE_READS,
        GucContext::Suset,
        GucFlags::default(),
    );
    GucRegistry::define_enum_guc(
        c"pgraft.durability",
        c"Sets whether commits must wait for a standby.",
        c"With quorum, synchronous_commit decides. With strict, a commit that would not wait for a standby to flush it is refused.",
        &DURABILITY,
        GucContext::Suset,
        GucFlags::default(),
    );
    FAILOVER_ON.store(FAILOVER.get(), Ordering::Relaxed);
}

/// Whether `pgraft.failover` is on. From any thread.
pub fn failover() -> bool {
    FAILOVER_ON.load(Ordering::Relaxed)
}

/// Whether `pgraft.failover` was switched off on a node that has made promises in failovers. The
/// cluster still relies on them.
pub fn failover_was_switched_off() -> bool {
    !failover() && PathBuf::from(text(&DATA_DIR)).join(PROMISES_FILE).exists()
}

/// `pgraft.fence_reads` of this session.
pub fn fence_reads() -> bool {
    FENCE_READS.get()
}

/// Whether `pgraft.durability` is `strict` in this session.
pub fn strict() -> bool {
    DURABILITY.get() == Durability::Strict
}

fn define_protection() {
    let files = [
        (
            c"pgraft.tls_cert_file",
            c"Sets the file with the certificate of this node, in PEM format.",
            c"The certificate must have the DNS name node-<pgraft.node_id>.pgraft.",
            &TLS_CERT_FILE,
        ),
        (
            c"pgraft.tls_key_file",
            c"Sets the file with the private key of this node, in PEM format.",
            c"Must be readable by the user of the server only.",
            &TLS_KEY_FILE,
        ),
        (
            c"pgraft.tls_ca_file",
            c"Sets the file with the certificate authority of the members, in PEM format.",
            c"May hold several certificates while one authority replaces another.",
            &TLS_CA_FILE,
        ),
    ];
    for (name, short, long, setting) in files {
        GucRegistry::define_string_guc(
            name,
            short,
            long,
            setting,
            GucContext::Postmaster,
            GucFlags::default(),
        );
    }
    GucRegistry::define_bool_guc(
        c"pgraft.allow_plaintext",
        c"Allows the Raft member to listen without TLS on addresses that other hosts can reach.",
        c"Any program that can reach the port can then act as a member.",
        &ALLOW_PLAINTEXT,
        GucContext::Postmaster,
        GucFlags::default(),
    );
}

/// The checked settings of the member. `postgres_port` and `pgdata` are those of this server.
pub fn settings(postgres_port: i32, pgdata: &Path) -> Result<RaftSettings, RaftSettingsError> {
    if NODE_ID.get() == 0 {
        return Err(RaftSettingsError::Missing("pgraft.node_id"));
    }
    let node_id =
        NodeId::new(i64::from(NODE_ID.get())).map_err(|e| invalid("pgraft.node_id", e))?;
    let data_dir = PathBuf::from(text(&DATA_DIR));
    if data_dir.as_os_str().is_empty() {
        return Err(RaftSettingsError::Missing("pgraft.data_dir"));
    }
    let (listen, advertise) = (text(&LISTEN_ADDRESS), text(&ADVERTISE_ADDRESS));
    let any = pgraft_raft::is_any(&listen);
    if advertise.is_empty() && any {
        return Err(RaftSettingsError::Missing(
            "pgraft.advertise_address (required because pgraft.listen_address covers several addresses)",
        ));
    }
    let port = i64::from(PORT.get());
    let listen_host = if listen == "*" { "::" } else { &listen };
    let advertise_host = if advertise.is_empty() { &listen } else { &advertise };
    let settings = RaftSettings {
        node_id,
        listen: Address::new(listen_host, port).map_err(|e| invalid("pgraft.listen_address", e))?,
        advertise: Address::new(advertise_host, port)
            .map_err(|e| invalid("pgraft.advertise_address", e))?,
        data_dir,
        heartbeat_interval: milliseconds(&HEARTBEAT_INTERVAL),
        election_timeout: milliseconds(&ELECTION_TIMEOUT),
        join_timeout: Some(milliseconds(&JOIN_TIMEOUT)).filter(|limit| !limit.is_zero()),
        lease_timeout: failover().then(|| milliseconds(&LEASE_TIMEOUT)),
        snapshot_every: SNAPSHOT_EVERY,
        postgres: Address::new(advertise_host, i64::from(postgres_port))
            .map_err(|e| invalid("port", e))?,
        zone: text(&ZONE),
        protection: Protection::new(
            &text(&TLS_CERT_FILE),
            &text(&TLS_KEY_FILE),
            &text(&TLS_CA_FILE),
            ALLOW_PLAINTEXT.get(),
        )?,
    };
    settings.check(Some(pgdata))?;
    Ok(settings)
}

fn invalid(setting: &'static str, why: impl Into<Refusal>) -> RaftSettingsError {
    RaftSettingsError::Value { setting, why: why.into() }
}

/// The path of the control socket; None if `pgraft.data_dir` is not set.
pub fn control_socket() -> Option<PathBuf> {
    let dir = text(&DATA_DIR);
    (!dir.is_empty()).then(|| Path::new(&dir).join(pgraft_core::control::SOCKET_NAME))
}

fn text(setting: &GucSetting<Option<CString>>) -> String {
    setting.get().map(|s| s.to_string_lossy().into_owned()).unwrap_or_default()
}

/// A default as the value of a setting in milliseconds.
#[allow(clippy::cast_possible_truncation, reason = "the defaults are small")]
const fn ms(value: Duration) -> i32 {
    value.as_millis() as i32
}

fn milliseconds(setting: &GucSetting<i32>) -> Duration {
    Duration::from_millis(u64::from(setting.get().unsigned_abs()))
}
