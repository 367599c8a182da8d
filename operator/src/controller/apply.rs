//! Writes to the API server: the one place where it is done, under the one field manager.
//!
//! Services, ConfigMap and PodDisruptionBudget by server-side apply. Pods, volumes and Secrets are created once; what may change on them
//! later (a label, an owner, a size) is patched by itself.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::api::{Api, DeleteParams, Patch, PatchParams, PostParams, Preconditions};
use kube::{Client, Resource, ResourceExt};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;
use std::fmt::Debug;

use super::error::{Error, is_conflict, is_gone};
use crate::core::names::FIELD_MANAGER;

/// What can be written.
pub trait Writable:
    Resource<Scope = k8s_openapi::NamespaceResourceScope, DynamicType = ()> + Clone + Debug + Serialize + DeserializeOwned
{
}
impl<K: Resource<Scope = k8s_openapi::NamespaceResourceScope, DynamicType = ()> + Clone + Debug + Serialize + DeserializeOwned> Writable
    for K
{
}

/// Writes to one namespace.
pub struct Writer {
    client: Client,
    namespace: String,
}

impl Writer {
    /// Writes to this namespace.
    pub fn new(client: &Client, namespace: &str) -> Self {
        Self { client: client.clone(), namespace: namespace.to_owned() }
    }

    fn api<K: Writable>(&self) -> Api<K> {
        Api::namespaced(self.client.clone(), &self.namespace)
    }

    /// Makes an object look as rendered, in the fields that the rendering has. Returns what the API server made of it.
    ///
    /// # Errors
    /// What the API server says.
    pub async fn apply<K: Writable>(&self, object: &K) -> Result<ObjectMeta, Error> {
        let name = object.name_any();
        let params = PatchParams::apply(FIELD_MANAGER).force();
        // An object of k8s-openapi's serializes its apiVersion and kind, as apply wants it.
        let applied =
            self.api::<K>().patch(&name, &params, &Patch::Apply(object)).await.map_err(Error::kube(tried::<K>("apply", &name)))?;
        Ok(applied.meta().clone())
    }

    /// Makes an object that is not there. One that is there already is left as it is, and is an error: it was not there when it was looked for.
    ///
    /// # Errors
    /// What the API server says.
    pub async fn create<K: Writable>(&self, object: &K) -> Result<(), Error> {
        let params = PostParams { field_manager: Some(FIELD_MANAGER.into()), ..PostParams::default() };
        self.api::<K>().create(&params, object).await.map_err(Error::kube(tried::<K>("create", &object.name_any())))?;
        Ok(())
    }

    /// Changes some fields of an object. An object that is gone needs no change.
    ///
    /// # Errors
    /// What the API server says.
    pub async fn merge<K: Writable>(&self, name: &str, patch: &Value) -> Result<(), Error> {
        let params = PatchParams { field_manager: Some(FIELD_MANAGER.into()), ..PatchParams::default() };
        match self.api::<K>().patch(name, &params, &Patch::Merge(patch)).await {
            Err(error) if !is_gone(&error) => Err(Error::kube(tried::<K>("change", name))(error)),
            Ok(_) | Err(_) => Ok(()),
        }
    }

    /// Deletes this very object: another one that has taken its name meanwhile is not meant, and stays.
    ///
    /// # Errors
    /// What the API server says.
    pub async fn delete<K: Writable>(&self, name: &str, uid: &str) -> Result<(), Error> {
        let this_one = Preconditions { uid: Some(uid.to_owned()), resource_version: None };
        match self.api::<K>().delete(name, &DeleteParams::background().preconditions(this_one)).await {
            Err(error) if !is_gone(&error) && !is_conflict(&error) => Err(Error::kube(tried::<K>("delete", name))(error)),
            Ok(_) | Err(_) => Ok(()),
        }
    }

    /// Writes the status subresource, and nothing else. Returns the object's new resource version; an object that is gone needs no status.
    ///
    /// # Errors
    /// What the API server says.
    pub async fn apply_status<K: Writable>(&self, name: &str, status: &impl Serialize) -> Result<Option<String>, Error> {
        let patch = serde_json::json!({ "apiVersion": K::api_version(&()), "kind": K::kind(&()), "status": status });
        let params = PatchParams::apply(FIELD_MANAGER).force();
        match self.api::<K>().patch_status(name, &params, &Patch::Apply(patch)).await {
            Ok(written) => Ok(written.resource_version()),
            Err(error) if is_gone(&error) => Ok(None),
            Err(error) => Err(Error::kube(tried::<K>("write the status of", name))(error)),
        }
    }
}

fn tried<K: Writable>(verb: &str, name: &str) -> String {
    format!("{verb} {} {name}", K::kind(&()))
}
