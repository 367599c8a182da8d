//! Writes to the API server: the one place where it is done, under the one field manager.
//!
//! Nothing is written that does not belong to the cluster. Services, ConfigMaps and
//! PodDisruptionBudget by server-side apply. Pods, volumes and Secrets are created once; what may
//! change on them later (a label, an owner, a size) is patched by itself.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ManagedFieldsEntry, ObjectMeta};
use kube::api::{Api, DeleteParams, Patch, PatchParams, PostParams, Preconditions};
use kube::{Client, Resource, ResourceExt};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use std::fmt::Debug;

use super::error::{ObjectError, is_conflict, is_gone};
use super::metadata::ObjectFact;
use pgraft_api::names::{FIELD_MANAGER, LABEL_CLUSTER};

/// What can be written.
pub trait Writable:
    Resource<Scope = k8s_openapi::NamespaceResourceScope, DynamicType = ()>
    + Clone
    + Debug
    + Serialize
    + DeserializeOwned
{
}
impl<
    K: Resource<Scope = k8s_openapi::NamespaceResourceScope, DynamicType = ()>
        + Clone
        + Debug
        + Serialize
        + DeserializeOwned,
> Writable for K
{
}

/// Writes to one namespace, for one cluster.
pub struct ObjectWriter {
    client: Client,
    namespace: String,
    cluster: String,
    uid: String,
}

impl ObjectWriter {
    /// Writes to this namespace, what belongs to the PgRaftCluster of this name and identity.
    pub fn new(client: &Client, namespace: &str, cluster: &str, uid: &str) -> Self {
        Self {
            client: client.clone(),
            namespace: namespace.to_owned(),
            cluster: cluster.to_owned(),
            uid: uid.to_owned(),
        }
    }

    fn api<K: Writable>(&self) -> Api<K> {
        Api::namespaced(self.client.clone(), &self.namespace)
    }

    /// Makes an object look as rendered, in the fields that the rendering has. Returns what the API
    /// server made of it. One that is not there is created, and one that is there is written only
    /// where it belongs to this cluster, under the identity that was seen: server-side apply alone
    /// would take over any object of the name.
    ///
    /// # Errors
    /// What the API server says; the object is somebody else's.
    pub async fn apply<K: Writable>(&self, object: &K) -> Result<ObjectMeta, ObjectError> {
        let name = object.name_any();
        let Some(there) = self.owned::<K>(&name).await? else { return self.create(object).await };
        self.hand_over_fields::<K>(&name, &there).await?;
        let mut object = object.clone();
        object.meta_mut().uid = there.uid;
        let params = PatchParams::apply(FIELD_MANAGER).force();
        // An object of k8s-openapi's serializes its apiVersion and kind, as apply wants it.
        let applied = self
            .api::<K>()
            .patch(&name, &params, &Patch::Apply(object))
            .await
            .map_err(ObjectError::kube(tried::<K>("apply", &name)))?;
        Ok(applied.meta().clone())
    }

    /// The metadata of an object that belongs to this cluster; None where there is none of this
    /// name.
    ///
    /// # Errors
    /// What the API server says; the object is somebody else's.
    pub async fn owned<K: Writable>(&self, name: &str) -> Result<Option<ObjectMeta>, ObjectError> {
        let there = self
            .api::<K>()
            .get_metadata_opt(name)
            .await
            .map_err(ObjectError::kube(tried::<K>("read", name)))?;
        let Some(there) = there else { return Ok(None) };
        let common = ObjectFact::of_metadata(&there);
        let label = there.labels().get(LABEL_CLUSTER);
        if label == Some(&self.cluster) && common.belongs_to(&self.uid) {
            return Ok(Some(there.metadata));
        }
        let what = format!("{} {name}", K::kind(&()));
        // Of an earlier PgRaftCluster of this name: Kubernetes is about to collect it.
        let earlier = label == Some(&self.cluster) && common.marked;
        Err(if earlier {
            ObjectError::Changed(what)
        } else {
            ObjectError::Foreign { what, cluster: self.cluster.clone() }
        })
    }

    /// Gives the fields that a create has set to server-side apply, as if they had been applied:
    /// only then it takes away what is no more rendered.
    async fn hand_over_fields<K: Writable>(
        &self,
        name: &str,
        there: &ObjectMeta,
    ) -> Result<(), ObjectError> {
        let Some(fields) = applied_fields(there.managed_fields.as_deref().unwrap_or_default())
        else {
            return Ok(());
        };
        let version = there.resource_version.as_deref();
        let patch = json!({ "metadata": { "uid": there.uid, "resourceVersion": version, "managedFields": fields } });
        let params =
            PatchParams { field_manager: Some(FIELD_MANAGER.into()), ..PatchParams::default() };
        let patched = self.api::<K>().patch_metadata(name, &params, &Patch::Merge(patch)).await;
        patched.map(drop).map_err(ObjectError::kube(tried::<K>("apply", name)))
    }

