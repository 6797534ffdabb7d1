//! The one product attention is made of: a few rows times a matrix, in registers.

use super::super::element::Element;
use super::super::isa::Simd;
use super::PANEL;

/// Bytes of a cache line.
const LINE: usize = 64;

/// Elements `start[row * row_stride + step * step_stride]` of the left factor: floats, or where the right
/// factor consists of pairs, pairs in the bits of floats.
#[derive(Clone, Copy)]
pub(super) struct Left {
    pub start: *const f32,
    pub row_stride: usize,
    pub step_stride: usize,
}

/// Rows of values, `row_stride` apart; columns lie side by side, [`PANEL`] of them, and the next ones
/// `panel_stride` on.
#[derive(Clone, Copy)]
pub(super) struct Right<E> {
    start: *const E,
    row_stride: usize,
    panel_stride: usize,
    /// What is read after this product, at any address.
    next: *const [E],
}

/// Bytes between what is read and what memory is asked for: what it gives until then, and not so much
/// that it would be gone again.
const AHEAD: usize = 12 << 10;

impl<E> Right<E> {
    /// Whole rows, `row_stride` apart.
    pub(super) fn rows(start: *const E, row_stride: usize) -> Self {
        let next = std::ptr::slice_from_raw_parts(start, 0);
        Right { start, row_stride, panel_stride: PANEL, next }
    }

    /// Panels `[panel][depth][PANEL]`.
    pub(super) fn panels(start: *const E, depth: usize) -> Self {
        Right { row_stride: PANEL, panel_stride: depth * PANEL, ..Self::rows(start, PANEL) }
    }

    /// The same, after which `next` is read.
    pub(super) fn then(self, next: *const [E]) -> Self {
        Right { next, ..self }
    }

    /// What to ask memory for while element `at` of this factor's `len`, which lie side by side, is read.
    #[inline(always)]
    fn ahead(&self, at: usize, len: usize) -> *const E {
        let at = at + len.min(AHEAD / size_of::<E>());
        let beyond = at.saturating_sub(len).min(self.next.len());
        if at < len {
            self.start.wrapping_add(at)
        } else {
            self.next.cast::<E>().wrapping_add(beyond)
        }
    }

    /// Where `column` of the first row lies.
    #[inline(always)]
    fn column(&self, column: usize) -> *const E {
        self.start.wrapping_add(column / PANEL * self.panel_stride + column % PANEL)
    }
}

/// Where the product goes.
#[derive(Clone, Copy)]
pub(super) struct Output {
    pub start: *mut f32,
    pub row_stride: usize,
    /// Whether the chains go on from the values already there, instead of from 0.
    pub accumulate: bool,
}

/// `out[r][j] = (chain over step ascending of fma(left[r][step], right[step][j])) * factors[r]`
/// for `R` rows and j in 0..`n`, with pairs for two steps where `E` is one. `FAR`: the right factor, whose
/// rows lie side by side, comes from memory, and is asked for in advance, and so is what is read after it.
///
/// # Safety
/// - [`Simd::pairs`] is not `Missing`, if elements are pairs.
/// - `left` is readable for `R` rows and `depth` steps, `right` for `depth` rows of `n` values.
/// - `out` is writable for `R` rows of `n` values (readable if it accumulates) and overlaps none
///   of what is read.
#[inline(always)]
pub(super) unsafe fn product<S: Simd, E: Element, const R: usize, const FAR: bool>(
    s: S,
    left: Left,
    right: Right<E>,
    depth: usize,
    n: usize,
    out: Output,
    factors: Option<[f32; R]>,
) {
    // More rows than the instruction set has registers for are not even compiled.
    if R > 6 && R > S::TILE_ROWS {
        return;
    }
    let whole = Product { left, right, depth, n, out, factors };
    let mut column = 0;
    // SAFETY: every block of columns lies in 0..n, so the caller's promise covers it.
    unsafe {
        if R <= 2 || R * 4 <= S::TILE_ROWS * S::TILE_VECTORS {
            // Few rows: more columns keep the fma units busy while each chain waits.
            while column + 4 * S::LANES <= n {
                whole.block::<S, FAR, 4, false>(s, column, 0);
                column += 4 * S::LANES;
            }
        }
        while column + 2 * S::LANES <= n {
            whole.block::<S, FAR, 2, false>(s, column, 0);
            column += 2 * S::LANES;
        }
        if column + S::LANES <= n {
            whole.block::<S, FAR, 1, false>(s, column, 0);
            column += S::LANES;
        }
        if column < n {
            whole.block::<S, FAR, 1, true>(s, column, n - column);
        }
    }
}

