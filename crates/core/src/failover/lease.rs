//! The lease of the primary and the promises of the voters that carry it. It makes reads and errors
//! right; no write depends on it.
//!
//! A voter that acknowledges a heartbeat promises not to be recruited for a lease time from then,
//! by its own clock. The primary's lease runs for a little less than that from when it *sent* the
//! heartbeats that a majority has acknowledged. So while the lease stands there is no majority of
//! voters whose promise is over, and without one nobody else's lease begins.

use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};

use crate::NodeId;
use crate::primary_term::{Phase, PrimaryTerm};
use crate::quorum::majority;

/// What clocks may differ in their pace, both ways together: one part in twenty. Crystals are a
/// thousand times better; virtual machines that catch up after a pause are not.
const DRIFT: u64 = 20;

/// Milliseconds of a node's own boot-time clock, which goes on while the machine sleeps. Two nodes'
/// are never compared.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct BootTime(pub u64);

impl BootTime {
    /// So much later.
    #[must_use]
    pub const fn after(self, ms: u64) -> Self {
        Self(self.0.saturating_add(ms))
    }
}

/// One run of a primary's Postgres within its epoch: a later run has a higher number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct StartNumber(pub u64);

/// What a primary says to every voter, again and again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Heartbeat {
    /// Its epoch.
    pub epoch: u64,
    /// The run of its Postgres.
    pub start: StartNumber,
    /// The log index of the membership that it counts voters by (the last in its log, applied or
    /// not).
    pub membership: u64,
}

/// Why a voter does not acknowledge a heartbeat.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum HeartbeatRejected {
    /// It is in another epoch, or knows of the end of this one.
    #[error("its epoch is not that of this voter")]
    OtherEpoch,
    /// It counts voters by another membership.
    #[error("its membership is not that of this voter")]
    OtherMembership,
    /// It has no vote.
    #[error("this node has no vote")]
    NoVoter,
    /// That run of Postgres has ended.
    #[error("that run of its Postgres has ended")]
    Released,
}

/// What a voter knows of itself when it hears a heartbeat.
#[derive(Debug, Clone, Copy)]
pub struct HeartbeatContext<'a> {
    /// The applied state.
    pub primary_term: &'a PrimaryTerm,
    /// Whether it votes, and the log index of the membership that says so.
    pub votes_by: Option<u64>,
    /// Its own clock.
    pub now: BootTime,
    /// The lease time in milliseconds.
    pub lease_ms: u64,
}

/// The promises of one voter.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Voter {
    /// The epoch that it has on disk: it acknowledges this one and no other.
    epoch: u64,
    /// Set at its start and when it got its vote: what it promised before is forgotten, or was
    /// never asked for.
    quiet_until: BootTime,
    promise: Option<(StartNumber, BootTime)>,
    /// The highest run of this epoch's primary that is known to have ended.
    released: Option<StartNumber>,
}

impl Voter {
    /// At the start of the member: it may have promised anything a moment ago.
    pub fn started(epoch_on_disk: u64, now: BootTime, lease_ms: u64) -> Self {
        Self {
            epoch: epoch_on_disk,
            quiet_until: now.after(lease_ms),
            promise: None,
            released: None,
        }
    }

    /// It got its vote: majorities that it was not part of may have carried a lease, so it begins
    /// with a full promise.
    pub fn got_vote(&mut self, now: BootTime, lease_ms: u64) {
        self.quiet_until = self.quiet_until.max(now.after(lease_ms));
    }

    /// It has learned of a new primary, or for the first time of the present one: that one gets the
    /// time of a lease to be heard. Nothing but patience: a release ends it.
    pub fn learned_of(&mut self, epoch: u64, now: BootTime, lease_ms: u64) {
        if epoch == self.epoch && self.promise.is_none() && self.released.is_none() {
            self.promise = Some((StartNumber(0), now.after(lease_ms)));
        }
    }

    /// The epoch that it has on disk.
    pub const fn epoch(&self) -> u64 {
        self.epoch
    }

