//! The fence on real servers: what a closed gate refuses and permits, and cancelled waits for
//! standbys. The tests open and close the gate through `pages.c`, on servers whose worker does not
//! run.

#![allow(
    missing_docs,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "used by tests only"
)]

mod catalog;
mod governed;

use std::time::{Duration, Instant};

use governed::{CLOSED, OPEN, WaitingStatement, code, governed, open, run, standby, wait_for};
use pgraft_testkit::bin_directory;
use pgraft_testkit::postgres::scratch;
use pgraft_testkit::server::{TIMEOUT, TestServer};
use tokio_postgres::error::SqlState;

#[tokio::test]
async fn a_closed_gate_refuses_reads_and_writes() {
    let Some(bindir) = bin_directory() else { return };
    let dir = scratch();
    let server = governed(&bindir, dir.path()).await;
    let (admin, app) = (server.connect_locally().await, server.connect_as("app").await);
    let refused = run(&app, "insert into t values (2)").await.unwrap_err();
    let refused = refused.as_db_error().unwrap();
    assert_eq!(refused.code(), &SqlState::READ_ONLY_SQL_TRANSACTION);
    assert_eq!(
        refused.message(),
        "cannot write because this server does not hold the primary's lease"
    );
    assert_eq!(refused.hint().unwrap(), "A new primary is being chosen. Try again.");
    for write in [
        "update t set v = 3",
        "create table u()",
        "copy t from program 'true'",
        "vacuum t",
        "notify n",
        "with w as (delete from t returning v) select * from w",
        "select txid_current()",
        "select nextval('s')",
        "select pg_logical_emit_message(false, 'a', 'b')",
        "select pg_notify('n', '')",
    ] {
        assert_eq!(code(run(&app, write).await), "25006", "{write}");
        assert_eq!(code(run(&admin, write).await), "25006", "{write}");
    }
    for read in [
        "select * from pg_stats",
        "select stavalues1 from pg_statistic",
        "select * from t",
        "table t",
        "copy t to stdout",
        "select lo_get(4711)",
        "select pg_try_advisory_lock(1)",
        "explain analyze table t",
        "do $$ begin perform v from t; end $$",
    ] {
        assert_eq!(code(run(&app, read).await), "57P03", "{read}");
    }
    // Queries that show no data, and maintenance of the server.
    for served in [
        "select 1",
        "select pg_is_in_recovery()",
        "show port",
        "select relname from pg_class limit 0",
        "set work_mem = '1MB'",
        "begin; rollback",
        "select count(*) > 0 from pg_stat_activity",
        "explain table t",
        "select 't'::regclass",
        "table pg_prepared_xacts",
        "table pg_sequences",
    ] {
        assert!(run(&app, served).await.is_ok(), "{served}: {:?}", run(&app, served).await);
    }
    for served in ["table t", "select pg_create_physical_replication_slot('s')", "checkpoint"] {
        assert!(run(&admin, served).await.is_ok(), "{served}: {:?}", run(&admin, served).await);
    }
    let unfenced = server.connect().await;
    assert_eq!(code(run(&unfenced, "table t").await), "57P03", "a superuser from elsewhere");
    assert_eq!(run(&unfenced, "set pgraft.fence_reads = off; table t").await.unwrap(), "1");
    assert_eq!(code(run(&app, "set pgraft.fence_reads = off").await), "42501");
    // libpq reads large objects by fast-path function calls, which are not statements.
    let large = format!("\\lo_export 4711 '{}'", dir.path().join("large").display());
    let conninfo = format!("host=127.0.0.1 port={} user=postgres dbname=postgres", server.port);
    assert!(
        String::from_utf8_lossy(&server.psql(&conninfo, &large).stderr)
            .contains("cannot read because this server does not hold the primary's lease")
    );
    run(&admin, OPEN).await.unwrap();
    assert_eq!(run(&app, "insert into t values (2); table t").await.unwrap(), "1 2");
    assert!(server.psql(&conninfo, &large).status.success());
}

