//! Scratch space: one aligned buffer a thread and slot, kept between calls, so that no kernel
//! allocates in its steady state. And the bytes of numbers, to read them into.

use std::alloc::{Layout, alloc_zeroed, dealloc, handle_alloc_error};
use std::cell::Cell;
use std::mem::MaybeUninit;
use std::ops::{Deref, DerefMut};
use std::ptr::NonNull;

use super::lasting::{lasting, prefer_huge_pages};
use super::team;

/// A cache line, and the widest vector.
const ALIGNMENT: usize = 64;

/// Floats that start on a cache line.
#[derive(Debug)]
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
        prefer_huge_pages(start.as_ptr().cast(), layout.size());
        AlignedBuffer { start, len }
    }

    /// Where it starts and how many floats it has, for workers that write disjoint parts of it: what
    /// is read or written through this pointer must not be borrowed meanwhile.
    pub fn raw(&self) -> (*mut f32, usize) {
        (self.start.as_ptr(), self.len)
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

/// Elements that one part of [`filled`] writes.
const FILLED_AT_ONCE: usize = 1 << 20;

/// `len` times `value`, in memory that is taken to stay for long. The whole team writes: most of the time goes
/// into pages that the system clears when they are first touched.
pub fn filled<T: Copy + Send + Sync>(len: usize, value: T) -> Vec<T> {
    let mut values = lasting(|| Vec::with_capacity(len));
    team::run_chunks(&mut values.spare_capacity_mut()[..len], FILLED_AT_ONCE, &|_, part| {
        part.fill(MaybeUninit::new(value));
    });
    // SAFETY: the chunks, which cover `len` elements within the capacity, were written above.
    unsafe { values.set_len(len) };
    values
}

/// `len` zeros in memory that is taken to stay for long. No page of it is touched yet.
pub fn zeros<T: Zero>(len: usize) -> Vec<T> {
    lasting(|| T::zeros(len))
}

/// What [`zeros`] makes. (`vec![0; len]` asks for zeros and does not write them, but only where the type is
/// known.)
pub trait Zero: Sized {
    /// `len` zeros.
    fn zeros(len: usize) -> Vec<Self>;
}

impl Zero for f32 {
    fn zeros(len: usize) -> Vec<f32> {
        vec![0.0; len]
    }
}

impl Zero for u16 {
    fn zeros(len: usize) -> Vec<u16> {
        vec![0; len]
    }
}

/// The bytes of floats, as the machine stores them: to read them into.
pub fn bytes_of_floats(values: &mut [f32]) -> &mut [u8] {
    // SAFETY: every float is 4 bytes without padding, any bytes are a float, and `&mut` makes this the
    // only access.
    unsafe { std::slice::from_raw_parts_mut(values.as_mut_ptr().cast(), size_of_val(values)) }
}

/// The bytes of whole numbers of 8 bits.
pub fn bytes_of_int8(values: &mut [i8]) -> &mut [u8] {
    // SAFETY: as for `bytes_of_floats`, of one byte each.
    unsafe { std::slice::from_raw_parts_mut(values.as_mut_ptr().cast(), values.len()) }
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

/// A loan of scratch space: floats of unspecified content.
pub struct Scratch {
    buffer: AlignedBuffer,
    len: usize,
    slot: Slot,
}

/// Lends `len` floats of unspecified content until the loan is dropped. A second loan of the same
/// slot at the same time gets a buffer of its own.
///
/// A value and not a function that takes a closure: kernels must not put vector code in closures
/// (see [`isa`](super::isa)).
pub fn scratch(slot: Slot, len: usize) -> Scratch {
    let buffer = SLOTS.with(|slots| slots[slot as usize].take());
    let buffer = if buffer.len() >= len { buffer } else { AlignedBuffer::zeroed(len) };
    Scratch { buffer, len, slot }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        if self.buffer.len() <= KEPT_LEN {
            let buffer = std::mem::take(&mut self.buffer);
            // While the thread ends there is nobody to keep it for.
            let _ = SLOTS.try_with(|slots| slots[self.slot as usize].set(buffer));
        }
    }
}

impl Deref for Scratch {
    type Target = [f32];

    fn deref(&self) -> &[f32] {
        &self.buffer[..self.len]
    }
}

impl DerefMut for Scratch {
    fn deref_mut(&mut self) -> &mut [f32] {
        &mut self.buffer[..self.len]
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
    fn filled_memory_is_full() {
        for len in [0, 1, FILLED_AT_ONCE, FILLED_AT_ONCE + 1] {
            let values = filled(len, 7_u8);
            assert!(values.len() == len && values.iter().all(|value| *value == 7));
        }
    }

    #[test]
    fn a_loan_keeps_its_buffer_and_a_nested_one_is_apart() {
        let address = {
            let mut a = scratch(Slot::Work, 100);
            a.fill(1.0);
            scratch(Slot::Work, 100).fill(2.0);
            assert!(a.iter().all(|x| *x == 1.0));
            a.as_ptr().addr()
        };
        let again = scratch(Slot::Work, 50);
        assert_eq!((again.len(), again.as_ptr().addr()), (50, address));
    }
}
