//! Pairs of bfloat16 numbers in the place of floats: what processors with bfloat16 products multiply
//! and add in one step, two steps of a chain at the cost of one.
//!
//! A pair holds two neighbours of a chain, the first in the lower half. `dot`, `narrow` and `join` are the
//! definition, in plain Rust, of methods of [`Simd`], and what instruction sets without such products
//! run. All give the bits of AVX-512 BF16: of a pair the second numbers are multiplied and added first,
//! and numbers nearer to 0 than 2^-126 count as 0.

use half::bf16;

use super::element::Element;
use super::isa::{Pairs, Simd};
use super::lanes::{self, MOST};

/// In which numbers a product multiplies; it always adds in floats.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Numbers {
    /// Floats.
    #[default]
    Float32,
    /// Both operands rounded to bfloat16, two steps of a chain at the cost of one. Only where the
    /// instruction set has [`Simd::pairs`].
    Bfloat16Pairs,
}

/// Two bfloat16 numbers in the bits of a float.
#[derive(Clone, Copy, Debug)]
#[repr(transparent)]
pub(super) struct Pair(f32);

impl Pair {
    /// The pairs whose bits these floats are.
    #[inline(always)]
    pub(super) fn of(floats: &[f32]) -> &[Pair] {
        // SAFETY: a `Pair` is a float, and any bits are one.
        unsafe { std::slice::from_raw_parts(floats.as_ptr().cast(), floats.len()) }
    }
}

impl Element for Pair {
    const ZERO: Self = Pair(0.0);
    const STEPS: usize = 2;

    #[inline(always)]
    unsafe fn load<S: Simd>(s: S, from: *const Self) -> S::V {
        // SAFETY: the caller's duty is passed on.
        unsafe { s.load(from.cast()) }
    }

    #[inline(always)]
    unsafe fn store<S: Simd>(s: S, to: *mut Self, v: S::V) {
        // SAFETY: the caller's duty is passed on.
        unsafe { s.store(to.cast(), v) }
    }

    #[inline(always)]
    unsafe fn multiply_add<S: Simd>(s: S, a: S::V, b: S::V, sum: S::V) -> S::V {
        // SAFETY: the caller's duty is passed on.
        unsafe { s.dot_pairs(a, b, sum) }
    }
}

/// Panics where kernels must not use pairs.
#[inline(always)]
pub(super) fn check<S: Simd>(s: S) {
    assert!(s.pairs() != Pairs::Missing, "{} has no pairs", S::NAME);
}

/// Writes `from` as pairs of neighbours; the last one of an odd number has 0 beside it.
#[inline(always)]
pub(super) fn narrow_row<S: Simd>(s: S, from: &[f32], to: &mut [f32]) {
    check(s);
    assert_eq!(to.len(), from.len().div_ceil(2), "narrow_row: lengths");
    for (from, to) in from.chunks(2 * S::LANES).zip(to.chunks_mut(S::LANES)) {
        let (first, second) = from.split_at(from.len().min(S::LANES));
        // SAFETY: checked above.
        let pairs = unsafe { s.narrow_pairs(lanes::load(s, first), lanes::load(s, second)) };
        lanes::store(s, to, pairs);
    }
}

/// Writes pairs of an element of `first` and one of `second`, which is as long or missing: zeros.
#[inline(always)]
pub(super) fn join_rows<S: Simd>(s: S, first: &[f32], second: Option<&[f32]>, to: &mut [f32]) {
    check(s);
    assert!(second.is_none_or(|second| second.len() == first.len()), "join_rows: lengths");
    assert_eq!(to.len(), first.len(), "join_rows: lengths");
    for (i, to) in to.chunks_mut(S::LANES).enumerate() {
        let part = i * S::LANES..i * S::LANES + to.len();
        // Not a closure, which would be compiled without the vector instructions.
        let other = match second {
            Some(second) => lanes::load(s, &second[part.clone()]),
            None => s.zero(),
        };
        // SAFETY: checked above.
        lanes::store(s, to, unsafe { s.join_pairs(lanes::load(s, &first[part]), other) });
    }
}

