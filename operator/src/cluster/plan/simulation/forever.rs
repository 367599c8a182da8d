//! One thing fails whenever it is tried. Whichever it is, all other work gets done.

use super::*;
use crate::cluster::step::MembershipRequest;

/// A cluster of four that is as it is wanted.
fn grown() -> PlanWorld {
    let mut world = PlanWorld::new(true);
    world.want.replicas = 4;
    settled(&mut world);
    world
}

/// Passes until nothing is due, or all that is due is what fails.
fn settled(world: &mut PlanWorld) -> Vec<ObjectTarget> {
    let (mut done, mut idle) = (Vec::new(), 0);
    while idle < 15 && done.len() < 1000 {
        idle += 1;
        world.look(false, false);
        world.remember_request();
        let Planned { step, resting } = plan(&world.want, &world.seen);
        if matches!(step, Step::Wait(_) | Step::Steady) {
            world.seen.failing.keep(&resting);
        }
        for part in step.parts() {
            let broken = world.broken.clone().filter(|(target, _)| part.targets().contains(target));
            if let Some((_, cause)) = broken {
                world.seen.failing.record(&part, &cause, world.seen.now);
                continue;
            }
            world.act(&part, true);
            world.seen.failing.clear(&part);
            if !part.targets().is_empty() {
                idle = 0;
            }
            done.extend(part.targets());
        }
        world.seen.known = world.seen.known.or(world.seen.group.as_ref().map(|g| g.cluster_id));
        world.tick();
    }
    done
}

/// Work of every kind, at once: scaled to so many, and everything else that people, hosts and time
/// bring about.
fn with_work(replicas: usize) -> PlanWorld {
    let mut world = grown();
    assert_eq!(left(&mut world), [], "at rest");
    world.want.replicas = replicas;
    world.want.switchover = Some(id(2));
    world.want.restarted_at = Some("now".into());
    world.want.storage.bytes *= 2;
    world.want.retention.when_scaled =
        if replicas == 2 { RetentionPolicy::Retain } else { RetentionPolicy::Delete };
    world.seen.secrets.remove(&SecretKind::App);
    world.seen.secrets.insert(SecretKind::Superuser, secret());
    world.seen.objects.pop_first();
    world.seen.objects.pop_last();
    for former in names::former_objects(&world.want.name) {
        world.seen.objects.insert(former, ObjectSeen::Unknown);
    }
    let pods = &mut world.seen.pods;
    pods.get_mut(&id(1)).unwrap().role = None;
    pods.get_mut(&id(2)).unwrap().routed = None;
    pods.get_mut(&id(2)).unwrap().owned = Owned::No;
    pods.get_mut(&id(3)).unwrap().phase = PodPhase::Finished;
    world.seen.volumes.get_mut(&id(2)).unwrap().owned = Owned::Yes;
    world
}

/// What is still to be done.
fn left(world: &mut PlanWorld) -> Vec<ObjectTarget> {
    world.look(false, false);
    world.seen.failing = failures::Failures::default();
    let plan = Plan { want: &world.want, seen: &world.seen, template: template(&world.want) };
    let stages = [
        Plan::base,
        Plan::leftovers,
        Plan::missing_pods,
        Plan::stuck_pods,
        Plan::larger_volumes,
        Plan::with_the_group,
    ];
    stages.iter().flat_map(|stage| stage(&plan)).flat_map(|step| step.targets()).collect()
}

fn causes(target: &ObjectTarget) -> Vec<Cause> {
    let error = |transient| Cause::Error {
        reason: if transient {
            StepFailureReason::Conflict
        } else {
            StepFailureReason::RefusedByApiServer
        },
        message: "no".into(),
    };
    let refused = |change| Cause::Refused { change, code: "55006".into(), message: "no".into() };
    let node = target.object.parse().ok().map(id);
    let refusal = match target.verb {
        "AddNode" => node.map(|node| refused(MembershipRequest::Add(node))),
        "RemoveNode" => node.map(|node| refused(MembershipRequest::Remove(node))),
        _ => None,
    };
    [error(false), error(true)].into_iter().chain(refusal).collect()
}

/// Whether this can't be done, or must not be, for as long as that fails.
fn depends(on: &ObjectTarget, target: &ObjectTarget) -> bool {
    let node = |target: &ObjectTarget| {
        target.object.rsplit([' ', '(']).next().map(|n| n.trim_end_matches(')').to_owned())
    };
    let same_node = node(target) == node(on);
    // No pod that serves is restarted while another member has none: the first rule of the planner.
    let leaves_a_gap =
        matches!(on.verb, "CreatePod" | "ClearPod") || (on.verb == "RestartPod" && same_node);
    same_node || (target.verb == "RestartPod" && leaves_a_gap)
}

/// Every step that the world takes in these situations, one after the other broken for ever.
#[test]
fn one_thing_that_fails_for_ever_blocks_nothing_else() {
    let (mut kinds, mut runs) = (BTreeSet::new(), 0);
    for replicas in [2, 3, 5] {
        let all: BTreeSet<ObjectTarget> = settled(&mut with_work(replicas)).into_iter().collect();
        assert!(!left(&mut with_work(replicas)).is_empty());
        kinds.extend(all.iter().map(|target| target.verb));
        for target in &all {
            for cause in causes(target) {
                let mut world = with_work(replicas);
                world.broken = Some((target.clone(), cause.clone()));
                settled(&mut world);
                let reported: Vec<Step> =
                    world.seen.failing.reported().map(|failure| failure.step.clone()).collect();
                let rest: Vec<ObjectTarget> =
                    left(&mut world).into_iter().filter(|left| !depends(target, left)).collect();
                assert!(
                    rest.is_empty(),
                    "{target:?} fails ({cause:?}), and this is not done: {rest:?}"
                );
                // A volume's name that is taken, or another successor, can be done without.
                let still_wanted = left(&mut world).contains(target);
                let is_error = matches!(cause, Cause::Error { .. });
                assert!(
                    !(still_wanted && is_error)
                        || reported.iter().any(|step| step.targets().contains(target)),
                    "{target:?} is not named"
                );
                runs += 1;
            }
        }
    }
    let never = ["Certificates"]; // see `tests.rs`
    let every = kinds.iter().chain(&never).count();
    assert_eq!(every, 19, "a kind of step is not tried: {kinds:?}");
    assert!(runs > 100, "{runs}");
}
