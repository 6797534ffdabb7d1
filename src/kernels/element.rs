//! What numbers are stored in where vectors of floats are computed: floats, and the two formats of
//! 16 bits, widened and narrowed in registers.

use super::isa::Simd;

/// The most lanes of any instruction set.
const MOST_LANES: usize = 16;

/// A number as it is stored. Widening is exact; narrowing goes to the nearest, ties to even.
///
/// # Safety of the pointer methods
/// As for those of [`Simd`], in elements.
#[allow(clippy::missing_safety_doc)] // Stated once, above, for all of them.
pub(super) trait Element: Copy + Send + Sync + 'static {
    /// Zero.
    const ZERO: Self;
    /// Steps of a chain of multiply-adds that one element holds.
    const STEPS: usize = 1;

    /// A vector of them as floats.
    unsafe fn load<S: Simd>(s: S, from: *const Self) -> S::V;

    /// The first `count` as floats, zero in the other lanes.
    #[inline(always)]
    unsafe fn load_part<S: Simd>(s: S, from: *const Self, count: usize) -> S::V {
        debug_assert!(count <= S::LANES && S::LANES <= MOST_LANES);
        let mut whole = [Self::ZERO; MOST_LANES];
        // SAFETY: the caller vouches for `count` elements; the array has room for a vector.
        unsafe {
            std::ptr::copy_nonoverlapping(from, whole.as_mut_ptr(), count);
            Self::load(s, whole.as_ptr())
        }
    }

    /// `sum + a * b`, of all steps that the elements hold.
    ///
    /// # Safety
    /// [`Simd::pairs`] is not `Missing`, if they hold more than one.
    #[inline(always)]
    unsafe fn multiply_add<S: Simd>(s: S, a: S::V, b: S::V, sum: S::V) -> S::V {
        s.fma(a, b, sum)
    }

    /// Narrows all lanes.
    unsafe fn store<S: Simd>(s: S, to: *mut Self, v: S::V);

    /// Narrows the first `count` lanes.
    #[inline(always)]
    unsafe fn store_part<S: Simd>(s: S, to: *mut Self, v: S::V, count: usize) {
        debug_assert!(count <= S::LANES && S::LANES <= MOST_LANES);
        let mut whole = [Self::ZERO; MOST_LANES];
        // SAFETY: the array has room for a vector; the caller vouches for `count` elements.
        unsafe {
            Self::store(s, whole.as_mut_ptr(), v);
            std::ptr::copy_nonoverlapping(whole.as_ptr(), to, count);
        }
    }

    /// Writes eight rows of eight floats as columns, narrowed: see [`Simd::transpose8`].
    #[inline(always)]
    unsafe fn transpose8<S: Simd>(s: S, rows: [*const f32; 8], to: *mut Self, stride: usize) {
        let (mut wide, mut narrow) = ([0.0; 64], [Self::ZERO; 64]);
        // SAFETY: both arrays hold eight rows of eight; the caller vouches for the pointers.
        unsafe {
            s.transpose8(rows, wide.as_mut_ptr(), 8);
            for i in (0..64).step_by(S::LANES) {
                Self::store(s, narrow.as_mut_ptr().add(i), s.load(wide.as_ptr().add(i)));
            }
            for j in 0..8 {
                std::ptr::copy_nonoverlapping(narrow.as_ptr().add(8 * j), to.add(j * stride), 8);
            }
        }
    }
}

impl Element for f32 {
    const ZERO: Self = 0.0;

    #[inline(always)]
    unsafe fn load<S: Simd>(s: S, from: *const Self) -> S::V {
        // SAFETY: the caller's duty is passed on.
        unsafe { s.load(from) }
    }

    #[inline(always)]
    unsafe fn load_part<S: Simd>(s: S, from: *const Self, count: usize) -> S::V {
        // SAFETY: the caller's duty is passed on.
        unsafe { s.load_part(from, count) }
    }

    #[inline(always)]
    unsafe fn store<S: Simd>(s: S, to: *mut Self, v: S::V) {
        // SAFETY: the caller's duty is passed on.
        unsafe { s.store(to, v) }
    }

    #[inline(always)]
    unsafe fn store_part<S: Simd>(s: S, to: *mut Self, v: S::V, count: usize) {
        // SAFETY: the caller's duty is passed on.
        unsafe { s.store_part(to, v, count) }
    }

    #[inline(always)]
    unsafe fn transpose8<S: Simd>(s: S, rows: [*const f32; 8], to: *mut Self, stride: usize) {
        // SAFETY: the caller's duty is passed on.
        unsafe { s.transpose8(rows, to, stride) }
    }
}

