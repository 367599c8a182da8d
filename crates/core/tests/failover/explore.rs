//! Two ways through the states of a world: all of them, nearest first, and at random.

use std::collections::HashMap;
use std::collections::hash_map::{DefaultHasher, Entry};
use std::fmt;
use std::hash::{Hash, Hasher};
use std::time::{Duration, Instant};

use crate::mutation::Mutation;
use crate::world::{Action, MAX, ModelViolation, ModelWorld};

/// What a search came to.
pub enum Found {
    /// Nothing is left to look at.
    Complete { states: usize, depth: usize },
    /// The bound was reached.
    Bound { states: usize, depth: usize },
    /// That must not be.
    Violation { what: ModelViolation, trace: Vec<Action> },
}

impl fmt::Display for Found {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Complete { states, depth } => {
                write!(f, "complete: {states} states, {depth} deep, no violation")
            }
            Self::Bound { states, depth } => {
                write!(f, "{states} states, {depth} deep, no violation so far")
            }
            Self::Violation { what, trace } => {
                write!(f, "{what:?} in {} steps: {}", trace.len(), story(trace))
            }
        }
    }
}

/// As `traces.rs` tells it: the names of the actions.
pub fn story(actions: &[Action]) -> String {
    let names: Vec<String> =
        actions.iter().map(|action| format!("{action:?}").replace(' ', "")).collect();
    names.join(" ")
}

fn hash(world: &ModelWorld) -> u64 {
    let mut hasher = DefaultHasher::new();
    world.hash(&mut hasher);
    hasher.finish()
}

/// Breadth first: the shortest trace to a violation.
pub fn search(start: &ModelWorld, mutation: Option<Mutation>, most_states: usize) -> Found {
    let root = hash(start);
    let mut parents: HashMap<u64, Option<(u64, Action)>> = HashMap::from([(root, None)]);
    let (mut layer, mut depth) = (vec![(root, start.clone())], 0);
    while !layer.is_empty() {
        let mut next = Vec::new();
        for (from, world) in &layer {
            for (action, after) in world.successors(mutation) {
                let to = hash(&after);
                let Entry::Vacant(entry) = parents.entry(to) else { continue };
                entry.insert(Some((*from, action)));
                if let Some(what) = after.violation {
                    return Found::Violation { what, trace: trace(&parents, to) };
                }
                if parents.len() >= most_states {
                    return Found::Bound { states: parents.len(), depth };
                }
                next.push((to, after));
            }
        }
        layer = next;
        depth += 1;
    }
    Found::Complete { states: parents.len(), depth }
}

fn trace(parents: &HashMap<u64, Option<(u64, Action)>>, to: u64) -> Vec<Action> {
    let (mut at, mut actions) = (to, Vec::new());
    while let Some(Some((from, action))) = parents.get(&at) {
        actions.push(*action);
        at = *from;
    }
    actions.reverse();
    actions
}

/// What random walks came to.
#[derive(Debug, Default)]
pub struct Walks {
    pub count: u64,
    pub steps: u64,
    /// Walks in which a second primary took writes.
    pub failovers: u64,
    pub violation: Option<(ModelViolation, Vec<Action>)>,
}

/// xorshift64*: small, and the same everywhere.
pub struct Random(pub u64);

impl Random {
    pub fn below(&mut self, n: usize) -> usize {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        usize::try_from(self.0.wrapping_mul(0x2545_F491_4F6C_DD1D) >> 33).unwrap() % n
    }
}

/// How likely each kind of action is on each node, drawn anew every now and then: where everything
/// is equally likely, nobody is ever late enough for the interesting orders. Crashes and ends of
/// leases are seldom, or nothing is ever finished.
struct Moods(Vec<usize>);

/// Steps between two draws.
const MOOD: usize = 30;

impl Moods {
    const KINDS: usize = 23;

    fn draw(random: &mut Random) -> Self {
        Self((0..Self::KINDS * MAX).map(|_| [0, 1, 8, 8, 40][random.below(5)]).collect())
    }

