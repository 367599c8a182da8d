//! What is taken, and in which words the rest is refused.

use super::*;

/// Settings of node 2 that pass every check.
pub(crate) fn example() -> Settings {
    Settings::check(&args(), config("")).unwrap()
}

/// The same in a cluster that fails over.
pub(crate) fn example_with_failover() -> Settings {
    Settings::check(&args(), config("failover: true\nraft: {leaseTimeout: 1500ms}")).unwrap()
}

/// The same with TLS.
pub(crate) fn example_with_tls() -> Settings {
    Settings::check(&args(), config(TLS)).unwrap()
}

const TLS: &str = "tls: {certFile: /etc/pgraft/tls/tls.crt, keyFile: /etc/pgraft/tls/tls.key, caFile: /etc/pgraft/tls/ca.crt}";

fn args() -> InstanceRunArgs {
    InstanceRunArgs {
        config: "/etc/pgraft/instance.yaml".into(),
        node_id: 2,
        advertise_address: "db-2.example".into(),
        bootstrap: false,
        stop_timeout: 25,
        without_extension: false,
        unsafe_without_fsync: false,
    }
}

fn config(more: &str) -> InstanceConfig {
    serde_saphyr::from_str(&format!(
        "
dataDirectory: /var/lib/pgraft/pgdata
raftDirectory: /var/lib/pgraft/raft
binDirectory: /usr/lib/postgresql/17/bin
socketDirectory: /var/run/postgresql
httpListen: 0.0.0.0:8008
secretsDirectory: /etc/pgraft/secrets
peers: [db-1.example:8008, '[::1]:8008']
postgresql:
  port: 5432
  listenAddresses: '*'
  parameters: {{work_mem: 8MB, max_wal_senders: '4', port: '1'}}
  pgHba: ['hostssl all all 10.0.0.0/8 cert']
{more}"
    ))
    .unwrap()
}

fn refused(change: impl FnOnce(&mut InstanceRunArgs, &mut InstanceConfig)) -> String {
    let (mut args, mut config) = (args(), config(""));
    change(&mut args, &mut config);
    Settings::check(&args, config).unwrap_err().to_string()
}

#[test]
fn the_work_directory_is_beside_the_data_directory() {
    let settings = example();
    assert_eq!(settings.paths.work, Path::new("/var/lib/pgraft/pgdata.pgraft"));
    assert_eq!(settings.paths.parent(), Path::new("/var/lib/pgraft"));
    assert_eq!(settings.postgres.to_string(), "db-2.example:5432");
}

#[test]
fn bad_input_is_refused_in_one_line_each() {
    let all = [
        refused(|a, _| a.node_id = 0),
        refused(|a, _| a.advertise_address = String::new()),
        refused(|_, c| c.data_directory = "pgdata".into()),
        refused(|_, c| c.raft_directory = "/var/lib/pgraft/pgdata/raft".into()),
        refused(|_, c| c.raft_directory = "/var/lib/pgraft/pgdata".into()),
        refused(|_, c| c.http_listen = "8008".into()),
        refused(|_, c| c.peers = vec!["db-1:0".into()]),
        refused(|_, c| c.postgresql.port = 0),
        refused(|_, c| c.raft.lease_timeout = Some("2 weeks".into())),
        refused(|_, c| c.raft.unresponsive_timeout = Some("soon".into())),
        refused(|_, c| c.raft.unresponsive_timeout = Some("1s".into())),
        refused(|_, c| c.gateway = config("gateway: {port: 0}").gateway),
        refused(|_, c| c.gateway = config("gateway: {port: 6432, maxConnections: 0}").gateway),
        refused(|_, c| c.gateway = config("gateway: {port: 6432, holdTime: soon}").gateway),
        refused(|_, c| c.gateway = config("gateway: {port: 6432, listenAddress: ''}").gateway),
        refused(|_, c| c.gateway = config("gateway: {port: 6432, drainTime: 0s}").gateway),
        refused(|_, c| c.bootstrap.owner = "postgres".into()),
        refused(|_, c| c.bootstrap.database = String::new()),
        refused(|_, c| {
            c.tls = config(TLS).tls.map(|tls| TlsConfig { ca_file: "ca.crt".into(), ..tls });
        }),
    ];
    insta::assert_snapshot!(all.join("\n"));
    assert!(all.iter().all(|m| m.lines().count() == 1));
}

#[test]
fn parses_durations_with_the_units_of_postgres() {
    let ms = |text: &str| duration(text).map(|d| d.as_millis());
    let read = [
        "2s",
        "1500ms",
        "1500",
        " 1 min ",
        "2.5s",
        "",
        "ms",
        "0",
        "99999999999999999999s",
        "18446744073709551615min",
    ]
    .map(ms);
    assert_eq!(
        read,
        [Some(2000), Some(1500), Some(1500), Some(60_000), None, None, None, None, None, None]
    );
    let settings = example_with_failover();
    assert_eq!((settings.failover, settings.lease), (true, Duration::from_millis(1500)));
    assert_eq!(settings.unresponsive, settings.lease * 3);
    let patient = Settings::check(&args(), config("raft: {unresponsiveTimeout: 1min}")).unwrap();
    assert_eq!(patient.unresponsive, Duration::from_mins(1));
    let without =
        Settings::check(&InstanceRunArgs { without_extension: true, ..args() }, settings.config)
            .unwrap();
    assert!(!without.failover, "nobody would promote it");
}

