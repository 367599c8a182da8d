//! The simulated world: machines, network, time, and what can be done to them. Everything that
//! happens goes past the invariants and into the story.

mod databases;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use pgraft_core::control::{Request, Response};
use pgraft_core::{ClusterState, Command, NodeState, NodeStatus, Role};
use pgraft_raft::sim::{Machine, MachineEvent, Rules};

use crate::clock::Time;
use crate::host::{Ended, FIRST_PORT, PendingAnswer, SimHost};
use crate::invariants::{self, Invariant, Observation};
use crate::net::{FASTEST, Net, host};
use crate::numbers::{mix, node};
use crate::postgres::Databases;
use crate::story::{Story, ids};

/// How long the instance manager lets pass before it starts a server again.
const RESTART_DELAY: Duration = Duration::from_secs(1);

/// `pgraft.lease_timeout`, by seed: the shorter the more happens.
const LEASES: [Duration; 3] =
    [Duration::from_millis(500), Duration::from_secs(1), Duration::from_secs(2)];

/// An invariant that does not hold.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Violation {
    /// When it was seen.
    pub at: Time,
    /// Which one.
    pub invariant: &'static str,
    /// What is wrong.
    pub what: String,
}

/// The world.
pub struct World {
    seed: u64,
    rules: Rules,
    now: Time,
    /// By the machines' numbers.
    pub hosts: BTreeMap<u32, SimHost>,
    /// Between them.
    pub net: Net,
    /// What has happened.
    pub story: Story,
    invariants: Vec<Box<dyn Invariant>>,
    violation: Option<Violation>,
    /// The latest state that anybody has applied, after this index.
    latest: (u64, ClusterState),
    restarts: Vec<(Time, u32)>,
    /// The members' servers, where the members choose the primary.
    pub databases: Option<Databases>,
}

impl World {
    /// An empty world.
    pub fn new(seed: u64, rules: Rules) -> Self {
        Self {
            seed,
            rules,
            now: Time::ZERO,
            hosts: BTreeMap::new(),
            net: Net::new(mix(seed, 0)),
            story: Story::default(),
            invariants: invariants::all(),
            violation: None,
            latest: (0, ClusterState::default()),
            restarts: Vec::new(),
            databases: None,
        }
    }

    /// What time it is.
    pub const fn now(&self) -> Time {
        self.now
    }

    /// The first invariant that did not hold.
    pub const fn violation(&self) -> Option<&Violation> {
        self.violation.as_ref()
    }

    /// The latest state that anybody has applied.
    pub const fn state(&self) -> &ClusterState {
        &self.latest.1
    }

    /// Adds a line to the story.
    pub fn tell(&mut self, what: impl std::fmt::Display) {
        self.story.tell(self.now, what);
    }

    /// Lets everything run for one step.
    pub fn step(&mut self) {
        let until = self.now + FASTEST;
        self.now = until;
        let due: Vec<u32> = self
            .restarts
            .iter()
            .filter(|(at, _)| *at <= until)
            .map(|(_, number)| *number)
            .collect();
        self.restarts.retain(|(at, _)| *at > until);
        for number in due {
            if !self.hosts[&number].is_up() {
                self.start_member(number);
            }
        }
        self.let_databases_go_on();
        let numbers: Vec<u32> = self.hosts.keys().copied().collect();
        for number in numbers {
            if let Some(host) = self.hosts.get_mut(&number) {
                host.run(until);
            }
            self.listen_to(number);
        }
    }

    /// Lets everything run until it is so, or the time is up, or an invariant does not hold. Tells
    /// whether it is so.
    pub fn run_until(&mut self, at_most: Duration, mut so: impl FnMut(&mut Self) -> bool) -> bool {
        let deadline = self.now + at_most;
        loop {
            if self.violation.is_some() {
                return false;
            }
            if so(self) {
                return true;
            }
            if self.now >= deadline {
                return false;
            }
            self.step();
        }
    }

    /// Lets everything run for a while.
    pub fn run_for(&mut self, time: Duration) {
        self.run_until(time, |_| false);
    }

