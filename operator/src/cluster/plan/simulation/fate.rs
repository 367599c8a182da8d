//! What befalls a cluster.

use proptest::prelude::*;

/// What goes wrong, or on, between two passes.
#[derive(Debug, Clone)]
pub(super) enum StepFate {
    /// Nothing: time passes.
    Quiet,
    /// The operator dies before it does anything.
    DiesBefore,
    /// The operator dies after the first of several writes, before it has written a status.
    DiesWithin,
    /// Somebody deletes a pod.
    PodDeleted(usize),
    /// A host evicts a pod.
    PodEvicted(usize),
    /// Somebody deletes a volume.
    VolumeDeleted(usize),
    /// Nobody answers in this pass.
    Silence,
    /// Only somebody who lags behind answers in this pass.
    OldNews,
    /// The leader is another one.
    Election(usize),
    /// Somebody scales.
    Scale(usize),
    /// Somebody wants other pods.
    Resources(usize),
    /// Somebody wants an image that is nowhere.
    BadImage,
    /// Somebody changes the policy.
    Policy(bool),
    /// The PgRaftCluster is deleted and made again.
    MadeAgain,
    /// Somebody asks for another primary, by number, or takes the request back.
    Request(Option<u32>),
    /// The primary is lost, and the members choose another one.
    Failover(usize),
    /// The members look for a primary in this pass.
    Recruiting,
    /// The members refuse the next switchover.
    Refusal,
    /// Somebody says for how many passes a member may be away.
    Patience(Option<i64>),
    /// A pod runs, and is not reached for so many passes.
    CutOff(usize, u8),
}

pub(super) fn fates() -> impl Strategy<Value = StepFate> {
    prop_oneof![
        8 => Just(StepFate::Quiet),
        2 => Just(StepFate::DiesBefore),
        2 => Just(StepFate::DiesWithin),
        1 => (0..9usize).prop_map(StepFate::PodDeleted),
        1 => (0..9usize).prop_map(StepFate::PodEvicted),
        1 => (0..9usize).prop_map(StepFate::VolumeDeleted),
        1 => Just(StepFate::Silence),
        1 => Just(StepFate::OldNews),
        1 => (0..9usize).prop_map(StepFate::Election),
        2 => (1..9usize).prop_map(StepFate::Scale),
        1 => (0..3usize).prop_map(StepFate::Resources),
        1 => Just(StepFate::BadImage),
        1 => any::<bool>().prop_map(StepFate::Policy),
        1 => Just(StepFate::MadeAgain),
        2 => prop::option::of(1..9u32).prop_map(StepFate::Request),
        2 => (0..9usize).prop_map(StepFate::Failover),
        1 => Just(StepFate::Recruiting),
        1 => Just(StepFate::Refusal),
        1 => prop::option::of(1..20i64).prop_map(StepFate::Patience),
        1 => (0..9usize, 1..60u8).prop_map(|(n, passes)| StepFate::CutOff(n, passes)),
    ]
}
