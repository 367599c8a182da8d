//! Certificate authorities and certificates for tests: good ones, and every kind of bad one.

#![allow(dead_code, reason = "not every test file uses all of it")]

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DnType, ExtendedKeyUsagePurpose, IsCa,
    KeyPair, KeyUsagePurpose, date_time_ymd,
};

pub const DAY: Duration = Duration::from_hours(24);

/// A certificate authority.
pub struct Ca(CertifiedIssuer<'static, KeyPair>);

/// A certificate and its key, in PEM.
#[derive(Clone)]
pub struct IssuedFiles {
    pub cert: String,
    pub key: String,
}

/// Where they stand as files.
#[derive(Clone)]
pub struct Files {
    pub cert: PathBuf,
    pub key: PathBuf,
    pub ca: PathBuf,
}

impl Ca {
    pub fn new(name: &str) -> Self {
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        Self(CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap())
    }

    pub fn pem(&self) -> String {
        self.0.pem()
    }

    /// A node's certificate, valid for a year.
    pub fn node(&self, id: impl std::fmt::Display) -> IssuedFiles {
        self.issue(&format!("node-{id}.pgraft"), 365 * DAY)
    }

    /// One that ended yesterday.
    pub fn expired(&self, id: impl std::fmt::Display) -> IssuedFiles {
        let mut params = named(&format!("node-{id}.pgraft"));
        params.not_after = date_time_ymd(1970, 1, 1) + since_epoch(SystemTime::now() - DAY);
        self.sign(&params)
    }

    /// One that is valid for `life`, an hour of which is over.
    pub fn issue(&self, name: &str, life: Duration) -> IssuedFiles {
        let mut params = named(name);
        let from = SystemTime::now() - Duration::from_hours(1);
        params.not_before = date_time_ymd(1970, 1, 1) + since_epoch(from);
        params.not_after = params.not_before + life;
        self.sign(&params)
    }

    /// One that is for servers only.
    pub fn server_only(&self, id: impl std::fmt::Display) -> IssuedFiles {
        let mut params = named(&format!("node-{id}.pgraft"));
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        self.sign(&params)
    }

    fn sign(&self, params: &CertificateParams) -> IssuedFiles {
        let key = KeyPair::generate().unwrap();
        IssuedFiles {
            cert: params.signed_by(&key, &self.0).unwrap().pem(),
            key: key.serialize_pem(),
        }
    }
}

fn since_epoch(time: SystemTime) -> Duration {
    time.duration_since(UNIX_EPOCH).unwrap()
}

fn named(name: &str) -> CertificateParams {
    let mut params = CertificateParams::new([name.to_owned()]).unwrap();
    params.not_before = date_time_ymd(2020, 1, 1);
    params.extended_key_usages =
        vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
    params
}

impl Files {
    /// In a directory of their own; `ca` may be several.
    pub fn write(dir: &Path, issued: &IssuedFiles, ca: &str) -> Self {
        fs::create_dir_all(dir).unwrap();
        let files =
            Self { cert: dir.join("tls.crt"), key: dir.join("tls.key"), ca: dir.join("ca.crt") };
        files.set_pair(issued);
        files.set_ca(ca);
        files
    }

    pub fn set_pair(&self, issued: &IssuedFiles) {
        replace(&self.key, &issued.key);
        replace(&self.cert, &issued.cert);
    }

    pub fn set_ca(&self, ca: &str) {
        replace(&self.ca, ca);
    }
}

/// Another file under the same name, as every careful tool does it.
pub fn replace(path: &Path, text: &str) {
    let temporary = path.with_extension("new");
    fs::write(&temporary, text).unwrap();
    fs::set_permissions(&temporary, fs::Permissions::from_mode(0o600)).unwrap();
    fs::rename(&temporary, path).unwrap();
}
