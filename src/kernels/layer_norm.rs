//! Layer normalisation after a residual sum: y = (s - mean) * rstd * gamma + beta, s = x + residual
//! (Ba, Kiros and Hinton, "Layer normalization", 2016), and its gradient.
//!
//! Mean and variance are two passes over the row in f32, so nothing cancels; sums over a row have
//! the order of [`row_sum`], sums over rows run from the first row to the last. A row's
//! result depends on that row alone. Near memory bandwidth for arrays beyond the caches.

use super::disjoint::Disjoint;
use super::isa::{Kernel, Simd, with_isa};
use super::lanes::{self, row_sum};
use super::parallel;

/// Elements a worker should have before another is woken.
const GRAIN: usize = 16 * 1024;
/// Columns of one part of the sums over rows: whole cache lines, and a buffer on the stack.
const COLUMNS: usize = 64;

/// `out = LN(x + residual) * gamma + beta` for every row.
///
/// `x`, `residual` and `out` are [rows, h] with h = `gamma.len()` = `beta.len()`; `eps` is added
/// to the variance.
pub fn forward(
    x: &[f32],
    residual: Option<&[f32]>,
    gamma: &[f32],
    beta: &[f32],
    eps: f32,
    out: &mut [f32],
) {
    run_rows(&Input { x, residual, gamma, beta, eps }, out, None);
}

/// Where the forward pass leaves what [`backward`] needs: `x + residual` [rows, h], if it is wanted, and
/// mean and 1 / sqrt(variance + eps) of each row [rows, 2].
type Kept<'a> = (Option<&'a mut [f32]>, &'a mut [f32]);

/// [`forward`], keeping what [`backward`] needs.
pub fn forward_save(
    x: &[f32],
    residual: Option<&[f32]>,
    gamma: &[f32],
    beta: &[f32],
    eps: f32,
    out: &mut [f32],
    kept: Kept<'_>,
) {
    run_rows(&Input { x, residual, gamma, beta, eps }, out, Some(kept));
}

/// What the rows share, and the rows themselves.
struct Input<'a> {
    x: &'a [f32],
    residual: Option<&'a [f32]>,
    gamma: &'a [f32],
    beta: &'a [f32],
    eps: f32,
}

fn run_rows(input: &Input, out: &mut [f32], kept: Option<Kept<'_>>) {
    let h = input.gamma.len();
    if h == 0 {
        return;
    }
    let rows = input.x.len() / h;
    assert_eq!(input.x.len(), rows * h, "layer_norm: x is not [rows, {h}]");
    assert_eq!(input.beta.len(), h, "layer_norm: beta");
    assert_eq!(input.residual.map_or(rows * h, <[f32]>::len), rows * h, "layer_norm: residual");
    assert_eq!(out.len(), rows * h, "layer_norm: out");
    if let Some((sum, mean_rstd)) = &kept {
        assert!(sum.as_ref().is_none_or(|sum| sum.len() == rows * h), "layer_norm: sum");
        assert_eq!(mean_rstd.len(), rows * 2, "layer_norm: mean_rstd");
    }
    let out = Disjoint::new(out);
    let kept = kept.map(|(sum, mean_rstd)| (sum.map(Disjoint::new), Disjoint::new(mean_rstd)));
    parallel::ranges(rows, GRAIN.div_ceil(h), 1, |isa, range| {
        for row in range {
            // SAFETY: `ranges` gives no row twice.
            let (out, kept) = unsafe {
                let kept = kept.as_ref().map(|(sum, mean_rstd)| {
                    (sum.as_ref().map(|sum| sum.slice(row * h, h)), mean_rstd.slice(row * 2, 2))
                });
                (out.slice(row * h, h), kept)
            };
            with_isa(isa, NormRow { input, row, out, kept });
        }
    });
}

/// One row of the forward pass.
struct NormRow<'a> {
    input: &'a Input<'a>,
    row: usize,
    out: &'a mut [f32],
    kept: Option<Kept<'a>>,
}