/// The remaining rows of a portal are read when they are fetched.
#[tokio::test]
async fn an_open_portal_returns_no_rows_after_the_gate_closes() {
    let Some(bindir) = bin_directory() else { return };
    let dir = scratch();
    let server = governed(&bindir, dir.path()).await;
    let (admin, mut app) = (server.connect_locally().await, server.connect_as("app").await);
    run(&admin, OPEN).await.unwrap();
    run(
        &app,
        "insert into t select generate_series(2, 9); create function two_more(refcursor) returns int language plpgsql as \
        $$ declare v int; begin fetch $1 into v; fetch $1 into v; return v; end $$",
    )
    .await
    .unwrap();
    let transaction = app.transaction().await.unwrap();
    let portal = transaction.bind("table t", &[]).await.unwrap();
    assert_eq!(transaction.query_portal(&portal, 2).await.unwrap().len(), 2);
    run(&admin, CLOSED).await.unwrap();
    let refused = transaction.query_portal(&portal, 2).await.unwrap_err();
    assert_eq!(refused.code().unwrap().code(), "57P03");
    drop(transaction);
    run(&app, "rollback").await.unwrap();
    // A cursor, and a function that fetches from it.
    for more in ["fetch c", "select two_more('c')", "move c"] {
        run(&admin, OPEN).await.unwrap();
        run(&app, "begin; declare c cursor for table t; fetch c").await.unwrap();
        run(&admin, CLOSED).await.unwrap();
        assert_eq!(code(run(&app, more).await), "57P03", "{more}");
        run(&app, "rollback").await.unwrap();
    }
}

/// A primary whose gate waits for a standby must permit the base backup for that standby.
#[tokio::test]
async fn a_standby_can_be_cloned_while_the_gate_is_closed() {
    let Some(bindir) = bin_directory() else { return };
    let dir = scratch();
    let server = governed(&bindir, dir.path()).await;
    let admin = server.connect_locally().await;
    run(&admin, OPEN).await.unwrap();
    let functions = "pg_ls_dir(text, boolean, boolean), pg_stat_file(text, boolean), pg_read_binary_file(text), pg_read_binary_file(text, bigint, bigint, boolean)";
    run(&admin, &format!("create role rewinds login replication; grant execute on function {functions} to rewinds")).await.unwrap();
    run(&admin, CLOSED).await.unwrap();
    let client = server.connect_as("rewinds").await;
    run(&client, "select pg_create_physical_replication_slot('of_the_new_one')").await.unwrap();
    let standby = standby(&bindir, dir.path(), 2, &server);
    standby.rows(&open(&server)).await;
    standby.until("select status from pg_stat_wal_receiver", "streaming").await;
    standby.stop();
    let source = format!("host=127.0.0.1 port={} user=rewinds dbname=postgres", server.port);
    let rewound = standby.rewind(&source);
    assert!(rewound.status.success(), "{rewound:?}");
}

#[tokio::test]
async fn a_transaction_cannot_commit_after_the_gate_closes() {
    let Some(bindir) = bin_directory() else { return };
    let dir = scratch();
    let server = governed(&bindir, dir.path()).await;
    let (admin, app) = (server.connect_locally().await, server.connect_as("app").await);
    run(&admin, OPEN).await.unwrap();
    for prepared in ["kept", "undone"] {
        run(&app, &format!("begin; insert into t values (2); prepare transaction '{prepared}'"))
            .await
            .unwrap();
    }
    for end in ["commit", "prepare transaction 'third'"] {
        run(&app, "begin; insert into t values (3)").await.unwrap();
        run(&admin, CLOSED).await.unwrap();
        assert_eq!(code(run(&app, end).await), "25006", "{end}");
        run(&app, "rollback").await.unwrap();
        for end in ["commit prepared 'kept'", "rollback prepared 'undone'"] {
            assert_eq!(code(run(&app, end).await), "25006", "{end}");
            assert_eq!(code(run(&admin, end).await), "25006", "{end}");
        }
        run(&admin, OPEN).await.unwrap();
    }
    // A transaction that affects this session only may end at any time.
    run(&app, "create temporary table own(v int)").await.unwrap();
    run(&app, "begin; insert into own values (1)").await.unwrap();
    run(&admin, CLOSED).await.unwrap();
    run(&app, "commit").await.unwrap();
    run(&admin, OPEN).await.unwrap();
    run(&app, "rollback prepared 'undone'").await.unwrap();
    run(&app, "commit prepared 'kept'").await.unwrap();
    assert_eq!(run(&app, "table t").await.unwrap(), "1 2");
}

#[tokio::test]
async fn the_deadline_and_a_crash_close_the_gate() {
    let Some(bindir) = bin_directory() else { return };
    let dir = scratch();
    let server = governed(&bindir, dir.path()).await;
    let (admin, app) = (server.connect_locally().await, server.connect_as("app").await);
    run(&admin, "select gate(3000)").await.unwrap();
    let start = Instant::now();
    while run(&app, "insert into t values (2)").await.is_ok() {
        assert!(start.elapsed() < TIMEOUT);
    }
    assert!(start.elapsed() > Duration::from_secs(1), "it was open for a while");
    run(&admin, OPEN).await.unwrap();
    let victim: i32 = run(&app, "select pg_backend_pid()").await.unwrap().parse().unwrap();
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(victim), nix::sys::signal::Signal::SIGKILL)
        .unwrap();
    server.until("select 1", "1").await; // the server has restarted its processes
    assert_eq!(code(run(&server.connect_as("app").await, "table t").await), "57P03");
}

