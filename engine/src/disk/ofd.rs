//! Locks on single bytes of a file that belong to the open file description: they die with it, whoever shares the process.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};

fn range(kind: libc::c_int, start: u64, len: u64) -> io::Result<libc::flock> {
    let whole = |n: u64| libc::off_t::try_from(n).map_err(|_| io::Error::from(io::ErrorKind::InvalidInput));
    // SAFETY: `flock` is plain data, for which zeros are a value; the kernel wants `l_pid` zero.
    let mut lock: libc::flock = unsafe { std::mem::zeroed() };
    lock.l_type = libc::c_short::try_from(kind).unwrap_or_default();
    lock.l_whence = libc::c_short::try_from(libc::SEEK_SET).unwrap_or_default();
    lock.l_start = whole(start)?;
    lock.l_len = whole(len)?;
    Ok(lock)
}

fn call(fd: BorrowedFd<'_>, command: libc::c_int, lock: &mut libc::flock) -> io::Result<()> {
    // SAFETY: the descriptor is open for as long as it is borrowed, and `lock` is a valid `flock` that only this call uses.
    match unsafe { libc::fcntl(fd.as_raw_fd(), command, std::ptr::from_mut(lock)) } {
        -1 => Err(io::Error::last_os_error()),
        _ => Ok(()),
    }
}

/// Takes a shared lock on the byte at an offset.
pub fn hold(fd: BorrowedFd<'_>, offset: u64) -> io::Result<()> {
    call(fd, libc::F_OFD_SETLK, &mut range(libc::F_RDLCK, offset, 1)?)
}

/// Gives it back.
pub fn release(fd: BorrowedFd<'_>, offset: u64) -> io::Result<()> {
    call(fd, libc::F_OFD_SETLK, &mut range(libc::F_UNLCK, offset, 1)?)
}

/// Whether another open file description has a lock on a byte before `end`.
pub fn is_held_below(fd: BorrowedFd<'_>, end: u64) -> io::Result<bool> {
    if end == 0 {
        return Ok(false);
    }
    let mut lock = range(libc::F_WRLCK, 0, end)?;
    call(fd, libc::F_OFD_GETLK, &mut lock)?;
    Ok(i32::from(lock.l_type) != libc::F_UNLCK)
}
