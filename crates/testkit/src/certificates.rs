//! Certificate authorities for tests, and the certificates that they issue: valid and invalid ones.

use std::fmt::Display;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DnType, ExtendedKeyUsagePurpose, IsCa,
    KeyPair, KeyUsagePurpose, PKCS_ECDSA_P256_SHA256, date_time_ymd,
};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;

pub const DAY: Duration = Duration::from_hours(24);
pub const YEAR: Duration = Duration::from_hours(24 * 365);

/// A certificate authority.
pub struct Authority {
    issuer: CertifiedIssuer<'static, KeyPair>,
}

/// A certificate and its key, in PEM.
#[derive(Clone)]
pub struct IssuedCertificate {
    pub cert: String,
    pub key: String,
}

/// The files of a certificate, its key and the CAs.
#[derive(Clone)]
pub struct CertificateFiles {
    pub cert: PathBuf,
    pub key: PathBuf,
    pub ca: PathBuf,
}

impl Authority {
    pub fn new(name: &str) -> Self {
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        Self { issuer: CertifiedIssuer::self_signed(params, new_key()).unwrap() }
    }

    pub fn pem(&self) -> String {
        self.issuer.pem()
    }

    pub fn der(&self) -> CertificateDer<'static> {
        self.issuer.der().clone()
    }

    /// The certificate of a Raft member, valid for a year.
    pub fn node(&self, id: impl Display) -> IssuedCertificate {
        let name = node_name(id);
        self.issue(&name, &[&name], YEAR)
    }

    /// The certificate of a node whose Postgres server is reached on 127.0.0.1, valid for a year.
    pub fn server(&self, id: impl Display) -> IssuedCertificate {
        let name = node_name(id);
        self.issue(&name, &[&name, "127.0.0.1"], YEAR)
    }

    /// The certificate of a Raft member that expired a day ago.
    pub fn expired_node(&self, id: impl Display) -> IssuedCertificate {
        let name = node_name(id);
        self.expired(&name, &[&name])
    }

    /// The certificate of a Raft member that it may use as a TLS server only.
    pub fn server_only(&self, id: impl Display) -> IssuedCertificate {
        let name = node_name(id);
        let mut params = parameters(&name, &[&name]);
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        self.sign(&params)
    }

    /// A certificate that became valid an hour ago, and is valid for `life`, that hour included.
    pub fn issue(&self, common_name: &str, names: &[&str], life: Duration) -> IssuedCertificate {
        let mut params = parameters(common_name, names);
        let from = SystemTime::now() - Duration::from_hours(1);
        params.not_before = date_time_ymd(1970, 1, 1) + since_epoch(from);
        params.not_after = params.not_before + life;
        self.sign(&params)
    }

    /// A certificate that expired a day ago.
    pub fn expired(&self, common_name: &str, names: &[&str]) -> IssuedCertificate {
        let mut params = parameters(common_name, names);
        params.not_after = date_time_ymd(1970, 1, 1) + since_epoch(SystemTime::now() - DAY);
        self.sign(&params)
    }

    fn sign(&self, params: &CertificateParams) -> IssuedCertificate {
        let key = new_key();
        IssuedCertificate {
            cert: params.signed_by(&key, &self.issuer).unwrap().pem(),
            key: key.serialize_pem(),
        }
    }
}

impl IssuedCertificate {
    pub fn der(&self) -> CertificateDer<'static> {
        CertificateDer::from_pem_slice(self.cert.as_bytes()).unwrap()
    }
}

impl CertificateFiles {
    /// Writes the files into a new directory. `ca` may hold several certificates.
    pub fn write(dir: &Path, issued: &IssuedCertificate, ca: &str) -> Self {
        fs::create_dir_all(dir).unwrap();
        let files =
            Self { cert: dir.join("tls.crt"), key: dir.join("tls.key"), ca: dir.join("ca.crt") };
        files.set_pair(issued);
        files.set_ca(ca);
        files
    }

    pub fn set_pair(&self, issued: &IssuedCertificate) {
        replace(&self.key, &issued.key);
        replace(&self.cert, &issued.cert);
    }

    pub fn set_ca(&self, ca: &str) {
        replace(&self.ca, ca);
    }
}

/// Replaces a file by renaming another one over it.
pub fn replace(path: &Path, text: &str) {
    let temporary = path.with_extension("new");
    fs::write(&temporary, text).unwrap();
    fs::set_permissions(&temporary, fs::Permissions::from_mode(0o600)).unwrap();
    fs::rename(&temporary, path).unwrap();
}

fn node_name(id: impl Display) -> String {
    format!("node-{id}.pgraft")
}

fn parameters(common_name: &str, names: &[&str]) -> CertificateParams {
    let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
    let mut params = CertificateParams::new(names).unwrap();
    params.distinguished_name.push(DnType::CommonName, common_name);
    params.not_before = date_time_ymd(2020, 1, 1);
    params.extended_key_usages =
        vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
    params.use_authority_key_identifier_extension = true;
    params
}

fn new_key() -> KeyPair {
    KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).unwrap()
}

fn since_epoch(time: SystemTime) -> Duration {
    time.duration_since(UNIX_EPOCH).unwrap()
}
