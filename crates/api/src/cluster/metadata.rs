//! Labels and annotations, with the rules of the API server.

use kube::core::{Message, Rule};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// An optional DNS subdomain and a slash, and a name of at most 63 characters.
const KEY: &str = r"^([a-z0-9]([-a-z0-9]*[a-z0-9])?([.][a-z0-9]([-a-z0-9]*[a-z0-9])?)*/)?[A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?$";
/// A DNS subdomain: the name of a Secret or a storage class.
pub const OBJECT_NAME: &str = "^[a-z0-9]([-a-z0-9]*[a-z0-9])?([.][a-z0-9]([-a-z0-9]*[a-z0-9])?)*$";

/// The value of a label.
#[derive(Serialize, Deserialize, JsonSchema, Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
#[serde(transparent)]
pub struct LabelValue(
    #[schemars(
        length(max = 63),
        regex(pattern = r"^([A-Za-z0-9]([-A-Za-z0-9_.]*[A-Za-z0-9])?)?$")
    )]
    pub String,
);

/// The value of an annotation. 64 of the maximum length fit into an object.
#[derive(Serialize, Deserialize, JsonSchema, Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
#[serde(transparent)]
pub struct AnnotationValue(#[schemars(length(max = 3584))] pub String);

/// Labels and annotations for all objects of a cluster.
#[derive(Serialize, Deserialize, JsonSchema, Debug, Clone, PartialEq, Eq, Default)]
#[serde(rename_all = "camelCase")]
pub struct InheritedMetadata {
    /// Labels, except those that the operator sets.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(extend("maxProperties" = 64, "x-kubernetes-validations" = label_rules()))]
    pub labels: BTreeMap<String, LabelValue>,

    /// Annotations, except those that the operator sets.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(extend("maxProperties" = 64, "x-kubernetes-validations" = annotation_rules()))]
    pub annotations: BTreeMap<String, AnnotationValue>,
}

impl InheritedMetadata {
    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.labels.is_empty() && self.annotations.is_empty()
    }
}

/// The keys of a map are names of labels or annotations.
pub fn key_rules(field: &str) -> Vec<Rule> {
    let message = |text: &str| Message::Message(format!("{field} {text}"));
    vec![
        Rule::new(format!("self.all(key, key.matches('{KEY}'))")).message(message(
            "must have keys of at most 63 letters, digits, '-', '_' and '.', with an optional prefix of a DNS subdomain and '/'",
        )),
        Rule::new("self.all(key, key.size() <= 317 && key.indexOf('/') <= 253)").message(message("must have keys with a prefix of at most 253 characters")),
    ]
}

fn label_rules() -> Vec<Rule> {
    let field = "inheritedMetadata.labels";
    let own = ["name", "instance", "component", "managed-by"];
    let reserved = own.map(|name| {
        let key = format!("app.kubernetes.io/{name}");
        Rule::new(format!("!('{key}' in self)")).message(Message::Message(format!(
            "{field} must not set {key}: it is managed by the operator"
        )))
    });
    [key_rules(field), vec![no_key_of_ours(field)], reserved.to_vec()].concat()
}

fn annotation_rules() -> Vec<Rule> {
    let field = "inheritedMetadata.annotations";
    [key_rules(field), vec![no_key_of_ours(field)]].concat()
}

fn no_key_of_ours(field: &str) -> Rule {
    Rule::new("self.all(key, !key.startsWith('pgraft.io/'))").message(Message::Message(format!(
        "{field} must not set pgraft.io/*: these are managed by the operator"
    )))
}