    fn weight(&self, action: Action) -> usize {
        let (kind, node, seldom) = match action {
            Action::PromiseEnds(n) => (0, n, 2),
            Action::LeaseEnds(n) => (1, n, 8),
            Action::Crash(n) => (2, n, 8),
            Action::Restart(n, _) => (3, n, 2),
            Action::WorkerRestarts(n, _) => (21, n, 16),
            Action::Start(n) => (22, n, 1),
            Action::Apply(n) => (4, n, 1),
            Action::Step(n) => (5, n, 1),
            Action::PromotionBreaksOff(n) => (6, n, 8),
            Action::PrimaryTerm(n) => (7, n, 1),
            Action::LoadConninfo(n) => (8, n, 1),
            Action::ReceiverStarts(n) => (9, n, 1),
            Action::ReceiverEnds(n) => (10, n, 1),
            Action::Receive(n) => (11, n, 1),
            Action::RewindEnds(n, _) => (12, n, 1),
            Action::Confirm(n, _) => (13, n, 1),
            Action::Grant(n, _) => (14, n, 2),
            Action::NamesLoaded(n) => (15, n, 1),
            Action::Write(n) => (16, n, 1),
            Action::Lead => (17, 0, 2),
            Action::Commit(_) => (18, 0, 1),
            Action::ChangeStandbys(_) => (19, 0, 8),
            Action::ChangeVoter(..) => (20, 0, 80),
        };
        // Nothing is quite impossible.
        16 * self.0[kind * MAX + node as usize] / seldom + 1
    }
}

/// Random walks of at most `steps` steps, until `budget` is used up or something is found; what is
/// found is shortened.
pub fn walk(
    start: &ModelWorld,
    mutation: Option<Mutation>,
    seed: u64,
    steps: usize,
    budget: Duration,
    most_walks: u64,
) -> Walks {
    let mut random = Random(seed | 1);
    let mut walks = Walks::default();
    let began = Instant::now();
    while began.elapsed() < budget && walks.count < most_walks {
        walks.count += 1;
        let (mut world, mut taken) = (start.clone(), Vec::new());
        let mut moods = Moods::draw(&mut random);
        for step in 0..steps {
            if step % MOOD == MOOD - 1 {
                moods = Moods::draw(&mut random);
            }
            let next = world.successors(mutation);
            let total: usize = next.iter().map(|(a, _)| moods.weight(*a)).sum();
            if total == 0 {
                break;
            }
            let mut draw = random.below(total);
            let chosen = next.into_iter().find(|(action, _)| {
                let found = draw < moods.weight(*action);
                draw = draw.saturating_sub(moods.weight(*action));
                found
            });
            let Some((action, after)) = chosen else { break };
            (world, walks.steps) = (after, walks.steps + 1);
            taken.push(action);
            if let Some(what) = world.violation {
                walks.violation = Some((what, shorten(start, mutation, taken, what)));
                return walks;
            }
        }
        walks.failovers += u64::from(world.opened > 1);
    }
    walks
}

/// Takes out whatever is not needed for the same violation.
fn shorten(
    start: &ModelWorld,
    mutation: Option<Mutation>,
    mut trace: Vec<Action>,
    what: ModelViolation,
) -> Vec<Action> {
    let run = |actions: &[Action]| {
        let (mut world, mut used) = (start.clone(), Vec::new());
        for action in actions {
            if let Some((_, after)) =
                world.successors(mutation).into_iter().find(|(a, _)| a == action)
            {
                world = after;
                used.push(*action);
            }
            if world.violation == Some(what) {
                return Some(used);
            }
        }
        None
    };
    let mut size = trace.len() / 2;
    while size >= 1 {
        let mut at = 0;
        while at + size <= trace.len() {
            let shorter: Vec<Action> =
                trace[..at].iter().chain(&trace[at + size..]).copied().collect();
            match run(&shorter) {
                Some(used) => trace = used,
                None => at += 1,
            }
        }
        size /= 2;
    }
    trace
}
