//! Records when a data directory was replaced because its server kept failing to start. The
//! supervisor limits such clones, also across restarts of the instance manager.

use jiff::Timestamp;
use std::time::Duration;

use crate::files::{self, FileError};
use crate::paths::Paths;

/// Records a replacement at this time.
pub fn record(paths: &Paths, now: Timestamp) -> Result<(), FileError> {
    files::write_atomically(&paths.replaced(), now.to_string().as_bytes()).map(drop)
}

/// How long ago the last replacement was; None if there was none. A recorded time in the future
/// means that the clock was set back: it becomes the present, so the limit ends after
/// [`REPLACE_INTERVAL`](crate::supervisor::REPLACE_INTERVAL) in any case.
pub fn age(paths: &Paths, now: Timestamp) -> Result<Option<Duration>, FileError> {
    let Some(content) = files::read_if_there(&paths.replaced())? else { return Ok(None) };
    let recorded: Option<Timestamp> =
        String::from_utf8_lossy(&content).trim().parse().ok().filter(|at| *at <= now);
    let Some(recorded) = recorded else {
        record(paths, now)?;
        return Ok(Some(Duration::ZERO));
    };
    Ok(Some(now.duration_since(recorded).unsigned_abs()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: i64) -> Timestamp {
        Timestamp::from_second(1_700_000_000 + seconds).unwrap()
    }

    #[test]
    fn the_age_survives_a_restart_and_a_clock_that_is_set_back() {
        let dir = tempfile::tempdir().unwrap();
        let paths =
            Paths { work: dir.path().to_path_buf(), ..crate::settings::tests::example().paths };
        assert_eq!(age(&paths, at(0)).unwrap(), None);
        record(&paths, at(0)).unwrap();
        assert_eq!(age(&paths, at(90)).unwrap(), Some(Duration::from_secs(90)));
        assert_eq!(age(&paths, at(-1000)).unwrap(), Some(Duration::ZERO));
        assert_eq!(age(&paths, at(-400)).unwrap(), Some(Duration::from_mins(10)));
        std::fs::write(paths.replaced(), "unreadable").unwrap();
        assert_eq!(age(&paths, at(0)).unwrap(), Some(Duration::ZERO));
        assert_eq!(age(&paths, at(5)).unwrap(), Some(Duration::from_secs(5)));
    }
}
