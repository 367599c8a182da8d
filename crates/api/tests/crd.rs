//! The CRD: the committed files match the generated ones, and the CEL rules refuse invalid objects
//! with a clear message.

#![allow(clippy::unwrap_used, reason = "a test may")]

use kube_cel::Validator;
use pgraft_api::cluster::{crd, crd_yaml};
use pgraft_core::instance_config::{INCLUDE_DIRECTIVES, RESERVED_PARAMETERS};
use serde_json::{Value, json};
use std::path::Path;

#[test]
fn committed_files_match_the_generated_ones() {
    let generated = crd_yaml().unwrap();
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    for file in ["crds/pgraftclusters.yaml", "charts/pgraft-operator/files/pgraftclusters.yaml"] {
        let committed = std::fs::read_to_string(root.join(file)).unwrap();
        assert!(
            committed == generated,
            "{file} has drifted: run `cargo run -p pgraft-operator -- crd > {file}`"
        );
    }
}

fn object(spec: &Value) -> Value {
    named("demo", spec)
}

fn named(name: &str, spec: &Value) -> Value {
    json!({"apiVersion": "pgraft.io/v1alpha1", "kind": "PgRaftCluster", "metadata": {"name": name}, "spec": spec})
}

/// The messages of the API server, one for each broken rule.
fn refusals(new: &Value, old: Option<&Value>) -> Vec<String> {
    let crd = crd().unwrap();
    let schema = serde_json::to_value(
        crd.spec.versions[0].schema.as_ref().unwrap().open_api_v3_schema.as_ref().unwrap(),
    )
    .unwrap();
    match Validator::new().validate(&schema, new, old) {
        Ok(()) => Vec::new(),
        Err(errors) => errors.as_slice().iter().map(|e| e.message.clone()).collect(),
    }
}

fn refused(spec: &Value) -> Vec<String> {
    refusals(&object(spec), None)
}

#[test]
fn the_example_is_accepted() {
    let text = std::fs::read_to_string(
        Path::new(env!("CARGO_MANIFEST_DIR")).join("../../examples/cluster.yaml"),
    )
    .unwrap();
    assert_eq!(text.lines().count(), 10, "what everybody needs, and failover");
    let example: Value = serde_saphyr::from_str(&text).unwrap();
    assert_eq!(refusals(&example, None), [""; 0]);
    assert_eq!(refusals(&example, Some(&example)), [""; 0]);
}

#[test]
fn refuses_an_invalid_spec() {
    let cases = [
        (json!({"replicas": 0, "storage": {"size": "1Gi"}}), "replicas must be at least 1"),
        (json!({"replicas": 65, "storage": {"size": "1Gi"}}), "replicas must be at most 64"),
        (json!({"storage": {"size": "lots"}}), "storage.size must be a size such as 10Gi"),
        (json!({"storage": {"size": "1Mi"}}), "at least 128Mi"),
        (
            json!({"storage": {"size": "1Gi"}, "raft": {"heartbeatInterval": "2s"}}),
            "must be at least three times raft.heartbeatInterval",
        ),
        (
            json!({"storage": {"size": "1Gi"}, "raft": {"heartbeatInterval": "soon"}}),
            "raft.heartbeatInterval must be a duration such as 100ms or 2s",
        ),
        (
            json!({"storage": {"size": "1Gi"}, "postgresql": {"parameters": {"pgraft.port": "1"}}}),
            "must not set pgraft.*",
        ),
        (
            json!({"storage": {"size": "1Gi"}, "bootstrap": {"initdb": {"database": "postgres"}}}),
            "must not be postgres, template0 or template1",
        ),
        (
            json!({"storage": {"size": "1Gi"}, "bootstrap": {"initdb": {"owner": "pg_monitor"}}}),
            "must not be postgres, or start with pg_ or pgraft_",
        ),
    ];
    for (spec, words) in cases {
        let said = refused(&spec);
        assert!(said.len() == 1 && said[0].contains(words), "{spec}: {said:?}");
    }
}

#[test]
fn refuses_invalid_tls() {
    let with = |tls: Value| json!({"storage": {"size": "1Gi"}, "tls": tls});
    let cases = [
        (
            json!({"mode": "Disabled", "caSecret": "mine"}),
            "tls.caSecret must not be set if tls.mode is Disabled",
        ),
        (json!({"caSecret": "demo-ca"}), "tls.caSecret must not be <name>-ca"),
        (
            json!({"certificateDuration": "soon"}),
            "tls.certificateDuration must be in hours, such as 2160h",
        ),
        (
            json!({"certificateDuration": "0h"}),
            "tls.certificateDuration must be in hours, such as 2160h",
        ),
        (
            json!({"certificateDuration": "9000h"}),
            "tls.certificateDuration must be between 1h and 8760h",
        ),
    ];
    for (tls, words) in cases {
        let said = refused(&with(tls.clone()));
        assert!(said.len() == 1 && said[0].contains(words), "{tls}: {said:?}");
    }
    for fine in [
        json!({}),
        json!({"mode": "Disabled"}),
        json!({"caSecret": "mine", "certificateDuration": "8760h"}),
    ] {
        assert_eq!(refused(&with(fine)), [""; 0]);
    }
}

