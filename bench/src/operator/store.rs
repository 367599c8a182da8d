//! What the API server keeps: objects by kind, namespace and name, and the history that watches
//! read.

use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::sync::Arc;

/// Kind (plural), namespace, name.
pub type StoreKey = (String, String, String);

/// One line of the history.
pub struct News {
    /// When.
    pub version: u64,
    /// ADDED, MODIFIED, DELETED.
    pub type_: &'static str,
    /// Of which kind.
    pub plural: String,
    /// The object.
    pub object: Arc<Value>,
}

/// The objects.
#[derive(Default)]
pub struct ObjectStore {
    /// They.
    pub objects: BTreeMap<StoreKey, Arc<Value>>,
    /// The history.
    pub history: Vec<News>,
    /// The last version.
    pub version: u64,
}

impl ObjectStore {
    /// Stores an object under the next version; a write that changes nothing makes none, as on a
    /// real server.
    pub fn put(&mut self, key: &StoreKey, mut object: Value) -> Arc<Value> {
        let before = self.objects.get(key).cloned();
        if let Some(before) = &before {
            object["metadata"]["resourceVersion"] = before["metadata"]["resourceVersion"].clone();
            if object == **before {
                return before.clone();
            }
        }
        self.version += 1;
        object["metadata"]["namespace"] = json!(key.1);
        object["metadata"]["resourceVersion"] = json!(self.version.to_string());
        if object["metadata"]["uid"].is_null() {
            object["metadata"]["uid"] =
                json!(format!("00000000-0000-4000-8000-{:012}", self.version));
            object["metadata"]["creationTimestamp"] = json!("2026-01-01T00:00:00Z");
        }
        let object = Arc::new(object);
        self.objects.insert(key.clone(), object.clone());
        let type_ = if before.is_some() { "MODIFIED" } else { "ADDED" };
        self.history.push(News {
            version: self.version,
            type_,
            plural: key.0.clone(),
            object: object.clone(),
        });
        object
    }

    /// The objects of a kind, of one namespace or of all: a list of one cluster's is not to cost
    /// more with every other cluster.
    pub fn of_kind<'a>(
        &'a self,
        plural: &'a str,
        namespace: Option<&'a str>,
    ) -> impl Iterator<Item = (&'a StoreKey, &'a Arc<Value>)> {
        let from = (plural.to_owned(), namespace.unwrap_or_default().to_owned(), String::new());
        self.objects.range(from..).take_while(move |((p, ns, _), _)| {
            p == plural && namespace.is_none_or(|only| ns == only)
        })
    }

    /// Takes an object away.
    pub fn delete(&mut self, key: &StoreKey) -> Option<Arc<Value>> {
        let object = self.objects.remove(key)?;
        self.version += 1;
        let mut last = (*object).clone();
        last["metadata"]["resourceVersion"] = json!(self.version.to_string());
        self.history.push(News {
            version: self.version,
            type_: "DELETED",
            plural: key.0.clone(),
            object: Arc::new(last),
        });
        Some(object)
    }
}

/// `a=b` or `a`; everything where there is no selector.
pub fn selected(object: &Value, selector: Option<&str>) -> bool {
    let labels = &object["metadata"]["labels"];
    match selector.map(|s| s.split_once('=').map_or((s, None), |(key, value)| (key, Some(value)))) {
        None => true,
        Some((key, None)) => labels.get(key).is_some(),
        Some((key, Some(value))) => labels.get(key).is_some_and(|v| v == value),
    }
}

/// RFC 7396; for this purpose an apply is the same.
pub fn merge(target: &mut Value, patch: &Value) {
    let Some(fields) = patch.as_object() else {
        *target = patch.clone();
        return;
    };
    if !target.is_object() {
        *target = json!({});
    }
    for (key, value) in fields {
        if value.is_null() {
            if let Some(map) = target.as_object_mut() {
                map.remove(key);
            }
        } else {
            merge(&mut target[key], value);
        }
    }
}
