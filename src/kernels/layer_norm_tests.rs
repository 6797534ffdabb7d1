//! Tests of layer normalisation against the textbook formula in f64.

use super::super::parallel::with_threads;
use super::super::testing::{Failures, assert_same_bits, noise, on_every_isa};
use super::*;

const EPS: f32 = 1e-5;

/// Inputs of a test: [rows, h] arrays and the parameters.
struct Case {
    rows: usize,
    x: Vec<f32>,
    residual: Vec<f32>,
    gamma: Vec<f32>,
    beta: Vec<f32>,
    dy: Vec<f32>,
}

impl Case {
    fn new(rows: usize, h: usize) -> Self {
        let shift = |values: Vec<f32>, by: f32| values.into_iter().map(|x| x + by).collect();
        Self {
            rows,
            x: shift(noise(rows * h, 1), 3.0),
            residual: noise(rows * h, 2),
            gamma: shift(noise(h, 3), 1.0),
            beta: noise(h, 4),
            dy: noise(rows * h, 5),
        }
    }

    fn h(&self) -> usize {
        self.gamma.len()
    }

    fn input(&self, row: usize) -> Vec<f64> {
        let columns = row * self.h()..(row + 1) * self.h();
        let terms = self.x[columns.clone()].iter().zip(&self.residual[columns]);
        terms.map(|(a, b)| f64::from(a + b)).collect()
    }

    /// Everything the kernel computes: out, sum, mean_rstd, dx, dgamma, dbeta.
    fn run(&self) -> [Vec<f32>; 6] {
        let (h, all) = (self.h(), self.x.len());
        let [mut out, mut sum, mut dx] = [(); 3].map(|()| vec![7.0; all]);
        let [mut dgamma, mut dbeta] = [(); 2].map(|()| vec![7.0; h]);
        let mut saved = vec![7.0; self.rows * 2];
        let residual = Some(self.residual.as_slice());
        let (gamma, beta) = (&self.gamma, &self.beta);
        forward_save(&self.x, residual, gamma, beta, EPS, &mut out, (Some(&mut sum), &mut saved));
        backward(&self.dy, &sum, &saved, gamma, &mut dx, &mut dgamma, &mut dbeta);
        [out, sum, saved, dx, dgamma, dbeta]
    }
}

fn reference(x: &[f64], gamma: &[f32], beta: &[f32]) -> Vec<f64> {
    let h = x.len() as f64;
    let mean = x.iter().sum::<f64>() / h;
    let variance = x.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / h;
    let rstd = 1.0 / (variance + f64::from(EPS)).sqrt();
    let affine = gamma.iter().zip(beta).map(|(&g, &b)| (f64::from(g), f64::from(b)));
    x.iter().zip(affine).map(|(x, (g, b))| (x - mean) * rstd * g + b).collect()
}

/// sum(dy * LN(x)), whose derivatives the gradients are.
fn loss(x: &[f64], gamma: &[f32], beta: &[f32], dy: &[f32]) -> f64 {
    reference(x, gamma, beta).iter().zip(dy).map(|(y, &dy)| y * f64::from(dy)).sum()
}

fn check(failures: &mut Failures, what: &str, got: f32, exact: f64, tolerance: f64) {
    let near = (f64::from(got) - exact).abs() <= tolerance;
    failures.check(near, || format!("{what}: {got}, expected {exact}"));
}

