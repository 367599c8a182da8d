//! `spec.tls`.

use super::metadata::OBJECT_NAME;
use kube::KubeSchema;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// A duration in hours.
const HOURS: &str = "^[1-9][0-9]{0,4}h$";

/// TLS between members, and between members and clients.
#[derive(Serialize, Deserialize, KubeSchema, Debug, Clone, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("self.mode == oldSelf.mode")
    .message("tls.mode cannot be changed: members with TLS cannot connect to members without"))]
#[x_kube(validation = Rule::new("self.mode == 'Managed' || !has(self.caSecret)").message("tls.caSecret must not be set if tls.mode is Disabled"))]
pub struct TlsSpec {
    /// `Managed`: Postgres and Raft require TLS, with certificates that the operator issues and
    /// renews. `Disabled`: no TLS; use this only on an isolated network.
    #[serde(default)]
    pub mode: TlsMode,

    /// A Secret in the same namespace with the CA that signs the certificates: `tls.crt` and
    /// `tls.key`, as cert-manager creates them for a Certificate with `isCA: true`. The CA should
    /// sign nothing else. By default, the operator creates a CA in the Secret `<name>-ca`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 253))]
    #[x_kube(validation = Rule::new(format!("self.matches('{OBJECT_NAME}')")).message("tls.caSecret must be the name of a Secret: lower-case letters, digits, '-' and '.'"))]
    pub ca_secret: Option<String>,

    /// The lifetime of a member's certificate. It is renewed when a third of the lifetime remains,
    /// and when this value changes.
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
    /// With certificates of the operator.
    #[default]
    Managed,
    /// Without TLS.
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