    /// A machine with this number; a new one is off, and its disk is empty.
    pub fn machine(&mut self, number: u32) -> &mut SimHost {
        let (seed, rules) = (mix(self.seed, u64::from(number)), self.rules);
        let lease = LEASES[usize::try_from(self.seed % 3).unwrap_or(0)];
        self.hosts
            .entry(number)
            .or_insert_with(|| SimHost::new(number, number, Machine::new(seed, rules), lease))
    }

    /// Starts the member on a machine; where it lives in a server, the server's instance manager,
    /// which does the rest.
    pub fn start(&mut self, number: u32) {
        if self.databases.is_some() { self.power_on(number) } else { self.start_member(number) }
    }

    fn start_member(&mut self, number: u32) {
        let server = self.databases.as_mut().map(|d| d.postgres(number));
        if matches!(server, Some(None)) {
            return; // its server has ended meanwhile
        }
        let server = server.flatten();
        self.machine(number);
        self.see(&Observation::Starts { machine: number });
        let (now, net) = (self.now, self.net.clone());
        let host = self.machine(number);
        let node = host.node;
        let started = host.start(now, &net, server);
        match started {
            Ok(()) if node == number => self.tell(format!("node {node} starts")),
            Ok(()) => self.tell(format!("node {node} starts on machine {number}")),
            Err(why) => self.tell(format!("machine {number} can't start: {why}")),
        }
    }

    /// The power goes on a machine.
    pub fn crash(&mut self, number: u32) {
        let (now, net) = (self.now, self.net.clone());
        let had_power = self.cut_power(number);
        let Some(host) = self.hosts.get_mut(&number).filter(|h| h.is_up() || had_power) else {
            return;
        };
        let (node, lost) = (host.node, host.crash(now, &net));
        self.listen_to(number);
        let writes = |n: usize| {
            if n == 1 { "1 unsynced write".to_owned() } else { format!("{n} unsynced writes") }
        };
        match (lost.lost, lost.kept) {
            (0, 0) => self.tell(format!("node {node} crashes")),
            (lost, 0) => self.tell(format!("node {node} crashes, losing {}", writes(lost))),
            (lost, kept) => self
                .tell(format!("node {node} crashes, losing {} and keeping {kept}", writes(lost))),
        }
    }

    /// The member's process is killed, and the whole server that it lives in.
    pub fn kill(&mut self, number: u32) {
        let (now, net) = (self.now, self.net.clone());
        self.end_server(number);
        if let Some(host) = self.hosts.get_mut(&number).filter(|h| h.is_up()) {
            host.kill(now, &net);
            let node = host.node;
            self.listen_to(number);
            self.tell(format!("node {node} is killed"));
        }
    }

    /// A machine's clock stands still.
    pub fn freeze(&mut self, number: u32) {
        let now = self.now;
        if let Some(host) = self.hosts.get_mut(&number).filter(|h| h.is_up() && !h.is_frozen()) {
            host.freeze(now);
            let node = host.node;
            self.stop_server(number, true);
            self.tell(format!("node {node} is paused"));
        }
    }

    /// A machine goes on.
    pub fn thaw(&mut self, number: u32) {
        let now = self.now;
        if let Some(host) = self.hosts.get_mut(&number).filter(|h| h.is_frozen()) {
            host.thaw(now);
            let node = host.node;
            self.stop_server(number, false);
            self.tell(format!("node {node} goes on"));
        }
    }

    /// A machine's disk is empty; it must be off.
    pub fn wipe(&mut self, number: u32) {
        self.machine(number).machine.wipe();
        self.wipe_server(number);
        self.see(&Observation::NewDisk { machine: number });
        self.tell(format!("node {number} has lost its disk"));
    }

    /// A machine gets a copy of another's disk; it must be off.
    pub fn copy(&mut self, from: u32, to: u32) {
        let original = Arc::clone(&self.machine(from).machine);
        self.machine(to).machine.copy_from(&original);
        self.see(&Observation::NewDisk { machine: to });
        self.tell(format!("machine {to} gets a copy of node {from}'s directory"));
    }

