//! Every setting of a role or a database, with a harmful value: pgraft's internal sessions still
//! work.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    missing_docs,
    dead_code,
    reason = "used by tests only"
)]

use pgraft_core::session::{self, Session};
use pgraft_testkit::cluster::{primary, three_nodes};
use pgraft_testkit::{Nodes, TestNode, until};
use tokio_postgres::{Client, NoTls};

/// Settings that affect some internal sessions, with the reason.
const EXCEPT: [(&str, &str); 1] = [(
    "session_preload_libraries",
    "superusers' alone to set: a library that does not exist keeps every other role out, the application's first of all",
)];

async fn open(
    node: &TestNode,
    user: &str,
    password: &str,
    database: &str,
    session: Option<Session<'_>>,
) -> Result<Client, String> {
    let mut config = tokio_postgres::Config::new();
    config
        .host(node.client_address())
        .port(node.postgres_port())
        .user(user)
        .password(password)
        .dbname(database);
    if let Some(session) = session {
        config.options(session.options(session::NEWEST));
    }
    let (client, connection) = config.connect(NoTls).await.map_err(|e| words(&e))?;
    tokio::spawn(connection);
    Ok(client)
}

fn words(error: &tokio_postgres::Error) -> String {
    error
        .as_db_error()
        .map_or_else(|| error.to_string(), |db| format!("{} ({})", db.message(), db.code().code()))
}

/// As superuser, in a database and with a role without settings.
async fn dba(node: &TestNode) -> Client {
    open(node, "dba", "dba-1", "dba", Some(Session::Provisioning { waits: true })).await.unwrap()
}

struct Guc {
    name: String,
    values: Vec<String>,
}

/// Harmful values: the other boolean, the first and last of a list, the ends of a range, the
/// shortest time.
async fn gucs(client: &Client) -> Vec<Guc> {
    let read = "SELECT name, vartype, coalesce(unit, ''), boot_val, coalesce(min_val, ''), coalesce(max_val, ''), coalesce(enumvals, '{}')
          FROM pg_settings WHERE context IN ('user', 'superuser') ORDER BY name";
    // pg_settings does not have these two.
    let mut gucs: Vec<Guc> = ["role", "session_authorization"]
        .map(|name| Guc { name: name.into(), values: vec!["app".into()] })
        .into();
    for row in client.query(read, &[]).await.unwrap() {
        let [name, kind, unit] = [0, 1, 2].map(|n| row.get::<_, String>(n));
        let (boot, min, max): (Option<String>, String, String) =
            (row.get(3), row.get(4), row.get(5));
        let boot = boot.unwrap_or_default();
        let enumvals: Vec<String> = row.get(6);
        let values: Vec<String> = match kind.as_str() {
            "bool" => vec![if boot == "on" { "off" } else { "on" }.into()],
            "enum" => [enumvals.first(), enumvals.last()].into_iter().flatten().cloned().collect(),
            "integer" | "real" if name.ends_with("timeout") && unit == "ms" => vec!["1".into()],
            "integer" | "real" => vec![min, max],
            _ => match name.as_str() {
                "client_encoding" => vec!["LATIN1".into(), "SJIS".into()],
                "DateStyle" => vec!["SQL, DMY".into()],
                "TimeZone" => vec!["Pacific/Kiritimati".into()],
                "search_path" => vec![String::new(), "nowhere".into()],
                "restrict_nonsystem_relation_kind" => vec!["view, foreign-table".into()],
                "wal_consistency_checking" | "plpgsql.extra_errors" => vec!["all".into()],
                "backtrace_functions" => vec!["exec_simple_query".into()],
                _ => vec!["nonexistent".into()],
            },
        };
        gucs.push(Guc { name, values: values.into_iter().filter(|v| *v != boot).collect() });
    }
    gucs
}

const CARRIERS: [&str; 4] =
    ["ROLE postgres", "ROLE pgraft_operator", "ROLE pgraft_replication", "DATABASE postgres"];

/// Sets a value for a role or database, or returns the error.
async fn set(admin: &Client, name: &str, value: &str) -> bool {
    let value = if name == "search_path" && value.is_empty() {
        "''".to_owned()
    } else {
        format!("'{}'", value.replace('\'', "''"))
    };
    let statements: Vec<String> =
        CARRIERS.iter().map(|c| format!("ALTER {c} SET {name} = {value}")).collect();
    admin.batch_execute(&statements.join(";")).await.is_ok()
}

async fn reset(admin: &Client) {
    let statements: Vec<String> = CARRIERS.iter().map(|c| format!("ALTER {c} RESET ALL")).collect();
    admin.batch_execute(&statements.join(";")).await.unwrap();
}

