//! One situation, one piece of work; and any order of events, in which nobody must ever meet a
//! certificate that they do not trust.

use proptest::prelude::*;

use super::*;
use crate::cluster::fixtures::id;

const DAY: SignedDuration = SignedDuration::from_hours(24);

fn start() -> Timestamp {
    "2026-01-02T03:04:05Z".parse().unwrap()
}

fn want() -> ClusterTls {
    ClusterTls { ca_secret: None, lifetime: DAY * 90 }
}

fn names(n: u32) -> BTreeSet<String> {
    BTreeSet::from([format!("node-{n}.pgraft")])
}

fn nodes(count: u32) -> BTreeMap<NodeId, SecretSubject> {
    (1..=count).map(|n| (id(n), SecretSubject { names: names(n), has_pod: true })).collect()
}

fn ca(tag: &str, from: Timestamp) -> Certificate {
    Certificate {
        der: tag.as_bytes().to_vec(),
        not_before: from,
        not_after: from + CA_LIFETIME,
        names: BTreeSet::new(),
    }
}

/// As the controller would issue it.
fn issue(
    want: &ClusterTls,
    ca: &Certificate,
    names: BTreeSet<String>,
    trusted: Vec<Certificate>,
    now: Timestamp,
) -> NodeCertificate {
    let leaf = Certificate {
        der: [b"leaf of ", ca.der.as_slice()].concat(),
        not_before: now - BACKDATED,
        not_after: not_after(want, ca, now),
        names,
    };
    NodeCertificate { leaf, of_ca: true, trusted, trusted_since: Some(now) }
}

fn settled(count: u32, now: Timestamp) -> TlsSeen {
    let ca = ca("a", now);
    let issued = |n| issue(&want(), &ca, names(n), vec![ca.clone()], now);
    TlsSeen {
        nodes: (1..=count).map(|n| (id(n), Some(issued(n)))).collect(),
        uids: BTreeMap::new(),
        shared: BTreeMap::from([(SecretKind::App, vec![ca.clone()])]),
        ca: Ok(ca.clone()),
    }
}

fn work(seen: &TlsSeen, count: u32, now: Timestamp) -> Vec<Work> {
    decide(&want(), seen, &nodes(count), now).work
}

#[test]
fn from_nothing_to_three_members() {
    let mut seen = settled(0, start());
    seen.shared.insert(SecretKind::App, Vec::new());
    assert_eq!(
        work(&seen, 2, start()),
        [Work::Issue(id(1)), Work::Issue(id(2)), Work::Share(SecretKind::App)]
    );
    assert_eq!(work(&settled(3, start()), 3, start()), []);
}

#[test]
fn renewed_when_a_third_is_left_and_not_before() {
    let seen = settled(2, start());
    assert_eq!(work(&seen, 2, start() + DAY * 59), []);
    assert_eq!(work(&seen, 2, start() + DAY * 61), [Work::Issue(id(1)), Work::Issue(id(2))]);
}

#[test]
fn another_duration_other_names_and_a_secret_that_is_broken() {
    let mut seen = settled(3, start());
    let shorter = ClusterTls { lifetime: DAY, ..want() };
    assert_eq!(decide(&shorter, &seen, &nodes(3), start()).work.len(), 3);
    seen.nodes.insert(id(1), None);
    seen.nodes.get_mut(&id(2)).unwrap().as_mut().unwrap().leaf.names.clear();
    assert_eq!(work(&seen, 3, start()), [Work::Issue(id(1)), Work::Issue(id(2))]);
}

#[test]
fn who_has_gone_needs_none() {
    assert_eq!(work(&settled(3, start()), 2, start()), [Work::Remove(id(3))]);
}

#[test]
fn a_secret_that_was_deleted_in_the_middle_of_a_change_waits_for_its_end() {
    let mut seen = settled(3, start());
    seen.ca = Ok(ca("b", start()));
    for node in seen.nodes.values_mut().flatten() {
        node.of_ca = false;
    }
    seen.nodes.remove(&id(3));
    assert!(!work(&seen, 3, start()).contains(&Work::Issue(id(3))));
    // One that has no pod yet is nobody's to be met.
    seen.nodes.remove(&id(2));
    let mut nodes = nodes(3);
    nodes.get_mut(&id(2)).unwrap().has_pod = false;
    assert!(decide(&want(), &seen, &nodes, start()).work.contains(&Work::Issue(id(2))));
}

#[test]
fn without_a_ca_nothing_is_issued_and_nothing_is_broken() {
    let mut seen = settled(2, start());
    seen.nodes.insert(id(1), None);
    seen.ca = Err(CaTrouble::Missing("mine".into()));
    assert_eq!(work(&seen, 3, start() + DAY * 89), []);
}

#[test]
fn a_ca_is_renewed_long_before_its_end() {
    let seen = settled(2, start());
    assert_eq!(work(&seen, 2, start() + CA_LIFETIME - DAY * 1000), [Work::RenewCa]);
    let own = ClusterTls { ca_secret: Some("mine".into()), ..want() };
    assert!(
        !decide(&own, &seen, &nodes(2), start() + CA_LIFETIME - DAY * 1000)
            .work
            .contains(&Work::RenewCa),
        "the user's own is the user's"
    );
}

