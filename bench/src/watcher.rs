//! Measures when a change is first visible on a member: in a separate thread with its own
//! connection, so that the async scheduler does not delay reading the clock.

use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crate::failure::BenchFailure;
use crate::servers::TIMEOUT;

/// Between two checks: three members are checked on the machine that they run on.
const INTERVAL: Duration = Duration::from_micros(400);

/// A thread that checks one member.
pub struct Watcher<Q> {
    begin: Sender<Q>,
    seen: Receiver<Result<Instant, BenchFailure>>,
    _thread: JoinHandle<()>,
}

impl<Q: Send + 'static> Watcher<Q> {
    /// `connect` runs on the watcher's own runtime. It returns the function that checks the member.
    pub fn new<C, F>(connect: C) -> Self
    where
        C: FnOnce(&tokio::runtime::Runtime) -> Result<F, BenchFailure> + Send + 'static,
        F: FnMut(&tokio::runtime::Runtime, &Q) -> Result<bool, BenchFailure>,
    {
        let (begin, begun) = channel::<Q>();
        let (results, seen) = channel();
        let thread = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .map_err(BenchFailure::io("a runtime"));
            let connected =
                runtime.and_then(|runtime| connect(&runtime).map(|check| (runtime, check)));
            let (runtime, mut check) = match connected {
                Ok(both) => both,
                Err(failure) => return drop(results.send(Err(failure))),
            };
            for question in begun {
                if results.send(wait(&runtime, &mut check, &question)).is_err() {
                    return;
                }
            }
        });
        Self { begin, seen, _thread: thread }
    }

    /// Starts checking.
    pub fn begin(&self, question: Q) {
        // If the thread has ended, `seen` returns its error.
        let _ = self.begin.send(question);
    }

    /// The time at which the check first succeeded.
    pub fn seen(&self) -> Result<Instant, BenchFailure> {
        self.seen
            .recv()
            .unwrap_or_else(|_| Err(BenchFailure::Wrong("a watcher has stopped".into())))
    }
}

fn wait<Q>(
    runtime: &tokio::runtime::Runtime,
    check: &mut impl FnMut(&tokio::runtime::Runtime, &Q) -> Result<bool, BenchFailure>,
    question: &Q,
) -> Result<Instant, BenchFailure> {
    let begun = Instant::now();
    while !check(runtime, question)? {
        if begun.elapsed() > TIMEOUT {
            return Err(BenchFailure::Deadline {
                what: "a change to be visible on a member".into(),
                limit: TIMEOUT,
            });
        }
        std::thread::sleep(INTERVAL);
    }
    Ok(Instant::now())
}
