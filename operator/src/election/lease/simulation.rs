//! Three replicas, one Lease, clocks that run at different speeds, requests that are slow or lost
//! on either way, replicas that die, freeze and give the Lease back. Never do two of them believe
//! that they lead; when things are quiet again, one does.

use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};

use super::*;

const TICK: Duration = Duration::from_millis(50);

/// What happens to one replica in one tick.
#[derive(Debug, Clone, Copy)]
enum LeaseFate {
    /// The next request takes so many ticks to the API server and so many back.
    Slow(u8, u8),
    /// The next request never arrives.
    Lost,
    /// The next request arrives, its answer does not.
    AnswerLost,
    /// It dies, and comes back under another name.
    Dies,
    /// It does nothing for so many ticks; its clock goes on.
    Frozen(u8),
    /// SIGTERM.
    GivesBack,
}

struct LeaseRequest {
    begun: Duration,
    /// None is a look.
    write: Option<(Option<String>, String)>,
    arrives: u64,
    answers: u64,
    heard: bool,
    /// What the API server answered, and whether it wrote.
    answer: Option<(Option<LeaseRecord>, bool)>,
}

struct Replica {
    name: String,
    lives: u32,
    /// In thousandths of real time.
    speed: u64,
    offset: Duration,
    known: LeaseObservation,
    looked: bool,
    request: Option<LeaseRequest>,
    look_at: Duration,
    frozen_until: u64,
    fate: Option<LeaseFate>,
}

struct LeaseWorld {
    timing: Timing,
    tick: u64,
    version: u64,
    lease: Option<LeaseRecord>,
    replicas: Vec<Replica>,
}

impl Replica {
    fn begin_anew(&mut self, now: Duration) {
        (self.known, self.looked, self.request, self.fate, self.look_at) =
            (LeaseObservation::default(), false, None, None, now);
    }

    fn now(&self, tick: u64) -> Duration {
        self.offset
            + Duration::from_micros(
                u64::try_from(TICK.as_micros()).unwrap() * tick * self.speed / 1000,
            )
    }
}

impl LeaseWorld {
    fn new(timing: Timing, speeds: &[u64]) -> Self {
        let replica = |(n, speed): (usize, &u64)| Replica {
            name: format!("replica-{n}"),
            lives: 0,
            speed: *speed,
            offset: Duration::from_secs(1000 * n as u64),
            known: LeaseObservation::default(),
            looked: false,
            request: None,
            look_at: Duration::ZERO,
            frozen_until: 0,
            fate: None,
        };
        Self {
            timing,
            tick: 0,
            version: 0,
            lease: None,
            replicas: speeds.iter().enumerate().map(replica).collect(),
        }
    }

    fn leaders(&self) -> Vec<&str> {
        self.replicas
            .iter()
            .filter(|r| r.known.leads(self.timing, r.now(self.tick)))
            .map(|r| r.name.as_str())
            .collect()
    }

    /// Compare and swap, as the API server does by resourceVersion.
    fn store(&mut self, expected: Option<&String>, holder: &str) -> bool {
        let may = self.lease.as_ref().map(|l| &l.version) == expected;
        if may {
            self.version += 1;
            self.lease = Some(LeaseRecord {
                holder: holder.into(),
                duration: self.timing.duration,
                version: self.version.to_string(),
            });
        }
        may
    }

    fn tick(&mut self) {
        self.tick += 1;
        for n in 0..self.replicas.len() {
            self.arrive(n);
            if self.replicas[n].frozen_until <= self.tick {
                self.answer(n);
                self.act(n);
            }
        }
    }

    /// A request reaches the API server, whatever has become of the one who sent it.
    fn arrive(&mut self, n: usize) {
        let Some(request) = self.replicas[n].request.as_ref().filter(|r| r.arrives == self.tick)
        else {
            return;
        };
        let written = match request.write.clone() {
            Some((expected, holder)) => self.store(expected.as_ref(), &holder),
            None => false,
        };
        let answer = (self.lease.clone(), written);
        self.replicas[n].request.as_mut().unwrap().answer = Some(answer);
    }

    fn answer(&mut self, n: usize) {
        let (tick, timing) = (self.tick, self.timing);
        let replica = &mut self.replicas[n];
        let now = replica.now(tick);
        let Some(request) = &replica.request else { return };
        let late = now.saturating_sub(request.begun) > timing.renew_within;
        if request.answers > tick && !late {
            return;
        }
        let Some(LeaseRequest { begun, heard: true, answer: Some((lease, written)), .. }) =
            replica.request.take().filter(|_| !late)
        else {
            return;
        };
        replica.known.see(lease, now);
        replica.looked = true;
        if written {
            replica.known.renewed = Some(begun);
        }
    }