    /// Cuts every link between the groups, both ways. Who is in none can talk to everybody.
    pub fn partition(&mut self, groups: &[Vec<u32>]) {
        for (n, group) in groups.iter().enumerate() {
            for other in
                groups.iter().enumerate().filter(|(m, _)| *m != n).flat_map(|(_, other)| other)
            {
                for member in group {
                    self.net.set(*member, *other, self.now, |link| link.cut = true);
                }
            }
        }
        self.tell(format!("partition: {}", groups.iter().map(ids).collect::<Vec<_>>().join(" | ")));
    }

    /// All links are healthy again.
    pub fn heal(&mut self) {
        self.net.mend(self.now);
        self.tell("the network is healthy");
    }

    /// The request to add the member on a machine, where it listens now.
    pub fn add_request(&self, number: u32) -> Request {
        Request::AddNode {
            node_id: i64::from(number),
            address: host(number),
            port: self.port(number),
        }
    }

    /// The request to look for it where it listens now.
    pub fn move_request(&self, number: u32) -> Request {
        Request::SetAddress {
            node_id: i64::from(number),
            address: host(number),
            port: self.port(number),
        }
    }

    /// The port that a member's machine listens on.
    pub fn port(&self, number: u32) -> i64 {
        self.hosts.get(&number).map_or(FIRST_PORT, |h| h.port).into()
    }

    /// Members that do not listen where the group looks for them.
    pub fn moved(&self) -> Vec<u32> {
        let members = &self.state().members;
        members
            .iter()
            .filter(|(id, m)| i64::from(m.address.port()) != self.port(id.get()))
            .map(|(id, _)| id.get())
            .collect()
    }

    /// The member listens on another port from its next start on.
    pub fn relocate(&mut self, number: u32) {
        let host = self.machine(number);
        host.port += 1;
        let port = host.port;
        self.tell(format!("node {number} moves to port {port}"));
    }

    /// Asks the member on a machine.
    pub fn ask(&self, number: u32, request: Request) -> Option<PendingAnswer> {
        self.hosts.get(&number)?.ask(request)
    }

    /// Asks, and waits for the answer.
    pub fn call(&mut self, number: u32, request: &Request, at_most: Duration) -> Option<Response> {
        let mut answer: Option<PendingAnswer> = None;
        self.run_until(at_most, |world| {
            if answer.is_none() {
                answer = world.ask(number, request.clone());
            }
            answer.as_ref().is_some_and(|a| a.lock().is_ok_and(|a| a.is_some()))
        });
        answer?.lock().ok()?.take()
    }

    /// What the member on a machine has published last.
    pub fn status(&self, number: u32) -> Option<NodeStatus> {
        self.hosts.get(&number).filter(|h| h.is_up())?.status()
    }

    /// Who votes, by the latest state.
    pub fn voters(&self) -> Vec<u32> {
        self.state()
            .members
            .iter()
            .filter(|(_, m)| m.role == Role::Voter)
            .map(|(id, _)| id.get())
            .collect()
    }

    /// The running members that call themselves leader, by their machines' numbers.
    pub fn leaders(&self) -> Vec<u32> {
        let leads = |n: &u32| {
            self.status(*n)
                .is_some_and(|s| s.state == NodeState::Leader && s.leader == Some(s.node_id))
        };
        self.hosts.keys().copied().filter(leads).collect()
    }

    /// Shows the invariants what has happened.
    pub fn see(&mut self, seen: &Observation<'_>) {
        if self.violation.is_some() {
            return;
        }
        for invariant in &mut self.invariants {
            if let Err(what) = invariant.see(seen) {
                let violation = Violation { at: self.now, invariant: invariant.name(), what };
                self.story.tell(
                    self.now,
                    format!("VIOLATED: {}: {}", violation.invariant, violation.what),
                );
                self.violation = Some(violation);
                return;
            }
        }
    }

    /// Ends the run with something that is wrong but is no invariant's to see.
    pub fn fail(&mut self, invariant: &'static str, what: String) {
        if self.violation.is_none() {
            self.tell(format!("VIOLATED: {invariant}: {what}"));
            self.violation = Some(Violation { at: self.now, invariant, what });
        }
    }

