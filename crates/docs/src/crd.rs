//! The fields of the CRD, from the same schema that the API server gets.

use serde_json::Value;

use crate::section::{Section, table};

/// Fields of Kubernetes' own types, which the Kubernetes documentation describes.
const FOREIGN: [&str; 5] =
    ["affinity", "resources", "tolerations", "topologySpreadConstraints", "conditions"];

/// The fields of `spec`.
pub fn spec() -> Result<Section, String> {
    fields("spec", "spec")
}

/// The fields of `status`.
pub fn status() -> Result<Section, String> {
    fields("status", "status")
}

/// The validation rules beyond types and limits, with the messages of the API server.
pub fn rules() -> Result<Section, String> {
    let mut messages = Vec::new();
    collect_rules(&schema()?, "", &mut messages);
    let rows =
        together(messages).into_iter().map(|(path, message)| vec![format!("`{path}`"), message]);
    Ok(Section {
        page: "reference-kubernetes.md",
        name: "rules",
        text: table(&["field", "message"], rows),
    })
}

fn schema() -> Result<Value, String> {
    let crd = pgraft_api::cluster::crd().map_err(|e| e.to_string())?;
    let crd = serde_json::to_value(crd).map_err(|e| e.to_string())?;
    let schema = crd.pointer("/spec/versions/0/schema/openAPIV3Schema").cloned();
    schema.ok_or_else(|| "the CRD has no schema".into())
}

fn fields(name: &'static str, top: &str) -> Result<Section, String> {
    let schema = schema()?;
    let mut rows = Vec::new();
    walk(&schema["properties"][top], top, &mut rows);
    Ok(Section {
        page: "reference-kubernetes.md",
        name,
        text: table(&["field", "type", "default", "limits", "meaning"], rows),
    })
}

fn walk(schema: &Value, path: &str, rows: &mut Vec<Vec<String>>) {
    let required: Vec<&str> =
        schema["required"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
    for (name, field) in schema["properties"].as_object().into_iter().flatten() {
        let path = format!("{path}.{name}");
        let foreign = FOREIGN.contains(&name.as_str());
        let default = match &field["default"] {
            Value::Null if required.contains(&name.as_str()) => "required".to_owned(),
            // The fields of an object have their own defaults.
            Value::Null | Value::Object(_) => String::new(),
            Value::String(text) => format!("`{text}`"),
            other => format!("`{other}`"),
        };
        let meaning = field["description"].as_str().unwrap_or_default().to_owned();
        rows.push(vec![format!("`{path}`"), kind(field, foreign), default, limits(field), meaning]);
        if !foreign {
            let inner = if field["type"] == "array" {
                (&field["items"], format!("{path}[]"))
            } else {
                (field, path)
            };
            walk(inner.0, &inner.1, rows);
        }
    }
}

fn kind(field: &Value, foreign: bool) -> String {
    let base = match (field["type"].as_str(), field["format"].as_str()) {
        (Some("array"), _) => format!("list of {}", kind(&field["items"], false)),
        (Some("object"), _) if field["additionalProperties"].is_object() => "map".to_owned(),
        (Some("string"), Some("date-time")) => "time".to_owned(),
        (Some(name), _) => name.to_owned(),
        (None, _) if field["x-kubernetes-int-or-string"] == true => "integer or string".to_owned(),
        (None, _) => "any".to_owned(),
    };
    if foreign { format!("{base} (Kubernetes)") } else { base }
}

fn limits(field: &Value) -> String {
    let mut limits = Vec::new();
    if let Some(values) = field["enum"].as_array() {
        let values: Vec<String> =
            values.iter().filter_map(Value::as_str).map(|v| format!("`{v}`")).collect();
        limits.push(values.join(", "));
    }
    for (key, word) in [
        ("minimum", "≥"),
        ("maximum", "≤"),
        ("maxLength", "characters ≤"),
        ("maxItems", "items ≤"),
        ("maxProperties", "entries ≤"),
    ] {
        if let Some(bound) = field[key].as_f64() {
            limits.push(format!("{word} {bound}"));
        }
    }
    if let Some(pattern) = field["pattern"].as_str() {
        limits.push(format!("matches `{pattern}`"));
    }
    limits.join("; ")
}

/// Puts all Postgres settings that are refused with the same message into one row.
fn together(messages: Vec<(String, String)>) -> Vec<(String, String)> {
    const BEGIN: &str = "postgresql.parameters must not set ";
    const END: &str = ": pgraft sets it itself";
    let setting = |message: &str| {
        message.strip_prefix(BEGIN).and_then(|m| m.strip_suffix(END)).map(str::to_owned)
    };
    let refused: Vec<String> = messages.iter().filter_map(|(_, m)| setting(m)).collect();
    let mut rows: Vec<_> = messages.into_iter().filter(|(_, m)| setting(m).is_none()).collect();
    if !refused.is_empty() {
        rows.push((
            "spec.postgresql.parameters".into(),
            format!("{BEGIN}NAME{END}. NAME: {}", refused.join(", ")),
        ));
    }
    rows.sort();
    rows
}

fn collect_rules(schema: &Value, path: &str, messages: &mut Vec<(String, String)>) {
    for rule in schema["x-kubernetes-validations"].as_array().into_iter().flatten() {
        if let Some(message) = rule["message"].as_str() {
            messages.push((
                if path.is_empty() { "metadata".to_owned() } else { path.to_owned() },
                message.to_owned(),
            ));
        }
    }
    for (name, field) in schema["properties"].as_object().into_iter().flatten() {
        let path = if path.is_empty() { name.clone() } else { format!("{path}.{name}") };
        collect_rules(field, &path, messages);
        collect_rules(&field["items"], &format!("{path}[]"), messages);
    }
}
