//! Finding the best results of a product of floats by the product with a coarse copy of its weights.
//!
//! The copy has 8 bits a weight, so that it is read in a fraction of the time. Its results come with
//! bounds of their error, and what cannot be among the best is left out; the few panels that are left
//! are computed as ever, by the kernel of the whole product. So the answer has its bits.
//!
//! **The bound.** Let w be a row of the weight and x the input, w' and x' what their 8 bits stand for,
//! u = 2^-24, and k the number of inputs. The exact sum differs from that of the copies by
//! `w x - w' x' = (w - w') x + w' (x - x')`, at most `|w - w'| |x| + |w'| |x - x'|` (Cauchy and Schwarz).
//! The whole product's chain of k multiply-adds differs from the exact sum by at most
//! `g |w| |x|` with `g = 2 k u / (1 - 2 k u)` (Higham, *Accuracy and Stability of Numerical Algorithms*,
//! 2002, chapter 3; twice, since the scalar path rounds products too), and `|w| <= |w'| + |w - w'|`. The
//! coarse product is exact in whole numbers; its three roundings, and one each for the bias and the
//! bound, are within `16 u (|w'| |x'| + |b|)`. What underflows is within `k 2^-148`, for which 1e-37
//! stands. Norms are computed in f64 and rounded up, by more than all roundings of the bound itself.
//! Weights, inputs and biases that are too large to rule out an overflow are not screened.

use super::best::{self, Ask, Best};
use super::gemm::{Epilogue, Numbers, Panels};
use super::gemm_blocks::{Layout, Part, Product};
use super::gemm_operands::{Left, LeftValues, Right};
use super::int8::{self, EPSILON, LARGEST, MOST_INPUTS};
use super::int8_product::screen as coarse_product;
use super::int8_tile::GROUP;
use super::isa::{self, Kernel, Simd};
use super::memory::{Slot, scratch};
use super::pack::{PANEL, packed_len};
use super::team::{self, SharedMut};
use super::{lanes, parallel};

/// Half the distance from 1 to the next float.
const UNIT: f64 = 1.0 / (1 << 24) as f64;
/// More than all roundings in computing a bound.
const SLACK: f64 = 1.0 + 1e-6;
/// What underflow may do, and more.
const UNDERFLOW: f32 = 1e-37;
/// Weights and inputs up to this, and biases up to 2^123, cannot overflow.
const MOST: f32 = 1e15;
/// The share of panels up to which it pays to compute them one by one.
const MOST_PANELS: f64 = 0.4;

/// The coarse copy of a weight `[n, k]`.
#[derive(Debug)]
pub struct Screen {
    n: usize,
    k: usize,
    /// In the layout of [`int8`], four bytes each.
    packed: Vec<u32>,
    scales: Vec<f32>,
    /// Bounds of `|w - w'|` and `|w'|`, filled up to whole panels.
    errors: Vec<f32>,
    norms: Vec<f32>,
}

/// Memory that is kept from one call to the next.
#[derive(Debug, Default)]
pub struct Screening {
    bounds: Best,
    rows: Vec<RowBound>,
    /// (row, panel) that may hold one of the best, and their results.
    left: Vec<(u32, u32)>,
    results: Vec<f32>,
}

/// A row's share of the bound `a |w - w'| + b |w'| + 16 u |bias| + 1e-37`.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct RowBound {
    errors: f32,
    norms: f32,
}