#[test]
fn refuses_an_invalid_failover_or_switchover() {
    let with = |failover: Value, switchover: Value| {
        let mut spec = json!({"storage": {"size": "1Gi"}, "failover": failover});
        if !switchover.is_null() {
            spec["switchover"] = switchover;
        }
        spec
    };
    let on = || json!({"enabled": true});
    let cases = [
        (
            json!({"leaseTimeout": "100ms"}),
            Value::Null,
            "failover.leaseTimeout must be between 300ms and 600s",
        ),
        (
            json!({"replaceAfter": "1d"}),
            Value::Null,
            "failover.replaceAfter must be a duration such as 90s, 10m or 24h",
        ),
        (
            json!({"replaceAfter": "5s"}),
            Value::Null,
            "failover.replaceAfter must be between 10s and 8760h",
        ),
        (
            json!({"replaceAfter": "30s", "leaseTimeout": "30s"}),
            Value::Null,
            "failover.replaceAfter must be longer than failover.leaseTimeout",
        ),
        (json!({}), json!({"target": "demo-3"}), "switchover requires failover.enabled"),
        (
            on(),
            json!({"target": "demo-two"}),
            "switchover.target must be the name of a member's pod, such as demo-3",
        ),
        (
            on(),
            json!({"target": "other-3"}),
            "switchover.target must be a pod of this cluster: <name>-<node id>",
        ),
    ];
    for (failover, switchover, words) in cases {
        let said = refused(&with(failover.clone(), switchover.clone()));
        assert!(said.len() == 1 && said[0].contains(words), "{failover} {switchover}: {said:?}");
    }
    for fine in [
        json!({}),
        on(),
        json!({"replaceAfter": "10s"}),
        json!({"replaceAfter": "24h", "leaseTimeout": "600s"}),
    ] {
        assert_eq!(refused(&with(fine, Value::Null)), [""; 0]);
    }
    let made = with(on(), Value::Null);
    assert_eq!(
        refusals(&object(&with(on(), json!({"target": "demo-3"}))), Some(&object(&made))),
        [""; 0]
    );
}

#[test]
fn refuses_a_change_of_the_tls_mode() {
    let with = |tls: Value| object(&json!({"storage": {"size": "1Gi"}, "tls": tls}));
    let words = "tls.mode cannot be changed: members with TLS cannot connect to members without";
    for (old, new) in [("Managed", "Disabled"), ("Disabled", "Managed")] {
        assert_eq!(
            refusals(&with(json!({"mode": new})), Some(&with(json!({"mode": old})))),
            [words]
        );
    }
    // What was left out is what is the default.
    assert_eq!(refusals(&with(json!({})), Some(&with(json!({"mode": "Disabled"})))), [words]);
    // The CA and the durations may change at any time.
    let (old, new) = (
        json!({"mode": "Managed"}),
        json!({"mode": "Managed", "caSecret": "mine", "certificateDuration": "24h"}),
    );
    assert_eq!(refusals(&with(new), Some(&with(old))), [""; 0]);
}

#[test]
fn each_reserved_parameter_is_named() {
    for name in RESERVED_PARAMETERS {
        let said = refused(
            &json!({"storage": {"size": "1Gi"}, "postgresql": {"parameters": {*name: "1", "work_mem": "8MB"}}}),
        );
        assert_eq!(
            said,
            [format!("postgresql.parameters must not set {name}: it is managed by pgraft")]
        );
    }
}

#[test]
fn what_is_no_parameter_is_refused_in_any_spelling() {
    let with = |name: &str| {
        refused(
            &json!({"storage": {"size": "1Gi"}, "postgresql": {"parameters": {name: "1", "work_mem": "8MB"}}}),
        )
    };
    for name in INCLUDE_DIRECTIVES {
        assert_eq!(
            with(name),
            [format!(
                "postgresql.parameters must not set {name}: it is not a parameter, and other files are not read"
            )]
        );
    }
    let upper =
        RESERVED_PARAMETERS.iter().chain(INCLUDE_DIRECTIVES).map(|name| name.to_ascii_uppercase());
    let bad =
        ["a b", "", "1a", "a.", ".a", "a..b", "a-b", "a=b", "wal_Level", "PGRAFT.node_id", "x\ny"]
            .map(str::to_owned);
    for name in upper.chain(bad) {
        let said = with(&name);
        assert!(
            said.len() == 1 && said[0].contains("must have lower-case parameter names as keys"),
            "{name}: {said:?}"
        );
    }
    for name in ["shared_preload_libraries", "pg_stat_statements.max", "_x", "a$1"] {
        assert_eq!(with(name), [""; 0], "{name}");
    }
}

