//! Compaction: adjacent segments become one run, adjacent runs a larger one.
//!
//! ```text
//! segments, 8 of them ─► merge (by account, item, LSN) ─► run/N.tmp ─► run/N.run ─► manifest ─► catalog ─► retire
//! ```
//!
//! In come sealed files that follow each other; out goes one run with the same frames, clustered by account, and the files
//! it replaces are retired. Rules:
//!
//! - The replacement is durable and published before the originals are retired, and these stay until no view can need them
//!   (W5).
//! - Every frame is verified before it is copied. A file with one that does not verify stays as it is, for good: nothing
//!   damaged gets a fresh checksum, nothing is dropped.
//! - Eight files of a tier make one of the next, as far as [`RUN_MAX`] goes: a transaction is written three times at most
//!   (its segment, a run, a run of runs), and N segments leave some N / 64 + 14 files.
//! - Memory does not follow the data: a row buffer (64 KiB) and a frame window (256 KiB) an input, a group, and fences and
//!   filter of the output (3.5 bytes a row, 18 MB for the largest run).
//! - It waits for nobody and nobody waits for it: it takes the commit lock never, writes past the page cache in steps of
//!   256 KiB, and an error costs the run it was making, not the writer.

pub mod merge;

pub mod output;

pub mod retire;

use crate::catalog::{Pin, Segment, SegmentPart};
use crate::commit::upkeep::{Job, add_entry, log_entry, remove_if_there};
use crate::commit::writer::{Shared, locked};
use crate::disk::read_full;
use crate::error::{Error, Result};
use crate::index::run::IndexRun;
use mailstrata_format::file::{FileHeader, Replaced};
use mailstrata_format::frame::Envelope;
use mailstrata_format::index::Row;
use mailstrata_format::manifest::RETIRED;
use mailstrata_format::{BLOCK, FileKind, FileName};
use merge::Merge;
use output::Output;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// Files of one tier that make one of the next.
pub const FAN_IN: usize = 8;

/// Most bytes of frames in a run: offsets in its index have 32 bits, and what is merged at once is what is lost at once when
/// a merge is interrupted.
pub const RUN_MAX: u64 = 2 << 30;

/// How often retired files are looked at when nothing else happens.
const LOOK: Duration = Duration::from_secs(60);

/// Says whether a transaction stays. Compaction keeps all.
pub type Keep = dyn Fn(&Row, &Envelope) -> bool + Sync;

/// A sealed file that may be merged.
#[derive(Clone)]
pub struct Input {
    pub segment: Segment,
    pub run: Arc<IndexRun>,
}

impl Input {
    /// How often its content was merged.
    fn tier(&self) -> u32 {
        self.run.trailer.tier
    }

    /// Sequence and check of the last group of the log that it holds.
    fn chain(&self) -> (u64, [u8; 16]) {
        let t = &self.run.trailer;
        (t.last_group, if self.run.name.kind == FileKind::Run { t.chain } else { t.root })
    }
}

/// A file that was retired by this process.
struct Retired {
    pin: Pin,
    /// Manifest generation that retired it.
    generation: u64,
}

#[derive(Default)]
struct State {
    /// Files that stay as they are: something in them does not verify.
    left_out: BTreeSet<FileName>,
    retired: BTreeMap<FileName, Retired>,
    next_run: u64,
}

/// What compaction did.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Compacted {
    /// Runs made.
    pub runs: u64,
    /// Files they replaced.
    pub replaced: u64,
    /// Bytes written.
    pub bytes: u64,
    /// Retired files removed.
    pub removed: u64,
    /// Files left as they are, because something in them does not verify.
    pub left_out: u64,
}

/// Merges what is due, one run at a time.
pub struct Compactor {
    shared: Arc<Shared>,
    state: Mutex<State>,
    stop: Arc<AtomicBool>,
    /// How long retired files stay, in µs.
    delay: i64,
    /// Generation of the manifest that was there: whoever read it knows what was retired by then.
    opened_at: u64,
}

impl Compactor {
    /// For a store that was opened; numbers of runs up to `last_run` were given out.
    #[must_use]
    pub fn new(shared: Arc<Shared>, last_run: u64, delay: Duration) -> Self {
        let state = State { next_run: last_run + 1, ..State::default() };
        let opened_at = locked(&shared.manifest).head.generation;
        let delay = i64::try_from(delay.as_micros()).unwrap_or(i64::MAX);
        Self { shared, state: Mutex::new(state), stop: Arc::default(), delay, opened_at }
    }

