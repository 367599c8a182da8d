//! Addresses of members: a host name or an IP address, and a port.

use serde::{Deserialize, Serialize};
use std::fmt;

/// The maximum length of a DNS name (RFC 1035, section 2.3.4, without the trailing dot).
pub const MAX_HOST_LENGTH: usize = 253;

/// A checked host and port. The name need not resolve.
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

/// A host or port that is not valid. Host names are cut after 64 characters.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[serde(rename_all = "snake_case")]
pub enum InvalidAddress {
    /// An empty host.
    #[error("invalid address \"\": it must not be empty")]
    EmptyHost,
    /// A host of more than [`MAX_HOST_LENGTH`] bytes.
    #[error("invalid address \"{0}\": it must not be longer than {MAX_HOST_LENGTH} characters")]
    HostTooLong(String),
    /// A host with characters of neither a name nor an IP address.
    #[error("invalid address \"{0}\": it is neither a host name nor an IP address")]
    Host(String),
    /// A port outside 1..=65535.
    #[error("invalid port {0}: it must be between 1 and 65535")]
    Port(i64),
}

impl Address {
    /// Checks a host and a port from outside. An IPv6 address may be in brackets.
    ///
    /// # Errors
    /// [`InvalidAddress`]
    pub fn new(host: &str, port: i64) -> Result<Self, InvalidAddress> {
        let host = host
            .strip_prefix('[')
            .and_then(|h| h.strip_suffix(']'))
            .filter(|h| h.contains(':'))
            .unwrap_or(host);
        let beginning = || host.chars().take(64).collect();
        if host.is_empty() {
            return Err(InvalidAddress::EmptyHost);
        }
        if host.len() > MAX_HOST_LENGTH {
            return Err(InvalidAddress::HostTooLong(beginning()));
        }
        // Names and IPv4 have letters, digits, dots, hyphens and underscores; IPv6 also has colons
        // and the percent sign of a zone.
        if !host
            .chars()
            .all(|c| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_' | ':' | '%'))
        {
            return Err(InvalidAddress::Host(beginning()));
        }
        match u16::try_from(port) {
            Ok(port) if port > 0 => Ok(Self { host: host.to_owned(), port }),
            _ => Err(InvalidAddress::Port(port)),
        }
    }

    /// The host name or IP address, without brackets.
    pub fn host(&self) -> &str {
        &self.host
    }

    /// The TCP port.
    pub const fn port(&self) -> u16 {
        self.port
    }
}

impl TryFrom<RawAddress> for Address {
    type Error = InvalidAddress;
    fn try_from(raw: RawAddress) -> Result<Self, InvalidAddress> {
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
    fn rejects_invalid_hosts_and_ports() {
        let error = |host: &str, port| Address::new(host, port).unwrap_err().to_string();
        let long = "a".repeat(254);
        assert_eq!(error("", 1), "invalid address \"\": it must not be empty");
        assert_eq!(
            error(&long, 1),
            format!(
                "invalid address \"{}\": it must not be longer than 253 characters",
                &long[..64]
            )
        );
        assert_eq!(
            error("a b", 1),
            "invalid address \"a b\": it is neither a host name nor an IP address"
        );
        for port in [0, 65536] {
            assert_eq!(
                error("a", port),
                format!("invalid port {port}: it must be between 1 and 65535")
            );
        }
        assert!(Address::new(&long[1..], 65535).is_ok());
    }

    #[test]
    fn shows_ipv6_in_brackets() {
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
        for host in ["[10.0.0.1]", "[::1", "::1]", "[]", "[[::1]]", "*"] {
            assert!(matches!(Address::new(host, 7001), Err(InvalidAddress::Host(_))), "{host}");
        }
        assert_eq!(
            Address::new("demo-1.demo-pods", 7001).unwrap().to_string(),
            "demo-1.demo-pods:7001"
        );
    }
}
