//! Carries out the supervisor's commands and turns results into events. Decides nothing.
//!
//! ```text
//!   signals, files, exits, jobs ──▶ events ──▶ supervisor::step ──▶ commands ──▶ perform
//! ```
//!
//! The loop waits only for the next event. Commands that take time are jobs, and at most one job
//! runs.

use nix::sys::signal::Signal;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;

use crate::cli::InstanceRunArgs;
use crate::control;
use crate::disk_space;
use crate::freshness;
use crate::gateway::{Gateway, drain};
use crate::heartbeat::{BEAT_INTERVAL, HeartbeatFile};
use crate::jobs::Jobs;
use crate::liveness;
use crate::logging::Sink;
use crate::postgres::log::LastWords;
use crate::postgres::process::Postmaster;
use crate::prepare;
use crate::provisioning;
use crate::reaper::Reaper;
use crate::settings::Settings;
use crate::standin::StandInMember;
use crate::supervisor::{
    self, StartFailure, StartMode, SupervisorCommand, SupervisorEvent, SupervisorPhase,
    SupervisorState,
};
use crate::tls::PostgresTlsFiles;
use crate::view::MemberView;
use crate::watchdog;

/// How long a fast shutdown of a standby that needs a repair may take. Its member does not vote
/// meanwhile.
const HALT_TIMEOUT: Duration = Duration::from_secs(10);

/// Carries out commands.
pub struct Driver {
    args: InstanceRunArgs,
    os_user: String,
    reaper: Reaper,
    sink: Sink,
    view: watch::Sender<MemberView>,
    heartbeat: HeartbeatFile,
    events: mpsc::UnboundedSender<SupervisorEvent>,
    queue: mpsc::UnboundedReceiver<SupervisorEvent>,
    job: Option<JoinHandle<()>>,
    server: Option<Postmaster>,
    /// The certificate files that the server has loaded, or failed to load.
    certificates: Option<PostgresTlsFiles>,
    unanswered: Arc<std::sync::atomic::AtomicU32>,
    standin: StandInMember,
    /// One reload at a time.
    reloading: Arc<tokio::sync::Mutex<()>>,
    gateway: Option<Arc<Gateway>>,
    /// When the shutdown of this process was requested.
    stop_requested: Option<Instant>,
}

impl Driver {
    /// A driver that has not started yet.
    pub fn new(
        args: InstanceRunArgs,
        os_user: String,
        reaper: Reaper,
        sink: Sink,
        view: watch::Sender<MemberView>,
        heartbeat: HeartbeatFile,
        gateway: Option<Arc<Gateway>>,
    ) -> Self {
        let (events, queue) = mpsc::unbounded_channel();
        Self {
            args,
            os_user,
            reaper,
            sink,
            view,
            heartbeat,
            events,
            queue,
            job: None,
            server: None,
            certificates: None,
            unanswered: Arc::default(),
            standin: StandInMember::default(),
            reloading: Arc::default(),
            gateway,
            stop_requested: None,
        }
    }

    /// The queue for events.
    pub fn events(&self) -> mpsc::UnboundedSender<SupervisorEvent> {
        self.events.clone()
    }

    /// Runs until everything has stopped.
    pub async fn run(mut self) -> std::io::Result<()> {
        let mut terminate = signal(SignalKind::terminate())?;
        let mut interrupt = signal(SignalKind::interrupt())?;
        let mut hangup = signal(SignalKind::hangup())?;
        let mut beat = tokio::time::interval(BEAT_INTERVAL);
        let (mut state, mut commands) = supervisor::begin();
        loop {
            for command in commands {
                if command == SupervisorCommand::Exit {
                    self.standin.end().await;
                    return Ok(());
                }
                self.perform(command);
            }
            let event = tokio::select! {
                Some(event) = self.queue.recv() => event,
                _ = terminate.recv() => SupervisorEvent::Shutdown,
                _ = interrupt.recv() => SupervisorEvent::Shutdown,
                _ = hangup.recv() => self.hung_up(),
                _ = beat.tick() => {
                    self.heartbeat.beat();
                    commands = vec![];
                    continue;
                }
            };
            let next = supervisor::step(state, event);
            self.follow(state, event, next.0);
            (state, commands) = next;
        }
    }

