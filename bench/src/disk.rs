//! What the disk itself takes to make a small write durable: the floor under every commit of a log
//! on it.

use std::fs;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use crate::failure::BenchFailure;
use crate::stats::BenchSample;

/// Of one write; a log entry with its frame is a few hundred bytes.
const BLOCK: usize = 512;
/// The file: writes go round in it.
const SIZE: usize = 1 << 20;

#[derive(clap::Args)]
pub struct DiskOptions {
    /// Where the file is made, and removed again.
    #[arg(long, default_value = "/tmp")]
    dir: PathBuf,
    /// Writes.
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

/// What is written to.
#[derive(Clone, Copy)]
pub enum BenchFile {
    /// Blocks that are there already: the sync carries data only.
    Preallocated,
    /// Each write makes it longer: the sync carries the file system's own journal as well.
    Growing,
}

/// Times of `rounds` writes, each with its fdatasync, into a file in `dir`.
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
        // Written, not only allocated: otherwise the first write to each block changes metadata as
        // well.
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
