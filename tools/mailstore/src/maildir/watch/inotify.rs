//! inotify: a watch a directory, 1.8 kB of kernel memory each, nothing but what happens in them is reported.

use std::collections::HashMap;
use std::io;
use std::os::fd::{AsFd as _, BorrowedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;

use inotify::{EventMask, Inotify, WatchDescriptor, WatchMask};

use super::kernel::{Kernel, Raw, Role, WatchId, What};

/// Some 800 events with the names Maildir gives.
const BUFFER_BYTES: usize = 64 << 10;

pub struct InotifyKernel {
    inotify: Inotify,
    watches: HashMap<WatchId, WatchDescriptor>,
    buffer: Vec<u8>,
}

impl InotifyKernel {
    pub fn new() -> io::Result<Self> {
        Ok(Self { inotify: Inotify::init()?, watches: HashMap::new(), buffer: vec![0; BUFFER_BYTES] })
    }
}

/// Descriptors count up from 1 and are given once in the life of an inotify instance.
fn id(wd: &WatchDescriptor) -> WatchId {
    WatchId(u64::try_from(wd.get_watch_descriptor_id()).unwrap_or(0))
}

impl Kernel for InotifyKernel {
    fn name(&self) -> &'static str {
        "inotify"
    }

    fn add(&mut self, dir: &Path, role: Role) -> io::Result<WatchId> {
        let mut mask = WatchMask::CREATE | WatchMask::DELETE | WatchMask::MOVED_FROM | WatchMask::MOVED_TO;
        mask |= WatchMask::DELETE_SELF | WatchMask::MOVE_SELF | WatchMask::ONLYDIR;
        if !role.follows() {
            mask |= WatchMask::DONT_FOLLOW;
        }
        if role != Role::Above {
            mask |= WatchMask::CLOSE_WRITE;
        }
        let wd = self.inotify.watches().add(dir, mask)?;
        let id = id(&wd);
        self.watches.insert(id, wd);
        Ok(id)
    }

    fn remove(&mut self, watch: WatchId) {
        if let Some(wd) = self.watches.remove(&watch) {
            // It fails when the directory is gone already, and the watch with it.
            let _ = self.inotify.watches().remove(wd);
        }
    }

    fn read(&mut self, events: &mut Vec<Raw>) -> io::Result<bool> {
        let batch = match self.inotify.read_events(&mut self.buffer) {
            Ok(batch) => batch,
            Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) => {
                return Ok(false);
            }
            Err(error) => return Err(error),
        };
        for event in batch {
            let what = match event.mask {
                mask if mask.contains(EventMask::Q_OVERFLOW) => What::Overflow,
                mask if mask.contains(EventMask::IGNORED) => What::Unwatched,
                mask if mask.intersects(EventMask::DELETE_SELF | EventMask::MOVE_SELF | EventMask::UNMOUNT) => {
                    What::SelfGone
                }
                mask if mask.contains(EventMask::CREATE) => What::Created,
                mask if mask.contains(EventMask::CLOSE_WRITE) => What::Closed,
                mask if mask.contains(EventMask::DELETE) => What::Deleted,
                mask if mask.contains(EventMask::MOVED_FROM) => What::MovedFrom,
                mask if mask.contains(EventMask::MOVED_TO) => What::MovedTo,
                _ => continue,
            };
            let watch = id(&event.wd);
            if what == What::Unwatched {
                self.watches.remove(&watch);
            }
            events.push(Raw {
                watch,
                what,
                is_dir: event.mask.contains(EventMask::ISDIR),
                cookie: u64::from(event.cookie),
                name: event.name.map(|name| name.as_bytes().to_vec()).unwrap_or_default(),
            });
        }
        Ok(true)
    }

    fn fd(&self) -> BorrowedFd<'_> {
        self.inotify.as_fd()
    }
}