impl Kernel for NormRow<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let Input { gamma, beta, eps, .. } = *self.input;
        let (h, out) = (gamma.len(), self.out);
        let columns = self.row * h..(self.row + 1) * h;
        let x = &self.input.x[columns.clone()];
        // `out` holds x + residual until the last pass.
        match self.input.residual {
            None => out.copy_from_slice(x),
            Some(residual) => add_rows(s, x, &residual[columns], out),
        }
        let mean = row_sum!(s, h, |c| lanes::load(s, &out[c])) / h as f32;
        let variance = centred_square_sum(s, out, mean) / h as f32;
        let rstd = 1.0 / (variance + eps).sqrt();
        if let Some((sum, mean_rstd)) = self.kept {
            if let Some(sum) = sum {
                sum.copy_from_slice(out);
            }
            mean_rstd.copy_from_slice(&[mean, rstd]);
        }
        let affine = gamma.chunks(S::LANES).zip(beta.chunks(S::LANES));
        for (out, (gamma, beta)) in out.chunks_mut(S::LANES).zip(affine) {
            let centred = s.sub(lanes::load(s, out), s.splat(mean));
            let normal = s.mul(centred, s.splat(rstd));
            lanes::store(s, out, s.fma(normal, lanes::load(s, gamma), lanes::load(s, beta)));
        }
    }
}

#[inline(always)]
fn add_rows<S: Simd>(s: S, a: &[f32], b: &[f32], out: &mut [f32]) {
    let terms = a.chunks(S::LANES).zip(b.chunks(S::LANES));
    for (out, (a, b)) in out.chunks_mut(S::LANES).zip(terms) {
        lanes::store(s, out, s.add(lanes::load(s, a), lanes::load(s, b)));
    }
}

/// The sum of (x - mean)^2. The last, partial vector is summed apart, since its missing lanes
/// would each add mean^2.
#[inline(always)]
fn centred_square_sum<S: Simd>(s: S, row: &[f32], mean: f32) -> f32 {
    let whole = row.len() / S::LANES * S::LANES;
    let (body, tail) = row.split_at(whole);
    let body = row_sum!(s, whole, |c| {
        let centred = s.sub(lanes::load(s, &body[c]), s.splat(mean));
        s.mul(centred, centred)
    });
    tail.iter().fold(body, |sum, &x| sum + (x - mean) * (x - mean))
}

/// The gradients of `forward_save`: `dx` [rows, h] (of x and of the residual alike), `dgamma` and
/// `dbeta` [h], all overwritten.
///
/// `sum` and `mean_rstd` are what `forward_save` kept, `dy` [rows, h] the gradient of its output.
pub fn backward(
    dy: &[f32],
    sum: &[f32],
    mean_rstd: &[f32],
    gamma: &[f32],
    dx: &mut [f32],
    dgamma: &mut [f32],
    dbeta: &mut [f32],
) {
    let h = gamma.len();
    if h == 0 {
        return;
    }
    let rows = dy.len() / h;
    assert_eq!(dy.len(), rows * h, "layer_norm: dy is not [rows, {h}]");
    assert_eq!(sum.len(), rows * h, "layer_norm: sum");
    assert_eq!(dx.len(), rows * h, "layer_norm: dx");
    assert_eq!(mean_rstd.len(), rows * 2, "layer_norm: mean_rstd");
    assert_eq!((dgamma.len(), dbeta.len()), (h, h), "layer_norm: dgamma, dbeta");
    let saved = Saved { dy, sum, mean_rstd, gamma };

    let dx = Disjoint::new(dx);
    parallel::ranges(rows, GRAIN.div_ceil(h), 1, |isa, range| {
        for row in range {
            // SAFETY: `ranges` gives no row twice.
            let dx = unsafe { dx.slice(row * h, h) };
            with_isa(isa, InputGradient { saved: &saved, row, dx });
        }
    });
    let (dgamma, dbeta) = (Disjoint::new(dgamma), Disjoint::new(dbeta));
    let grain = GRAIN.div_ceil(rows.max(1) * COLUMNS);
    parallel::ranges(h.div_ceil(COLUMNS), grain, 1, |isa, range| {
        for start in range.map(|block| block * COLUMNS) {
            let len = COLUMNS.min(h - start);
            // SAFETY: `ranges` gives no block of columns twice.
            let (dgamma, dbeta) = unsafe { (dgamma.slice(start, len), dbeta.slice(start, len)) };
            with_isa(isa, ParameterGradient { saved: &saved, start, dgamma, dbeta });
        }
    });
}

