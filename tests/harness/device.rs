//! Real file systems on block devices that lose what was not flushed.
//!
//! In comes the wish for a file system; out come a mounted directory, a log of every write and flush that reached the device
//! below it, and the device as a power cut at any moment of that log may leave it. Nothing but a kernel with FUSE and loop
//! devices is needed: a FUSE mount whose root is one file stands for the disk, a loop device makes it a block device, and
//! the server of that file, a thread here, writes the log.
//!
//! ```text
//! store ─► ext4 / XFS ─► /dev/loopN ─► FUSE file ─► this thread ─► log of writes and flushes
//! ```
//!
//! Rules: a flush makes durable what was written before it; every later sector of 512 bytes is lost or kept on its own.

use crate::rng::Rng;
use crate::sim::SECTOR;
use std::fs::{File, OpenOptions};
use std::io::{self, Read as _, Write as _};
use std::os::fd::AsRawFd as _;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;

/// What reached the device.
#[derive(Clone)]
pub enum Event {
    Write { offset: u64, bytes: Arc<[u8]> },
    Flush,
}

type Log = Arc<Mutex<Vec<Event>>>;

fn lock(log: &Mutex<Vec<Event>>) -> MutexGuard<'_, Vec<Event>> {
    log.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Runs a program of the system; its words when it fails.
pub fn tool(name: &str, args: &[&str]) -> Result<String, String> {
    let out = Command::new(name).args(args).output().map_err(|e| format!("{name}: {e}"))?;
    if out.status.success() {
        return Ok(String::from_utf8_lossy(&out.stdout).trim().to_owned());
    }
    Err(format!("{name} {}: {}", args.join(" "), String::from_utf8_lossy(&out.stderr).trim()))
}

