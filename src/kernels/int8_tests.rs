use super::*;
use crate::kernels::gemm::Epilogue;
use crate::kernels::testing::{assert_same_bits, noise, on_every_isa};
use crate::kernels::{gelu, team};

/// Rows around every tile height and the limit of a part.
const ROWS: [usize; 20] = [1, 2, 3, 4, 5, 6, 7, 8, 9, 11, 12, 13, 14, 16, 17, 24, 25, 37, 145, 300];
/// Outputs around a panel, and inputs around a group.
const WIDTHS: [usize; 7] = [1, 31, 32, 33, 47, 64, 100];
const DEPTHS: [usize; 8] = [1, 3, 4, 5, 64, 257, 768, 1030];

/// Runs `check` on every instruction set, with and without what some processors add for this.
fn on_every_path(mut check: impl FnMut(isa::Isa)) {
    on_every_isa(|isa| {
        check(isa);
        if let Some((isa, _)) = isa::plain(isa) {
            isa::forced::with(isa, || check(isa));
        }
    });
}

/// The definition of a row's values and scale.
fn quantized(row: &[f32]) -> (Vec<i64>, f32) {
    let largest = row.iter().fold(0.0_f32, |largest, x| largest.max(x.abs()));
    let scale = 127.0 / (largest + 1e-7);
    (row.iter().map(|x| (x * scale).round_ties_even() as i64).collect(), scale)
}

/// The definition of a product.
fn naive(x: &[f32], w: &[f32], k: usize, bias: &[f32]) -> Vec<f32> {
    let weight: Vec<_> = w.chunks_exact(k).map(quantized).collect();
    let mut out = Vec::new();
    for (x, x_scale) in x.chunks_exact(k).map(quantized) {
        for ((w, w_scale), bias) in weight.iter().zip(bias) {
            let sum: i64 = x.iter().zip(w).map(|(x, w)| x * w).sum();
            out.push(sum as f32 / (x_scale * w_scale) + bias);
        }
    }
    out
}

/// A stored weight `[n, k]`.
struct Stored {
    packed: Vec<u8>,
    scales: Vec<f32>,
    n: usize,
    k: usize,
}

/// A source of values in memory.
fn from<T: Copy + Sync>(values: &[T]) -> impl Fn(usize, &mut [T]) -> Result<(), ()> + Sync {
    |first, run| {
        run.copy_from_slice(&values[first..][..run.len()]);
        Ok(())
    }
}

impl Stored {
    fn quantized(rows: &[f32], n: usize, k: usize) -> Self {
        let (mut packed, mut scales) = (vec![OFFSET; packed_len(n, k)], vec![f32::NAN; n]);
        quantize_rows(n, k, &mut packed, &mut scales, &from(rows)).unwrap();
        Stored { packed, scales, n, k }
    }

    fn product(&self, x: &[f32], bias: Option<&[f32]>, epilogue: Epilogue) -> Vec<f32> {
        let (m, weight) = (x.len() / self.k, Weight { packed: &self.packed, scales: &self.scales });
        let mut out = vec![f32::NAN; m * self.n];
        linear(x, m, self.k, weight, self.n, bias, epilogue, &mut out);
        out
    }
}

#[test]
fn rows_are_quantised_by_the_definition() {
    on_every_isa(|_| {
        for (n, k) in [(1, 1), (3, 5), (33, 64), (70, 31), (2, 70_000), (0, 3), (3, 0)] {
            let mut rows = noise(n * k, 9);
            rows.iter_mut().take(k).for_each(|x| *x = 0.0);
            let stored = Stored::quantized(&rows, n, k);
            let values = to_rows(&stored.packed, n, k);
            for r in 0..n {
                let (expected, scale) = quantized(&rows[r * k..][..k]);
                assert_eq!(stored.scales[r].to_bits(), scale.to_bits());
                let row: Vec<i64> = values[r * k..][..k].iter().map(|&q| q.into()).collect();
                assert_eq!(row, expected, "[{n}, {k}] row {r}");
            }
            let mut again = vec![7; stored.packed.len()];
            read_rows(n, k, &mut again, &from(&values)).unwrap();
            assert_eq!(again, stored.packed);
            let columns: Vec<i8> = (0..n * k).map(|i| values[(i % n) * k + i / n]).collect();
            again.fill(7);
            read_columns(n, k, &mut again, &from(&columns)).unwrap();
            assert_eq!(again, stored.packed, "[{n}, {k}] from columns");
            if n > 0 {
                let mut out = vec![f32::NAN; 2 * k];
                gather_rows(&stored.packed, &stored.scales, n, k, &[n as u32 - 1, 0], &mut out);
                let last = quantized(&rows[(n - 1) * k..]);
                assert!(out.iter().zip(last.0).all(|(x, q)| *x == q as f32 / last.1));
            }
        }
    });
}

