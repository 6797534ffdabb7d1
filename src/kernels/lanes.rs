//! Vectors from slices, and sums over a row in one fixed order.

use super::isa::Simd;

/// Lanes of the widest vectors.
pub(crate) const MOST: usize = 16;

/// The first lanes of `x`; missing ones are 0.
#[inline(always)]
pub(crate) fn load<S: Simd>(s: S, x: &[f32]) -> S::V {
    if x.len() >= S::LANES {
        // SAFETY: the slice holds a whole vector.
        unsafe { s.load(x.as_ptr()) }
    } else {
        // SAFETY: the slice holds `x.len()` values, fewer than a vector's.
        unsafe { s.load_part(x.as_ptr(), x.len()) }
    }
}

/// Writes as many lanes as `out` takes.
#[inline(always)]
pub(crate) fn store<S: Simd>(s: S, out: &mut [f32], v: S::V) {
    if out.len() >= S::LANES {
        // SAFETY: the slice holds a whole vector.
        unsafe { s.store(out.as_mut_ptr(), v) }
    } else {
        // SAFETY: the slice holds `out.len()` values, fewer than a vector's.
        unsafe { s.store_part(out.as_mut_ptr(), v, out.len()) }
    }
}

/// Sums an expression over the columns 0..`len` of a row: `row_sum!(s, len, |c| expression)`, where
/// `c` is the range of at most `S::LANES` columns whose vector the expression gives, 0 in lanes
/// beyond the range.
///
/// Column c always enters lane c mod LANES of accumulator (c / LANES) mod 4, and the accumulators
/// are joined pairwise: the order depends on the instruction set alone, and trailing zero columns
/// change nothing. A macro, since a closure would be compiled without the vector instructions.
macro_rules! row_sum {
    ($s:ident, $len:expr, |$c:ident| $term:expr) => {{
        let len: usize = $len;
        let lanes = $crate::kernels::lanes::lanes_of($s);
        let mut sums = [$s.zero(); 4];
        let mut column = 0;
        while column + 4 * lanes <= len {
            for sum in &mut sums {
                let $c = column..column + lanes;
                *sum = $s.add(*sum, $term);
                column += lanes;
            }
        }
        for sum in &mut sums {
            if column < len {
                let $c = column..len.min(column + lanes);
                *sum = $s.add(*sum, $term);
                column += lanes;
            }
        }
        let [a, b, c, d] = sums;
        $s.reduce_add($s.add($s.add(a, b), $s.add(c, d)))
    }};
}
pub(crate) use row_sum;

/// `S::LANES` of a value, for macros that cannot name its type.
#[inline(always)]
pub(crate) fn lanes_of<S: Simd>(_: S) -> usize {
    S::LANES
}

/// The largest element; negative infinity of an empty row. A NaN may or may not be seen.
#[inline(always)]
pub(crate) fn max<S: Simd>(s: S, row: &[f32]) -> f32 {
    let mut bests = [s.splat(f32::NEG_INFINITY); 4];
    let mut blocks = row.chunks_exact(4 * S::LANES);
    for block in &mut blocks {
        for (best, part) in bests.iter_mut().zip(block.chunks_exact(S::LANES)) {
            *best = s.max(*best, load(s, part));
        }
    }
    let mut parts = blocks.remainder().chunks_exact(S::LANES);
    for part in &mut parts {
        bests[0] = s.max(bests[0], load(s, part));
    }
    let [a, b, c, d] = bests;
    let best = s.reduce_max(s.max(s.max(a, b), s.max(c, d)));
    parts.remainder().iter().fold(best, |best, &x| best.max(x))
}
