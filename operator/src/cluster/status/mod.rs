//! The status, from what was observed and what the pass came to; never from what was meant. The
//! time is a fact like any other.

pub mod events;
pub mod publish;

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use pgraft_api::conditions::{ConditionReason, ConditionType};
use pgraft_core::failover::Phase;
use pgraft_core::{NodeId, Role};

use super::plan::{counts, in_the_way};
use super::render::Template;
use super::step::{MembershipRequest, Step, StepOutcome, WaitReason};
use super::validate::Invalid;
use crate::cluster::observe::group::{GroupView, MemberSeen};
use crate::cluster::observe::observed::{Observed, PodPhase};
use crate::cluster::plan::failures::ObjectFailure;
use crate::cluster::spec::Storage;
use pgraft_api::cluster::{ClusterMemberStatus, PgRaftClusterStatus, QuorumStatus};
use pgraft_api::names;

/// What a condition says.
struct StatusVerdict {
    type_: ConditionType,
    holds: Option<bool>,
    reason: ConditionReason,
    message: String,
}

/// What stays the same for all passes over one object.
#[derive(Debug, Clone, Copy)]
pub struct ConditionSubject<'a> {
    /// The cluster's name.
    pub name: &'a str,
    /// Its namespace.
    pub namespace: &'a str,
    /// The generation of the spec that was acted on.
    pub generation: Option<i64>,
    /// How many members are wanted, by the spec as it stands.
    pub replicas: i32,
    /// What pods are made from, by the spec as it stands; None where that makes no sense.
    pub template: Option<Template>,
    /// The volumes that are wanted, by the spec as it stands.
    pub storage: Option<&'a Storage>,
    /// The pod that is to be the primary, by the spec as it stands.
    pub switchover: Option<&'a str>,
    /// Why the spec makes no sense: an earlier one is acted on, if there was any.
    pub invalid: Option<&'a Invalid>,
}

/// The short words of the column STATUS.
pub fn phase(subject: ConditionSubject<'_>, seen: &Observed, outcome: &StepOutcome) -> String {
    StatusInput { subject, seen, outcome, before: &PgRaftClusterStatus::default(), ready: 0 }
        .phase()
}

/// The status after a pass.
pub fn derive(
    subject: ConditionSubject<'_>,
    seen: &Observed,
    outcome: &StepOutcome,
    before: &PgRaftClusterStatus,
) -> PgRaftClusterStatus {
    let group = seen.group.as_ref();
    let ready = group
        .map_or(0, |g| g.members.iter().filter(|m| counts(g, m) && seen.is_ready(m.id)).count());
    let known = group.map(|g| g.cluster_id).or(seen.known);
    let view = StatusInput { subject, seen, outcome, before, ready: count(ready) };
    let members = group.map_or_else(|| unreached(before), |g| members(subject, g, seen, before));
    PgRaftClusterStatus {
        observed_generation: subject.generation,
        replicas: count(seen.pods.len()),
        ready_replicas: count(ready),
        selector: names::selector(subject.name),
        phase: view.phase(),
        cluster_id: known.map(|id| id.to_string()),
        leader: group.and_then(|g| Some(shown_name(subject, g, g.leader?))),
        primary: group.and_then(|g| Some(shown_name(subject, g, g.primary?))),
        term: group.map(|g| i64::try_from(g.term).unwrap_or(i64::MAX)),
        quorum: group.map(quorum),
        members,
        last_failover: last_failover(subject, group, before),
        switchover: view.switchover_done(),
        conditions: view
            .verdicts()
            .into_iter()
            .map(|v| condition(v, subject.generation, seen.now, before))
            .collect(),
    }
}

/// Whether nothing is new but how far the members' WAL is, which moves with every write.
pub fn differ_in_wal_only(before: &PgRaftClusterStatus, after: &PgRaftClusterStatus) -> bool {
    let without = |m: ClusterMemberStatus| ClusterMemberStatus { flush_lsn: None, ..m };
    apart_from(without, before) == apart_from(without, after)
}

