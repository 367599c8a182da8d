//! The objects of the API server by kind, namespace and name, and the history for watches.

use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::sync::Arc;

/// Kind (plural), namespace and name.
pub type StoreKey = (String, String, String);

/// An event of the history.
pub struct News {
    /// The resource version.
    pub version: u64,
    /// ADDED, MODIFIED, DELETED.
    pub type_: &'static str,
    /// The kind (plural).
    pub plural: String,
    /// The object.
    pub object: Arc<Value>,
}

/// The stored objects.
#[derive(Default)]
pub struct ObjectStore {
    /// The objects.
    pub objects: BTreeMap<StoreKey, Arc<Value>>,
    /// The events.
    pub history: Vec<News>,
    /// The latest resource version.
    pub version: u64,
}

impl ObjectStore {
    /// Stores an object under the next version. A write that changes nothing creates no version, as
    /// on a real server.
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

    /// The objects of a kind, in one namespace or in all. A list for one cluster must not take
    /// longer with every other cluster.
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

    /// Removes an object.
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

/// Whether labels match a selector `a=b` or `a`, or there is no selector.
pub fn selected(object: &Value, selector: Option<&str>) -> bool {
    let labels = &object["metadata"]["labels"];
    match selector.map(|s| s.split_once('=').map_or((s, None), |(key, value)| (key, Some(value)))) {
        None => true,
        Some((key, None)) => labels.get(key).is_some(),
        Some((key, Some(value))) => labels.get(key).is_some_and(|v| v == value),
    }
}

/// JSON merge patch (RFC 7396), which is also used for apply.
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
