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
    next: *const E,
}

/// What a product asks memory for in advance: nothing, since all is near.
pub(super) const NEAR: u8 = 0;
/// The next columns, and at their end what is read after the product.
pub(super) const FAR_COLUMNS: u8 = 1;
/// Rows some way ahead, and at their end what is read after the product.
pub(super) const FAR_ROWS: u8 = 2;

/// Rows to ask memory for in advance.
const ROWS_AHEAD: usize = 32;

impl<E> Right<E> {
    /// Whole rows, `row_stride` apart.
    pub(super) fn rows(start: *const E, row_stride: usize) -> Self {
        Right { start, row_stride, panel_stride: PANEL, next: start }
    }

    /// Panels `[panel][depth][PANEL]`.
    pub(super) fn panels(start: *const E, depth: usize) -> Self {
        Right { start, row_stride: PANEL, panel_stride: depth * PANEL, next: start }
    }

    /// The same, after which `next` is read.
    pub(super) fn then(self, next: *const E) -> Self {
        Right { next, ..self }
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
/// for `R` rows and j in 0..`n`, with pairs for two steps where `E` is one; `AHEAD` is one of [`NEAR`], [`FAR_COLUMNS`] and [`FAR_ROWS`].
///
/// # Safety
/// - [`Simd::pairs`] is not `Missing`, if elements are pairs.
/// - `left` is readable for `R` rows and `depth` steps, `right` for `depth` rows of `n` values.
/// - `out` is writable for `R` rows of `n` values (readable if it accumulates) and overlaps none
///   of what is read.
#[inline(always)]
pub(super) unsafe fn product<S: Simd, E: Element, const R: usize, const AHEAD: u8>(
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
                whole.block::<S, AHEAD, 4, false>(s, column, 0);
                column += 4 * S::LANES;
            }
        }
        while column + 2 * S::LANES <= n {
            whole.block::<S, AHEAD, 2, false>(s, column, 0);
            column += 2 * S::LANES;
        }
        if column + S::LANES <= n {
            whole.block::<S, AHEAD, 1, false>(s, column, 0);
            column += S::LANES;
        }
        if column < n {
            whole.block::<S, AHEAD, 1, true>(s, column, n - column);
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
    unsafe fn block<S: Simd, const AHEAD: u8, const C: usize, const PART: bool>(
        &self,
        s: S,
        column: usize,
        count: usize,
    ) {
        let Product { right, depth, out, .. } = self;
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
            let (all, place) = (0..*depth, (column, count));
            if AHEAD == NEAR {
                self.chain::<S, C, PART, false>(s, place, all, right.start, 0, &mut sums);
            } else if AHEAD == FAR_COLUMNS {
                let end = column + C * S::LANES;
                let ahead = if end < self.n { right.column(end) } else { right.next };
                self.chain::<S, C, PART, true>(s, place, all, ahead, C * S::LANES, &mut sums);
            } else {
                let (split, stride) = (depth.saturating_sub(ROWS_AHEAD), right.row_stride);
                let ahead = right.column(column).wrapping_add(ROWS_AHEAD * stride);
                self.chain::<S, C, PART, true>(s, place, 0..split, ahead, stride, &mut sums);
                let (rest, stride) = (split..*depth, C * S::LANES);
                self.chain::<S, C, PART, true>(s, place, rest, right.next, stride, &mut sums);
            }
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

    /// Goes on with the chains of a block for some steps; if `AHEAD`, each step asks for the lines of
    /// its row, `stride` on for each step, at `ahead`.
    ///
    /// # Safety
    /// As [`product`], for these columns and steps.
    #[inline(always)]
    unsafe fn chain<S: Simd, const C: usize, const PART: bool, const AHEAD: bool>(
        &self,
        s: S,
        (column, count): (usize, usize),
        steps: std::ops::Range<usize>,
        ahead: *const E,
        stride: usize,
        sums: &mut [[S::V; C]; R],
    ) {
        let Product { left, right, .. } = self;
        let mut from = [right.start; C];
        for (c, from) in from.iter_mut().enumerate() {
            *from = right.column(column + c * S::LANES);
        }
        let first = steps.start;
        for step in steps {
            if AHEAD {
                for line in (0..C * S::LANES).step_by(LINE / size_of::<E>()) {
                    s.prefetch(ahead.wrapping_add((step - first) * stride + line).cast());
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