#[test]
fn rows_follow_the_formula_at_every_width() {
    on_every_isa(|isa| {
        let mut failures = Failures::default();
        for h in (2..40).chain([63, 64, 65, 255, 768, 1024]) {
            let case = Case::new(3, h);
            let [out, sum, ..] = case.run();
            let mut plain = vec![0.0; out.len()];
            forward(&case.x, Some(&case.residual), &case.gamma, &case.beta, EPS, &mut plain);
            assert_same_bits(&plain, &out, "forward and forward_save");
            let mut again = vec![0.0; out.len()];
            forward(&sum, None, &case.gamma, &case.beta, EPS, &mut again);
            assert_same_bits(&again, &out, "with and without residual");
            for row in 0..3 {
                let exact = reference(&case.input(row), &case.gamma, &case.beta);
                for (column, exact) in exact.into_iter().enumerate() {
                    let what = format!("{} h {h} [{row}, {column}]", isa.name());
                    check(&mut failures, &what, out[row * h + column], exact, 3e-6);
                }
            }
        }
        failures.finish();
    });
}

#[test]
fn gradients_are_the_slopes_of_the_formula() {
    on_every_isa(|isa| {
        let mut failures = Failures::default();
        for h in [3, 8, 15, 16, 17, 33, 65, 130] {
            let case = Case::new(5, h);
            let [_, _, _, dx, dgamma, dbeta] = case.run();
            let (mut exact_gamma, mut exact_beta) = (vec![0.0; h], vec![0.0; h]);
            for row in 0..case.rows {
                let (x, dy) = (case.input(row), &case.dy[row * h..(row + 1) * h]);
                let normal = reference(&x, &vec![1.0; h], &vec![0.0; h]);
                for column in 0..h {
                    let moved = |by: f64| {
                        let mut x = x.clone();
                        x[column] += by;
                        loss(&x, &case.gamma, &case.beta, dy)
                    };
                    let slope = (moved(1e-5) - moved(-1e-5)) / 2e-5;
                    let what = format!("{} h {h} dx [{row}, {column}]", isa.name());
                    check(
                        &mut failures,
                        &what,
                        dx[row * h + column],
                        slope,
                        2e-5 * slope.abs() + 2e-5,
                    );
                    exact_gamma[column] += f64::from(dy[column]) * normal[column];
                    exact_beta[column] += f64::from(dy[column]);
                }
            }
            for column in 0..h {
                let what = format!("{} h {h} parameter gradient [{column}]", isa.name());
                check(&mut failures, &what, dgamma[column], exact_gamma[column], 1e-5);
                check(&mut failures, &what, dbeta[column], exact_beta[column], 1e-5);
            }
        }
        failures.finish();
    });
}

#[test]
fn bits_depend_on_the_row_alone() {
    on_every_isa(|isa| {
        // Enough rows for several parts of every pass.
        let (rows, h) = (GRAIN / 96 * 5, 96);
        let case = Case::new(rows, h);
        let once = with_threads(1, || case.run());
        for threads in [2, 4] {
            let more = with_threads(threads, || case.run());
            for (a, b) in once.iter().zip(&more) {
                assert_same_bits(a, b, &format!("{} {threads} threads", isa.name()));
            }
        }
        for row in [0, 1, rows / 2, rows - 1] {
            let columns = row * h..(row + 1) * h;
            let alone = Case {
                rows: 1,
                x: case.x[columns.clone()].to_vec(),
                residual: case.residual[columns.clone()].to_vec(),
                dy: case.dy[columns.clone()].to_vec(),
                gamma: case.gamma.clone(),
                beta: case.beta.clone(),
            };
            let alone = alone.run();
            assert_same_bits(&alone[0], &once[0][columns.clone()], "out");
            assert_same_bits(&alone[3], &once[3][columns], "dx");
        }
    });
}

#[test]
fn a_constant_row_gives_beta_and_nan_stays() {
    on_every_isa(|_| {
        let (gamma, beta) = (vec![2.0; 20], noise(20, 1));
        let mut out = vec![0.0; 40];
        let mut x = vec![5.0; 40];
        x[20] = f32::NAN;
        forward(&x, None, &gamma, &beta, EPS, &mut out);
        assert_same_bits(&out[..20], &beta, "constant row");
        assert!(out[20..].iter().all(|y| y.is_nan()));
        forward(&[], None, &gamma, &beta, EPS, &mut []);
    });
}