/// The bits of a float16.
#[derive(Clone, Copy)]
#[repr(transparent)]
pub(super) struct Float16(u16);

impl Element for Float16 {
    const ZERO: Self = Float16(0);

    #[inline(always)]
    unsafe fn load<S: Simd>(s: S, from: *const Self) -> S::V {
        // SAFETY: the caller's duty is passed on.
        unsafe { s.load_f16(from.cast()) }
    }

    #[inline(always)]
    unsafe fn store<S: Simd>(s: S, to: *mut Self, v: S::V) {
        // SAFETY: the caller's duty is passed on.
        unsafe { s.store_f16(to.cast(), v) }
    }
}

/// The bits of a bfloat16.
#[derive(Clone, Copy)]
#[repr(transparent)]
pub(super) struct Bfloat16(u16);

impl Element for Bfloat16 {
    const ZERO: Self = Bfloat16(0);

    #[inline(always)]
    unsafe fn load<S: Simd>(s: S, from: *const Self) -> S::V {
        // SAFETY: the caller's duty is passed on.
        unsafe { s.load_bf16(from.cast()) }
    }

    #[inline(always)]
    unsafe fn store<S: Simd>(s: S, to: *mut Self, v: S::V) {
        // SAFETY: the caller's duty is passed on.
        unsafe { s.store_bf16(to.cast(), v) }
    }
}

/// `to[i]` is `from[i]`, narrowed.
///
/// # Panics
/// If the lengths differ.
#[inline(always)]
pub(super) fn narrow<S: Simd, E: Element>(s: S, from: &[f32], to: &mut [E]) {
    assert_eq!(from.len(), to.len(), "narrow: lengths");
    let whole = from.len() / S::LANES * S::LANES;
    // SAFETY: vectors up to `whole` and the rest behind it lie in both slices.
    unsafe {
        for i in (0..whole).step_by(S::LANES) {
            E::store(s, to.as_mut_ptr().add(i), s.load(from.as_ptr().add(i)));
        }
        if whole < from.len() {
            let (to, count) = (to.as_mut_ptr().add(whole), from.len() - whole);
            E::store_part(s, to, s.load_part(from.as_ptr().add(whole), count), count);
        }
    }
}

/// `to[i]` is `from[i]`, widened.
///
/// # Panics
/// If the lengths differ.
#[inline(always)]
pub(super) fn widen<S: Simd, E: Element>(s: S, from: &[E], to: &mut [f32]) {
    assert_eq!(from.len(), to.len(), "widen: lengths");
    let whole = from.len() / S::LANES * S::LANES;
    // SAFETY: vectors up to `whole` and the rest behind it lie in both slices.
    unsafe {
        for i in (0..whole).step_by(S::LANES) {
            s.store(to.as_mut_ptr().add(i), E::load(s, from.as_ptr().add(i)));
        }
        if whole < from.len() {
            let (to, count) = (to.as_mut_ptr().add(whole), from.len() - whole);
            s.store_part(to, E::load_part(s, from.as_ptr().add(whole), count), count);
        }
    }
}

/// `to[i]` is `from[i]` after a round trip through `E`.
///
/// # Panics
/// If the lengths differ.
#[inline(always)]
pub(super) fn round<S: Simd, E: Element>(s: S, from: &[f32], to: &mut [f32]) {
    /// A multiple of every vector.
    const AT_ONCE: usize = 64;
    assert_eq!(from.len(), to.len(), "round: lengths");
    let mut stored = [E::ZERO; AT_ONCE];
    for (from, to) in from.chunks(AT_ONCE).zip(to.chunks_mut(AT_ONCE)) {
        let stored = &mut stored[..from.len()];
        narrow(s, from, stored);
        widen(s, stored, to);
    }
}

/// The elements that 16 bits are.
#[inline(always)]
pub(super) fn elements<E: Element>(bits: &[u16]) -> &[E] {
    assert!(size_of::<E>() == 2 && align_of::<E>() == 2);
    // SAFETY: `Float16` and `Bfloat16` are the bits of a `u16`, and any bits are one of them.
    unsafe { std::slice::from_raw_parts(bits.as_ptr().cast(), bits.len()) }
}

/// [`elements`] to be written.
#[inline(always)]
pub(super) fn elements_mut<E: Element>(bits: &mut [u16]) -> &mut [E] {
    assert!(size_of::<E>() == 2 && align_of::<E>() == 2);
    // SAFETY: as for `elements`; the borrow is exclusive.
    unsafe { std::slice::from_raw_parts_mut(bits.as_mut_ptr().cast(), bits.len()) }
}
