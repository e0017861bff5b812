//! What the kernel says of this process and its machine: reads, memory, idle cores; and the page cache emptied for a
//! directory's files.

use rustix::fs::Advice;
use std::fs;
use std::io;
use std::path::Path;
use std::time::{Duration, Instant};

/// Reads of the calling thread so far.
#[derive(Debug, Clone, Copy, Default)]
pub struct Reads {
    /// Read calls; on a file that is in no cache each is one request to the device.
    pub calls: u64,
    /// Bytes fetched from the device, in whole pages and with what the kernel read ahead.
    pub bytes: u64,
}

impl Reads {
    /// From `/proc/thread-self/io`.
    pub fn now() -> io::Result<Self> {
        let text = fs::read_to_string("/proc/thread-self/io")?;
        Ok(Self { calls: field(&text, "syscr:"), bytes: field(&text, "read_bytes:") })
    }

    /// Read calls that one look costs; it counts them only after it has told the sum.
    pub fn look() -> io::Result<u64> {
        let a = Self::now()?;
        let b = Self::now()?;
        Ok(b.calls - a.calls)
    }

    /// Reads since an earlier look, which cost `look` calls itself.
    #[must_use]
    pub const fn since(self, earlier: Self, look: u64) -> Self {
        Self { calls: (self.calls - earlier.calls).saturating_sub(look), bytes: self.bytes - earlier.bytes }
    }
}

fn field(text: &str, name: &str) -> u64 {
    text.lines().find_map(|l| l.strip_prefix(name)?.split_whitespace().next()?.parse().ok()).unwrap_or(0)
}

/// The most memory this process ever had resident, in bytes (`VmHWM`).
pub fn resident_peak() -> io::Result<u64> {
    Ok(field(&fs::read_to_string("/proc/self/status")?, "VmHWM:") * 1024)
}

/// Memory of this process that is resident now, in bytes (`VmRSS`).
pub fn resident() -> io::Result<u64> {
    Ok(field(&fs::read_to_string("/proc/self/status")?, "VmRSS:") * 1024)
}

/// Page faults of the calling thread that waited for a device.
pub fn faults() -> io::Result<u64> {
    // SAFETY: zeros are a valid rusage, and the kernel fills the one it is given.
    let usage = unsafe {
        let mut usage: libc::rusage = std::mem::zeroed();
        if libc::getrusage(libc::RUSAGE_THREAD, &raw mut usage) != 0 {
            return Err(io::Error::last_os_error());
        }
        usage
    };
    Ok(u64::try_from(usage.ru_majflt).unwrap_or(0))
}

/// Files that this process has open.
pub fn open_files() -> io::Result<u64> {
    Ok(fs::read_dir("/proc/self/fd")?.count() as u64)
}

/// Calls `each` for every regular file below a directory.
pub fn files(dir: &Path, each: &mut dyn FnMut(&Path) -> io::Result<()>) -> io::Result<()> {
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        // A store at work removes files of its own.
        let kind = match entry.file_type() {
            Err(e) if e.kind() == io::ErrorKind::NotFound => continue,
            kind => kind?,
        };
        if kind.is_dir() {
            files(&entry.path(), each)?;
        } else if kind.is_file() {
            each(&entry.path())?;
        }
    }
    Ok(())
}

/// Takes every file below a directory out of the page cache: synced first, because dirty pages stay.
pub fn forget(dir: &Path) -> io::Result<()> {
    files(dir, &mut |path| {
        let file = match fs::File::open(path) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(()),
            file => file?,
        };
        rustix::fs::fdatasync(&file)?;
        Ok(rustix::fs::fadvise(&file, 0, None, Advice::DontNeed)?)
    })
}

/// Files below a directory, and their bytes.
pub fn size(dir: &Path) -> io::Result<(u64, u64)> {
    let (mut count, mut bytes) = (0, 0);
    files(dir, &mut |path| {
        match fs::metadata(path) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(()),
            found => bytes += found?.len(),
        }
        count += 1;
        Ok(())
    })?;
    Ok((count, bytes))
}

/// Waits until the cores were nine tenths idle for 300 ms, at most `patience`.
pub fn settle(patience: Duration) -> io::Result<()> {
    let begin = Instant::now();
    let mut calm = 0;
    while calm < 3 && begin.elapsed() < patience {
        let before = ticks()?;
        std::thread::sleep(Duration::from_millis(100));
        let after = ticks()?;
        let idle = after.1.saturating_sub(before.1) * 10 >= after.0.saturating_sub(before.0) * 9;
        calm = if idle { calm + 1 } else { 0 };
    }
    Ok(())
}

/// Ticks of all cores since the start, and those spent idle or waiting for a device.
fn ticks() -> io::Result<(u64, u64)> {
    let text = fs::read_to_string("/proc/stat")?;
    let line = text.lines().next().unwrap_or_default();
    let ticks: Vec<u64> = line.split_whitespace().skip(1).filter_map(|n| n.parse().ok()).collect();
    Ok((ticks.iter().take(8).sum(), ticks.iter().skip(3).take(2).sum()))
}
