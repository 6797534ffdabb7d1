//! Cross entropy of integer targets under softmax, and its gradient, a row of logits at a time.
//!
//! nll = log_sum_exp(logits) - logits[target]; d nll / d logits = softmax(logits) - onehot(target).
//! Rows are independent, so a row's bits depend on that row alone. Limit: memory bandwidth.

use super::disjoint::Disjoint;
use super::isa::{Kernel, Simd, with_isa};
use super::{best, lanes, parallel, softmax};

/// Elements a worker should have before another is woken.
const GRAIN: usize = 16 * 1024;

/// For every row of `logits` [t, v]: `nll` [t], the negative log likelihood of its target;
/// `lse` [t], the log of the summed exponentials ([`backward`] wants it); `correct` [t], 1 where
/// the target is the first of the largest logits, else 0.
///
/// v is `logits.len() / targets.len()`; every target is below v.
pub fn forward(
    logits: &[f32],
    targets: &[u32],
    nll: &mut [f32],
    lse: &mut [f32],
    correct: &mut [u8],
) {
    let (t, v) = shape(logits, targets);
    assert_eq!((nll.len(), lse.len(), correct.len()), (t, t, t), "cross_entropy: results");
    let (nll, lse, correct) = (Disjoint::new(nll), Disjoint::new(lse), Disjoint::new(correct));
    parallel::ranges(t, GRAIN.div_ceil(v.max(1)), 1, |isa, rows| {
        for row in rows {
            let logits = &logits[row * v..(row + 1) * v];
            let (sum, best) = with_isa(isa, RowStatistics(logits));
            let target = targets[row] as usize;
            // SAFETY: `ranges` gives no row twice.
            unsafe {
                nll.slice(row, 1)[0] = sum - logits[target];
                lse.slice(row, 1)[0] = sum;
                correct.slice(row, 1)[0] = u8::from(best == Some(target));
            }
        }
    });
}

/// Turns `logits` [t, v] into their slopes, (softmax(logits) - onehot(target)) * row_scale; rows of scale 0
/// become zeros whatever their logits. `lse` is [`forward`]'s.
pub fn backward(logits: &mut [f32], lse: &[f32], targets: &[u32], row_scale: &[f32]) {
    let (t, v) = shape(logits, targets);
    assert_eq!((lse.len(), row_scale.len()), (t, t), "cross_entropy: lse, row_scale");
    let all = Disjoint::new(logits);
    parallel::ranges(t, GRAIN.div_ceil(v.max(1)), 1, |isa, rows| {
        for row in rows {
            // SAFETY: `ranges` gives no row twice.
            let slopes = unsafe { all.slice(row * v, v) };
            let (scale, target) = (row_scale[row], targets[row] as usize);
            if scale == 0.0 {
                slopes.fill(0.0);
                continue;
            }
            let logit = slopes[target];
            with_isa(isa, ScaledSoftmax { row: slopes, lse: lse[row], scale });
            // The probability again, since (p * scale) - scale would cancel where p is near 1.
            slopes[target] = (logit - lse[row]).exp_m1() * scale;
        }
    });
}

/// (t, v), having checked that they fit.
fn shape(logits: &[f32], targets: &[u32]) -> (usize, usize) {
    let t = targets.len();
    let v = logits.len().checked_div(t).unwrap_or(0);
    assert_eq!(logits.len(), t * v, "cross_entropy: logits is not [{t}, v]");
    assert!(targets.iter().all(|&target| (target as usize) < v), "cross_entropy: target >= {v}");
    (t, v)
}

/// Log of the summed exponentials and first largest element of a row.
struct RowStatistics<'a>(&'a [f32]);

impl Kernel for RowStatistics<'_> {
    type Output = (f32, Option<usize>);

    #[inline(always)]
    fn run<S: Simd>(self, s: S) -> Self::Output {
        (best::log_sum_exp(s, self.0), softmax::argmax_lanes(s, self.0))
    }
}

/// row = exp(row - lse) * scale
struct ScaledSoftmax<'a> {
    row: &'a mut [f32],
    lse: f32,
    scale: f32,
}

