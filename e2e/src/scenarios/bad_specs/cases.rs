//! The invalid specs, and a part of the message with which each is refused.

use serde_json::{Value, json};

use crate::cluster::NAME;

/// Invalid specs, by field, with a part of the error message.
pub fn specs() -> Vec<(Value, &'static str)> {
    [
        members(),
        image(),
        postgresql(),
        storage(),
        scheduling(),
        bootstrap(),
        raft(),
        failover(),
        tls(),
    ]
    .concat()
}

fn members() -> Vec<(Value, &'static str)> {
    vec![
        (json!({"replicas": 0}), "replicas must be at least 1"),
        (json!({"replicas": -1}), "replicas must be at least 1"),
        (json!({"replicas": 65}), "replicas must be at most 64"),
        (json!({"replicas": "three"}), "spec.replicas in body must be of type integer"),
        (json!({"replica": 3}), "unknown field \"spec.replica\""),
        (
            json!({"enableSuperuserAccess": "yes"}),
            "spec.enableSuperuserAccess in body must be of type boolean",
        ),
        (
            json!({"persistentVolumeClaimRetentionPolicy": {"whenScaled": "Keep"}}),
            "Unsupported value: \"Keep\": supported values: \"Retain\", \"Delete\"",
        ),
        (
            json!({"persistentVolumeClaimRetentionPolicy": {"whenDeleted": "retain"}}),
            "Unsupported value: \"retain\"",
        ),
        (
            json!({"inheritedMetadata": {"labels": {"team": 1}}}),
            "spec.inheritedMetadata.labels.team in body must be of type string",
        ),
        (
            json!({"inheritedMetadata": {"labels": {"team": "a b!"}}}),
            "spec.inheritedMetadata.labels.team in body should match",
        ),
        (
            json!({"inheritedMetadata": {"labels": {"a b": "team"}}}),
            "inheritedMetadata.labels must have keys of at most 63 letters, digits",
        ),
        (
            json!({"inheritedMetadata": {"labels": {"pgraft.io/role": "primary"}}}),
            "inheritedMetadata.labels must not set pgraft.io/*",
        ),
        (
            json!({"inheritedMetadata": {"labels": {"app.kubernetes.io/name": "x"}}}),
            "must not set app.kubernetes.io/name",
        ),
        (
            json!({"inheritedMetadata": {"annotations": {"a b": "x"}}}),
            "inheritedMetadata.annotations must have keys of at most 63 letters, digits",
        ),
        (
            json!({"inheritedMetadata": {"annotations": ["a"]}}),
            "spec.inheritedMetadata.annotations in body must be of type object",
        ),
    ]
}

fn image() -> Vec<(Value, &'static str)> {
    vec![
        (json!({"image": ""}), "spec.image in body should be at least 1 chars long"),
        (json!({"image": "a b"}), "image must be a reference such as"),
        (
            json!({"imagePullSecrets": [{"name": "My Secret"}]}),
            "imagePullSecrets must name Secrets",
        ),
        (json!({"image": "i".repeat(1025)}), "may not be more than 1024"),
        (
            json!({"imagePullPolicy": "Sometimes"}),
            "Unsupported value: \"Sometimes\": supported values: \"Always\", \"IfNotPresent\", \"Never\"",
        ),
        (json!({"imagePullSecrets": [{}]}), "spec.imagePullSecrets[0].name: Required value"),
        (
            json!({"imagePullSecrets": ["pull"]}),
            "spec.imagePullSecrets[0] in body must be of type object",
        ),
    ]
}

fn postgresql() -> Vec<(Value, &'static str)> {
    vec![
        (
            json!({"postgresql": {"parameters": {"port": "5433"}}}),
            "postgresql.parameters must not set port",
        ),
        (
            json!({"postgresql": {"parameters": {"synchronous_standby_names": "*"}}}),
            "postgresql.parameters must not set synchronous_standby_names",
        ),
        (
            json!({"postgresql": {"parameters": {"pgraft.node_id": "9"}}}),
            "postgresql.parameters must not set pgraft.*",
        ),
        (
            json!({"postgresql": {"parameters": {"fsync": "off"}}}),
            "postgresql.parameters must not set fsync",
        ),
        (
            json!({"postgresql": {"parameters": {"include": "/etc/passwd"}}}),
            "postgresql.parameters must not set include",
        ),
        (
            json!({"postgresql": {"parameters": {"WAL_LEVEL": "logical"}}}),
            "must have lower-case parameter names as keys",
        ),
        (
            json!({"postgresql": {"parameters": {"a b": "1"}}}),
            "must have lower-case parameter names as keys",
        ),
        (
            json!({"postgresql": {"parameters": {"max_connections": 100}}}),
            "spec.postgresql.parameters.max_connections in body must be of type string",
        ),
        (
            json!({"postgresql": {"parameters": {"work_mem": "1MB\nport = 1"}}}),
            "spec.postgresql.parameters.work_mem in body should match",
        ),
        (
            json!({"postgresql": {"pg_hba": ["host all all all trust\nlocal all all trust"]}}),
            "spec.postgresql.pg_hba[0] in body should match",
        ),
        (
            json!({"postgresql": {"pg_hba": [""]}}),
            "spec.postgresql.pg_hba[0] in body should be at least 1 chars long",
        ),
    ]
}