/// Whether nothing is new but how far members are behind.
pub fn differ_in_lag_only(before: &PgRaftClusterStatus, after: &PgRaftClusterStatus) -> bool {
    let without =
        |m: ClusterMemberStatus| ClusterMemberStatus { flush_lsn: None, lag_bytes: None, ..m };
    apart_from(without, before) == apart_from(without, after)
}

fn apart_from(
    without: impl Fn(ClusterMemberStatus) -> ClusterMemberStatus,
    status: &PgRaftClusterStatus,
) -> PgRaftClusterStatus {
    PgRaftClusterStatus {
        members: status.members.iter().cloned().map(without).collect(),
        ..status.clone()
    }
}

fn count(n: usize) -> i32 {
    i32::try_from(n).unwrap_or(i32::MAX)
}

fn quorum(group: &GroupView) -> QuorumStatus {
    let (available, required) = (count(group.available), count(group.required()));
    QuorumStatus {
        voters: count(group.voters()),
        required,
        available,
        summary: format!("{available}/{required}"),
    }
}

/// The last known members, when nobody answered: who they are does not change while nobody answers.
/// Whether they live is unknown.
fn unreached(before: &PgRaftClusterStatus) -> Vec<ClusterMemberStatus> {
    before
        .members
        .iter()
        .cloned()
        .map(|m| ClusterMemberStatus { leader: false, reachable: None, lag_bytes: None, ..m })
        .collect()
}

fn members(
    subject: ConditionSubject<'_>,
    group: &GroupView,
    seen: &Observed,
    before: &PgRaftClusterStatus,
) -> Vec<ClusterMemberStatus> {
    // What was last heard of a member's WAL is what there is to go by when it is gone.
    let known = |m: &MemberSeen| before.members.iter().find(|known| known.id == i64::from(m.id));
    let member = |m: &MemberSeen| ClusterMemberStatus {
        id: m.id.into(),
        name: shown_name(subject, group, m.id),
        address: m.address.host().to_owned(),
        port: i32::from(m.address.port()),
        role: m.role,
        leader: group.leader == Some(m.id),
        primary: group.primary == Some(m.id),
        reachable: m.reachable,
        unreachable_since: seen.away.get(&m.id).map(|since| Time(whole_seconds(*since))),
        timeline: m.wal.map(|wal| i64::from(wal.timeline)).or_else(|| known(m)?.timeline),
        flush_lsn: m.wal.map(|wal| lsn(wal.lsn)).or_else(|| known(m)?.flush_lsn.clone()),
        lag_bytes: m.lag_bytes.map(in_steps),
    };
    group.members.iter().map(member).collect()
}

/// As Postgres writes it.
fn lsn(at: u64) -> String {
    format!("{:X}/{:X}", at >> 32, at & 0xffff_ffff)
}

/// 0, 1 MiB, 2 MiB, 4 MiB ...: a busy cluster's standbys lack another number of bytes at every
/// look.
fn in_steps(lag: u64) -> i64 {
    const FIRST: u64 = 1 << 20;
    let step = if lag < FIRST { 0 } else { 1_u64 << lag.ilog2() };
    i64::try_from(step).unwrap_or(i64::MAX)
}

/// The pod's name; the host for a member that lives elsewhere.
fn shown_name(subject: ConditionSubject<'_>, group: &GroupView, node: NodeId) -> String {
    match group.member(node) {
        Some(m) if m.address.host() != names::host(subject.name, subject.namespace, node) => {
            m.address.host().to_owned()
        }
        _ => names::pod(subject.name, node),
    }
}

struct StatusInput<'a> {
    subject: ConditionSubject<'a>,
    seen: &'a Observed,
    outcome: &'a StepOutcome,
    before: &'a PgRaftClusterStatus,
    ready: i32,
}

