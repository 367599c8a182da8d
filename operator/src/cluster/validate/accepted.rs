//! The spec that a pass acts on: the current one, or the last valid one if the current one is
//! invalid, so that the operator goes on healing the cluster.
//!
//! The last valid spec is kept in the ConfigMap `<cluster>-spec`. An annotation or the status would
//! be worse: the ConfigMap changes nothing that the user or GitOps has written, is not rewritten
//! with every status, and is part of a backup.

use k8s_openapi::api::core::v1::ConfigMap;
use kube::{Api, ResourceExt};

use super::{Invalid, validate};
use crate::cluster::ClusterSpec;
use crate::cluster::context::Context;
use crate::cluster::error::Error;
use crate::cluster::render::SPEC_FILE;
use crate::kubernetes::{ObjectError, ObjectWriter};
use pgraft_api::cluster::{PgRaftCluster, PgRaftClusterSpec};
use pgraft_api::names;

/// The spec that a pass acts on.
pub struct EffectiveSpec {
    /// The PgRaftCluster with that spec.
    pub cr: PgRaftCluster,
    /// The result of its validation.
    pub validity: SpecValidity,
}

/// The result of a validation.
pub enum SpecValidity {
    /// The current spec is valid.
    Valid(Box<ClusterSpec>),
    /// The current spec is invalid, and this earlier one is in force.
    Previous(Box<ClusterSpec>, Invalid),
    /// The current spec is invalid, and no earlier one is known.
    Invalid(Invalid),
}

impl EffectiveSpec {
    /// The validated spec in force.
    pub fn cluster(&self) -> Option<&ClusterSpec> {
        match &self.validity {
            SpecValidity::Valid(cluster) | SpecValidity::Previous(cluster, _) => Some(cluster),
            SpecValidity::Invalid(_) => None,
        }
    }

    /// Why the current spec is invalid.
    pub fn invalid(&self) -> Option<&Invalid> {
        match &self.validity {
            SpecValidity::Valid(_) => None,
            SpecValidity::Previous(_, invalid) | SpecValidity::Invalid(invalid) => Some(invalid),
        }
    }
}

/// Validates the spec; falls back to the last valid one.
///
/// # Errors
/// The API server's error.
pub async fn effective_spec(ctx: &Context, cr: &PgRaftCluster) -> Result<EffectiveSpec, Error> {
    let uid = cr.uid().unwrap_or_default();
    let invalid = match validate(cr, &ctx.defaults) {
        Ok(cluster) => {
            ctx.memories.of(&uid, |memory| {
                if memory.accepted.as_ref() != Some(&cluster.accepted) {
                    memory.accepted = Some(cluster.accepted.clone());
                }
            });
            return Ok(EffectiveSpec {
                cr: cr.clone(),
                validity: SpecValidity::Valid(Box::new(cluster)),
            });
        }
        Err(invalid) => invalid,
    };
    let text = match ctx.memories.of(&uid, |memory| memory.accepted.clone()) {
        Some(text) => Some(text),
        None => read(ctx, cr).await?,
    };
    let previous =
        text.and_then(|text| Some((serde_json::from_str::<PgRaftClusterSpec>(&text).ok()?, text)));
    let Some((spec, text)) = previous else {
        return Ok(EffectiveSpec { cr: cr.clone(), validity: SpecValidity::Invalid(invalid) });
    };
    let cr = PgRaftCluster { spec, ..cr.clone() };
    ctx.memories.of(&uid, |memory| memory.accepted = Some(text));
    let validity = match validate(&cr, &ctx.defaults) {
        Ok(cluster) => SpecValidity::Previous(Box::new(cluster), invalid),
        Err(_) => SpecValidity::Invalid(invalid),
    };
    Ok(EffectiveSpec { cr, validity })
}

/// The last valid spec that an earlier process stored.
async fn read(ctx: &Context, cr: &PgRaftCluster) -> Result<Option<String>, Error> {
    let (namespace, name) = (cr.namespace().unwrap_or_default(), cr.name_any());
    let config_map = names::accepted_spec(&name);
    match ObjectWriter::new(&ctx.client, &namespace, &name, &cr.uid().unwrap_or_default())
        .owned::<ConfigMap>(&config_map)
        .await
    {
        Ok(Some(_)) => {}
        Ok(None) | Err(ObjectError::Foreign { .. } | ObjectError::Changed(_)) => return Ok(None),
        Err(error) => return Err(error.into()),
    }
    let api: Api<ConfigMap> = Api::namespaced(ctx.client.clone(), &namespace);
    let found = api
        .get_opt(&config_map)
        .await
        .map_err(Error::kube(format!("read ConfigMap {config_map}")))?;
    Ok(found.and_then(|map| map.data?.remove(SPEC_FILE)))
}