#[test]
fn the_gateway_is_optional() {
    assert_eq!(example().gateway, None);
    let of = |text: &str| Settings::check(&args(), config(text)).unwrap().gateway.unwrap();
    let want = |listen: &str, seconds, max_connections| GatewaySettings {
        listen: listen.into(),
        hold: Duration::from_secs(seconds),
        max_connections,
        drain: None,
    };
    assert_eq!(of("gateway: {port: 6432}"), want("*:6432", 10, 1000));
    let all = "gateway: {port: 6432, listenAddress: '::', holdTime: 1min, maxConnections: 5}";
    assert_eq!(of(all), want("[::]:6432", 60, 5));
    assert_eq!(of("gateway: {port: 6432, drainTime: 2s}").drain, Some(Duration::from_secs(2)));
}

#[test]
fn an_ipv6_address_must_be_in_brackets() {
    for (text, want) in [
        ("db-1:8008", Some(("db-1", 8008))),
        ("10.0.0.1:8008", Some(("10.0.0.1", 8008))),
        ("*:8008", Some(("*", 8008))),
        ("[::]:8008", Some(("::", 8008))),
        ("[fd00::1]:8008", Some(("fd00::1", 8008))),
        ("[fe80::1%eth0]:8008", Some(("fe80::1%eth0", 8008))),
        ("::1:8008", None),
        ("fd00::1", None),
        ("[fd00::1]", None),
        ("[db-1]:8008", None),
        ("[]:8008", None),
        ("[::1:8008", None),
        (":8008", None),
        ("db-1:0", None),
        ("db-1:65536", None),
    ] {
        assert_eq!(host_port(text), want, "{text}");
    }
    let settings = Settings::check(
        &InstanceRunArgs { advertise_address: "[fd00::2]".into(), ..args() },
        config(""),
    )
    .unwrap();
    assert_eq!(
        (settings.postgres.host(), settings.postgres.to_string().as_str()),
        ("fd00::2", "[fd00::2]:5432")
    );
    let listens = |address: &str| {
        let text = format!("gateway: {{port: 6432, listenAddress: '{address}'}}");
        Settings::check(&args(), config(&text)).unwrap().gateway.unwrap().listen
    };
    assert_eq!(
        [listens("fd00::2"), listens("[fd00::2]"), listens("*")],
        ["[fd00::2]:6432", "[fd00::2]:6432", "*:6432"]
    );
}

#[test]
fn the_bounds_of_a_standby() {
    let of = |text: &str| {
        Settings::check(&args(), config(text)).map(|s| s.standby).map_err(|e| e.to_string())
    };
    let bounds = |seconds, bytes| Ok(Bounds { lag: Duration::from_secs(seconds), bytes });
    assert_eq!(of(""), bounds(30, None));
    assert_eq!(of("standby: {maxLag: 5min}"), bounds(300, None));
    assert_eq!(of("standby: {maxLag: 1h, maxLagBytes: 64MB}"), bounds(3600, Some(64 << 20)));
    assert_eq!(of("standby: {maxLagBytes: '1000'}"), bounds(30, Some(1000)));
    let refused =
        ["standby: {maxLag: soon}", "standby: {maxLagBytes: 0}", "standby: {maxLagBytes: 64Mi}"]
            .map(|text| of(text).unwrap_err());
    insta::assert_snapshot!(refused.join("\n"));
}

#[test]
fn a_syntax_error_is_one_line() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("c.yaml");
    std::fs::write(&file, "dataDirectory: /a\nfoo: 1\n").unwrap();
    let error =
        Settings::load(&InstanceRunArgs { config: file, ..args() }).unwrap_err().to_string();
    assert!(error.contains("foo"), "{error}");
    assert_eq!(error.lines().count(), 1);
    let missing = Settings::load(&InstanceRunArgs { config: dir.path().join("none"), ..args() })
        .unwrap_err()
        .to_string();
    assert!(missing.contains("No such file"), "{missing}");
}

#[test]
fn settings_that_need_a_restart_are_reported() {
    let settings = example();
    let mut new = config("bootstrap: {database: shop}\nraft: {unresponsiveTimeout: 1min}");
    new.postgresql.port = 5433;
    new.data_directory = "/elsewhere/pgdata".into();
    new.postgresql.parameters.clear();
    new.tls = config(TLS).tls;
    let (next, fixed) = settings.reloaded(Settings::check(&args(), new).unwrap());
    assert_eq!(fixed, ["dataDirectory", "postgresql.port", "tls"]);
    assert_eq!((next.paths, next.config.postgresql.port), (settings.paths, 5432));
    assert!(next.config.postgresql.parameters.is_empty());
    assert_eq!(next.config.bootstrap.database, "shop");
    assert_eq!(next.unresponsive, Duration::from_mins(1));
}

#[test]
fn max_connections_of_the_gateway_changes_without_a_restart() {
    let of = |text: &str| Settings::check(&args(), config(text)).unwrap();
    let (next, fixed) =
        of("gateway: {port: 6432}").reloaded(of("gateway: {port: 6432, maxConnections: 5}"));
    assert!(fixed.is_empty());
    assert_eq!(next.gateway.unwrap().max_connections, 5);
    assert_eq!(next.config.gateway.unwrap().max_connections, 5);
    let (next, fixed) =
        of("gateway: {port: 6432}").reloaded(of("gateway: {port: 6433, maxConnections: 5}"));
    assert_eq!(fixed, ["gateway"]);
    assert_eq!(next.gateway.unwrap().listen, "*:6432");
}
