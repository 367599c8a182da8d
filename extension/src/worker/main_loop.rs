//! The worker's main thread: starts the member, calls Postgres for it, and ends the process if the
//! member fails.
//!
//! After a failure the postmaster restarts the worker within a second (exit code 1). If only an
//! administrator can help (invalid settings, a directory of another node), the worker keeps running
//! without a member and publishes the reason. A panic of the member ends this process, never the
//! server.

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

/// How often the main thread updates the WAL position and writes log messages.
const TICK: Duration = Duration::from_millis(250);
const SHUTDOWN_TIMEOUT: Duration = Duration::from_secs(3);
/// How long to wait for the release of the lease after a crash. Postgres restarts its processes when
/// all have ended, and kills this one after five seconds.
const CRASH_TIMEOUT: Duration = Duration::from_millis(300);
/// One is enough: no task blocks for longer than a flush of a promise. With two threads, each
/// wake-up of one woke the other, too.
const THREADS: usize = 1;
/// For name lookups (one at a time per member) and small files. Threads start on demand and end
/// after ten idle seconds.
const BLOCKING_THREADS: usize = 32;

enum LoopEnd {
    /// The server is stopping, or the worker was asked to stop.
    Requested,
    /// The member has failed.
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
        Ok(Err(error)) => fail(&format!("could not start threads: {error}")),
        Err(error) => fail(&format!("could not block signals: {error}")),
    };
    let controller = settings
        .lease_timeout
        .map(|_| ServerController::new(pg::data_directory(), &settings.data_dir))
        .transpose();
    let controller = match controller {
        Ok(controller) => controller,
        Err(error) => fail(&format!("could not create a socket pair: {error}")),
    };
    let node = match start(&runtime, settings, controller.as_ref()) {
        Ok(node) => node,
        Err(error) if error.is_temporary() => {
            warning!("pgraft: {error}; the worker will retry in one second");
            pg::exit(1)
        }
        Err(error) => stop_for_good(&error.to_string()),
    };
    match serve(&runtime, node, controller, &lines) {
        LoopEnd::Requested => {
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
    // On a thread of the runtime, so that threads of the member inherit its signal mask, not this
    // thread's.
    let node = runtime
        .block_on(runtime.spawn(Node::start(settings, hooks)))
        .map_err(|e| StartError::Raft(e.to_string()))??;
    log!("pgraft: node {id} is listening on {at}");
    Ok(node)
}

/// Calls Postgres for the member until the member fails or the server stops.
fn serve(
    runtime: &Runtime,
    mut node: Node,
    mut controller: Option<ServerController>,
    lines: &Receiver<LogMessage>,
) -> LoopEnd {
    let (report_failure, failure) = std::sync::mpsc::channel();
    let (reload_certificates, poke) = (node.reloader(), node.poker());
    let (stop, stopping) = tokio::sync::oneshot::channel();
    if let Some(controller) = &controller
        && let Err(error) = pg::crash::listen(controller.wake_fd())
    {
        warning!(
            "pgraft: could not install the SIGQUIT handler; the lease is not released if the server crashes: {error}"
        );
    }
    let watcher = runtime.spawn(async move {
        tokio::select! {
            why = node.failed() => { let _ = report_failure.send(why); }
            woken = stopping => node.leave(matches!(woken, Ok(pg::WakeReason::PostmasterDied | pg::WakeReason::Crashed))).await,
        }
    });
    loop {
        if let Some(progress) = pg::wal::progress() {
            shmem::set_wal(progress);
        }
        write(lines);
        let woken = match &mut controller {
            None if BackgroundWorker::wait_latch(Some(TICK)) => pg::WakeReason::Continue,
            None => pg::WakeReason::ShutdownRequested,
            Some(controller) => {
                let (changed, due) = controller.run_once();
                if changed {
                    poke();
                }
                pg::wait(due.unwrap_or(TICK), controller.fd())
            }
        };
        if woken != pg::WakeReason::Continue {
            let _ = stop.send(woken);
            let longest =
                if woken == pg::WakeReason::Crashed { CRASH_TIMEOUT } else { SHUTDOWN_TIMEOUT };
            let _ = runtime.block_on(async { tokio::time::timeout(longest, watcher).await });
            if woken == pg::WakeReason::Crashed {
                pg::crash::exit_at_once();
            }
            return LoopEnd::Requested;
        }
        if BackgroundWorker::sighup_received() {
            pg::reload();
            reload_certificates();
        }
        match failure.try_recv() {
            Ok(why) => return LoopEnd::Failed(why),
            Err(TryRecvError::Disconnected) => {
                return LoopEnd::Failed("the watcher task has ended".into());
            }
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

/// For errors that only an administrator can correct. Postgres continues without pgraft; this
/// process stays to publish the reason, also after a crash of a backend has reset shared memory. It
/// retries after a reload, because the error may be in a file.
fn stop_for_good(why: &str) -> ! {
    log!("pgraft: the worker cannot start: {why}");
    shmem::publish_stopped(why);
    while BackgroundWorker::wait_latch(None) {
        if BackgroundWorker::sighup_received() {
            break;
        }
    }
    pg::exit(1)
}

/// For errors that may be temporary.
fn fail(why: &str) -> ! {
    warning!("pgraft: the worker failed and will be restarted: {why}");
    pg::exit(1)
}
