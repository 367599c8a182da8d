//! Every setting that a role or a database can carry, with a value that does harm: pgraft's own sessions work all the same.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs, dead_code, reason = "this is a test through and through")]

use pgraft_core::session::{self, Session};
use pgraft_testkit::cluster::{of_three, primary};
use pgraft_testkit::{Node, Nodes, until};
use tokio_postgres::{Client, NoTls};

/// Without a session's own settings they are what others have set: the control of this test.
const BARE: Option<Session<'static>> = None;

/// Settings that not every session of ours can be immune to, with the reason.
const EXCEPT: [(&str, &str); 1] = [(
    "session_preload_libraries",
    "superusers' alone to set: a library that does not exist keeps every other role out, the application's first of all",
)];

async fn open(node: &Node, user: &str, password: &str, database: &str, session: Option<Session<'_>>) -> Result<Client, String> {
    let mut config = tokio_postgres::Config::new();
    config.host(node.client_address()).port(node.postgres_port()).user(user).password(password).dbname(database);
    if let Some(session) = session {
        config.options(session.options(session::NEWEST));
    }
    let (client, connection) = config.connect(NoTls).await.map_err(|e| words(&e))?;
    tokio::spawn(connection);
    Ok(client)
}

fn words(error: &tokio_postgres::Error) -> String {
    error.as_db_error().map_or_else(|| error.to_string(), |db| format!("{} ({})", db.message(), db.code().code()))
}

/// As superuser, in a database and by a role that carry nothing.
async fn dba(node: &Node) -> Client {
    open(node, "dba", "dba-1", "dba", Some(Session::Duties { waits: true })).await.unwrap()
}

struct Guc {
    name: String,
    values: Vec<String>,
}

