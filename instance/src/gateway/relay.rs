//! Forwards bytes between a client and its server, in both directions, until both have closed their
//! side or one connection is lost. Called by `connection`.
//!
//! Each client has a thread, as it has a process in Postgres. A message costs a poll, a read and a
//! write, and wakes no other thread. The runtime's threads share one epoll among all clients; with
//! busy cores their throughput is much lower (`just bench overhead` measures it).

use std::io::{self, Read, Write};
use std::net::{Shutdown, TcpStream as Socket};
use std::ops::Range;
use std::os::fd::AsFd;
use std::sync::Arc;
use std::thread;

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use tokio::net::TcpStream;
use tokio::sync::oneshot;

/// The buffer of one direction, in bytes.
const BUFFER: usize = 16 * 1024;
/// The stack of a thread, in bytes. The buffers are not on it.
const STACK: usize = 128 * 1024;

/// Forwards until both sides are done. Dropping the future closes both connections.
pub async fn relay(client: TcpStream, server: TcpStream) -> io::Result<()> {
    let ends = Arc::new([client.into_std()?, server.into_std()?]);
    let _cut = RelayEnd(Arc::clone(&ends));
    let (done, ended) = oneshot::channel();
    thread::Builder::new()
        .name("relay".into())
        .stack_size(STACK)
        .spawn(move || done.send(pass(&ends)))?;
    ended.await.unwrap_or(Ok(()))
}

/// Closes both connections, which ends the thread.
struct RelayEnd(Arc<[Socket; 2]>);

impl Drop for RelayEnd {
    fn drop(&mut self) {
        for end in self.0.iter() {
            let _ = end.shutdown(Shutdown::Both); // it may be closed already
        }
    }
}

fn pass(ends: &[Socket; 2]) -> io::Result<()> {
    // From the client, and from the server.
    let mut directions = [Direction::new(), Direction::new()];
    while !directions.iter().all(Direction::is_over) {
        let wanted = [0, 1].map(|n| directions[n].reads() | directions[1 - n].writes());
        let mut polled = [0, 1].map(|n| PollFd::new(ends[n].as_fd(), wanted[n]));
        // A connection that is polled for nothing is left out: poll() would report its hangup again
        // and again.
        let polled_ends = usize::from(wanted[0].is_empty())..2 - usize::from(wanted[1].is_empty());
        match poll(&mut polled[polled_ends], PollTimeout::NONE) {
            Err(Errno::EINTR) => continue,
            answer => answer?,
        };
        let is_ready = polled.map(|end| end.any().unwrap_or(true));
        for (n, direction) in directions.iter_mut().enumerate() {
            direction.forward(is_ready[n], &ends[n], &ends[1 - n])?;
        }
    }
    Ok(())
}

/// One direction.
struct Direction {
    buffer: Box<[u8]>,
    /// The part of the buffer that is not written yet.
    held: Range<usize>,
    /// The sender has closed its side.
    ended: bool,
}

impl Direction {
    fn new() -> Self {
        Self { buffer: vec![0; BUFFER].into(), held: 0..0, ended: false }
    }

    fn is_over(&self) -> bool {
        self.ended && self.held.is_empty()
    }

    /// The events to poll the sender for.
    fn reads(&self) -> PollFlags {
        if self.held.is_empty() && !self.ended { PollFlags::POLLIN } else { PollFlags::empty() }
    }

    /// The events to poll the receiver for.
    fn writes(&self) -> PollFlags {
        if self.held.is_empty() { PollFlags::empty() } else { PollFlags::POLLOUT }
    }

    fn forward(&mut self, is_ready: bool, mut from: &Socket, mut to: &Socket) -> io::Result<()> {
        if is_ready && !self.reads().is_empty() {
            let Some(read) = ready(from.read(&mut self.buffer))? else { return Ok(()) };
            self.held = 0..read;
            self.ended = read == 0;
            if self.ended {
                let _ = to.shutdown(Shutdown::Write); // a lost receiver is noticed by the other direction
            }
        }
        if !self.held.is_empty() {
            self.held.start += ready(to.write(&self.buffer[self.held.clone()]))?.unwrap_or(0);
        }
        Ok(())
    }
}

