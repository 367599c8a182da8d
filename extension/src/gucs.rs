//! The settings. Those of the member are read once, when the server starts.

use std::ffi::CString;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use pgraft_core::{Address, NodeId, Refusal};
use pgraft_raft::{PROMISES_FILE, Protection, RaftSettings, RaftSettingsError, SNAPSHOT_EVERY};
use pgrx::{GucContext, GucFlags, GucRegistry, GucSetting};

use durability::Durability;

static NODE_ID: GucSetting<i32> = GucSetting::<i32>::new(0);
static LISTEN_ADDRESS: GucSetting<Option<CString>> =
    GucSetting::<Option<CString>>::new(Some(c"localhost"));
static PORT: GucSetting<i32> = GucSetting::<i32>::new(7001);
static ADVERTISE_ADDRESS: GucSetting<Option<CString>> =
    GucSetting::<Option<CString>>::new(Some(c""));
static DATA_DIR: GucSetting<Option<CString>> = GucSetting::<Option<CString>>::new(Some(c""));
static HEARTBEAT_INTERVAL: GucSetting<i32> = GucSetting::<i32>::new(200);
static ELECTION_TIMEOUT: GucSetting<i32> = GucSetting::<i32>::new(1000);
static JOIN_TIMEOUT: GucSetting<i32> = GucSetting::<i32>::new(600_000);
static ZONE: GucSetting<Option<CString>> = GucSetting::<Option<CString>>::new(Some(c""));
static TLS_CERT_FILE: GucSetting<Option<CString>> = GucSetting::<Option<CString>>::new(Some(c""));
static TLS_KEY_FILE: GucSetting<Option<CString>> = GucSetting::<Option<CString>>::new(Some(c""));
static TLS_CA_FILE: GucSetting<Option<CString>> = GucSetting::<Option<CString>>::new(Some(c""));
static ALLOW_PLAINTEXT: GucSetting<bool> = GucSetting::<bool>::new(false);
static FAILOVER: GucSetting<bool> = GucSetting::<bool>::new(false);
static LEASE_TIMEOUT: GucSetting<i32> = GucSetting::<i32>::new(2000);
static FENCE_READS: GucSetting<bool> = GucSetting::<bool>::new(true);
static DURABILITY: GucSetting<Durability> = GucSetting::<Durability>::new(Durability::Quorum);

/// `FAILOVER` for every thread: pgrx's settings are the main thread's.
static GOVERNED: AtomicBool = AtomicBool::new(false);

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

