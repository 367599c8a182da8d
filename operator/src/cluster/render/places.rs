//! Where things are in a member's container.

/// Where the volume is mounted; PGDATA and the Raft directory are in it.
pub(super) const STATE_DIRECTORY: &str = "/var/lib/pgraft";
/// Where the Unix socket is.
pub(super) const SOCKET_DIRECTORY: &str = "/var/run/postgresql";
/// Where the passwords are.
pub(super) const SECRETS_DIRECTORY: &str = "/etc/pgraft/secrets";
/// Where the certificate is.
pub(super) const TLS_DIRECTORY: &str = "/etc/pgraft/tls";
/// Where the instance manager's configuration is.
pub(super) const CONFIG_DIRECTORY: &str = "/etc/pgraft/instance";
/// Its file.
pub(super) const CONFIG_FILE: &str = "instance.yaml";
