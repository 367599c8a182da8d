//! The world's databases: what happens to a machine happens to its server, and what happens to a
//! server its member and the invariants see.

use std::path::Path;

use pgraft_core::NodeId;
use pgraft_core::failover::{Phase, SyncConfig};
use pgraft_core::instance_file::{FILE_NAME, InstanceFile};

use super::{RESTART_DELAY, World};
use crate::invariants::Observation;
use crate::net::FASTEST;
use crate::note::{Ask, ClientAnswer, Note};
use crate::postgres::Databases;
use crate::postgres::disk::{PostgresDisk, SimData};
use crate::postgres::liveness::StuckProcesses;
use crate::postgres::manager::ManagedMember;
use crate::postgres::run::SimServerMode;
use crate::postgres::server::{Manager, SimPostgres};
use crate::story::ids;

impl World {
    /// The members have servers from now on, and choose their primary. Node 1 makes the cluster.
    pub fn bring_databases(&mut self) {
        let mut databases = Databases::new(self.seed, self.rules);
        databases.server(1).bootstrap = true;
        self.databases = Some(databases);
    }

    /// The server of a machine.
    pub fn server(&self, number: u32) -> Option<&SimPostgres> {
        self.databases.as_ref()?.servers.get(&number)
    }

    fn server_mut(&mut self, number: u32) -> Option<&mut SimPostgres> {
        self.databases.as_mut()?.servers.get_mut(&number)
    }

    /// Whether the machine is on: its server runs, or will.
    pub fn is_on(&self, number: u32) -> bool {
        match &self.databases {
            None => self.hosts.get(&number).is_some_and(super::SimHost::is_up),
            Some(_) => self.server(number).is_some_and(|s| s.manager != Manager::Off),
        }
    }

    /// Whether its server is being rewound, or was and can't start.
    pub fn is_under_repair(&self, number: u32) -> bool {
        self.server(number).is_some_and(|s| matches!(s.disk.data, SimData::Broken(_)))
    }

    pub(super) fn power_on(&mut self, number: u32) {
        self.machine(number);
        let now = self.now;
        if self.databases.as_mut().is_some_and(|d| d.power_on(number, now)) {
            self.net.power(number, true);
            self.tell(format!("machine {number} is on"));
        }
    }

    /// Whether there was any.
    pub(super) fn cut_power(&mut self, number: u32) -> bool {
        let on = self.databases.is_some() && self.is_on(number);
        if let Some(server) = self.server_mut(number) {
            server.lose_power();
        }
        on
    }

    pub(super) fn end_server(&mut self, number: u32) {
        if let Some(server) = self.server_mut(number) {
            server.end_processes();
            server.manager = Manager::Off;
            server.frozen = false;
        }
    }

    pub(super) fn stop_server(&mut self, number: u32, stop: bool) {
        if let Some(server) = self.server_mut(number) {
            server.frozen = stop;
        }
    }

    pub(super) fn wipe_server(&mut self, number: u32) {
        if let Some(server) = self.server_mut(number) {
            server.disk = PostgresDisk::default();
            server.bootstrap = false;
        }
    }

    pub(super) fn end_worker(&mut self, number: u32) {
        if let Some(server) = self.server_mut(number) {
            server.worker = None;
        }
    }

    /// The postmaster is killed: its processes go on for a while, and nobody can be sure of them.
    pub fn kill_postmaster(&mut self, number: u32, lingers: std::time::Duration) {
        let until = self.now + lingers;
        if let Some(run) = self.server_mut(number).and_then(|s| s.run.as_mut()) {
            run.orphans_until.get_or_insert(until);
            self.tell(format!(
                "the postmaster of node {number} is killed, and its processes linger for {} ms",
                lingers.as_millis()
            ));
            // Not always does the worker get to it.
            if !lingers.as_millis().is_multiple_of(4) {
                self.orphan(number);
            }
        }
    }

    /// The worker sees that its server ends, and releases the lease.
    fn orphan(&self, number: u32) {
        if let Some(host) = self.hosts.get(&number) {
            host.orphan();
        }
    }