#[test]
fn what_ends_with_its_ca_is_not_issued_again_and_again() {
    let own = ClusterTls { ca_secret: Some("mine".into()), ..want() };
    let now = start() + CA_LIFETIME - DAY;
    let mut seen = settled(0, start());
    let ca = seen.ca.clone().unwrap();
    seen.nodes.insert(id(1), Some(issue(&own, &ca, names(1), vec![ca.clone()], now)));
    for hours in 0..24 {
        assert_eq!(
            decide(&own, &seen, &nodes(1), now + SignedDuration::from_hours(hours)).work,
            [],
            "{hours}"
        );
    }
}

#[test]
fn another_ca_is_trusted_before_it_signs_and_the_old_one_until_nobody_needs_it() {
    let (old, new) = (ca("a", start()), ca("b", start()));
    let mut seen = settled(2, start());
    let mut now = start() + DAY;
    seen.ca = Ok(new.clone());
    for node in seen.nodes.values_mut().flatten() {
        node.of_ca = false;
    }
    let decision = decide(&want(), &seen, &nodes(2), now);
    assert_eq!(
        decision.work,
        [Work::Trust(id(1)), Work::Trust(id(2)), Work::Share(SecretKind::App)]
    );
    assert_eq!(decision.trusted, [new.clone(), old]);
    for node in seen.nodes.values_mut().flatten() {
        (node.trusted, node.trusted_since) = (decision.trusted.clone(), Some(now));
    }
    seen.shared.insert(SecretKind::App, decision.trusted.clone());
    assert_eq!(work(&seen, 2, now), [], "the pods are given time");
    now += PROPAGATION;
    assert_eq!(work(&seen, 2, now), [Work::Issue(id(1)), Work::Issue(id(2))]);
    for (n, node) in (1..).zip(seen.nodes.values_mut()) {
        *node = Some(issue(&want(), &new, names(n), decision.trusted.clone(), now));
    }
    assert_eq!(work(&seen, 2, now), []);
    now += PROPAGATION;
    assert_eq!(
        work(&seen, 2, now),
        [Work::Trust(id(1)), Work::Trust(id(2)), Work::Share(SecretKind::App)]
    );
    assert_eq!(decide(&want(), &seen, &nodes(2), now).trusted, [new]);
}

/// What a pod has read of its Secret.
#[derive(Debug, Clone)]
struct LoadedCertificate {
    leaf: Certificate,
    trusted: Vec<Certificate>,
}

#[derive(Debug)]
struct CertificatesWorld {
    now: Timestamp,
    want: ClusterTls,
    seen: TlsSeen,
    cas: u32,
    members: u32,
    /// Who has been believed by all others once.
    met: BTreeSet<NodeId>,
    loaded: BTreeMap<NodeId, LoadedCertificate>,
    /// Since when a Secret is newer than what its pod has read.
    stale: BTreeMap<NodeId, Timestamp>,
}

#[derive(Debug, Clone)]
enum CertificateTestEvent {
    Minute,
    Days(i64),
    AnotherCa,
    Grow,
    Shrink,
    Load(u32),
    SecretDeleted(u32),
}

fn events() -> impl Strategy<Value = CertificateTestEvent> {
    prop_oneof![
        8 => Just(CertificateTestEvent::Minute),
        2 => (1..10_i64).prop_map(CertificateTestEvent::Days),
        1 => Just(CertificateTestEvent::AnotherCa),
        1 => Just(CertificateTestEvent::Grow),
        1 => Just(CertificateTestEvent::Shrink),
        4 => (1..7_u32).prop_map(CertificateTestEvent::Load),
        1 => (1..7_u32).prop_map(CertificateTestEvent::SecretDeleted),
    ]
}

impl CertificatesWorld {
    fn new() -> Self {
        let seen = TlsSeen {
            ca: Ok(ca("ca 0", start())),
            nodes: BTreeMap::new(),
            uids: BTreeMap::new(),
            shared: BTreeMap::new(),
        };
        let nothing = BTreeMap::new();
        let want = ClusterTls { ca_secret: Some("mine".into()), lifetime: DAY * 90 };
        Self {
            now: start(),
            want,
            seen,
            cas: 0,
            members: 3,
            met: BTreeSet::new(),
            loaded: BTreeMap::new(),
            stale: nothing,
        }
    }

