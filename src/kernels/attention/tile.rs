//! The one product attention is made of: a few rows times a matrix, in registers.

use super::super::element::Element;
use super::super::isa::Simd;

/// Elements `start[row * row_stride + step * step_stride]` of the left factor.
#[derive(Clone, Copy)]
pub(super) struct Left {
    pub start: *const f32,
    pub row_stride: usize,
    pub step_stride: usize,
}

/// Rows of `n` values, `row_stride` apart.
#[derive(Clone, Copy)]
pub(super) struct Right<E> {
    pub start: *const E,
    pub row_stride: usize,
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
/// for `R` rows and j in 0..`n`.
///
/// # Safety
/// - `left` is readable for `R` rows and `depth` steps, `right` for `depth` rows of `n` values.
/// - `out` is writable for `R` rows of `n` values (readable if it accumulates) and overlaps none
///   of what is read.
#[inline(always)]
pub(super) unsafe fn product<S: Simd, E: Element, const R: usize>(
    s: S,
    left: Left,
    right: Right<E>,
    depth: usize,
    n: usize,
    out: Output,
    factors: Option<[f32; R]>,
) {
    let mut column = 0;
    // SAFETY: every block of columns lies in 0..n, so the caller's promise covers it.
    unsafe {
        if R <= 2 {
            // Few rows: more columns keep the fma units busy while each chain waits.
            while column + 4 * S::LANES <= n {
                block::<S, E, R, 4, false>(s, left, right, depth, out, factors, column, 0);
                column += 4 * S::LANES;
            }
        }
        while column + 2 * S::LANES <= n {
            block::<S, E, R, 2, false>(s, left, right, depth, out, factors, column, 0);
            column += 2 * S::LANES;
        }
        if column + S::LANES <= n {
            block::<S, E, R, 1, false>(s, left, right, depth, out, factors, column, 0);
            column += S::LANES;
        }
        if column < n {
            block::<S, E, R, 1, true>(s, left, right, depth, out, factors, column, n - column);
        }
    }
}

/// [`product`] for the `C` vectors of columns from `column`, or (`PART`) for `count` columns, fewer
/// than a vector.
///
/// # Safety
/// As [`product`], for these columns.
#[inline(always)]
#[allow(clippy::too_many_arguments)] // The product's arguments and the block's place in it.
unsafe fn block<S: Simd, E: Element, const R: usize, const C: usize, const PART: bool>(
    s: S,
    left: Left,
    right: Right<E>,
    depth: usize,
    out: Output,
    factors: Option<[f32; R]>,
    column: usize,
    count: usize,
) {
    let mut sums = [[s.zero(); C]; R];
    // SAFETY: the caller vouches for every element of these rows, steps and columns.
    unsafe {
        if out.accumulate {
            for (r, sums) in sums.iter_mut().enumerate() {
                for (c, sum) in sums.iter_mut().enumerate() {
                    let from = out.start.add(r * out.row_stride + column + c * S::LANES);
                    *sum = if PART { s.load_part(from, count) } else { s.load(from) };
                }
            }
        }
        for step in 0..depth {
            let mut values = [s.zero(); C];
            for (c, value) in values.iter_mut().enumerate() {
                let from = right.start.add(step * right.row_stride + column + c * S::LANES);
                *value = if PART { E::load_part(s, from, count) } else { E::load(s, from) };
            }
            for (r, sums) in sums.iter_mut().enumerate() {
                let weight = left.start.add(r * left.row_stride + step * left.step_stride);
                let weight = s.splat(*weight);
                for (sum, value) in sums.iter_mut().zip(values) {
                    *sum = s.fma(weight, value, *sum);
                }
            }
        }
        for (r, sums) in sums.iter().enumerate() {
            for (c, &sum) in sums.iter().enumerate() {
                let sum = match factors {
                    Some(factors) => s.mul(sum, s.splat(factors[r])),
                    None => sum,
                };
                let to = out.start.add(r * out.row_stride + column + c * S::LANES);
                if PART { s.store_part(to, sum, count) } else { s.store(to, sum) }
            }
        }
    }
}
