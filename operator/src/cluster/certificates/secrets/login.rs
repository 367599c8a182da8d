//! The operator's own login, pass by pass.

use jiff::Timestamp;
use kube::ResourceExt;
use std::sync::Arc;

use super::identity::{ClientIdentity, LoginIdentity};
use super::make::{OPERATOR_LIFETIME, Signer};
use super::read;
use crate::cluster::certificates::{TlsSeen, is_settled};
use crate::cluster::{Context, Error};
use pgraft_api::cluster::PgRaftCluster;
use pgraft_api::names::SecretKind;

/// The login of this pass, from the last one's where that still serves. None while there is no CA
/// to sign a first one, or no password.
///
/// # Errors
/// What the API server says, or a CA that can't sign.
pub async fn login(
    ctx: &Context,
    cr: &PgRaftCluster,
    tls: &TlsSeen,
    before: Option<LoginIdentity>,
    now: Timestamp,
) -> Result<Option<LoginIdentity>, Error> {
    let trusted = tls.all_trusted();
    let before = match before {
        Some(LoginIdentity::Certificate(identity)) => Some(identity),
        Some(LoginIdentity::Password(_)) | None => None,
    };
    if let Some(identity) = before.filter(|identity| serves(identity, tls, now)) {
        if identity.trusted == trusted {
            return Ok(Some(LoginIdentity::Certificate(identity)));
        }
        let ClientIdentity { shown, ca, ends, trusted: _ } = &*identity;
        return Ok(Some(LoginIdentity::Certificate(Arc::new(ClientIdentity {
            shown: shown.clone(),
            ca: ca.clone(),
            ends: *ends,
            trusted,
        }))));
    }
    if tls.ca.is_err() {
        return Ok(None);
    }
    let name = cr.spec.tls.ca_secret.clone().unwrap_or_else(|| SecretKind::Ca.name(&cr.name_any()));
    let secret = read(ctx, &cr.namespace().unwrap_or_default(), &name).await?;
    let signer = Signer::read(&name, secret.as_ref())?;
    let shown = signer.operator(now)?;
    let identity =
        ClientIdentity { shown, ca: signer.certificate, ends: now + OPERATOR_LIFETIME, trusted };
    Ok(Some(LoginIdentity::Certificate(Arc::new(identity))))
}

/// A certificate of an earlier CA is shown until the members know the present one.
fn serves(identity: &ClientIdentity, tls: &TlsSeen, now: Timestamp) -> bool {
    if identity.ends <= now {
        return false;
    }
    match &tls.ca {
        Err(_) => true,
        Ok(ca) if *ca == identity.ca => identity.ends.duration_since(now) > OPERATOR_LIFETIME / 2,
        Ok(ca) => !is_settled(ca, tls, now),
    }
}
