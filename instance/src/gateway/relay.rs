//! Passes bytes between a client and its server, both ways, until both have said all or one is
//! lost. Called by `connection`.
//!
//! In a thread for each client, as Postgres has a process for each: a message costs a poll, a read
//! and a write, and wakes nobody else. The runtime's threads, which share one epoll among all
//! clients, let much less through where the cores are busy (`just bench overhead` has the figures).

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

/// What is on its way in one direction, in bytes at most.
const BUFFER: usize = 16 * 1024;
/// Of a thread, in bytes: the buffers are not on it.
const STACK: usize = 128 * 1024;

/// Both are cut when this is dropped.
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

/// Ends the thread when nobody waits for it any more.
struct RelayEnd(Arc<[Socket; 2]>);

impl Drop for RelayEnd {
    fn drop(&mut self) {
        for end in self.0.iter() {
            let _ = end.shutdown(Shutdown::Both); // one that is closed already is as good
        }
    }
}

fn pass(ends: &[Socket; 2]) -> io::Result<()> {
    // The first from the client, the second from the server.
    let mut ways = [Way::new(), Way::new()];
    while !ways.iter().all(Way::is_over) {
        let wanted = [0, 1].map(|n| ways[n].reads() | ways[1 - n].writes());
        let mut polled = [0, 1].map(|n| PollFd::new(ends[n].as_fd(), wanted[n]));
        // An end of which nothing is wanted is left out: that it has hung up would be told again
        // and again.
        let asked = usize::from(wanted[0].is_empty())..2 - usize::from(wanted[1].is_empty());
        match poll(&mut polled[asked], PollTimeout::NONE) {
            Err(Errno::EINTR) => continue,
            answer => answer?,
        };
        let news = polled.map(|end| end.any().unwrap_or(true));
        for (n, way) in ways.iter_mut().enumerate() {
            way.go_on(news[n], &ends[n], &ends[1 - n])?;
        }
    }
    Ok(())
}

/// One direction.
struct Way {
    buffer: Box<[u8]>,
    /// What of it is still to be written.
    held: Range<usize>,
    /// The sender has said all.
    ended: bool,
}

impl Way {
    fn new() -> Self {
        Self { buffer: vec![0; BUFFER].into(), held: 0..0, ended: false }
    }

    fn is_over(&self) -> bool {
        self.ended && self.held.is_empty()
    }

    /// What its sender is polled for.
    fn reads(&self) -> PollFlags {
        if self.held.is_empty() && !self.ended { PollFlags::POLLIN } else { PollFlags::empty() }
    }

    /// What its receiver is polled for.
    fn writes(&self) -> PollFlags {
        if self.held.is_empty() { PollFlags::empty() } else { PollFlags::POLLOUT }
    }

    fn go_on(&mut self, has_news: bool, mut from: &Socket, mut to: &Socket) -> io::Result<()> {
        if has_news && !self.reads().is_empty() {
            let Some(read) = ready(from.read(&mut self.buffer))? else { return Ok(()) };
            self.held = 0..read;
            self.ended = read == 0;
            if self.ended {
                let _ = to.shutdown(Shutdown::Write); // one that is gone is noticed by the other direction
            }
        }
        if !self.held.is_empty() {
            self.held.start += ready(to.write(&self.buffer[self.held.clone()]))?.unwrap_or(0);
        }
        Ok(())
    }
}

/// None where it would have to wait.
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

    /// A client, its server, and what is between them.
    async fn between() -> (TcpStream, TcpStream, JoinHandle<io::Result<()>>) {
        let ((client, near), (far, server)) = (pair().await, pair().await);
        (client, server, tokio::spawn(relay(near, far)))
    }

    #[tokio::test]
    async fn the_last_word_arrives_after_the_other_has_said_its_own() {
        const MUCH: usize = 8 << 20;
        let (mut client, mut server, passed) = between().await;
        let asks = async {
            client.write_all(&vec![b'q'; MUCH]).await.unwrap();
            client.shutdown().await.unwrap();
            let mut heard = vec![];
            client.read_to_end(&mut heard).await.map(|_| heard)
        };
        let answers = async {
            let mut heard = vec![];
            server.read_to_end(&mut heard).await.unwrap();
            server.write_all(&vec![b'a'; MUCH]).await.unwrap();
            server.shutdown().await.map(|()| heard)
        };
        let (answer, question) =
            timeout(TIMEOUT, async { tokio::join!(asks, answers) }).await.unwrap();
        for (heard, letter) in [(answer.unwrap(), b'a'), (question.unwrap(), b'q')] {
            assert!(
                heard.len() == MUCH && heard.iter().all(|byte| *byte == letter),
                "{} bytes",
                heard.len()
            );
        }
        timeout(TIMEOUT, passed).await.unwrap().unwrap().unwrap();
    }

    #[tokio::test]
    async fn one_that_does_not_read_does_not_keep_the_other_from_being_heard() {
        let (mut client, mut server, _passed) = between().await;
        // The server takes nothing, so this never ends; what it says arrives all the same.
        let (mut hears, mut says) = client.split();
        let blocked = async { while says.write_all(&[0; 1 << 12]).await.is_ok() {} };
        let heard = async {
            server.write_all(b"notice").await.unwrap();
            let mut heard = [0; 6];
            hears.read_exact(&mut heard).await.map(|_| heard)
        };
        let heard = timeout(TIMEOUT, async {
            tokio::select! { () = blocked => panic!("it was taken"), heard = heard => heard }
        });
        assert_eq!(&heard.await.unwrap().unwrap(), b"notice");
    }

    #[tokio::test]
    async fn whoever_goes_takes_the_other_along() {
        for client_goes in [true, false] {
            let (client, server, passed) = between().await;
            let (goes, mut stays) = if client_goes { (client, server) } else { (server, client) };
            drop(goes);
            assert_eq!(timeout(TIMEOUT, stays.read(&mut [0])).await.unwrap().unwrap(), 0);
            drop(stays);
            timeout(TIMEOUT, passed).await.unwrap().unwrap().unwrap();
        }
    }

    #[tokio::test]
    async fn cut_both_hear_it() {
        let (mut client, mut server, passed) = between().await;
        client.write_all(b"q").await.unwrap();
        assert_eq!(timeout(TIMEOUT, server.read_u8()).await.unwrap().unwrap(), b'q');
        passed.abort();
        for end in [&mut client, &mut server] {
            assert_eq!(timeout(TIMEOUT, end.read(&mut [0])).await.unwrap().unwrap(), 0);
        }
    }
}
