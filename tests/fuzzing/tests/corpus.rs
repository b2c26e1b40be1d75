//! Every target on its corpus (`fuzz/corpus`, what `make fuzz` has found worth keeping) and on pseudo-random bytes of a
//! fixed seed, under an allocator that counts.

use std::{
    fs,
    path::PathBuf,
    sync::{Mutex, PoisonError},
};

use berth_fuzzing::TARGETS;
use peak_alloc::PeakAlloc;

#[global_allocator]
static MEMORY: PeakAlloc = PeakAlloc;

/// The allocator counts the whole process: one measurement at a time.
static ALONE: Mutex<()> = Mutex::new(());

/// The most that one input may have in memory at once, beyond what was there before it.
const MOST: usize = 5 * 1024 * 1024;
/// Pseudo-random inputs for each target.
const RANDOM: usize = 1_000;

/// Runs a target on an input, and returns its peak in memory.
fn peak(run: fn(&[u8]), input: &[u8]) -> usize {
    let before = MEMORY.current_usage();
    MEMORY.reset_peak_usage();
    run(input);
    MEMORY.peak_usage().saturating_sub(before)
}

fn each_target(inputs: impl Fn(&str) -> Vec<(String, Vec<u8>)>) {
    let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    for (name, run) in TARGETS {
        let inputs = inputs(name);
        assert!(!inputs.is_empty(), "{name} has no inputs");
        for (input, bytes) in inputs {
            let result = std::panic::catch_unwind(|| peak(run, &bytes));
            match result {
                Ok(peak) => assert!(peak <= MOST, "{name} on {input}: {peak} bytes in memory"),
                Err(_) => panic!("{name} on {input}: see above"),
            }
        }
    }
}

#[test]
fn the_corpus() {
    each_target(|name| {
        let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR"))
            .join("../../fuzz/corpus")
            .join(name);
        let mut files: Vec<_> = fs::read_dir(&folder)
            .unwrap_or_else(|e| panic!("{}: {e}", folder.display()))
            .map(|entry| entry.unwrap().path())
            .collect();
        files.sort();
        let read = |path: PathBuf| (path.display().to_string(), fs::read(&path).unwrap());
        files.into_iter().map(read).collect()
    });
}

#[test]
fn pseudo_random_bytes() {
    each_target(|_| {
        let mut random = fastrand::Rng::with_seed(4);
        (0..RANDOM)
            .map(|i| {
                let mut bytes = vec![0; random.usize(..1_024)];
                random.fill(&mut bytes);
                (format!("pseudo-random input {i}"), bytes)
            })
            .collect()
    });
}
