//! Which calls certificates lead to: made once, renewed when it is time or when somebody asks for
//! it, and left alone where there is no CA.

use super::*;
use crate::cluster::certificates::secrets::authority_of;

fn condition(world: &ControllerWorld) -> (String, String, String) {
    let status = &world.api.get("pgraftclusters", "demo").unwrap()["status"];
    let all = status["conditions"].as_array().unwrap().clone();
    let found = all.into_iter().find(|c| c["type"] == "CertificatesReady").unwrap();
    let word = |key: &str| found[key].as_str().unwrap().to_owned();
    (word("status"), word("reason"), word("message"))
}

fn field(world: &ControllerWorld, secret: &str, key: &str) -> String {
    world.api.get("secrets", secret).unwrap()["data"][key].as_str().unwrap_or_default().to_owned()
}

/// As cert-manager makes it: no label of ours, and a key of its own.
fn put_ca(world: &ControllerWorld) {
    let pair = authority_of("somebody", Timestamp::now()).unwrap();
    let data = |text: &str| {
        serde_json::to_value(k8s_openapi::ByteString(text.as_bytes().to_vec())).unwrap()
    };
    let data = json!({"tls.crt": data(&pair.certificate), "tls.key": data(&pair.key), "ca.crt": data(&pair.certificate)});
    world.api.put(
        "secrets",
        json!({"metadata": {"name": "mine", "namespace": "default"}, "data": data}),
    );
}

/// The pods have long had what is in their Secrets.
fn long_ago(world: &ControllerWorld) {
    for node in 1..=3 {
        let at = (Timestamp::now() - jiff::SignedDuration::from_hours(1)).to_string();
        world.api.change(
            "secrets",
            &format!("demo-{node}-tls"),
            &json!({"metadata": {"annotations": {"pgraft.io/trusted-since": at}}}),
        );
    }
}

#[tokio::test]
async fn a_deleted_secret_is_a_renewal_and_touches_nothing_else() {
    let world = ControllerWorld::grown(3).await;
    let (old, kept) =
        (field(&world, "demo-2-tls", "tls.crt"), field(&world, "demo-1-tls", "tls.crt"));
    world.api.remove("secrets", "demo-2-tls");
    assert_eq!(
        world.settle().await,
        "create secrets demo-2-tls\nevent CertificatesIssued: Issued the certificate of demo-2\nstatus \"Issuing certificates\"\nstatus \"Ready\""
    );
    assert_ne!(field(&world, "demo-2-tls", "tls.crt"), old);
    assert_eq!(field(&world, "demo-1-tls", "tls.crt"), kept);
    assert_eq!(field(&world, "demo-2-tls", "ca.crt"), field(&world, "demo-app", "ca.crt"));
    assert_eq!((condition(&world).0.as_str(), world.phase().as_str()), ("True", "Ready"));
}

#[tokio::test]
async fn another_duration_renews_all() {
    let world = ControllerWorld::grown(3).await;
    world.api.change(
        "pgraftclusters",
        "demo",
        &json!({"spec": {"tls": {"certificateDuration": "24h"}}}),
    );
    let calls = world.settle().await;
    let applied: Vec<&str> =
        calls.lines().filter(|line| line.starts_with("apply secrets")).collect();
    assert_eq!(
        applied,
        ["apply secrets demo-1-tls", "apply secrets demo-2-tls", "apply secrets demo-3-tls"]
    );
    assert_eq!(world.settle().await, "");
}

#[tokio::test]
async fn a_ca_of_the_users_own() {
    let world = ControllerWorld::new(
        &json!({"replicas": 1, "storage": {"size": "1Gi"}, "tls": {"caSecret": "mine"}}),
    );
    let calls = world.settle().await;
    assert!(calls.contains("event CaUnusable: there is no Secret mine with the CA"), "{calls}");
    assert!(!calls.contains("create pods"), "{calls}");
    assert_eq!(
        condition(&world),
        ("False".into(), "CaUnusable".into(), "there is no Secret mine with the CA".into())
    );
    assert_eq!(world.phase(), "No certificate for demo-1");
    put_ca(&world);
    let calls = world.settle().await;
    assert!(
        calls.contains("create secrets demo-1-tls") && calls.contains("create pods demo-1"),
        "{calls}"
    );
    assert!(world.api.get("secrets", "demo-ca").is_none());
    assert_eq!(field(&world, "demo-app", "ca.crt"), field(&world, "demo-1-tls", "ca.crt"));
}

#[tokio::test]
async fn a_ca_that_vanishes_harms_nothing_that_runs_and_another_one_takes_over_in_three_steps() {
    let world = ControllerWorld::new(
        &json!({"replicas": 3, "storage": {"size": "1Gi"}, "tls": {"caSecret": "mine"}}),
    );
    put_ca(&world);
    world.grow(3).await;
    world.api.remove("secrets", "mine");
    // Anything that asks for a close look.
    world.api.change(
        "pgraftclusters",
        "demo",
        &json!({"spec": {"inheritedMetadata": {"labels": {"a": "b"}}}}),
    );
    let calls = world.settle().await;
    assert!(calls.contains("event CaUnusable"), "{calls}");
    assert!(
        !calls.contains("-tls") && !calls.contains("create") && !calls.contains("delete"),
        "{calls}"
    );
    assert_eq!((world.phase().as_str(), condition(&world).0.as_str()), ("Ready", "False"));

    let leaf = field(&world, "demo-1-tls", "tls.crt");
    put_ca(&world);
    world.api.change(
        "pgraftclusters",
        "demo",
        &json!({"spec": {"inheritedMetadata": {"labels": {"a": "c"}}}}),
    );
    let calls = world.settle().await;
    let merged: Vec<&str> =
        calls.lines().filter(|line| line.starts_with("merge") || line.contains("-tls")).collect();
    let all = [
        "merge secrets demo-1-tls ca.crt",
        "merge secrets demo-2-tls ca.crt",
        "merge secrets demo-3-tls ca.crt",
        "merge secrets demo-app ca.crt",
    ];
    assert_eq!(merged, all, "trusted first");
    assert_eq!(field(&world, "demo-1-tls", "tls.crt"), leaf);
    long_ago(&world);
    let calls = world.settle().await;
    assert!(
        calls.contains("apply secrets demo-1-tls") && calls.contains("apply secrets demo-3-tls"),
        "{calls}"
    );
    assert_ne!(field(&world, "demo-1-tls", "tls.crt"), leaf);
    assert_eq!(condition(&world).0, "True");
}

#[tokio::test]
async fn who_leaves_takes_the_certificate_along() {
    let world = ControllerWorld::grown(2).await;
    world.scale(1);
    world.settle().await;
    world.group.retire(id(2));
    let calls = world.settle().await;
    let deleted: Vec<&str> = calls.lines().filter(|line| line.starts_with("delete")).collect();
    assert_eq!(
        deleted,
        ["delete pods demo-2", "delete persistentvolumeclaims demo-2", "delete secrets demo-2-tls"]
    );
}
