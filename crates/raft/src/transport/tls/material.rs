//! Certificate, key and CA: from files to what rustls works with. A set of files that can't do its
//! work is refused here, where the owner reads why, and not by every peer in turn.

use std::fmt;
use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use pgraft_core::NodeId;
use rustls::client::danger::ServerCertVerifier;
use rustls::client::{Resumption, WebPkiServerVerifier};
use rustls::crypto::CryptoProvider;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, UnixTime};
use rustls::server::danger::ClientCertVerifier;
use rustls::server::{NoServerSessionStorage, VerifierBuilderError, WebPkiClientVerifier};
use rustls::version::TLS13;
use rustls::{CertificateError, ClientConfig, Error, RootCertStore, ServerConfig};

use super::name_of;
use super::trouble::InWords;
use crate::settings::RaftTlsFiles;

/// A certificate file is smaller than this, in bytes.
const MAX_FILE: u64 = 1 << 20;
/// Later than any certificate (RFC 5280, 4.1.2.5: the year 9999).
const NEVER: u64 = 253_402_300_800;
/// With less than this, or less than a tenth of its life left, a certificate is about to expire.
const EXPIRES_SOON_SECS: u64 = 7 * 86_400;

/// What one set of files makes.
#[derive(Debug)]
pub struct Material {
    pub client: Arc<ClientConfig>,
    pub server: Arc<ServerConfig>,
    pub validity: Validity,
}

/// From when until when this node's certificate is valid, in seconds since the Unix epoch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Validity {
    pub from: u64,
    pub until: u64,
}

/// How this node's own certificate is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Health {
    Good,
    Soon,
    Expired,
}

/// One of the three files.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Which {
    /// `pgraft.tls_cert_file`.
    Cert,
    /// `pgraft.tls_key_file`.
    Key,
    /// `pgraft.tls_ca_file`.
    Ca,
}

impl fmt::Display for Which {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Cert => "pgraft.tls_cert_file",
            Self::Key => "pgraft.tls_key_file",
            Self::Ca => "pgraft.tls_ca_file",
        })
    }
}

/// Why a set of files is no good.
#[derive(Debug, thiserror::Error)]
pub enum MaterialError {
    /// A file that can't be read.
    #[error("can't read {which} {path:?}: {source}")]
    Read {
        /// Which file.
        which: Which,
        /// Where.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// A file with something else in it.
    #[error("{which} {path:?} holds no {wanted} in PEM")]
    NotPem {
        /// Which file.
        which: Which,
        /// Where.
        path: PathBuf,
        /// What should be in it.
        wanted: &'static str,
    },
    /// A key that others can read.
    #[error(
        "pgraft.tls_key_file {path:?} has group or world access (mode {mode:04o}, owner {owner}): it must be a file of the server's user with \
         mode 0600 or less, or of root with mode 0640 or less"
    )]
    KeyNotPrivate {
        /// Where.
        path: PathBuf,
        /// Its permissions.
        mode: u32,
        /// Its user id.
        owner: u32,
    },
    /// Certificate and key don't belong together, or the key is of an unknown kind.
    #[error(
        "pgraft.tls_cert_file {cert:?} and pgraft.tls_key_file {key:?} can't be used together: {source}"
    )]
    Pair {
        /// The certificate.
        cert: PathBuf,
        /// The key.
        key: PathBuf,
        /// What the library said.
        source: Error,
    },
    /// A CA that is none.
    #[error("pgraft.tls_ca_file {path:?} can't be used: {why}")]
    Ca {
        /// Where.
        path: PathBuf,
        /// What the library said.
        why: String,
    },
    /// A certificate that no member would accept.
    #[error("the certificate of pgraft.tls_cert_file {path:?} {}", InWords(why))]
    Unfit {
        /// Where.
        path: PathBuf,
        /// What is wrong with it.
        why: CertificateError,
    },
    /// The library's own trouble.
    #[error("TLS: {0}")]
    Library(#[from] Error),
}

