use super::*;
use crate::kernels::isa::available;
use crate::kernels::isa::forced::with;
use crate::kernels::pack;
use crate::kernels::parallel::with_threads;
use crate::kernels::testing::{assert_same_bits, noise};

const COMMON: Common = Common { learning_rate: 0.1, decay: 0.01, scale: 0.5, limit: 0.75 };

fn step(number: u64) -> AdafactorStep {
    AdafactorStep::new((-0.8, 0.5), (1e-30, 1e-3), 0.1, number)
}

/// The definition in f64, three steps on one row-major matrix.
fn definition(value: &[f32], gradients: &[Vec<f32>], (n, k): (usize, usize)) -> Vec<f64> {
    let mut w: Vec<f64> = value.iter().map(|&x| f64::from(x)).collect();
    let (mut r, mut c) = (vec![0.0; n], vec![0.0; k]);
    for (t, gradient) in (1..).zip(gradients) {
        let g: Vec<f64> =
            gradient.iter().map(|&g| (f64::from(g) * 0.5).clamp(-0.75, 0.75)).collect();
        let keep = 1.0 - f64::from(t).powf(-0.8);
        for i in 0..n {
            let mean = (0..k).map(|j| g[i * k + j].powi(2) + 1e-30).sum::<f64>() / k as f64;
            r[i] = keep * r[i] + (1.0 - keep) * mean;
        }
        for j in 0..k {
            let mean = (0..n).map(|i| g[i * k + j].powi(2) + 1e-30).sum::<f64>() / n as f64;
            c[j] = keep * c[j] + (1.0 - keep) * mean;
        }
        let mean = r.iter().sum::<f64>() / n as f64;
        let u: Vec<f64> = (0..n * k).map(|i| g[i] / (r[i / k] * c[i % k] / mean).sqrt()).collect();
        let root = |x: &[f64]| (x.iter().map(|x| x * x).sum::<f64>() / x.len() as f64).sqrt();
        w.iter_mut().for_each(|w| *w *= 0.99);
        let alpha = root(&w).max(1e-3) * f64::min(0.1, 1.0 / f64::from(t).sqrt());
        let clip = (root(&u) / 0.5).max(1.0);
        w.iter_mut().zip(&u).for_each(|(w, u)| *w -= alpha * u / clip);
    }
    w
}

#[test]
fn panels_and_rows_follow_the_definition_on_every_isa_with_any_team() {
    for (n, k) in [(1, 1), (5, 3), (32, 7), (70, 40), (333, 401)] {
        let value: Vec<f32> = noise(n * k, 1);
        let gradients: Vec<Vec<f32>> = (2..5).map(|seed| noise(n * k, seed)).collect();
        let expected = definition(&value, &gradients, (n, k));
        let run = |lanes: usize| {
            let shape = Matrices { count: 1, rows: n, columns: k, lanes };
            let stored = |rows: &[f32]| {
                let mut packed = vec![0.0; shape.stored()];
                match lanes {
                    1 => packed.copy_from_slice(rows),
                    _ => pack::from_rows(rows, n, k, &mut packed),
                }
                packed
            };
            let (mut w, mut row, mut column) = (stored(&value), vec![0.0; n], vec![0.0; k]);
            for (t, gradient) in (1..).zip(&gradients) {
                let averages = [&mut row[..], &mut column[..]];
                matrices(&mut w, &stored(gradient), averages, shape, COMMON, step(t));
            }
            w
        };
        for lanes in [1, 32] {
            let once = with_threads(1, || run(lanes));
            let mut rows = once.clone();
            if lanes > 1 {
                rows = vec![0.0; n * k];
                pack::to_rows(&once, n, k, &mut rows);
                let padding: f32 = once.iter().map(|x| x.abs()).sum::<f32>()
                    - rows.iter().map(|x| x.abs()).sum::<f32>();
                assert!(padding.abs() < 1e-2 * n as f32, "padding moved: {padding}");
            }
            for (got, expected) in rows.iter().zip(&expected) {
                assert!((f64::from(*got) - expected).abs() < 2e-6, "{n} {k} {lanes}");
            }
            for isa in available() {
                let again = with_threads(3, || with(isa, || run(lanes)));
                assert_same_bits(&again, &once, isa.name());
            }
        }
    }
}

#[test]
fn several_matrices_share_the_size_of_their_updates_only() {
    let (n, k) = (4, 6);
    let (value, gradient) = (noise(2 * n * k, 1), noise(2 * n * k, 2));
    let shape = Matrices { count: 2, rows: n, columns: k, lanes: 1 };
    let (mut w, mut row, mut column) = (value.clone(), vec![0.0; 2 * n], vec![0.0; 2 * k]);
    matrices(&mut w, &gradient, [&mut row, &mut column], shape, COMMON, step(1));
    for half in 0..2 {
        let of = |x: &[f32]| x[half * n * k..(half + 1) * n * k].to_vec();
        let (mut alone, shape) = (of(&value), Matrices { count: 1, ..shape });
        let (mut r, mut c) = (vec![0.0; n], vec![0.0; k]);
        matrices(&mut alone, &of(&gradient), [&mut r, &mut c], shape, COMMON, step(1));
        assert_same_bits(&row[half * n..(half + 1) * n], &r, "rows");
        let moved = |w: &[f32], i: usize| w[i] - 0.99 * of(&value)[i];
        let factor = moved(&of(&w), 0) / moved(&alone, 0);
        for i in 0..n * k {
            assert!((moved(&of(&w), i) / moved(&alone, i) - factor).abs() < 1e-3 * factor);
        }
    }
    matrices(&mut [], &[], [&mut [], &mut []], Matrices { count: 0, ..shape }, COMMON, step(1));
}
