//! Workloads on a real disk: each figure of the engine beside its ceiling, both from one run.
//!
//! In comes a directory on the file system under test, out go [`report::Figure`]s. A ceiling is a bare loop without engine
//! logic ([`ceiling`]) that runs in the same directory, alternating with the engine within each round, because two runs on
//! one machine differ by more than the engine and its ceiling do. Only ratios of one run mean anything.
//!
//! | workload | engine | ceiling |
//! | --- | --- | --- |
//! | [`commit`] | `record` from N threads, `submit` with N in flight | write + sync of the same bytes, same threads |
//! | [`new_item`] | a new item with its body, 64 producers | the same hashing, packing and writing; loose files |
//! | [`metadata`] | flags of random items, durable every 64 | as many threads, 64 records a write |
//! | [`slow_flush`] | 64 producers on a device whose flush takes 5 ms | 64 ÷ flush time |
//! | [`memory`] | most memory while ingesting | the same without a store |
//! | [`ingest`] | mails through `Store::batch`, as a scan does it | SHA-256 and zstd of the same mails |
//! | [`lookup`] | an item as of a moment, hot and cold; memory and files | `pread` and hash of the same frames |
//! | [`scan`] | all of history in place, hot and cold | reading and hashing the same files |
//! | [`open_after_kill`] | `open` and `open_read` after SIGKILL | |
//! | [`restore_read`] | every message and body of an account | zstd and SHA-256 of the same mails |
//! | [`compact`] | a merge; look-ups, listing, memory before and after | |
//! | [`check`] | fsck of a store, every byte read, hot and cold | read alone; zstd and SHA-256 of the same chunks, all cores |
//! | [`maildir`] | SmartScan of a tree: first, unchanged, 1 %; everything restored | hash and compress, list, `cp -r` |
//!
//! [`scale`] stands apart: how cost grows up to 10 M items, as JSON lines.
//!
//! A workload is one file with one `run(&Bench, &mut Report)`; `main.rs` lists them. `tests/tiny.rs` runs each with
//! [`Scale::tiny`], so that none rots.

pub mod report;

pub mod mail;

pub mod bodies;

pub mod process;

pub mod counts;

pub mod crowd;

pub mod slow;

pub mod loose;

pub mod ceiling;

pub mod fixture;

pub mod commit;

pub mod new_item;

pub mod metadata;

pub mod slow_flush;

pub mod memory;

pub mod ingest;

pub mod lookup;

pub mod scan;

pub mod open_after_kill;

pub mod restore_read;

pub mod check;

pub mod maildir;

pub mod compact;

pub mod scale;

use std::path::PathBuf;
use std::time::Duration;

/// A workload's outcome; anything that goes wrong ends the run.
pub type Outcome<T = ()> = Result<T, Box<dyn std::error::Error + Send + Sync>>;

/// How much is done.
#[derive(Debug, Clone, Copy)]
pub struct Scale {
    /// Rounds of a figure; its value is their median.
    pub rounds: usize,
    /// Length of one measurement.
    pub window: Duration,
    /// Messages of the store that is read.
    pub items: u64,
    /// Mails of one ingest round.
    pub mails: u64,
    /// Look-ups of one cold round.
    pub cold: usize,
}

impl Scale {
    /// What the figures of the goals are measured with.
    #[must_use]
    pub const fn full() -> Self {
        Self { rounds: 7, window: Duration::from_millis(500), items: 100_000, mails: 10_000, cold: 4000 }
    }

    /// Under a minute; still five rounds.
    #[must_use]
    pub const fn quick() -> Self {
        Self { rounds: 5, window: Duration::from_millis(150), items: 20_000, mails: 2000, cold: 1000 }
    }

    /// For the test run: nothing it prints means anything.
    #[must_use]
    pub const fn tiny() -> Self {
        Self { rounds: 1, window: Duration::from_millis(10), items: 300, mails: 100, cold: 40 }
    }
}

/// What every workload gets.
#[derive(Debug, Clone)]
pub struct Bench {
    /// A directory of its own on the file system under test.
    pub dir: PathBuf,
    pub scale: Scale,
    /// How long a round may wait for the machine to be idle.
    pub patience: Duration,
    /// The benchmark's own program, started again as a child that is killed or whose memory is looked at.
    pub program: PathBuf,
}

impl Bench {
    /// Before a round: waits until nobody else uses the cores, as long as patience lasts.
    pub fn settle(&self) -> Outcome {
        Ok(process::settle(self.patience)?)
    }
}
