//! The Secrets, made once. Passwords come in as facts: nothing here is random.

use k8s_openapi::api::core::v1::Secret;
use std::collections::BTreeMap;

use super::metadata::lasting_metadata;
use crate::core::Cluster;
use crate::core::names::{self, GATEWAY_PORT, POSTGRES_PORT, SecretKind};

/// The key in `-internal` of the role that standbys stream as.
pub(super) const REPLICATION_PASSWORD: &str = "replication-password";
/// The key in `-internal` of the role that the operator connects as.
pub const OPERATOR_PASSWORD: &str = "operator-password";

/// Fresh passwords, of letters and digits only: they stand in URIs and in pgpass lines without any quoting.
#[derive(Debug, Clone)]
pub struct Passwords(pub [String; 2]);

/// A Secret of the cluster. It stays with the volumes when the PgRaftCluster goes and they stay: the data in them knows these passwords.
pub fn secret(want: &Cluster, kind: SecretKind, passwords: &Passwords) -> Secret {
    let [first, second] = &passwords.0;
    let (type_, data) = match kind {
        SecretKind::Internal => {
            ("Opaque", BTreeMap::from([(REPLICATION_PASSWORD.to_owned(), first.clone()), (OPERATOR_PASSWORD.to_owned(), second.clone())]))
        }
        SecretKind::App => ("kubernetes.io/basic-auth", login(want, &want.owner, &want.database, first)),
        SecretKind::Superuser => ("kubernetes.io/basic-auth", login(want, "postgres", "postgres", first)),
        // Has a key in place of passwords: `ca_secret`.
        SecretKind::Ca => ("kubernetes.io/tls", BTreeMap::new()),
    };
    let metadata = lasting_metadata(want, kind.name(&want.name), names::labels(&want.name));
    Secret { metadata, type_: Some(type_.to_owned()), string_data: Some(data), ..Secret::default() }
}

/// The keys that people know from other operators.
fn login(want: &Cluster, user: &str, database: &str, password: &str) -> BTreeMap<String, String> {
    let host = format!("{}.{}.svc", names::rw_service(&want.name), want.namespace);
    // Every pod by one name, which is right whoever the members are: libpq tries all addresses behind it.
    let pods = format!("{}.{}.svc", names::pods_service(&want.name), want.namespace);
    let hosts = format!("{host}:{POSTGRES_PORT},{pods}:{GATEWAY_PORT}");
    let write = "target_session_attrs=read-write&connect_timeout=3";
    // Works wherever the URI is put; verify-full takes the file `ca.crt` as well, and the names are right for it.
    let tls = |before: &str| want.tls.as_ref().map(|_| format!("{before}sslmode=require")).unwrap_or_default();
    [
        ("username", user.to_owned()),
        ("user", user.to_owned()),
        ("password", password.to_owned()),
        ("dbname", database.to_owned()),
        ("host", host.clone()),
        ("port", POSTGRES_PORT.to_string()),
        ("uri", format!("postgresql://{user}:{password}@{host}:{POSTGRES_PORT}/{database}{}", tls("?"))),
        ("multi-host-uri", format!("postgresql://{user}:{password}@{hosts}/{database}?{write}{}", tls("&"))),
        ("jdbc-uri", format!("jdbc:postgresql://{host}:{POSTGRES_PORT}/{database}?user={user}&password={password}{}", tls("&"))),
        ("pgpass", format!("{host}:{POSTGRES_PORT}:{database}:{user}:{password}\n")),
    ]
    .into_iter()
    .map(|(k, v)| (k.to_owned(), v))
    .collect()
}