    /// Hears a heartbeat; `Ok` is the acknowledgement, and the promise.
    ///
    /// # Errors
    /// Why there is none; no promise is made then, and none is taken back.
    pub fn hear(
        &mut self,
        heartbeat: &Heartbeat,
        context: HeartbeatContext<'_>,
    ) -> Result<(), HeartbeatRejected> {
        let HeartbeatContext { primary_term, votes_by, now, lease_ms } = context;
        // From the moment that it knows of a recruitment it acknowledges nothing: its promise would
        // never end otherwise.
        if heartbeat.epoch != self.epoch
            || primary_term.epoch != self.epoch
            || primary_term.phase == Phase::Recruiting
        {
            return Err(HeartbeatRejected::OtherEpoch);
        }
        match votes_by {
            None => return Err(HeartbeatRejected::NoVoter),
            Some(index) if index != heartbeat.membership => {
                return Err(HeartbeatRejected::OtherMembership);
            }
            Some(_) => {}
        }
        if self.released.is_some_and(|ended| heartbeat.start <= ended) {
            return Err(HeartbeatRejected::Released);
        }
        let until = now.after(lease_ms);
        // The clock of one node never goes back, so the later heartbeat has the later end.
        let start = self.promise.map_or(heartbeat.start, |(start, _)| start.max(heartbeat.start));
        self.promise = Some((start, until));
        Ok(())
    }

    /// That run of the epoch's primary has ended, and nothing of it lives: what was promised to it,
    /// or to an earlier one, is over. What was promised before this member's own start is not,
    /// since nobody knows to whom.
    pub fn release(&mut self, epoch: u64, start: StartNumber) {
        if epoch != self.epoch {
            return;
        }
        self.released = self.released.max(Some(start));
        if self.promise.is_some_and(|(promised, _)| promised <= start) {
            self.promise = None;
        }
    }

    /// Whether a run of this epoch's primary is known to have ended, and no later one was heard.
    pub fn primary_run_ended(&self) -> bool {
        self.released.is_some() && self.promise.is_none()
    }

    /// Whether it started, or got its vote, less than a lease ago: then no release ends its
    /// patience.
    pub fn has_just_started(&self, now: BootTime) -> bool {
        now < self.quiet_until
    }

    /// From when on it may be recruited.
    pub fn free_at(&self) -> BootTime {
        self.promise.map_or(self.quiet_until, |(_, until)| until.max(self.quiet_until))
    }

    /// Whether it may be recruited.
    pub fn is_free(&self, now: BootTime) -> bool {
        now >= self.free_at()
    }

    /// The new epoch is on disk. To be called when it is free, and not before.
    pub fn enter(&mut self, epoch: u64) {
        self.epoch = epoch;
        self.promise = None;
        self.released = None;
    }
}

