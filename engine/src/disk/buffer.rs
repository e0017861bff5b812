//! Memory that O_DIRECT takes: aligned to 4096 bytes, zeroed.

use mailstrata_format::BLOCK;
use std::alloc::{Layout, alloc_zeroed, dealloc, handle_alloc_error};
use std::ops::{Deref, DerefMut};
use std::ptr::NonNull;

/// A zeroed block of memory, aligned to 4096 bytes, its length a multiple of it.
pub struct Buffer {
    start: NonNull<u8>,
    len: usize,
}

// SAFETY: the memory is owned by the buffer alone and has no thread affinity.
unsafe impl Send for Buffer {}
// SAFETY: shared access is read-only (`Deref`); writing needs `&mut`.
unsafe impl Sync for Buffer {}

impl Buffer {
    /// A buffer of at least `len` bytes (and at least one block), rounded up to a whole number of blocks.
    #[must_use]
    pub fn new(len: usize) -> Self {
        let len = len.max(1).next_multiple_of(BLOCK);
        let layout = Self::layout(len);
        // SAFETY: the layout's size is at least one block, so not zero.
        let start = unsafe { alloc_zeroed(layout) };
        match NonNull::new(start) {
            Some(start) => Self { start, len },
            None => handle_alloc_error(layout),
        }
    }

    fn layout(len: usize) -> Layout {
        // A length that does not fit is an allocation nobody could serve: treated as such.
        Layout::from_size_align(len, BLOCK).unwrap_or_else(|_| handle_alloc_error(Layout::new::<u8>()))
    }
}

impl Deref for Buffer {
    type Target = [u8];
    fn deref(&self) -> &[u8] {
        // SAFETY: `start` points to `len` initialised bytes that live as long as `self`.
        unsafe { std::slice::from_raw_parts(self.start.as_ptr(), self.len) }
    }
}

impl DerefMut for Buffer {
    fn deref_mut(&mut self) -> &mut [u8] {
        // SAFETY: as in `deref`, and `&mut self` makes the access exclusive.
        unsafe { std::slice::from_raw_parts_mut(self.start.as_ptr(), self.len) }
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        // SAFETY: allocated in `new` with this very layout.
        unsafe { dealloc(self.start.as_ptr(), Self::layout(self.len)) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buffers_are_aligned_zeroed_and_whole_blocks() {
        for len in [0, 1, 4096, 4097, 1 << 20] {
            let b = Buffer::new(len);
            assert_eq!(b.as_ptr() as usize % BLOCK, 0);
            assert_eq!(b.len() % BLOCK, 0);
            assert!(b.len() >= len.max(1) && b.iter().all(|x| *x == 0));
        }
    }
}