#[test]
fn names_that_do_not_fit() {
    let spec = json!({"storage": {"size": "1Gi"}});
    assert!(refusals(&named(&"a".repeat(51), &spec), None)[0].contains("at most 50 characters"));
    for name in ["1a", "a.b", "a-"] {
        assert!(
            refusals(&named(name, &spec), None)[0]
                .contains("lower-case letters, digits and hyphens"),
            "{name}"
        );
    }
    assert_eq!(refusals(&named(&"a".repeat(50), &spec), None), [""; 0]);
}

#[test]
fn what_can_not_be_changed() {
    let old = object(&json!({"storage": {"size": "1Gi", "storageClass": "slow"}}));
    let cases = [
        (
            json!({"storage": {"size": "1Gi", "storageClass": "fast"}}),
            "storage.storageClass cannot be changed",
        ),
        (json!({"storage": {"size": "1Gi"}}), "storage.storageClass cannot be changed"),
        (
            json!({"storage": {"size": "1Gi", "storageClass": "slow"}, "bootstrap": {"initdb": {"database": "other"}}}),
            "bootstrap cannot be changed",
        ),
    ];
    for (spec, words) in cases {
        let said = refusals(&object(&spec), Some(&old));
        assert!(said.len() == 1 && said[0].contains(words), "{spec}: {said:?}");
    }
    let taken_back = json!({"storage": {"size": "512Mi", "storageClass": "slow"}});
    assert_eq!(
        refusals(&object(&taken_back), Some(&old)),
        [""; 0],
        "the operator knows what volumes have"
    );
    let fine = json!({"replicas": 7, "image": "other", "storage": {"size": "1.5Gi", "storageClass": "slow"}, "enableSuperuserAccess": true});
    assert_eq!(refusals(&object(&fine), Some(&old)), [""; 0]);
}

/// What would be refused by the API server object by object, for ever.
#[test]
fn what_no_object_could_carry() {
    let with = |field: &str, value: Value| json!({"storage": {"size": "1Gi"}, field: value});
    let labels = |key: &str| with("inheritedMetadata", json!({"labels": {key: "v"}}));
    let annotations = |key: &str| with("inheritedMetadata", json!({"annotations": {key: "v"}}));
    for key in [
        "a b",
        "",
        "-a",
        "a/b/c",
        "/a",
        "a/",
        "UPPER.example/a",
        "ä",
        "a!",
        &"a".repeat(64),
        &format!("{}/a", "a".repeat(254)),
    ] {
        for spec in [labels(key), annotations(key), with("nodeSelector", json!({key: "v"}))] {
            assert!(refused(&spec).iter().any(|words| words.contains("must have keys")), "{spec}");
        }
    }
    for key in [
        "team",
        "A_b.c-d",
        "example.com/team",
        &"a".repeat(63),
        &format!("{}/{}", "a".repeat(253), "b".repeat(63)),
    ] {
        for spec in [labels(key), annotations(key), with("nodeSelector", json!({key: "v"}))] {
            assert_eq!(refused(&spec), [""; 0], "{spec}");
        }
    }
    for key in [
        "app.kubernetes.io/name",
        "app.kubernetes.io/instance",
        "app.kubernetes.io/component",
        "app.kubernetes.io/managed-by",
    ] {
        assert_eq!(
            refused(&labels(key)),
            [format!("inheritedMetadata.labels must not set {key}: it is managed by the operator")]
        );
    }
    assert_eq!(refused(&labels("app.kubernetes.io/part-of")), [""; 0]);
    for spec in [labels("pgraft.io/role"), annotations("pgraft.io/pod-template")] {
        assert!(
            refused(&spec)[0]
                .contains("must not set pgraft.io/*: these are managed by the operator"),
            "{spec}"
        );
    }
}

