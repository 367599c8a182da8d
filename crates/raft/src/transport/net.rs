//! The network as a member needs it: listen, connect, and whether a name is known. A server has TCP
//! and the system's resolver; a simulation brings its own.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use futures::FutureExt;
use futures::future::{BoxFuture, select_ok};
use pgraft_core::Address;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::timeout;

use super::Resolver;

/// The kernel sends a lost SYN again after a second: after a partition, beginning anew is quicker.
const SYN_TIMEOUT: Duration = Duration::from_millis(500);

/// A connection's bytes.
pub trait RaftStream: AsyncRead + AsyncWrite + Send + Sync + Unpin {}

impl<S: AsyncRead + AsyncWrite + Send + Sync + Unpin> RaftStream for S {}

/// A connection, whatever carries it.
pub type BoxStream = Box<dyn RaftStream>;

/// Where connections come from and go to.
pub trait Network: Send + Sync {
    /// Listens on an address of this host.
    fn listen<'a>(&'a self, at: &'a Address) -> BoxFuture<'a, io::Result<Box<dyn Listener>>>;

    /// Connects to a member.
    fn connect<'a>(&'a self, to: &'a Address) -> BoxFuture<'a, io::Result<BoxStream>>;

    /// Whether this is an address, or a name that is known now; a remembered answer does not count.
    /// The error says what is wrong with it.
    fn knows<'a>(&'a self, host: &'a str) -> BoxFuture<'a, Result<(), String>>;
}

/// The listening end.
pub trait Listener: Send {
    /// The next connection, and where it comes from, for the log.
    fn accept(&mut self) -> BoxFuture<'_, io::Result<(BoxStream, String)>>;
}

/// This host's network.
#[derive(Default)]
pub struct Tcp {
    resolver: Resolver,
}

impl Network for Tcp {
    fn listen<'a>(&'a self, at: &'a Address) -> BoxFuture<'a, io::Result<Box<dyn Listener>>> {
        async move {
            let listener = crate::listen::listen(at.host(), at.port()).await?;
            Ok(Box::new(listener) as Box<dyn Listener>)
        }
        .boxed()
    }

    fn connect<'a>(&'a self, to: &'a Address) -> BoxFuture<'a, io::Result<BoxStream>> {
        async move {
            let addresses = self.resolver.resolve(to.host(), to.port()).await?;
            // All at once: a name may stand for an IPv6 and an IPv4 address of which only one can
            // be reached.
            let attempts = addresses.into_iter().map(|address| TcpStream::connect(address).boxed());
            let (stream, _) = timeout(SYN_TIMEOUT, select_ok(attempts)).await??;
            stream.set_nodelay(true)?;
            Ok(Box::new(stream) as BoxStream)
        }
        .boxed()
    }

    fn knows<'a>(&'a self, host: &'a str) -> BoxFuture<'a, Result<(), String>> {
        self.resolver.check(host).boxed()
    }
}

impl Listener for TcpListener {
    fn accept(&mut self) -> BoxFuture<'_, io::Result<(BoxStream, String)>> {
        async move {
            let (stream, from) = Self::accept(self).await?;
            stream.set_nodelay(true)?;
            Ok((
                Box::new(stream) as BoxStream,
                SocketAddr::new(from.ip().to_canonical(), from.port()).to_string(),
            ))
        }
        .boxed()
    }
}
