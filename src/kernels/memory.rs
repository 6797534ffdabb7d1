//! Scratch space: one aligned buffer a thread and slot, kept between calls, so that no kernel
//! allocates in its steady state.

use std::alloc::{Layout, alloc_zeroed, dealloc, handle_alloc_error};
use std::cell::Cell;
use std::ops::{Deref, DerefMut};
use std::ptr::NonNull;

/// A cache line, and the widest vector.
const ALIGNMENT: usize = 64;

/// Floats that start on a cache line.
pub struct AlignedBuffer {
    start: NonNull<f32>,
    len: usize,
}

// SAFETY: the buffer owns its memory as a `Vec<f32>` does.
unsafe impl Send for AlignedBuffer {}
// SAFETY: as above; shared access only reads.
unsafe impl Sync for AlignedBuffer {}

impl AlignedBuffer {
    /// `len` zeros.
    pub fn zeroed(len: usize) -> Self {
        if len == 0 {
            return AlignedBuffer { start: NonNull::dangling(), len };
        }
        let layout = Self::layout(len);
        // SAFETY: the layout has a size above zero.
        let start = unsafe { alloc_zeroed(layout) }.cast::<f32>();
        let Some(start) = NonNull::new(start) else { handle_alloc_error(layout) };
        AlignedBuffer { start, len }
    }

    fn layout(len: usize) -> Layout {
        let bytes = len.checked_mul(size_of::<f32>()).expect("buffer above the address space");
        Layout::from_size_align(bytes, ALIGNMENT).expect("buffer above the address space")
    }
}

impl Default for AlignedBuffer {
    fn default() -> Self {
        AlignedBuffer::zeroed(0)
    }
}

impl Drop for AlignedBuffer {
    fn drop(&mut self) {
        if self.len > 0 {
            // SAFETY: allocated in `zeroed` with this layout.
            unsafe { dealloc(self.start.as_ptr().cast(), Self::layout(self.len)) }
        }
    }
}

impl Deref for AlignedBuffer {
    type Target = [f32];

    fn deref(&self) -> &[f32] {
        // SAFETY: `len` initialised floats start here (none if `len` is 0).
        unsafe { std::slice::from_raw_parts(self.start.as_ptr(), self.len) }
    }
}

impl DerefMut for AlignedBuffer {
    fn deref_mut(&mut self) -> &mut [f32] {
        // SAFETY: as for `deref`, and `&mut self` makes it the only access.
        unsafe { std::slice::from_raw_parts_mut(self.start.as_ptr(), self.len) }
    }
}

/// Buffers above this many floats (16 MiB) are given back after use instead of kept.
const KEPT_LEN: usize = 4 << 20;

/// What the scratch space is for: two uses at a time need two slots.
#[derive(Clone, Copy, Debug)]
pub enum Slot {
    /// Packed left operand of a product.
    Left,
    /// Packed right operand of a product.
    Right,
    /// Anything else a kernel needs.
    Work,
}

thread_local! {
    static SLOTS: [Cell<AlignedBuffer>; 3] = Default::default();
}

/// Lends `len` floats of unspecified content to `work`. A nested loan of the same slot gets a
/// buffer of its own.
#[inline(always)]
pub fn with_scratch<R>(slot: Slot, len: usize, work: impl FnOnce(&mut [f32]) -> R) -> R {
    let mut buffer = take(slot, len);
    let result = work(&mut buffer[..len]);
    give_back(slot, buffer);
    result
}

/// The slot's buffer, at least `len` long.
fn take(slot: Slot, len: usize) -> AlignedBuffer {
    let buffer = SLOTS.with(|slots| slots[slot as usize].take());
    if buffer.len() >= len { buffer } else { AlignedBuffer::zeroed(len) }
}

/// Keeps the buffer for the next loan.
fn give_back(slot: Slot, buffer: AlignedBuffer) {
    if buffer.len() <= KEPT_LEN {
        SLOTS.with(|slots| slots[slot as usize].set(buffer));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buffers_are_aligned_zeroed_and_writable() {
        for len in [0, 1, 15, 16, 17, 1000] {
            let mut buffer = AlignedBuffer::zeroed(len);
            assert_eq!(buffer.len(), len);
            assert!(buffer.iter().all(|x| *x == 0.0));
            buffer.fill(2.0);
            assert_eq!(buffer.iter().sum::<f32>(), 2.0 * len as f32);
            assert!(len == 0 || buffer.as_ptr().addr().is_multiple_of(ALIGNMENT));
        }
    }

    #[test]
    fn a_loan_keeps_its_buffer_and_a_nested_one_is_apart() {
        let first = with_scratch(Slot::Work, 100, |a| {
            a.fill(1.0);
            with_scratch(Slot::Work, 100, |b| b.fill(2.0));
            assert!(a.iter().all(|x| *x == 1.0));
            a.as_ptr().addr()
        });
        assert_eq!(first, with_scratch(Slot::Work, 50, |a| a.as_ptr().addr()));
    }
}
