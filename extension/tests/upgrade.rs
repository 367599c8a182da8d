//! `ALTER EXTENSION pgraft UPDATE` from every released version has the same result as `CREATE
//! EXTENSION pgraft`, through one chain of scripts. Before the first release, an invented next
//! version shows that the check works and can fail.

#![allow(
    missing_docs,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "used by tests only"
)]

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;

use pgraft_testkit::bin_directory;
use pgraft_testkit::postgres::scratch;
use pgraft_testkit::server::TestServer;

/// Every object of the extension, with every property that a script defines.
const OBJECTS: &str = "select pg_describe_object(d.classid, d.objid, 0),
    coalesce(pg_get_functiondef(p.oid), pg_get_viewdef(c.oid)),
    (select string_agg(a::text, ' ' order by a::text) from unnest(coalesce(p.proacl, c.relacl)) a),
    obj_description(d.objid, d.classid::regclass::name)
  from pg_depend d
    left join pg_proc p on d.classid = 'pg_proc'::regclass and p.oid = d.objid
    left join pg_class c on d.classid = 'pg_class'::regclass and c.oid = d.objid
  where d.refclassid = 'pg_extension'::regclass and d.deptype = 'e'
    and d.refobjid = (select oid from pg_extension where extname = 'pgraft')
  order by 1";

fn sql_dir() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("sql")
}

/// The versions that `CREATE EXTENSION` supports, and the updates between them, from the file names
/// of the scripts.
fn scripts() -> (BTreeSet<String>, BTreeMap<String, Vec<String>>) {
    let (mut versions, mut steps) = (BTreeSet::new(), BTreeMap::<String, Vec<String>>::new());
    for file in fs::read_dir(sql_dir()).unwrap() {
        let name = file.unwrap().file_name().into_string().unwrap();
        let Some(name) = name.strip_suffix(".sql") else { continue };
        match name.split("--").collect::<Vec<_>>()[..] {
            ["pgraft", version] => drop(versions.insert(version.to_owned())),
            ["pgraft", from, to] => steps.entry(from.to_owned()).or_default().push(to.to_owned()),
            _ => panic!("{name}.sql is neither pgraft--VERSION.sql nor pgraft--FROM--TO.sql"),
        }
    }
    (versions, steps)
}

fn present() -> String {
    let control =
        fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("pgraft.control")).unwrap();
    let line = control.lines().find_map(|l| l.strip_prefix("default_version = '")).unwrap();
    line.trim_end_matches('\'').to_owned()
}

#[test]
fn upgrade_scripts_form_one_chain_to_the_current_version() {
    let (versions, steps) = scripts();
    let present = present();
    assert!(versions.contains(&present), "pgraft--{present}.sql is what pgraft.control names");
    for (from, to) in &steps {
        assert_eq!(to.len(), 1, "from {from} there is one step, not {to:?}");
        assert!(
            versions.contains(from) && versions.contains(&to[0]),
            "{from} and {} have their own scripts",
            to[0]
        );
    }
    for version in &versions {
        let (mut at, mut seen) = (version, BTreeSet::new());
        while *at != present {
            assert!(seen.insert(at), "the steps from {version} go round");
            at =
                &steps.get(at).unwrap_or_else(|| panic!("from {at} nothing leads to {present}"))[0];
        }
    }
    assert_eq!(steps.get(&present), None, "nothing comes after the present version");
    // `just verify` checks the checksums. Here, every version except the newest must be frozen.
    let frozen = fs::read_to_string(sql_dir().join("RELEASED")).unwrap();
    for version in versions.iter().filter(|v| **v != present) {
        assert!(
            frozen.contains(&format!("  pgraft--{version}.sql")),
            "pgraft--{version}.sql is released, and not in RELEASED"
        );
    }
}