fn storage() -> Vec<(Value, &'static str)> {
    vec![
        (json!({"storage": null}), "spec.storage: Required value"),
        (json!({"storage": {}}), "spec.storage.size: Required value"),
        (json!({"storage": {"size": "much"}}), "storage.size must be a size such as 10Gi"),
        (json!({"storage": {"size": "1Mi"}}), "and at least 128Mi"),
        (json!({"storage": {"size": "-1Gi"}}), "storage.size must be a size such as 10Gi"),
        (json!({"storage": {"size": 10}}), "spec.storage.size in body must be of type string"),
        (
            json!({"storage": {"size": "1Gi", "storageClass": "c".repeat(254)}}),
            "may not be more than 253",
        ),
    ]
}

fn scheduling() -> Vec<(Value, &'static str)> {
    vec![
        (
            json!({"resources": {"limits": "much"}}),
            "spec.resources.limits in body must be of type object",
        ),
        (
            json!({"affinity": {"podAntiAffinity": "hard"}}),
            "spec.affinity.podAntiAffinity in body must be of type object",
        ),
        (
            json!({"tolerations": [{"tolerationSeconds": "long"}]}),
            "spec.tolerations[0].tolerationSeconds in body must be of type integer",
        ),
        (
            json!({"resources": {"limits": {"memory": "much"}}}),
            "spec.resources.limits.memory in body should match",
        ),
        (
            json!({"resources": {"limits": {"mem": "1Gi"}}}),
            "resources.limits must name cpu, memory",
        ),
        (
            json!({"resources": {"limits": {"memory": "1Gi"}, "requests": {"memory": "2Gi"}}}),
            "resources.requests must not exceed resources.limits",
        ),
        (json!({"tolerations": [{"operator": "Never"}]}), "Unsupported value: \"Never\""),
        (json!({"nodeSelector": {"disk": "a b"}}), "spec.nodeSelector.disk in body should match"),
        (
            json!({"nodeSelector": {"disk type": "ssd"}}),
            "nodeSelector must have keys of at most 63 letters, digits",
        ),
        (
            json!({"nodeSelector": {"disk": true}}),
            "spec.nodeSelector.disk in body must be of type string",
        ),
        (
            json!({"topologySpreadConstraints": [{"topologyKey": "zone", "whenUnsatisfiable": "DoNotSchedule"}]}),
            "spec.topologySpreadConstraints[0].maxSkew: Required value",
        ),
    ]
}

fn bootstrap() -> Vec<(Value, &'static str)> {
    vec![
        (
            json!({"bootstrap": {"initdb": {"database": "postgres"}}}),
            "bootstrap.initdb.database must not be postgres, template0 or template1",
        ),
        (
            json!({"bootstrap": {"initdb": {"database": "1st"}}}),
            "spec.bootstrap.initdb.database in body should match",
        ),
        (
            json!({"bootstrap": {"initdb": {"owner": "pg_me"}}}),
            "bootstrap.initdb.owner must not be postgres, or start with pg_ or pgraft_",
        ),
        (
            json!({"bootstrap": {"initdb": {"owner": "postgres"}}}),
            "bootstrap.initdb.owner must not be postgres, or start with pg_ or pgraft_",
        ),
        (json!({"bootstrap": {"initdb": {"owner": "public"}}}), "must not be a keyword for roles"),
        (
            json!({"bootstrap": {"initdb": {"owner": "CURRENT_USER"}}}),
            "must not be a keyword for roles",
        ),
        (
            json!({"bootstrap": {"initdb": {"database": "replication"}}}),
            "must not be a keyword of pg_hba.conf",
        ),
        (
            json!({"bootstrap": {"initdb": {"owner": "me; drop"}}}),
            "spec.bootstrap.initdb.owner in body should match",
        ),
        (json!({"bootstrap": {"recovery": {}}}), "unknown field \"spec.bootstrap.recovery\""),
    ]
}

fn raft() -> Vec<(Value, &'static str)> {
    vec![
        (
            json!({"raft": {"heartbeatInterval": "2s", "electionTimeout": "1s"}}),
            "raft.electionTimeout must be at least three times raft.heartbeatInterval",
        ),
        (
            json!({"raft": {"heartbeatInterval": "soon"}}),
            "raft.heartbeatInterval must be a duration such as 100ms or 2s",
        ),
        (
            json!({"raft": {"heartbeatInterval": "1ms"}}),
            "raft.heartbeatInterval must be between 10ms and 60s",
        ),
        (
            json!({"raft": {"electionTimeout": "1 s"}}),
            "raft.electionTimeout must be a duration such as 100ms or 2s",
        ),
        (
            json!({"raft": {"electionTimeout": "700s"}}),
            "raft.electionTimeout must be between 100ms and 600s",
        ),
    ]
}