#[tokio::test]
async fn a_driver_with_several_hosts_skips_a_fenced_primary() {
    let Some(bindir) = bin_directory() else { return };
    let dir = scratch();
    let server = governed(&bindir, dir.path()).await;
    let other = TestServer::new(&bindir, dir.path(), 2);
    other.start();
    let admin = server.connect_locally().await;
    let hosts = format!(
        "host=127.0.0.1,127.0.0.1 port={},{} user=postgres dbname=postgres target_session_attrs=read-write",
        server.port, other.port
    );
    let port = || {
        String::from_utf8(server.psql(&hosts, "select current_setting('port')").stdout)
            .unwrap()
            .trim()
            .to_owned()
    };
    assert_eq!(port(), other.port.to_string());
    let shows = "select current_setting('default_transaction_read_only') || current_setting('transaction_read_only')";
    // The first statement after the gate opens no longer finds the mark.
    for (first, then) in [
        ("insert into t values (2)", "offoff"),
        ("begin; insert into t values (2); commit", "offoff"),
        ("create table u(); drop table u", "offoff"),
        ("begin; rollback", "offoff"),
        ("begin; set transaction read only; table t; commit", "offoff"),
        ("select 1 / 0", "offoff"),
        ("set default_transaction_read_only = on", "onon"),
        ("set session characteristics as transaction read only", "onon"),
    ] {
        run(&admin, CLOSED).await.unwrap();
        let app = server.connect_as("app").await;
        assert_eq!(run(&app, shows).await.unwrap(), "onon");
        assert_eq!(code(run(&app, "insert into t values (2)").await), "25006");
        run(&admin, OPEN).await.unwrap();
        let done = run(&app, first).await;
        assert_eq!(done.is_ok(), first != "select 1 / 0", "{first}: {done:?}");
        assert_eq!(run(&app, shows).await.unwrap(), then, "{first}");
    }
    let app = server.connect_as("app").await;
    assert_eq!(code(run(&app, "begin read only; insert into t values (3)").await), "25006");
    assert_eq!(port(), server.port.to_string());
    // A role's own settings stay.
    run(&admin, "alter role app set default_transaction_read_only = on").await.unwrap();
    run(&admin, CLOSED).await.unwrap();
    let app = server.connect_as("app").await;
    run(&admin, OPEN).await.unwrap();
    assert_eq!(run(&app, shows).await.unwrap(), "onon");
}

#[tokio::test]
async fn settings_managed_by_pgraft_cannot_be_changed() {
    let Some(bindir) = bin_directory() else { return };
    let dir = scratch();
    let server = governed(&bindir, dir.path()).await;
    let admin = server.connect_locally().await;
    run(&admin, OPEN).await.unwrap();
    for ours in [
        "synchronous_standby_names",
        "primary_conninfo",
        "primary_slot_name",
        "recovery_target_timeline",
        "pgraft.failover",
    ] {
        for statement in
            [format!("alter system set {ours} = 'off'"), format!("alter system reset {ours}")]
        {
            let error = run(&admin, &statement).await.unwrap_err();
            let error = error.as_db_error().unwrap().clone();
            assert_eq!(
                (error.code().code(), error.message()),
                ("55P02", format!("parameter \"{ours}\" is managed by pgraft").as_str())
            );
        }
    }
    run(&admin, "alter system set pgraft.durability = strict").await.unwrap();
    server.reload();
    server.until("show pgraft.durability", "strict").await;
    let app = server.connect_as("app").await;
    for weak in ["off", "local", "remote_write"] {
        run(&app, &format!("set synchronous_commit = {weak}")).await.unwrap();
        let error = run(&app, "insert into t values (2)").await.unwrap_err();
        let error = error.as_db_error().unwrap().clone();
        assert_eq!(error.code().code(), "55000");
        assert!(error.message().contains(&format!("synchronous_commit = {weak} ")), "{error:?}");
        assert_eq!(
            run(&app, "create temporary table if not exists own(v int) on commit drop; table t")
                .await
                .unwrap_err()
                .code()
                .unwrap()
                .code(),
            "55000"
        );
    }
    for strong in ["on", "remote_apply"] {
        run(&app, &format!("set synchronous_commit = {strong}; insert into t values (2)"))
            .await
            .unwrap();
    }
    assert_eq!(code(run(&app, "set pgraft.durability = quorum").await), "42501");
}

