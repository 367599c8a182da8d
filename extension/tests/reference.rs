//! `docs/reference.md` lists the functions, columns and settings of a server.
//! `PGRAFT_WRITE_DOCS=1` updates it.

#![allow(
    missing_docs,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "used by tests only"
)]

use std::path::Path;

use pgraft_testkit::bin_directory;
use pgraft_testkit::postgres::scratch;
use pgraft_testkit::server::TestServer;

const FUNCTIONS: &str = "
    select format('| `%s(%s)` | %s | %s | %s |', p.proname, regexp_replace(pg_get_function_identity_arguments(p.oid), '(, )?OUT .*', ''),
        replace(pg_get_function_result(p.oid), 'SETOF record', 'rows, see below'),
        case when has_function_privilege('public', p.oid, 'execute') then 'everyone'
             when has_function_privilege('pg_monitor', p.oid, 'execute') then '`pg_monitor`' else 'superusers, and roles with the privilege' end,
        obj_description(p.oid, 'pg_proc'))
    from pg_proc p join pg_depend d on d.objid = p.oid and d.deptype = 'e' join pg_extension e on e.oid = d.refobjid and e.extname = 'pgraft'
    order by p.proname";

/// The OUT arguments.
const COLUMNS: &str = "
    select format('| `%s` | %s |', p.proname, string_agg(format('`%s` %s', name, format_type(type, null)), ', ' order by n))
    from pg_proc p join pg_depend d on d.objid = p.oid and d.deptype = 'e' join pg_extension e on e.oid = d.refobjid and e.extname = 'pgraft',
        unnest(p.proargnames, p.proallargtypes, p.proargmodes) with ordinality as a(name, type, mode, n)
    where mode = 'o' group by p.proname order by p.proname";

const SETTINGS: &str = "
    select format('| `%s` | %s | %s | %s | %s |', name, coalesce(nullif(boot_val, ''), ' ') || coalesce(' ' || unit, ''),
        case vartype when 'enum' then array_to_string(enumvals, ', ') when 'bool' then 'on, off'
             else coalesce(min_val || ' to ' || max_val, vartype) end,
        case context when 'postmaster' then 'restart' when 'sighup' then 'reload' else context end,
        concat_ws(' ', short_desc, nullif(extra_desc, '')))
    from pg_settings where name like 'pgraft.%' order by name";

#[tokio::test]
async fn the_reference_matches_a_server() {
    let Some(bindir) = bin_directory() else { return };
    let dir = scratch();
    let server = TestServer::new(&bindir, dir.path(), 1);
    server.start();
    server.rows("create extension pgraft").await;
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/reference.md");
    let page = std::fs::read_to_string(&path).unwrap();
    let mut wanted = page.clone();
    for (name, head, sql) in [
        (
            "functions",
            "| function | returns | who may call it | what it does |\n| --- | --- | --- | --- |",
            FUNCTIONS,
        ),
        ("columns", "| function | columns |\n| --- | --- |", COLUMNS),
        (
            "settings",
            "| setting | default | values | takes effect at | meaning |\n| --- | --- | --- | --- | --- |",
            SETTINGS,
        ),
    ] {
        let rows: Vec<String> =
            server.rows(sql).await.into_iter().map(|mut row| row.remove(0)).collect();
        assert!(!rows.is_empty(), "{name}");
        wanted = put(&wanted, name, &format!("{head}\n{}", rows.join("\n")));
    }
    if std::env::var_os("PGRAFT_WRITE_DOCS").is_some() {
        std::fs::write(&path, wanted).unwrap();
    } else {
        assert!(
            page == wanted,
            "docs/reference.md does not match the server; PGRAFT_WRITE_DOCS=1 updates it. Expected:\n{wanted}"
        );
    }
}

fn put(page: &str, name: &str, text: &str) -> String {
    let begin = format!("<!-- generated: {name} -->\n");
    let (before, rest) = page
        .split_once(&begin)
        .unwrap_or_else(|| panic!("docs/reference.md has no section {name}"));
    let (_, after) = rest.split_once("<!-- end -->").unwrap();
    format!("{before}{begin}\n{text}\n\n<!-- end -->{after}")
}
