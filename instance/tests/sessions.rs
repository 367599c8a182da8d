//! pgraft's internal sessions: objects, grants, settings and names of other users do not run with
//! their rights, and do not disturb them.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    missing_docs,
    dead_code,
    reason = "used by tests only"
)]

use pgraft_core::session::{self, Session};
use pgraft_testkit::cluster::{complete, primary, three_nodes};
use pgraft_testkit::{Nodes, TestNode, until};
use std::process::{Command, Stdio};
use tokio_postgres::{Client, NoTls};

/// A session as this role, over TCP with a password.
async fn open(
    node: &TestNode,
    (user, password): (&str, &str),
    database: &str,
    session: Session<'_>,
) -> Result<Client, String> {
    let mut config = tokio_postgres::Config::new();
    config
        .host(node.client_address())
        .port(node.postgres_port())
        .user(user)
        .password(password)
        .dbname(database);
    config.options(session.options(session::NEWEST));
    let (client, connection) = config.connect(NoTls).await.map_err(|e| words(&e))?;
    tokio::spawn(connection);
    Ok(client)
}

fn words(error: &tokio_postgres::Error) -> String {
    error
        .as_db_error()
        .map_or_else(|| error.to_string(), |db| format!("{} ({})", db.message(), db.code().code()))
}

/// A session of the operator, and the schema of the extension.
async fn operator(node: &TestNode) -> Result<(Client, String), String> {
    let client =
        open(node, ("pgraft_operator", "operator-1"), "postgres", Session::Operator).await?;
    let schema = "SELECT n.nspname::text FROM pg_catalog.pg_extension e JOIN pg_catalog.pg_namespace n ON n.oid = e.extnamespace WHERE e.extname = 'pgraft'";
    let schema = client.query_one(schema, &[]).await.map_err(|e| words(&e))?.get(0);
    Ok((client, schema))
}

/// The operator's query to a member.
async fn operator_asks(node: &TestNode) -> Result<String, String> {
    let (client, schema) = operator(node).await?;
    let question = format!(
        "SELECT s.state FROM \"{schema}\".pgraft_status() s LEFT JOIN \"{schema}\".pgraft_failover() f ON true \
         CROSS JOIN (SELECT count(*) FROM \"{schema}\".pgraft_get_members()) m WHERE \"{schema}\".pgraft_get_leader() > 0"
    );
    Ok(client.query_one(&question, &[]).await.map_err(|e| words(&e))?.get(0))
}

/// A standby's query to the primary before a clone.
async fn standby_asks(node: &TestNode) -> Result<(), String> {
    let client =
        open(node, ("pgraft_replication", "replication-1"), "postgres", Session::Source).await?;
    let asked = "SELECT pg_catalog.pg_is_in_recovery(), (SELECT pg_catalog.count(*) FROM pg_catalog.pg_replication_slots), \
         (SELECT pg_catalog.array_agg(name) FROM pg_catalog.pg_ls_dir('pg_wal') AS name)";
    client.query_one(asked, &[]).await.map(drop).map_err(|e| words(&e))
}

/// As superuser, in a database and with a role that no test changes.
async fn dba(node: &TestNode) -> Client {
    open(node, ("dba", "dba-1"), "dba", Session::Provisioning { waits: true }).await.unwrap()
}

async fn make_dba(node: &TestNode) {
    for statement in ["CREATE ROLE dba SUPERUSER LOGIN PASSWORD 'dba-1'", "CREATE DATABASE dba"] {
        node.sql(statement).await.unwrap();
    }
}

async fn switch_to(nodes: &Nodes, to: usize) {
    until("a switchover", async || {
        for node in &nodes.nodes {
            let (client, schema) = operator(node).await.ok()?;
            if client
                .batch_execute(&format!("SELECT \"{schema}\".pgraft_switchover({})", to + 1))
                .await
                .is_ok()
            {
                return Some(());
            }
        }
        None
    })
    .await;
    assert_eq!(primary(nodes).await, to);
}

/// A switchover. Returns after the new primary has completed its provisioning once.
async fn switch_and_tend(nodes: &Nodes, to: usize) {
    switch_to(nodes, to).await;
    dba(&nodes.nodes[to])
        .await
        .batch_execute("ALTER ROLE pgraft_operator CONNECTION LIMIT 7")
        .await
        .unwrap();
    put_back(
        &nodes.nodes[to],
        "SELECT rolconnlimit = -1 FROM pg_roles WHERE rolname = 'pgraft_operator'",
    )
    .await;
}

async fn holds(node: &TestNode, question: &str) -> bool {
    dba(node).await.query_one(question, &[]).await.unwrap().get(0)
}

async fn put_back(node: &TestNode, question: &str) {
    until(question, async || holds(node, question).await.then_some(())).await;
}