    /// The compaction thread: merges what is due until it is stopped.
    pub fn run(&self) {
        // Commits come first where processors are few; a kernel that refuses changes nothing.
        let _ = rustix::process::setpriority_process(None, 10);
        while !self.stopping() {
            match self.run_due() {
                Ok(_) => self.shared.sealed.wait(LOOK),
                Err(_) if self.stopping() => {}
                Err(e) => {
                    // A full disk, say. Segments stay as they are and serve; later it may go.
                    tracing::warn!(error = %e, "compaction is put off");
                    self.shared.sealed.wait(LOOK);
                }
            }
        }
    }

    /// Ends the thread soon; a run under way is thrown away.
    pub fn stop(&self) {
        self.stop.store(true, Ordering::Relaxed);
        self.shared.sealed.tell();
    }

    fn stopping(&self) -> bool {
        self.stop.load(Ordering::Relaxed)
    }

    /// Merges all that is due now, after what waits to be sealed is, and removes the retired files whose time has come.
    pub fn run_due_now(&self) -> Result<Compacted> {
        let (send, receive) = std::sync::mpsc::channel();
        self.shared.job(Job::Tell(send));
        // Without an upkeep thread nothing waits to be sealed.
        let _ = receive.recv();
        self.run_due()
    }

    fn run_due(&self) -> Result<Compacted> {
        let mut state = locked(&self.state);
        let mut done = Compacted::default();
        while let Some(inputs) = self.due(&state) {
            match self.merge(&mut state, &inputs, &|_, _| true) {
                Ok(bytes) => {
                    done.runs += 1;
                    done.replaced += inputs.len() as u64;
                    done.bytes += bytes;
                }
                Err(Error::Damage(d)) => {
                    tracing::error!(error = %d, "a damaged file stays as it is and is not merged with others");
                    state.left_out.insert(d.file);
                }
                Err(e) => return Err(e),
            }
        }
        done.left_out = state.left_out.len() as u64;
        done.removed = self.remove_retired(&mut state)?;
        Ok(done)
    }

    /// Files that follow each other and are to be merged next: of the lowest tier that has enough of them.
    fn due(&self, state: &State) -> Option<Vec<Input>> {
        let catalog = self.shared.catalog();
        let mut stretch: Vec<Input> = Vec::new();
        let mut best: Option<Vec<Input>> = None;
        let mut weigh = |stretch: &mut Vec<Input>| {
            let found = std::mem::take(stretch);
            let Some(tier) = found.first().map(Input::tier) else { return };
            if best.as_ref().and_then(|b| b.first()).is_some_and(|b| b.tier() <= tier) {
                return;
            }
            // From the oldest on; where those are too large to be merged, from the next.
            for some in found.windows(FAN_IN) {
                let mut bytes = 0;
                let fits = some.iter().take_while(|i| {
                    bytes += i.run.trailer.data_end;
                    bytes <= RUN_MAX
                });
                let count = fits.count();
                if count > 1 {
                    best = Some(some.iter().take(count).cloned().collect());
                    return;
                }
            }
        };
        for segment in &catalog.segments {
            let SegmentPart::Run(run) = &segment.part else {
                weigh(&mut stretch);
                continue;
            };
            let input = Input { segment: segment.clone(), run: run.clone() };
            let follows =
                stretch.last().is_none_or(|l| l.segment.covers.1 + 1 == segment.covers.0 && l.tier() == input.tier());
            if !follows || state.left_out.contains(&segment.name) {
                weigh(&mut stretch);
            }
            if !state.left_out.contains(&segment.name) {
                stretch.push(input);
            }
        }
        weigh(&mut stretch);
        best
    }

    /// Makes one run of files that follow each other, and puts it in their place. Returns the bytes written.
    fn merge(&self, state: &mut State, inputs: &[Input], keep: &Keep) -> Result<u64> {
        let shared = &*self.shared;
        let header = self.check(inputs)?;
        let wanted: u64 = inputs.iter().map(|i| i.run.trailer.file_len).sum();
        let free = shared
            .files
            .disk
            .free_space(&shared.files.dir)
            .map_err(Error::io("asking for space in", &shared.files.dir))?;
        if free < wanted.saturating_add(shared.reserve) {
            return Err(Error::NearlyFull { path: shared.files.dir.clone(), free, reserve: shared.reserve });
        }
        let name = FileName::new(FileKind::Run, state.next_run);
        state.next_run += 1;
        let temp = shared.files.path(name).with_extension("tmp");
        let outcome = self.write(name, header, inputs, keep).and_then(|()| {
            let path = shared.files.path(name);
            shared.files.disk.rename(&temp, &path).map_err(Error::io("renaming", &temp))?;
            let dir = shared.files.dir.join("run");
            shared.files.disk.sync_dir(&dir).map_err(Error::io("syncing", dir))?;
            Ok(Arc::new(IndexRun::open(&shared.files, name)?))
        });
        let run = match outcome {
            Ok(run) => run,
            Err(e) => {
                // What is left over the next open removes.
                if let Err(also) = remove_if_there(&shared.files, &temp) {
                    tracing::warn!(error = %also, "an unfinished run stays for now");
                }
                return Err(e);
            }
        };
        let bytes = run.trailer.file_len;
        self.install(state, inputs, run)?;
        Ok(bytes)
    }

