//! The exact GELU, x * Phi(x) with Phi the normal distribution function, and its derivative.
//!
//! Phi(x) = (1 + erf(x / sqrt 2)) / 2. The error function is odd and saturates: beyond
//! [`ERF_LIMIT`] it rounds to 1. Inside, erf(t) = t P(t^2) / Q(t^2) with P and Q of degree 5,
//! fitted for this file (least relative deviation, reweighted until level: 1.9e-8, a third of an
//! ULP). All coefficients of both are positive, so nothing cancels; with rounding the error stays
//! under 6 ULP, under 1 ULP on average. Phi is as coarse as an ULP of 1 where erf is near -1, as
//! in every GELU that adds 1 to erf in f32.

use std::f32::consts::{FRAC_1_SQRT_2, FRAC_2_SQRT_PI};

use super::isa::{Kernel, Simd, with_isa};
use super::{lanes, parallel};

/// Where erf rounds to 1 in f32.
const ERF_LIMIT: f32 = 3.925;
/// Coefficients of P, the lowest first. P(0) = 2 / sqrt(pi).
const ERF_P: [f32; 6] =
    [FRAC_2_SQRT_PI, 0.19055566, 0.05276368, 0.0037707612, 0.0002847773, 2.045978e-6];
/// Coefficients of Q, the lowest first.
const ERF_Q: [f32; 6] = [1.0, 0.5022083, 0.11416645, 0.014979633, 0.0011633757, 3.8043803e-5];
/// 1 / sqrt(2 pi), the height of the normal density.
const DENSITY: f32 = FRAC_2_SQRT_PI * FRAC_1_SQRT_2 / 2.0;

/// Elements a worker should have before another is woken: about 10 us of work.
const GRAIN: usize = 16 * 1024;

/// The error function of every lane.
#[inline(always)]
pub(crate) fn erf<S: Simd>(s: S, t: S::V) -> S::V {
    let z = s.mul(t, t);
    let numerator = polynomial(s, z, &ERF_P);
    let denominator = polynomial(s, z, &ERF_Q);
    let value = s.div(s.mul(t, numerator), denominator);
    let (one, limit) = (s.splat(1.0), s.splat(ERF_LIMIT));
    let value = s.min(one, s.max(s.neg(one), value));
    // Beyond the limit z may overflow, and Phi must be exactly 0 for large negative x.
    s.select_gt(t, limit, one, s.select_gt(s.neg(limit), t, s.neg(one), value))
}

#[inline(always)]
fn polynomial<S: Simd>(s: S, z: S::V, coefficients: &[f32; 6]) -> S::V {
    let mut sum = s.splat(coefficients[5]);
    for &coefficient in coefficients[..5].iter().rev() {
        sum = s.fma(sum, z, s.splat(coefficient));
    }
    sum
}

/// The normal distribution function of every lane.
#[inline(always)]
fn normal_cdf<S: Simd>(s: S, x: S::V) -> S::V {
    let half = s.splat(0.5);
    s.fma(erf(s, s.mul(x, s.splat(FRAC_1_SQRT_2))), half, half)
}

/// GELU of every lane.
#[inline(always)]
pub(crate) fn gelu<S: Simd>(s: S, x: S::V) -> S::V {
    s.mul(x, normal_cdf(s, x))
}

/// The derivative of GELU: Phi(x) + x phi(x).
#[inline(always)]
fn gelu_slope<S: Simd>(s: S, x: S::V) -> S::V {
    let exponent = s.mul(s.mul(x, x), s.splat(-0.5));
    let density = s.mul(s.exp(exponent), s.splat(DENSITY));
    s.fma(x, density, normal_cdf(s, x))
}

/// `out[i] = gelu(x[i])`; both of one length.
pub fn forward(x: &[f32], out: &mut [f32]) {
    assert_eq!(x.len(), out.len(), "gelu: x and out");
    parallel::map(out, GRAIN, |isa, range, out| with_isa(isa, Forward { x: &x[range], out }));
}

/// `dx[i] = gelu'(x[i]) * dy[i]`; all of one length.
pub fn backward(x: &[f32], dy: &[f32], dx: &mut [f32]) {
    assert_eq!(x.len(), dy.len(), "gelu: x and dy");
    assert_eq!(x.len(), dx.len(), "gelu: x and dx");
    parallel::map(dx, GRAIN, |isa, range, dx| {
        with_isa(isa, Backward { x: &x[range.clone()], dy: &dy[range], dx })
    });
}

struct Forward<'a> {
    x: &'a [f32],
    out: &'a mut [f32],
}

impl Kernel for Forward<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        for (x, out) in self.x.chunks(S::LANES).zip(self.out.chunks_mut(S::LANES)) {
            lanes::store(s, out, gelu(s, lanes::load(s, x)));
        }
    }
}

struct Backward<'a> {
    x: &'a [f32],
    dy: &'a [f32],
    dx: &'a mut [f32],
}

