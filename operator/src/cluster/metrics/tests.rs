//! The text that Prometheus reads.

use kube::runtime::{reflector, watcher};
use serde_json::json;

use super::*;
use crate::cluster::Context;
use crate::cluster::fixtures::{cr, healthy, wanted};
use crate::cluster::members::sessions::Sessions;
use crate::cluster::status::{ConditionSubject, derive};
use crate::cluster::validate::Defaults;
use crate::cluster::{Step, StepOutcome};
use crate::metrics::Metrics;
use pgraft_api::cluster::{PgRaftCluster, PgRaftClusterStatus};
use std::time::Duration;

fn cluster() -> PgRaftCluster {
    let mut cluster = cr(&json!({"replicas": 3, "storage": {"size": "1Gi"}}));
    let subject = ConditionSubject {
        name: "demo",
        namespace: "default",
        generation: Some(1),
        replicas: 3,
        template: None,
        storage: None,
        switchover: None,
        invalid: None,
    };
    cluster.status = Some(derive(
        subject,
        &healthy(&wanted(3), 3),
        &StepOutcome::Took(Step::Steady),
        &PgRaftClusterStatus::default(),
    ));
    cluster
}

#[tokio::test]
async fn a_cluster_is_in_it_for_as_long_as_it_lives() {
    let service = tower::service_fn(|_: http::Request<kube::client::Body>| async {
        Err::<http::Response<kube::client::Body>, _>(std::io::Error::other("nobody is asked"))
    });
    let client = kube::Client::new(service, "default");
    let metrics = Metrics::new();
    let context = Arc::new(Context::new(
        client,
        Arc::new(Sessions::default()),
        Defaults { image: "i".into() },
        metrics.clone(),
    ));
    let (store, mut writer) = reflector::store();
    metrics.show(Clusters { store, context: context.clone() });
    writer.apply_watcher_event(&watcher::Event::Apply(cluster()));
    context.memories.of("uid-of-demo", |m| m.leader_changes = 2);
    metrics.leading(true);
    drop(metrics.pass_begins());
    metrics.pass_ended(Duration::from_millis(40), "error", Some("Changed"));
    metrics.step("CreateVolume", Duration::from_millis(3), true);
    let text = metrics.text().unwrap();
    for name in text.lines().filter_map(|line| line.strip_prefix("# TYPE ")?.split(' ').next()) {
        assert!(
            include_str!("../../../../docs/monitoring.md").contains(name),
            "docs/monitoring.md does not know {name}"
        );
    }
    insta::assert_snapshot!(text);

    writer.apply_watcher_event(&watcher::Event::Delete(cluster()));
    let text = metrics.text().unwrap();
    assert!(
        text.lines()
            .filter(|line| !line.starts_with('#'))
            .all(|line| !line.contains("pgraft_cluster_")),
        "{text}"
    );
}
