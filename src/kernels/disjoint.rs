//! A slice that several workers write at once, each its own elements.

use std::marker::PhantomData;

/// A mutable slice handed out in pieces. Splitting by rows is `chunks_mut`'s work; this is for
/// pieces that interleave (one head's columns of every row) or that workers choose by index.
pub(crate) struct Disjoint<'a, T> {
    start: *mut T,
    len: usize,
    owner: PhantomData<&'a mut [T]>,
}

// SAFETY: the pointer stands for an exclusive borrow, and `slice` obliges its callers to keep the
// pieces apart, so sharing it moves nothing but `T` values between threads.
unsafe impl<T: Send> Sync for Disjoint<'_, T> {}
// SAFETY: as above.
unsafe impl<T: Send> Send for Disjoint<'_, T> {}

impl<'a, T> Disjoint<'a, T> {
    /// Takes over `slice` until the value is dropped.
    pub(crate) fn new(slice: &'a mut [T]) -> Self {
        Self { start: slice.as_mut_ptr(), len: slice.len(), owner: PhantomData }
    }

    /// `len` elements from `start`. Panics if they lie outside of the slice.
    ///
    /// # Safety
    /// - No other live piece overlaps these elements.
    #[inline(always)]
    #[allow(clippy::mut_from_ref)] // The point of this type; the contract above makes it sound.
    pub(crate) unsafe fn slice(&self, start: usize, len: usize) -> &'a mut [T] {
        assert!(start <= self.len && len <= self.len - start);
        // SAFETY: in bounds by the line above, not aliased by the caller's promise.
        unsafe { std::slice::from_raw_parts_mut(self.start.add(start), len) }
    }

    /// A pointer to `len` elements from `start`, for pieces with gaps that other workers write.
    /// Panics if they lie outside of the slice.
    #[inline(always)]
    pub(crate) fn pointer(&self, start: usize, len: usize) -> *mut T {
        assert!(start <= self.len && len <= self.len - start);
        // SAFETY: in bounds by the line above.
        unsafe { self.start.add(start) }
    }
}