impl Kernel for Backward<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let inputs = self.x.chunks(S::LANES).zip(self.dy.chunks(S::LANES));
        for ((x, dy), dx) in inputs.zip(self.dx.chunks_mut(S::LANES)) {
            let slope = gelu_slope(s, lanes::load(s, x));
            lanes::store(s, dx, s.mul(slope, lanes::load(s, dy)));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{Failures, assert_same_bits, noise, on_every_isa, ulp_error};
    use super::*;

    /// erf(t) = 2 / sqrt(pi) exp(-t^2) sum of 2^n t^(2n+1) / (2n+1)!!: positive terms only, so
    /// nothing cancels.
    fn erf_reference(t: f64) -> f64 {
        let (mut term, mut sum) = (t, t);
        for n in 1..400 {
            term *= 2.0 * t * t / f64::from(2 * n + 1);
            sum += term;
        }
        if t.abs() > 6.5 {
            t.signum()
        } else {
            sum * (-t * t).exp() * std::f64::consts::FRAC_2_SQRT_PI
        }
    }

    fn gelu_reference(x: f64) -> f64 {
        0.5 * x * (1.0 + erf_reference(x * std::f64::consts::FRAC_1_SQRT_2))
    }

    /// Denormals to beyond saturation, both signs, and the seams.
    fn inputs() -> Vec<f32> {
        let mut inputs =
            vec![0.0, -0.0, 1e-40, 1e-30, 1e-10, ERF_LIMIT, ERF_LIMIT.next_up(), 100.0];
        inputs.extend((0..40_000).map(|i| i as f32 * 1.5e-4));
        inputs.extend((0..2_000).map(|i| 2.0_f32.powf(i as f32 * 0.01 - 20.0)));
        let negative: Vec<f32> = inputs.iter().map(|x| -x).collect();
        inputs.extend(negative);
        inputs
    }

    struct Erf<'a>(&'a mut [f32]);

    impl Kernel for Erf<'_> {
        type Output = ();

        #[inline(always)]
        fn run<S: Simd>(self, s: S) {
            for x in self.0.chunks_mut(S::LANES) {
                lanes::store(s, x, erf(s, lanes::load(s, x)));
            }
        }
    }

    #[test]
    fn erf_is_within_six_ulp() {
        on_every_isa(|isa| {
            let inputs = inputs();
            let mut values = inputs.clone();
            with_isa(isa, Erf(&mut values));
            let mut failures = Failures::default();
            let mut total = 0.0;
            for (&x, &got) in inputs.iter().zip(&values) {
                let error = ulp_error(got, erf_reference(f64::from(x)));
                total += error;
                let told = || format!("{}: erf({x:e}) = {got:e}, off by {error} ULP", isa.name());
                failures.check(error < 6.0 && got.abs() <= 1.0, told);
            }
            failures.check(total < inputs.len() as f64, || format!("mean {total} above 1 ULP"));
            failures.finish();
        });
    }

    #[test]
    fn values_and_slopes_follow_the_definition() {
        on_every_isa(|isa| {
            let x = inputs();
            let ones = vec![1.0; x.len()];
            let (mut y, mut dx) = (vec![0.0; x.len()], vec![0.0; x.len()]);
            forward(&x, &mut y);
            backward(&x, &ones, &mut dx);
            let mut failures = Failures::default();
            for ((&x, &y), &dx) in x.iter().zip(&y).zip(&dx) {
                let wide = f64::from(x);
                let (exact, step) = (gelu_reference(wide), 1e-5);
                let slope =
                    (gelu_reference(wide + step) - gelu_reference(wide - step)) / (2.0 * step);
                // 1 + erf is as coarse as an ULP of 1, whatever the result's size.
                let near = (f64::from(y) - exact).abs() <= 3e-7 * wide.abs() + 1e-44;
                failures
                    .check(near, || format!("{}: gelu({x:e}) = {y:e}, not {exact:e}", isa.name()));
                let near = (f64::from(dx) - slope).abs() <= 5e-7;
                failures
                    .check(near, || format!("{}: slope({x:e}) = {dx}, not {slope}", isa.name()));
            }
            failures.finish();
        });
    }

    #[test]
    fn not_a_number_and_infinities_pass() {
        on_every_isa(|_| {
            let mut y = [0.0; 3];
            forward(&[f32::NAN, f32::INFINITY, f32::MAX], &mut y);
            assert!(y[0].is_nan());
            assert_eq!(y[1..], [f32::INFINITY, f32::MAX]);
            backward(&[f32::NAN, 1e30, -1e30], &[1.0, 2.0, 2.0], &mut y);
            assert!(y[0].is_nan());
            assert_eq!(y[1..], [2.0, 0.0]);
        });
    }

    #[test]
    fn every_length_gives_the_same_bits_as_one_element_alone() {
        on_every_isa(|isa| {
            for len in (0..70).chain([GRAIN * 3 + 5]) {
                let (x, dy) = (noise(len, 1), noise(len, 2));
                let (mut y, mut dx) = (vec![0.0; len], vec![0.0; len]);
                forward(&x, &mut y);
                backward(&x, &dy, &mut dx);
                let (mut y1, mut dx1) = (vec![0.0; len], vec![0.0; len]);
                for i in 0..len.min(2_000) {
                    forward(&x[i..=i], &mut y1[i..=i]);
                    backward(&x[i..=i], &dy[i..=i], &mut dx1[i..=i]);
                }
                let checked = len.min(2_000);
                assert_same_bits(&y[..checked], &y1[..checked], isa.name());
                assert_same_bits(&dx[..checked], &dx1[..checked], isa.name());
            }
        });
    }
}