fn failover() -> Vec<(Value, &'static str)> {
    let switchover = |failover: Value, target: Value| json!({"failover": failover, "switchover": {"target": target}});
    let on = || json!({"enabled": true});
    vec![
        (
            json!({"failover": {"enabled": "yes"}}),
            "spec.failover.enabled in body must be of type boolean",
        ),
        (
            json!({"failover": {"leaseTimeout": "soon"}}),
            "failover.leaseTimeout must be a duration such as 500ms or 2s",
        ),
        (
            json!({"failover": {"leaseTimeout": "100ms"}}),
            "failover.leaseTimeout must be between 300ms and 600s",
        ),
        (
            json!({"failover": {"electionTimeout": "1s"}}),
            "unknown field \"spec.failover.electionTimeout\"",
        ),
        (
            json!({"failover": {"replaceAfter": "1d"}}),
            "failover.replaceAfter must be a duration such as 90s, 10m or 24h",
        ),
        (
            json!({"failover": {"replaceAfter": "5s"}}),
            "failover.replaceAfter must be between 10s and 8760h",
        ),
        (
            json!({"failover": {"replaceAfter": "30s", "leaseTimeout": "60s"}}),
            "failover.replaceAfter must be longer than failover.leaseTimeout",
        ),
        (switchover(json!({}), json!("demo-2")), "switchover requires failover.enabled"),
        (
            switchover(on(), json!("demo-02")),
            "switchover.target must be the name of a member's pod, such as demo-3",
        ),
        (
            switchover(on(), json!("demo-two")),
            "switchover.target must be the name of a member's pod, such as demo-3",
        ),
        (switchover(on(), json!("other-2")), "switchover.target must be a pod of this cluster"),
        (switchover(on(), json!(2)), "spec.switchover.target in body must be of type string"),
        (json!({"failover": on(), "switchover": {}}), "spec.switchover.target: Required value"),
    ]
}

fn tls() -> Vec<(Value, &'static str)> {
    vec![
        (
            json!({"tls": {"mode": "Sometimes"}}),
            "Unsupported value: \"Sometimes\": supported values: \"Managed\", \"Disabled\"",
        ),
        (
            json!({"tls": {"mode": "Disabled", "caSecret": "mine"}}),
            "tls.caSecret must not be set if tls.mode is Disabled",
        ),
        (
            json!({"tls": {"caSecret": ""}}),
            "spec.tls.caSecret in body should be at least 1 chars long",
        ),
        (json!({"tls": {"caSecret": format!("{NAME}-ca")}}), "tls.caSecret must not be <name>-ca"),
        (
            json!({"tls": {"certificateDuration": "soon"}}),
            "tls.certificateDuration must be in hours, such as 2160h",
        ),
        (
            json!({"tls": {"certificateDuration": "90d"}}),
            "tls.certificateDuration must be in hours, such as 2160h",
        ),
        (
            json!({"tls": {"certificateDuration": "0h"}}),
            "tls.certificateDuration must be in hours, such as 2160h",
        ),
        (
            json!({"tls": {"certificateDuration": "9000h"}}),
            "tls.certificateDuration must be between 1h and 8760h",
        ),
    ]
}

/// Invalid names of clusters.
pub fn names() -> Vec<(String, &'static str)> {
    vec![
        ("a".repeat(51), "metadata.name must be at most 50 characters long"),
        (
            "my.database".into(),
            "metadata.name must consist of lower-case letters, digits and hyphens and start with a letter",
        ),
        (
            "1st".into(),
            "metadata.name must consist of lower-case letters, digits and hyphens and start with a letter",
        ),
    ]
}

/// Invalid changes of an existing cluster.
pub fn changes() -> Vec<(Value, &'static str)> {
    vec![
        (json!({"replicas": 0}), "replicas must be at least 1"),
        (json!({"storage": {"storageClass": "other"}}), "storage.storageClass cannot be changed"),
        (json!({"bootstrap": {"initdb": {"database": "other"}}}), "bootstrap cannot be changed"),
        (json!({"storage": null}), "spec.storage: Required value"),
        (
            json!({"failover": {"enabled": true}}),
            "failover.enabled cannot be changed after the cluster was created",
        ),
        (json!({"switchover": {"target": "demo-1"}}), "switchover requires failover.enabled"),
        (json!({"tls": {"mode": "Disabled"}}), "tls.mode cannot be changed"),
    ]
}
