//! fanotify: one mark a file system, however many folders there are; every change on it is reported, by any program.
//!
//! An event names the directory by its *file handle*, so that watching a directory is noting its handle. Needs
//! `CAP_SYS_ADMIN`, Linux 5.9, and a file system that gives handles and has an id; the constructor's error says so.
//!
//! Events on one name merge in the queue, and the order inside a merged one is lost: it comes out as deletion first, then
//! creation. The consumer looks at what is there in any case.

use std::collections::{HashMap, HashSet};
use std::ffi::CString;
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd as _, AsRawFd as _, BorrowedFd, FromRawFd as _, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;

use rustix::fs::{Mode, OFlags};

use super::kernel::{Kernel, Raw, Role, WatchId, What};

const BUFFER_BYTES: usize = 64 << 10;

/// `struct fanotify_event_metadata`: length, version, reserved, own length, mask, descriptor, process.
const METADATA_BYTES: usize = 24;

/// Type, padding, length, then the file system's id.
const INFO_BYTES: usize = 12;

/// The longest handle there is (`MAX_HANDLE_SZ`).
const HANDLE_BYTES_MAX: usize = 128;

/// The file system's id and the handle with its type.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Handle {
    file_system: [u8; 8],
    /// `handle_type`, then the handle itself.
    bytes: Box<[u8]>,
}

pub struct FanotifyKernel {
    fd: OwnedFd,
    marked: HashSet<[u8; 8]>,
    by_handle: HashMap<Handle, WatchId>,
    by_watch: HashMap<WatchId, Handle>,
    next: u64,
    cookie: u64,
    /// `FAN_RENAME` (Linux 5.17) gives both ends of a rename in one event.
    pairs_renames: bool,
    buffer: Vec<u8>,
}

fn checked(result: libc::c_int) -> io::Result<libc::c_int> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}

impl FanotifyKernel {
    /// Tries the interface out on the file system that holds `probe`.
    pub fn new(probe: &Path) -> io::Result<Self> {
        let flags = libc::FAN_CLASS_NOTIF | libc::FAN_CLOEXEC | libc::FAN_NONBLOCK | libc::FAN_REPORT_DFID_NAME;
        // SAFETY: no pointers are passed.
        let fd = checked(unsafe { libc::fanotify_init(flags, 0) })?;
        // SAFETY: the kernel just gave this descriptor to us, and nobody else has it.
        let fd = unsafe { OwnedFd::from_raw_fd(fd) };
        let mut kernel = Self {
            fd,
            marked: HashSet::new(),
            by_handle: HashMap::new(),
            by_watch: HashMap::new(),
            next: 1,
            cookie: 0,
            pairs_renames: true,
            buffer: vec![0; BUFFER_BYTES],
        };
        let watch = kernel.add(probe, Role::Above)?;
        kernel.remove(watch);
        Ok(kernel)
    }

    fn mark(&mut self, dir: &OwnedFd) -> io::Result<()> {
        let common = libc::FAN_CREATE | libc::FAN_DELETE | libc::FAN_CLOSE_WRITE | libc::FAN_ONDIR;
        let fd = self.fd.as_raw_fd();
        let mark = |renames: u64| {
            let flags = libc::FAN_MARK_ADD | libc::FAN_MARK_FILESYSTEM;
            // SAFETY: the path is a string with its NUL, and both descriptors are open.
            checked(unsafe { libc::fanotify_mark(fd, flags, common | renames, dir.as_raw_fd(), c".".as_ptr()) })
        };
        if self.pairs_renames {
            match mark(libc::FAN_RENAME) {
                Err(error) if error.raw_os_error() == Some(libc::EINVAL) => self.pairs_renames = false,
                result => return result.map(drop),
            }
        }
        mark(libc::FAN_MOVED_FROM | libc::FAN_MOVED_TO).map(drop)
    }

    fn event(&mut self, mask: u64, mut infos: &[u8], events: &mut Vec<Raw>) {
        self.cookie += 1;
        let is_dir = mask & libc::FAN_ONDIR != 0;
        while let Some(kind) = infos.first().copied() {
            let Some(len) = short(infos, 2).map(usize::from).filter(|&len| len >= INFO_BYTES) else { return };
            let Some((info, rest)) = infos.split_at_checked(len) else { return };
            infos = rest;
            let Some((handle, name)) = place(info) else { continue };
            let Some(&watch) = self.by_handle.get(&handle) else { continue };
            let mut push = |what, cookie| events.push(Raw { watch, what, is_dir, cookie, name: name.to_vec() });
            match kind {
                libc::FAN_EVENT_INFO_TYPE_OLD_DFID_NAME => push(What::MovedFrom, self.cookie),
                libc::FAN_EVENT_INFO_TYPE_NEW_DFID_NAME => push(What::MovedTo, self.cookie),
                libc::FAN_EVENT_INFO_TYPE_DFID_NAME => {
                    for (bit, what) in [
                        (libc::FAN_DELETE, What::Deleted),
                        (libc::FAN_MOVED_FROM, What::MovedFrom),
                        (libc::FAN_CREATE, What::Created),
                        (libc::FAN_MOVED_TO, What::MovedTo),
                        (libc::FAN_CLOSE_WRITE, What::Closed),
                    ] {
                        if mask & bit != 0 {
                            push(what, 0);
                        }
                    }
                }
                _ => {}
            }
        }
    }
}

