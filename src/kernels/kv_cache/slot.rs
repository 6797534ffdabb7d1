//! The memory of one history.

use std::slice;

use super::super::attention::PANEL;
use super::super::element::Element;
use super::super::memory::AlignedBuffer;

/// One history.
#[derive(Debug, Default)]
pub(super) struct Slot {
    /// `[head][panel][head_dim][PANEL]` elements
    pub(super) keys: AlignedBuffer,
    /// `[head][position][head_dim]` elements
    pub(super) values: AlignedBuffer,
    pub(super) capacity: usize,
}

impl Slot {
    pub(super) fn padded(&self) -> usize {
        self.capacity.next_multiple_of(PANEL)
    }

    /// Keys and values of one head.
    #[inline(always)]
    pub(super) fn head<E: Element>(&self, head: usize, head_dim: usize) -> (&[E], &[E]) {
        let piece = |buffer, len| {
            // SAFETY: there are so many elements, and any bits are one; who writes a head through a
            // shared borrow has promised that nobody refers to it.
            unsafe { slice::from_raw_parts(piece::<E>(buffer, head, len), len) }
        };
        (piece(&self.keys, self.padded() * head_dim), piece(&self.values, self.capacity * head_dim))
    }

    /// Keys and values of one head, to be written.
    ///
    /// # Safety
    /// - Nobody else refers to them, or to the whole buffers, while the slices live.
    #[inline(always)]
    #[allow(clippy::mut_from_ref)] // The contract above makes it sound.
    pub(super) unsafe fn head_mut<E: Element>(
        &self,
        head: usize,
        head_dim: usize,
    ) -> (&mut [E], &mut [E]) {
        let piece = |buffer, len| {
            // SAFETY: there are so many elements, and any bits are one; not aliased by the caller's
            // promise.
            unsafe { slice::from_raw_parts_mut(piece::<E>(buffer, head, len), len) }
        };
        (piece(&self.keys, self.padded() * head_dim), piece(&self.values, self.capacity * head_dim))
    }

    /// Copies the first `length` positions of `origin`.
    pub(super) fn copy_from<E: Element>(
        &mut self,
        origin: &Slot,
        (heads, head_dim): (usize, usize),
        length: usize,
    ) {
        let key_len = length.next_multiple_of(PANEL) * head_dim;
        let value_len = length * head_dim;
        for head in 0..heads {
            let (keys, values) = origin.head::<E>(head, head_dim);
            let to = head * self.padded() * head_dim;
            elements_mut(&mut self.keys)[to..to + key_len].copy_from_slice(&keys[..key_len]);
            let to = head * self.capacity * head_dim;
            let to = &mut elements_mut(&mut self.values)[to..to + value_len];
            to.copy_from_slice(&values[..value_len]);
        }
    }
}

/// Where piece `index` of `len` elements begins in a buffer, which is aligned for them.
#[inline(always)]
pub(super) fn piece<E: Element>(buffer: &AlignedBuffer, index: usize, len: usize) -> *mut E {
    let (start, floats) = buffer.raw();
    assert!((index + 1) * len * size_of::<E>() <= floats * size_of::<f32>());
    start.cast::<E>().wrapping_add(index * len)
}

/// A buffer as elements to be written.
#[inline(always)]
fn elements_mut<E: Element>(buffer: &mut AlignedBuffer) -> &mut [E] {
    let len = size_of_val(&**buffer) / size_of::<E>();
    // SAFETY: elements are numbers of 16 or 32 bits, of which any bits are one; the buffer is aligned
    // for floats, and the borrow goes on.
    unsafe { slice::from_raw_parts_mut(buffer.as_mut_ptr().cast(), len) }
}