/// The purposes of the sessions. `/readyz` uses the probe's session.
async fn sessions_work(node: &TestNode, own: bool) -> Result<(), String> {
    let run = async |user: &str, password: &str, session: Session<'static>, statements: &str| {
        let client = open(node, user, password, "postgres", own.then_some(session))
            .await
            .map_err(|e| format!("{user}: {e}"))?;
        client.batch_execute(statements).await.map_err(|e| format!("{user}: {}", words(&e)))
    };
    let provisioning = run(
        "postgres",
        "superuser-1",
        Session::Provisioning { waits: true },
        "BEGIN; DO $$ BEGIN IF current_user <> 'postgres' THEN RAISE 'not oneself'; END IF; END $$; \
         CREATE SCHEMA of_test; CREATE TABLE of_test.t (a text PRIMARY KEY); INSERT INTO of_test.t VALUES ('a') ON CONFLICT DO NOTHING; \
         CREATE ROLE of_test; ALTER ROLE of_test LOGIN PASSWORD NULL; GRANT CONNECT ON DATABASE postgres TO of_test; \
         SELECT FROM pg_catalog.pg_extension WHERE extname = 'pgraft'; ROLLBACK",
    );
    let operator = run(
        "pgraft_operator",
        "operator-1",
        Session::Operator,
        "SELECT s.state, (extract(epoch from f.last_began) * 1000)::bigint FROM pg_catalog.pgraft_status() s LEFT JOIN pg_catalog.pgraft_failover() f ON true; \
         SELECT (flush_lsn - '0/0'::pg_lsn)::bigint FROM pg_catalog.pgraft_get_members() ORDER BY node_id",
    );
    let source = run(
        "pgraft_replication",
        "replication-1",
        Session::Source,
        // A session that ends in between leaves no slot.
        "SELECT pg_catalog.pg_create_physical_replication_slot('of_test_' || pg_catalog.pg_backend_pid(), false, true); \
         SELECT pg_catalog.pg_drop_replication_slot('of_test_' || pg_catalog.pg_backend_pid()); \
         SELECT pg_catalog.array_agg(name) FROM pg_catalog.pg_ls_dir('pg_wal') AS name; \
         SELECT pg_catalog.pg_read_binary_file('PG_VERSION'); SELECT spcname FROM pg_catalog.pg_tablespace",
    );
    tokio::try_join!(provisioning, operator, source).map(drop)
}

/// Sets all of these values, and returns what does not work then.
async fn stopped_by(node: &TestNode, admin: &Client, settings: &[(&str, &str)]) -> Option<String> {
    for (name, value) in settings {
        set(admin, name, value).await;
    }
    let why = match sessions_work(node, true).await {
        Err(why) => Some(why),
        Ok(()) => {
            node.get("/readyz").filter(|(code, _)| *code != 200).map(|(_, body)| body.to_string())
        }
    };
    reset(admin).await;
    why
}

#[tokio::test]
async fn settings_of_roles_and_databases_do_not_affect_internal_sessions() {
    let Some(mut nodes) = three_nodes(|_| ()).await else { return };
    let first = primary(&nodes).await;
    for statement in ["CREATE ROLE dba SUPERUSER LOGIN PASSWORD 'dba-1'", "CREATE DATABASE dba"] {
        nodes.nodes[first].sql(statement).await.unwrap();
    }
    let admin = dba(&nodes.nodes[first]).await;
    let gucs = gucs(&admin).await;
    assert!(gucs.len() > 150, "{} settings", gucs.len());
    let except = |name: &str| EXCEPT.iter().any(|(n, _)| *n == name);
    let known = gucs.iter().filter(|guc| !except(&guc.name));
    let mut carried = vec![];
    for (name, value) in
        known.flat_map(|guc| guc.values.iter().map(|value| (guc.name.as_str(), value.as_str())))
    {
        if set(&admin, name, value).await {
            carried.push((name, value));
        }
    }
    reset(&admin).await;
    println!(
        "{} settings, {} values that a role and a database can carry",
        gucs.len(),
        carried.len()
    );
    // Several different settings at a time, and one by one after a failure.
    let node = &nodes.nodes[first];
    let (few, mut stopped) = (carried.len().div_ceil(12), vec![]);
    for offset in 0..few {
        let together: Vec<_> = carried.iter().copied().skip(offset).step_by(few).collect();
        if stopped_by(node, &admin, &together).await.is_some() {
            for (name, value) in together {
                stopped.extend(
                    stopped_by(node, &admin, &[(name, value)])
                        .await
                        .map(|why| format!("{name} = {value}: {why}")),
                );
            }
        }
    }
    assert!(stopped.is_empty(), "{}", stopped.join("\n"));
    // The control: these values affect a session without protection.
    for (name, value) in [
        ("default_transaction_read_only", "on"),
        ("role", "app"),
        ("statement_timeout", "1"),
        ("transaction_timeout", "1"),
        ("local_preload_libraries", "nonexistent"),
    ] {
        assert!(carried.contains(&(name, value)), "{name} is not among {carried:?}");
        set(&admin, name, value).await;
        let bare = sessions_work(node, false).await;
        reset(&admin).await;
        assert!(bare.is_err(), "{name} = {value} does no harm");
    }

    all_of_them_at_once(&mut nodes, &gucs).await;
}