/// A separate Postgres installation, to which tests add scripts. Only its programs and its
/// extension directory are copies.
fn installation(bindir: &Path, into: &Path) -> (PathBuf, PathBuf) {
    let ask = |what: &str| {
        let output = Command::new(bindir.join("pg_config")).arg(what).output().unwrap();
        PathBuf::from(String::from_utf8(output.stdout).unwrap().trim())
    };
    let (bin, share, lib) = (ask("--bindir"), ask("--sharedir"), ask("--pkglibdir"));
    // Postgres finds its files relative to its programs.
    let common =
        bin.ancestors().find(|dir| share.starts_with(dir) && lib.starts_with(dir)).unwrap();
    let place = |dir: &Path| into.join(dir.strip_prefix(common).unwrap());
    fs::create_dir_all(place(&bin)).unwrap();
    for program in ["postgres", "initdb", "pg_ctl"] {
        fs::copy(bin.join(program), place(&bin).join(program)).unwrap();
    }
    symlink(&lib, place(&lib)).unwrap();
    fs::create_dir_all(place(&share).join("extension")).unwrap();
    for (from, to) in
        [(share.clone(), place(&share)), (share.join("extension"), place(&share).join("extension"))]
    {
        for file in fs::read_dir(from).unwrap() {
            let file = file.unwrap();
            let copy = to.join(file.file_name());
            if !copy.exists() && !file.file_name().to_string_lossy().starts_with("pgraft") {
                symlink(file.path(), copy).unwrap();
            }
        }
    }
    let extension = place(&share).join("extension");
    let ours = fs::read_dir(sql_dir())
        .unwrap()
        .map(|f| f.unwrap().path())
        .filter(|f| f.extension().is_some_and(|e| e == "sql"));
    for file in ours.chain([Path::new(env!("CARGO_MANIFEST_DIR")).join("pgraft.control")]) {
        fs::copy(&file, extension.join(file.file_name().unwrap())).unwrap();
    }
    (place(&bin), extension)
}

/// The objects after `CREATE EXTENSION`, of this version or of an earlier one followed by an
/// update.
async fn objects(server: &TestServer, from: Option<&str>, to: &str) -> Vec<Vec<String>> {
    server.rows("drop extension if exists pgraft").await;
    server.rows(&format!("create extension pgraft version '{}'", from.unwrap_or(to))).await;
    if from.is_some() {
        server.rows(&format!("alter extension pgraft update to '{to}'")).await;
    }
    assert_eq!(
        server.one("select extversion from pg_extension where extname = 'pgraft'").await,
        to
    );
    server.rows(OBJECTS).await
}

#[tokio::test]
async fn an_update_equals_a_fresh_install() {
    let Some(bindir) = bin_directory() else { return };
    let dir = scratch();
    let (bindir, extension) = installation(&bindir, &dir.path().join("installation"));
    let present = present();
    // An invented version with an added function, a dropped one, and changes of a comment and a
    // privilege.
    let change = "CREATE FUNCTION pgraft_next() RETURNS integer LANGUAGE sql AS 'select 1';
        DROP FUNCTION pgraft_get_term();
        REVOKE EXECUTE ON FUNCTION pgraft_next() FROM PUBLIC;\n";
    let comment = "COMMENT ON FUNCTION pgraft_get_leader() IS 'changed';\n";
    let complete = fs::read_to_string(extension.join(format!("pgraft--{present}.sql"))).unwrap();
    let script = |name: String, text: String| fs::write(extension.join(name), text).unwrap();
    script("pgraft--next.sql".into(), format!("{complete}{change}{comment}"));
    script(format!("pgraft--{present}--next.sql"), format!("{change}{comment}"));
    // An upgrade script that omits a change.
    script("pgraft--incomplete.sql".into(), format!("{complete}{change}{comment}"));
    script(format!("pgraft--{present}--incomplete.sql"), change.to_owned());

    let server = TestServer::new(&bindir, dir.path(), 1);
    server.start();
    for version in scripts().0 {
        let fresh = objects(&server, None, &present).await;
        assert!(fresh.len() >= 10, "the extension has its objects: {fresh:?}");
        assert_eq!(objects(&server, Some(&version), &present).await, fresh, "from {version}");
        // The server stays a member, since the library has the functions of every version.
        assert_eq!(server.one("select state from pgraft_status()").await, "uninitialized");
    }
    assert_eq!(
        objects(&server, Some(&present), "next").await,
        objects(&server, None, "next").await
    );
    assert_ne!(
        objects(&server, Some(&present), "incomplete").await,
        objects(&server, None, "incomplete").await
    );
}