    fn happen(&mut self, event: &CertificateTestEvent) {
        match event {
            CertificateTestEvent::Minute => self.now += SignedDuration::from_mins(1),
            CertificateTestEvent::Days(days) => {
                self.now += DAY * i32::try_from(*days).unwrap();
                self.load(|_, _| true);
            }
            CertificateTestEvent::AnotherCa => {
                self.cas += 1;
                let new = ca(&format!("ca {}", self.cas), self.now);
                for node in self.seen.nodes.values_mut().flatten() {
                    node.of_ca = false;
                }
                self.seen.ca = Ok(new);
            }
            CertificateTestEvent::Grow => self.members = (self.members + 1).min(6),
            CertificateTestEvent::Shrink => self.members = (self.members - 1).max(1),
            CertificateTestEvent::Load(n) => self.load(|node, _| node == id(*n)),
            // Two at once in the middle of a change are beyond help: nobody knows then whom the two
            // believe.
            CertificateTestEvent::SecretDeleted(n)
                if self.seen.nodes.len() >= self.loaded.len() =>
            {
                drop(self.seen.nodes.remove(&id(*n)));
            }
            CertificateTestEvent::SecretDeleted(_) => {}
        }
        // The kubelet is never later than this.
        let now = self.now;
        self.load(|_, since| now.duration_since(since) >= SignedDuration::from_mins(4));
    }

    fn load(&mut self, which: impl Fn(NodeId, Timestamp) -> bool) {
        let ready: Vec<NodeId> = self
            .stale
            .iter()
            .filter(|(node, since)| which(**node, **since))
            .map(|(node, _)| *node)
            .collect();
        for node in ready {
            // A Secret that is not there leaves its pod as it is.
            if let Some(Some(NodeCertificate { leaf, trusted, .. })) = self.seen.nodes.get(&node) {
                self.loaded.insert(
                    node,
                    LoadedCertificate { leaf: leaf.clone(), trusted: trusted.clone() },
                );
                self.stale.remove(&node);
            }
        }
    }

    fn operate(&mut self) {
        let mut nodes = nodes(self.members);
        self.loaded.retain(|node, _| nodes.contains_key(node));
        self.stale.retain(|node, _| nodes.contains_key(node));
        self.met.retain(|node| nodes.contains_key(node));
        for (id, subject) in &mut nodes {
            subject.has_pod = self.loaded.contains_key(id);
        }
        let CertificateDecision { work, trusted } =
            decide(&self.want, &self.seen, &nodes, self.now);
        for work in work {
            match work {
                Work::Issue(node) => {
                    let issued = issue(
                        &self.want,
                        self.seen.ca.as_ref().unwrap(),
                        nodes[&node].names.clone(),
                        trusted.clone(),
                        self.now,
                    );
                    self.seen.nodes.insert(node, Some(issued));
                    self.written(node);
                }
                Work::Trust(node) => {
                    let known = self.seen.nodes.get_mut(&node).unwrap().as_mut().unwrap();
                    (known.trusted, known.trusted_since) = (trusted.clone(), Some(self.now));
                    self.written(node);
                }
                Work::Remove(node) => {
                    self.seen.nodes.remove(&node);
                }
                Work::RenewCa | Work::Share(_) => {
                    unreachable!("the CA is the user's own, and there are no clients")
                }
            }
        }
    }

    fn written(&mut self, node: NodeId) {
        self.stale.entry(node).or_insert(self.now);
        if !self.loaded.contains_key(&node) {
            self.load(|id, _| id == node);
        }
    }

    /// The first of these who is not believed by another one of them.
    fn foreign(&self, among: &BTreeSet<NodeId>) -> Option<String> {
        let all: Vec<_> = self.loaded.iter().filter(|(node, _)| among.contains(node)).collect();
        all.iter().flat_map(|a| all.iter().map(move |b| (a, b))).find_map(
            |((a, shown), (b, asked))| {
                let believed = asked
                    .trusted
                    .iter()
                    .any(|ca| shown.leaf.der == [b"leaf of ", ca.der.as_slice()].concat());
                let valid = shown.leaf.not_after > self.now;
                (!believed || !valid).then(|| {
                    format!(
                        "at {} node {b} does not believe node {a}: {shown:?} {asked:?}",
                        self.now
                    )
                })
            },
        )
    }

    /// A newcomer in the middle of a change has to wait until the others have heard of its CA; from
    /// then on it is as good as they are.
    fn welcome(&mut self) {
        for node in self.loaded.keys() {
            let with: BTreeSet<NodeId> = self.met.iter().copied().chain([*node]).collect();
            if self.foreign(&with).is_none() {
                self.met = with;
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn at_no_time_a_member_meets_a_certificate_that_it_does_not_trust(events in prop::collection::vec(events(), 0..120)) {
        let mut world = CertificatesWorld::new();
        world.operate();
        for event in &events {
            world.happen(event);
            world.operate();
            prop_assert_eq!(world.foreign(&world.met), None);
            world.welcome();
        }
        // Left alone it comes to rest with the last CA, and with nothing else.
        for _ in 0..20 {
            world.happen(&CertificateTestEvent::Minute);
            world.operate();
            prop_assert_eq!(world.foreign(&world.met), None);
        }
        prop_assert_eq!(world.foreign(&world.loaded.keys().copied().collect()), None);
        let ca = world.seen.ca.clone().unwrap();
        prop_assert!(world.seen.nodes.values().flatten().all(|node| node.of_ca && node.trusted == [ca.clone()]), "{:#?}", world);
        prop_assert_eq!(decide(&world.want, &world.seen, &nodes(world.members), world.now).work, []);
    }
}
