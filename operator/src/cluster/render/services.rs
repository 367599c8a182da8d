//! The Services: `-rw` to the primary, `-ro` to the followers, `-r` to any member, and the headless
//! `-pods` that gives each pod its host name. The first three lead to no pod whose member the
//! leader does not reach.

use k8s_openapi::api::core::v1::{Service, ServicePort, ServiceSpec};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use std::collections::BTreeMap;

use super::metadata::metadata;
use crate::cluster::ClusterSpec;
use pgraft_api::cluster::ReadWrite;
use pgraft_api::names::{self, GATEWAY_PORT, HTTP_PORT, POSTGRES_PORT, PodRole, RAFT_PORT};

/// IPv6 and IPv4 where the Kubernetes cluster has both.
const DUAL_STACK: &str = "PreferDualStack";

pub(super) fn services(want: &ClusterSpec) -> [Service; 4] {
    let name = &want.name;
    [
        read_write(want),
        service(want, names::ro_service(name), Some(PodRole::Replica), "postgres"),
        service(want, names::r_service(name), None, "postgres"),
        headless(want),
    ]
}

/// Every pod's gateway knows the primary, so that nothing has to be changed here when that is
/// another one.
fn read_write(want: &ClusterSpec) -> Service {
    let name = names::rw_service(&want.name);
    match want.read_write {
        ReadWrite::Gateway => service(want, name, None, "gateway"),
        ReadWrite::Direct => service(want, name, Some(PodRole::Primary), "postgres"),
    }
}

fn service(want: &ClusterSpec, name: String, role: Option<PodRole>, leads_to: &str) -> Service {
    let mut selector = selector(want);
    selector.insert(names::LABEL_SERVING.to_owned(), "true".to_owned());
    if let Some(role) = role {
        selector.insert(names::LABEL_ROLE.to_owned(), role.as_str().to_owned());
    }
    let port = ServicePort {
        target_port: Some(IntOrString::String(leads_to.to_owned())),
        ..port("postgres", POSTGRES_PORT)
    };
    Service {
        metadata: metadata(want, name, names::labels(&want.name)),
        spec: Some(ServiceSpec {
            type_: Some("ClusterIP".into()),
            ip_family_policy: Some(DUAL_STACK.into()),
            selector: Some(selector),
            ports: Some(vec![port]),
            ..ServiceSpec::default()
        }),
        status: None,
    }
}

/// Members must find each other before they are ready: that is how they become so.
fn headless(want: &ClusterSpec) -> Service {
    Service {
        metadata: metadata(want, names::pods_service(&want.name), names::labels(&want.name)),
        spec: Some(ServiceSpec {
            type_: Some("ClusterIP".into()),
            ip_family_policy: Some(DUAL_STACK.into()),
            cluster_ip: Some("None".into()),
            publish_not_ready_addresses: Some(true),
            selector: Some(selector(want)),
            ports: Some(vec![
                port("postgres", POSTGRES_PORT),
                port("raft", RAFT_PORT),
                port("http", HTTP_PORT),
                port("gateway", GATEWAY_PORT),
            ]),
            ..ServiceSpec::default()
        }),
        status: None,
    }
}

fn selector(want: &ClusterSpec) -> BTreeMap<String, String> {
    BTreeMap::from([(names::LABEL_CLUSTER.to_owned(), want.name.clone())])
}

fn port(name: &str, port: u16) -> ServicePort {
    ServicePort {
        name: Some(name.to_owned()),
        port: i32::from(port),
        target_port: Some(IntOrString::String(name.to_owned())),
        protocol: Some("TCP".into()),
        ..ServicePort::default()
    }
}