    fn act(&mut self, n: usize) {
        let (tick, timing) = (self.tick, self.timing);
        let replica = &mut self.replicas[n];
        let now = replica.now(tick);
        match replica.fate {
            Some(LeaseFate::Dies) => {
                replica.lives += 1;
                replica.name = format!("replica-{n}-{}", replica.lives);
                replica.begin_anew(now);
            }
            Some(LeaseFate::Frozen(ticks)) => {
                (replica.frozen_until, replica.fate) = (tick + u64::from(ticks) * 4, None);
                return;
            }
            Some(LeaseFate::GivesBack) => {
                let held = replica.known.renewed.take().is_some();
                let version = replica.known.record.as_ref().map(|r| r.version.clone());
                replica.begin_anew(now);
                if held {
                    let _ = self.store(version.as_ref(), "");
                }
                return;
            }
            _ => {}
        }
        if replica.request.is_some() {
            return;
        }
        let write = match next(&replica.name, timing, &replica.known, now) {
            LeaseStep::Stop => {
                replica.begin_anew(now);
                return;
            }
            // Nobody takes what they have not looked at in this life.
            LeaseStep::Take if !replica.looked => None,
            LeaseStep::Take | LeaseStep::Renew => Some((
                replica.known.record.as_ref().map(|r| r.version.clone()),
                replica.name.clone(),
            )),
            LeaseStep::Wait(_) if now < replica.look_at => return,
            LeaseStep::Wait(_) => None,
        };
        replica.look_at = now + timing.retry;
        let (there, back, arrives, heard) = match replica.fate.take() {
            Some(LeaseFate::Slow(there, back)) => (u64::from(there), u64::from(back), true, true),
            Some(LeaseFate::Lost) => (1, 1, false, false),
            Some(LeaseFate::AnswerLost) => (1, 1, true, false),
            other => {
                replica.fate = other;
                (1, 1, true, true)
            }
        };
        let arrives = if arrives { tick + there.max(1) } else { u64::MAX };
        replica.request = Some(LeaseRequest {
            begun: now,
            write,
            arrives,
            answers: tick + there.max(1) + back.max(1),
            heard,
            answer: None,
        });
    }
}

fn fates() -> impl Strategy<Value = Vec<(u16, usize, LeaseFate)>> {
    let fate = prop_oneof![
        (0..60u8, 0..60u8).prop_map(|(there, back)| LeaseFate::Slow(there, back)),
        Just(LeaseFate::Lost),
        Just(LeaseFate::AnswerLost),
        Just(LeaseFate::Dies),
        any::<u8>().prop_map(LeaseFate::Frozen),
        Just(LeaseFate::GivesBack),
    ];
    prop::collection::vec((1..120u16, 0..3usize, fate), 0..60)
}

/// The name of more than one leader at a time, or of none in the end.
fn run(timing: Timing, speeds: &[u64], fates: &[(u16, usize, LeaseFate)]) -> Result<(), String> {
    let mut world = LeaseWorld::new(timing, speeds);
    let watch = |world: &LeaseWorld| match world.leaders().len() {
        0 | 1 => Ok(()),
        _ => Err(format!("at tick {} there are {:?}", world.tick, world.leaders())),
    };
    for (ticks, replica, fate) in fates {
        world.replicas[*replica].fate = Some(*fate);
        for _ in 0..*ticks {
            world.tick();
            watch(&world)?;
        }
    }
    for replica in &mut world.replicas {
        replica.fate = None;
    }
    for _ in 0..2000 {
        world.tick();
        watch(&world)?;
    }
    if world.leaders().is_empty() { Err("nobody leads when all is quiet".into()) } else { Ok(()) }
}

fn speeds() -> impl Strategy<Value = Vec<u64>> {
    prop::collection::vec(810..=1190u64, 3)
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn never_two_and_in_the_end_one(fates in fates(), speeds in speeds()) {
        prop_assert_eq!(run(Timing::default(), &speeds, &fates), Ok(()));
    }
}

/// The same world finds two leaders where the holder may work for longer than the others wait.
#[test]
fn a_holder_that_counts_for_too_long_is_found_out() {
    let careless = Timing { renew_within: Duration::from_secs(21), ..Timing::default() };
    let mut runner =
        TestRunner::new(Config { failure_persistence: None, cases: 2000, ..Config::default() });
    let result = runner.run(&(fates(), speeds()), |(fates, speeds)| {
        run(careless, &speeds, &fates).map_err(TestCaseError::fail)
    });
    assert!(result.is_err(), "two thousand runs and never two leaders");
}

#[test]
fn the_steps_of_a_quiet_life() {
    let timing = Timing::default();
    let seconds = Duration::from_secs;
    let mut known = LeaseObservation::default();
    assert_eq!(next("a", timing, &known, seconds(0)), LeaseStep::Take);
    let of = |holder: &str| {
        Some(LeaseRecord { holder: holder.into(), duration: timing.duration, version: "1".into() })
    };
    known.see(of("b"), seconds(1));
    assert_eq!(next("a", timing, &known, seconds(2)), LeaseStep::Wait(timing.retry));
    assert_eq!(next("a", timing, &known, seconds(15)), LeaseStep::Wait(seconds(1)));
    assert_eq!(next("a", timing, &known, seconds(16)), LeaseStep::Take, "its holder is silent");
    known.see(of("a"), seconds(16));
    known.renewed = Some(seconds(16));
    assert_eq!(next("a", timing, &known, seconds(17)), LeaseStep::Wait(seconds(1)));
    assert_eq!(next("a", timing, &known, seconds(18)), LeaseStep::Renew);
    assert_eq!(next("a", timing, &known, seconds(26)), LeaseStep::Stop);
    known.renewed = Some(seconds(25));
    known.see(of("b"), seconds(26));
    assert_eq!(next("a", timing, &known, seconds(26)), LeaseStep::Stop, "somebody else has it");
}