#[test]
fn ties_go_to_even_and_extremes_are_kept() {
    // The scale is 1 but for its epsilon, which these values survive.
    let x = [127.0, -127.0, 2.5, 3.5, -2.5, 0.49];
    let mut values = [0; 6];
    assert_eq!(quantize_row(&x, &mut values), 1.0);
    assert_eq!(values, [127, -127, 2, 4, -2, 0]);
    assert_eq!((byte(-127), byte(0), value(byte(-1))), (1, 128, -1));
}

#[test]
fn products_are_exact_at_every_size() {
    on_every_path(|isa| {
        for (at, m) in ROWS.into_iter().enumerate() {
            // Every row count with two depths and two widths; all pairs come up.
            for step in 0..2 {
                let n = WIDTHS[(at + step) % WIDTHS.len()];
                let k = DEPTHS[(at * 2 + step * 3) % DEPTHS.len()];
                let (x, w, bias) = (noise(m * k, 1), noise(n * k, 2), noise(n, 3));
                let weight = Stored::quantized(&w, n, k);
                let out = weight.product(&x, Some(&bias), Epilogue::None);
                let what = format!("{} m {m} n {n} k {k}", isa.name());
                assert_same_bits(&out, &naive(&x, &w, k, &bias), &what);
                let mut activated = vec![0.0; out.len()];
                gelu::forward(&out, &mut activated);
                let out = weight.product(&x, Some(&bias), Epilogue::Gelu);
                assert_same_bits(&out, &activated, &format!("{what} gelu"));
            }
        }
    });
}

#[test]
fn extreme_values_neither_saturate_nor_overflow() {
    on_every_path(|isa| {
        for k in [4, 5, 1024, MOST_INPUTS] {
            for (sign, value) in [(1.0, 127), (-1.0, 127), (1.0, -127), (-1.0, -127)] {
                let mut packed = vec![OFFSET; packed_len(3, k)];
                read_rows(3, k, &mut packed, &from(&vec![value; 3 * k])).unwrap();
                let weight = Stored { packed, scales: vec![2.0; 3], n: 3, k };
                let out = weight.product(&vec![sign * 127.0; k], None, Epilogue::None);
                let sum = k as i64 * 127 * i64::from(value) * sign as i64;
                assert_eq!(out, [sum as f32 / 2.0; 3], "{} k {k} value {value}", isa.name());
            }
        }
    });
}

#[test]
fn threads_and_batches_change_no_bit() {
    on_every_path(|isa| {
        let (m, n, k) = (45, 300, 520);
        let (x, weight) = (noise(m * k, 1), Stored::quantized(&noise(n * k, 2), n, k));
        let run = |x: &[f32]| weight.product(x, None, Epilogue::None);
        let one = team::with_threads(1, || run(&x));
        for threads in [2, 4] {
            let out = team::with_threads(threads, || run(&x));
            assert_same_bits(&out, &one, &format!("{} {threads} threads", isa.name()));
        }
        for row in [0, 17, 44] {
            let alone = run(&x[row * k..][..k]);
            assert_same_bits(&alone, &one[row * n..][..n], isa.name());
        }
    });
}

#[test]
fn rows_that_are_zero_or_not_finite() {
    on_every_path(|_| {
        let weight = Stored::quantized(&noise(40 * 9, 2), 40, 9);
        assert_eq!(weight.product(&[0.0; 9], None, Epilogue::None), [0.0; 40]);
        for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
            let mut x = noise(18, 1);
            x[3] = bad;
            let out = weight.product(&x, None, Epilogue::None);
            assert!(out[..40].iter().all(|y| !y.is_finite()), "{bad}");
            assert!(out[40..].iter().all(|y| y.is_finite()));
        }
        let zero = Stored::quantized(&[0.0; 9], 1, 9);
        assert_eq!(zero.product(&noise(9, 1), None, Epilogue::None), [0.0]);
        assert!(weight.product(&[], None, Epilogue::None).is_empty());
    });
}