    /// Some processes of the server are stopped, and it is up to its instance manager to notice.
    pub fn stop_processes(
        &mut self,
        number: u32,
        what: &str,
        stop: impl FnOnce(&mut StuckProcesses),
    ) {
        if let Some(run) = self
            .server_mut(number)
            .and_then(|s| s.run.as_mut())
            .filter(|r| r.orphans_until.is_none())
        {
            stop(&mut run.stuck);
            self.tell(format!("the {what} of node {number} is stopped"));
        }
    }

    /// What is written to the disk of a server does not get there, or does again.
    pub fn freeze_disk(&mut self, number: u32, stands: bool) {
        if let Some(server) = self.server_mut(number).filter(|s| s.disk_stands != stands) {
            server.disk_stands = stands;
            let words = if stands { "stands still" } else { "goes on" };
            self.tell(format!("the data disk of node {number} {words}"));
        }
    }

    /// A backend is killed, and the postmaster survives that: every process of the server ends, and
    /// the postmaster starts them again.
    pub fn crash_server(&mut self, number: u32) {
        let now = self.now;
        let Some(id) = self.databases.as_mut().map(Databases::next_run) else { return };
        if let Some(server) = self
            .server_mut(number)
            .filter(|s| s.run.as_ref().is_some_and(|r| r.orphans_until.is_none()))
        {
            server.recover_in_place(id, now);
            self.note_recovery(number);
            self.kill_quietly(number);
            self.tell(format!("a process of node {number} is killed, and its server recovers"));
            self.restarts.push((now + FASTEST, number));
        }
    }

    /// A recovery syncs what it finds.
    fn note_recovery(&mut self, number: u32) {
        let now = self.now;
        let Some(databases) = &mut self.databases else { return };
        if let Some(server) = databases.servers.get(&number) {
            databases.flushes.on_disk(number, &server.disk, server.disk.flushed, now);
        }
    }

    /// The worker ends, and its server lives.
    pub fn kill_worker(&mut self, number: u32) {
        if self.hosts.get(&number).is_some_and(super::SimHost::is_up) {
            self.kill_quietly(number);
            self.tell(format!("the worker of node {number} is killed"));
            self.restarts.push((self.now + RESTART_DELAY, number));
        }
    }

    /// The worker stands still, and its server goes on.
    pub fn freeze_worker(&mut self, number: u32) {
        let now = self.now;
        if let Some(host) = self.hosts.get_mut(&number).filter(|h| h.is_up() && !h.is_frozen()) {
            host.freeze(now);
            self.tell(format!("the worker of node {number} is paused"));
        }
    }

    pub(super) fn let_databases_go_on(&mut self) {
        let Some(mut databases) = self.databases.take() else { return };
        let file = |number: u32| {
            let bytes = self
                .hosts
                .get(&number)?
                .machine
                .read_file(&Path::new("/raft").join(FILE_NAME))
                .ok()?;
            serde_json::from_slice::<InstanceFile>(&bytes).ok()
        };
        let primary = |number: u32| Some(self.status(number)?.primary?.get());
        let frozen = |number: u32| self.hosts.get(&number).is_some_and(super::SimHost::is_frozen);
        for (number, server) in &mut databases.servers {
            server.worker_stands = frozen(*number);
        }
        let (notes, news) =
            databases.step(self.now, &self.net, &ManagedMember { file: &file, primary: &primary });
        self.databases = Some(databases);
        for note in &notes {
            self.heed(note);
        }
        for number in news {
            if let Some(host) = self.hosts.get(&number) {
                host.poke();
            }
        }
    }

    fn heed(&mut self, note: &Note) {
        if let Some(words) = words(note) {
            self.tell(words);
        }
        match note {
            Note::WorkerBegins { machine } => self.start_member(*machine),
            Note::StandsIn { machine }
                if !self.hosts.get(machine).is_some_and(super::SimHost::is_up) =>
            {
                self.start_member(*machine);
            }
            Note::WorkerEnds { machine } => self.kill_quietly(*machine),
            Note::Kills { node, .. } => self.kill_postmaster(
                *node,
                std::time::Duration::from_millis(self.now.subsec_millis().into()) / 8,
            ),
            Note::Stops { node } => {
                if let Some(server) = self.server_mut(*node) {
                    server.end_processes();
                }
                self.kill_quietly(*node);
            }
            Note::Confirms { node, timeline, record, config, .. } => {
                self.see_confirmed(*node, *timeline, *record, config.as_ref());
            }
            Note::GateOpens { node, began, config, rows, .. } => {
                let required = config.as_ref().map_or(0, |c| c.required);
                let standbys =
                    |n: u32| config.as_ref().is_some_and(|c| c.standbys.contains(&super::node(n)));
                let confirmed =
                    self.databases.as_ref().map_or(0, |d| d.flushes.of(*began, standbys).len());
                self.see(&Observation::GateOpens { node: *node, confirmed, required, rows });
            }
            _ => {}
        }
        self.see(&Observation::Postgres(note));
    }