impl Screen {
    /// Of a weight `[n, k]`; `None` if it holds what is too large, or no number.
    ///
    /// # Panics
    /// If the length does not fit `n` and `k`.
    pub fn new(weight: Panels<'_>, n: usize, k: usize) -> Option<Self> {
        assert_eq!(weight.len(), packed_len(n, k), "the weight is not packed [n, k]");
        if n == 0 || k == 0 || k > MOST_INPUTS {
            return None;
        }
        let (panels, groups) = (n.div_ceil(PANEL), k.div_ceil(GROUP));
        let mut packed = vec![0; panels * groups * PANEL];
        let mut rows = vec![[0.0; 3]; panels * PANEL];
        let panel = (&mut packed[..], groups * PANEL);
        parallel::paired_chunks(panel, (&mut rows, PANEL), true, |panel, packed, rows| {
            let mut floats = scratch(Slot::Work, k * PANEL);
            weight.widen(panel * k * PANEL, &mut floats);
            isa::dispatch(Coarsen { floats: &floats, packed, rows });
        });
        if !rows.iter().all(|row| is_small(row[0])) {
            return None;
        }
        let column = |i: usize| rows.iter().map(|row| row[i]).collect::<Vec<f32>>();
        let mut scales = column(0);
        scales.truncate(n);
        Some(Screen { n, k, packed, scales, errors: column(1), norms: column(2) })
    }

    fn coarse(&self) -> int8::Weight<'_> {
        // SAFETY: any bytes are bytes, and these are as many as the words have.
        let packed = unsafe {
            std::slice::from_raw_parts(self.packed.as_ptr().cast(), self.packed.len() * GROUP)
        };
        int8::Weight { packed, scales: &self.scales }
    }

    /// [`gemm::linear_best`](super::gemm::linear_best) of the weight `w` that this is the copy of; `false`
    /// also where too many panels are left, or too large numbers forbid a bound.
    ///
    /// # Panics
    /// If a length does not fit.
    #[allow(clippy::too_many_arguments)] // Operands, sizes and memory: all different.
    pub fn linear_best(
        &self,
        x: &[f32],
        w: Panels<'_>,
        limit: usize,
        bias: Option<&[f32]>,
        count: usize,
        screening: &mut Screening,
        best: &mut Best,
    ) -> bool {
        assert_eq!(w.len(), packed_len(self.n, self.k), "the weight is another");
        let rows = x.len() / self.k.max(1);
        assert!(x.len() == rows * self.k && limit <= self.n && self.k > 0, "`x` is not [m, k]");
        assert!(bias.is_none_or(|bias| bias.len() >= limit), "`bias` is not [n]");
        let Screening { bounds, rows: of_rows, left, results } = screening;
        of_rows.clear();
        for x in x.chunks_exact(self.k) {
            let Some(bound) = RowBound::new(x) else { return false };
            of_rows.push(bound);
        }
        let ask = Ask { count, log_sum: true };
        let call = Bounds { screen: self, rows: of_rows };
        let layer = (self.coarse(), limit, bias);
        if !coarse_product(x, (rows, self.k), layer, &call, ask, bounds) {
            return false;
        }
        left.clear();
        let panels = limit.div_ceil(PANEL);
        for row in 0..rows {
            // Nothing that is surely below this is among the best.
            let Some(&(_, least)) = bounds.row(row).last() else { return false };
            let highest = bounds.highest(row, panels).iter().zip(0..);
            left.extend(
                highest.filter(|(bound, _)| **bound >= least).map(|(_, p)| (row as u32, p)),
            );
        }
        if left.len() as f64 > MOST_PANELS * panels as f64 {
            return false;
        }
        // Rows that need the same panel have it from the cache.
        left.sort_unstable_by_key(|&(row, panel)| (panel, row));
        self.compute(x, w, limit, bias, left, results);
        best.start(rows, count.min(limit));
        for (&(row, panel), values) in left.iter().zip(results.chunks_exact(PANEL)) {
            let first = panel as usize * PANEL;
            if !best.offer(row as usize, first, &values[..PANEL.min(limit - first)]) {
                return false;
            }
        }
        true
    }

    /// Some panels of the whole product: `results[i]` of the row and panel `left[i]`.
    fn compute(
        &self,
        x: &[f32],
        w: Panels<'_>,
        limit: usize,
        bias: Option<&[f32]>,
        left: &[(u32, u32)],
        results: &mut Vec<f32>,
    ) {
        let (k, isa) = (self.k, isa::current());
        results.resize(left.len() * PANEL, 0.0);
        let results = SharedMut(results.as_mut_ptr());
        team::run(left.len(), &|i| {
            let (row, panel) = (left[i].0 as usize, left[i].1 as usize);
            let (rows, numbers) = (x.len() / k, Numbers::Float32);
            let product = Product {
                columns: limit,
                left: Left { values: LeftValues::Rows(x), rows, depth: k, numbers },
                right: Right::Panels(w),
                // SAFETY: there is a panel for every `i`, which comes once.
                out: SharedMut(unsafe { results.get().add(i * PANEL) }),
                layout: Layout::OnePanel,
                bias,
                epilogue: Epilogue::None,
            };
            let (rows, panels) = (row..row + 1, panel..panel + 1);
            let (packed, gatherer) = (None, None);
            let (depths, depth_block) = (0..k, k);
            let part =
                Part { product: &product, rows, panels, depths, depth_block, packed, gatherer };
            isa::with_isa(isa, part);
        });
    }
}