/// Ends a mount. A process that was just started still has the descriptors of its parent for a moment: tried for a second.
fn unmount(path: &Path) -> bool {
    for _ in 0..50 {
        if tool("umount", &[text(path)]).is_ok() {
            return true;
        }
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
    println!("{} stays mounted", path.display());
    false
}

fn text(path: &Path) -> &str {
    path.to_str().expect("paths of tests are UTF-8")
}

/// A mount that ends with this value.
pub struct Mounted {
    pub dir: PathBuf,
    /// The loop device below it.
    device: Option<String>,
}

impl Mounted {
    /// Mounts the file system in an image or, with `kind` tmpfs, an empty one.
    pub fn image(image: &Path, dir: PathBuf, options: &str) -> Result<Self, String> {
        std::fs::create_dir_all(&dir).map_err(|e| e.to_string())?;
        let device = tool("losetup", &["--find", "--show", text(image)])?;
        let mounted = tool("mount", &["-o", options, &device, text(&dir)]);
        let guard = Self { dir, device: Some(device) };
        match mounted {
            Ok(_) => Ok(guard),
            Err(e) => {
                guard.detach();
                std::mem::forget(guard);
                Err(e)
            }
        }
    }

    /// An empty file system in memory.
    pub fn memory(dir: PathBuf, bytes: u64) -> Result<Self, String> {
        std::fs::create_dir_all(&dir).map_err(|e| e.to_string())?;
        tool("mount", &["-t", "tmpfs", "-o", &format!("size={bytes}"), "tmpfs", text(&dir)])?;
        Ok(Self { dir, device: None })
    }

    /// The name of the loop device, without its directory.
    #[must_use]
    pub fn device_name(&self) -> Option<&str> {
        self.device.as_deref().and_then(|d| d.rsplit('/').next())
    }

    /// From now on nothing can be written.
    pub fn read_only(&self) -> Result<(), String> {
        tool("mount", &["-o", "remount,ro", text(&self.dir)]).map(drop)
    }

    fn detach(&self) {
        if let Some(device) = &self.device
            && let Err(e) = tool("losetup", &["--detach", device])
        {
            println!("{e}");
        }
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        unmount(&self.dir);
        self.detach();
    }
}

/// Makes a file system in a new image.
pub fn make_image(kind: &str, image: &Path, bytes: u64) -> Result<(), String> {
    let file = File::create(image).map_err(|e| e.to_string())?;
    file.set_len(bytes).map_err(|e| e.to_string())?;
    drop(file);
    let force = if kind == "ext4" { "-F" } else { "-f" };
    tool(&format!("mkfs.{kind}"), &["-q", force, text(image)]).map(drop)
}

/// A disk in a file whose writes and flushes are logged.
pub struct Recorder {
    pub path: PathBuf,
    log: Log,
    server: Option<JoinHandle<()>>,
}

impl Recorder {
    /// Serves a copy of an image; its changes go to the copy.
    pub fn start(current: &Path, at: &Path) -> Result<Self, String> {
        let fail = |e: io::Error| e.to_string();
        let fuse =
            OpenOptions::new().read(true).write(true).open("/dev/fuse").map_err(|e| format!("/dev/fuse: {e}"))?;
        let disk = OpenOptions::new().read(true).write(true).open(current).map_err(fail)?;
        File::create(at).map_err(fail)?;
        let c = |s: &str| std::ffi::CString::new(s).map_err(|e| e.to_string());
        let options = c(&format!("fd={},rootmode=100600,user_id=0,group_id=0", fuse.as_raw_fd()))?;
        let (source, target, kind) = (c("recorder")?, c(text(at))?, c("fuse")?);
        // SAFETY: all pointers are to strings that end with NUL and outlive the call.
        let failed = unsafe {
            libc::mount(source.as_ptr(), target.as_ptr(), kind.as_ptr(), 0, options.as_ptr().cast::<libc::c_void>())
        };
        if failed != 0 {
            return Err(format!("mounting a FUSE file: {}", io::Error::last_os_error()));
        }
        let log = Log::default();
        let server = std::thread::spawn({
            let log = log.clone();
            move || serve(fuse, &disk, &log)
        });
        Ok(Self { path: at.to_owned(), log, server: Some(server) })
    }

    /// How many writes and flushes there were.
    pub fn now(&self) -> usize {
        lock(&self.log).len()
    }

    /// Everything so far.
    pub fn log(&self) -> Vec<Event> {
        lock(&self.log).clone()
    }
}

impl Drop for Recorder {
    fn drop(&mut self) {
        if !unmount(&self.path) {
            return;
        }
        // The mount's end ends the thread.
        if let Some(server) = self.server.take() {
            drop(server.join());
        }
    }
}

/// Little-endian numbers of an answer.
#[derive(Default)]
struct Answer(Vec<u8>);

impl Answer {
    fn u16(mut self, n: u16) -> Self {
        self.0.extend(n.to_ne_bytes());
        self
    }
    fn u32(mut self, n: u32) -> Self {
        self.0.extend(n.to_ne_bytes());
        self
    }
    fn u64(mut self, n: u64) -> Self {
        self.0.extend(n.to_ne_bytes());
        self
    }
}

fn u32_at(b: &[u8], at: usize) -> u32 {
    b.get(at..at + 4).and_then(|b| b.try_into().ok()).map_or(0, u32::from_ne_bytes)
}

fn u64_at(b: &[u8], at: usize) -> u64 {
    b.get(at..at + 8).and_then(|b| b.try_into().ok()).map_or(0, u64::from_ne_bytes)
}

/// Longest write in one request, in bytes.
const WRITE_MAX: u32 = 1 << 20;

/// Answers the kernel (FUSE protocol 7.31, root node only) until the mount ends.
fn serve(mut fuse: File, disk: &File, log: &Mutex<Vec<Event>>) {
    let mut request = vec![0; WRITE_MAX as usize + 4096];
    loop {
        let n = match fuse.read(&mut request) {
            Ok(n) if n >= 40 => n,
            Ok(_) => return,
            Err(e) if matches!(e.raw_os_error(), Some(libc::EINTR | libc::ENOENT | libc::EAGAIN)) => continue,
            // ENODEV: unmounted.
            Err(_) => return,
        };
        let (head, body) = request[..n].split_at(40);
        let (opcode, unique) = (u32_at(head, 4), u64_at(head, 8));
        let answer = match opcode {
            // FORGET, INTERRUPT, BATCH_FORGET: no answer is expected.
            2 | 36 | 42 => continue,
            _ => respond(opcode, body, disk, log),
        };
        let (error, payload) = match answer {
            Ok(a) => (0, a.0),
            Err(code) => (-code, Vec::new()),
        };
        let mut out = Answer::default().u32(u32::try_from(16 + payload.len()).unwrap_or(0)).u32(error.cast_unsigned());
        out = out.u64(unique);
        out.0.extend(payload);
        if fuse.write_all(&out.0).is_err() {
            return;
        }
    }
}

fn respond(opcode: u32, body: &[u8], disk: &File, log: &Mutex<Vec<Event>>) -> Result<Answer, i32> {
    let failed = |e: io::Error| e.raw_os_error().unwrap_or(libc::EIO);
    match opcode {
        // INIT: large writes.
        26 => {
            let flags = (1 << 5) | (1 << 22);
            let mut a = Answer::default().u32(7).u32(31).u32(WRITE_MAX).u32(flags & u32_at(body, 12));
            a = a.u16(16).u16(12).u32(WRITE_MAX).u32(1).u16(256).u16(0);
            a.0.resize(64, 0);
            Ok(a)
        }
        // GETATTR, SETATTR.
        3 | 4 => {
            let len = disk.metadata().map_err(failed)?.len();
            let mut a = Answer::default().u64(1 << 20).u32(0).u32(0);
            a = a.u64(1).u64(len).u64(len / 512).u64(0).u64(0).u64(0).u32(0).u32(0).u32(0);
            Ok(a.u32(0o100_600).u32(1).u32(0).u32(0).u32(0).u32(4096).u32(0))
        }
        // OPEN.
        14 => Ok(Answer::default().u64(1).u32(0).u32(0)),
        // READ.
        15 => {
            let mut bytes = vec![0; u32_at(body, 16) as usize];
            let n = disk.read_at(&mut bytes, u64_at(body, 8)).map_err(failed)?;
            bytes.truncate(n);
            Ok(Answer(bytes))
        }
        // WRITE.
        16 => {
            let (offset, len) = (u64_at(body, 8), u32_at(body, 16) as usize);
            let bytes = body.get(40..40 + len).ok_or(libc::EIO)?;
            disk.write_all_at(bytes, offset).map_err(failed)?;
            lock(log).push(Event::Write { offset, bytes: bytes.into() });
            Ok(Answer::default().u32(u32_at(body, 16)).u32(0))
        }
        // STATFS.
        17 => {
            let mut a = Answer::default();
            a.0.resize(80, 0);
            Ok(a)
        }
        // FSYNC.
        20 => {
            lock(log).push(Event::Flush);
            Ok(Answer::default())
        }
        // RELEASE, FLUSH, DESTROY.
        18 | 25 | 38 => Ok(Answer::default()),
        _ => Err(libc::ENOSYS),
    }
}

/// Power cuts at ascending moments of a log.
pub struct Cuts<'a> {
    log: &'a [Event],
    /// An image with everything up to `flushed`.
    durable: PathBuf,
    file: File,
    flushed: usize,
}