async fn everybody_is_served(nodes: &Nodes) {
    for node in &nodes.nodes {
        node.ready().await;
        let state =
            until("an answer to the operator", async || operator_asks(node).await.ok()).await;
        assert!(["leader", "follower"].contains(&state.as_str()), "{state}");
    }
}

/// Operators that are found before the built-in ones, and make their owner a superuser if a
/// superuser calls them.
const TRAP: &str = "CREATE SCHEMA evil; GRANT USAGE ON SCHEMA evil TO PUBLIC;
    CREATE FUNCTION evil.spring() RETURNS void LANGUAGE plpgsql AS $$ BEGIN
      IF pg_catalog.current_setting('is_superuser') OPERATOR(pg_catalog.=) 'on' THEN EXECUTE 'ALTER ROLE app SUPERUSER'; END IF; END $$;
    CREATE FUNCTION evil.same(name, name) RETURNS boolean LANGUAGE plpgsql AS
      $$ BEGIN PERFORM evil.spring(); RETURN $1::text OPERATOR(pg_catalog.=) $2::text; END $$;
    CREATE FUNCTION evil.same(name, text) RETURNS boolean LANGUAGE plpgsql AS
      $$ BEGIN PERFORM evil.spring(); RETURN $1::text OPERATOR(pg_catalog.=) $2; END $$;
    CREATE FUNCTION evil.same(text, text) RETURNS boolean LANGUAGE plpgsql AS
      $$ BEGIN PERFORM evil.spring(); RETURN $1 OPERATOR(pg_catalog.=) $2; END $$;
    CREATE FUNCTION evil.pg_is_in_recovery() RETURNS boolean LANGUAGE plpgsql AS $$ BEGIN PERFORM evil.spring(); RETURN false; END $$;
    CREATE FUNCTION evil.pgraft_status() RETURNS boolean LANGUAGE plpgsql AS $$ BEGIN PERFORM evil.spring(); RETURN false; END $$;
    CREATE OPERATOR evil.= (LEFTARG = name, RIGHTARG = name, FUNCTION = evil.same);
    CREATE OPERATOR evil.= (LEFTARG = name, RIGHTARG = text, FUNCTION = evil.same);
    CREATE OPERATOR evil.= (LEFTARG = text, RIGHTARG = text, FUNCTION = evil.same);
    GRANT EXECUTE ON ALL FUNCTIONS IN SCHEMA evil TO PUBLIC";

const SUPERUSERS: &str = "SELECT string_agg(rolname, ',' ORDER BY rolname) = 'dba,postgres' FROM pg_roles WHERE rolsuper";

/// Reported as CloudNativePG 10774 and 10594.
#[tokio::test]
async fn objects_of_a_database_owner_do_not_run_with_superuser_rights() {
    let Some(nodes) = three_nodes(|_| ()).await else { return };
    let first = &nodes.nodes[primary(&nodes).await];
    make_dba(first).await;
    // In its own database, and in the database postgres, where an administrator has permitted it.
    let grants = "GRANT CREATE ON DATABASE postgres TO app; ALTER DATABASE postgres SET search_path = evil, pg_catalog; \
         GRANT CREATE ON SCHEMA public TO PUBLIC";
    dba(first).await.batch_execute(grants).await.unwrap();
    for database in ["app", "postgres"] {
        first.connect("app", "owner-1", database).await.unwrap().batch_execute(TRAP).await.unwrap();
    }
    let own = "ALTER DATABASE app SET search_path = evil, pg_catalog, public; ALTER ROLE app SET search_path = evil, pg_catalog";
    first.connect("app", "owner-1", "app").await.unwrap().batch_execute(own).await.unwrap();
    // The operators work: a superuser that calls one makes their owner a superuser. This is undone.
    for database in ["app", "postgres"] {
        let careless = first.connect("postgres", "superuser-1", database).await.unwrap();
        let stepped =
            "BEGIN; SELECT count(*) FROM pg_catalog.pg_extension WHERE extname = 'pgraft'::name";
        careless.batch_execute(stepped).await.unwrap();
        let caught =
            "SELECT rolsuper FROM pg_catalog.pg_roles WHERE rolname OPERATOR(pg_catalog.=) 'app'";
        assert!(careless.query_one(caught, &[]).await.unwrap().get::<_, bool>(0), "{database}");
        careless.batch_execute("ROLLBACK").await.unwrap();
    }
    assert!(holds(first, SUPERUSERS).await);

    for to in [1, 0] {
        switch_to(&nodes, to).await;
        // This includes the provisioning after a changed Secret.
        for node in &nodes.nodes {
            node.set_password("owner", &format!("owner-{}", to + 2));
        }
        let password = format!("owner-{}", to + 2);
        until("the new password to work", async || {
            nodes.nodes[to].connect("app", &password, "app").await.ok()
        })
        .await;
        assert!(holds(&nodes.nodes[to], SUPERUSERS).await, "the owner has become a superuser");
        everybody_is_served(&nodes).await;
        assert!(holds(&nodes.nodes[to], SUPERUSERS).await, "the owner has become a superuser");
    }
}

