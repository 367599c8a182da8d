//! Looks at the Secrets with certificates, and carries out what `core::certificates` decides about
//! them.
//!
//! A Secret is read when its version is a new one, and then what matters of it is remembered; of
//! private keys nothing is. The CA's key is read when something is to be signed, and forgotten
//! again.

pub mod identity;
mod login;
pub mod make;
pub mod remembered;
#[cfg(test)]
mod tests;

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::Secret;
use kube::{Api, ResourceExt};
use pgraft_core::NodeId;
use std::collections::BTreeMap;
use std::hash::{DefaultHasher, Hash, Hasher};

pub use login::login;
pub use make::{Signer, authority_of};

use remembered::Remembered;

use crate::cluster::certificates::{self, CaTrouble, Certificate, NodeCertificate, TlsSeen, Work};
use crate::cluster::context::Context;
use crate::cluster::error::Error;
use crate::cluster::observe::freshness::Freshness;
use crate::cluster::spec::ClusterTls;
use crate::cluster::{ClusterSpec, Observed, plan, render};
use crate::kubernetes::ObjectFact;
use crate::kubernetes::writer::ObjectWriter;
use pgraft_api::cluster::{PgRaftCluster, TlsMode};
use pgraft_api::names::{self, SecretKind};

/// How often a user's own CA is looked at while nothing else asks for a close look: it carries no
/// label that it could be watched by.
const OWN_CA: SignedDuration = SignedDuration::from_secs(30);

/// The certificates; None where TLS is disabled. `secrets` are the cluster's own, as they are
/// listed.
///
/// # Errors
/// What the API server says.
pub async fn look(
    ctx: &Context,
    cr: &PgRaftCluster,
    secrets: &[&ObjectFact],
    now: Timestamp,
    how: Freshness,
) -> Result<Option<TlsSeen>, Error> {
    if cr.spec.tls.mode == TlsMode::Disabled {
        return Ok(None);
    }
    let observer = CertificateObserver { ctx, cr, cluster: cr.name_any(), now };
    let ca = observer.ca(secrets, how).await?;
    let mark = ca.as_ref().map_or(0, |ca| mark(&ca.der));
    let mut seen =
        TlsSeen { ca, nodes: BTreeMap::new(), uids: BTreeMap::new(), shared: BTreeMap::new() };
    for secret in secrets {
        if let Some(node) = names::certificate_of(&observer.cluster, &secret.name) {
            seen.uids.insert(node, secret.uid.clone());
            seen.nodes
                .insert(node, observer.node(node, secret, mark, seen.ca.as_ref().ok()).await?);
        }
        for kind in [SecretKind::App, SecretKind::Superuser] {
            if secret.name == kind.name(&observer.cluster) {
                seen.shared.insert(kind, observer.shared(kind, secret).await?);
            }
        }
    }
    ctx.memories.of(&observer.uid(), |memory| {
        memory.certificates.nodes.retain(|node, _| seen.nodes.contains_key(node));
    });
    Ok(Some(seen))
}

struct CertificateObserver<'a> {
    ctx: &'a Context,
    cr: &'a PgRaftCluster,
    cluster: String,
    now: Timestamp,
}

impl CertificateObserver<'_> {
    fn uid(&self) -> String {
        self.cr.uid().unwrap_or_default()
    }

    fn remembered<T>(&self, look: impl FnOnce(&mut Remembered) -> T) -> T {
        self.ctx.memories.of(&self.uid(), |memory| look(&mut memory.certificates))
    }

    async fn ca(
        &self,
        secrets: &[&ObjectFact],
        how: Freshness,
    ) -> Result<Result<Certificate, CaTrouble>, Error> {
        let (name, version) = if let Some(name) = &self.cr.spec.tls.ca_secret {
            (name.clone(), None)
        } else {
            let name = SecretKind::Ca.name(&self.cluster);
            let Some(secret) = secrets.iter().find(|s| s.name == name) else {
                return Ok(Err(CaTrouble::NotMade));
            };
            (name, Some(version(secret)))
        };
        let known = self.remembered(|r| r.ca.clone()).filter(|(of, at, _)| match &version {
            Some(version) => of == version,
            None => *of == name && how != Freshness::Live && self.now.duration_since(*at) < OWN_CA,
        });
        let ca = if let Some((_, _, ca)) = known {
            ca
        } else {
            let ca = certificates::authority(&name, self.read(&name).await?.as_ref());
            self.remembered(|r| {
                r.ca =
                    Some((version.clone().unwrap_or_else(|| name.clone()), self.now, ca.clone()));
            });
            ca
        };
        // The operator's own is renewed; whether the user's still holds depends on the time.
        let ended = |ca: &Certificate| version.is_none() && ca.not_after <= self.now;
        Ok(ca.and_then(|ca| {
            if ended(&ca) {
                Err(CaTrouble::Expired { secret: name, at: ca.not_after })
            } else {
                Ok(ca)
            }
        }))
    }

    async fn node(
        &self,
        node: NodeId,
        secret: &ObjectFact,
        mark: u64,
        ca: Option<&Certificate>,
    ) -> Result<Option<NodeCertificate>, Error> {
        // Whether the CA has signed it is a question to both.
        let version = format!("{}/{mark:x}", version(secret));
        if let Some((_, known)) =
            self.remembered(|r| r.nodes.get(&node).cloned()).filter(|(of, _)| *of == version)
        {
            return Ok(known);
        }
        let seen = self
            .read(&secret.name)
            .await?
            .and_then(|secret| certificates::node_certificate(&secret, ca));
        self.remembered(|r| r.nodes.insert(node, (version, seen.clone())));
        Ok(seen)
    }

    async fn shared(
        &self,
        kind: SecretKind,
        secret: &ObjectFact,
    ) -> Result<Vec<Certificate>, Error> {
        let version = version(secret);
        if let Some((_, known)) =
            self.remembered(|r| r.shared.get(&kind).cloned()).filter(|(of, _)| *of == version)
        {
            return Ok(known);
        }
        let data =
            self.read(&secret.name).await?.and_then(|secret| secret.data).unwrap_or_default();
        let trusted = certificates::trusted(&data);
        self.remembered(|r| r.shared.insert(kind, (version, trusted.clone())));
        Ok(trusted)
    }

    async fn read(&self, name: &str) -> Result<Option<Secret>, Error> {
        read(self.ctx, &self.cr.namespace().unwrap_or_default(), name).await
    }
}

