//! Certificates as they are made, read by somebody else's eyes; and the Secrets that people bring.

use k8s_openapi::ByteString;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{RootCertStore, client::danger::ServerCertVerifier};
use std::collections::BTreeSet;
use std::sync::Arc;

use super::*;
use crate::cluster::certificates::node_certificate;
use crate::cluster::fixtures::{id, wanted};

const RSA: (&str, &str) =
    (include_str!("testdata/ca-rsa.crt"), include_str!("testdata/ca-rsa-pkcs1.key"));
const EC: (&str, &str) =
    (include_str!("testdata/ca-ec.crt"), include_str!("testdata/ca-ec-sec1.key"));

fn now() -> Timestamp {
    Timestamp::from_second(Timestamp::now().as_second()).unwrap()
}

fn secret(certificate: &str, key: &str) -> Secret {
    let data = [("tls.crt", certificate), ("tls.key", key)]
        .map(|(k, v)| (k.to_owned(), ByteString(v.as_bytes().to_vec())));
    Secret { data: Some(data.into()), ..Secret::default() }
}

fn own() -> Secret {
    let pair = authority_of("demo", now()).unwrap();
    secret(&pair.certificate, &pair.key)
}

fn provider() -> Arc<rustls::crypto::CryptoProvider> {
    Arc::new(rustls::crypto::ring::default_provider())
}

/// rustls' own opinion, for each of the names.
fn is_believed(leaf: &str, ca: &Certificate, names: &[&str]) {
    let leaf = CertificateDer::from_pem_slice(leaf.as_bytes()).unwrap();
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from(ca.der.clone())).unwrap();
    let roots = Arc::new(roots);
    let server =
        rustls::client::WebPkiServerVerifier::builder_with_provider(roots.clone(), provider())
            .build()
            .unwrap();
    for name in names {
        let name = ServerName::try_from((*name).to_owned()).unwrap();
        server.verify_server_cert(&leaf, &[], &name, &[], UnixTime::now()).unwrap();
    }
    let client = rustls::server::WebPkiClientVerifier::builder_with_provider(roots, provider())
        .build()
        .unwrap();
    client.verify_client_cert(&leaf, &[], UnixTime::now()).unwrap();
}

#[test]
fn a_certificate_is_good_for_all_names_and_both_ways_whoever_the_ca_is() {
    let names = names::certificate_names("demo", "default", id(4));
    for ca in [own(), secret(RSA.0, RSA.1), secret(EC.0, EC.1)] {
        let signer = Signer::read("ca", Some(&ca)).unwrap();
        let end = now() + SignedDuration::from_hours(2160);
        let issued = signer.member(id(4), &names, now(), end).unwrap();
        let some = [
            "node-4.pgraft",
            "demo-4.demo-pods.default.svc",
            "demo-rw",
            "demo-ro.default",
            "demo-r.default.svc.cluster.local",
            "127.0.0.1",
        ];
        is_believed(&issued.certificate, &signer.certificate, &some);
        let written = render::certificate_secret(
            &wanted(3),
            id(4),
            &issued,
            std::slice::from_ref(&signer.certificate),
            now(),
        );
        let seen = node_certificate(&written, Some(&signer.certificate)).unwrap();
        assert!(seen.of_ca);
        assert_eq!(
            (seen.leaf.names, seen.leaf.not_after, seen.leaf.not_before),
            (names.clone(), end, now() - certificates::BACKDATED)
        );
        assert_eq!((seen.trusted, seen.trusted_since), (vec![signer.certificate], Some(now())));
    }
}

#[test]
fn the_operators_certificate_is_its_role() {
    let signer = Signer::read("ca", Some(&own())).unwrap();
    let pair = signer.operator(now()).unwrap();
    let der = CertificateDer::from_pem_slice(pair.certificate.as_bytes()).unwrap();
    let (_, parsed) = x509_parser::parse_x509_certificate(&der).unwrap();
    assert_eq!(parsed.subject().to_string(), "CN=pgraft_operator");
    assert_eq!(parsed.validity().not_after.timestamp() - now().as_second(), 24 * 3600);
    let usage = parsed.extended_key_usage().unwrap().unwrap().value.clone();
    assert!(usage.client_auth && !usage.server_auth);
}

#[test]
fn a_ca_that_can_not_be_used_is_refused_in_words() {
    let words =
        |secret: Option<&Secret>| certificates::authority("mine", secret).unwrap_err().to_string();
    let mut without_key = own();
    without_key.data.as_mut().unwrap().remove("tls.key");
    assert_eq!(words(None), "there is no Secret mine with the CA");
    assert_eq!(
        words(Some(&without_key)),
        "Secret mine has no tls.key: it must have tls.crt and tls.key of a CA"
    );
    assert_eq!(words(Some(&secret(RSA.0, EC.1))), "Secret mine: tls.key is not the key of tls.crt");
    assert!(
        words(Some(&secret("nonsense", EC.1)))
            .starts_with("Secret mine: tls.crt holds no certificate")
    );
    assert!(words(Some(&secret(EC.0, "nonsense"))).starts_with("Secret mine: tls.key: "));
    assert!(
        words(Some(&secret(include_str!("testdata/not-a-ca.crt"), EC.1)))
            .contains("tls.crt is no CA")
    );
}

#[test]
fn two_cas_are_never_taken_for_each_other() {
    let (one, two) =
        (Signer::read("ca", Some(&own())).unwrap(), Signer::read("ca", Some(&own())).unwrap());
    let issued = one
        .member(
            id(1),
            &BTreeSet::from(["node-1.pgraft".into()]),
            now(),
            now() + SignedDuration::from_hours(1),
        )
        .unwrap();
    let written = secret(&issued.certificate, &issued.key);
    assert!(node_certificate(&written, Some(&one.certificate)).unwrap().of_ca);
    assert!(
        !node_certificate(&written, Some(&two.certificate)).unwrap().of_ca,
        "of the same name, maybe, but another key"
    );
    assert!(
        node_certificate(&secret(&issued.certificate, EC.1), None).is_none(),
        "a key that does not belong to it"
    );
}

#[test]
fn what_is_written_is_pem_as_others_write_it() {
    let signer = Signer::read("ca", Some(&secret(RSA.0, RSA.1))).unwrap();
    assert_eq!(signer.certificate.pem(), RSA.0);
}
