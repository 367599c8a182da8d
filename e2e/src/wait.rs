//! Waiting for a condition, with a deadline.

use std::future::Future;
use std::time::{Duration, Instant};

use crate::failure::E2eFailure;

/// The result of checking a condition once.
pub enum Polled<T> {
    /// The condition is met.
    Ready(T),
    /// The condition is not met yet. The observation becomes part of the failure.
    Pending(String),
}

/// The limit of one check. A check may hang in a stream through an API server that is gone, and
/// counts as pending then.
const MAX_ATTEMPT: Duration = Duration::from_secs(30);

/// Checks a condition until it is met. An error counts as pending, because pods come and go in the
/// scenarios. `what` is the condition as a clause, such as "node 3 is a voter".
///
/// # Errors
/// [`E2eFailure::Deadline`] with the last observation.
pub async fn until<T, F, Fut>(what: &str, limit: Duration, mut check: F) -> Result<T, E2eFailure>
where
    F: FnMut() -> Fut,
    Fut: Future<Output = Result<Polled<T>, E2eFailure>>,
{
    let begun = Instant::now();
    let mut last = "nothing".to_owned();
    loop {
        let left = limit.saturating_sub(begun.elapsed());
        match tokio::time::timeout(left.min(MAX_ATTEMPT), check()).await {
            Ok(Ok(Polled::Ready(value))) => return Ok(value),
            Ok(Ok(Polled::Pending(seen))) => last = seen,
            Ok(Err(failure)) => last = failure.to_string(),
            Err(_) if left > MAX_ATTEMPT => "no answer".clone_into(&mut last),
            Err(_) => {}
        }
        if begun.elapsed() >= limit {
            return Err(E2eFailure::Deadline { what: what.to_owned(), limit, last });
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// As [`until`], for a boolean condition.
///
/// # Errors
/// As [`until`].
pub async fn until_true<F, Fut>(what: &str, limit: Duration, mut check: F) -> Result<(), E2eFailure>
where
    F: FnMut() -> Fut,
    Fut: Future<Output = Result<bool, E2eFailure>>,
{
    until(what, limit, || {
        let check = check();
        async move {
            Ok(if check.await? { Polled::Ready(()) } else { Polled::Pending("false".to_owned()) })
        }
    })
    .await
}
