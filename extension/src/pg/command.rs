//! A backend's call to the worker over the control socket: interruptible, and with a deadline, so
//! that a dead worker is an error and never a hang. A cancelled call leaves the worker to finish
//! what it began; the same call again finds it done.

use std::io::{self, Read, Write};
use std::os::fd::{AsRawFd, RawFd};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::{Duration, Instant};

use pgraft_core::control::{MAX_FRAME, Request, Response};
use pgrx::{check_for_interrupts, pg_sys};

use crate::gucs;
use crate::shmem::{self, Published};

/// Longer than the worker's own deadline, so that its answer comes first.
const TIMEOUT: Duration = Duration::from_secs(15);
/// How long a worker may take to start.
const START_TIMEOUT: Duration = Duration::from_secs(5);
const START_POLL: Duration = Duration::from_millis(10);

/// Asks and waits for the answer; the error says why there was none.
pub fn ask(request: &Request) -> Result<Response, String> {
    if let Published::Stopped(why) = shmem::read() {
        return Err(why);
    }
    let path = gucs::control_socket().ok_or("pgraft.data_dir is not set")?;
    let mut stream = connect(&path)?;
    exchange(&mut stream, request).map_err(|e| e.to_string())
}

/// The worker is there a moment after the server and a second after its own end: a caller that
/// comes in between waits.
fn connect(path: &Path) -> Result<UnixStream, String> {
    let deadline = Instant::now() + START_TIMEOUT;
    loop {
        match UnixStream::connect(path) {
            Ok(stream) => return Ok(stream),
            Err(_) if Instant::now() < deadline => pause(START_POLL),
            Err(error) => return Err(format!("can't reach it at {}: {error}", path.display())),
        }
        if let Published::Stopped(why) = shmem::read() {
            return Err(why);
        }
    }
}

/// What the worker has published, given it a moment to start.
pub fn published() -> Published {
    let deadline = Instant::now() + START_TIMEOUT;
    loop {
        match shmem::read() {
            Published::Nothing if Instant::now() < deadline => pause(START_POLL),
            published => return published,
        }
    }
}

/// Waits, unless the query is cancelled (an ERROR, which unwinds).
fn pause(time: Duration) {
    let events = pg_sys::WL_LATCH_SET | pg_sys::WL_TIMEOUT | pg_sys::WL_EXIT_ON_PM_DEATH;
    let milliseconds = std::ffi::c_long::try_from(time.as_millis()).unwrap_or(1);
    // SAFETY: on the main thread; the latch is this process' own.
    unsafe {
        pg_sys::WaitLatch(
            pg_sys::MyLatch,
            events.cast_signed(),
            milliseconds,
            pg_sys::PG_WAIT_EXTENSION,
        )
    };
    // SAFETY: this process' own latch.
    unsafe { pg_sys::ResetLatch(pg_sys::MyLatch) };
    check_for_interrupts!();
}

fn exchange(stream: &mut UnixStream, request: &Request) -> io::Result<Response> {
    let deadline = Instant::now() + TIMEOUT;
    let body = serde_json::to_vec(request)?;
    let length = u32::try_from(body.len())
        .ok()
        .filter(|_| body.len() <= MAX_FRAME)
        .ok_or(io::ErrorKind::InvalidInput)?;
    stream.set_nonblocking(true)?;
    let mut frame = length.to_be_bytes().to_vec();
    frame.extend(body);
    // A request is far smaller than the socket's buffer: it goes out in one piece or the worker is
    // in trouble.
    stream.write_all(&frame)?;
    let mut length = [0; 4];
    fill(stream, &mut length, deadline)?;
    let length = usize::try_from(u32::from_be_bytes(length)).unwrap_or(usize::MAX);
    if length > MAX_FRAME {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "its answer is too long"));
    }
    let mut body = vec![0; length];
    fill(stream, &mut body, deadline)?;
    Ok(serde_json::from_slice(&body)?)
}

fn fill(stream: &mut UnixStream, buffer: &mut [u8], deadline: Instant) -> io::Result<()> {
    let mut have = 0;
    while have < buffer.len() {
        match stream.read(&mut buffer[have..]) {
            Ok(0) => {
                return Err(io::Error::new(
                    io::ErrorKind::UnexpectedEof,
                    "it ended before it answered",
                ));
            }
            Ok(n) => have += n,
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => wait(stream.as_raw_fd(), deadline)?,
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(e),
        }
    }
    Ok(())
}

/// Waits until the socket can be read, the query is cancelled (an ERROR, which unwinds) or the time
/// is up.
fn wait(socket: RawFd, deadline: Instant) -> io::Result<()> {
    let left = deadline.saturating_duration_since(Instant::now());
    if left.is_zero() {
        return Err(io::Error::new(io::ErrorKind::TimedOut, "it did not answer in time"));
    }
    let events = pg_sys::WL_LATCH_SET
        | pg_sys::WL_SOCKET_READABLE
        | pg_sys::WL_TIMEOUT
        | pg_sys::WL_EXIT_ON_PM_DEATH;
    let milliseconds = std::ffi::c_long::try_from(left.as_millis()).unwrap_or(1000).max(1);
    // SAFETY: on the main thread; the latch is this process' own and the socket outlives the call.
    let happened = unsafe {
        pg_sys::WaitLatchOrSocket(
            pg_sys::MyLatch,
            events.cast_signed(),
            socket,
            milliseconds,
            pg_sys::PG_WAIT_EXTENSION,
        )
    };
    if happened.cast_unsigned() & pg_sys::WL_LATCH_SET != 0 {
        // SAFETY: this process' own latch.
        unsafe { pg_sys::ResetLatch(pg_sys::MyLatch) };
        check_for_interrupts!();
    }
    Ok(())
}