/// Carries it out.
///
/// # Errors
/// What is left of it is decided anew, and done in the next pass.
pub async fn work(
    ctx: &Context,
    want: &ClusterSpec,
    seen: &Observed,
    todo: &[Work],
) -> Result<(), Error> {
    let (Some(tls), Some(known)) = (&want.tls, &seen.tls) else { return Ok(()) };
    let writer = ObjectWriter::new(&ctx.client, &want.namespace, &want.name, &want.uid);
    let named = plan::certified(want, seen);
    let trusted = certificates::decide(tls, known, &named, seen.now).trusted;
    let mut signer = None;
    for work in todo {
        match work {
            Work::RenewCa => {
                let ca = authority_of(&want.name, seen.now)?;
                writer.apply(&render::ca_secret(want, &ca)).await?;
            }
            Work::Issue(node) => {
                let signer = match &mut signer {
                    Some(signer) => signer,
                    None => signer.insert(read_signer(ctx, want, tls).await?),
                };
                // Somebody has put another CA there meanwhile.
                if trusted.first() != Some(&signer.certificate) {
                    return Err(Error::changed("the CA"));
                }
                let Some(subject) = named.get(node) else { continue };
                let now = Timestamp::from_second(seen.now.as_second()).unwrap_or(seen.now);
                let issued = signer.member(
                    *node,
                    &subject.names,
                    now,
                    certificates::not_after(tls, &signer.certificate, now),
                )?;
                writer
                    .apply(&render::certificate_secret(want, *node, &issued, &trusted, now))
                    .await?;
            }
            Work::Trust(node) => {
                let uid = known.uids.get(node).map(String::as_str).unwrap_or_default();
                writer
                    .merge::<Secret>(
                        &names::certificate(&want.name, *node),
                        uid,
                        render::trust_patch(&trusted, seen.now),
                    )
                    .await?;
            }
            Work::Share(kind) => {
                let uid =
                    seen.secrets.get(kind).map(|secret| secret.uid.as_str()).unwrap_or_default();
                writer
                    .merge::<Secret>(&kind.name(&want.name), uid, render::share_patch(&trusted))
                    .await?;
            }
            Work::Remove(node) => {
                let uid = known.uids.get(node).map(String::as_str).unwrap_or_default();
                writer.delete::<Secret>(&names::certificate(&want.name, *node), uid).await?;
            }
        }
    }
    Ok(())
}

async fn read_signer(ctx: &Context, want: &ClusterSpec, tls: &ClusterTls) -> Result<Signer, Error> {
    let name = tls.ca_secret.clone().unwrap_or_else(|| SecretKind::Ca.name(&want.name));
    let secret = read(ctx, &want.namespace, &name).await?;
    Ok(Signer::read(&name, secret.as_ref())?)
}

async fn read(ctx: &Context, namespace: &str, name: &str) -> Result<Option<Secret>, Error> {
    let api: Api<Secret> = Api::namespaced(ctx.client.clone(), namespace);
    api.get_opt(name).await.map_err(Error::kube(format!("read Secret {name}")))
}

fn version(secret: &ObjectFact) -> String {
    format!("{}/{}", secret.uid, secret.version)
}

fn mark(der: &[u8]) -> u64 {
    let mut hasher = DefaultHasher::new();
    der.hash(&mut hasher);
    hasher.finish()
}