impl<'a> Cuts<'a> {
    /// `base`: the image before the log's first event; it is changed from now on.
    pub fn new(log: &'a [Event], base: &Path) -> io::Result<Self> {
        let file = OpenOptions::new().write(true).open(base)?;
        Ok(Self { log, durable: base.to_owned(), file, flushed: 0 })
    }

    /// Writes the device as a power cut after `moment` events may leave it to `image`.
    pub fn cut(&mut self, moment: usize, rng: &mut Rng, image: &Path) -> Result<(), String> {
        let fail = |e: io::Error| e.to_string();
        let log = self.log.get(..moment).ok_or("no such moment")?;
        let flush = log.iter().rposition(|e| matches!(e, Event::Flush)).map_or(0, |i| i + 1);
        for e in log.get(self.flushed..flush).unwrap_or_default() {
            if let Event::Write { offset, bytes } = e {
                self.file.write_all_at(bytes, *offset).map_err(fail)?;
            }
        }
        self.flushed = self.flushed.max(flush);
        tool("cp", &["--sparse=always", text(&self.durable), text(image)])?;
        let out = OpenOptions::new().write(true).open(image).map_err(fail)?;
        let keep = *rng.pick(&[0, 10, 50, 90, 100]);
        // Whole requests, or each sector on its own.
        let whole = rng.percent(50);
        for e in &log[flush..] {
            let Event::Write { offset, bytes } = e else { continue };
            let unit = if whole { bytes.len().max(1) } else { usize::try_from(SECTOR).unwrap_or(512) };
            for (i, part) in bytes.chunks(unit).enumerate() {
                if rng.percent(keep) {
                    out.write_all_at(part, offset + (i * unit) as u64).map_err(fail)?;
                }
            }
        }
        Ok(())
    }
}