    /// Makes an object that is not there. One that is there already is left as it is, and is an
    /// error.
    ///
    /// # Errors
    /// What the API server says; the name is taken.
    pub async fn create<K: Writable>(&self, object: &K) -> Result<ObjectMeta, ObjectError> {
        let params =
            PostParams { field_manager: Some(FIELD_MANAGER.into()), ..PostParams::default() };
        let name = object.name_any();
        match self.api::<K>().create(&params, object).await {
            Ok(created) => Ok(created.meta().clone()),
            // It came between the look and now, or it is somebody else's.
            Err(error) if is_conflict(&error) => {
                let there = self.owned::<K>(&name).await?;
                Err(there.map_or_else(
                    || ObjectError::kube(tried::<K>("create", &name))(error),
                    |_| ObjectError::Changed(format!("{} {name}", K::kind(&()))),
                ))
            }
            Err(error) => Err(ObjectError::kube(tried::<K>("create", &name))(error)),
        }
    }

    /// Changes some fields of this very object. An object that is gone needs no change; another one
    /// under its name is refused by the API server.
    ///
    /// # Errors
    /// What the API server says.
    pub async fn merge<K: Writable>(
        &self,
        name: &str,
        uid: &str,
        mut patch: Value,
    ) -> Result<(), ObjectError> {
        patch["metadata"]["uid"] = json!(uid);
        let params =
            PatchParams { field_manager: Some(FIELD_MANAGER.into()), ..PatchParams::default() };
        match self.api::<K>().patch(name, &params, &Patch::Merge(&patch)).await {
            Err(error) if !is_gone(&error) => {
                Err(ObjectError::kube(tried::<K>("change", name))(error))
            }
            Ok(_) | Err(_) => Ok(()),
        }
    }

    /// Deletes this very object: another one that has taken its name meanwhile is not meant, and
    /// stays.
    ///
    /// # Errors
    /// What the API server says.
    pub async fn delete<K: Writable>(&self, name: &str, uid: &str) -> Result<(), ObjectError> {
        let this_one = Preconditions { uid: Some(uid.to_owned()), resource_version: None };
        match self
            .api::<K>()
            .delete(name, &DeleteParams::background().preconditions(this_one))
            .await
        {
            Err(error) if !is_gone(&error) && !is_conflict(&error) => {
                Err(ObjectError::kube(tried::<K>("delete", name))(error))
            }
            Ok(_) | Err(_) => Ok(()),
        }
    }

    /// Writes the status subresource, and nothing else. Returns the object's new resource version;
    /// an object that is gone needs no status.
    ///
    /// # Errors
    /// What the API server says.
    pub async fn apply_status<K: Writable>(
        &self,
        name: &str,
        status: &impl Serialize,
    ) -> Result<Option<String>, ObjectError> {
        let patch = serde_json::json!({ "apiVersion": K::api_version(&()), "kind": K::kind(&()), "status": status });
        let params = PatchParams::apply(FIELD_MANAGER).force();
        match self.api::<K>().patch_status(name, &params, &Patch::Apply(patch)).await {
            Ok(written) => Ok(written.resource_version()),
            Err(error) if is_gone(&error) => Ok(None),
            Err(error) => Err(ObjectError::kube(tried::<K>("write the status of", name))(error)),
        }
    }
}

/// The managed fields as they are where all that this operator has written was applied; None where
/// they are so.
fn applied_fields(fields: &[ManagedFieldsEntry]) -> Option<Vec<ManagedFieldsEntry>> {
    let created = |entry: &ManagedFieldsEntry| {
        let ours = entry.manager.as_deref() == Some(FIELD_MANAGER) && entry.subresource.is_none();
        ours && entry.operation.as_deref() == Some("Update")
    };
    let applied = |entry: &ManagedFieldsEntry| {
        let ours = entry.manager.as_deref() == Some(FIELD_MANAGER) && entry.subresource.is_none();
        ours && entry.operation.as_deref() == Some("Apply")
    };
    if !fields.iter().any(created) {
        return None;
    }
    // What was applied later replaces what was created: the API server keeps one entry a manager
    // and operation.
    let replaced = fields.iter().any(applied);
    let kept = fields.iter().filter(|entry| !(replaced && created(entry))).cloned();
    let handed = kept.map(|entry| {
        if created(&entry) {
            ManagedFieldsEntry { operation: Some("Apply".into()), ..entry }
        } else {
            entry
        }
    });
    Some(handed.collect())
}

fn tried<K: Writable>(verb: &str, name: &str) -> String {
    format!("{verb} {} {name}", K::kind(&()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(manager: &str, operation: &str, subresource: Option<&str>) -> ManagedFieldsEntry {
        let subresource = subresource.map(str::to_owned);
        ManagedFieldsEntry {
            manager: Some(manager.into()),
            operation: Some(operation.into()),
            subresource,
            ..ManagedFieldsEntry::default()
        }
    }

    #[test]
    fn what_was_created_counts_as_applied() {
        let (created, applied) =
            (entry(FIELD_MANAGER, "Update", None), entry(FIELD_MANAGER, "Apply", None));
        let others =
            [entry("kubectl", "Update", None), entry(FIELD_MANAGER, "Update", Some("status"))];
        assert_eq!(applied_fields(&[others.to_vec(), vec![applied.clone()]].concat()), None);
        let all = [others.to_vec(), vec![created.clone()]].concat();
        assert_eq!(applied_fields(&all), Some([others.to_vec(), vec![applied.clone()]].concat()));
        assert_eq!(applied_fields(&[applied.clone(), created]), Some(vec![applied]));
    }
}