#[test]
fn images_and_names_that_can_not_be() {
    let image = |image: &str| refused(&json!({"storage": {"size": "1Gi"}, "image": image}));
    let digest = format!("registry.example:5000/a/b:1@sha256:{}", "0a".repeat(32));
    for fine in [
        "postgres",
        "pgraft/postgres:1.0",
        "localhost:5000/x",
        "127.0.0.1:5000/a_b/c--d:v1",
        &digest,
    ] {
        assert_eq!(image(fine), [""; 0], "{fine}");
    }
    for bad in [
        " postgres",
        "postgres ",
        "Postgres",
        "a b",
        "a:",
        "a@sha256:1",
        "a//b",
        "https://a/b",
        "a:b:c",
    ] {
        assert_eq!(
            image(bad),
            ["image must be a reference such as registry.example/pgraft/postgres:1.0"],
            "{bad}"
        );
    }
    let secrets = [
        json!({"imagePullSecrets": [{"name": "My Secret"}]}),
        json!({"tls": {"caSecret": "Mine"}}),
        json!({"storage": {"size": "1Gi", "storageClass": "a b"}}),
    ];
    for mut spec in secrets {
        if spec.get("storage").is_none() {
            spec["storage"] = json!({"size": "1Gi"});
        }
        assert!(refused(&spec)[0].contains("lower-case letters, digits, '-' and '.'"), "{spec}");
    }
}

#[test]
fn roles_and_databases_that_are_words_of_postgres() {
    let initdb = |field: &str, name: &str| {
        refused(&json!({"storage": {"size": "1Gi"}, "bootstrap": {"initdb": {field: name}}}))
    };
    for word in [
        "public",
        "none",
        "user",
        "current_user",
        "current_role",
        "session_user",
        "all",
        "replication",
        "samerole",
        "postgres",
        "pg_x",
        "pgraft_x",
    ] {
        for name in [word.to_owned(), word.to_uppercase()] {
            assert_eq!(initdb("owner", &name).len(), 1, "{name}");
        }
    }
    for word in
        ["postgres", "template0", "TEMPLATE1", "all", "Replication", "sameuser", "samegroup"]
    {
        assert_eq!(initdb("database", word).len(), 1, "{word}");
    }
    for fine in ["app", "users", "publicity", "App", "pgbench"] {
        assert_eq!((initdb("owner", fine), initdb("database", fine)), (vec![], vec![]), "{fine}");
    }
}

#[test]
fn resources_that_no_container_could_have() {
    let refused =
        |resources: Value| refused(&json!({"storage": {"size": "1Gi"}, "resources": resources}));
    assert_eq!(
        refused(json!({"requests": {"memory": "2Gi"}, "limits": {"memory": "1Gi"}})),
        ["resources.requests must not exceed resources.limits"]
    );
    assert_eq!(
        refused(json!({"requests": {"mem": "2Gi"}})),
        [
            "resources.requests must name cpu, memory, ephemeral-storage, hugepages-<size> or <domain>/<resource>"
        ]
    );
    let fine = json!({"requests": {"memory": "1Gi", "cpu": "500m"}, "limits": {"memory": "1024Mi", "example.com/gpu": "1", "hugepages-2Mi": "64Mi"}});
    assert_eq!(refused(fine), [""; 0]);
    // Quantities by the schema itself.
    let crd = serde_json::to_value(crd().unwrap()).unwrap();
    let pattern = crd.pointer(
        "/spec/versions/0/schema/openAPIV3Schema/properties/spec/properties/resources/properties/limits/additionalProperties/pattern",
    );
    assert!(pattern.is_some());
}

/// A string that a rule goes through has an end, and so has every map and list that it goes
/// through.
fn check_bounds(schema: &Value, path: &str) {
    if schema.get("x-kubernetes-validations").is_some() {
        match schema["type"].as_str() {
            Some("string") => {
                assert!(
                    schema.get("maxLength").is_some() || schema.get("enum").is_some(),
                    "{path} has a rule and no maxLength"
                );
            }
            Some("array") => {
                assert!(schema.get("maxItems").is_some(), "{path} has a rule and no maxItems");
            }
            _ if schema.get("additionalProperties").is_some() => {
                assert!(
                    schema.get("maxProperties").is_some(),
                    "{path} has a rule and no maxProperties"
                );
            }
            _ => {}
        }
    }
    for (name, property) in schema["properties"].as_object().into_iter().flatten() {
        check_bounds(property, &format!("{path}.{name}"));
    }
    for inner in ["items", "additionalProperties"] {
        if let Some(inner) = schema.get(inner).filter(|inner| inner.is_object()) {
            check_bounds(inner, path);
        }
    }
}

/// The API server refuses a CRD whose rules could cost too much.
#[test]
fn no_rule_is_too_expensive() {
    let crd = serde_json::to_value(crd().unwrap()).unwrap();
    check_bounds(
        &crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["spec"],
        "spec",
    );
}
