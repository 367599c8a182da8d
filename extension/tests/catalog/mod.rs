//! A closed gate and everything in `pg_proc` and `pg_catalog`: permitted queries show no data, and
//! the refused ones are those that `pgraft_core::fence` lists.

use std::collections::BTreeMap;

use pgraft_core::fence::{Act, act_of_function};
use tokio_postgres::Client;

use crate::governed::{CLOSED, OPEN, code, governed, run};
use pgraft_testkit::bin_directory;
use pgraft_testkit::postgres::scratch;
use pgraft_testkit::server::{TestServer, text_rows};

/// A marker in the table `t`, in its statistics and in the large object 4711, but in no statement.
const SECRET: &str = "canary-4711";

/// A server with a closed gate and recognizable data, with connections over the socket and over
/// TCP.
async fn closed(server: &TestServer) -> (Client, Client) {
    let (admin, client) = (server.connect_locally().await, server.connect().await);
    run(&admin, OPEN).await.unwrap();
    for statement in [
        "alter table t add w text; insert into t select n, 'can' || 'ary-4711' from generate_series(2, 500) n; analyze t",
        "create statistics t_stats (mcv) on v, w from t; analyze t; create index on t (v); create view tv as table t",
        "select lo_put(4711, 0, convert_to('can' || 'ary-4711', 'UTF8'))",
    ] {
        run(&admin, statement).await.unwrap();
    }
    assert!(
        run(
            &client,
            "select most_common_vals from pg_stats where tablename = 't' and attname = 'w'"
        )
        .await
        .unwrap()
        .contains(SECRET)
    );
    assert!(
        run(&client, "select convert_from(lo_get(4711), 'UTF8')").await.unwrap().contains(SECRET)
    );
    run(&admin, CLOSED).await.unwrap();
    (admin, client)
}

#[tokio::test]
async fn no_catalog_relation_shows_data_while_the_gate_is_closed() {
    let Some(bindir) = bin_directory() else { return };
    let dir = scratch();
    let server = governed(&bindir, dir.path()).await;
    let (admin, client) = closed(&server).await;
    // The definition of a view tells whether it shows samples or contents of users' data.
    let all = text_rows(
        &admin,
        "select relnamespace::regnamespace || '.' || quote_ident(relname),
                relname in ('pg_statistic', 'pg_statistic_ext_data', 'pg_largeobject')
                or relkind = 'v' and pg_get_viewdef(oid) ~* '(from|join) \\(*(pg_catalog\\.)?(pg_statistic|pg_statistic_ext_data|pg_largeobject)\\M'
           from pg_class where relkind in ('r', 'v') and relnamespace in ('pg_catalog'::regnamespace, 'information_schema'::regnamespace)",
    )
    .await
    .unwrap();
    assert!(all.len() > 150, "{}", all.len());
    let mut data = vec![];
    for relation in &all {
        let (name, is_data) = (&relation[0], relation[1] == "t");
        let shown = run(&client, &format!("table {name}")).await;
        // Postgres 18's view of NUMA fails on a host without NUMA.
        let no_numa = |error: &tokio_postgres::Error| {
            error.as_db_error().is_some_and(|e| e.message().contains("NUMA is not supported"))
        };
        if shown.as_ref().err().is_some_and(no_numa) {
            continue;
        }
        if is_data {
            assert_eq!(code(shown), "57P03", "{name}");
            data.push(name.as_str());
        } else {
            let shown = shown.unwrap_or_else(|error| panic!("{name}: {error:?}"));
            assert!(!shown.contains(SECRET), "{name} shows data");
        }
        let local = run(&admin, &format!("table {name}")).await;
        assert!(local.is_ok(), "{name}, over the socket: {local:?}");
    }
    println!("{} relations, refused: {}", all.len(), data.join(", "));
    // The queries of psql.
    let conninfo = format!("host=127.0.0.1 port={} user=postgres dbname=postgres", server.port);
    for command in [
        "d", "d t", "d+ t", "d+ tv", "d s", "da", "dA+", "db+", "dc", "dC+", "dconfig+", "dd",
        "dD+", "ddp", "dE", "des", "det", "dew", "df+ now", "dF+", "dg+", "di+", "dl", "dL+",
        "dm+", "dn+", "do", "dO+", "dp", "dP+", "drds", "dRp+", "dRs+", "ds+", "dS", "dt+", "dT+",
        "du+", "dv+", "dx+", "dX", "dy+", "l+", "sv tv", "z",
    ] {
        let output = server.psql(&conninfo, &format!("\\{command}"));
        let error = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(!error.contains("ERROR"), "\\{command}: {error}");
    }
}

/// A function, a call that computes nothing, the expected outcome, and a real call.
struct Call {
    name: String,
    prepared: String,
    wanted: Act,
    /// Whether it does more than compute.
    looks: bool,
    types: Vec<String>,
}