impl Material {
    /// Reads the files and checks that `me` can work with them. A certificate that has expired is
    /// let through: it is replaced under way.
    pub fn load(files: &RaftTlsFiles, me: NodeId) -> Result<Self, MaterialError> {
        let RaftTlsFiles { cert, key, ca } = files;
        let (cert_pem, ca_pem) =
            (read(Which::Cert, cert, |_| Ok(()))?, read(Which::Ca, ca, |_| Ok(()))?);
        let key_pem = read(Which::Key, key, |file| {
            let meta = file.metadata().map_err(|source| MaterialError::Read {
                which: Which::Key,
                path: key.clone(),
                source,
            })?;
            let (mode, owner) = (meta.mode() & 0o7777, meta.uid());
            let private = is_private(meta.is_file(), mode, owner, nix::unistd::geteuid().as_raw());
            if private {
                Ok(())
            } else {
                Err(MaterialError::KeyNotPrivate { path: key.clone(), mode, owner })
            }
        })?;
        Self::build(files, me, [&cert_pem, &key_pem, &ca_pem], UnixTime::now())
    }

    fn build(
        files: &RaftTlsFiles,
        me: NodeId,
        [cert, key, ca]: [&[u8]; 3],
        now: UnixTime,
    ) -> Result<Self, MaterialError> {
        let chain = certificates(Which::Cert, &files.cert, cert)?;
        let no_key = |_| MaterialError::NotPem {
            which: Which::Key,
            path: files.key.clone(),
            wanted: "private key",
        };
        let key = PrivateKeyDer::from_pem_slice(key).map_err(no_key)?;
        let bad_ca = |why: String| MaterialError::Ca { path: files.ca.clone(), why };
        let mut roots = RootCertStore::empty();
        for root in certificates(Which::Ca, &files.ca, ca)? {
            roots.add(root).map_err(|e| bad_ca(e.to_string()))?;
        }
        let (roots, provider) =
            (Arc::new(roots), Arc::new(rustls::crypto::ring::default_provider()));
        let no_verifier = |e: VerifierBuilderError| bad_ca(e.to_string());
        let server =
            WebPkiServerVerifier::builder_with_provider(Arc::clone(&roots), Arc::clone(&provider))
                .build()
                .map_err(no_verifier)?;
        let client = WebPkiClientVerifier::builder_with_provider(roots, Arc::clone(&provider))
            .build()
            .map_err(no_verifier)?;

        let validity = validity(&*server, &chain, me)?;
        let unfit = |error| match error {
            Error::InvalidCertificate(why) => {
                MaterialError::Unfit { path: files.cert.clone(), why }
            }
            other => MaterialError::Library(other),
        };
        fits(&*server, &*client, &chain, me, validity.nearest(now)).map_err(unfit)?;
        let pair = |source| MaterialError::Pair {
            cert: files.cert.clone(),
            key: files.key.clone(),
            source,
        };
        let (client, server) = configs(&provider, server, client, chain, key).map_err(pair)?;
        Ok(Self { client: Arc::new(client), server: Arc::new(server), validity })
    }
}

impl Validity {
    /// How it looks at a time.
    pub fn health(self, now: u64) -> Health {
        let soon = EXPIRES_SOON_SECS.min(self.until.saturating_sub(self.from) / 10);
        match self.until.checked_sub(now) {
            None => Health::Expired,
            Some(left) if left < soon => Health::Soon,
            Some(_) => Health::Good,
        }
    }

    /// The time nearest to `now` at which it is valid.
    fn nearest(self, now: UnixTime) -> UnixTime {
        at(now.as_secs().min(self.until).max(self.from))
    }
}

fn at(seconds: u64) -> UnixTime {
    UnixTime::since_unix_epoch(Duration::from_secs(seconds))
}

/// Both sides of a connection, for TLS 1.3 and without resumption: a session that goes on would not
/// look at the certificates again.
fn configs(
    provider: &Arc<CryptoProvider>,
    server: Arc<WebPkiServerVerifier>,
    client: Arc<dyn ClientCertVerifier>,
    chain: Vec<CertificateDer<'static>>,
    key: PrivateKeyDer<'static>,
) -> Result<(ClientConfig, ServerConfig), Error> {
    let mut dials = ClientConfig::builder_with_provider(Arc::clone(provider))
        .with_protocol_versions(&[&TLS13])?
        .with_webpki_verifier(server)
        .with_client_auth_cert(chain.clone(), key.clone_key())?;
    dials.resumption = Resumption::disabled();
    let mut listens = ServerConfig::builder_with_provider(Arc::clone(provider))
        .with_protocol_versions(&[&TLS13])?
        .with_client_cert_verifier(client)
        .with_single_cert(chain, key)?;
    listens.session_storage = Arc::new(NoServerSessionStorage {});
    listens.send_tls13_tickets = 0;
    Ok((dials, listens))
}

