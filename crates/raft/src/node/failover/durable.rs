//! What a member must not forget: the epoch that it was recruited for, and which run of its Postgres was the primary. `failover.json`.

use std::io;
use std::path::{Path, PathBuf};

use pgraft_core::failover::lease::Start;
use serde::{Deserialize, Serialize};

use crate::files;

const FILE_NAME: &str = "failover.json";
const FORMAT: u32 = 1;

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct File {
    format: u32,
    epoch: u64,
    start: Start,
    run: i64,
    reigned: bool,
}

/// The file, and where it is.
#[derive(Debug, Clone)]
pub struct Durable {
    path: PathBuf,
    /// The epoch that this member is in: it acknowledges heartbeats of this one and of no other.
    pub epoch: u64,
    /// Counts the runs of its Postgres.
    pub start: Start,
    /// The run that has that number.
    run: i64,
    /// Whether that run was the primary of the epoch.
    pub reigned: bool,
    /// Whether there was no file: this member has promised nothing to anybody.
    pub fresh: bool,
}

impl Durable {
    /// Reads the file; a new member has none.
    pub fn open(dir: &Path) -> io::Result<Self> {
        let path = dir.join(FILE_NAME);
        let file = files::read_versioned::<File>(&path, FORMAT)?;
        let fresh = file.is_none();
        let File { epoch, start, run, reigned, .. } =
            file.unwrap_or(File { format: FORMAT, epoch: 0, start: Start(0), run: 0, reigned: false });
        Ok(Self { path, epoch, start, run, reigned, fresh })
    }

    /// The server runs. When it is another run than the last one known, the number of that and its epoch come back if it was the primary.
    pub fn runs(&mut self, run: i64) -> io::Result<Option<(u64, Start)>> {
        if self.run == run {
            return Ok(None);
        }
        let ended = self.reigned.then_some((self.epoch, self.start));
        (self.start, self.run, self.reigned) = (Start(self.start.0 + 1), run, false);
        self.write()?;
        Ok(ended)
    }

    /// This run is the primary of the present epoch.
    pub fn reigns(&mut self) -> io::Result<()> {
        if self.reigned {
            return Ok(());
        }
        self.reigned = true;
        self.write()
    }

    /// A new epoch.
    pub fn enter(&mut self, epoch: u64) -> io::Result<()> {
        (self.epoch, self.reigned) = (epoch, false);
        self.write()
    }

    fn write(&self) -> io::Result<()> {
        let Self { epoch, start, run, reigned, .. } = *self;
        files::replace_json(&self.path, &File { format: FORMAT, epoch, start, run, reigned })
    }
}