/// Adverse values: the other one of two, the first and last of a list, the ends of a range, the shortest time.
async fn gucs(client: &Client) -> Vec<Guc> {
    let read = "SELECT name, vartype, coalesce(unit, ''), boot_val, coalesce(min_val, ''), coalesce(max_val, ''), coalesce(enumvals, '{}')
          FROM pg_settings WHERE context IN ('user', 'superuser') ORDER BY name";
    let mut gucs = vec![];
    for row in client.query(read, &[]).await.unwrap() {
        let [name, kind, unit] = [0, 1, 2].map(|n| row.get::<_, String>(n));
        let (boot, min, max): (Option<String>, String, String) = (row.get(3), row.get(4), row.get(5));
        let boot = boot.unwrap_or_default();
        let enumvals: Vec<String> = row.get(6);
        let values: Vec<String> = match kind.as_str() {
            "bool" => vec![if boot == "on" { "off" } else { "on" }.into()],
            "enum" => [enumvals.first(), enumvals.last()].into_iter().flatten().cloned().collect(),
            "integer" | "real" if name.ends_with("timeout") && unit == "ms" => vec!["1".into()],
            "integer" | "real" => vec![min, max],
            _ => match name.as_str() {
                "role" | "session_authorization" => vec!["app".into()],
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

const CARRIERS: [&str; 4] = ["ROLE postgres", "ROLE pgraft_operator", "ROLE pgraft_replication", "DATABASE postgres"];

/// Each carrier takes it, or says why not.
async fn set(admin: &Client, name: &str, value: &str) -> bool {
    let value = if name == "search_path" && value.is_empty() { "''".to_owned() } else { format!("'{}'", value.replace('\'', "''")) };
    let statements: Vec<String> = CARRIERS.iter().map(|c| format!("ALTER {c} SET {name} = {value}")).collect();
    admin.batch_execute(&statements.join(";")).await.is_ok()
}

async fn reset(admin: &Client) {
    let statements: Vec<String> = CARRIERS.iter().map(|c| format!("ALTER {c} RESET ALL")).collect();
    admin.batch_execute(&statements.join(";")).await.unwrap();
}

/// What each kind of session is for.
async fn sessions_work(node: &Node, own: bool) -> Result<(), String> {
    let of = |session: Session<'static>| own.then_some(session).or(BARE);
    let run = async |user: &str, password: &str, session: Option<Session<'static>>, statements: &str| {
        let client = open(node, user, password, "postgres", session).await.map_err(|e| format!("{user}: {e}"))?;
        client.batch_execute(statements).await.map_err(|e| format!("{user}: {}", words(&e)))
    };
    // Without a database, and one simple query each, as walreceivers and programs do.
    let probe = run(
        "postgres",
        "superuser-1",
        of(Session::Probe),
        "SELECT pg_is_in_recovery(), current_user = session_user AND current_user = 'postgres'; SELECT FROM pg_settings WHERE pending_restart; \
         DO $$ BEGIN IF current_user <> 'postgres' THEN RAISE 'not oneself'; END IF; END $$",
    );
    let duties = run(
        "postgres",
        "superuser-1",
        of(Session::Duties { waits: true }),
        "BEGIN; CREATE SCHEMA of_test; CREATE TABLE of_test.t (a text PRIMARY KEY); INSERT INTO of_test.t VALUES ('a') ON CONFLICT DO NOTHING; \
         CREATE ROLE of_test; ALTER ROLE of_test LOGIN PASSWORD 'x'; GRANT CONNECT ON DATABASE postgres TO of_test; \
         SELECT FROM pg_catalog.pg_extension WHERE extname = 'pgraft'; ROLLBACK",
    );
    let operator = run(
        "pgraft_operator",
        "operator-1",
        of(Session::Operator),
        "SELECT s.state, (extract(epoch from f.last_began) * 1000)::bigint FROM pg_catalog.pgraft_status() s LEFT JOIN pg_catalog.pgraft_failover() f ON true; \
         SELECT (flush_lsn - '0/0'::pg_lsn)::bigint FROM pg_catalog.pgraft_get_members() ORDER BY node_id",
    );
    let source = run(
        "pgraft_replication",
        "replication-1",
        of(Session::Source),
        "SELECT pg_catalog.pg_create_physical_replication_slot('of_test'); SELECT pg_catalog.pg_drop_replication_slot('of_test'); \
         SELECT pg_catalog.array_agg(name) FROM pg_catalog.pg_ls_dir('pg_wal') AS name",
    );
    let program = run(
        "pgraft_replication",
        "replication-1",
        of(Session::Program { sender_timeout: "5s" }),
        "SELECT pg_catalog.pg_read_binary_file('PG_VERSION'); SELECT spcname FROM pg_catalog.pg_tablespace",
    );
    let standby = run("pgraft_replication", "replication-1", of(Session::Standby { sender_timeout: "5s" }), "SELECT slot_name FROM pg_catalog.pg_replication_slots");
    tokio::try_join!(probe, duties, operator, source, program, standby).map(drop)
}

#[tokio::test]
async fn no_setting_that_a_role_or_a_database_carries_stops_a_session_of_ours() {
    let Some(mut nodes) = of_three(|_| ()).await else { return };
    let first = primary(&nodes).await;
    for statement in ["CREATE ROLE dba SUPERUSER LOGIN PASSWORD 'dba-1'", "CREATE DATABASE dba"] {
        nodes.nodes[first].sql(statement).await.unwrap();
    }
    let admin = dba(&nodes.nodes[first]).await;
    let gucs = gucs(&admin).await;
    assert!(gucs.len() > 150, "{} settings", gucs.len());
    let (mut tried, mut stopped, mut harmful) = (0, vec![], vec![]);
    let except = |name: &str| EXCEPT.iter().any(|(n, _)| *n == name);
    for guc in gucs.iter().filter(|guc| !except(&guc.name)) {
        for value in &guc.values {
            if !set(&admin, &guc.name, value).await {
                continue;
            }
            tried += 1;
            let node = &nodes.nodes[first];
            if let Err(why) = sessions_work(node, true).await {
                stopped.push(format!("{} = {value}: {why}", guc.name));
            }
            if node.get("/readyz").is_none_or(|(code, _)| code != 200) {
                stopped.push(format!("{} = {value}: not ready", guc.name));
            }
            if sessions_work(node, false).await.is_err() {
                harmful.push(guc.name.clone());
            }
            reset(&admin).await;
        }
    }
    println!("{} settings, {tried} values; harmful to a session that sets nothing: {}", gucs.len(), harmful.join(", "));
    assert!(stopped.is_empty(), "{}", stopped.join("\n"));
    // The control: these do harm where nothing is done about them.
    for name in ["default_transaction_read_only", "search_path", "role", "statement_timeout", "local_preload_libraries"] {
        assert!(harmful.iter().any(|h| h == name), "{name} does no harm here: {harmful:?}");
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
    // Every standby connects anew.
    admin.batch_execute("SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_replication").await.unwrap();
    works_as_a_whole(nodes).await;
    let now = primary(nodes).await;
    reset(&dba(&nodes.nodes[now]).await).await;

    // The same of the cluster's own parameters, for what people set there.
    for node in &mut nodes.nodes {
        for (name, value) in [
            ("default_transaction_isolation", "serializable"),
            ("default_transaction_read_only", "on"),
            ("default_transaction_deferrable", "on"),
            ("statement_timeout", "1"),
            ("lock_timeout", "1"),
            ("idle_session_timeout", "100"),
            ("idle_in_transaction_session_timeout", "1"),
            ("transaction_timeout", "100"),
            ("search_path", "nowhere"),
            ("exit_on_error", "on"),
            ("row_security", "off"),
            ("sync_replication_slots", "off"),
        ] {
            node.parameters.insert(name.into(), value.into());
        }
        node.write_config();
    }
    for node in &nodes.nodes {
        until("the parameters", async || {
            let client = dba(node).await;
            let shown = "SELECT reset_val = 'serializable' OR sourcefile IS NOT NULL FROM pg_settings WHERE name = 'exit_on_error'";
            client.query_one(shown, &[]).await.ok().filter(|row| row.get(0)).map(drop)
        })
        .await;
    }
    works_as_a_whole(nodes).await;
}

/// Readiness, the operator, duties, a clone and a switchover.
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
        let client = open(&nodes.nodes[first], "pgraft_operator", "operator-1", "postgres", Some(Session::Operator)).await.ok()?;
        client.batch_execute(&question).await.ok()
    })
    .await;
    assert_eq!(primary(nodes).await, second);
    let admin = dba(&nodes.nodes[second]).await;
    admin.batch_execute("ALTER ROLE pgraft_operator CONNECTION LIMIT 7").await.unwrap();
    until("the duties to put it back", async || {
        let back = "SELECT rolconnlimit = -1 FROM pg_roles WHERE rolname = 'pgraft_operator'";
        admin.query_one(back, &[]).await.unwrap().get::<_, bool>(0).then_some(())
    })
    .await;
    let streams = "SELECT count(*) = 2 FROM pg_stat_replication WHERE state = 'streaming'";
    until("two standbys", async || admin.query_one(streams, &[]).await.unwrap().get::<_, bool>(0).then_some(())).await;
}
