//! The Secrets, made once. Passwords come in as facts: nothing here is random.

use k8s_openapi::api::core::v1::Secret;
use std::collections::BTreeMap;

use super::metadata::lasting_metadata;
use crate::cluster::ClusterSpec;
use pgraft_api::names::{self, GATEWAY_PORT, POSTGRES_PORT, SecretKind};

/// The key in `-internal` of the role that standbys stream as.
pub(super) const REPLICATION_PASSWORD: &str = "replication-password";
/// The key in `-internal` of the role that the operator connects as.
pub const OPERATOR_PASSWORD: &str = "operator-password";

/// Fresh passwords, of letters and digits only: they stand in URIs and in pgpass lines without any
/// quoting.
#[derive(Debug, Clone)]
pub struct Passwords(pub [String; 2]);

/// A Secret of the cluster. It stays with the volumes when the PgRaftCluster goes and they stay:
/// the data in them knows these passwords.
pub fn secret(want: &ClusterSpec, kind: SecretKind, passwords: &Passwords) -> Secret {
    let [first, second] = &passwords.0;
    let (type_, data) = match kind {
        SecretKind::Internal => (
            "Opaque",
            BTreeMap::from([
                (REPLICATION_PASSWORD.to_owned(), first.clone()),
                (OPERATOR_PASSWORD.to_owned(), second.clone()),
            ]),
        ),
        SecretKind::App => (
            "kubernetes.io/basic-auth",
            login(want, &kind.name(&want.name), &want.owner, &want.database, first),
        ),
        SecretKind::Superuser => (
            "kubernetes.io/basic-auth",
            login(want, &kind.name(&want.name), "postgres", "postgres", first),
        ),
        // Has a key in place of passwords: `ca_secret`.
        SecretKind::Ca => ("kubernetes.io/tls", BTreeMap::new()),
    };
    let metadata = lasting_metadata(want, kind.name(&want.name), names::labels(&want.name));
    Secret { metadata, type_: Some(type_.to_owned()), string_data: Some(data), ..Secret::default() }
}

/// The keys that people know from other operators, and one URI for each Service. `secret` is the
/// name of the Secret: where its `ca.crt` is mounted by convention.
fn login(
    want: &ClusterSpec,
    secret: &str,
    user: &str,
    database: &str,
    password: &str,
) -> BTreeMap<String, String> {
    let host = |service: String| format!("{service}.{}.svc", want.namespace);
    let [rw, ro, r] =
        [names::rw_service, names::ro_service, names::r_service].map(|name| host(name(&want.name)));
    // Every pod by one name, which is right whoever the members are: libpq tries all addresses
    // behind it.
    let pods = host(names::pods_service(&want.name));
    let hosts = format!("{rw}:{POSTGRES_PORT},{pods}:{GATEWAY_PORT}");
    let write = "target_session_attrs=read-write&connect_timeout=3";
    // `require` works wherever the URI is put.
    let tls = |before: &str| {
        want.tls.as_ref().map(|_| format!("{before}sslmode=require")).unwrap_or_default()
    };
    let uri = |host: &str, tls: &str| {
        format!("postgresql://{user}:{password}@{host}:{POSTGRES_PORT}/{database}{tls}")
    };
    let jdbc = |host: &str| {
        format!(
            "jdbc:postgresql://{host}:{POSTGRES_PORT}/{database}?user={user}&password={password}{}",
            tls("&")
        )
    };
    let places =
        [(&rw, POSTGRES_PORT), (&ro, POSTGRES_PORT), (&r, POSTGRES_PORT), (&pods, GATEWAY_PORT)];
    let mut keys = vec![
        ("username", user.to_owned()),
        ("user", user.to_owned()),
        ("password", password.to_owned()),
        ("dbname", database.to_owned()),
        ("host", rw.clone()),
        ("port", POSTGRES_PORT.to_string()),
        ("uri", uri(&rw, &tls("?"))),
        ("ro-uri", uri(&ro, &tls("?"))),
        ("r-uri", uri(&r, &tls("?"))),
        (
            "multi-host-uri",
            format!("postgresql://{user}:{password}@{hosts}/{database}?{write}{}", tls("&")),
        ),
        ("jdbc-uri", jdbc(&rw)),
        ("jdbc-ro-uri", jdbc(&ro)),
        (
            "pgpass",
            places
                .map(|(host, port)| format!("{host}:{port}:{database}:{user}:{password}\n"))
                .concat(),
        ),
    ];
    if want.tls.is_some() {
        let verified = format!("?sslmode=verify-full&sslrootcert=/etc/{secret}/ca.crt");
        keys.extend([
            ("verify-full-uri", uri(&rw, &verified)),
            ("verify-full-ro-uri", uri(&ro, &verified)),
            ("verify-full-r-uri", uri(&r, &verified)),
        ]);
    }
    keys.into_iter().map(|(k, v)| (k.to_owned(), v)).collect()
}