/// Joins each two rows of `block [rows, width]` into one of pairs, at its beginning; the last one of an
/// odd number has zeros beside it.
#[inline(always)]
pub(super) fn join_block<S: Simd>(s: S, width: usize, block: &mut [f32]) {
    check(s);
    let rows = block.len() / width.max(1);
    for pair in 0..rows.div_ceil(2) {
        for column in (0..width).step_by(S::LANES) {
            let count = S::LANES.min(width - column);
            let at = |row: usize| row * width + column..row * width + column + count;
            let first = lanes::load(s, &block[at(2 * pair)]);
            let second = if 2 * pair + 1 < rows {
                lanes::load(s, &block[at(2 * pair + 1)])
            } else {
                s.zero()
            };
            // SAFETY: checked above.
            lanes::store(s, &mut block[at(pair)], unsafe { s.join_pairs(first, second) });
        }
    }
}

/// See [`Simd::dot_pairs`].
#[inline(always)]
pub(super) fn dot<S: Simd>(s: S, a: S::V, b: S::V, sum: S::V) -> S::V {
    let (a, b, mut sums) = (array(s, a), array(s, b), array(s, sum));
    for (sum, (a, b)) in sums[..S::LANES].iter_mut().zip(a.into_iter().zip(b)) {
        let ((a0, a1), (b0, b1)) = (numbers(a), numbers(b));
        *sum = flushed(a0.mul_add(b0, flushed(a1.mul_add(b1, flushed(*sum)))));
    }
    lanes::load(s, &sums)
}

/// See [`Simd::narrow_pairs`].
#[inline(always)]
pub(super) fn narrow<S: Simd>(s: S, first: S::V, second: S::V) -> S::V {
    let mut both = [0.0; 2 * MOST];
    lanes::store(s, &mut both[..S::LANES], first);
    lanes::store(s, &mut both[S::LANES..], second);
    let mut pairs = [0.0; MOST];
    for (pair, numbers) in pairs.iter_mut().zip(both.as_chunks::<2>().0) {
        *pair = of_numbers(numbers[0], numbers[1]);
    }
    lanes::load(s, &pairs)
}

/// See [`Simd::join_pairs`].
#[inline(always)]
pub(super) fn join<S: Simd>(s: S, first: S::V, second: S::V) -> S::V {
    let (mut pairs, second) = (array(s, first), array(s, second));
    for (pair, second) in pairs.iter_mut().zip(second) {
        *pair = of_numbers(*pair, second);
    }
    lanes::load(s, &pairs)
}

#[inline(always)]
fn array<S: Simd>(s: S, v: S::V) -> [f32; MOST] {
    let mut array = [0.0; MOST];
    lanes::store(s, &mut array[..S::LANES], v);
    array
}

/// Zero of its sign for what is nearer to it than 2^-126.
#[inline(always)]
fn flushed(x: f32) -> f32 {
    if x.abs() < f32::MIN_POSITIVE { 0.0_f32.copysign(x) } else { x }
}

#[inline(always)]
fn numbers(pair: f32) -> (f32, f32) {
    let bits = pair.to_bits();
    (flushed(f32::from_bits(bits << 16)), flushed(f32::from_bits(bits & 0xffff_0000)))
}

#[inline(always)]
fn of_numbers(first: f32, second: f32) -> f32 {
    let bits = |x: f32| u32::from(bf16::from_f32(flushed(x)).to_bits());
    f32::from_bits(bits(first) | bits(second) << 16)
}

#[cfg(test)]
mod tests {
    use super::super::isa::{Kernel, with_isa};
    use super::super::testing::{Failures, noise, with_pairs};
    use super::*;

