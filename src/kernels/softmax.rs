//! Softmax and its relatives over one row of logits, as the samplers need them.
//!
//! Everything is f32; sums have the order of [`row_sum`], so a row's result depends on that row
//! alone. A row that holds NaN gives NaN (sums) or nothing (`argmax`), never a quiet choice.

use std::collections::BinaryHeap;

use super::best;
use super::isa::{Kernel, Simd, dispatch};
use super::lanes::{self, row_sum};

/// Replaces the row by its softmax: exp(x - max) / sum. Empty rows stay empty.
pub fn softmax_row(row: &mut [f32]) {
    dispatch(Softmax(row));
}

/// ln(sum(exp(x))), computed around the largest element; negative infinity of an empty row.
pub fn log_sum_exp(row: &[f32]) -> f32 {
    dispatch(LogSumExp(row))
}

/// The largest element; negative infinity of an empty row. A NaN may or may not be seen.
pub fn highest(row: &[f32]) -> f32 {
    dispatch(Highest(row))
}

/// Takes `shift` from every element, and divides by `divisor`.
pub fn shift_and_divide(row: &mut [f32], shift: f32, divisor: f32) {
    dispatch(ShiftAndDivide { row, shift, divisor });
}

/// Whether an element is NaN or positive infinity.
pub fn is_broken(row: &[f32]) -> bool {
    dispatch(IsBroken(row))
}

/// The index of the largest element, the first of equals; `None` if the row is empty or holds NaN.
pub fn argmax(row: &[f32]) -> Option<usize> {
    dispatch(ArgMax(row))
}

/// The `k` largest elements as (index, value): by value descending, of equals the lower index
/// first. Fewer if the row has fewer; elements that are NaN are left out.
pub fn top_k(row: &[f32], k: usize) -> Vec<(u32, f32)> {
    let mut top = Vec::new();
    top_k_into(row, k, &mut top);
    top
}

/// [`top_k`] into memory that is kept.
pub fn top_k_into(row: &[f32], k: usize, top: &mut Vec<(u32, f32)>) {
    top.clear();
    if k > 0 {
        dispatch(TopK { row, k, top });
    }
}

struct Softmax<'a>(&'a mut [f32]);

impl Kernel for Softmax<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let row = self.0;
        let highest = s.splat(lanes::max(s, row));
        for part in row.chunks_mut(S::LANES) {
            lanes::store(s, part, s.exp(s.sub(lanes::load(s, part), highest)));
        }
        let sum = s.splat(row_sum!(s, row.len(), |c| lanes::load(s, &row[c])));
        for part in row.chunks_mut(S::LANES) {
            lanes::store(s, part, s.div(lanes::load(s, part), sum));
        }
    }
}

struct LogSumExp<'a>(&'a [f32]);

impl Kernel for LogSumExp<'_> {
    type Output = f32;

    #[inline(always)]
    fn run<S: Simd>(self, s: S) -> f32 {
        best::log_sum_exp(s, self.0)
    }
}

struct Highest<'a>(&'a [f32]);

impl Kernel for Highest<'_> {
    type Output = f32;

    #[inline(always)]
    fn run<S: Simd>(self, s: S) -> f32 {
        lanes::max(s, self.0)
    }
}

struct ShiftAndDivide<'a> {
    row: &'a mut [f32],
    shift: f32,
    divisor: f32,
}

impl Kernel for ShiftAndDivide<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let (shift, divisor) = (s.splat(self.shift), s.splat(self.divisor));
        for part in self.row.chunks_mut(S::LANES) {
            let shifted = s.sub(lanes::load(s, part), shift);
            lanes::store(
                s,
                part,
                if self.divisor == 1.0 { shifted } else { s.div(shifted, divisor) },
            );
        }
    }
}

struct IsBroken<'a>(&'a [f32]);

impl Kernel for IsBroken<'_> {
    type Output = bool;

    #[inline(always)]
    fn run<S: Simd>(self, s: S) -> bool {
        is_doubtful(s, self.0) && self.0.iter().any(|&x| x.is_nan() || x == f32::INFINITY)
    }
}

/// Whether an element is NaN or infinite.
#[inline(always)]
fn is_doubtful<S: Simd>(s: S, row: &[f32]) -> bool {
    // x * 0 is NaN for those and for no others.
    row_sum!(s, row.len(), |c| s.mul(lanes::load(s, &row[c]), s.zero())).is_nan()
}

struct ArgMax<'a>(&'a [f32]);

impl Kernel for ArgMax<'_> {
    type Output = Option<usize>;

    #[inline(always)]
    fn run<S: Simd>(self, s: S) -> Option<usize> {
        argmax_lanes(s, self.0)
    }
}

