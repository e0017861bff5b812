//! The committed corpora of `fuzz/`, and their neighbours, through the functions that the fuzz targets call.

use mailstrata_tests::hostile::{TARGETS, seeds_for};
use mailstrata_tests::rng::{Rng, seeds};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// No input of a few kilobytes may take longer.
const SECONDS_MAX: Duration = Duration::from_secs(5);

fn corpus(target: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../fuzz/corpus").join(target)
}

/// What is committed for a target. With `MAILSTRATA_WRITE_CORPUS` the first inputs are written.
fn inputs(target: &str) -> Vec<Vec<u8>> {
    let dir = corpus(target);
    if std::env::var_os("MAILSTRATA_WRITE_CORPUS").is_some() {
        std::fs::create_dir_all(&dir).expect("the corpus directory can be made");
        for (i, bytes) in seeds_for(target).iter().enumerate() {
            std::fs::write(dir.join(format!("seed-{i}")), bytes).expect("the corpus can be written");
        }
    }
    let mut paths: Vec<_> = std::fs::read_dir(&dir)
        .unwrap_or_else(|e| panic!("no corpus for {target}: {e}"))
        .filter_map(|e| e.ok().map(|e| e.path()))
        .collect();
    paths.sort();
    paths.iter().map(|p| std::fs::read(p).unwrap_or_else(|e| panic!("{}: {e}", p.display()))).collect()
}

#[test]
fn corpora_and_their_neighbours_do_no_harm() {
    let start = Instant::now();
    let mut count = 0u64;
    for seed in seeds(1, 1) {
        for (name, run) in TARGETS {
            let mut rng = Rng::new(seed);
            let inputs = inputs(name);
            assert!(!inputs.is_empty(), "no corpus for {name}");
            for input in &inputs {
                run(input);
                count += 1;
            }
            let neighbours = if *name == "store" { 1500 } else { 8000 };
            for _ in 0..neighbours {
                let mut bytes = rng.pick(&inputs).clone();
                for _ in 0..1 + rng.below(4) {
                    change(&mut bytes, &mut rng);
                }
                let begun = Instant::now();
                let result = std::panic::catch_unwind(|| run(&bytes));
                if result.is_err() || begun.elapsed() > SECONDS_MAX {
                    let hex: String = bytes.iter().map(|b| format!("{b:02x}")).collect();
                    panic!("MAILSTRATA_SEED={seed}: {name} fails, or takes {:?}, on {hex}", begun.elapsed());
                }
                count += 1;
            }
        }
    }
    println!("fuzz replay: {count} inputs, {:?}", start.elapsed());
}

/// One small change.
fn change(bytes: &mut Vec<u8>, rng: &mut Rng) {
    let at = rng.index(bytes.len());
    match rng.below(6) {
        0 => bytes.truncate(at),
        1 => {
            let n = 1 + rng.index(8);
            let more = rng.bytes(n);
            bytes.splice(at..at, more);
        }
        2 => {
            let value = *rng.pick(&[0u32, 1, 0x7fff_ffff, u32::MAX, 0x8000_0000, 4096]);
            for (b, v) in bytes.iter_mut().skip(at / 4 * 4).zip(value.to_le_bytes()) {
                *b = v;
            }
        }
        3 => {
            let from = rng.index(bytes.len());
            if let Some(b) = bytes.get(from).copied() {
                bytes[at] = b;
            }
        }
        _ => {
            if let Some(b) = bytes.get_mut(at) {
                *b ^= 1 << rng.below(8);
            }
        }
    }
}