    /// `sums += a b`, pair by pair.
    struct Dot<'a>(&'a [f32], &'a [f32], &'a mut [f32]);

    impl Kernel for Dot<'_> {
        type Output = ();

        #[inline(always)]
        fn run<S: Simd>(self, s: S) {
            let Dot(a, b, sums) = self;
            check(s);
            for ((a, b), sum) in
                a.chunks(S::LANES).zip(b.chunks(S::LANES)).zip(sums.chunks_mut(S::LANES))
            {
                let (a, b) = (lanes::load(s, a), lanes::load(s, b));
                // SAFETY: `check` has passed.
                let sums = unsafe { s.dot_pairs(a, b, lanes::load(s, sum)) };
                lanes::store(s, sum, sums);
            }
        }
    }

    /// Two rows narrowed into pairs of neighbours and into pairs of one of each.
    struct Narrow<'a>(&'a [f32], &'a [f32]);

    impl Kernel for Narrow<'_> {
        type Output = [Vec<f32>; 3];

        #[inline(always)]
        fn run<S: Simd>(self, s: S) -> Self::Output {
            let Narrow(first, second) = self;
            let mut out = [first.len().div_ceil(2), first.len(), first.len()].map(|n| vec![7.0; n]);
            narrow_row(s, first, &mut out[0]);
            join_rows(s, first, Some(second), &mut out[1]);
            join_rows(s, first, None, &mut out[2]);
            out
        }
    }

    /// Numbers of all sizes, among them ties, zeros, infinities, NaN and what counts as zero.
    fn wide(len: usize, seed: u64) -> Vec<f32> {
        let special = [0.0, -0.0, 1e-40, -1e-39, f32::MAX, f32::INFINITY, f32::NAN, 1.003_906_3];
        let mut numbers = noise(len, seed);
        for (i, (x, size)) in numbers.iter_mut().zip(noise(len, seed + 9)).enumerate() {
            *x *= (size * 40.0).exp2();
            if i % 7 == 0 {
                *x = special[i / 7 % special.len()];
            }
        }
        numbers
    }

    fn same(a: f32, b: f32) -> bool {
        a.to_bits() == b.to_bits() || a.is_nan() && b.is_nan()
    }

    /// The two numbers of a pair, and what narrowing makes of one.
    fn halves(pair: f32) -> [f32; 2] {
        let bits = pair.to_bits();
        [bits as u16, (bits >> 16) as u16].map(|bits| bf16::from_bits(bits).to_f32())
    }

    fn rounded(x: f32) -> f32 {
        bf16::from_f32(if x.is_subnormal() { 0.0_f32.copysign(x) } else { x }).to_f32()
    }

    #[test]
    fn rows_become_pairs_at_every_length() {
        with_pairs(|isa| {
            let mut failures = Failures::default();
            for len in (0..70).chain([1000]) {
                let (first, second) = (wide(len, 1), wide(len, 2));
                let [row, both, alone] = with_isa(isa, Narrow(&first, &second));
                let mut check = |got: [f32; 2], expected: [f32; 2]| {
                    let same = (0..2).all(|i| same(got[i], rounded(expected[i])));
                    failures.check(same, || format!("{} {len}: {got:?} {expected:?}", isa.name()));
                };
                for (pair, from) in row.iter().zip(first.chunks(2)) {
                    check(halves(*pair), [from[0], from.get(1).copied().unwrap_or(0.0)]);
                }
                for i in 0..len {
                    check(halves(both[i]), [first[i], second[i]]);
                    check(halves(alone[i]), [first[i], 0.0]);
                }
            }
            failures.finish();
        });
    }

    #[test]
    fn products_add_the_second_of_a_pair_first() {
        with_pairs(|isa| {
            let mut failures = Failures::default();
            for seed in 0..200 {
                let pairs =
                    |seed| with_isa(isa, Narrow(&wide(256, seed), &wide(256, seed)))[0].clone();
                let (a, b, sums) = (pairs(3 * seed), pairs(3 * seed + 1), wide(128, 3 * seed + 2));
                let mut got = sums.clone();
                with_isa(isa, Dot(&a, &b, &mut got));
                for i in 0..128 {
                    let (x, y) = (halves(a[i]), halves(b[i]));
                    let expected = flushed(x[1].mul_add(y[1], flushed(sums[i])));
                    let expected = flushed(x[0].mul_add(y[0], expected));
                    failures.check(same(got[i], expected), || {
                        format!(
                            "{} {x:?} {y:?} {:e}: {:e}, {expected:e}",
                            isa.name(),
                            sums[i],
                            got[i]
                        )
                    });
                }
            }
            failures.finish();
        });
    }
}