/// Until when the lease of a primary stands, by its own clock: `acks` has for each voter when the
/// latest heartbeat that it acknowledged was *sent*. None when no majority of `voters` (the
/// primary is one of them, if it votes) has acknowledged any.
pub fn lease_until(
    acks: &BTreeMap<NodeId, BootTime>,
    voters: &BTreeSet<NodeId>,
    lease_ms: u64,
) -> Option<BootTime> {
    let mut sent: Vec<BootTime> =
        acks.iter().filter(|(id, _)| voters.contains(id)).map(|(_, at)| *at).collect();
    sent.sort_unstable_by(|a, b| b.cmp(a));
    let oldest = sent.get(majority(voters.len()) - 1)?;
    Some(oldest.after(lease_ms - lease_ms.div_ceil(DRIFT)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const LEASE: u64 = 2000;

    fn id(n: usize) -> NodeId {
        NodeId::new(i64::try_from(n).unwrap()).unwrap()
    }

    fn heartbeat(start: u64) -> Heartbeat {
        Heartbeat { epoch: 1, start: StartNumber(start), membership: 7 }
    }

    fn context(primary_term: &PrimaryTerm, now: u64) -> HeartbeatContext<'_> {
        HeartbeatContext { primary_term, votes_by: Some(7), now: BootTime(now), lease_ms: LEASE }
    }

    #[test]
    fn a_voter_that_has_just_started_is_not_free_and_a_release_does_not_make_it_so() {
        let mut voter = Voter::started(1, BootTime(100), LEASE);
        assert!(!voter.is_free(BootTime(2099)));
        voter.release(1, StartNumber(9));
        assert!(!voter.is_free(BootTime(2099)), "it may have promised to a later run");
        assert!(voter.is_free(BootTime(2100)));
    }

    #[test]
    fn a_release_ends_what_was_promised_to_that_run_and_nothing_else() {
        let primary_term = PrimaryTerm::bootstrap(id(1));
        let mut voter = Voter::started(1, BootTime(0), LEASE);
        voter.hear(&heartbeat(1), context(&primary_term, 5000)).unwrap();
        voter.release(2, StartNumber(1));
        assert!(!voter.is_free(BootTime(5001)), "another epoch's");
        voter.release(1, StartNumber(1));
        assert!(voter.is_free(BootTime(5001)));
        assert_eq!(
            voter.hear(&heartbeat(1), context(&primary_term, 5002)),
            Err(HeartbeatRejected::Released),
            "a heartbeat that was late"
        );
        voter.hear(&heartbeat(2), context(&primary_term, 5003)).unwrap();
        voter.release(1, StartNumber(1));
        assert!(!voter.is_free(BootTime(5004)), "the next run's promise stands");
    }

    #[test]
    fn who_knows_of_a_recruitment_is_rejected() {
        let mut primary_term = PrimaryTerm::bootstrap(id(1));
        let mut voter = Voter::started(1, BootTime(0), LEASE);
        primary_term.recruit(2).unwrap();
        assert_eq!(
            voter.hear(&heartbeat(1), context(&primary_term, 10)),
            Err(HeartbeatRejected::OtherEpoch)
        );
        voter.enter(2);
        assert_eq!(
            voter.hear(&Heartbeat { epoch: 2, ..heartbeat(1) }, context(&primary_term, 10)),
            Err(HeartbeatRejected::OtherEpoch),
            "not before the appointment"
        );
        let primary_term = PrimaryTerm::bootstrap(id(1));
        let mut voter = Voter::started(1, BootTime(0), LEASE);
        assert_eq!(
            voter.hear(
                &heartbeat(1),
                HeartbeatContext { votes_by: None, ..context(&primary_term, 0) }
            ),
            Err(HeartbeatRejected::NoVoter)
        );
        assert_eq!(
            voter.hear(
                &heartbeat(1),
                HeartbeatContext { votes_by: Some(8), ..context(&primary_term, 0) }
            ),
            Err(HeartbeatRejected::OtherMembership)
        );
        assert_eq!(voter.free_at(), BootTime(LEASE));
    }

    #[test]
    fn a_lease_needs_a_majority() {
        let voters: BTreeSet<NodeId> = (1..=3).map(id).collect();
        let mut acks = BTreeMap::from([(id(1), BootTime(500)), (id(9), BootTime(900))]);
        assert_eq!(lease_until(&acks, &voters, LEASE), None, "node 9 has no vote");
        acks.insert(id(2), BootTime(100));
        assert_eq!(lease_until(&acks, &voters, LEASE), Some(BootTime(100 + 1900)));
        acks.insert(id(3), BootTime(400));
        assert_eq!(
            lease_until(&acks, &voters, LEASE),
            Some(BootTime(400 + 1900)),
            "the second latest"
        );
    }

    proptest! {
        /// Clocks that go up to 2 % too fast or too slow, from any start; messages that take any
        /// time or are lost: while the lease stands by the primary's clock there is no majority of
        /// voters that are free by theirs.
        #[test]
        fn while_the_lease_stands_no_majority_is_free(
            size in 1..8usize,
            clocks in prop::collection::vec((980..=1020u64, 0..100_000u64), 8),
            // When it is sent, how long it travels there and back (real milliseconds), and whether
            // it arrives.
            beats in prop::collection::vec((0..20_000u64, prop::collection::vec((0..3000u64, 0..3000u64, any::<bool>()), 8)), 1..30),
            look in 0..30_000u64,
        ) {
            let clock = |n: usize, real: u64| BootTime(clocks[n].1 + real * clocks[n].0 / 1000);
            let primary_term = PrimaryTerm::bootstrap(id(1));
            let voters: BTreeSet<NodeId> = (1..=size).map(id).collect();
            let mut hears: Vec<(u64, usize, u64, u64)> = Vec::new(); // when, who, sent, answer arrives
            for (sent, ways) in &beats {
                for (n, (there, back, arrives)) in ways.iter().enumerate().take(size) {
                    if *arrives && sent + there <= look {
                        hears.push((sent + there, n, *sent, sent + there + back));
                    }
                }
            }
            hears.sort_unstable();
            let mut all: Vec<Voter> = (0..size).map(|n| Voter::started(1, clock(n, 0), LEASE)).collect();
            let mut acks: BTreeMap<NodeId, BootTime> = BTreeMap::new();
            for (when, n, sent, answered) in hears {
                let h = HeartbeatContext { primary_term: &primary_term, votes_by: Some(7), now: clock(n, when), lease_ms: LEASE };
                if all[n].hear(&heartbeat(1), h).is_ok() && answered <= look {
                    let at = acks.entry(id(n + 1)).or_default();
                    *at = (*at).max(clock(0, sent));
                }
            }
            let stands = lease_until(&acks, &voters, LEASE).is_some_and(|until| clock(0, look) < until);
            let free = (0..size).filter(|n| all[*n].is_free(clock(*n, look))).count();
            prop_assert!(!stands || free < majority(size), "the lease stands and {free} of {size} are free");
        }
    }
}
