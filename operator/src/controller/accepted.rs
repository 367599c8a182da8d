//! Which spec is acted on: the one that is there, or, while that makes no sense, the last one that
//! was accepted, so that healing goes on.
//!
//! It is kept in the ConfigMap `<cluster>-spec`, and not in an annotation or in the status: a
//! ConfigMap of ours changes nothing that the user (or GitOps) has written, is not rewritten with
//! every status, and comes back with a backup.

use k8s_openapi::api::core::v1::ConfigMap;
use kube::{Api, ResourceExt};

use super::apply::ObjectWriter;
use super::context::Context;
use super::error::Error;
use crate::core::ClusterSpec;
use crate::core::render::SPEC_FILE;
use crate::core::validate::{Invalid, validate};
use pgraft_api::cluster::{PgRaftCluster, PgRaftClusterSpec};
use pgraft_api::names;

/// What is acted on.
pub struct Spec {
    /// The object, with that spec.
    pub cr: PgRaftCluster,
    /// It, parsed; None where no spec was ever accepted.
    pub cluster: Option<ClusterSpec>,
    /// Why the spec that is there makes no sense.
    pub invalid: Option<Invalid>,
}

/// # Errors
/// What the API server says.
pub async fn resolve(ctx: &Context, cr: &PgRaftCluster) -> Result<Spec, Error> {
    let uid = cr.uid().unwrap_or_default();
    let invalid = match validate(cr, &ctx.defaults) {
        Ok(cluster) => {
            ctx.memories.of(&uid, |memory| {
                if memory.accepted.as_ref() != Some(&cluster.accepted) {
                    memory.accepted = Some(cluster.accepted.clone());
                }
            });
            return Ok(Spec { cr: cr.clone(), cluster: Some(cluster), invalid: None });
        }
        Err(invalid) => invalid,
    };
    let text = match ctx.memories.of(&uid, |memory| memory.accepted.clone()) {
        Some(text) => Some(text),
        None => read(ctx, cr).await?,
    };
    let accepted =
        text.and_then(|text| Some((serde_json::from_str::<PgRaftClusterSpec>(&text).ok()?, text)));
    let Some((spec, text)) = accepted else {
        return Ok(Spec { cr: cr.clone(), cluster: None, invalid: Some(invalid) });
    };
    let cr = PgRaftCluster { spec, ..cr.clone() };
    let cluster = validate(&cr, &ctx.defaults).ok();
    ctx.memories.of(&uid, |memory| memory.accepted = Some(text));
    Ok(Spec { cr, cluster, invalid: Some(invalid) })
}

/// What another operator has left.
async fn read(ctx: &Context, cr: &PgRaftCluster) -> Result<Option<String>, Error> {
    let (namespace, name) = (cr.namespace().unwrap_or_default(), cr.name_any());
    let config_map = names::accepted_spec(&name);
    match ObjectWriter::new(&ctx.client, &namespace, &name, &cr.uid().unwrap_or_default())
        .owned::<ConfigMap>(&config_map)
        .await
    {
        Ok(Some(_)) => {}
        Ok(None) | Err(Error::NotOurs { .. } | Error::MovedOn(_)) => return Ok(None),
        Err(error) => return Err(error),
    }
    let api: Api<ConfigMap> = Api::namespaced(ctx.client.clone(), &namespace);
    let found = api
        .get_opt(&config_map)
        .await
        .map_err(Error::kube(format!("read ConfigMap {config_map}")))?;
    Ok(found.and_then(|map| map.data?.remove(SPEC_FILE)))
}