/// Defines the settings; in the postmaster only.
pub fn define() {
    GucRegistry::define_int_guc(
        c"pgraft.node_id",
        c"This node's id in its cluster.",
        c"A number that no node of the cluster has or had. 0 keeps pgraft from starting.",
        &NODE_ID,
        0,
        i32::MAX,
        GucContext::Postmaster,
        GucFlags::default(),
    );
    GucRegistry::define_string_guc(
        c"pgraft.listen_address",
        c"The host name or IP address that the Raft member listens on.",
        c"\"*\" stands for all addresses of this host.",
        &LISTEN_ADDRESS,
        GucContext::Postmaster,
        GucFlags::default(),
    );
    GucRegistry::define_int_guc(
        c"pgraft.port",
        c"The TCP port that the Raft member listens on.",
        c"",
        &PORT,
        1,
        65535,
        GucContext::Postmaster,
        GucFlags::default(),
    );
    GucRegistry::define_string_guc(
        c"pgraft.advertise_address",
        c"The host name or IP address under which the other members reach this node.",
        c"pgraft.listen_address when empty.",
        &ADVERTISE_ADDRESS,
        GucContext::Postmaster,
        GucFlags::default(),
    );
    GucRegistry::define_string_guc(
        c"pgraft.data_dir",
        c"The directory of the Raft member.",
        c"An absolute path outside the data directory, of this node alone.",
        &DATA_DIR,
        GucContext::Postmaster,
        GucFlags::default(),
    );
    GucRegistry::define_int_guc(
        c"pgraft.heartbeat_interval",
        c"How often the Raft leader shows that it is there.",
        c"",
        &HEARTBEAT_INTERVAL,
        10,
        60_000,
        GucContext::Postmaster,
        GucFlags::UNIT_MS,
    );
    GucRegistry::define_int_guc(
        c"pgraft.election_timeout",
        c"After how long without the leader a new one is elected.",
        c"At least three times pgraft.heartbeat_interval.",
        &ELECTION_TIMEOUT,
        100,
        600_000,
        GucContext::Postmaster,
        GucFlags::UNIT_MS,
    );
    GucRegistry::define_int_guc(
        c"pgraft.join_timeout",
        c"After how long a newcomer that was never reached is taken out again.",
        c"The leader's setting counts. 0 waits for ever.",
        &JOIN_TIMEOUT,
        0,
        i32::MAX,
        GucContext::Postmaster,
        GucFlags::UNIT_MS,
    );
    GucRegistry::define_string_guc(
        c"pgraft.zone",
        c"The failure domain that this node is in, for people to look at.",
        c"",
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
        c"Has the members choose the primary.",
        c"The server takes writes, and answers reads, while it holds the lease of the primary. Off fences nothing.",
        &FAILOVER,
        GucContext::Postmaster,
        GucFlags::default(),
    );
    GucRegistry::define_int_guc(
        c"pgraft.lease_timeout",
        c"For how long a primary may go on without hearing from a majority of the voters.",
        c"The same on every member. A primary that is lost is replaced no sooner, unless its end is seen.",
        &LEASE_TIMEOUT,
        300,
        600_000,
        GucContext::Postmaster,
        GucFlags::UNIT_MS,
    );
    GucRegistry::define_bool_guc(
        c"pgraft.fence_reads",
        c"Keeps a primary that has lost its lease from answering reads.",
        c"What it would answer may be out of date. Superusers over the Unix socket are answered all the same.",
        &FENCE_READS,
        GucContext::Suset,
        GucFlags::default(),
    );
    GucRegistry::define_enum_guc(
        c"pgraft.durability",
        c"What a commit must wait for.",
        c"quorum: what synchronous_commit says; strict: a commit that would not wait until a standby has it on disk is refused.",
        &DURABILITY,
        GucContext::Suset,
        GucFlags::default(),
    );
    GOVERNED.store(FAILOVER.get(), Ordering::Relaxed);
}

/// Whether pgraft chooses the primary. From any thread.
pub fn failover() -> bool {
    GOVERNED.load(Ordering::Relaxed)
}

/// Whether it does no more: this node has made promises in failovers, and a cluster can't go
/// without them again.
pub fn failover_was_left() -> bool {
    !failover() && PathBuf::from(text(&DATA_DIR)).join(PROMISES_FILE).exists()
}

/// Whether reads are fenced in this session.
pub fn fence_reads() -> bool {
    FENCE_READS.get()
}

/// Whether a commit that a failover could lose is refused in this session.
pub fn strict() -> bool {
    DURABILITY.get() == Durability::Strict
}

fn define_protection() {
    let files = [
        (
            c"pgraft.tls_cert_file",
            c"The certificate that this node shows to the other members, in PEM.",
            c"Its DNS name is node-<pgraft.node_id>.pgraft.",
            &TLS_CERT_FILE,
        ),
        (
            c"pgraft.tls_key_file",
            c"The private key of pgraft.tls_cert_file, in PEM.",
            c"Readable by the server's user only.",
            &TLS_KEY_FILE,
        ),
        (
            c"pgraft.tls_ca_file",
            c"The CA that has signed the members' certificates, in PEM.",
            c"Several while one replaces another.",
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
        c"Lets the Raft member listen without TLS where other hosts reach it.",
        c"Whoever reaches the port can speak for a member then.",
        &ALLOW_PLAINTEXT,
        GucContext::Postmaster,
        GucFlags::default(),
    );
}

/// The settings as a member wants them, checked. `postgres_port` and `pgdata` are the server's own.
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
            "pgraft.advertise_address (pgraft.listen_address stands for many addresses)",
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

/// Where the control socket is, for backends; None where no directory was set.
pub fn control_socket() -> Option<PathBuf> {
    let dir = text(&DATA_DIR);
    (!dir.is_empty()).then(|| Path::new(&dir).join(pgraft_core::control::SOCKET_NAME))
}

fn text(setting: &GucSetting<Option<CString>>) -> String {
    setting.get().map(|s| s.to_string_lossy().into_owned()).unwrap_or_default()
}

fn milliseconds(setting: &GucSetting<i32>) -> Duration {
    Duration::from_millis(u64::from(setting.get().unsigned_abs()))
}
