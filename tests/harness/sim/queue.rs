//! Operations in flight: any order of execution, any order of completion, and a power cut in between.
//!
//! A submitted operation runs in some later `wait`; until it does, a power cut finds it done, torn or not begun. The
//! files of the simulated disk are told by their address, which is where the handle lives.

use super::world::{Flying, FlyingOp, errno};
use super::{Handle, OpKind, Shared};
use mailstrata_engine::disk::{Buffer, Done, File, Op, Queue};
use std::io;
use std::sync::Arc;

struct Mine {
    /// Key in the world's table of operations in flight.
    id: u64,
    token: u64,
    buffer: Option<Buffer>,
    from: usize,
    len: usize,
    handle: Handle,
    file: Arc<dyn File>,
}

/// See the module's text.
pub struct SimQueue {
    shared: Arc<Shared>,
    flying: Vec<Mine>,
}

/// Address of what a handle points to.
pub fn address(file: &Arc<dyn File>) -> usize {
    Arc::as_ptr(file).cast::<()>() as usize
}

impl SimQueue {
    /// A queue of a disk.
    pub fn new(shared: Arc<Shared>) -> Self {
        Self { shared, flying: Vec::new() }
    }

    /// Runs one operation and says how it went.
    fn run(&self, mine: &Mine) -> io::Result<usize> {
        let mut inner = self.shared.lock();
        if inner.dead {
            // It stays in flight: whether it happened is for the power cut to say.
            return Err(errno(libc::EIO));
        }
        let flying = inner.world.flying.remove(&mine.id).ok_or_else(|| errno(libc::EIO))?;
        match (flying.op, &mine.buffer) {
            (FlyingOp::Write { offset, durable, .. }, Some(buffer)) => {
                inner.write(mine.handle, &buffer[mine.from..mine.from + mine.len], offset, durable)
            }
            _ => inner.sync(flying.file).map(|()| 0),
        }
    }
}

impl Queue for SimQueue {
    fn submit(&mut self, token: u64, file: &Arc<dyn File>, op: Op) -> io::Result<()> {
        let mut inner = self.shared.lock();
        if let Some(super::Effect::Error(code)) = inner.begin(OpKind::Submit)? {
            return Err(errno(code));
        }
        let handle = *inner.addresses.get(&address(file)).ok_or_else(|| errno(libc::EBADF))?;
        let (op, buffer, from, len) = match op {
            Op::Write { buffer, from, len, offset, durable } => {
                let bytes = buffer.get(from..from + len).ok_or_else(|| errno(libc::EINVAL))?;
                handle.aligned(bytes, offset)?;
                handle.writable()?;
                (FlyingOp::Write { bytes: bytes.into(), offset, durable }, Some(buffer), from, len)
            }
            Op::Sync => (FlyingOp::Sync, None, 0, 0),
        };
        inner.next_handle += 1;
        let id = inner.next_handle;
        inner.world.flying.insert(id, Flying { file: handle.file, op });
        inner.snapshot();
        drop(inner);
        self.flying.push(Mine { id, token, buffer, from, len, handle, file: file.clone() });
        Ok(())
    }

    fn wait(&mut self, done: &mut Vec<Done>) -> io::Result<()> {
        if self.flying.is_empty() {
            return Ok(());
        }
        let count = {
            let mut inner = self.shared.lock();
            match inner.begin(OpKind::Wait) {
                Ok(Some(super::Effect::Error(code))) => return Err(errno(code)),
                // With the power off all that is in flight comes back with an error.
                Ok(_) if !inner.dead => {
                    inner.rng.shuffle(&mut self.flying);
                    1 + inner.rng.index(self.flying.len())
                }
                _ => self.flying.len(),
            }
        };
        let keep = self.flying.len() - count;
        for mine in self.flying.split_off(keep) {
            let result = self.run(&mine);
            done.push(Done { token: mine.token, result, buffer: mine.buffer });
            drop(mine.file);
        }
        Ok(())
    }
}

impl Drop for SimQueue {
    fn drop(&mut self) {
        // The kernel finishes what it was given, or the power goes first.
        for mine in std::mem::take(&mut self.flying) {
            let runs = {
                let mut inner = self.shared.lock();
                !inner.dead && inner.rng.percent(50)
            };
            if runs {
                drop(self.run(&mine));
            } else if !self.shared.lock().dead {
                self.shared.lock().world.flying.remove(&mine.id);
            }
        }
    }
}
