//! `spec.standby`.

use kube::KubeSchema;
use serde::{Deserialize, Serialize};

/// A time in which people do something.
const TIME: &str = "^[1-9][0-9]{0,5}(s|m|h)$";

/// When a standby is not ready for reads. It is out of `<name>-ro` then, and named in the condition
/// Degraded. Nothing is counted while the cluster has no primary. Members take a change at once.
#[derive(Serialize, Deserialize, KubeSchema, Debug, Clone, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct StandbySpec {
    /// How long a standby may receive no WAL, not replay, or be behind the primary.
    #[serde(default = "default_max_lag")]
    #[schemars(length(max = 12))]
    #[x_kube(validation = Rule::new(format!("self.matches('{TIME}')")).message("standby.maxLag must be a time such as 30s, 5m or 1h"))]
    #[x_kube(validation = Rule::new(format!("!self.matches('{TIME}') || (duration(self) >= duration('1s') && duration(self) <= duration('8760h'))")).message("standby.maxLag must be between 1s and 8760h"))]
    pub max_lag: String,

    /// How many bytes of WAL a standby may have to replay, in Kubernetes' units: `64Mi`. Any
    /// number, when it is not set.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 32))]
    #[x_kube(validation = Rule::new("isQuantity(self) && quantity(self).isGreaterThan(quantity('0')) && quantity(self).isLessThan(quantity('8Ei'))")
        .message("standby.maxLagBytes must be a size such as 64Mi"))]
    pub max_lag_bytes: Option<String>,
}

fn default_max_lag() -> String {
    "30s".to_owned()
}

impl Default for StandbySpec {
    fn default() -> Self {
        Self { max_lag: default_max_lag(), max_lag_bytes: None }
    }
}
