//! SIGINT and SIGTERM: a flag, and an input that ends when they come.

use crate::exit::Code;
use rustix::event::{PollFd, PollFlags, poll};
use signal_hook::consts::{SIGINT, SIGTERM};
use std::io::{self, Read};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

/// Set once a signal came.
#[derive(Clone)]
pub struct Signals {
    pub stop: Arc<AtomicBool>,
    which: Arc<AtomicUsize>,
    wake: Arc<UnixStream>,
}

impl Signals {
    /// Takes both signals over. A second one ends the process at once, as without us.
    pub fn take() -> io::Result<Self> {
        let stop = Arc::new(AtomicBool::new(false));
        let which = Arc::new(AtomicUsize::new(0));
        let (read, write) = UnixStream::pair()?;
        for signal in [SIGINT, SIGTERM] {
            signal_hook::flag::register_conditional_default(signal, stop.clone())?;
            signal_hook::flag::register_usize(signal, which.clone(), signal.unsigned_abs() as usize)?;
            signal_hook::low_level::pipe::register(signal, write.try_clone()?)?;
            signal_hook::flag::register(signal, stop.clone())?;
        }
        Ok(Self { stop, which, wake: Arc::new(read) })
    }

    /// Whether one came.
    #[must_use]
    pub fn came(&self) -> bool {
        self.stop.load(Ordering::Relaxed)
    }

    /// The exit code for the one that came.
    #[must_use]
    pub fn code(&self) -> Option<Code> {
        match self.which.load(Ordering::Relaxed) {
            0 => None,
            n if n == SIGTERM.unsigned_abs() as usize => Some(Code::Terminated),
            _ => Some(Code::Interrupted),
        }
    }
}

/// An input that ends when a signal comes.
pub struct Interruptible {
    input: OwnedFd,
    signals: Signals,
}

impl Interruptible {
    /// Wraps an input.
    pub fn new(input: impl Into<OwnedFd>, signals: &Signals) -> Self {
        Self { input: input.into(), signals: signals.clone() }
    }
}

impl Read for Interruptible {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        loop {
            if self.signals.came() {
                return Ok(0);
            }
            let mut fds = [
                PollFd::from_borrowed_fd(self.input.as_fd(), PollFlags::IN),
                PollFd::from_borrowed_fd(self.signals.wake.as_fd(), PollFlags::IN),
            ];
            match poll(&mut fds, None) {
                Err(rustix::io::Errno::INTR) => continue,
                other => other?,
            };
            if fds[0].revents().is_empty() {
                continue;
            }
            match rustix::io::read(&self.input, &mut *buf) {
                Err(rustix::io::Errno::INTR) => {}
                other => return Ok(other?),
            }
        }
    }
}
