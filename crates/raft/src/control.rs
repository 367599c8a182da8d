//! The control socket: backends, the instance manager and tests speak to the member over it. The
//! Raft directory is its owner's alone (0700), and the peer's user is checked as well.

use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::time::Duration;

use futures::future::BoxFuture;
use pgraft_core::control::{MAX_FRAME, Request, Response};
use tokio::net::{UnixListener, UnixStream};
use tokio::task::JoinSet;

use crate::transport::{read_json, write_json};

/// Who answers.
pub trait ControlHandler:
    Fn(Request) -> BoxFuture<'static, Response> + Clone + Send + Sync + 'static
{
}

impl<A: Fn(Request) -> BoxFuture<'static, Response> + Clone + Send + Sync + 'static> ControlHandler
    for A
{
}

/// Binds the socket; a file that a dead member left behind is replaced. (`raft-log` holds a lock on
/// the directory: there is no living one.)
pub fn listen(path: &Path) -> io::Result<UnixListener> {
    match std::fs::remove_file(path) {
        Ok(()) => {}
        Err(e) if e.kind() == io::ErrorKind::NotFound => {}
        Err(e) => return Err(e),
    }
    let listener = UnixListener::bind(path)?;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600))?;
    Ok(listener)
}

/// Has every request answered, for as long as it is polled.
pub async fn serve(listener: UnixListener, answer: impl ControlHandler) {
    let me = nix::unistd::geteuid().as_raw();
    let mut connections = JoinSet::new();
    loop {
        while connections.try_join_next().is_some() {}
        let stream = match listener.accept().await {
            Ok((stream, _)) => stream,
            Err(error) => {
                tracing::warn!("can't accept a control connection: {error}");
                tokio::time::sleep(Duration::from_millis(100)).await;
                continue;
            }
        };
        if !stream.peer_cred().is_ok_and(|peer| peer.uid() == me || peer.uid() == 0) {
            continue;
        }
        let answer = answer.clone();
        connections.spawn(async move {
            if let Err(error) = connection(stream, answer).await {
                tracing::debug!("control connection: {error}");
            }
        });
    }
}

async fn connection(mut stream: UnixStream, answer: impl ControlHandler) -> io::Result<()> {
    while let Some(request) = read_json::<_, Request>(&mut stream, MAX_FRAME).await? {
        let response = answer(request).await;
        write_json(&mut stream, &response, MAX_FRAME).await?;
    }
    Ok(())
}

/// Asks a member on this host. For tests and for whoever has a Tokio runtime; a backend has its
/// own, interruptible way.
pub async fn call(path: &Path, request: &Request) -> io::Result<Response> {
    let mut stream = UnixStream::connect(path).await?;
    write_json(&mut stream, request, MAX_FRAME).await?;
    read_json(&mut stream, MAX_FRAME).await?.ok_or_else(|| io::ErrorKind::ConnectionReset.into())
}