/// The arguments of [`product`].
struct Product<E, const R: usize> {
    left: Left,
    right: Right<E>,
    depth: usize,
    n: usize,
    out: Output,
    factors: Option<[f32; R]>,
}

impl<E: Element, const R: usize> Product<E, R> {
    /// The product for the `C` vectors of columns from `column`, or (`PART`) for `count` columns,
    /// fewer than a vector.
    ///
    /// # Safety
    /// As [`product`], for these columns.
    #[inline(always)]
    unsafe fn block<S: Simd, const FAR: bool, const C: usize, const PART: bool>(
        &self,
        s: S,
        column: usize,
        count: usize,
    ) {
        let Product { out, .. } = self;
        let mut sums = [[s.zero(); C]; R];
        // SAFETY: the caller vouches for every element of these rows, steps and columns; any address
        // may be asked for in advance.
        unsafe {
            if out.accumulate {
                for (r, sums) in sums.iter_mut().enumerate() {
                    for (c, sum) in sums.iter_mut().enumerate() {
                        let from = out.start.add(r * out.row_stride + column + c * S::LANES);
                        *sum = if PART { s.load_part(from, count) } else { s.load(from) };
                    }
                }
            }
            self.chain::<S, FAR, C, PART>(s, column, count, &mut sums);
            for (r, sums) in sums.iter().enumerate() {
                for (c, &sum) in sums.iter().enumerate() {
                    let sum = match self.factors {
                        Some(factors) => s.mul(sum, s.splat(factors[r])),
                        None => sum,
                    };
                    let to = out.start.add(r * out.row_stride + column + c * S::LANES);
                    if PART { s.store_part(to, sum, count) } else { s.store(to, sum) }
                }
            }
        }
    }

    /// Goes on with the chains of a block.
    ///
    /// # Safety
    /// As [`product`], for these columns.
    #[inline(always)]
    unsafe fn chain<S: Simd, const FAR: bool, const C: usize, const PART: bool>(
        &self,
        s: S,
        column: usize,
        count: usize,
        sums: &mut [[S::V; C]; R],
    ) {
        let Product { left, right, depth, n, .. } = self;
        let mut from = [right.start; C];
        for (c, from) in from.iter_mut().enumerate() {
            *from = right.column(column + c * S::LANES);
        }
        for step in 0..*depth {
            if FAR {
                let ahead = right.ahead(column * depth + step * C * S::LANES, depth * n);
                for line in (0..C * S::LANES).step_by(LINE / size_of::<E>()) {
                    s.prefetch(ahead.wrapping_add(line).cast());
                }
            }
            let mut values = [s.zero(); C];
            // SAFETY: the caller vouches for every element of these rows, steps and columns.
            unsafe {
                for (value, from) in values.iter_mut().zip(from) {
                    let from = from.add(step * right.row_stride);
                    *value = if PART { E::load_part(s, from, count) } else { E::load(s, from) };
                }
                for (r, sums) in sums.iter_mut().enumerate() {
                    let weight = left.start.add(r * left.row_stride + step * left.step_stride);
                    let weight = s.splat(*weight);
                    for (sum, value) in sums.iter_mut().zip(values) {
                        *sum = E::multiply_add(s, weight, value, *sum);
                    }
                }
            }
        }
    }
}
