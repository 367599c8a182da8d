//! The instance manager of each node: starts its server as a standby whenever it has ended, rewinds
//! or clones it when the worker says so. As `instance/src/supervisor.rs` and `duties` do.

use std::time::Duration;

use pgraft_core::NodeId;
use pgraft_core::failover::start::{RecordedPrimary, StartFacts, StartMode, start_mode};
use pgraft_core::instance_file::InstanceFile;

use super::Databases;
use super::disk::{SimData, WalRecord};
use super::run::{ServerRun, SimServerMode};
use super::server::{Manager, SimPostgres};
use crate::clock::Time;
use crate::net::Net;
use crate::note::Note;

/// Between two looks at what the worker asks for.
const POLL_INTERVAL: Duration = Duration::from_millis(200);

/// What a manager knows of its member.
pub struct ManagedMember<'a> {
    /// `instance.json` of that machine.
    pub file: &'a dyn Fn(u32) -> Option<InstanceFile>,
    /// Whom the running member calls the primary.
    pub primary: &'a dyn Fn(u32) -> Option<u32>,
}

impl Databases {
    /// Every instance manager does what is due.
    pub(super) fn manage(
        &mut self,
        now: Time,
        net: &Net,
        member: &ManagedMember<'_>,
        notes: &mut Vec<Note>,
    ) {
        let numbers: Vec<u32> = self.servers.keys().copied().collect();
        for number in numbers {
            let Some(server) = self.servers.get_mut(&number).filter(|s| !s.frozen) else {
                continue;
            };
            if server
                .run
                .as_ref()
                .is_some_and(|r| r.orphans_until.is_some_and(|until| until <= now))
            {
                server.end_processes();
                notes.push(Note::WorkerEnds { machine: number });
            }
            match server.manager {
                Manager::Waiting(at) if at <= now && !server.disk_stands => {
                    self.start(number, now, net, member, notes);
                }
                Manager::Running(look) if server.run.is_none() || look <= now => {
                    self.look_after(number, now, net, member, notes);
                }
                Manager::Copying { from, rewind, until } if until <= now => {
                    self.copied(number, from, rewind, now, net, notes);
                }
                _ => {}
            }
        }
    }

    fn start(
        &mut self,
        number: u32,
        now: Time,
        net: &Net,
        member: &ManagedMember<'_>,
        notes: &mut Vec<Note>,
    ) {
        let file = (member.file)(number);
        let source = self.source(number, file.as_ref(), net);
        let Some(server) = self.servers.get_mut(&number) else { return };
        let bootstraps = server.bootstrap && file.is_none();
        if server.disk.data == SimData::Nothing && bootstraps {
            self.ids += 1;
            server.disk.wal.push(WalRecord { id: self.ids, timeline: 1, row: None });
            server.disk.data = SimData::Whole;
        }
        if server.disk.data != SimData::Whole {
            if file.is_some() {
                notes.push(Note::StandsIn { machine: number });
            }
            let until = now + server.between(100, 900);
            server.manager = match source {
                Some(from) => Manager::Copying { from, rewind: false, until },
                None => Manager::Waiting(now + POLL_INTERVAL * 3),
            };
            return;
        }
        let primary = if file.is_some() {
            RecordedPrimary::AnotherNode // or this one: with failover that makes no difference
        } else {
            RecordedPrimary::NoCluster
        };
        let mode = start_mode(StartFacts {
            failover: true,
            bootstrapping: bootstraps,
            standby_signal: false,
            primary,
        });
        server.disk.prepare();
        server.disk.flushed = server.disk.wal.len();
        self.flushes.on_disk(number, &server.disk, server.disk.flushed, now);
        self.runs += 1;
        let until = now + server.delay(150, 1500);
        let lost = server.begin_recovery();
        server.run = Some(ServerRun {
            lost,
            ..ServerRun::new(
                self.runs,
                server.disk.names.clone(),
                SimServerMode::Starting { until, primary: mode == StartMode::Primary },
            )
        });
        server.manager = Manager::Running(now + POLL_INTERVAL);
        notes.push(Note::WorkerBegins { machine: number });
    }

    fn look_after(
        &mut self,
        number: u32,
        now: Time,
        net: &Net,
        member: &ManagedMember<'_>,
        notes: &mut Vec<Note>,
    ) {
        let Some(server) = self.servers.get_mut(&number) else { return };
        server.manager = Manager::Running(now + POLL_INTERVAL);
        if server.run.is_none() {
            server.manager = Manager::Waiting(now + server.between(20, 700));
            return;
        }
        if self.rules.liveness
            && let Some(why) = server.unresponsive()
        {
            notes.push(Note::Kills { node: number, why });
            return;
        }
        let Some(server) = self.servers.get(&number) else { return };
        let Some(run) = &server.run else { return };
        if run.mode != SimServerMode::Standby || server.worker.is_none() {
            return;
        }
        // Only what concerns it is read: the file is small, and there are many looks.
        let asked = (member.file)(number)
            .filter(|f| f.rewind.is_some() && f.rewind == f.primary)
            .and_then(|f| Some((f.rewind?.get(), f.epoch)));
        let Some((from, epoch)) = asked.filter(|(from, _)| (member.primary)(number) == Some(*from))
        else {
            return;
        };
        if !self.answers(from, number, net) {
            return;
        }
        let Some(server) = self.servers.get_mut(&number) else { return };
        let until = now + server.between(100, 900);
        server.end_processes();
        server.disk.data = SimData::Broken(epoch);
        server.manager = Manager::Copying { from, rewind: true, until };
        notes.push(Note::WorkerEnds { machine: number });
        notes.push(Note::StandsIn { machine: number });
        notes.push(Note::Rewinds { node: number, from });
    }

    fn copied(
        &mut self,
        number: u32,
        from: u32,
        rewind: bool,
        now: Time,
        net: &Net,
        notes: &mut Vec<Note>,
    ) {
        let source = self.answers(from, number, net).then(|| self.servers.get(&from)).flatten();
        let source = source.map(|s| (s.disk.clone(), s.run.as_ref().map_or(1, |r| r.timeline)));
        let Some(server) = self.servers.get_mut(&number) else { return };
        server.manager = Manager::Waiting(now + server.between(10, 300));
        let Some((source, timeline)) = source else { return };
        let how = if rewind {
            server.disk.data = SimData::Whole;
            server.disk.rewind(server.disk.timeline(), &source, timeline)
        } else {
            server.disk.clone_of(&source);
            "cloned".into()
        };
        notes.push(Note::WorkerEnds { machine: number });
        notes.push(Note::Copied { node: number, from, how });
    }

    /// Whether that server answers this node, as a primary.
    fn answers(&self, from: u32, number: u32, net: &Net) -> bool {
        let is_primary = |s: &SimPostgres| {
            !s.frozen
                && s.run.as_ref().is_some_and(|r| r.mode == SimServerMode::Primary && r.accepts())
        };
        self.servers.get(&from).is_some_and(is_primary)
            && net.reaches(number, from)
            && net.reaches(from, number)
    }

    /// Whom to clone: the primary that this node knows of, or that others do.
    fn source(&self, number: u32, file: Option<&InstanceFile>, net: &Net) -> Option<u32> {
        let answers = |n: &u32| *n != number && self.answers(*n, number, net);
        let named = file.and_then(|f| f.primary).map(NodeId::get).filter(answers);
        named.or_else(|| {
            self.servers.keys().copied().filter(answers).max_by_key(|n| self.servers[n].end())
        })
    }
}
