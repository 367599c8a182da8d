//! Kubernetes' quantities, as far as volumes need them: whole bytes.

/// The bytes that a quantity stands for, rounded up; None when it is none, or negative.
///
/// Source of the grammar: `k8s.io/apimachinery/pkg/api/resource`, `Quantity`.
pub fn bytes(quantity: &str) -> Option<u128> {
    let split = quantity.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(quantity.len());
    let (number, suffix) = quantity.split_at(split);
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    if whole.is_empty() && fraction.is_empty() || whole.len() + fraction.len() > 20 {
        return None;
    }
    let digits: u128 = format!("{whole}{fraction}").parse().ok()?;
    let scaled = digits.checked_mul(multiplier(suffix)?)?;
    let divisor = 10u128.checked_pow(u32::try_from(fraction.len()).ok()?)?;
    Some(scaled.div_ceil(divisor))
}

/// As people write it: in the largest binary unit without a remainder.
pub fn shown(bytes: u128) -> String {
    let units = ["Ei", "Pi", "Ti", "Gi", "Mi", "Ki"].into_iter().zip((1..=6).rev());
    let fits = units
        .map(|(unit, power)| (unit, 1024_u128.pow(power)))
        .find(|(_, size)| bytes > 0 && bytes.is_multiple_of(*size));
    fits.map_or_else(|| bytes.to_string(), |(unit, size)| format!("{}{unit}", bytes / size))
}

fn multiplier(suffix: &str) -> Option<u128> {
    const BINARY: [&str; 6] = ["Ki", "Mi", "Gi", "Ti", "Pi", "Ei"];
    const DECIMAL: [&str; 6] = ["k", "M", "G", "T", "P", "E"];
    let power = |list: &[&str], base: u128| {
        let at = list.iter().position(|s| *s == suffix)?;
        base.checked_pow(u32::try_from(at).ok()? + 1)
    };
    if suffix.is_empty() {
        return Some(1);
    }
    if let Some(factor) = power(&BINARY, 1024).or_else(|| power(&DECIMAL, 1000)) {
        return Some(factor);
    }
    let exponent = suffix.strip_prefix(['e', 'E'])?;
    10u128.checked_pow(exponent.parse().ok().filter(|n| *n <= 18)?)
}

#[cfg(test)]
mod tests {
    use super::{bytes, shown};

    #[test]
    fn as_people_write_them() {
        for text in ["1Gi", "1536Mi", "3Ki", "1023", "0", "7Ei"] {
            assert_eq!(shown(bytes(text).unwrap()), text);
        }
    }

    #[test]
    fn as_kubernetes_reads_them() {
        assert_eq!(bytes("1Gi"), Some(1 << 30));
        assert_eq!(bytes("1G"), Some(1_000_000_000));
        assert_eq!(bytes("1.5Gi"), Some(3 << 29));
        assert_eq!(bytes("0.1"), Some(1));
        assert_eq!(bytes("128974848"), Some(128_974_848));
        assert_eq!(bytes("129e6"), Some(129_000_000));
        assert_eq!(bytes("1E"), Some(1_000_000_000_000_000_000));
        for none in
            ["", "Gi", ".", "1Zi", "-1Gi", "1 Gi", "lots", "1e99", "99999999999999999999999Gi"]
        {
            assert_eq!(bytes(none), None, "{none}");
        }
    }
}
