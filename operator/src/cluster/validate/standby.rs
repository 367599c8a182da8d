//! `spec.standby`, parsed into the instance manager's words.

use pgraft_core::instance_config::StandbyConfig;

use crate::cluster::quantity;
use crate::cluster::validate::Invalid;
use pgraft_api::cluster::StandbySpec;

/// The longest bound, a year, in seconds.
const MAX_SECONDS: u64 = 8760 * 3600;

/// # Errors
/// [`Invalid`], where the CRD's own rules did not see it.
pub fn parse(spec: StandbySpec) -> Result<StandbyConfig, Invalid> {
    let StandbySpec { max_lag, max_lag_bytes } = spec;
    let seconds = seconds(&max_lag)
        .filter(|n| (1..=MAX_SECONDS).contains(n))
        .ok_or(Invalid::MaxLag(max_lag))?;
    let size = |text: String| {
        let bytes = quantity::bytes(&text).and_then(|n| u64::try_from(n).ok()).filter(|n| *n > 0);
        bytes.map(|n| n.to_string()).ok_or(Invalid::MaxLagBytes(text))
    };
    Ok(StandbyConfig {
        max_lag: format!("{seconds}s"),
        max_lag_bytes: max_lag_bytes.map(size).transpose()?,
    })
}

fn seconds(text: &str) -> Option<u64> {
    let unit = text.chars().next_back()?;
    let factor = match unit {
        's' => 1,
        'm' => 60,
        'h' => 3600,
        _ => return None,
    };
    text.strip_suffix(unit)?.parse::<u64>().ok()?.checked_mul(factor)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_taken_and_what_is_refused() {
        let of = |lag: &str, bytes: Option<&str>| {
            let parsed =
                parse(StandbySpec { max_lag: lag.into(), max_lag_bytes: bytes.map(str::to_owned) });
            parsed.map(|c| (c.max_lag, c.max_lag_bytes)).map_err(|e| e.to_string())
        };
        assert_eq!(of("30s", None), Ok(("30s".into(), None)));
        assert_eq!(of("5m", Some("64Mi")), Ok(("300s".into(), Some("67108864".into()))));
        assert_eq!(of("8760h", Some("1")), Ok(("31536000s".into(), Some("1".into()))));
        for lag in ["0s", "8761h", "soon", "", "1d", "-1s", "99999999999999999999h"] {
            let words = format!(
                "standby.maxLag \"{lag}\" must be between 1s and 8760h, in seconds, minutes or hours"
            );
            assert_eq!(of(lag, None), Err(words));
        }
        for bytes in ["0", "lots", "16Ei"] {
            assert_eq!(
                of("30s", Some(bytes)),
                Err(format!("standby.maxLagBytes \"{bytes}\" must be a size such as 64Mi"))
            );
        }
    }
}