/// [`argmax`] for kernels that already run on an instruction set.
#[inline(always)]
pub(crate) fn argmax_lanes<S: Simd>(s: S, row: &[f32]) -> Option<usize> {
    // Forbidden tokens are infinite: only where there are any is each element looked at.
    if is_doubtful(s, row) && row.iter().any(|x| x.is_nan()) {
        return None;
    }
    // "At least the highest" as "above the number below it", which `any_above` can find.
    let below = lanes::max(s, row).next_down();
    for (block, values) in row.chunks(4 * S::LANES).enumerate() {
        if any_above(s, values, below) {
            let offset = values.iter().position(|&x| x > below)?;
            return Some(block * 4 * S::LANES + offset);
        }
    }
    // Nothing above negative infinity: all elements are equal.
    if row.is_empty() { None } else { Some(0) }
}

/// Up to so many are kept in a sorted list, more in a heap.
const MOST_IN_A_LIST: usize = 64;

struct TopK<'a> {
    row: &'a [f32],
    k: usize,
    top: &'a mut Vec<(u32, f32)>,
}

impl Kernel for TopK<'_> {
    type Output = ();

    /// A block of the row that has nothing above the worst of the best so far is passed over at the
    /// speed of a maximum.
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let Self { row, k, top } = self;
        if k <= MOST_IN_A_LIST {
            top.resize(k, (0, 0.0));
            let mut kept = 0;
            for (block, values) in row.chunks(4 * S::LANES).enumerate() {
                // Equal to the worst is no better: its index is higher.
                if kept == k && !any_above(s, values, top[k - 1].1) {
                    continue;
                }
                for (id, &value) in (block * 4 * S::LANES..).zip(values) {
                    if !value.is_nan() && (kept < k || value > top[k - 1].1) {
                        kept = best::insert(top, kept, (id as u32, value));
                    }
                }
            }
            top.truncate(kept);
            return;
        }
        let mut kept: BinaryHeap<Candidate> = BinaryHeap::with_capacity(k.min(row.len()) + 1);
        for (block, values) in row.chunks(4 * S::LANES).enumerate() {
            if let (true, Some(worst)) = (kept.len() == k, kept.peek())
                && !any_above(s, values, worst.1)
            {
                continue;
            }
            for (offset, &value) in values.iter().enumerate() {
                let full = kept.len() == k;
                if value.is_nan() || full && kept.peek().is_some_and(|worst| value <= worst.1) {
                    continue;
                }
                if full {
                    kept.pop();
                }
                kept.push(Candidate((block * 4 * S::LANES + offset) as u32, value));
            }
        }
        top.extend(kept.into_sorted_vec().into_iter().map(|Candidate(id, value)| (id, value)));
    }
}

/// Whether an element is greater than `bound`; elements that are NaN are not.
#[inline(always)]
fn any_above<S: Simd>(s: S, values: &[f32], bound: f32) -> bool {
    let mut above = s.zero();
    let whole = values.len() / S::LANES * S::LANES;
    let (body, tail) = values.split_at(whole);
    for part in body.chunks_exact(S::LANES) {
        above = s.select_gt(lanes::load(s, part), s.splat(bound), s.splat(1.0), above);
    }
    s.reduce_max(above) > 0.0 || tail.iter().any(|&x| x > bound)
}

/// An (index, value) ordered so that the better candidate is the lesser: a sorted list then
/// begins with the best, and a max-heap's head is the worst.
struct Candidate(u32, f32);

impl Ord for Candidate {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        // No NaN is ever stored; -0 and 0 are equal here, as they are to `argmax`.
        let by_value = other.1.partial_cmp(&self.1).unwrap_or(std::cmp::Ordering::Equal);
        by_value.then(self.0.cmp(&other.0))
    }
}

impl PartialOrd for Candidate {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Candidate {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other).is_eq()
    }
}

impl Eq for Candidate {}

#[cfg(test)]
mod tests {
    use super::super::testing::{Failures, assert_same_bits, noise, on_every_isa};
    use super::*;

    fn lengths() -> impl Iterator<Item = usize> {
        (0..70).chain([127, 128, 129, 1000, 50265])
    }

    /// Logits from -20 to 20.
    fn logits(len: usize, seed: u64) -> Vec<f32> {
        noise(len, seed).into_iter().map(|x| 20.0 * x).collect()
    }

    fn log_sum_exp_reference(row: &[f32]) -> f64 {
        row.iter().map(|&x| f64::from(x).exp()).sum::<f64>().ln()
    }

    #[test]
    fn softmax_and_log_sum_exp_follow_the_definition() {
        on_every_isa(|isa| {
            let mut failures = Failures::default();
            for len in lengths().skip(1) {
                let row = logits(len, len as u64);
                let exact = log_sum_exp_reference(&row);
                let got = f64::from(log_sum_exp(&row));
                // 50,265 terms in sixteen chains, as vectors of four lanes have them, round by 3.2e-6.
                let near = (got - exact).abs() <= 5e-6;
                failures.check(near, || format!("{} {len}: {got}, not {exact}", isa.name()));
                let mut p = row.clone();
                softmax_row(&mut p);
                for (x, p) in row.iter().zip(p) {
                    let exact = (f64::from(*x) - exact).exp();
                    let near = (f64::from(p) - exact).abs() <= 5e-6 * exact;
                    failures.check(near, || format!("{} {len}: {p}, not {exact}", isa.name()));
                }
            }
            failures.finish();
        });
    }