impl StatusInput<'_> {
    fn phase(&self) -> String {
        let name = self.subject.name;
        match self.outcome {
            StepOutcome::Took(Step::Wait(_) | Step::Steady) if self.subject.invalid.is_some() => {
                "Invalid spec".into()
            }
            // Nobody can answer where pods can't be made.
            StepOutcome::Took(step @ (Step::Steady | Step::Wait(WaitReason::NobodyAnswers))) => {
                match (self.seen.failing.reported().next(), self.seen.failing.errors().next()) {
                    (Some(failure), _) => format!("{}: failed", failure.step.describe(name).phase),
                    (None, Some(again)) => again.step.describe(name).phase,
                    (None, None) => step.describe(name).phase,
                }
            }
            StepOutcome::Took(step) => step.describe(name).phase,
            StepOutcome::Invalid(_) => "Invalid spec".into(),
            StepOutcome::Failed { step, .. } => format!("{}: failed", step.describe(name).phase),
        }
    }

    /// What fails, in words, and is told apart from what is waited for.
    fn failures(&self) -> Vec<(ConditionReason, String)> {
        let reason = |failure: &ObjectFailure| {
            if failure.is_name_taken() {
                ConditionReason::ForeignObject
            } else {
                ConditionReason::OperationFailed
            }
        };
        let invalid =
            self.subject.invalid.map(|invalid| (ConditionReason::InvalidSpec, invalid.to_string()));
        let failing =
            self.seen.failing.reported().map(|failure| (reason(failure), failure.message()));
        let mut all: Vec<(ConditionReason, String)> = invalid.into_iter().chain(failing).collect();
        if let StepOutcome::Failed { message, .. } = self.outcome
            && all.iter().all(|(_, known)| known != message)
        {
            all.push((ConditionReason::OperationFailed, message.clone()));
        }
        all
    }

    fn message(&self) -> String {
        match self.outcome {
            StepOutcome::Took(Step::Steady) => {
                let failures: Vec<String> =
                    self.failures().into_iter().map(|(_, words)| words).collect();
                if failures.is_empty() { self.all_ready() } else { failures.join("; ") }
            }
            StepOutcome::Took(step) => step.describe(self.subject.name).message,
            StepOutcome::Invalid(invalid) => invalid.to_string(),
            StepOutcome::Failed { message, .. } => message.clone(),
        }
    }

    fn all_ready(&self) -> String {
        format!("{} of {} members are ready", self.ready, self.subject.replicas)
    }

    /// What the pass was about.
    fn reason(&self) -> ConditionReason {
        let in_the_making = self.seen.group.is_none() && self.seen.known.is_none();
        match self.outcome {
            StepOutcome::Invalid(_) => ConditionReason::InvalidSpec,
            StepOutcome::Failed { .. } => ConditionReason::OperationFailed,
            StepOutcome::Took(step) => match step {
                Step::Steady if self.subject.invalid.is_some() => ConditionReason::InvalidSpec,
                Step::Steady if self.seen.failing.errors().next().is_some() => {
                    ConditionReason::OperationFailed
                }
                Step::Steady => ConditionReason::AsExpected,
                Step::Wait(_) => step.describe(self.subject.name).reason,
                _ if in_the_making => ConditionReason::Bootstrapping,
                _ => step.describe(self.subject.name).reason,
            },
        }
    }

    fn verdicts(&self) -> Vec<StatusVerdict> {
        let always = [
            self.ready(),
            self.available(),
            self.progressing(),
            self.degraded(),
            self.quorum_healthy(),
            self.pods_up_to_date(),
            self.reconciled(),
        ];
        always
            .into_iter()
            .chain(self.certificates())
            .chain(self.configuration())
            .chain(self.switchover())
            .collect()
    }

    fn ready(&self) -> StatusVerdict {
        let all = self.ready == self.subject.replicas && self.writes().0;
        // Objects that are brought up to date do not make a ready cluster less ready.
        let was = self
            .before
            .conditions
            .iter()
            .any(|c| c.type_ == ConditionType::Ready.as_str() && c.status == "True");
        let updating =
            was && (self.reason() == ConditionReason::Updating || self.asks_for_a_primary());
        // Neither does a storage class that can't expand volumes. Degraded says so.
        let grows = |step: &Step| matches!(step, Step::GrowVolume(_));
        let stuck = matches!(self.outcome, StepOutcome::Failed { step, .. } if grows(step));
        let only_that = self.subject.invalid.is_none()
            && self.seen.failing.errors().all(|failure| grows(&failure.step));
        let at_rest = *self.outcome == StepOutcome::Took(Step::Steady) || updating || stuck;
        let holds = all && at_rest && only_that;
        let reason = match self.reason() {
            _ if holds => ConditionReason::AsExpected,
            ConditionReason::AsExpected => self.writes().1, // at rest, and still not all ready
            other => other,
        };
        let message = if holds { self.all_ready() } else { self.message() };
        StatusVerdict { type_: ConditionType::Ready, holds: Some(holds), reason, message }
    }

    /// Whether another primary is asked for: the one that is there serves until it is not.
    fn asks_for_a_primary(&self) -> bool {
        let StepOutcome::Took(step) = self.outcome else { return false };
        matches!(
            step,
            Step::SwitchOver(_)
                | Step::Wait(
                    WaitReason::SwitchingOver(_)
                        | WaitReason::Refused { change: MembershipRequest::SwitchOver(_), .. }
                )
        )
    }

    /// Whether somebody takes writes, and why. A primary that is fixed goes on without a majority;
    /// what then can't change is the membership.
    fn writes(&self) -> (bool, ConditionReason) {
        let looked_for = |group: &GroupView| {
            group.failover.as_ref().is_some_and(|f| f.phase == Phase::Recruiting)
        };
        match self.seen.group.as_ref().map(|group| (group, group.primary)) {
            None => (false, ConditionReason::NoMemberAnswers),
            Some((group, _)) if looked_for(group) => (false, ConditionReason::NoPrimary),
            Some((group, _)) if group.failover.is_some() && group.available < group.required() => {
                (false, ConditionReason::NoQuorum)
            }
            Some((_, None)) => (false, ConditionReason::NoPrimary),
            Some((group, Some(primary))) if is_silent(group, primary) => {
                (false, ConditionReason::PrimaryUnreachable)
            }
            Some((group, Some(primary))) if self.serves(group, primary) => {
                (true, ConditionReason::PrimaryServes)
            }
            Some(_) => (false, ConditionReason::PrimaryNotReady),
        }
    }

    /// A primary outside of this operator's pods is taken at the group's word.
    fn serves(&self, group: &GroupView, primary: NodeId) -> bool {
        let elsewhere =
            shown_name(self.subject, group, primary) != names::pod(self.subject.name, primary);
        elsewhere || self.seen.is_ready(primary)
    }

    fn available(&self) -> StatusVerdict {
        let (holds, reason) = self.writes();
        let message = match (&self.seen.group, reason) {
            (Some(group), ConditionReason::PrimaryServes) => {
                group.primary.map_or_else(String::new, |p| {
                    format!("{} takes writes", shown_name(self.subject, group, p))
                })
            }
            _ => "no member takes writes".into(),
        };
        StatusVerdict { type_: ConditionType::Available, holds: Some(holds), reason, message }
    }

    fn progressing(&self) -> StatusVerdict {
        let holds = self.goes_on() && *self.outcome != StepOutcome::Took(Step::Steady);
        StatusVerdict {
            type_: ConditionType::Progressing,
            holds: Some(holds),
            reason: self.reason(),
            message: self.message(),
        }
    }

    fn degraded(&self) -> StatusVerdict {
        let mut trouble = self.failures();
        let not_ready = |node: NodeId| {
            let why =
                self.seen.pods.get(&node).and_then(|pod| in_the_way(self.seen, node, &pod.phase));
            let why = why.map(|why| format!(": {why}")).unwrap_or_default();
            (
                ConditionReason::MemberNotReady,
                format!("pod {} is not ready{why}", names::pod(self.subject.name, node)),
            )
        };
        let unwell: Vec<(ConditionReason, String)> =
            self.unwell().into_iter().map(not_ready).collect();
        match self.outcome {
            StepOutcome::Took(Step::Wait(WaitReason::MemberNotReady(..))) if unwell.len() > 1 => {
                trouble.extend(unwell);
            }
            StepOutcome::Took(Step::Wait(why)) if !why.is_ordinary() => {
                trouble.push((self.reason(), self.message()));
            }
            StepOutcome::Invalid(_) if trouble.is_empty() => {
                trouble.push((self.reason(), self.message()));
            }
            _ if trouble.is_empty() => trouble.extend(unwell),
            _ => {}
        }
        let words: Vec<&str> = trouble.iter().map(|(_, words)| words.as_str()).collect();
        let message =
            if trouble.is_empty() { "no problems found".into() } else { words.join("; ") };
        let reason = trouble.first().map_or(ConditionReason::AsExpected, |(reason, _)| *reason);
        StatusVerdict {
            type_: ConditionType::Degraded,
            holds: Some(!trouble.is_empty()),
            reason,
            message,
        }
    }

    /// Whether the pass itself found nothing wrong.
    fn goes_on(&self) -> bool {
        match self.outcome {
            StepOutcome::Took(Step::Wait(why)) => why.is_ordinary(),
            StepOutcome::Took(_) => true,
            StepOutcome::Invalid(_) | StepOutcome::Failed { .. } => false,
        }
    }

    /// The full members whose pods are not ready.
    fn unwell(&self) -> Vec<NodeId> {
        let Some(group) = &self.seen.group else { return Vec::new() };
        let unwell =
            |id: NodeId| self.seen.pods.get(&id).is_none_or(|pod| pod.phase != PodPhase::Ready);
        let ours =
            |id: NodeId| shown_name(self.subject, group, id) == names::pod(self.subject.name, id);
        group
            .members
            .iter()
            .filter(|m| counts(group, m) && ours(m.id) && unwell(m.id))
            .map(|m| m.id)
            .collect()
    }

    fn quorum_healthy(&self) -> StatusVerdict {
        let Some(group) = &self.seen.group else {
            return StatusVerdict {
                type_: ConditionType::QuorumHealthy,
                holds: None,
                reason: ConditionReason::NoMemberAnswers,
                message: "no member answered".into(),
            };
        };
        let holds = group.available >= group.required();
        let reason = if holds { ConditionReason::QuorumReached } else { ConditionReason::NoQuorum };
        let mut message = format!(
            "{} of {} voters answer, {} are required",
            group.available,
            group.voters(),
            group.required()
        );
        if !holds {
            let mute = |m: &&MemberSeen| {
                m.role == Role::Voter
                    && m.reachable.map_or_else(|| !self.seen.is_ready(m.id), |heard| !heard)
            };
            let mute: Vec<String> = group
                .members
                .iter()
                .filter(mute)
                .map(|m| shown_name(self.subject, group, m.id))
                .collect();
            message = format!("{message}; no answer from: {}", mute.join(", "));
        }
        StatusVerdict { type_: ConditionType::QuorumHealthy, holds: Some(holds), reason, message }
    }
}

