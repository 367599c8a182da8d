//! A table of routes, and properties of merged views in any order.

use super::*;
use pgraft_core::{Address, ClusterId};
use proptest::prelude::*;

const LEASE: Duration = Duration::from_secs(2);

fn id(n: i64) -> NodeId {
    NodeId::new(n).unwrap()
}

fn cluster(n: u8) -> ClusterId {
    serde_json::from_value(serde_json::json!(format!("00000000-0000-0000-0000-0000000000{n:02}")))
        .unwrap()
}

fn primary_view(epoch: u64, primary: i64, settled: bool) -> PrimaryView {
    let postgres = Some(Address::new("10.0.0.7", 5432).unwrap());
    PrimaryView {
        cluster_id: cluster(1),
        applied_index: 10 * epoch,
        epoch,
        primary: id(primary),
        postgres,
        settled,
    }
}

fn facts(primary_view: Option<&PrimaryView>, closed_for: Option<Duration>) -> RouteFacts<'_> {
    RouteFacts { me: id(1), primary_view, failover: true, closed_for, lease: LEASE }
}

fn target(epoch: u64, node: i64) -> PrimaryServer {
    PrimaryServer { epoch, node: id(node), host: "10.0.0.7".into(), port: 5432 }
}

#[test]
fn a_client_goes_to_the_settled_primary() {
    let (ours, theirs) = (primary_view(3, 1, true), primary_view(3, 2, true));
    let closed = Some(Duration::ZERO);
    let to = |node| Route::To(target(3, node));
    for (known, closed_for, want) in [
        (None, closed, Route::Wait(WaitCause::NoAnswer)),
        (None, None, Route::Wait(WaitCause::NoAnswer)),
        (Some(&primary_view(3, 2, false)), closed, Route::Wait(WaitCause::Changing)),
        (Some(&primary_view(3, 1, false)), None, Route::Wait(WaitCause::Changing)),
        (
            Some(&PrimaryView { postgres: None, ..theirs.clone() }),
            closed,
            Route::Wait(WaitCause::NoAddress),
        ),
        // This node does not know the gate of another one.
        (Some(&theirs), closed, to(2)),
        (Some(&theirs), None, to(2)),
        (Some(&ours), None, to(1)),
        (Some(&ours), closed, Route::Wait(WaitCause::Fenced)),
    ] {
        assert_eq!(route(&facts(known, closed_for)), want, "{known:?} {closed_for:?}");
    }
    let without = RouteFacts { failover: false, ..facts(Some(&ours), closed) };
    assert_eq!(route(&without), to(1), "without failover no primary is fenced");
}

#[test]
fn a_client_leaves_a_replaced_or_fenced_primary() {
    let moment = Some(Duration::from_millis(1));
    for (known, closed_for, node, want) in [
        (None, moment, 2, false),
        (Some(primary_view(2, 1, true)), moment, 2, false),
        (Some(primary_view(3, 2, true)), Some(LEASE), 2, false),
        (Some(primary_view(4, 2, false)), None, 2, true),
        (Some(primary_view(4, 3, true)), None, 2, true),
        (Some(primary_view(4, 2, true)), None, 2, true),
        (Some(primary_view(3, 1, true)), None, 1, false),
        (Some(primary_view(3, 1, true)), moment, 1, false),
        (Some(primary_view(3, 1, true)), Some(LEASE), 1, true),
    ] {
        assert_eq!(
            is_over(&target(3, node), &facts(known.as_ref(), closed_for)),
            want,
            "{known:?} {closed_for:?} {node}"
        );
    }
    let (ours, always) = (primary_view(3, 1, true), Some(Duration::MAX));
    assert!(!is_over(&target(3, 1), &RouteFacts { failover: false, ..facts(Some(&ours), always) }));
}

#[test]
fn only_the_own_member_reports_another_cluster() {
    let other = PrimaryView { cluster_id: cluster(2), ..primary_view(9, 2, true) };
    assert_eq!(
        merged(Some(primary_view(3, 1, true)), other.clone(), false),
        primary_view(3, 1, true)
    );
    assert_eq!(merged(Some(primary_view(3, 1, true)), other.clone(), true), other);
    assert_eq!(merged(None, other.clone(), false), other);
}

/// Views of one cluster: each log index belongs to one epoch, and epochs never decrease.
fn views() -> impl Strategy<Value = Vec<PrimaryView>> {
    let view = (0_u64..20).prop_map(|index| PrimaryView {
        applied_index: index,
        ..primary_view(1 + index / 5, 1 + i64::try_from(index / 5 % 3).unwrap(), index % 5 > 2)
    });
    proptest::collection::vec(view, 1..12)
}

proptest! {
    #[test]
    fn the_latest_view_counts_in_any_order(mut views in views(), by_own_member: bool) {
        let merge_all = |views: &[PrimaryView]| views.iter().cloned().fold(None, |known, view| Some(merged(known, view, by_own_member)));
        let first = merge_all(&views);
        prop_assert_eq!(first.as_ref().map(|s| s.applied_index), views.iter().map(|s| s.applied_index).max());
        views.reverse();
        prop_assert_eq!(&merge_all(&views), &first);
        let again = first.clone().map(|primary_view| merged(first.clone(), primary_view, by_own_member));
        prop_assert_eq!(again, first);
    }

    #[test]
    fn no_client_is_sent_to_a_primary_that_it_must_leave(views in views(), closed_ms: Option<u16>, failover: bool) {
        let mut known = None;
        let mut sent: Vec<PrimaryServer> = vec![];
        for view in views {
            known = Some(merged(known, view, false));
            let closed_for = closed_ms.map(|ms| Duration::from_millis(ms.into()));
            let facts = RouteFacts { failover, ..facts(known.as_ref(), closed_for) };
            let over: Vec<PrimaryServer> = sent.iter().filter(|t| is_over(t, &facts)).cloned().collect();
            prop_assert!(over.iter().all(|t| t.epoch < facts.primary_view.unwrap().epoch || t.node == facts.me));
            sent.retain(|t| !over.contains(t));
            if let Route::To(target) = route(&facts) {
                prop_assert!(!is_over(&target, &facts));
                prop_assert_eq!(target.epoch, facts.primary_view.unwrap().epoch);
                sent.push(target);
            }
            // The clients that stay are at the latest primary.
            prop_assert!(sent.iter().all(|t| t.epoch == facts.primary_view.unwrap().epoch));
        }
    }
}
