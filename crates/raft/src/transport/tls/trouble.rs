//! Why there is no TLS connection, in words that a person can act on. The words follow from the
//! library's error; nothing else is asked.

use std::fmt;
use std::io;
use std::time::Duration;

use rustls::{AlertDescription, CertificateError, Error, InvalidMessage};

/// Why there is no connection. "It" is the peer.
#[derive(Debug, thiserror::Error)]
pub enum Trouble {
    /// The network or the peer's process; nothing that a certificate could mend.
    #[error(transparent)]
    Network(io::Error),
    /// The peer's certificate was refused here.
    #[error("its certificate {}", InWords(.0))]
    TheirCertificate(CertificateError),
    /// This node's certificate was refused there.
    #[error("it refuses this node's certificate: {}", refusal(*.0))]
    OurCertificate(AlertDescription),
    /// A dialler without a certificate.
    #[error("it shows no certificate")]
    NoCertificate,
    /// Plain text on a TLS port.
    #[error(
        "it does not speak TLS: set pgraft.tls_cert_file, pgraft.tls_key_file and pgraft.tls_ca_file on every node"
    )]
    SpeaksPlainly,
    /// TLS on a plain port.
    #[error(
        "it speaks TLS, and this node does not: set pgraft.tls_cert_file, pgraft.tls_key_file and pgraft.tls_ca_file on every node"
    )]
    SpeaksTls,
    /// Anything else between two TLS libraries.
    #[error("TLS: {0}")]
    Protocol(Error),
}

impl From<Error> for Trouble {
    fn from(error: Error) -> Self {
        use AlertDescription as A;
        match error {
            Error::InvalidCertificate(why) => Self::TheirCertificate(why),
            Error::NoCertificatesPresented => Self::NoCertificate,
            Error::InvalidMessage(InvalidMessage::InvalidContentType) => Self::SpeaksPlainly,
            Error::AlertReceived(
                alert @ (A::BadCertificate
                | A::UnsupportedCertificate
                | A::CertificateRevoked
                | A::CertificateExpired
                | A::CertificateUnknown
                | A::UnknownCA
                | A::AccessDenied
                | A::DecryptError
                | A::CertificateRequired),
            ) => Self::OurCertificate(alert),
            other => Self::Protocol(other),
        }
    }
}

/// What the peer meant, by the alert that its library sends for it (RFC 8446, 6.2).
fn refusal(alert: AlertDescription) -> &'static str {
    match alert {
        AlertDescription::CertificateExpired => "expired, or not valid yet by its clock",
        AlertDescription::UnknownCA => "signed by no CA of its pgraft.tls_ca_file",
        AlertDescription::UnsupportedCertificate => {
            "the extended key usage must allow serverAuth and clientAuth"
        }
        AlertDescription::BadCertificate => "damaged, or not for this node's name",
        AlertDescription::CertificateRequired => "none was shown",
        AlertDescription::CertificateRevoked => "revoked",
        AlertDescription::DecryptError => "its signature is wrong",
        _ => "its log says more",
    }
}

/// A certificate's fault, put after "its certificate" or "the certificate".
pub struct InWords<'a>(pub &'a CertificateError);

impl fmt::Display for InWords<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            CertificateError::ExpiredContext { time, not_after } => {
                write!(f, "expired {} ago", span(seconds(time.as_secs(), not_after.as_secs())))
            }
            CertificateError::NotValidYetContext { time, not_before } => {
                let wait = span(seconds(not_before.as_secs(), time.as_secs()));
                write!(f, "is not valid for another {wait}: are the clocks of both hosts right?")
            }
            CertificateError::UnknownIssuer => f.write_str("is signed by no CA of pgraft.tls_ca_file"),
            CertificateError::NotValidForNameContext { expected, presented } if presented.is_empty() => {
                write!(f, "has no DNS name in its subjectAltName, and {} is wanted", expected.to_str())
            }
            CertificateError::NotValidForNameContext { expected, presented } => {
                write!(
                    f,
                    "is for {}, and {} is wanted",
                    presented.join(", ").replace("DnsName(", "").replace([')', '"'], ""),
                    expected.to_str()
                )
            }
            CertificateError::InvalidPurpose | CertificateError::InvalidPurposeContext { .. } => {
                f.write_str("may not be used for this: its extended key usage must allow serverAuth and clientAuth")
            }
            other => write!(f, "can't be used: {other}"),
        }
    }
}

fn seconds(later: u64, earlier: u64) -> Duration {
    Duration::from_secs(later.saturating_sub(earlier))
}

/// A span of time in its largest unit.
pub fn span(time: Duration) -> String {
    let seconds = time.as_secs();
    let (n, unit) = match seconds {
        0..120 => (seconds, "second"),
        120..7200 => (seconds / 60, "minute"),
        7200..172_800 => (seconds / 3600, "hour"),
        _ => (seconds / 86_400, "day"),
    };
    format!("{n} {unit}{}", if n == 1 { "" } else { "s" })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spans_read_well() {
        let shown = [0, 1, 119, 120, 7199, 7200, 172_799, 172_800, 31_536_000]
            .map(|s| span(Duration::from_secs(s)));
        assert_eq!(
            shown,
            [
                "0 seconds",
                "1 second",
                "119 seconds",
                "2 minutes",
                "119 minutes",
                "2 hours",
                "47 hours",
                "2 days",
                "365 days"
            ]
        );
    }
}