#[tokio::test]
async fn stock_postgres_confirms_a_commit_whose_wait_is_cancelled() {
    let Some(bindir) = bin_directory() else { return };
    let dir = scratch();
    let server = TestServer::new(&bindir, dir.path(), 1);
    server.start();
    server.rows("create table t(v int); create role app login; grant all on t to app").await;
    wait_for(&server, "absent");
    server.until("show synchronous_standby_names", "absent").await;
    let waiting = WaitingStatement::of(&server, "", "insert into t values (1)").await;
    let (_, answer) = waiting.cancelled(&server).await.answer().await;
    assert!(answer.is_ok(), "stock Postgres confirms this commit, although no standby has");
}

#[tokio::test]
async fn a_cancelled_commit_keeps_waiting() {
    let Some(bindir) = bin_directory() else { return };
    let dir = scratch();
    let server = governed(&bindir, dir.path()).await;
    run(&server.connect_locally().await, OPEN).await.unwrap();
    server.rows("create procedure p() language plpgsql as $$ begin insert into t values (7); commit; perform pg_sleep(3600); end $$").await;
    for (before, statement, then) in [
        ("", "insert into t values (2)", ""),
        ("", "begin; savepoint a; insert into t values (2); release a; commit", ""),
        ("begin; insert into t values (3)", "prepare transaction 'p'", ""),
        ("", "commit prepared 'p'", ""),
        // The timeout fires during the wait. The commit still succeeds, and the next statement has
        // its own result.
        ("set statement_timeout = '1s'", "insert into t values (4)", ""),
        ("set lock_timeout = '1s'", "insert into t values (4)", ""),
        ("", "create table u()", ""),
        // A procedure that continues after its commit is cancelled then.
        ("", "call p()", "57014"),
        ("", "create index concurrently on t(v)", "57014"),
        ("", "insert into t values (8)", ""),
    ] {
        wait_for(&server, "absent");
        server.until("show synchronous_standby_names", "absent").await;
        let waiting =
            WaitingStatement::of(&server, before, statement).await.cancelled(&server).await;
        let state = format!("select wait_event from pg_stat_activity where pid = {}", waiting.pid);
        assert_eq!(server.one(&state).await, "SyncRep", "{statement}");
        wait_for(&server, "");
        let (client, answer) = waiting.answer().await;
        match then {
            "" => drop(answer.unwrap_or_else(|error| panic!("{statement}: {error}"))),
            code => assert_eq!(answer.unwrap_err().code().unwrap().code(), code, "{statement}"),
        }
        assert_eq!(run(&client, "select pg_sleep(0.01)").await.unwrap(), "", "after {statement}");
    }
    assert_eq!(
        server.one("select string_agg(v::text, ' ' order by v) from t").await,
        "1 2 2 3 4 4 7 8"
    );
}

#[tokio::test]
async fn a_terminated_session_that_waits_gets_no_confirmation() {
    let Some(bindir) = bin_directory() else { return };
    let dir = scratch();
    let server = governed(&bindir, dir.path()).await;
    run(&server.connect_locally().await, OPEN).await.unwrap();
    wait_for(&server, "absent");
    server.until("show synchronous_standby_names", "absent").await;
    let waiting = WaitingStatement::of(&server, "", "insert into t values (2)")
        .await
        .cancelled(&server)
        .await;
    server.rows(&format!("select pg_terminate_backend({})", waiting.pid)).await;
    let (_, answer) = waiting.answer().await;
    let error = answer.unwrap_err();
    assert!(
        error.as_db_error().is_none_or(|error| error.code() == &SqlState::ADMIN_SHUTDOWN),
        "{error:?}"
    );
}

#[tokio::test]
async fn statements_that_do_not_wait_can_be_cancelled() {
    let Some(bindir) = bin_directory() else { return };
    let dir = scratch();
    let server = governed(&bindir, dir.path()).await;
    run(&server.connect_locally().await, OPEN).await.unwrap();
    let client = server.connect_as("app").await;
    run(&client, "insert into t values (2)").await.unwrap();
    assert_eq!(
        code(run(&client, "set statement_timeout = '50ms'; select pg_sleep(3600)").await),
        "57014"
    );
    let cancel = client.cancel_token();
    let (slept, ()) = tokio::join!(
        run(&client, "begin; insert into t values (3); select pg_sleep(3600)"),
        async {
            server
                .until("select count(*) from pg_stat_activity where wait_event = 'PgSleep'", "1")
                .await;
            cancel.cancel_query(tokio_postgres::NoTls).await.unwrap();
        }
    );
    assert_eq!(code(slept), "57014");
}

#[tokio::test]
async fn nothing_changes_while_failover_is_off() {
    let Some(bindir) = bin_directory() else { return };
    let dir = scratch();
    let server = TestServer::new(&bindir, dir.path(), 1);
    server.start();
    server.rows("create table t(v int); insert into t values (1)").await;
    assert_eq!(server.one("table t").await, "1");
    server.rows("alter system set synchronous_standby_names = ''").await;
}
