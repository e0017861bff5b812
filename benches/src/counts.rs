//! What no noisy neighbour can blur: requests and flushes of the device, processor time, groups of the log.

use crate::Outcome;
use mailstrata_format::segment::{self, GroupHeader};
use mailstrata_format::{BLOCK, Binding, FileKind, FileName, StoreId};
use std::fs;
use std::io;
use std::ops::AddAssign;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};

/// What a device did.
#[derive(Debug, Clone, Copy, Default)]
pub struct Device {
    /// Write requests; each flush counts as one too.
    pub writes: u64,
    pub written_bytes: u64,
    pub flushes: u64,
}

impl Device {
    /// What it did since an earlier look.
    #[must_use]
    pub const fn since(self, earlier: Self) -> Self {
        Self {
            writes: self.writes.saturating_sub(earlier.writes),
            written_bytes: self.written_bytes.saturating_sub(earlier.written_bytes),
            flushes: self.flushes.saturating_sub(earlier.flushes),
        }
    }
}

impl AddAssign for Device {
    fn add_assign(&mut self, other: Self) {
        self.writes += other.writes;
        self.written_bytes += other.written_bytes;
        self.flushes += other.flushes;
    }
}

/// The counters of the device under a directory: of the whole machine, so nobody else may write meanwhile.
#[derive(Debug, Clone)]
pub struct Diskstats(PathBuf);

impl Diskstats {
    /// `None` where the file system is on no device of its own (overlay, tmpfs, btrfs) or the kernel counts no flushes.
    #[must_use]
    pub fn of(dir: &Path) -> Option<Self> {
        let dev = fs::metadata(dir).ok()?.dev();
        let (major, minor) = (rustix::fs::major(dev), rustix::fs::minor(dev));
        let found = Self(PathBuf::from(format!("/sys/dev/block/{major}:{minor}/stat")));
        found.now().is_ok().then_some(found)
    }

    /// The counters now (`Documentation/admin-guide/iostats.rst` of Linux: fields 5, 7 and 16).
    pub fn now(&self) -> io::Result<Device> {
        let text = fs::read_to_string(&self.0)?;
        let fields: Vec<u64> = text.split_whitespace().filter_map(|f| f.parse().ok()).collect();
        match (fields.get(4), fields.get(6), fields.get(15)) {
            (Some(writes), Some(sectors), Some(flushes)) => {
                Ok(Device { writes: *writes, written_bytes: sectors * 512, flushes: *flushes })
            }
            _ => Err(io::Error::from(io::ErrorKind::Unsupported)),
        }
    }
}

/// Processor time of this process so far, in µs: all its threads, user and kernel, in ticks of 10 ms. What kernel threads
/// do for it is not in it.
pub fn cpu_micros() -> io::Result<f64> {
    let text = fs::read_to_string("/proc/self/stat")?;
    let behind_name = text.rsplit_once(')').map_or("", |(_, rest)| rest);
    let ticks: u64 = behind_name.split_whitespace().skip(11).take(2).filter_map(|f| f.parse::<u64>().ok()).sum();
    // USER_HZ is 100 wherever io_uring runs.
    Ok(ticks as f64 * 1e4)
}

/// The groups of a log.
#[derive(Debug, Clone, Copy, Default)]
pub struct Groups {
    pub groups: u64,
    pub frames: u64,
    /// Of frames alone.
    pub frame_bytes: u64,
    /// With group headers and padding.
    pub bytes: u64,
}

impl Groups {
    /// Reads the headers of all groups in the segments of a store.
    pub fn of(dir: &Path, store: StoreId) -> Outcome<Self> {
        let mut all = Self::default();
        for entry in fs::read_dir(dir.join("log"))? {
            let entry = entry?;
            let name = entry.file_name();
            let Some(number) = name.to_str().and_then(|n| FileName::number_of(n, "seg")) else { continue };
            let path = entry.path();
            all.add(&fs::File::open(&path)?, store, FileName::new(FileKind::Segment, number))?;
        }
        Ok(all)
    }

    fn add(&mut self, file: &fs::File, store: StoreId, name: FileName) -> io::Result<()> {
        let mut at = BLOCK as u64;
        let mut header = [0; GroupHeader::SIZE];
        while file.read_at(&mut header, at)? == header.len() {
            let Some(h) = segment::header_at(&header, &Binding::new(store, name, at)) else { break };
            self.groups += 1;
            self.frames += u64::from(h.frame_count);
            self.frame_bytes += u64::from(h.used) - GroupHeader::SIZE as u64;
            self.bytes += u64::from(h.length);
            at += u64::from(h.length);
        }
        Ok(())
    }
}
