//! The worker's main thread: starts the member, keeps Postgres' side of it, and ends the process
//! when the member can't go on.
//!
//! A member that ends is started again after a second (exit code 1). Where only a person can help
//! (settings that make no sense, a directory that is not ours) the worker stays, says why to
//! whoever asks, and does nothing else. A panic of the member ends this process, never the server.

use std::sync::Arc;
use std::sync::mpsc::{Receiver, TryRecvError};
use std::time::Duration;

use pgraft_raft::{Hooks, Node, PostgresControl, RaftSettings, StartError};
use pgrx::bgworkers::{BackgroundWorker, SignalWakeFlags};
use pgrx::{log, warning};
use tokio::runtime::{Builder, Runtime};
use tracing::Level;

use super::bridge::{self, LogMessage};
use super::server::ServerController;
use crate::{gucs, pg, shmem};

/// How often the main thread looks at WAL position and log lines.
const TICK: Duration = Duration::from_millis(250);
const SHUTDOWN_TIMEOUT: Duration = Duration::from_secs(3);
/// For the lease to be released after a crash. Postgres starts no process before all have ended,
/// and kills this one after five seconds.
const CRASH_TIMEOUT: Duration = Duration::from_millis(300);
/// Nothing that it runs keeps it for long (a promise that goes to the disk, at most). With two,
/// each wake-up of one woke the other as well.
const THREADS: usize = 1;
/// For name lookups, one at a time a member, and small files; made when needed, gone after ten idle
/// seconds.
const BLOCKING_THREADS: usize = 32;

enum LoopEnd {
    /// The server stops or the worker was told to.
    Asked,
    /// The member can't go on.
    Failed(String),
}

/// Runs until the process ends.
pub fn run() -> ! {
    BackgroundWorker::attach_signal_handlers(SignalWakeFlags::SIGHUP | SignalWakeFlags::SIGTERM);
    let settings = match gucs::settings(pg::port(), &pg::data_directory()) {
        Ok(settings) => settings,
        Err(error) => stop_for_good(&error.to_string()),
    };
    let lines = bridge::install();
    let runtime = pg::with_signals_blocked(|| {
        Builder::new_multi_thread()
            .worker_threads(THREADS)
            .max_blocking_threads(BLOCKING_THREADS)
            .thread_name("pgraft")
            .enable_all()
            .build()
    });
    let runtime = match runtime {
        Ok(Ok(runtime)) => runtime,
        Ok(Err(error)) => fail(&format!("can't start its threads: {error}")),
        Err(error) => fail(&format!("can't block its signals: {error}")),
    };
    let controller = settings
        .lease_timeout
        .map(|_| ServerController::new(pg::data_directory(), &settings.data_dir))
        .transpose();
    let controller = match controller {
        Ok(controller) => controller,
        Err(error) => fail(&format!("can't make a socket pair: {error}")),
    };
    let node = match start(&runtime, settings, controller.as_ref()) {
        Ok(node) => node,
        Err(error) if error.is_temporary() => {
            warning!("pgraft: {error}; the worker tries again in a second");
            pg::exit(1)
        }
        Err(error) => stop_for_good(&error.to_string()),
    };
    match keep(&runtime, node, controller, &lines) {
        LoopEnd::Asked => {
            runtime.shutdown_timeout(SHUTDOWN_TIMEOUT);
            write(&lines);
            pg::exit(1)
        }
        LoopEnd::Failed(why) => fail(&why),
    }
}

fn start(
    runtime: &Runtime,
    settings: RaftSettings,
    controller: Option<&ServerController>,
) -> Result<Node, StartError> {
    let (id, at) = (settings.node_id, settings.advertise.clone());
    let postgres = controller.map(|s| s.server() as Arc<dyn PostgresControl>);
    let hooks = Hooks { wal: Arc::new(shmem::wal), postgres, publish: Box::new(shmem::publish) };
    // On a thread of the runtime: whatever threads the member makes then inherit the full signal
    // mask, not this thread's.
    let node = runtime
        .block_on(runtime.spawn(Node::start(settings, hooks)))
        .map_err(|e| StartError::Raft(e.to_string()))??;
    log!("pgraft: node {id} listens at {at}");
    Ok(node)
}

/// Keeps Postgres' side until the member or the server ends.
fn keep(
    runtime: &Runtime,
    mut node: Node,
    mut controller: Option<ServerController>,
    lines: &Receiver<LogMessage>,
) -> LoopEnd {
    let (tell_end, ended) = std::sync::mpsc::channel();
    let (reload_certificates, poke) = (node.reloader(), node.poker());
    let (stop, stopping) = tokio::sync::oneshot::channel();
    if let Some(controller) = &controller
        && let Err(error) = pg::crash::listen(controller.wake_fd())
    {
        warning!("pgraft: can't handle SIGQUIT, a crash of this server costs its lease: {error}");
    }
    let watcher = runtime.spawn(async move {
        tokio::select! {
            why = node.failed() => { let _ = tell_end.send(why); }
            woken = stopping => node.leave(matches!(woken, Ok(pg::WakeReason::PostmasterDied | pg::WakeReason::Crashed))).await,
        }
    });
    loop {
        if let Some(progress) = pg::wal::progress() {
            shmem::set_wal(progress);
        }
        write(lines);
        let woken = match &mut controller {
            None if BackgroundWorker::wait_latch(Some(TICK)) => pg::WakeReason::GoOn,
            None => pg::WakeReason::ShutdownRequested,
            Some(controller) => {
                let (news, due) = controller.tend();
                if news {
                    poke();
                }
                pg::wait(due.unwrap_or(TICK), controller.fd())
            }
        };
        if woken != pg::WakeReason::GoOn {
            let _ = stop.send(woken);
            let longest =
                if woken == pg::WakeReason::Crashed { CRASH_TIMEOUT } else { SHUTDOWN_TIMEOUT };
            let _ = runtime.block_on(async { tokio::time::timeout(longest, watcher).await });
            if woken == pg::WakeReason::Crashed {
                pg::crash::exit_at_once();
            }
            return LoopEnd::Asked;
        }
        if BackgroundWorker::sighup_received() {
            pg::reload();
            reload_certificates();
        }
        match ended.try_recv() {
            Ok(why) => return LoopEnd::Failed(why),
            Err(TryRecvError::Disconnected) => return LoopEnd::Failed("its watcher ended".into()),
            Err(TryRecvError::Empty) => {}
        }
    }
}

fn write(lines: &Receiver<LogMessage>) {
    while let Ok(LogMessage { level, text }) = lines.try_recv() {
        if level <= Level::WARN {
            warning!("pgraft: {text}");
        } else {
            log!("pgraft: {text}");
        }
    }
}

/// For what only a person can mend. Postgres goes on without pgraft; this process stays to say why,
/// also after a crash of a backend has wiped shared memory and had it started anew. A reload has it
/// try again: what is wrong may have been a file.
fn stop_for_good(why: &str) -> ! {
    log!("pgraft: the worker does not start: {why}");
    shmem::publish_stopped(why);
    while BackgroundWorker::wait_latch(None) {
        if BackgroundWorker::sighup_received() {
            break;
        }
    }
    pg::exit(1)
}

/// For what may go better the next time.
fn fail(why: &str) -> ! {
    warning!("pgraft: the worker ends and is started again: {why}");
    pg::exit(1)
}