/// Every built-in function that a statement can call.
async fn functions(admin: &Client) -> Vec<Call> {
    let rows = text_rows(
        admin,
        "select proname, provolatile, provariadic <> 0, array_to_string(array(select format_type(t, null) from unnest(proargtypes) t), ';')
           from pg_proc
          where pronamespace = 'pg_catalog'::regnamespace and prokind = 'f' and oid < 16384
            and not exists (select from pg_type y where y.typtype = 'p' and y.oid = any(proargtypes::oid[]))
            and prorettype not in ('internal'::regtype, 'trigger'::regtype, 'event_trigger'::regtype)
          order by oid",
    )
    .await
    .unwrap();
    rows.into_iter()
        .map(|row| {
            let types: Vec<String> =
                row[3].split(';').filter(|t| !t.is_empty()).map(str::to_owned).collect();
            let columns: Vec<String> =
                types.iter().enumerate().map(|(n, t)| format!("null::{t} as x{n}")).collect();
            let last = types.len().wrapping_sub(1);
            let variadic = |n| if n == last && row[2] == "t" { "variadic " } else { "" };
            let given: Vec<String> =
                (0..types.len()).map(|n| format!("{}a.x{n}", variadic(n))).collect();
            // OFFSET hides from the planner that these are NULL. LIMIT 0 prevents the executor from
            // calling anything.
            let prepared = format!(
                "select pg_catalog.\"{}\"({}) from (select {} offset 0) a limit 0",
                row[0],
                given.join(", "),
                columns.join(", ")
            );
            let wanted = act_of_function(&row[0], row[1] == "v", true);
            Call { name: row[0].clone(), prepared, wanted, looks: row[1] != "i", types }
        })
        .collect()
}

#[tokio::test]
async fn no_catalog_function_shows_data_while_the_gate_is_closed() {
    let Some(bindir) = bin_directory() else { return };
    let dir = scratch();
    let server = governed(&bindir, dir.path()).await;
    let (admin, client) = closed(&server).await;
    let all = functions(&admin).await;
    let mut counts = BTreeMap::<String, usize>::new();
    for call in &all {
        for (who, session) in [("over TCP", &client), ("over the socket", &admin)] {
            let came = match run(session, &call.prepared).await {
                Ok(_) => "answered".to_owned(),
                Err(error) => code(Err(error)),
            };
            let wanted = match call.wanted {
                Act::Read if who == "over TCP" => "57P03",
                Act::Serve | Act::Read => "answered",
                Act::Write | Act::Commit => "25006",
            };
            // Some are called by the parser, or cannot be called by name.
            let cannot = ["42601", "42725", "42883", "0A000"].contains(&came.as_str());
            assert!(
                came == wanted || cannot,
                "{} {who}: {came}, not {wanted}: {}",
                call.name,
                call.prepared
            );
            *counts.entry(format!("{who}: {came}")).or_default() += 1;
        }
    }
    println!("{} functions: {counts:?}", all.len());
    let tried: usize = ["answered", "57P03", "25006"]
        .iter()
        .filter_map(|came| counts.get(&format!("over TCP: {came}")))
        .sum();
    assert!(all.len() > 2000 && tried * 100 > all.len() * 98, "{tried} of {}", all.len());
    in_earnest(&server, &admin, &client, &all).await;
}

/// Calls the permitted functions with arguments that lead to data. They must show none, and assign
/// no transaction id.
async fn in_earnest(server: &TestServer, admin: &Client, client: &Client, all: &[Call]) {
    // These end sessions or wait.
    const NOT: [&str; 5] =
        ["pg_terminate_backend", "pg_cancel_backend", "pg_sleep", "pg_promote", "set_config"];
    let values = |n: usize, type_: &str| match (type_, n) {
        ("oid" | "regclass", 0) => "'t'::regclass".to_owned(),
        ("text" | "name" | "character varying" | "\"char\"", 0) => format!("'t'::{type_}"),
        ("text" | "name" | "character varying" | "\"char\"", _) => format!("'table t'::{type_}"),
        ("oid" | "regclass", _) => "4711::oid".to_owned(),
        ("smallint" | "integer" | "bigint" | "numeric" | "double precision" | "real", 0) => {
            format!("1::{type_}")
        }
        ("smallint" | "integer" | "bigint" | "numeric" | "double precision" | "real", _) => {
            format!("4711::{type_}")
        }
        ("boolean", _) => "true".to_owned(),
        _ => format!("null::{type_}"),
    };
    run(client, "set statement_timeout = '2s'").await.unwrap();
    let looks = |call: &&Call| {
        call.looks && call.wanted == Act::Serve && !NOT.contains(&call.name.as_str())
    };
    let mut statements = vec![];
    for call in all.iter().filter(looks) {
        for n in 0..2 {
            let given: Vec<String> = call.types.iter().map(|t| values(n, t)).collect();
            statements.push(format!("select pg_catalog.\"{}\"({})", call.name, given.join(", ")));
        }
    }
    let mut answered = 0;
    for statement in &statements {
        if let Ok(shown) = run(client, statement).await {
            assert!(!shown.contains(SECRET), "{statement} shows data");
            answered += 1;
        }
    }
    run(admin, OPEN).await.unwrap();
    for statement in statements {
        let took = "select pg_current_xact_id_if_assigned() is not null";
        if run(client, &format!("begin; {statement}")).await.is_ok() {
            assert_eq!(run(client, took).await.unwrap(), "f", "{statement} takes a transaction id");
        }
        run(client, "rollback").await.unwrap();
    }
    println!(
        "{answered} calls of functions that look at something were answered behind the closed gate of node {}",
        server.id
    );
}
