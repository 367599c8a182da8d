//! Calls of a backend to the worker over the control socket. They can be cancelled and have a
//! deadline, so that a dead worker is an error and never a hang. After a cancellation the worker
//! still finishes the change.

use std::io::{self, Read, Write};
use std::os::fd::{AsRawFd, RawFd};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::{Duration, Instant};

use pgraft_core::control::{MAX_FRAME, Request, Response};
use pgrx::{check_for_interrupts, pg_sys};

use crate::gucs;
use crate::shmem::{self, Published};

/// Longer than the worker's own deadline, so that its response arrives first.
const TIMEOUT: Duration = Duration::from_secs(15);
/// How long to wait for a worker that is starting.
const START_TIMEOUT: Duration = Duration::from_secs(5);
const START_POLL: Duration = Duration::from_millis(10);

/// Sends a request and waits for the response.
///
/// # Errors
/// The reason why there is no response.
pub fn ask(request: &Request) -> Result<Response, String> {
    if let Published::Stopped(why) = shmem::read() {
        return Err(why);
    }
    let path = gucs::control_socket().ok_or("pgraft.data_dir is not set")?;
    let mut stream = connect(&path)?;
    exchange(&mut stream, request).map_err(|e| e.to_string())
}

/// Connects, and waits for a worker that is starting or restarting.
fn connect(path: &Path) -> Result<UnixStream, String> {
    let deadline = Instant::now() + START_TIMEOUT;
    loop {
        match UnixStream::connect(path) {
            Ok(stream) => return Ok(stream),
            Err(_) if Instant::now() < deadline => pause(START_POLL),
            Err(error) => {
                return Err(format!("could not connect to socket \"{}\": {error}", path.display()));
            }
        }
        if let Published::Stopped(why) = shmem::read() {
            return Err(why);
        }
    }
}

/// What the worker has published. Waits for a worker that is starting.
pub fn published() -> Published {
    let deadline = Instant::now() + START_TIMEOUT;
    loop {
        match shmem::read() {
            Published::Nothing if Instant::now() < deadline => pause(START_POLL),
            published => return published,
        }
    }
}

/// Waits. If the query is cancelled, raises an ERROR, which unwinds.
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
    // A request is far smaller than the socket's buffer, so a partial write means that the worker
    // does not read.
    stream.write_all(&frame)?;
    let mut length = [0; 4];
    fill(stream, &mut length, deadline)?;
    let length = usize::try_from(u32::from_be_bytes(length)).unwrap_or(usize::MAX);
    if length > MAX_FRAME {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "the response is too long"));
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
                    "the connection was closed unexpectedly",
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

/// Waits until the socket is readable or the deadline has passed. If the query is cancelled, raises
/// an ERROR, which unwinds.
fn wait(socket: RawFd, deadline: Instant) -> io::Result<()> {
    let left = deadline.saturating_duration_since(Instant::now());
    if left.is_zero() {
        return Err(io::Error::new(io::ErrorKind::TimedOut, "no response in time"));
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