async fn all_of_them_at_once(nodes: &mut Nodes, gucs: &[Guc]) {
    let first = primary(nodes).await;
    let admin = dba(&nodes.nodes[first]).await;
    for guc in gucs.iter().filter(|guc| EXCEPT.iter().all(|(n, _)| *n != guc.name)) {
        if let Some(value) = guc.values.first() {
            set(&admin, &guc.name, value).await;
        }
    }
    // Every standby connects again.
    admin
        .batch_execute("SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_replication")
        .await
        .unwrap();
    works_as_a_whole(nodes).await;
    let now = primary(nodes).await;
    reset(&dba(&nodes.nodes[now]).await).await;

    // The same for parameters of the cluster that users may set.
    for node in &mut nodes.nodes {
        for (name, value) in [
            ("default_transaction_read_only", "on"),
            ("default_transaction_deferrable", "on"),
            ("statement_timeout", "1"),
            ("lock_timeout", "1"),
            ("idle_session_timeout", "100"),
            ("idle_in_transaction_session_timeout", "1"),
            // In configuration files it also limits a login, which is an internal transaction.
            ("transaction_timeout", "3s"),
            ("search_path", "nowhere"),
            ("exit_on_error", "on"),
            ("row_security", "off"),
            ("default_transaction_isolation", "serializable"),
        ] {
            node.parameters.insert(name.into(), value.into());
        }
        node.write_config();
    }
    for node in &nodes.nodes {
        until("the parameters", async || {
            let mut config = tokio_postgres::Config::new();
            config
                .host(node.client_address())
                .port(node.postgres_port())
                .user("dba")
                .password("dba-1")
                .dbname("dba");
            config.options("-c statement_timeout=0 -c idle_session_timeout=0");
            let (client, connection) = config.connect(NoTls).await.ok()?;
            tokio::spawn(connection);
            let level: String =
                client.query_one("SHOW default_transaction_isolation", &[]).await.ok()?.get(0);
            (level == "serializable").then_some(())
        })
        .await;
    }
    works_as_a_whole(nodes).await;
}

/// Readiness, the operator, provisioning, a clone and a switchover.
async fn works_as_a_whole(nodes: &mut Nodes) {
    let first = primary(nodes).await;
    let second = (first + 1) % 3;
    for node in &nodes.nodes {
        node.ready().await;
    }
    sessions_work(&nodes.nodes[first], true).await.unwrap();
    let node = &mut nodes.nodes[second];
    assert!(node.terminate().await.success());
    std::fs::remove_dir_all(node.directory.join("pgdata")).unwrap();
    node.start();
    node.streaming().await;
    node.ready().await;
    let question = format!("SELECT pg_catalog.pgraft_switchover({})", second + 1);
    until("a switchover", async || {
        let client = open(
            &nodes.nodes[first],
            "pgraft_operator",
            "operator-1",
            "postgres",
            Some(Session::Operator),
        )
        .await
        .ok()?;
        client.batch_execute(&question).await.ok()
    })
    .await;
    assert_eq!(primary(nodes).await, second);
    let admin = dba(&nodes.nodes[second]).await;
    admin.batch_execute("ALTER ROLE pgraft_operator CONNECTION LIMIT 7").await.unwrap();
    until("provisioning to restore it", async || {
        let back = "SELECT rolconnlimit = -1 FROM pg_roles WHERE rolname = 'pgraft_operator'";
        admin.query_one(back, &[]).await.unwrap().get::<_, bool>(0).then_some(())
    })
    .await;
    let streams = "SELECT count(*) = 2 FROM pg_stat_replication WHERE state = 'streaming'";
    until("two standbys", async || {
        admin.query_one(streams, &[]).await.unwrap().get::<_, bool>(0).then_some(())
    })
    .await;
}
