//! Against whole rows of results, to the bit.

use super::super::gemm::{self, Epilogue, Panels};
use super::super::half_float::HalfFormat;
use super::super::parallel::with_threads;
use super::super::testing::{assert_same_bits, noise, on_every_isa};
use super::super::{int8, pack, softmax};
use super::*;

const K: usize = 40;

/// Weights of which many are equal rows, so that there are equal results.
fn weights(n: usize) -> Vec<f32> {
    let kinds = noise(K * n.div_ceil(3), 7);
    (0..n).flat_map(|row| kinds[row / 3 * 13 % n.div_ceil(3) * K..][..K].to_vec()).collect()
}

/// A product in one of its forms: all results, and what is gathered of the first `limit`.
#[allow(clippy::type_complexity)] // Named nowhere else.
struct Form<'a> {
    name: &'a str,
    all: &'a dyn Fn(&[f32], usize, &mut [f32]),
    best: &'a dyn Fn(&[f32], usize, usize, Ask, &mut Best) -> bool,
}

/// Calls `check` for every form of a product with `n` outputs.
fn forms(n: usize, bias: &[f32], check: &mut dyn FnMut(Form<'_>)) {
    let rows = weights(n);
    let mut floats = vec![0.0; pack::packed_len(n, K)];
    pack::from_rows(&rows, n, K, &mut floats);
    let mut half = vec![0; floats.len()];
    HalfFormat::Bfloat16.narrow(&floats, &mut half);
    for (name, panels) in [
        ("float32", Panels::Float(&floats)),
        ("bfloat16", Panels::Half(HalfFormat::Bfloat16, &half)),
        ("rounded", Panels::Rounded(HalfFormat::Float16, &floats)),
    ] {
        check(Form {
            name,
            all: &|x, m, out| gemm::linear(x, m, K, panels, n, Some(bias), Epilogue::None, out),
            best: &|x, m, limit, ask, best| {
                gemm::linear_best(x, m, K, panels, limit, Some(bias), ask, best)
            },
        });
    }
    let (mut packed, mut scales) = (vec![0; int8::packed_len(n, K)], vec![0.0; n]);
    let read = |first: usize, run: &mut [f32]| -> std::result::Result<(), ()> {
        run.copy_from_slice(&rows[first..][..run.len()]);
        Ok(())
    };
    int8::quantize_rows(n, K, &mut packed, &mut scales, &read).unwrap();
    let w = int8::Weight { packed: &packed, scales: &scales };
    check(Form {
        name: "int8",
        all: &|x, m, out| int8::linear(x, m, K, w, n, Some(bias), Epilogue::None, out),
        best: &|x, m, limit, ask, best| int8::linear_best(x, m, K, w, limit, Some(bias), ask, best),
    });
}

#[test]
fn what_is_gathered_is_what_whole_rows_hold() {
    on_every_isa(|isa| {
        let mut best = Best::default();
        for (n, limit) in [(1, 1), (32, 31), (100, 100), (100, 37), (1111, 1000)] {
            let bias: Vec<f32> = noise(n, 3).iter().map(|x| (x * 2.0).round()).collect();
            forms(n, &bias, &mut |form| {
                for m in [1, 2, 5, 13, 150] {
                    let x = noise(m * K, m as u64);
                    let mut all = vec![0.0; m * n];
                    (form.all)(&x, m, &mut all);
                    for (count, log_sum) in [(1, false), (5, true), (70, true)] {
                        for threads in [1, 3] {
                            let ask = Ask { count, log_sum };
                            let what = format!("{} {} {n} {limit} {m}", isa.name(), form.name);
                            assert!(
                                with_threads(threads, || (form.best)(&x, m, limit, ask, &mut best)),
                                "{what}"
                            );
                            assert_eq!(best.rows(), m);
                            for (row, all) in all.chunks_exact(n).enumerate() {
                                let all = &all[..limit];
                                assert_eq!(best.row(row), softmax::top_k(all, count), "{what}");
                                assert_eq!(
                                    best.row(row)[0].0 as usize,
                                    softmax::argmax(all).unwrap()
                                );
                                if log_sum {
                                    let sum = softmax::log_sum_exp(all);
                                    assert_same_bits(&[best.log_sum(row)], &[sum], &what);
                                } else {
                                    assert!(best.log_sum(row).is_nan());
                                }
                            }
                        }
                    }
                }
            });
        }
    });
}

#[test]
fn a_result_that_is_no_number_leaves_no_answer() {
    on_every_isa(|isa| {
        let mut best = Best::default();
        let ask = Ask { count: 2, log_sum: true };
        for n in [40, 64] {
            for (place, value) in
                [(0, f32::NAN), (33, f32::INFINITY), (n - 1, f32::NEG_INFINITY), (n - 1, f32::NAN)]
            {
                let mut bias = vec![0.0; n];
                bias[place] = value;
                forms(n, &bias, &mut |form| {
                    let x = noise(3 * K, 1);
                    let what = format!("{} {} {place}", isa.name(), form.name);
                    assert!(!(form.best)(&x, 3, n, ask, &mut best), "{what}");
                    if place == n - 1 {
                        assert!(
                            (form.best)(&x, 3, n - 1, ask, &mut best),
                            "{what}: beyond the limit"
                        );
                    }
                });
            }
        }
    });
}

#[test]
fn lists_are_sorted_and_equal_values_are_in_the_order_of_their_ids() {
    let mut list = [(0, 0.0); 3];
    let mut length = 0;
    for entry in [(5, 1.0), (9, 2.0), (2, 1.0), (7, 1.0), (1, 0.5), (3, 2.0), (4, 2.0)] {
        length = insert(&mut list, length, entry);
    }
    assert_eq!((length, list), (3, [(3, 2.0), (4, 2.0), (9, 2.0)]));
    assert_eq!(insert(&mut [], 0, (1, 1.0)), 0);
}