fn short(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_ne_bytes(bytes.get(at..at + 2)?.try_into().ok()?))
}

fn int(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_ne_bytes(bytes.get(at..at + 4)?.try_into().ok()?))
}

/// Directory and name in an information record: header, file system, handle length, handle type, handle, name, NUL.
fn place(info: &[u8]) -> Option<(Handle, &[u8])> {
    let handle_len = usize::try_from(int(info, INFO_BYTES)?).ok()?;
    let end = (INFO_BYTES + 8).checked_add(handle_len)?;
    let handle =
        Handle { file_system: info.get(4..12)?.try_into().ok()?, bytes: info.get(INFO_BYTES + 4..end)?.into() };
    let name = info.get(end..)?;
    let name = name.get(..name.iter().position(|&b| b == 0).unwrap_or(name.len()))?;
    Some((handle, name))
}

fn handle_of(dir: &OwnedFd) -> io::Result<Handle> {
    #[repr(C, align(8))]
    struct Buffer([u8; 8 + HANDLE_BYTES_MAX]);
    let mut buffer = Buffer([0; 8 + HANDLE_BYTES_MAX]);
    let room = u32::try_from(HANDLE_BYTES_MAX).unwrap_or(0);
    buffer.0[..4].copy_from_slice(&room.to_ne_bytes());
    let mut mount = 0;
    // SAFETY: the buffer is aligned for `file_handle`, begins with the room that follows its 8-byte head, and outlives the call;
    // the path is an empty string with its NUL.
    checked(unsafe {
        libc::name_to_handle_at(
            dir.as_raw_fd(),
            c"".as_ptr(),
            buffer.0.as_mut_ptr().cast(),
            &mut mount,
            libc::AT_EMPTY_PATH,
        )
    })?;
    let mut stat = MaybeUninit::<libc::statfs>::zeroed();
    // SAFETY: the descriptor is open and the buffer is a `statfs`.
    checked(unsafe { libc::fstatfs(dir.as_raw_fd(), stat.as_mut_ptr()) })?;
    // SAFETY: the call succeeded, and all bits of a `statfs` may have any value.
    let stat = unsafe { stat.assume_init() };
    // SAFETY: `fsid_t` is two 32-bit integers without padding; libc only hides their names.
    let file_system: [u8; 8] = unsafe { std::mem::transmute(stat.f_fsid) };
    let len = int(&buffer.0, 0).and_then(|len| usize::try_from(len).ok());
    let bytes = len.and_then(|len| buffer.0.get(4..8 + len)).ok_or(io::ErrorKind::InvalidData)?;
    Ok(Handle { file_system, bytes: bytes.into() })
}

impl Kernel for FanotifyKernel {
    fn name(&self) -> &'static str {
        "fanotify"
    }

    fn add(&mut self, dir: &Path, role: Role) -> io::Result<WatchId> {
        let path = CString::new(dir.as_os_str().as_bytes())?;
        let mut flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        if !role.follows() {
            flags |= OFlags::NOFOLLOW;
        }
        let open = rustix::fs::open(path.as_c_str(), flags, Mode::empty())?;
        let handle = handle_of(&open)?;
        if !self.marked.contains(&handle.file_system) {
            self.mark(&open)?;
            self.marked.insert(handle.file_system);
        }
        if let Some(&watch) = self.by_handle.get(&handle) {
            return Ok(watch);
        }
        let watch = WatchId(self.next);
        self.next += 1;
        self.by_watch.insert(watch, handle.clone());
        self.by_handle.insert(handle, watch);
        Ok(watch)
    }

    fn remove(&mut self, watch: WatchId) {
        if let Some(handle) = self.by_watch.remove(&watch) {
            self.by_handle.remove(&handle);
        }
    }

    fn read(&mut self, events: &mut Vec<Raw>) -> io::Result<bool> {
        let mut buffer = std::mem::take(&mut self.buffer);
        let read = rustix::io::read(&self.fd, &mut buffer);
        if let Ok(len) = read {
            let mut rest = buffer.get(..len).unwrap_or_default();
            while let Some(event_len) = int(rest, 0).and_then(|len| usize::try_from(len).ok()) {
                let Some((event, after)) = rest.split_at_checked(event_len).filter(|_| event_len >= METADATA_BYTES)
                else {
                    break;
                };
                rest = after;
                let own_len = short(event, 6).map_or(METADATA_BYTES, usize::from);
                let mask = event.get(8..16).and_then(|mask| mask.try_into().ok()).map_or(0, u64::from_ne_bytes);
                if mask & libc::FAN_Q_OVERFLOW != 0 {
                    let (what, name) = (What::Overflow, Vec::new());
                    events.push(Raw { watch: WatchId(0), what, is_dir: false, cookie: 0, name });
                } else {
                    self.event(mask, event.get(own_len..).unwrap_or_default(), events);
                }
            }
        }
        self.buffer = buffer;
        match read {
            Ok(len) => Ok(len > 0),
            Err(rustix::io::Errno::AGAIN | rustix::io::Errno::INTR) => Ok(false),
            Err(error) => Err(error.into()),
        }
    }

    fn fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}