impl RowBound {
    /// Of an input; `None` if it holds what is too large, or no number.
    fn new(x: &[f32]) -> Option<Self> {
        let mut values = scratch(Slot::Work, x.len().div_ceil(GROUP));
        // SAFETY: any bytes are numbers, and the loan is of `x.len()` bytes or more.
        let values: &mut [i8] =
            unsafe { std::slice::from_raw_parts_mut(values.as_mut_ptr().cast(), x.len()) };
        let scale = int8::quantize_row(x, values);
        if !is_small(scale) {
            return None;
        }
        let [sum, error] = isa::dispatch(Distance { x, values, inverse: 1.0 / f64::from(scale) });
        let norm = sum.sqrt() * SLACK;
        // Each difference is off by less than a part in 2^50 of the largest input.
        let rounding = f64::from(f32::from(LARGEST) / scale) * (x.len() as f64).sqrt() / 2e14;
        let error = error.sqrt() * SLACK + rounding;
        let chain = 2.0 * x.len() as f64 * UNIT;
        let chain = chain / (1.0 - chain);
        Some(RowBound {
            errors: (norm * (1.0 + chain) * SLACK) as f32,
            norms: ((error + chain * norm + 16.0 * UNIT * (norm + error)) * SLACK) as f32,
        })
    }
}

/// Whether a row with this scale holds numbers below twice [`MOST`] alone; of NaN the scale is NaN.
fn is_small(scale: f32) -> bool {
    scale > f32::from(LARGEST) / (2.0 * MOST)
}

/// The sums of the squares of an input, and of what its 8 bits miss of it.
struct Distance<'a> {
    x: &'a [f32],
    values: &'a [i8],
    inverse: f64,
}

impl Kernel for Distance<'_> {
    type Output = [f64; 2];

    #[inline(always)]
    fn run<S: Simd>(self, _: S) -> [f64; 2] {
        let mut sums = [[0.0_f64; 8]; 2];
        let (blocks, rest) = self.x.as_chunks::<8>();
        let (values, last) = self.values.as_chunks::<8>();
        for (x, values) in blocks.iter().zip(values) {
            for i in 0..8 {
                let missed = f64::from(x[i]) - f64::from(values[i]) * self.inverse;
                sums[0][i] += f64::from(x[i]) * f64::from(x[i]);
                sums[1][i] += missed * missed;
            }
        }
        for (i, (x, value)) in rest.iter().zip(last).enumerate() {
            let missed = f64::from(*x) - f64::from(*value) * self.inverse;
            sums[0][i] += f64::from(*x) * f64::from(*x);
            sums[1][i] += missed * missed;
        }
        sums.map(|sums| sums.iter().sum())
    }
}

/// Makes the coarse copy of a panel `[k][PANEL]`.
struct Coarsen<'a> {
    floats: &'a [f32],
    packed: &'a mut [u32],
    /// Scale, and bounds of `|w - w'|` and `|w'|`.
    rows: &'a mut [[f32; 3]],
}

