//! Where a member can be reached: a host name or an IP address, and a port.

use serde::{Deserialize, Serialize};
use std::fmt;

use crate::refusal::Refusal;

/// The longest host name that DNS can carry (RFC 1035, section 2.3.4, without the trailing dot).
pub const MAX_HOST_LENGTH: usize = 253;

/// A checked host and port. Whether the name resolves is the caller's question: this type does no
/// IO.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "RawAddress", into = "RawAddress")]
pub struct Address {
    host: String,
    port: u16,
}

#[derive(Serialize, Deserialize)]
struct RawAddress {
    host: String,
    port: u16,
}

impl Address {
    /// # Errors
    /// [`Refusal::BadAddress`] for a host that is empty, longer than 253 bytes or not made of what
    /// a host name or an IP address is made of; [`Refusal::BadPort`] for a port outside 1..=65535.
    pub fn new(host: &str, port: i64) -> Result<Self, Refusal> {
        // As an IPv6 address is written before a port.
        let host = host
            .strip_prefix('[')
            .and_then(|h| h.strip_suffix(']'))
            .filter(|h| h.contains(':'))
            .unwrap_or(host);
        let bad = |why: &str| {
            Err(Refusal::BadAddress { host: host.chars().take(64).collect(), why: why.to_owned() })
        };
        if host.is_empty() {
            return bad("it is empty");
        }
        if host.len() > MAX_HOST_LENGTH {
            return bad("it is longer than 253 characters");
        }
        // Letters, digits, dots, hyphens and underscores for names and IPv4; colons and a zone's
        // percent sign for IPv6.
        if !host
            .chars()
            .all(|c| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_' | ':' | '%'))
        {
            return bad("it is neither a host name nor an IP address");
        }
        match u16::try_from(port) {
            Ok(port) if port > 0 => Ok(Self { host: host.to_owned(), port }),
            _ => Err(Refusal::BadPort(port)),
        }
    }

    /// The host name or IP address, as it was given.
    pub fn host(&self) -> &str {
        &self.host
    }

    /// The TCP port.
    pub const fn port(&self) -> u16 {
        self.port
    }
}

impl TryFrom<RawAddress> for Address {
    type Error = Refusal;
    fn try_from(raw: RawAddress) -> Result<Self, Refusal> {
        Self::new(&raw.host, i64::from(raw.port))
    }
}

impl From<Address> for RawAddress {
    fn from(a: Address) -> Self {
        Self { host: a.host, port: a.port }
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.host.contains(':') {
            write!(f, "[{}]:{}", self.host, self.port)
        } else {
            write!(f, "{}:{}", self.host, self.port)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_refused() {
        assert!(matches!(Address::new("", 1), Err(Refusal::BadAddress { .. })));
        assert!(matches!(Address::new(&"a".repeat(254), 1), Err(Refusal::BadAddress { .. })));
        assert!(matches!(Address::new("a b", 1), Err(Refusal::BadAddress { .. })));
        assert!(matches!(Address::new("a", 0), Err(Refusal::BadPort(0))));
        assert!(matches!(Address::new("a", 65536), Err(Refusal::BadPort(65536))));
        assert!(Address::new(&"a".repeat(253), 65535).is_ok());
    }

    #[test]
    fn ipv6_is_shown_in_brackets() {
        assert_eq!(Address::new("::1", 7001).unwrap().to_string(), "[::1]:7001");
        for (given, host, shown) in [
            ("::1", "::1", "[::1]:7001"),
            ("[::1]", "::1", "[::1]:7001"),
            ("fd00::1", "fd00::1", "[fd00::1]:7001"),
            ("[fd00::1]", "fd00::1", "[fd00::1]:7001"),
            ("fe80::1%eth0", "fe80::1%eth0", "[fe80::1%eth0]:7001"),
            ("::ffff:10.0.0.1", "::ffff:10.0.0.1", "[::ffff:10.0.0.1]:7001"),
            ("10.0.0.1", "10.0.0.1", "10.0.0.1:7001"),
        ] {
            let address = Address::new(given, 7001).unwrap();
            assert_eq!((address.host(), address.to_string().as_str()), (host, shown));
        }
        for refused in ["[10.0.0.1]", "[::1", "::1]", "[]", "[[::1]]", "*"] {
            assert!(
                matches!(Address::new(refused, 7001), Err(Refusal::BadAddress { .. })),
                "{refused}"
            );
        }
        assert_eq!(
            Address::new("demo-1.demo-pods", 7001).unwrap().to_string(),
            "demo-1.demo-pods:7001"
        );
    }
}