    /// Updates what the rest of the process sees, and logs.
    fn follow(&mut self, old: SupervisorState, event: SupervisorEvent, new: SupervisorState) {
        if event == SupervisorEvent::FilesChanged {
            self.read_settings();
        }
        if matches!(event, SupervisorEvent::Exited { .. } | SupervisorEvent::StartFailed(_)) {
            self.server = None;
        }
        if event == SupervisorEvent::Shutdown {
            tracing::info!("received a shutdown request");
            self.stop_requested.get_or_insert_with(Instant::now);
        }
        if old.phase != new.phase {
            tracing::debug!(
                from = old.phase.as_str(),
                to = new.phase.as_str(),
                failures = new.failures,
                "supervisor"
            );
        }
        self.view.send_if_modified(|view| {
            let concern = match event {
                SupervisorEvent::Concern(concern) => concern,
                SupervisorEvent::Exited { .. } | SupervisorEvent::StartFailed(_) => None,
                _ => view.concern,
            };
            let killed_for = if let SupervisorEvent::Unresponsive(fault) = event {
                Some(fault)
            } else {
                view.killed_for
            };
            let next = (new.phase, new.reason, concern, killed_for);
            let changed = (view.phase, view.reason, view.concern, view.killed_for) != next;
            (view.phase, view.reason, view.concern, view.killed_for) = next;
            if matches!(event, SupervisorEvent::Unresponsive(_)) {
                view.killed_at = Some(Instant::now());
            }
            changed
        });
    }

    fn hung_up(&self) -> SupervisorEvent {
        if let Some(server) = &self.server {
            server.child.signal(Signal::SIGHUP);
        }
        SupervisorEvent::FilesChanged
    }

    /// Reads the configuration file again. An invalid file changes nothing.
    fn read_settings(&self) {
        let old = self.settings();
        match Settings::load(&self.args) {
            Ok(new) => {
                self.view.borrow().configuration.file_is_unreadable(None);
                let (next, fixed) = old.reloaded(new);
                if !fixed.is_empty() {
                    tracing::warn!(
                        keys = fixed.join(", "),
                        "changed settings take effect after a restart of pgraft-instance"
                    );
                }
                self.view.send_modify(|view| view.settings = Arc::new(next));
            }
            Err(error) => {
                tracing::error!(%error, "could not use the changed configuration file");
                self.view.borrow().configuration.file_is_unreadable(Some(error.to_string()));
                // A secret or instance.json may have changed, too.
                self.view.send_modify(|_| ());
            }
        }
    }

    fn settings(&self) -> Arc<Settings> {
        Arc::clone(&self.view.borrow().settings)
    }

    fn perform(&mut self, command: SupervisorCommand) {
        let settings = self.settings();
        match command {
            SupervisorCommand::Clear => self.job(Jobs::clear),
            SupervisorCommand::Inspect => self.job(Jobs::inspect),
            SupervisorCommand::InitDb => self.job(Jobs::init_db),
            SupervisorCommand::Clone => self.job(Jobs::clone_primary),
            SupervisorCommand::Replace => self.job(Jobs::replace),
            SupervisorCommand::Rewind => self.job(Jobs::rewind),
            SupervisorCommand::Start(mode) => self.start(&settings, mode),
            SupervisorCommand::Reload => self.reload(&settings),
            SupervisorCommand::Explain(why) => tracing::error!("{why}"),
            SupervisorCommand::Wait(time) => self.job(async move |_| {
                tokio::time::sleep(time).await;
                SupervisorEvent::Woke
            }),
            SupervisorCommand::Stop => self.hand_over_and_stop(&settings),
            SupervisorCommand::Halt => self.stop(Some(settings.stop_timeout.min(HALT_TIMEOUT))),
            SupervisorCommand::StopNow => self.stop(None),
            SupervisorCommand::Kill => self.kill(),
            SupervisorCommand::AbortJob => self.abort_job(),
            SupervisorCommand::Drain => {
                let (gateway, requested) =
                    (self.gateway.clone(), self.stop_requested.unwrap_or_else(Instant::now));
                self.job(async move |_| {
                    drain::drained(gateway, requested).await;
                    SupervisorEvent::Drained
                });
            }
            SupervisorCommand::Exit => {}
        }
    }

