//! Who notes the moment at which something is first seen on one member: a thread of its own with a
//! connection of its own, so that no scheduler stands between the answer and the clock.

use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crate::failure::BenchFailure;
use crate::servers::TIMEOUT;

/// Between two looks: three members are looked at on a machine that they need for themselves.
const INTERVAL: Duration = Duration::from_micros(400);

/// Looks at one member when it is told to.
pub struct Watcher<Q> {
    begin: Sender<Q>,
    seen: Receiver<Result<Instant, BenchFailure>>,
    _thread: JoinHandle<()>,
}

impl<Q: Send + 'static> Watcher<Q> {
    /// `connect` makes the connection, on the watcher's own runtime; what comes of it answers
    /// whether something is so.
    pub fn new<C, F>(connect: C) -> Self
    where
        C: FnOnce(&tokio::runtime::Runtime) -> Result<F, BenchFailure> + Send + 'static,
        F: FnMut(&tokio::runtime::Runtime, &Q) -> Result<bool, BenchFailure>,
    {
        let (begin, begun) = channel::<Q>();
        let (tell, seen) = channel();
        let thread = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .map_err(BenchFailure::io("a runtime"));
            let connected =
                runtime.and_then(|runtime| connect(&runtime).map(|look| (runtime, look)));
            let (runtime, mut look) = match connected {
                Ok(both) => both,
                Err(failure) => return drop(tell.send(Err(failure))),
            };
            for question in begun {
                if tell.send(wait(&runtime, &mut look, &question)).is_err() {
                    return;
                }
            }
        });
        Self { begin, seen, _thread: thread }
    }

    /// Begins to look.
    pub fn begin(&self, question: Q) {
        // A thread that has ended has said why; `seen` brings it.
        let _ = self.begin.send(question);
    }

    /// When it was first seen.
    pub fn seen(&self) -> Result<Instant, BenchFailure> {
        self.seen.recv().unwrap_or_else(|_| Err(BenchFailure::Wrong("a watcher has ended".into())))
    }
}

fn wait<Q>(
    runtime: &tokio::runtime::Runtime,
    look: &mut impl FnMut(&tokio::runtime::Runtime, &Q) -> Result<bool, BenchFailure>,
    question: &Q,
) -> Result<Instant, BenchFailure> {
    let begun = Instant::now();
    while !look(runtime, question)? {
        if begun.elapsed() > TIMEOUT {
            return Err(BenchFailure::Deadline {
                what: "a change seen on a member".into(),
                limit: TIMEOUT,
            });
        }
        std::thread::sleep(INTERVAL);
    }
    Ok(Instant::now())
}
