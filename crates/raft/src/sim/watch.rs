//! `tokio::sync::watch` whose receivers are woken in the order in which they began to wait. Tokio's
//! own shuffles them by a generator that nobody can seed, and with them the order of everything
//! that follows.

use std::future::poll_fn;
use std::pin::pin;
use std::sync::Arc;
use std::task::Poll;

use openraft::async_runtime::watch as raft_watch;
use openraft::{OptionalSend, OptionalSync};
use tokio::sync::Notify;
use tokio::sync::watch as tokio_watch;
pub use tokio::sync::watch::Ref;
pub use tokio::sync::watch::error::RecvError;

/// The sending end.
#[derive(Debug)]
pub struct Sender<T> {
    /// None while it is dropped only: receivers are to hear of that after it has happened.
    inner: Option<tokio_watch::Sender<T>>,
    turn: Arc<Notify>,
}

/// The receiving end.
#[derive(Debug)]
pub struct Receiver<T> {
    inner: tokio_watch::Receiver<T>,
    turn: Arc<Notify>,
}

/// Both ends of a new channel.
pub fn channel<T>(first: T) -> (Sender<T>, Receiver<T>) {
    let (tx, rx) = tokio_watch::channel(first);
    let turn = Arc::new(Notify::new());
    (Sender { inner: Some(tx), turn: Arc::clone(&turn) }, Receiver { inner: rx, turn })
}

impl<T> Sender<T> {
    #[expect(clippy::expect_used, reason = "it is taken by Drop alone")]
    fn inner(&self) -> &tokio_watch::Sender<T> {
        self.inner.as_ref().expect("a sender that is not dropped")
    }

    /// See Tokio.
    pub fn send(&self, value: T) -> Result<(), tokio_watch::error::SendError<T>> {
        self.inner().send(value)?;
        self.turn.notify_waiters();
        Ok(())
    }

    /// See Tokio.
    pub fn send_replace(&self, value: T) -> T {
        let old = self.inner().send_replace(value);
        self.turn.notify_waiters();
        old
    }

    /// See Tokio.
    pub fn send_modify(&self, modify: impl FnOnce(&mut T)) {
        self.inner().send_modify(modify);
        self.turn.notify_waiters();
    }

    /// See Tokio.
    pub fn send_if_modified(&self, modify: impl FnOnce(&mut T) -> bool) -> bool {
        let modified = self.inner().send_if_modified(modify);
        if modified {
            self.turn.notify_waiters();
        }
        modified
    }

    /// See Tokio.
    pub fn borrow(&self) -> Ref<'_, T> {
        self.inner().borrow()
    }

    /// See Tokio.
    pub fn subscribe(&self) -> Receiver<T> {
        Receiver { inner: self.inner().subscribe(), turn: Arc::clone(&self.turn) }
    }
}

impl<T> Drop for Sender<T> {
    fn drop(&mut self) {
        drop(self.inner.take());
        self.turn.notify_waiters();
    }
}

impl<T> Clone for Sender<T> {
    fn clone(&self) -> Self {
        Self { inner: self.inner.clone(), turn: Arc::clone(&self.turn) }
    }
}

impl<T> Clone for Receiver<T> {
    fn clone(&self) -> Self {
        Self { inner: self.inner.clone(), turn: Arc::clone(&self.turn) }
    }
}

impl<T> Receiver<T> {
    /// See Tokio.
    pub fn borrow(&self) -> Ref<'_, T> {
        self.inner.borrow()
    }

    /// See Tokio.
    pub fn borrow_and_update(&mut self) -> Ref<'_, T> {
        self.inner.borrow_and_update()
    }

    /// See Tokio.
    pub async fn changed(&mut self) -> Result<(), RecvError> {
        let Self { inner, turn } = self;
        let turn: &Notify = turn;
        let mut told = Box::pin(turn.notified());
        poll_fn(move |cx| {
            loop {
                // Joins the queue before it looks, so that no change falls in between.
                told.as_mut().enable();
                // Asked anew each time: left waiting, it would be woken in Tokio's order.
                if let Poll::Ready(changed) = pin!(inner.changed()).poll(cx) {
                    return Poll::Ready(changed);
                }
                if told.as_mut().poll(cx).is_pending() {
                    return Poll::Pending;
                }
                told.set(turn.notified());
            }
        })
        .await
    }

    /// See Tokio.
    pub async fn wait_for(
        &mut self,
        mut wanted: impl FnMut(&T) -> bool,
    ) -> Result<Ref<'_, T>, RecvError> {
        while !wanted(&self.inner.borrow_and_update()) {
            self.changed().await?;
        }
        Ok(self.inner.borrow())
    }
}

/// The same for openraft's channels.
pub struct Watch;

impl raft_watch::Watch for Watch {
    type Sender<T: OptionalSend + OptionalSync> = Sender<T>;
    type Receiver<T: OptionalSend + OptionalSync> = Receiver<T>;
    type Ref<'a, T: OptionalSend + 'a> = Ref<'a, T>;

    fn channel<T: OptionalSend + OptionalSync>(init: T) -> (Sender<T>, Receiver<T>) {
        channel(init)
    }
}

impl<T: OptionalSend + OptionalSync> raft_watch::WatchSender<Watch, T> for Sender<T> {
    fn send(&self, value: T) -> Result<(), raft_watch::SendError<T>> {
        Self::send(self, value).map_err(|e| raft_watch::SendError(e.0))
    }

    fn send_if_modified<F: FnOnce(&mut T) -> bool>(&self, modify: F) -> bool {
        Self::send_if_modified(self, modify)
    }

    fn borrow_watched(&self) -> Ref<'_, T> {
        self.borrow()
    }

    fn subscribe(&self) -> Receiver<T> {
        Self::subscribe(self)
    }
}

impl<T: OptionalSend + OptionalSync> raft_watch::WatchReceiver<Watch, T> for Receiver<T> {
    async fn changed(&mut self) -> Result<(), raft_watch::RecvError> {
        Self::changed(self).await.map_err(|_| raft_watch::RecvError(()))
    }

    fn borrow_watched(&self) -> Ref<'_, T> {
        self.borrow()
    }

    fn borrow_and_update(&mut self) -> Ref<'_, T> {
        Self::borrow_and_update(self)
    }
}