/// Reported as bitnami/charts 31103.
#[tokio::test]
async fn the_application_database_and_its_dump_have_no_pgraft_objects() {
    let Some(mut nodes) = three_nodes(|_| ()).await else { return };
    let first = primary(&nodes).await;
    make_dba(&nodes.nodes[first]).await;
    let node = &nodes.nodes[first];
    let app = node.connect("app", "owner-1", "app").await.unwrap();
    app.batch_execute("CREATE TABLE mine AS SELECT 1 AS n").await.unwrap();
    dba(node).await.batch_execute("CREATE DATABASE copy OWNER app").await.unwrap();
    let bin = pgraft_testkit::bin_directory().unwrap();
    let program = |name: &str, arguments: &[&str]| {
        let mut command = Command::new(bin.join(name));
        command
            .args([
                "-h",
                node.client_address(),
                "-p",
                &node.postgres_port().to_string(),
                "-U",
                "app",
            ])
            .args(arguments);
        command.env("PGPASSWORD", "owner-1").stdin(Stdio::null());
        let output = command.output().unwrap();
        assert!(output.status.success(), "{name}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    };
    let file = node.directory.join("dump.sql");
    let path = file.display().to_string();
    program("pg_dump", &["-f", &path, "app"]);
    assert!(!std::fs::read_to_string(&file).unwrap().contains("pgraft"), "the dump names pgraft");
    program("psql", &["-d", "copy", "-v", "ON_ERROR_STOP=1", "-q", "-f", &path]);
    assert_eq!(program("psql", &["-d", "copy", "-Atc", "SELECT n FROM mine"]).trim(), "1");
    // The functions are found without a schema name, whatever the search path is.
    for path in ["''", "public", "pg_catalog"] {
        let here = node
            .sql(&format!("SET search_path = {path}; SELECT count(*) FROM pgraft_get_nodes()"))
            .await
            .unwrap();
        assert_eq!(here.as_deref(), Some("3"), "{path}");
    }
    // A user may create the extension in another database, where it is not changed.
    let elsewhere = node.connect("postgres", "superuser-1", "copy").await.unwrap();
    elsewhere.batch_execute("CREATE EXTENSION pgraft; SELECT * FROM pgraft_members").await.unwrap();

    revoked_and_dropped(&mut nodes).await;
}

/// Reported as Patroni 2256 and 2257, CloudNativePG 10831.
async fn revoked_and_dropped(nodes: &mut Nodes) {
    let first = primary(nodes).await;
    let hardening = "REVOKE CONNECT ON DATABASE postgres FROM PUBLIC; ALTER DATABASE postgres SET search_path = ''; \
         ALTER DATABASE postgres CONNECTION LIMIT 0; ALTER DATABASE app ALLOW_CONNECTIONS false";
    dba(&nodes.nodes[first]).await.batch_execute(hardening).await.unwrap();
    let inside = nodes.nodes[first].connect("postgres", "superuser-1", "postgres").await.unwrap();
    inside
        .batch_execute("REVOKE ALL ON SCHEMA public FROM PUBLIC; DROP SCHEMA public CASCADE")
        .await
        .unwrap();
    put_back(
        &nodes.nodes[first],
        "SELECT datconnlimit = -1 FROM pg_database WHERE datname = 'postgres'",
    )
    .await;
    everybody_is_served(nodes).await;
    // A standby with a lost volume.
    let third = (first + 2) % 3;
    let node = &mut nodes.nodes[third];
    assert!(node.terminate().await.success());
    std::fs::remove_dir_all(node.directory.join("pgdata")).unwrap();
    node.start();
    node.streaming().await;
    complete(nodes).await;
    switch_and_tend(nodes, (first + 1) % 3).await;
    everybody_is_served(nodes).await;
    let node = &nodes.nodes[(first + 1) % 3];
    // A dropped extension is created again, and a moved one is found.
    let inside = node.connect("postgres", "superuser-1", "postgres").await.unwrap();
    inside.batch_execute("DROP EXTENSION pgraft").await.unwrap();
    everybody_is_served(nodes).await;
    inside
        .batch_execute(
            "CREATE SCHEMA \"My schema\"; ALTER EXTENSION pgraft SET SCHEMA \"My schema\"",
        )
        .await
        .unwrap();
    everybody_is_served(nodes).await;
}

/// Reported as CloudNativePG 6762 and 9677.
#[tokio::test]
async fn changes_by_sql_are_reverted_at_once_or_never() {
    let Some(nodes) = three_nodes(|_| ()).await else { return };
    let first = primary(&nodes).await;
    make_dba(&nodes.nodes[first]).await;
    let admin = dba(&nodes.nodes[first]).await;
    // Changes of the application's role are not reverted.
    admin
        .batch_execute("ALTER ROLE app PASSWORD 'rotated'; ALTER DATABASE app RENAME TO app2")
        .await
        .unwrap();
    // Changes of pgraft's own roles are reverted.
    let ours = "ALTER ROLE pgraft_operator NOLOGIN PASSWORD 'x' CONNECTION LIMIT 0 VALID UNTIL '2000-01-01'; REVOKE pg_monitor FROM pgraft_operator; \
         ALTER ROLE pgraft_replication NOREPLICATION SUPERUSER; ALTER ROLE postgres PASSWORD 'mine'; \
         REVOKE CONNECT ON DATABASE postgres FROM pgraft_operator, pgraft_replication; \
         REVOKE EXECUTE ON FUNCTION pg_read_binary_file(text) FROM pgraft_replication";
    let _ = admin.batch_execute(ours).await;
    let inside = open(
        &nodes.nodes[first],
        ("dba", "dba-1"),
        "postgres",
        Session::Provisioning { waits: true },
    )
    .await
    .unwrap();
    inside.batch_execute(ours).await.unwrap();
    until("all changes to be reverted", async || {
        operator_asks(&nodes.nodes[first]).await.ok()?;
        standby_asks(&nodes.nodes[first]).await.ok()?;
        nodes.nodes[first].connect("postgres", "superuser-1", "postgres").await.ok()
    })
    .await;
    put_back(
        &nodes.nodes[first],
        "SELECT NOT rolsuper AND rolreplication FROM pg_roles WHERE rolname = 'pgraft_replication'",
    )
    .await;
    let log = nodes.nodes[first].log();
    for (role, why) in [
        ("pgraft_operator", "its password was changed by SQL"),
        ("postgres", "its password was changed by SQL"),
    ] {
        let logged = log.lines().any(|line| {
            line.contains("reverted a change of a role that pgraft connects as")
                && line.contains(role)
                && line.contains(why)
        });
        assert!(logged, "no line says that {role} was restored: {log}");
    }

    for to in [(first + 1) % 3, first] {
        switch_and_tend(&nodes, to).await;
        let node = &nodes.nodes[to];
        node.connect("app", "rotated", "app2").await.unwrap();
        node.connect("app", "owner-1", "app2").await.unwrap_err();
        assert!(
            holds(node, "SELECT NOT EXISTS (SELECT FROM pg_database WHERE datname = 'app')").await,
            "the database was made again"
        );
    }
    // A member with the old Secret does not restore the old password.
    nodes.nodes[first].set_password("owner", "owner-2");
    let opens = async |to: usize| nodes.nodes[to].connect("app", "owner-2", "app2").await.ok();
    until("the new password to work", async || opens(first).await).await;
    switch_and_tend(&nodes, (first + 1) % 3).await;
    assert!(opens((first + 1) % 3).await.is_some(), "the old password is back");
    switch_and_tend(&nodes, first).await;
    // A locked role stays locked, and the Secret's next password is applied without unlocking it.
    dba(&nodes.nodes[first]).await.batch_execute("ALTER ROLE app NOLOGIN").await.unwrap();
    let verifier = "SELECT rolpassword FROM pg_authid WHERE rolname = 'app'";
    let before: String =
        dba(&nodes.nodes[first]).await.query_one(verifier, &[]).await.unwrap().get(0);
    for node in &nodes.nodes {
        node.set_password("owner", "it's \"new\"\n$$ \\ ; DROP ROLE app; --");
    }
    put_back(&nodes.nodes[first], &format!("SELECT rolpassword <> '{before}' AND NOT rolcanlogin FROM pg_authid WHERE rolname = 'app'"))
        .await;
    switch_and_tend(&nodes, (first + 1) % 3).await;
    let node = &nodes.nodes[(first + 1) % 3];
    dba(node).await.batch_execute("ALTER ROLE app LOGIN").await.unwrap();
    node.connect("app", "it's \"new\"\n$$ \\ ; DROP ROLE app; --", "app2").await.unwrap();
    // A renamed role is not created again.
    dba(node).await.batch_execute("ALTER ROLE app RENAME TO renamed").await.unwrap();
    switch_and_tend(&nodes, first).await;
    assert!(
        holds(
            &nodes.nodes[first],
            "SELECT NOT EXISTS (SELECT FROM pg_roles WHERE rolname = 'app')"
        )
        .await,
        "the role was made again"
    );
    for node in &nodes.nodes {
        let log = node.log();
        assert!(
            !log.contains("SCRAM-SHA-256$") && !log.contains("DROP ROLE app"),
            "a secret stands in the log"
        );
    }
}
