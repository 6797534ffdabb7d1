use super::*;
use crate::kernels::testing::{assert_same_bits, noise, on_every_isa};

/// Rows around every tile height and the limit of a part.
const ROWS: [usize; 20] = [1, 2, 3, 4, 5, 6, 7, 8, 9, 11, 12, 13, 14, 16, 17, 24, 25, 37, 145, 300];
/// Outputs around a panel, and inputs around a group.
const WIDTHS: [usize; 7] = [1, 31, 32, 33, 47, 64, 100];
const DEPTHS: [usize; 8] = [1, 3, 4, 5, 64, 257, 768, 1030];

/// Runs `check` on every instruction set, with and without what some processors add for this.
fn on_every_path(mut check: impl FnMut(isa::Isa)) {
    on_every_isa(|isa| {
        check(isa);
        if let Some(isa) = isa::without_vnni(isa) {
            isa::forced::with(isa, || check(isa));
        }
    });
}

/// The definition of a row's codes and scale.
fn quantize(row: &[f32]) -> (Vec<i32>, f32) {
    let largest = row.iter().fold(0.0_f32, |largest, x| largest.max(x.abs()));
    let scale = 127.0 / (largest + 1e-7);
    (row.iter().map(|x| (x * scale).round_ties_even() as i32).collect(), scale)
}

/// The definition of a product.
fn naive(x: &[f32], w: &[f32], k: usize, bias: &[f32]) -> Vec<f32> {
    let weight: Vec<_> = w.chunks_exact(k).map(quantize).collect();
    let mut out = Vec::new();
    for row in x.chunks_exact(k).map(quantize) {
        for ((codes, scale), bias) in weight.iter().zip(bias) {
            let sum: i32 = codes.iter().zip(&row.0).map(|(w, x)| w * x).sum();
            out.push(sum as f32 / (row.1 * scale) + bias);
        }
    }
    out
}

fn quantized(w: &[f32], k: usize) -> Int8Weight {
    let mut rows = w.chunks_exact(k);
    let read = |row: &mut [f32]| -> Result<(), ()> {
        row.copy_from_slice(rows.next().ok_or(())?);
        Ok(())
    };
    Int8Weight::from_rows(w.len() / k, k, read).unwrap()
}

fn product(x: &[f32], w: &Int8Weight, bias: Option<&[f32]>, epilogue: Epilogue) -> Vec<f32> {
    let mut out = vec![f32::NAN; x.len() / w.columns() * w.rows()];
    linear(x, w, bias, epilogue, &mut out);
    out
}

#[test]
fn products_are_exact_at_every_size() {
    on_every_path(|isa| {
        for (at, m) in ROWS.into_iter().enumerate() {
            for step in 0..2 {
                let n = WIDTHS[(at + step) % WIDTHS.len()];
                let k = DEPTHS[(at * 2 + step * 3) % DEPTHS.len()];
                let (x, w, bias) = (noise(m * k, 1), noise(n * k, 2), noise(n, 3));
                let weight = quantized(&w, k);
                let out = product(&x, &weight, Some(&bias), Epilogue::None);
                let what = format!("{} m {m} n {n} k {k}", isa.name());
                assert_same_bits(&out, &naive(&x, &w, k, &bias), &what);
                let mut gelu = vec![0.0; out.len()];
                gelu::forward(&out, &mut gelu);
                let activated = product(&x, &weight, Some(&bias), Epilogue::Gelu);
                assert_same_bits(&activated, &gelu, &what);
            }
        }
    });
}

#[test]
fn extreme_codes_neither_saturate_nor_overflow() {
    on_every_path(|isa| {
        for k in [4, 5, 1024, 4096] {
            for (sign, code) in [(1.0, 127), (-1.0, 127), (1.0, -127), (-1.0, -127), (-1.0, -128)] {
                let weight = Int8Weight::from_codes(&vec![code; 3 * k], vec![2.0; 3], k);
                let out = product(&vec![sign * 127.0; k], &weight, None, Epilogue::None);
                let sum = k as i32 * i32::from(code) * if sign > 0.0 { 127 } else { -127 };
                let expected = sum as f32 / (127.0 / (127.0 + 1e-7) * 2.0);
                assert_eq!(out, [expected; 3], "{} k {k} code {code}", isa.name());
            }
        }
    });
}

#[test]
fn threads_and_batches_change_no_bit() {
    on_every_path(|isa| {
        let (m, n, k) = (45, 300, 520);
        let (x, weight) = (noise(m * k, 1), quantized(&noise(n * k, 2), k));
        let run = |x: &[f32]| product(x, &weight, None, Epilogue::None);
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
        let weight = quantized(&noise(40 * 9, 2), 9);
        assert_eq!(product(&[0.0; 9], &weight, None, Epilogue::None), [0.0; 40]);
        for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
            let mut x = noise(18, 1);
            x[3] = bad;
            let out = product(&x, &weight, None, Epilogue::None);
            assert!(
                out[..40].iter().all(|y| y.is_nan()) && out[40..].iter().all(|y| y.is_finite())
            );
        }
        let zero = quantized(&[0.0; 9], 9);
        assert_eq!(product(&noise(9, 1), &zero, None, Epilogue::None), [0.0]);
        assert!(product(&[], &weight, None, Epilogue::None).is_empty());
    });
}

#[test]
fn codes_go_in_and_out() {
    for (n, k) in [(1, 1), (33, 5), (64, 8), (70, 31)] {
        let w = noise(n * k, 7);
        let weight = quantized(&w, k);
        let codes: Vec<i8> = (0..n).flat_map(|row| weight.row(row).collect::<Vec<_>>()).collect();
        let expected: Vec<i8> =
            w.chunks_exact(k).flat_map(|row| quantize(row).0).map(|code| code as i8).collect();
        assert_eq!(codes, expected);
        let again = Int8Weight::from_codes(&codes, weight.scales().to_vec(), k);
        assert_eq!((&*again.codes, &again.offsets), (&*weight.codes, &weight.offsets));
        let ids = [0, n as u32 - 1, 0];
        let mut out = vec![0.0; ids.len() * k];
        weight.gather_rows(&ids, 3.0, &mut out);
        let (id, i) = (n - 1, k - 1);
        assert_eq!(out[2 * k - 1], f32::from(codes[id * k + i]) / weight.scales()[id] * 3.0);
    }
}