/// The dates of the certificate. The library tells them with its refusal at a time outside of them.
fn validity(
    verifier: &dyn ServerCertVerifier,
    chain: &[CertificateDer<'_>],
    me: NodeId,
) -> Result<Validity, Error> {
    let [leaf, rest @ ..] = chain else { return Err(Error::NoCertificatesPresented) };
    let name = name_of(me)?;
    let verdict = |time| verifier.verify_server_cert(leaf, rest, &name, &[], at(time));
    let until = match verdict(NEVER) {
        Err(Error::InvalidCertificate(CertificateError::ExpiredContext { not_after, .. })) => {
            not_after.as_secs()
        }
        _ => NEVER,
    };
    let from = match verdict(0) {
        Err(Error::InvalidCertificate(CertificateError::NotValidYetContext {
            not_before, ..
        })) => not_before.as_secs(),
        _ => 0,
    };
    Ok(Validity { from, until })
}

/// Whether the members would accept this certificate from `me`, on either side.
fn fits(
    server: &dyn ServerCertVerifier,
    client: &dyn ClientCertVerifier,
    chain: &[CertificateDer<'_>],
    me: NodeId,
    now: UnixTime,
) -> Result<(), Error> {
    let [leaf, rest @ ..] = chain else { return Err(Error::NoCertificatesPresented) };
    server.verify_server_cert(leaf, rest, &name_of(me)?, &[], now)?;
    client.verify_client_cert(leaf, rest, now).map(drop)
}

fn certificates(
    which: Which,
    path: &Path,
    pem: &[u8],
) -> Result<Vec<CertificateDer<'static>>, MaterialError> {
    let found: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem).collect();
    found.ok().filter(|all| !all.is_empty()).ok_or(MaterialError::NotPem {
        which,
        path: path.to_owned(),
        wanted: "certificate",
    })
}

/// Postgres' own rule for `ssl_key_file` (src/backend/libpq/be-secure-common.c,
/// `check_ssl_key_file_permissions`).
fn is_private(is_file: bool, mode: u32, owner: u32, me: u32) -> bool {
    let has_none_of = |bits: u32| mode & bits == 0;
    is_file && (owner == me && has_none_of(0o077) || owner == 0 && has_none_of(0o037))
}

/// The file's content; `check` sees the open file first, so that what is checked is what is read.
fn read(
    which: Which,
    path: &Path,
    check: impl FnOnce(&File) -> Result<(), MaterialError>,
) -> Result<Vec<u8>, MaterialError> {
    let failed = |source| MaterialError::Read { which, path: path.to_owned(), source };
    let file = File::open(path).map_err(failed)?;
    check(&file)?;
    let mut content = Vec::new();
    file.take(MAX_FILE).read_to_end(&mut content).map_err(failed)?;
    Ok(content)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_its_owners_alone() {
        let (me, root, other) = (26, 0, 27);
        for (mode, owner) in
            [(0o600, me), (0o400, me), (0o700, me), (0o600, root), (0o640, root), (0o440, root)]
        {
            assert!(is_private(true, mode, owner, me), "{mode:o} of {owner}");
        }
        for (mode, owner) in [
            (0o640, me),
            (0o604, me),
            (0o644, root),
            (0o660, root),
            (0o650, root),
            (0o600, other),
            (0o644, other),
        ] {
            assert!(!is_private(true, mode, owner, me), "{mode:o} of {owner}");
        }
        assert!(!is_private(false, 0o600, me, me));
    }

    #[test]
    fn a_certificate_is_about_to_expire_a_week_or_a_tenth_before() {
        let day = 86_400;
        let year = Validity { from: 1000, until: 1000 + 365 * day };
        assert_eq!(year.health(year.until - 7 * day), Health::Good);
        assert_eq!(year.health(year.until - 7 * day + 1), Health::Soon);
        assert_eq!(year.health(year.until), Health::Soon);
        assert_eq!(year.health(year.until + 1), Health::Expired);
        let short = Validity { from: 1000, until: 1000 + day };
        assert_eq!(short.health(1000), Health::Good);
        assert_eq!(short.health(short.until - day / 10 + 1), Health::Soon);
    }
}
