//! Waiting: for a condition, with a deadline; never for a time.

use std::future::Future;
use std::time::{Duration, Instant};

use crate::failure::E2eFailure;

/// What a look at the world came to.
pub enum Look<T> {
    /// It is so.
    Yes(T),
    /// It is not so yet; the words go into the failure when it never is.
    NotYet(String),
}

/// No look takes longer: one that hangs (a stream through an API server that has gone) is one more
/// "not yet".
const MAX_ATTEMPT: Duration = Duration::from_secs(30);

/// Looks again and again until it is so. What goes wrong while looking is one more "not yet": pods
/// come and go in these scenarios.
///
/// # Errors
/// [`Failure::Deadline`] with what was seen last.
pub async fn until<T, F, Fut>(what: &str, limit: Duration, mut look: F) -> Result<T, E2eFailure>
where
    F: FnMut() -> Fut,
    Fut: Future<Output = Result<Look<T>, E2eFailure>>,
{
    let begun = Instant::now();
    let mut last = "nothing".to_owned();
    loop {
        let left = limit.saturating_sub(begun.elapsed());
        match tokio::time::timeout(left.min(MAX_ATTEMPT), look()).await {
            Ok(Ok(Look::Yes(value))) => return Ok(value),
            Ok(Ok(Look::NotYet(words))) => last = words,
            Ok(Err(failure)) => last = failure.to_string(),
            Err(_) if left > MAX_ATTEMPT => "no answer".clone_into(&mut last),
            Err(_) => {}
        }
        if begun.elapsed() >= limit {
            return Err(E2eFailure::Deadline { what: what.to_owned(), limit, last });
        }
        tokio::time::sleep(Duration::from_millis(50)).await; // between two looks
    }
}

/// As [`until`], for a plain yes or no.
///
/// # Errors
/// As [`until`].
pub async fn until_true<F, Fut>(what: &str, limit: Duration, mut look: F) -> Result<(), E2eFailure>
where
    F: FnMut() -> Fut,
    Fut: Future<Output = Result<bool, E2eFailure>>,
{
    until(what, limit, || {
        let look = look();
        async move { Ok(if look.await? { Look::Yes(()) } else { Look::NotYet("no".to_owned()) }) }
    })
    .await
}
