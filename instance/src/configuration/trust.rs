//! Which of two configurations a server is started with: the one that Postgres accepted last, or the one that a server has run with. Pure.
//!
//! Not everything that keeps a server from starting shows before: memory that is not there, a socket's group. A server that ends at its start with a
//! configuration that none has run with before is started with the last one that did. Where that one fails as well, the configuration is not at
//! fault.

use serde::{Deserialize, Serialize};

use super::settle::Candidate;
use super::user::UserConfig;

/// What is known about configurations; kept on disk.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Known {
    /// The last one that Postgres accepted.
    pub good: Option<UserConfig>,
    /// The last one that a server has run with.
    pub proven: Option<Proven>,
}

/// What a server has run with.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Proven {
    /// The user's part.
    pub user: UserConfig,
    /// The text of `postgresql.auto.conf`.
    pub auto: String,
}

/// One that a server did not start with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Suspect {
    /// What was tried.
    pub tried: Candidate,
    /// The server's last words.
    pub message: String,
}

/// What a start came to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Start {
    /// The server ran for as long as one that starts at all.
    Held,
    /// It ended with an error before that.
    Failed(String),
}

/// Which one to start with.
pub fn chosen<'a>(accepted: &'a Candidate, proven: &'a Candidate, suspect: Option<&Suspect>) -> &'a Candidate {
    match suspect {
        Some(suspect) if suspect.tried == *accepted => proven,
        _ => accepted,
    }
}

/// What is suspected after a start with `used`.
pub fn after(used: &Candidate, proven: &Candidate, suspect: Option<Suspect>, start: &Start) -> Option<Suspect> {
    match start {
        Start::Held => suspect.filter(|suspect| suspect.tried != *used),
        Start::Failed(message) if used != proven => Some(Suspect { tried: used.clone(), message: message.clone() }),
        // The one that has held before fails too: something else is wrong.
        Start::Failed(_) => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn candidate(value: u8) -> Candidate {
        let parameters = [("shared_buffers".to_owned(), value.to_string())].into();
        Candidate { user: UserConfig { parameters, hba: vec![] }, auto: String::new() }
    }

    #[test]
    fn a_start_that_fails_falls_back_and_one_that_fails_after_that_does_not() {
        let (old, new) = (candidate(1), candidate(2));
        let failed = Start::Failed("could not map anonymous shared memory".into());
        assert_eq!(chosen(&new, &old, None), &new);
        let suspect = after(&new, &old, None, &failed);
        assert_eq!(chosen(&new, &old, suspect.as_ref()), &old);
        let held = after(&old, &old, suspect.clone(), &Start::Held);
        assert_eq!(chosen(&new, &old, held.as_ref()), &old, "it stays in force");
        assert_eq!(chosen(&candidate(3), &old, held.as_ref()), &candidate(3), "a changed one is tried");
        assert_eq!(after(&old, &old, suspect, &failed), None, "not the configuration");
    }

    proptest! {
        /// Where one of the two configurations works the server runs after two starts at most.
        #[test]
        fn the_server_runs_after_two_starts(works in prop::collection::vec(any::<bool>(), 3), wanted in 0..3_u8, proven in 0..3_u8) {
            prop_assume!(works[usize::from(wanted)] || works[usize::from(proven)]);
            let (accepted, proven) = (candidate(wanted), candidate(proven));
            let (mut suspect, mut starts) = (None, 0);
            loop {
                let used = chosen(&accepted, &proven, suspect.as_ref()).clone();
                starts += 1;
                let index: usize = used.user.parameters["shared_buffers"].parse().unwrap();
                if works[index] {
                    break;
                }
                suspect = after(&used, &proven, suspect, &Start::Failed("no memory".into()));
                prop_assert!(starts < 3);
            }
            prop_assert!(starts <= 2);
        }
    }
}