    /// A write is confirmed since the last standby that it needs has it on disk.
    fn see_confirmed(
        &mut self,
        node: u32,
        timeline: u32,
        record: u64,
        config: Option<&SyncConfig>,
    ) {
        let since = config.and_then(|config| {
            let is_one = |n: u32| config.standbys.contains(&super::node(n));
            let times = self.databases.as_ref()?.flushes.of(record, is_one);
            times.get(config.required.checked_sub(1)?).copied()
        });
        self.see(&Observation::Confirmed { node, timeline, since: since.unwrap_or(self.now) });
    }

    pub(super) fn see_primary_term(&mut self) {
        let Some(primary_term) = &self.latest.1.primary_term else { return };
        if primary_term.phase == Phase::Steady {
            let (epoch, timeline) = (primary_term.epoch, primary_term.timeline);
            self.see(&Observation::Appointed { epoch, timeline });
        }
    }

    /// Whether every member's server follows one primary, with the same WAL, and that one takes
    /// writes. In words what is missing.
    pub fn why_not_one_database(&self) -> Option<String> {
        self.databases.as_ref()?;
        let state = self.state();
        let primary = state.primary().map(NodeId::get)?;
        let primary_term = state.primary_term.as_ref()?;
        if !primary_term.is_settled() {
            return Some(format!("epoch {} is not settled", primary_term.epoch));
        }
        let Some(first) = self.server(primary) else {
            return Some(format!("node {primary} has no server"));
        };
        if !first.is_open(self.now) {
            return Some(format!("the gate of node {primary} is closed"));
        }
        state.members.keys().map(|id| id.get()).filter(|n| *n != primary).find_map(|number| {
            let server = self.server(number)?;
            let standby = server.run.as_ref().is_some_and(|r| r.mode == SimServerMode::Standby);
            let alike = server.disk.wal.len() == first.disk.wal.len()
                && server.disk.parts_from(&first.disk).is_none();
            (!standby || !alike || server.end() != first.end()).then(|| {
                format!(
                    "node {number} is at {:?} and its primary, node {primary}, at {:?}",
                    server.end(),
                    first.end()
                )
            })
        })
    }
}

/// For the story; None for what happens all the time.
fn words(note: &Note) -> Option<String> {
    Some(match note {
        Note::Stops { node } => format!("the server of node {node} is ended by its worker"),
        Note::Kills { node, why } => format!("the server of node {node} is unresponsive: {why}"),
        Note::Promotes { node, timeline } => format!("node {node} promotes to timeline {timeline}"),
        Note::Promoted { node, timeline, upto } => {
            format!("node {node} is a primary on timeline {timeline}, behind {upto}")
        }
        Note::Open(nodes) if nodes.is_empty() => "no gate is open".into(),
        Note::Open(nodes) => format!("the gate of node {} is open", ids(nodes)),
        Note::Streams { node, standby, .. } => format!("node {standby} streams from node {node}"),
        Note::Refuses { node, standby, why } => {
            format!("node {standby} may not stream from node {node}: {why}")
        }
        Note::Rewinds { node, from } => format!("node {node} is rewound to node {from}"),
        Note::Copied { node, from, how } => format!("node {node} has what node {from} has: {how}"),
        Note::Hears { ask: Ask::Write(row), answer, .. } => match answer {
            Some(ClientAnswer::Done) => format!("row {row} is acknowledged"),
            Some(_) => return None,
            None => format!("nobody knows about row {row}"),
        },
        _ => return None,
    })
}