impl Kernel for Coarsen<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, _: S) {
        let floats = self.floats.as_chunks::<PANEL>().0;
        let mut largest = [0_u32; PANEL];
        for row in floats {
            for (largest, w) in largest.iter_mut().zip(row) {
                // As in `int8::quantize`: a NaN is larger than all.
                *largest = (*largest).max(w.abs().to_bits());
            }
        }
        let scales = largest.map(|bits| f32::from(LARGEST) / (f32::from_bits(bits) + EPSILON));
        let inverses = scales.map(|scale| 1.0 / f64::from(scale));
        let (mut missed, mut squares) = ([0.0_f64; PANEL], [0_i32; PANEL]);
        for (four, words) in floats.chunks(GROUP).zip(self.packed.as_chunks_mut::<PANEL>().0) {
            let mut bytes = [0x8080_8080_u32; PANEL];
            for (i, row) in four.iter().enumerate() {
                for j in 0..PANEL {
                    let value = int8::round(row[j] * scales[j]);
                    let rest = f64::from(row[j]) - f64::from(value) * inverses[j];
                    missed[j] += rest * rest;
                    squares[j] += value * value;
                    // 128 more than the value, in place of the 128 of nothing.
                    bytes[j] = bytes[j].wrapping_add((value << (8 * i)) as u32);
                }
            }
            *words = bytes.map(u32::to_le);
        }
        let roots = (floats.len() as f64).sqrt();
        for j in 0..PANEL {
            // As in `RowBound::new`.
            let rounding = f64::from(f32::from_bits(largest[j])) * roots / 2e14;
            let error = missed[j].sqrt() * SLACK + rounding;
            let norm = f64::from(squares[j]).sqrt() * inverses[j] * SLACK;
            self.rows[j] = [scales[j], (error * SLACK) as f32, (norm * SLACK) as f32];
        }
    }
}

/// What turns coarse results into bounds.
pub(super) struct Bounds<'a> {
    screen: &'a Screen,
    rows: &'a [RowBound],
}

impl Bounds<'_> {
    /// What is known of each column.
    #[inline(always)]
    pub(super) fn of_columns(&self) -> [&[f32]; 2] {
        [&self.screen.errors, &self.screen.norms]
    }

    /// Turns the results of a row and a panel, of which `width` count, into their lower bounds; gives the
    /// highest of the upper ones. Adds to `doubt` what is NaN if a result may be none or infinite.
    #[inline(always)]
    pub(super) fn apply<S: Simd>(
        &self,
        s: S,
        (row, panel, width): (usize, usize, usize),
        bias: Option<&[f32]>,
        results: &mut [f32; PANEL],
        doubt: &mut [f32; lanes::MOST],
    ) -> f32 {
        let bound = self.rows[row];
        let first = panel * PANEL;
        let (errors, norms) = (&self.screen.errors[first..], &self.screen.norms[first..]);
        let (of_errors, of_norms) = (s.splat(bound.errors), s.splat(bound.norms));
        let of_bias = s.splat(16.0 * UNIT as f32);
        let mut upper = [f32::NEG_INFINITY; PANEL];
        let mut doubts = lanes::load(s, doubt);
        for column in (0..width).step_by(S::LANES) {
            let end = width.min(column + S::LANES);
            let b = match bias {
                Some(bias) => lanes::load(s, &bias[first + column..first + end]),
                None => s.zero(),
            };
            let y = lanes::load(s, &results[column..]);
            let mut e = s.fma(s.abs(b), of_bias, s.splat(UNDERFLOW));
            e = s.fma(lanes::load(s, &norms[column..]), of_norms, e);
            e = s.fma(lanes::load(s, &errors[column..]), of_errors, e);
            // 2^5 times a bias above 2^123 is infinite, and times zero no number.
            doubts = s.fma(s.mul(b, s.splat(32.0)), s.zero(), doubts);
            doubts = s.fma(s.add(y, e), s.zero(), doubts);
            lanes::store(s, &mut results[column..end], s.sub(y, e));
            lanes::store(s, &mut upper[column..end], s.add(y, e));
        }
        lanes::store(s, doubt, doubts);
        best::highest(s, best::vectors(s, &upper))
    }
}

#[cfg(test)]
#[path = "screen_tests.rs"]
mod tests;
