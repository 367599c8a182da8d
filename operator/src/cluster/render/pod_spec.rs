//! What a member's pod is made of: restricted, without an API token, with nothing in it that
//! Kubernetes would have to be asked for after the start.

use k8s_openapi::api::core::v1::{
    Affinity, Capabilities, ConfigMapVolumeSource, Container, ContainerPort, EmptyDirVolumeSource,
    HTTPGetAction, KeyToPath, LocalObjectReference, PersistentVolumeClaimVolumeSource,
    PodAffinityTerm, PodAntiAffinity, PodSecurityContext, PodSpec, Probe, ProjectedVolumeSource,
    SeccompProfile, SecretProjection, SecurityContext, Volume, VolumeMount, VolumeProjection,
    WeightedPodAffinityTerm,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use pgraft_core::NodeId;
use std::collections::BTreeMap;

use super::places::{
    CONFIG_DIRECTORY, CONFIG_FILE, SECRETS_DIRECTORY, SOCKET_DIRECTORY, STATE_DIRECTORY,
    TLS_DIRECTORY,
};
use super::secrets::{OPERATOR_PASSWORD, REPLICATION_PASSWORD};
use crate::cluster::ClusterSpec;
use pgraft_api::cluster::PullPolicy;
use pgraft_api::names::{self, GATEWAY_PORT, HTTP_PORT, POSTGRES_PORT, RAFT_PORT, SecretKind};

/// The name of the container.
const CONTAINER: &str = "postgres";
/// The user `postgres` in the image.
const UID: i64 = 999;
/// Long enough for the fast shutdown of a busy server, with its checkpoint.
const GRACE_SECONDS: i64 = 60;

pub(super) fn spec(want: &ClusterSpec, node: NodeId, bootstrap: bool) -> PodSpec {
    let scheduling = want.scheduling.clone();
    PodSpec {
        hostname: Some(names::pod(&want.name, node)),
        subdomain: Some(names::pods_service(&want.name)),
        containers: vec![container(want, node, bootstrap)],
        volumes: Some(volumes(want, node)),
        restart_policy: Some("Always".into()),
        termination_grace_period_seconds: Some(GRACE_SECONDS),
        automount_service_account_token: Some(false),
        enable_service_links: Some(false),
        security_context: Some(pod_security()),
        image_pull_secrets: Some(
            want.image
                .pull_secrets
                .iter()
                .map(|name| LocalObjectReference { name: name.clone() })
                .collect(),
        )
        .filter(|list: &Vec<_>| !list.is_empty()),
        affinity: Some(apart(want, scheduling.affinity)),
        tolerations: Some(scheduling.tolerations).filter(|list| !list.is_empty()),
        node_selector: Some(scheduling.node_selector).filter(|map| !map.is_empty()),
        topology_spread_constraints: Some(scheduling.topology_spread)
            .filter(|list| !list.is_empty()),
        ..PodSpec::default()
    }
}

fn container(want: &ClusterSpec, node: NodeId, bootstrap: bool) -> Container {
    let mut args = vec![
        "run".to_owned(),
        "--config".to_owned(),
        format!("{CONFIG_DIRECTORY}/{CONFIG_FILE}"),
        "--node-id".to_owned(),
        node.to_string(),
        "--advertise-address".to_owned(),
        names::host(&want.name, &want.namespace, node),
    ];
    if bootstrap {
        args.push("--bootstrap".to_owned());
    }
    let pull_policy = match want.image.pull_policy {
        PullPolicy::Always => "Always",
        PullPolicy::IfNotPresent => "IfNotPresent",
        PullPolicy::Never => "Never",
    };
    Container {
        name: CONTAINER.into(),
        image: Some(want.image.name.clone()),
        image_pull_policy: Some(pull_policy.into()),
        command: Some(vec!["pgraft-instance".into()]),
        args: Some(args),
        ports: Some(vec![
            port("postgres", POSTGRES_PORT),
            port("raft", RAFT_PORT),
            port("http", HTTP_PORT),
            port("gateway", GATEWAY_PORT),
        ]),
        resources: Some(want.scheduling.resources.clone()),
        security_context: Some(container_security()),
        volume_mounts: Some(mounts(want)),
        // A long first start (a large clone, crash recovery) is no reason to kill; /livez answers
        // from the first second.
        startup_probe: Some(probe("/livez", 1, 5, 300)),
        liveness_probe: Some(probe("/livez", 10, 5, 6)),
        // What a user sees of a restart is as long as this period.
        readiness_probe: Some(probe("/readyz", 1, 2, 2)),
        ..Container::default()
    }
}

fn port(name: &str, port: u16) -> ContainerPort {
    ContainerPort {
        name: Some(name.into()),
        container_port: i32::from(port),
        protocol: Some("TCP".into()),
        ..ContainerPort::default()
    }
}

fn probe(path: &str, period: i32, timeout: i32, failures: i32) -> Probe {
    Probe {
        http_get: Some(HTTPGetAction {
            path: Some(path.into()),
            port: IntOrString::String("http".into()),
            ..HTTPGetAction::default()
        }),
        period_seconds: Some(period),
        timeout_seconds: Some(timeout),
        failure_threshold: Some(failures),
        ..Probe::default()
    }
}

fn pod_security() -> PodSecurityContext {
    PodSecurityContext {
        run_as_non_root: Some(true),
        run_as_user: Some(UID),
        run_as_group: Some(UID),
        fs_group: Some(UID),
        fs_group_change_policy: Some("OnRootMismatch".into()),
        seccomp_profile: Some(SeccompProfile {
            type_: "RuntimeDefault".into(),
            localhost_profile: None,
        }),
        ..PodSecurityContext::default()
    }
}

fn container_security() -> SecurityContext {
    SecurityContext {
        allow_privilege_escalation: Some(false),
        privileged: Some(false),
        read_only_root_filesystem: Some(true),
        capabilities: Some(Capabilities { drop: Some(vec!["ALL".into()]), add: None }),
        ..SecurityContext::default()
    }
}

fn mounts(want: &ClusterSpec) -> Vec<VolumeMount> {
    let mount = |name: &str, path: &str, read_only: bool| VolumeMount {
        name: name.into(),
        mount_path: path.into(),
        read_only: read_only.then_some(true),
        ..VolumeMount::default()
    };
    let mut mounts = vec![
        mount("data", STATE_DIRECTORY, false),
        mount("socket", SOCKET_DIRECTORY, false),
        mount("tmp", "/tmp", false),
        mount("shm", "/dev/shm", false),
        mount("instance", CONFIG_DIRECTORY, true),
        mount("secrets", SECRETS_DIRECTORY, true),
    ];
    if want.tls.is_some() {
        mounts.push(mount("tls", TLS_DIRECTORY, true));
    }
    mounts
}

fn volumes(want: &ClusterSpec, node: NodeId) -> Vec<Volume> {
    let named = |name: &str| Volume { name: name.into(), ..Volume::default() };
    let empty = |name: &str, medium: Option<&str>| Volume {
        empty_dir: Some(EmptyDirVolumeSource {
            medium: medium.map(str::to_owned),
            size_limit: None,
        }),
        ..named(name)
    };
    let mut volumes = vec![
        Volume {
            persistent_volume_claim: Some(PersistentVolumeClaimVolumeSource {
                claim_name: names::pod(&want.name, node),
                read_only: None,
            }),
            ..named("data")
        },
        empty("socket", None),
        empty("tmp", None),
        // Parallel queries need more shared memory than the 64 MiB that a container has by itself.
        empty("shm", Some("Memory")),
        Volume {
            config_map: Some(ConfigMapVolumeSource {
                name: names::instance_config(&want.name),
                ..ConfigMapVolumeSource::default()
            }),
            ..named("instance")
        },
        Volume {
            projected: Some(ProjectedVolumeSource {
                default_mode: Some(0o440),
                sources: Some(passwords(want)),
            }),
            ..named("secrets")
        },
    ];
    if want.tls.is_some() {
        // Of root and the group of the user that Postgres runs as: Postgres takes a key that nobody
        // else can read. The kubelet swaps all at once.
        let source = ProjectedVolumeSource {
            default_mode: Some(0o440),
            sources: Some(vec![certificate(want, node)]),
        };
        volumes.push(Volume { projected: Some(source), ..named("tls") });
    }
    volumes
}

/// The member's certificate, its key, and what it trusts.
fn certificate(want: &ClusterSpec, node: NodeId) -> VolumeProjection {
    let items = ["tls.crt", "tls.key", "ca.crt"].map(|key| KeyToPath {
        key: key.into(),
        path: key.into(),
        mode: None,
    });
    VolumeProjection {
        secret: Some(SecretProjection {
            name: names::certificate(&want.name, node),
            items: Some(items.to_vec()),
            optional: None,
        }),
        ..VolumeProjection::default()
    }
}

/// One directory with one file a password.
fn passwords(want: &ClusterSpec) -> Vec<VolumeProjection> {
    let from = |kind: SecretKind, items: &[(&str, &str)], optional: bool| VolumeProjection {
        secret: Some(SecretProjection {
            name: kind.name(&want.name),
            items: Some(
                items
                    .iter()
                    .map(|(key, path)| KeyToPath {
                        key: (*key).into(),
                        path: (*path).into(),
                        mode: None,
                    })
                    .collect(),
            ),
            optional: optional.then_some(true),
        }),
        ..VolumeProjection::default()
    };
    vec![
        from(
            SecretKind::Internal,
            &[(REPLICATION_PASSWORD, REPLICATION_PASSWORD), (OPERATOR_PASSWORD, OPERATOR_PASSWORD)],
            false,
        ),
        from(SecretKind::App, &[("password", "owner-password")], false),
        // Optional, so that it can be asked for later without a new pod.
        from(SecretKind::Superuser, &[("password", "superuser-password")], true),
    ]
}

/// The user's affinity; without a pod anti-affinity of theirs, members keep to different hosts
/// where that is possible.
fn apart(want: &ClusterSpec, affinity: Affinity) -> Affinity {
    let term = PodAffinityTerm {
        topology_key: "kubernetes.io/hostname".into(),
        label_selector: Some(LabelSelector {
            match_labels: Some(BTreeMap::from([(
                names::LABEL_CLUSTER.to_owned(),
                want.name.clone(),
            )])),
            ..LabelSelector::default()
        }),
        ..PodAffinityTerm::default()
    };
    let soft = || PodAntiAffinity {
        preferred_during_scheduling_ignored_during_execution: Some(vec![WeightedPodAffinityTerm {
            weight: 100,
            pod_affinity_term: term,
        }]),
        ..PodAntiAffinity::default()
    };
    Affinity {
        pod_anti_affinity: Some(affinity.pod_anti_affinity.clone().unwrap_or_else(soft)),
        ..affinity
    }
}
