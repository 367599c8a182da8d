//! `spec.tls`.

use super::metadata::OBJECT_NAME;
use kube::KubeSchema;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// A duration in hours.
const HOURS: &str = "^[1-9][0-9]{0,4}h$";

/// TLS between members, and between them and everybody else.
#[derive(Serialize, Deserialize, KubeSchema, Debug, Clone, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("self.mode == oldSelf.mode")
    .message("tls.mode is chosen when the cluster is made: members with TLS and members without do not talk to each other"))]
#[x_kube(validation = Rule::new("self.mode == 'Managed' || !has(self.caSecret)").message("tls.caSecret makes no sense where tls.mode is Disabled"))]
pub struct TlsSpec {
    /// `Managed`: Postgres and Raft speak TLS only, with certificates that the operator issues and
    /// renews. `Disabled`: neither has TLS; keep such a cluster on a network of its own.
    #[serde(default)]
    pub mode: TlsMode,

    /// A Secret of yours in the same namespace with a CA that signs the certificates: `tls.crt` and
    /// `tls.key`, as cert-manager makes them for a Certificate with `isCA: true`. It should sign
    /// for nobody else. Without it, the operator makes a CA in the Secret `<name>-ca`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 253))]
    #[x_kube(validation = Rule::new(format!("self.matches('{OBJECT_NAME}')")).message("tls.caSecret must be the name of a Secret: lower-case letters, digits, '-' and '.'"))]
    pub ca_secret: Option<String>,

    /// How long a member's certificate is valid. It is renewed when a third of that is left, and
    /// when this changes.
    #[serde(default = "default_duration")]
    #[schemars(length(max = 8))]
    #[x_kube(validation = Rule::new(format!("self.matches('{HOURS}')")).message("tls.certificateDuration must be in hours, such as 2160h"))]
    #[x_kube(validation = Rule::new(format!("!self.matches('{HOURS}') || duration(self) <= duration('8760h')"))
        .message("tls.certificateDuration must be between 1h and 8760h"))]
    pub certificate_duration: String,
}

/// Whether there is TLS.
#[derive(Serialize, Deserialize, JsonSchema, Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum TlsMode {
    /// The operator sees to it.
    #[default]
    Managed,
    /// There is none.
    Disabled,
}

fn default_duration() -> String {
    "2160h".to_owned()
}

impl Default for TlsSpec {
    fn default() -> Self {
        Self { mode: TlsMode::default(), ca_secret: None, certificate_duration: default_duration() }
    }
}