    /// Runs one job. The previous job and the processes that it started are aborted.
    fn job<F: Future<Output = SupervisorEvent> + Send + 'static>(
        &mut self,
        work: impl FnOnce(Jobs) -> F,
    ) {
        let (settings, unanswered) = (self.settings(), Arc::clone(&self.unanswered));
        let configuration = self.view.borrow().configuration.clone();
        let (reaper, sink, standin) =
            (self.reaper.clone(), self.sink.clone(), self.standin.clone());
        let work = work(Jobs { settings, reaper, sink, unanswered, configuration, standin });
        let events = self.events();
        let job = tokio::spawn(async move {
            let event = work.await;
            let _ = events.send(event);
        });
        if let Some(old) = self.job.replace(job) {
            old.abort();
        }
    }

    fn abort_job(&mut self) {
        let (job, events) = (self.job.take(), self.events());
        tokio::spawn(async move {
            if let Some(job) = job {
                job.abort();
                let _ = job.await;
            }
            let _ = events.send(SupervisorEvent::JobEnded);
        });
    }

    fn start(&mut self, settings: &Arc<Settings>, mode: StartMode) {
        self.job = None;
        self.certificates = certificates(settings);
        let configuration = self.view.borrow().configuration.clone();
        let (effective, floors) = configuration.for_start(settings, mode);
        let words = LastWords::default();
        let started = prepare::write_files(&effective, &self.os_user)
            .and_then(|_| prepare::data_directory(&settings.paths, mode))
            .map_err(|e| (e.to_string(), e.start_failure()))
            .and_then(|()| {
                Postmaster::start(&effective, &floors, &self.reaper, &self.sink, words.clone())
                    .map_err(|e| (e.to_string(), StartFailure::Other))
            });
        let server = match started {
            Ok(server) => server,
            Err((error, failure)) => {
                tracing::error!(error, "could not start Postgres");
                configuration.could_not_start(error);
                let _ = self.events.send(SupervisorEvent::StartFailed(failure));
                return;
            }
        };
        tracing::info!(
            phase = SupervisorPhase::Running(mode).as_str(),
            pid = server.child.pid,
            "started Postgres"
        );
        let provisioning = tokio::spawn(provisioning::run(self.view.subscribe(), self.events()));
        let watchdog = tokio::spawn(watchdog::run(self.view.subscribe(), self.events()));
        let disk_space = tokio::spawn(disk_space::run(self.view.subscribe()));
        let freshness = tokio::spawn(freshness::run(self.view.subscribe()));
        let liveness =
            tokio::spawn(liveness::run(server.child.pid, self.view.subscribe(), self.events()));
        let settled = tokio::spawn(configuration.clone().watch(
            Arc::clone(settings),
            self.reaper.clone(),
            words.clone(),
            self.events(),
        ));
        if !configuration.is_judged(settings) {
            // It changed while it was being checked.
            let _ = self.events.send(SupervisorEvent::FilesChanged);
        }
        let (mut child, events, ours, settings) =
            (server.child.clone(), self.events(), server.clone(), Arc::clone(settings));
        tokio::spawn(async move {
            let ending =
                configuration.follow(&settings, async move { child.wait().await }, &words).await;
            settled.abort();
            provisioning.abort();
            watchdog.abort();
            disk_space.abort();
            freshness.abort();
            liveness.abort();
            let ran_for = ours.ran_for();
            tracing::info!(%ending, seconds = ran_for.as_secs(), "Postgres has ended");
            let _ = events.send(SupervisorEvent::Exited { ran_for });
        });
        self.server = Some(server);
    }

    fn reload(&mut self, settings: &Settings) {
        let certificates = certificates(settings);
        // Postgres keeps its present certificate if the files cannot be read or do not match.
        let renewed = certificates.is_some() && certificates != self.certificates;
        if renewed {
            tracing::info!("the certificate files have changed");
            self.certificates = certificates;
        }
        let (view, os_user, reaper) =
            (self.view.subscribe(), self.os_user.clone(), self.reaper.clone());
        let (turn, child) =
            (Arc::clone(&self.reloading), self.server.as_ref().map(|server| server.child.clone()));
        tokio::spawn(async move {
            let _turn = turn.lock().await;
            let MemberView { settings, configuration, .. } = view.borrow().clone();
            configuration.judge(&settings, &reaper).await;
            let (in_force, reload) = configuration.begin_reload(&settings);
            match prepare::write_files(&in_force, &os_user) {
                Ok(changed) if changed || renewed => {
                    if let Some(child) = child {
                        child.signal(Signal::SIGHUP);
                        tokio::spawn(async move {
                            configuration.confirm_reload(&settings, reload).await;
                        });
                    }
                }
                Ok(_) => {}
                Err(error) => {
                    tracing::error!(%error, "could not write the server's configuration");
                }
            }
        });
    }

    /// Stops the server; immediately if no time for a fast shutdown is given.
    fn stop(&self, fast: Option<Duration>) {
        if let Some(server) = self.server.clone() {
            tokio::spawn(server.stop(fast));
        }
    }

    /// Kills the postmaster. `leftovers` handles its remaining children.
    fn kill(&self) {
        if let Some(server) = &self.server {
            server.child.signal(Signal::SIGKILL);
        }
    }

    /// Stops the server for good. A primary hands over to a standby first.
    fn hand_over_and_stop(&self, settings: &Arc<Settings>) {
        let Some(server) = self.server.clone() else { return };
        let settings = Arc::clone(settings);
        tokio::spawn(async move {
            if settings.failover {
                match control::hand_over(&settings).await {
                    Ok(None) => tracing::info!("a standby has taken over from this primary"),
                    Ok(Some(why)) => tracing::debug!(why, "no handover is needed"),
                    Err(error) => {
                        tracing::warn!(%error, "could not hand over to a standby; stopping Postgres without a handover");
                    }
                }
            }
            server.stop(Some(settings.stop_timeout)).await
        });
    }
}

fn certificates(settings: &Settings) -> Option<PostgresTlsFiles> {
    PostgresTlsFiles::read(settings).unwrap_or_else(|error| {
        tracing::error!(%error, "could not read the certificate files");
        None
    })
}
