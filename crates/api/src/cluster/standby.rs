//! `spec.standby`.

use kube::KubeSchema;
use serde::{Deserialize, Serialize};

/// A duration of seconds, minutes or hours.
const TIME: &str = "^[1-9][0-9]{0,5}(s|m|h)$";

/// When a standby lags too far behind to serve reads. It is then removed from `<name>-ro`, and the
/// condition Degraded names it. Lag does not count while the cluster has no primary. A change takes
/// effect without a restart.
#[derive(Serialize, Deserialize, KubeSchema, Debug, Clone, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct StandbySpec {
    /// How long a standby may receive no WAL, replay no WAL, or lag behind the primary.
    #[serde(default = "default_max_lag")]
    #[schemars(length(max = 12))]
    #[x_kube(validation = Rule::new(format!("self.matches('{TIME}')")).message("standby.maxLag must be a duration such as 30s, 5m or 1h"))]
    #[x_kube(validation = Rule::new(format!("!self.matches('{TIME}') || (duration(self) >= duration('1s') && duration(self) <= duration('8760h'))")).message("standby.maxLag must be between 1s and 8760h"))]
    pub max_lag: String,

    /// How much WAL a standby may still have to replay, such as `64Mi`. By default the amount is not
    /// limited.
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