/// `None` if the call would block.
fn ready(done: io::Result<usize>) -> io::Result<Option<usize>> {
    match done {
        Ok(bytes) => Ok(Some(bytes)),
        Err(error)
            if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) =>
        {
            Ok(None)
        }
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;
    use tokio::task::JoinHandle;
    use tokio::time::timeout;

    use super::*;

    const TIMEOUT: Duration = Duration::from_mins(1);

    /// Two ends of one connection.
    async fn pair() -> (TcpStream, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let connected = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        (connected, listener.accept().await.unwrap().0)
    }

    /// A client, its server, and the relay between them.
    async fn between() -> (TcpStream, TcpStream, JoinHandle<io::Result<()>>) {
        let ((client, near), (far, server)) = (pair().await, pair().await);
        (client, server, tokio::spawn(relay(near, far)))
    }

    #[tokio::test]
    async fn each_side_may_send_after_the_other_has_closed_its_own() {
        const MUCH: usize = 8 << 20;
        let (mut client, mut server, passed) = between().await;
        let ask = async {
            client.write_all(&vec![b'q'; MUCH]).await.unwrap();
            client.shutdown().await.unwrap();
            let mut received = vec![];
            client.read_to_end(&mut received).await.map(|_| received)
        };
        let answer = async {
            let mut received = vec![];
            server.read_to_end(&mut received).await.unwrap();
            server.write_all(&vec![b'a'; MUCH]).await.unwrap();
            server.shutdown().await.map(|()| received)
        };
        let (answer, question) =
            timeout(TIMEOUT, async { tokio::join!(ask, answer) }).await.unwrap();
        for (received, letter) in [(answer.unwrap(), b'a'), (question.unwrap(), b'q')] {
            assert!(
                received.len() == MUCH && received.iter().all(|byte| *byte == letter),
                "{} bytes",
                received.len()
            );
        }
        timeout(TIMEOUT, passed).await.unwrap().unwrap().unwrap();
    }

    #[tokio::test]
    async fn a_side_that_does_not_read_does_not_block_the_other_direction() {
        let (mut client, mut server, _passed) = between().await;
        // The server reads nothing, so this never ends. What it sends arrives nevertheless.
        let (mut reader, mut writer) = client.split();
        let blocked = async { while writer.write_all(&[0; 1 << 12]).await.is_ok() {} };
        let received = async {
            server.write_all(b"notice").await.unwrap();
            let mut received = [0; 6];
            reader.read_exact(&mut received).await.map(|_| received)
        };
        let received = timeout(TIMEOUT, async {
            tokio::select! { () = blocked => panic!("it was read"), received = received => received }
        });
        assert_eq!(&received.await.unwrap().unwrap(), b"notice");
    }

    #[tokio::test]
    async fn a_lost_connection_closes_the_other_one() {
        for client_leaves in [true, false] {
            let (client, server, passed) = between().await;
            let (leaves, mut stays) =
                if client_leaves { (client, server) } else { (server, client) };
            drop(leaves);
            assert_eq!(timeout(TIMEOUT, stays.read(&mut [0])).await.unwrap().unwrap(), 0);
            drop(stays);
            timeout(TIMEOUT, passed).await.unwrap().unwrap().unwrap();
        }
    }

    #[tokio::test]
    async fn dropping_the_relay_closes_both_connections() {
        let (mut client, mut server, passed) = between().await;
        client.write_all(b"q").await.unwrap();
        assert_eq!(timeout(TIMEOUT, server.read_u8()).await.unwrap().unwrap(), b'q');
        passed.abort();
        for end in [&mut client, &mut server] {
            assert_eq!(timeout(TIMEOUT, end.read(&mut [0])).await.unwrap().unwrap(), 0);
        }
    }
}
