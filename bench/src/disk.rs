//! How long the disk takes to make a small write durable: the lower bound for every commit of a
//! log.

use std::fs;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use crate::failure::BenchFailure;
use crate::stats::BenchSample;

/// The size of a write. A log entry with its frame has a few hundred bytes.
const BLOCK: usize = 512;
/// The size of the file, in which the writes wrap around.
const SIZE: usize = 1 << 20;

#[derive(clap::Args)]
pub struct DiskOptions {
    /// The directory of the temporary file.
    #[arg(long, default_value = "/tmp")]
    dir: PathBuf,
    /// The number of writes.
    #[arg(long, default_value_t = 1000)]
    rounds: usize,
}

pub fn run(options: &DiskOptions) -> Result<(), BenchFailure> {
    let kinds = [
        ("into a preallocated file", BenchFile::Preallocated),
        ("at the end of a growing file", BenchFile::Growing),
    ];
    for (name, kind) in kinds {
        println!(
            "{}",
            BenchSample::new(fdatasync(&options.dir, options.rounds, kind)?)
                .row(&format!("fdatasync of 512 bytes {name}"))
        );
    }
    Ok(())
}

/// The kind of file.
#[derive(Clone, Copy)]
pub enum BenchFile {
    /// The blocks exist: the sync writes data only.
    Preallocated,
    /// Each write extends the file: the sync also writes the journal of the file system.
    Growing,
}

/// The durations of `rounds` writes with fdatasync, into a file in `dir`.
pub fn fdatasync(
    dir: &Path,
    rounds: usize,
    kind: BenchFile,
) -> Result<Vec<Duration>, BenchFailure> {
    let path = dir.join(format!(".pgraft-bench-{}", std::process::id()));
    let times = write_and_sync(&path, rounds, kind);
    let removed = fs::remove_file(&path);
    let times = times.map_err(BenchFailure::io(path.display().to_string()))?;
    removed.map_err(BenchFailure::io(path.display().to_string()))?;
    Ok(times)
}

fn write_and_sync(path: &Path, rounds: usize, kind: BenchFile) -> std::io::Result<Vec<Duration>> {
    let file = fs::File::create(path)?;
    if matches!(kind, BenchFile::Preallocated) {
        // Written, not only allocated, so that the first write to a block changes no metadata.
        file.write_all_at(&vec![0; SIZE], 0)?;
    }
    file.sync_all()?;
    let block = [1; BLOCK];
    let mut times = Vec::with_capacity(rounds);
    for round in 0..rounds {
        let begun = Instant::now();
        file.write_all_at(&block, (round % (SIZE / BLOCK) * BLOCK) as u64)?;
        file.sync_data()?;
        times.push(begun.elapsed());
    }
    Ok(times)
}