/// What the backward pass reads.
struct Saved<'a> {
    dy: &'a [f32],
    sum: &'a [f32],
    mean_rstd: &'a [f32],
    gamma: &'a [f32],
}

/// `dx` of one row: with n = (s - mean) * rstd and g = dy * gamma,
/// dx = rstd * (g - mean(g) - n * mean(g n)).
struct InputGradient<'a> {
    saved: &'a Saved<'a>,
    row: usize,
    dx: &'a mut [f32],
}

impl Kernel for InputGradient<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let Saved { gamma, mean_rstd, .. } = *self.saved;
        let h = gamma.len();
        let columns = self.row * h..(self.row + 1) * h;
        let (dy, sum) = (&self.saved.dy[columns.clone()], &self.saved.sum[columns]);
        let (mean, rstd) = (mean_rstd[2 * self.row], mean_rstd[2 * self.row + 1]);
        // Of each vector of columns: g = dy * gamma and n. Lanes beyond the row have g = 0.
        macro_rules! terms {
            ($c:ident) => {{
                let dy = lanes::load(s, &dy[$c.clone()]);
                let centred = s.sub(lanes::load(s, &sum[$c.clone()]), s.splat(mean));
                let g = s.mul(dy, lanes::load(s, &gamma[$c.clone()]));
                (g, s.mul(centred, s.splat(rstd)))
            }};
        }
        let mean_g = row_sum!(s, h, |c| terms!(c).0) / h as f32;
        let mean_gn = row_sum!(s, h, |c| {
            let (g, n) = terms!(c);
            s.mul(g, n)
        }) / h as f32;
        for start in (0..h).step_by(S::LANES) {
            let c = start..h.min(start + S::LANES);
            let (g, n) = terms!(c);
            let value = s.fma(n, s.splat(-mean_gn), s.sub(g, s.splat(mean_g)));
            lanes::store(s, &mut self.dx[c], s.mul(value, s.splat(rstd)));
        }
    }
}

/// `dgamma` and `dbeta` of the columns from `start`, summed from the first row to the last.
struct ParameterGradient<'a> {
    saved: &'a Saved<'a>,
    start: usize,
    dgamma: &'a mut [f32],
    dbeta: &'a mut [f32],
}

impl Kernel for ParameterGradient<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let Saved { dy, sum, mean_rstd, gamma } = *self.saved;
        let (h, len) = (gamma.len(), self.dbeta.len());
        self.dgamma.fill(0.0);
        self.dbeta.fill(0.0);
        for (row, mean_rstd) in mean_rstd.chunks_exact(2).enumerate() {
            let columns = row * h + self.start..row * h + self.start + len;
            let (dy, sum) = (&dy[columns.clone()], &sum[columns]);
            let (mean, rstd) = (s.splat(mean_rstd[0]), s.splat(mean_rstd[1]));
            for start in (0..len).step_by(S::LANES) {
                let c = start..len.min(start + S::LANES);
                let dy = lanes::load(s, &dy[c.clone()]);
                let normal = s.mul(s.sub(lanes::load(s, &sum[c.clone()]), mean), rstd);
                let dgamma = s.fma(dy, normal, lanes::load(s, &self.dgamma[c.clone()]));
                let dbeta = s.add(dy, lanes::load(s, &self.dbeta[c.clone()]));
                lanes::store(s, &mut self.dgamma[c.clone()], dgamma);
                lanes::store(s, &mut self.dbeta[c], dbeta);
            }
        }
    }
}

#[cfg(test)]
#[path = "layer_norm_tests.rs"]
mod tests;
