//! The forward pass by products of bfloat16 numbers, [pairs](super::super::pairs) of them: queries, keys, values and the
//! exponentials of scores are rounded; scores, sums and results are floats.
//!
//! Keys are panels `[panel][head_dim / 2][PANEL]` of pairs of neighbouring elements, values rows
//! `[keys / 2][head_dim]` of pairs of neighbouring keys; both are filled up with zeros.

use super::super::isa::Simd;
use super::super::lanes;
use super::super::pairs::{check, join_rows, narrow_row};
use super::forward::{RowSums, pack_keys};

/// Packs `rows` rows of keys and of values, `head_dim` of `stride` numbers each. The values' place has
/// room for the keys too.
#[inline(always)]
pub(super) fn pack<S: Simd>(
    s: S,
    (keys, values): (&[f32], &[f32]),
    (rows, stride): (usize, usize),
    head_dim: usize,
    panels: &mut [f32],
    packed: &mut [f32],
) {
    let depth = head_dim.div_ceil(2);
    let narrow = &mut packed[..rows * depth];
    for (key, to) in keys.chunks(stride).zip(narrow.chunks_exact_mut(depth)) {
        narrow_row(s, &key[..head_dim], to);
    }
    // Pairs move as floats do.
    pack_keys(s, narrow, depth, rows, depth, 0, panels);
    for (i, to) in packed.chunks_exact_mut(head_dim).take(rows.div_ceil(2)).enumerate() {
        let row = |key: usize| &values[key * stride..][..head_dim];
        join_rows(s, row(2 * i), (2 * i + 1 < rows).then(|| row(2 * i + 1)), to);
    }
}

/// Replaces a row of products by the exponentials of [`super::forward`], pairs of neighbours in its
/// first half.
#[inline(always)]
pub(super) fn exponentials<S: Simd>(s: S, row: &mut [f32], scale: f32) -> RowSums {
    check(s);
    // To the base 2, whose powers are the exponents of floats.
    let factor = scale * std::f32::consts::LOG2_E;
    let highest = lanes::max(s, row);
    let (factor, shift) = (s.splat(factor), s.splat(-(highest * factor)));
    let mut sums = [s.zero(); 2];
    for i in 0..row.len() / (2 * S::LANES) {
        let (first, second) = row[2 * i * S::LANES..][..2 * S::LANES].split_at(S::LANES);
        let first = exp2(s, s.fma(lanes::load(s, first), factor, shift));
        let second = exp2(s, s.fma(lanes::load(s, second), factor, shift));
        sums = [s.add(sums[0], first), s.add(sums[1], second)];
        // SAFETY: checked above.
        let pairs = unsafe { s.narrow_pairs(first, second) };
        // Not behind what was read just now.
        lanes::store(s, &mut row[i * S::LANES..][..S::LANES], pairs);
    }
    RowSums { highest: highest * scale, sum: s.reduce_add(s.add(sums[0], sums[1])) }
}

/// `2^x` for `x` up to about 0, within 8e-5 of it: a twentieth of what rounding to bfloat16 may change.
/// 0 below -160; NaN stays NaN.
#[inline(always)]
fn exp2<S: Simd>(s: S, x: S::V) -> S::V {
    let x = s.max(s.splat(EXP2_LOWEST), x);
    let n = s.floor(x);
    let r = s.sub(x, n);
    let mut y = s.splat(EXP2[3]);
    for c in EXP2[..3].iter().rev() {
        y = s.fma(y, r, s.splat(*c));
    }
    s.times_pow2(y, n)
}

const EXP2_LOWEST: f32 = -160.0;
/// 2^r for r from 0 to 1, constant first: least squares on the relative error, reweighted.
const EXP2: [f32; 4] = [0.999_925_2, 0.695_833_56, 0.226_067_16, 0.078_024_52];