impl Kernel for ScaledSoftmax<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let (lse, scale) = (s.splat(self.lse), s.splat(self.scale));
        for part in self.row.chunks_mut(S::LANES) {
            let p = s.exp(s.sub(lanes::load(s, part), lse));
            lanes::store(s, part, s.mul(p, scale));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::parallel::with_threads;
    use super::super::testing::{Failures, assert_same_bits, noise, on_every_isa};
    use super::*;

    /// (nll, lse, correct, dlogits) of `t` rows.
    type Results = (Vec<f32>, Vec<f32>, Vec<u8>, Vec<f32>);

    fn run(logits: &[f32], targets: &[u32], scale: &[f32]) -> Results {
        let t = targets.len();
        let (mut nll, mut lse, mut correct) = (vec![7.0; t], vec![7.0; t], vec![7; t]);
        forward(logits, targets, &mut nll, &mut lse, &mut correct);
        let mut dlogits = logits.to_vec();
        backward(&mut dlogits, &lse, targets, scale);
        (nll, lse, correct, dlogits)
    }

    fn case(t: usize, v: usize) -> (Vec<f32>, Vec<u32>, Vec<f32>) {
        let logits = noise(t * v, 1).into_iter().map(|x| x * 8.0).collect();
        let targets = (0..t).map(|row| (row * 7919 % v) as u32).collect();
        (logits, targets, noise(t, 2))
    }

    fn nll_reference(row: &[f64], target: u32) -> f64 {
        row.iter().map(|x| x.exp()).sum::<f64>().ln() - row[target as usize]
    }

    #[test]
    fn losses_and_slopes_follow_the_definition() {
        on_every_isa(|isa| {
            let mut failures = Failures::default();
            for v in (1..70).chain([129, 1000]) {
                let (logits, targets, scale) = case(4, v);
                let (nll, _, correct, dlogits) = run(&logits, &targets, &scale);
                for row in 0..4 {
                    let x: Vec<f64> =
                        logits[row * v..(row + 1) * v].iter().map(|&x| f64::from(x)).collect();
                    let (exact, target) = (nll_reference(&x, targets[row]), targets[row] as usize);
                    let near = (f64::from(nll[row]) - exact).abs() <= 3e-6;
                    failures.check(near, || format!("{} v {v}: nll {}", isa.name(), nll[row]));
                    let hit = x.iter().all(|&other| x[target] >= other);
                    failures.check(correct[row] == u8::from(hit), || format!("v {v}: correct"));
                    for column in 0..v {
                        let moved = |by: f64| {
                            let mut x = x.clone();
                            x[column] += by;
                            nll_reference(&x, targets[row])
                        };
                        let slope = (moved(1e-5) - moved(-1e-5)) / 2e-5 * f64::from(scale[row]);
                        let got = f64::from(dlogits[row * v + column]);
                        let told = || {
                            format!("{} v {v} [{row}, {column}]: {got}, not {slope}", isa.name())
                        };
                        failures.check((got - slope).abs() <= 1e-6, told);
                    }
                }
            }
            failures.finish();
        });
    }

    #[test]
    fn bits_depend_on_the_row_alone() {
        on_every_isa(|isa| {
            let (t, v) = (9, 50_265);
            let (logits, targets, scale) = case(t, v);
            let once = with_threads(1, || run(&logits, &targets, &scale));
            for threads in [2, 4] {
                let more = with_threads(threads, || run(&logits, &targets, &scale));
                assert_same_bits(&more.0, &once.0, "nll");
                assert_same_bits(&more.1, &once.1, "lse");
                assert_eq!(more.2, once.2, "{}", isa.name());
                assert_same_bits(&more.3, &once.3, "dlogits");
            }
            let row = 4;
            let columns = row * v..(row + 1) * v;
            let alone = run(&logits[columns.clone()], &targets[row..=row], &scale[row..=row]);
            assert_same_bits(&alone.0, &once.0[row..=row], "nll alone");
            assert_same_bits(&alone.3, &once.3[columns], "dlogits alone");
        });
    }

    #[test]
    fn ties_zero_scales_and_nan() {
        on_every_isa(|_| {
            let logits = [1.0, 1.0, 0.0, 1.0, 1.0, 0.0, f32::NAN, 0.0, 0.0];
            let (nll, _, correct, dlogits) = run(&logits, &[0, 1, 1], &[1.0, 1.0, 0.0]);
            assert_eq!(correct, [1, 0, 0]);
            assert!(nll[2].is_nan());
            assert_eq!(dlogits[6..], [0.0; 3]);
            run(&[], &[], &[]);
        });
    }
}