    /// Whether these files may become one, and the header of the run: what is not in order stays as it is.
    fn check(&self, inputs: &[Input]) -> Result<FileHeader> {
        let shared = &*self.shared;
        let mut first: Option<FileHeader> = None;
        let mut before: Option<(u64, [u8; 16])> = None;
        for input in inputs {
            let (name, t) = (input.run.name, &input.run.trailer);
            let damage = |kind| Error::Damage(mailstrata_format::Damage::new(name, 0, kind));
            let mut block = vec![0; BLOCK];
            let file = shared.files.get(name)?;
            read_full(file.as_ref(), &mut block, 0).map_err(Error::io("reading", shared.files.path(name)))?;
            let header = FileHeader::read(&block, shared.files.store, name).map_err(Error::Damage)?;
            if t.damaged != 0 || t.row_count != t.records {
                return Err(damage(mailstrata_format::DamageKind::IndexRow));
            }
            if before.is_some_and(|(group, chain)| header.previous != chain || header.first_group != group + 1) {
                return Err(damage(mailstrata_format::DamageKind::Chain));
            }
            before = Some(input.chain());
            first.get_or_insert(header);
        }
        let (Some(first), Some(a), Some(b)) = (first, inputs.first(), inputs.last()) else {
            return Err(Error::TooLarge("nothing to merge"));
        };
        Ok(FileHeader {
            kind: FileKind::Run.code(),
            created: shared.clock.now(),
            capacity: 0,
            flags: 0,
            first_segment: a.segment.covers.0,
            last_segment: b.segment.covers.1,
            tier: a.tier() + 1,
            ..first
        })
    }

    fn write(&self, name: FileName, header: FileHeader, inputs: &[Input], keep: &Keep) -> Result<()> {
        let files = &self.shared.files;
        let replaced: Vec<Replaced> = inputs
            .iter()
            .map(|i| Replaced {
                kind: i.run.name.kind.code(),
                reserved: 0,
                number: i.run.name.number,
                root: i.run.trailer.root,
            })
            .collect();
        let lsns = |of: fn(&mailstrata_format::index::Trailer) -> u64| {
            inputs.iter().map(move |i| of(&i.run.trailer)).filter(|n| *n != 0)
        };
        let range = (lsns(|t| t.first_lsn).min().unwrap_or(0), lsns(|t| t.last_lsn).max().unwrap_or(0));
        let bytes: u64 = inputs.iter().map(|i| i.run.trailer.data_end).sum();
        let mut output = Output::create(files, FileHeader { number: name.number, ..header }, &replaced, range, bytes)?;
        let mut merge = Merge::new(files, inputs, &self.stop)?;
        while let Some(mut next) = merge.advance()? {
            let row = next.row;
            output.push(&row, |room| {
                let envelope = next.copy(room)?;
                Ok(keep(&row, &envelope).then_some(envelope))
            })?;
        }
        let chain = inputs.last().map_or((0, [0; 16]), Input::chain);
        output.finish(chain, &self.stop)
    }

    /// Publishes a durable run: one manifest names it and retires what it replaces, then views get it.
    fn install(&self, state: &mut State, inputs: &[Input], run: Arc<IndexRun>) -> Result<()> {
        let shared = &*self.shared;
        let now = shared.clock.now();
        let mut generation = 0;
        shared.update_manifest(|m| {
            generation = m.head.generation + 1;
            add_entry(m, log_entry(&run));
            for input in inputs {
                let mut entry = log_entry(&input.run);
                (entry.state, entry.retired) = (RETIRED, now);
                add_entry(m, entry);
            }
        })?;
        for input in inputs {
            let pin = input.segment.pin();
            state.retired.insert(input.run.name, Retired { pin, generation });
        }
        let names: BTreeSet<FileName> = inputs.iter().map(|i| i.run.name).collect();
        let segment = Segment::new(run.name, SegmentPart::Run(run));
        shared.publish(|c| {
            let at = c.segments.iter().position(|s| names.contains(&s.name)).unwrap_or(0);
            c.segments.insert(at, segment);
            c.segments.retain(|s| !names.contains(&s.name));
        });
        Ok(())
    }
}