    /// Takes up what the member on a machine has done.
    fn listen_to(&mut self, number: u32) {
        let Some(host) = self.hosts.get(&number) else { return };
        let (node, machine, ended) = (host.node, Arc::clone(&host.machine), host.ended());
        for event in machine.events() {
            self.see(&Observation::Did { machine: number, node, event: &event });
            match &event {
                MachineEvent::Voted { term, confirmed: true } if term.candidate == node => {
                    self.tell(format!("node {node} leads term {}", term.number));
                    let (purged, log) = machine.log();
                    self.see(&Observation::Leads { node, term: term.number, purged, log: &log });
                }
                MachineEvent::Installed { index, .. } if *index > 0 => {
                    self.tell(format!("node {node} goes on from a snapshot up to entry {index}"));
                }
                MachineEvent::Applied { entry, outcome, state } if entry.index > self.latest.0 => {
                    self.tell_of_entry(
                        entry.index,
                        &entry.content,
                        entry.voters.as_deref(),
                        outcome,
                    );
                    self.latest = (entry.index, ClusterState::clone(state));
                    self.see_primary_term();
                }
                _ => {}
            }
        }
        match ended {
            None => {}
            Some(Ended::NotStarted { why, temporary }) => {
                self.kill_quietly(number);
                self.tell(format!("node {node} does not start: {why}"));
                if temporary {
                    self.restarts.push((self.now + RESTART_DELAY, number));
                }
            }
            Some(Ended::Stopped(why)) => {
                self.kill_quietly(number);
                self.tell(format!("node {node} stops: {why}"));
                self.see(&Observation::Died { node, why: &why });
                self.restarts.push((self.now + RESTART_DELAY, number));
            }
        }
    }

    fn kill_quietly(&mut self, number: u32) {
        let (now, net) = (self.now, self.net.clone());
        self.end_worker(number);
        if let Some(host) = self.hosts.get_mut(&number) {
            host.kill(now, &net);
        }
    }

    fn tell_of_entry(
        &mut self,
        index: u64,
        content: &str,
        voters: Option<&[Vec<u32>]>,
        outcome: &str,
    ) {
        match voters {
            Some([one]) => self.tell(format!("entry {index} is committed: voters {}", ids(one))),
            Some(halves) => {
                let halves: Vec<String> = halves.iter().map(ids).collect();
                self.tell(format!("entry {index} is committed: voters {}", halves.join(" → ")));
            }
            None if content == "blank" => {}
            None => {
                self.tell(format!("entry {index} is committed: {} ({outcome})", short(content)));
            }
        }
    }
}

/// A command in few words.
fn short(content: &str) -> String {
    match serde_json::from_str::<Command>(content) {
        Ok(Command::Init { node, .. }) => format!("init by node {node}"),
        Ok(Command::Join { node, address }) => format!("node {node} joins at {address}"),
        Ok(Command::Remove { node }) => format!("node {node} leaves"),
        Ok(Command::JoinExpired { node }) => format!("node {node} never came"),
        Ok(Command::SetAddress { node, address }) => format!("node {node} is at {address}"),
        Ok(Command::Register { node, .. }) => format!("node {node} tells of itself"),
        Ok(Command::Recruit { epoch, reason, .. }) => format!("epoch {epoch} recruits, {reason}"),
        Ok(Command::Appoint { epoch, primary }) => {
            format!("node {primary} is appointed in epoch {epoch}")
        }
        Ok(Command::ProposeSyncConfig { epoch, change, standbys }) => {
            format!(
                "commits of epoch {epoch} are to wait for {}, after change {change}",
                ids(standbys)
            )
        }
        Ok(Command::CommitSyncConfig { epoch, change, .. }) => {
            format!("epoch {epoch} settles change {change}")
        }
        Ok(Command::Force { .. }) | Err(_) => content.to_owned(),
    }
}

/// Whether the state is one that nothing is under way in, with all members voters.
pub fn is_settled(state: &ClusterState) -> bool {
    state.members.values().all(|m| m.role == Role::Voter) || state.change_under_way().is_none()
}