/// Whether a member answers neither the operator nor the leader. One of them alone may have trouble
/// of its own; and a host that froze is called ready by Kubernetes for most of a minute.
fn is_silent(group: &GroupView, node: NodeId) -> bool {
    group.silent.contains(&node) && group.member(node).is_none_or(|m| m.reachable != Some(true))
}

/// As Kubernetes' times have them.
fn whole_seconds(time: Timestamp) -> Timestamp {
    Timestamp::from_second(time.as_second()).unwrap_or(time)
}

/// `lastTransitionTime` moves with the status of the condition, and with nothing else.
fn condition(
    verdict: StatusVerdict,
    generation: Option<i64>,
    now: Timestamp,
    before: &PgRaftClusterStatus,
) -> Condition {
    let StatusVerdict { type_, holds, reason, message } = verdict;
    let status = holds.map_or("Unknown", |holds| if holds { "True" } else { "False" });
    let same = before.conditions.iter().find(|c| c.type_ == type_.as_str() && c.status == status);
    Condition {
        type_: type_.as_str().to_owned(),
        status: status.to_owned(),
        reason: reason.name(),
        message,
        observed_generation: generation,
        last_transition_time: same
            .map_or_else(|| Time(whole_seconds(now)), |c| c.last_transition_time.clone()),
    }
}

mod configuration;
mod primary;
mod upkeep;

use primary::last_failover;

#[cfg(test)]
mod tests;
