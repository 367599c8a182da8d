//! `spec.gateway`.

use kube::KubeSchema;
use serde::{Deserialize, Serialize};

/// The gateway of each member, to which `<name>-rw` leads.
#[derive(Serialize, Deserialize, KubeSchema, Debug, Clone, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct GatewaySpec {
    /// How many clients one member's gateway serves at a time. Each takes about 60 KiB of memory
    /// and a thread of the pod. Members apply a change without a restart.
    #[serde(default = "default_max_connections")]
    #[schemars(range(min = 1, max = 100_000))]
    pub max_connections: u32,
}

const fn default_max_connections() -> u32 {
    1000
}

impl Default for GatewaySpec {
    fn default() -> Self {
        Self { max_connections: default_max_connections() }
    }
}
