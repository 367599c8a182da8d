//! Each target for a moment, with bytes that are the same in every run: any at all, and such as are
//! right but for a few. `fuzz/` looks longer.

use proptest::collection::vec;
use proptest::prelude::*;
use proptest::test_runner::{Config, RngAlgorithm, TestRng, TestRunner};

use super::{TARGETS, Target};

/// Those that start from a disk take a millisecond each.
const CASES: u32 = 300;

fn runner() -> TestRunner {
    let config = Config { cases: CASES, failure_persistence: None, ..Config::default() };
    TestRunner::new_with_rng(config, TestRng::deterministic_rng(RngAlgorithm::ChaCha))
}

fn target(name: &str) -> &'static Target {
    TARGETS.iter().find(|t| t.name == name).unwrap()
}

/// Bytes of an example, a few of them changed, left out, doubled.
fn changed(example: &[u8], steps: &[(u8, prop::sample::Index, u8)]) -> Vec<u8> {
    let mut bytes = example.to_vec();
    for (kind, at, value) in steps {
        let at = at.index(bytes.len() + 1);
        let to = (at + usize::from(*value)).min(bytes.len());
        match kind % 6 {
            0 if at < bytes.len() => bytes[at] ^= 1 << (value % 8),
            // A digit for a digit: what stays readable gets further.
            1 if at < bytes.len() && bytes[at].is_ascii_digit() => bytes[at] = b'0' + value % 10,
            2 => bytes.truncate(at),
            3 => drop(bytes.drain(at..to)),
            4 => drop(bytes.splice(at..at, bytes[at..to].to_vec())),
            5 => bytes.insert(at, *value),
            _ => {}
        }
    }
    bytes
}

fn stands(name: &str) {
    let target = target(name);
    let examples = (target.examples)();
    for example in &examples {
        (target.run)(example);
    }
    runner()
        .run(&vec(any::<u8>(), 0..300), |bytes| {
            (target.run)(&bytes);
            Ok(())
        })
        .unwrap();
    let steps = vec((any::<u8>(), any::<prop::sample::Index>(), any::<u8>()), 1..6);
    let few = (prop::sample::select(examples), steps);
    runner()
        .run(&few, |(example, steps)| {
            (target.run)(&changed(&example, &steps));
            Ok(())
        })
        .unwrap();
}

#[test]
fn frames() {
    stands("frames");
}

#[test]
fn handshake() {
    stands("handshake");
}

#[test]
fn log() {
    stands("log");
}

#[test]
fn records() {
    stands("records");
}

#[test]
fn control() {
    stands("control");
}

#[test]
fn snapshot() {
    stands("snapshot");
}

#[test]
fn identity() {
    stands("identity");
}

/// What `just fuzz` begins with.
#[test]
#[ignore = "writes files: `just fuzz` calls it"]
fn write_seeds() {
    let dir = std::path::PathBuf::from(
        std::env::var_os("PGRAFT_FUZZ_SEEDS").expect("PGRAFT_FUZZ_SEEDS names a directory"),
    );
    for target in TARGETS {
        let dir = dir.join(target.name);
        std::fs::create_dir_all(&dir).unwrap();
        for (n, example) in (target.examples)().iter().enumerate() {
            std::fs::write(dir.join(n.to_string()), example).unwrap();
        }
    }
}