    #[test]
    fn large_and_forbidden_logits_keep_their_meaning() {
        const NEVER: f32 = f32::NEG_INFINITY;
        on_every_isa(|_| {
            let mut row = [NEVER, 1e30, NEVER, 1e30, -1e30];
            softmax_row(&mut row);
            assert_same_bits(&row, &[0.0, 0.5, 0.0, 0.5, 0.0], "softmax");
            assert_eq!(log_sum_exp(&[]), NEVER);
            assert_eq!(log_sum_exp(&[NEVER; 20]), NEVER);
            assert_eq!(log_sum_exp(&[NEVER, 2.0, NEVER]), 2.0);
            for place in 0..40 {
                let mut row = vec![1.0; 40];
                row[place] = f32::NAN;
                assert!(log_sum_exp(&row).is_nan(), "NaN at {place}");
                assert_eq!(argmax(&row), None, "NaN at {place}");
                softmax_row(&mut row);
                assert!(row.iter().all(|p| p.is_nan()), "NaN at {place}");
            }
        });
    }

    #[test]
    fn rows_are_shifted_divided_and_searched_for_what_is_broken() {
        on_every_isa(|isa| {
            for len in lengths() {
                let mut row = logits(len, 2);
                let largest = row.iter().copied().fold(f32::NEG_INFINITY, f32::max);
                assert_eq!(highest(&row), largest, "{} {len}", isa.name());
                for divisor in [1.0, 0.7] {
                    let expected: Vec<f32> = row.iter().map(|x| (x - 1.5) / divisor).collect();
                    shift_and_divide(&mut row, 1.5, divisor);
                    assert_same_bits(&row, &expected, isa.name());
                }
                assert!(!is_broken(&row));
                for (broken, value) in
                    [(true, f32::NAN), (true, f32::INFINITY), (false, f32::NEG_INFINITY)]
                {
                    if let Some(last) = row.last_mut() {
                        *last = value;
                        assert_eq!(is_broken(&row), broken, "{} {len} {value}", isa.name());
                    }
                }
            }
        });
    }

    #[test]
    fn trailing_forbidden_logits_change_no_bit() {
        on_every_isa(|isa| {
            for len in [1, 7, 16, 33, 64, 100] {
                let mut row = logits(len, 3);
                let mut padded = row.clone();
                padded.resize(len + 37, f32::NEG_INFINITY);
                softmax_row(&mut row);
                softmax_row(&mut padded);
                assert_same_bits(&padded[..len], &row, isa.name());
                assert!(padded[len..].iter().all(|&p| p == 0.0));
            }
        });
    }

    #[test]
    fn argmax_is_the_first_of_the_largest() {
        on_every_isa(|isa| {
            for len in lengths() {
                // Few values, so that there are many equals.
                let row: Vec<f32> = noise(len, 9).iter().map(|x| (x * 3.0).round()).collect();
                let largest = row.iter().copied().fold(f32::NEG_INFINITY, f32::max);
                let first = row.iter().position(|&x| x == largest);
                assert_eq!(argmax(&row), first, "{} length {len}", isa.name());
            }
            assert_eq!(argmax(&[f32::NEG_INFINITY; 20]), Some(0));
            assert_eq!(argmax(&[-1.0, f32::INFINITY, f32::INFINITY]), Some(1));
            assert_eq!(argmax(&[-0.0, 0.0]), Some(0));
            assert_eq!(argmax(&[-1e-45, -1e-44]), Some(0));
        });
    }

    #[test]
    fn top_k_is_the_sorted_row_cut_off() {
        on_every_isa(|isa| {
            for len in lengths() {
                let mut row: Vec<f32> =
                    noise(len, 4).iter().map(|x| (x * 50.0).round() + 0.5).collect();
                row.iter_mut().step_by(11).for_each(|x| *x = f32::NAN);
                row.iter_mut().step_by(13).for_each(|x| *x = f32::NEG_INFINITY);
                let entries = row.iter().enumerate().map(|(id, &x)| (id as u32, x));
                let mut sorted: Vec<(u32, f32)> = entries.filter(|(_, x)| !x.is_nan()).collect();
                sorted.sort_by(|a, b| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0)));
                for k in [0, 1, 2, 5, 40, len, len + 1] {
                    let got = top_k(&row, k);
                    let want = &sorted[..k.min(sorted.len())];
                    assert_eq!(got, want, "{} length {len} k {k}", isa.name());
                }
            }
        });
    }
}
