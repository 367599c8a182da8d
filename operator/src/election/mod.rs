//! Carries out what `core::lease` decides, on a Lease of the API server. Writes that Lease and
//! nothing else.

pub mod lease;

use jiff::Timestamp;
use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta};
use kube::api::{Api, PostParams};
use kube::{Client, ResourceExt};
use std::time::{Duration, Instant};
use tokio::time::{sleep, timeout};

use crate::kubernetes::is_conflict;
use lease::{LeaseObservation, LeaseRecord, LeaseStep, Timing};
use pgraft_api::names::FIELD_MANAGER;

/// Where the Lease is, and who asks for it.
#[derive(Debug, Clone)]
pub struct LeaseLocation {
    /// Its namespace: the operator's own.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// This process; nobody else ever has that name.
    pub me: String,
}

/// One replica's part in the choice.
pub struct Election {
    api: Api<Lease>,
    place: LeaseLocation,
    timing: Timing,
    began: Instant,
    known: LeaseObservation,
    lease: Option<Lease>,
    /// Why the last request failed: the same words are not said twice.
    trouble: Option<String>,
}

impl Election {
    /// Knows nothing yet.
    pub fn new(client: Client, place: LeaseLocation) -> Self {
        Self {
            api: Api::namespaced(client, &place.namespace),
            place,
            timing: Timing::default(),
            began: Instant::now(),
            known: LeaseObservation::default(),
            lease: None,
            trouble: None,
        }
    }

    /// Returns when this replica holds the Lease.
    pub async fn won(&mut self) {
        loop {
            self.look().await;
            match lease::next(&self.place.me, self.timing, &self.known, self.now()) {
                LeaseStep::Take if self.trouble.is_none() => {
                    self.write(&self.place.me.clone()).await;
                }
                LeaseStep::Wait(time) => sleep(time).await,
                LeaseStep::Take | LeaseStep::Renew | LeaseStep::Stop => {
                    sleep(self.timing.retry).await;
                }
            }
            if self.known.leads(self.timing, self.now()) {
                return;
            }
            self.known.renewed = None;
        }
    }

    /// Renews it, and returns when it is lost.
    pub async fn lost(&mut self) {
        loop {
            match lease::next(&self.place.me, self.timing, &self.known, self.now()) {
                LeaseStep::Stop => return,
                LeaseStep::Wait(time) => sleep(time).await,
                LeaseStep::Take | LeaseStep::Renew => {
                    self.write(&self.place.me.clone()).await;
                    if self.trouble.is_some() {
                        sleep(self.timing.retry / 4).await;
                    }
                }
            }
        }
    }

    /// Gives it back, so that nobody need wait for its end.
    pub async fn release(mut self) {
        if self.known.leads(self.timing, self.now()) {
            self.write("").await;
        }
    }

    fn now(&self) -> Duration {
        self.began.elapsed()
    }

    async fn look(&mut self) {
        let answer = timeout(self.timing.renew_within, self.api.get_opt(&self.place.name)).await;
        match answer {
            Ok(Ok(lease)) => self.saw(lease),
            Ok(Err(error)) => self.failed("read", &error),
            Err(_) => self.failed("read", &"no answer in time"),
        }
    }

    fn saw(&mut self, lease: Option<Lease>) {
        self.trouble = None;
        self.known
            .see(lease.as_ref().map(|lease| record(lease, self.timing)), self.began.elapsed());
        self.lease = lease;
    }

    /// Writes the holder, if the Lease still is the one that was seen last.
    async fn write(&mut self, holder: &str) {
        let begun = self.now();
        // A holder that gets no answer must notice the end of its time.
        let left = self.known.renewed.map_or(self.timing.renew_within, |renewed| {
            self.timing.renew_within.saturating_sub(begun.saturating_sub(renewed))
        });
        let lease = self.next_lease(holder);
        let params =
            PostParams { field_manager: Some(FIELD_MANAGER.into()), ..PostParams::default() };
        let request = async {
            match &self.lease {
                None => self.api.create(&params, &lease).await,
                Some(_) => self.api.replace(&self.place.name, &params, &lease).await,
            }
        };
        match timeout(left, request).await {
            Ok(Ok(lease)) => {
                self.saw(Some(lease));
                self.known.renewed = Some(begun);
            }
            // Somebody else was quicker, or an earlier write of this replica was heard and its
            // answer was not.
            Ok(Err(error)) if is_conflict(&error) => self.look().await,
            Ok(Err(error)) => self.failed("write", &error),
            Err(_) => self.failed("write", &"no answer in time"),
        }
    }

    fn next_lease(&self, holder: &str) -> Lease {
        let before = self.lease.as_ref().and_then(|l| l.spec.clone()).unwrap_or_default();
        let moves = before.holder_identity.as_deref() != Some(holder) && !holder.is_empty();
        let now = Some(MicroTime(Timestamp::now()));
        Lease {
            metadata: ObjectMeta {
                name: Some(self.place.name.clone()),
                namespace: Some(self.place.namespace.clone()),
                resource_version: self.lease.as_ref().and_then(ResourceExt::resource_version),
                ..ObjectMeta::default()
            },
            spec: Some(LeaseSpec {
                holder_identity: Some(holder.to_owned()),
                // The times are for people, and for tools that read them: nobody here compares them
                // with a clock.
                lease_duration_seconds: Some(
                    i32::try_from(self.timing.duration.as_secs()).unwrap_or(i32::MAX),
                ),
                acquire_time: if moves { now.clone() } else { before.acquire_time },
                renew_time: now,
                lease_transitions: Some(
                    before.lease_transitions.unwrap_or(0).saturating_add(i32::from(moves)),
                ),
                ..LeaseSpec::default()
            }),
        }
    }

    fn failed(&mut self, what: &str, error: &dyn std::fmt::Display) {
        let words = format!("could not {what} Lease {}: {error}", self.place.name);
        if self.trouble.as_ref() != Some(&words) {
            tracing::warn!("{words}");
        }
        self.trouble = Some(words);
    }
}

fn record(lease: &Lease, timing: Timing) -> LeaseRecord {
    let spec = lease.spec.clone().unwrap_or_default();
    let seconds = spec.lease_duration_seconds.and_then(|n| u64::try_from(n).ok());
    LeaseRecord {
        holder: spec.holder_identity.unwrap_or_default(),
        duration: seconds.map_or(timing.duration, Duration::from_secs),
        version: lease.resource_version().unwrap_or_default(),
    }
}
