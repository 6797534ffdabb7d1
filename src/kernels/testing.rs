//! Test only: every instruction set the machine has, awkward values, comparison in ULPs, and
//! failures collected before they are told.

use std::ops::{Deref, DerefMut};

use super::isa::{self, Isa, forced};

/// Runs `check` once on every instruction set the machine has, with that one in use.
pub fn on_every_isa(mut check: impl FnMut(Isa)) {
    for isa in isa::available() {
        forced::with(isa, || check(isa));
    }
}

/// [`on_every_isa`], of those that compute with pairs of bfloat16 numbers.
pub fn with_pairs(mut check: impl FnMut(Isa)) {
    on_every_isa(|isa| {
        if isa::pairs_of(isa) != isa::Pairs::Missing {
            check(isa);
        }
    });
}

/// `len` numbers of mixed sign in (-1, 1), the same for the same seed (xorshift).
pub fn noise(len: usize, seed: u64) -> Vec<f32> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 40) as f32 / (1_u64 << 23) as f32 - 1.0
    };
    (0..len).map(|_| next()).collect()
}

/// Which end of a slice lies against a page that nobody may touch.
#[derive(Clone, Copy)]
pub enum Side {
    /// Its first element follows such a page.
    Start,
    /// Such a page follows its last element.
    End,
}

/// A slice between two pages that nobody may touch: the process ends if somebody does.
pub struct Guarded<T: Copy> {
    pages: *mut libc::c_void,
    bytes: usize,
    start: *mut T,
    len: usize,
}

impl<T: Copy> Guarded<T> {
    /// A copy of `values` against one of the pages, or somewhere between them.
    pub fn new(values: &[T], side: Option<Side>) -> Self {
        let page = 65_536; // A multiple of what processors have.
        let size = size_of_val(values);
        let room = size.next_multiple_of(page).max(page);
        let bytes = page + room + page;
        let offset = page
            + match side {
                Some(Side::Start) => 0,
                Some(Side::End) => room - size,
                None => (room - size) / 2 / align_of::<T>() * align_of::<T>(),
            };
        // SAFETY: fresh pages, of which those between the outer two may be touched; the offset is a
        // multiple of the element's alignment and leaves room for all elements.
        unsafe {
            let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS;
            let pages = libc::mmap(std::ptr::null_mut(), bytes, libc::PROT_NONE, flags, -1, 0);
            assert!(pages != libc::MAP_FAILED, "no memory for guarded pages");
            let inner = pages.byte_add(page);
            assert_eq!(libc::mprotect(inner, room, libc::PROT_READ | libc::PROT_WRITE), 0);
            let start = pages.byte_add(offset).cast::<T>();
            start.copy_from_nonoverlapping(values.as_ptr(), values.len());
            Guarded { pages, bytes, start, len: values.len() }
        }
    }
}

impl<T: Copy> Drop for Guarded<T> {
    fn drop(&mut self) {
        // SAFETY: mapped in `new` with this size.
        unsafe { libc::munmap(self.pages, self.bytes) };
    }
}

impl<T: Copy> Deref for Guarded<T> {
    type Target = [T];

    fn deref(&self) -> &[T] {
        // SAFETY: `len` elements were written here.
        unsafe { std::slice::from_raw_parts(self.start, self.len) }
    }
}

impl<T: Copy> DerefMut for Guarded<T> {
    fn deref_mut(&mut self) -> &mut [T] {
        // SAFETY: as for `deref`, and `&mut self` makes it the only access.
        unsafe { std::slice::from_raw_parts_mut(self.start, self.len) }
    }
}

/// Distance of `got` from the exact value in units of the last place of the nearest `f32` (of the
/// smallest normal number below it; 0 if both are NaN or the same infinity).
pub fn ulp_error(got: f32, exact: f64) -> f64 {
    let nearest = exact as f32;
    if got == nearest || (got.is_nan() && exact.is_nan()) {
        return if got.is_finite() { (f64::from(got) - exact).abs() / ulp(nearest) } else { 0.0 };
    }
    if !got.is_finite() || !nearest.is_finite() {
        return f64::INFINITY;
    }
    (f64::from(got) - exact).abs() / ulp(nearest)
}

/// One unit in the last place of `x`.
fn ulp(x: f32) -> f64 {
    let exponent = (x.to_bits() >> 23 & 0xff).max(1) as i32;
    2.0_f64.powi(exponent - 127 - 23)
}

/// Bit patterns, for a comparison that tells -0 from 0 and one NaN from another.
pub fn bits(values: &[f32]) -> Vec<u32> {
    values.iter().map(|x| x.to_bits()).collect()
}

/// Panics unless both hold the same bits; tells the first three places that differ and how many do.
#[track_caller]
pub fn assert_same_bits(got: &[f32], expected: &[f32], what: &str) {
    assert_eq!(got.len(), expected.len(), "{what}: lengths differ");
    let mut failures = Failures::default();
    for (i, (g, e)) in got.iter().zip(expected).enumerate() {
        failures
            .check(g.to_bits() == e.to_bits(), || format!("{what} [{i}]: {g:e}, expected {e:e}"));
    }
    failures.finish();
}

/// Collects failures: the first three in full, then their number.
#[derive(Default)]
pub struct Failures {
    told: Vec<String>,
    count: usize,
    checked: usize,
}

impl Failures {
    /// Records a failure unless `good`.
    pub fn check(&mut self, good: bool, message: impl FnOnce() -> String) {
        self.checked += 1;
        if !good {
            self.count += 1;
            if self.told.len() < 3 {
                self.told.push(message());
            }
        }
    }

    /// Panics if anything failed.
    #[track_caller]
    pub fn finish(self) {
        assert!(
            self.count == 0,
            "{} of {} checks failed:\n{}",
            self.count,
            self.checked,
            self.told.join("\n")
        );
    }
}
