//! What a member must not forget: the epoch that it was recruited for, and which run of its
//! Postgres was the primary. `failover.json`.

use std::io;
use std::path::{Path, PathBuf};

use pgraft_core::failover::lease::StartNumber;
use serde::{Deserialize, Serialize};

use crate::files;
use crate::identity::Identity;

/// Its name, in the Raft directory.
pub const FILE_NAME: &str = "failover.json";
const FORMAT: u32 = 1;

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct PromiseFile {
    format: u32,
    epoch: u64,
    start: StartNumber,
    run: i64,
    was_primary: bool,
}

/// The file, and where it is.
#[derive(Debug, Clone)]
pub struct Durable {
    path: PathBuf,
    /// The epoch that this member is in: it acknowledges heartbeats of this one and of no other.
    pub epoch: u64,
    /// Counts the runs of its Postgres.
    pub start: StartNumber,
    /// The run that has that number.
    run: i64,
    /// Whether that run was the primary of the epoch.
    pub was_primary: bool,
    /// Whether there was no file: this member has promised nothing to anybody.
    pub fresh: bool,
}

impl Durable {
    /// Reads the file; a new member has none, and gets one.
    pub fn open(dir: &Path, identity: &mut Identity) -> io::Result<Self> {
        let path = dir.join(FILE_NAME);
        let file = files::read_versioned::<PromiseFile>(&path, FORMAT)?;
        let fresh = file.is_none();
        if fresh && identity.promises {
            let gone = format!(
                "{FILE_NAME} is gone, and with it what this node has promised in failovers"
            );
            return Err(io::Error::new(io::ErrorKind::InvalidData, gone));
        }
        let PromiseFile { epoch, start, run, was_primary, .. } = file.unwrap_or(PromiseFile {
            format: FORMAT,
            epoch: 0,
            start: StartNumber(0),
            run: 0,
            was_primary: false,
        });
        let durable = Self { path, epoch, start, run, was_primary, fresh };
        if !identity.promises {
            durable.write()?;
            identity.promise(dir)?;
        }
        Ok(durable)
    }

    /// The server runs. When it is another run than the last one known, the number of that and its
    /// epoch come back if it was the primary.
    pub fn runs(&mut self, run: i64) -> io::Result<Option<(u64, StartNumber)>> {
        if self.run == run {
            return Ok(None);
        }
        let ended = self.was_primary.then_some((self.epoch, self.start));
        (self.start, self.run, self.was_primary) = (StartNumber(self.start.0 + 1), run, false);
        self.write()?;
        Ok(ended)
    }

    /// Whether this member has not been in any primary term: one that has was in a cluster,
    /// whatever it has applied so far.
    pub const fn was_never_primary(&self) -> bool {
        self.epoch <= 1 && !self.was_primary
    }

    /// This run is the primary of the present epoch.
    pub fn record_primary(&mut self) -> io::Result<()> {
        if self.was_primary {
            return Ok(());
        }
        self.was_primary = true;
        self.write()
    }

    /// A new epoch.
    pub fn enter(&mut self, epoch: u64) -> io::Result<()> {
        (self.epoch, self.was_primary) = (epoch, false);
        self.write()
    }

    fn write(&self) -> io::Result<()> {
        let Self { epoch, start, run, was_primary, .. } = *self;
        files::replace_json(
            &self.path,
            &PromiseFile { format: FORMAT, epoch, start, run, was_primary },
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use pgraft_core::NodeId;

    #[test]
    fn what_was_promised_is_there_again_or_refused() {
        let dir = tempfile::tempdir().unwrap();
        let one = || Identity::open(dir.path(), NodeId::new(1).unwrap()).unwrap();
        let open = || Durable::open(dir.path(), &mut one());
        assert!(open().unwrap().fresh);
        let mut durable = open().unwrap();
        assert!(!durable.fresh && durable.was_never_primary(), "a file from the first start on");
        assert_eq!(durable.runs(7).unwrap(), None);
        durable.enter(1).unwrap();
        assert!(open().unwrap().was_never_primary(), "a bootstrap node before its cluster");
        durable.record_primary().unwrap();
        let mut again = open().unwrap();
        assert!(
            !again.was_never_primary(),
            "a worker that was started again, in the same run of its server"
        );
        assert_eq!(again.runs(8).unwrap(), Some((1, StartNumber(1))));
        again.enter(2).unwrap();
        assert!(!open().unwrap().was_never_primary());
        std::fs::remove_file(dir.path().join(FILE_NAME)).unwrap();
        let error = open().unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::InvalidData);
        assert!(!dir.path().join(FILE_NAME).exists(), "nothing is made up");
    }
}
