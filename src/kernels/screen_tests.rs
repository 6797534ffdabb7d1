//! Against the whole product, to the bit, for weights made to mislead.

use super::super::gemm;
use super::super::half_float::HalfFormat;
use super::super::pack;
use super::super::parallel::with_threads;
use super::super::testing::{bits, noise, on_every_isa};
use super::*;

const K: usize = 70;
const N: usize = 2000;

/// Rows of a weight, and a name.
fn weights() -> Vec<(&'static str, Vec<f32>)> {
    let plain = noise(N * K, 1);
    let changed = |change: &dyn Fn(usize, usize, f32) -> f32| -> Vec<f32> {
        plain.iter().enumerate().map(|(i, &x)| change(i / K, i % K, x)).collect()
    };
    vec![
        ("plain", plain.clone()),
        ("rows twice", changed(&|row, column, _| plain[row / 2 * K + column])),
        ("nearly equal rows", changed(&|_, column, x| plain[column] + x * 1e-6)),
        // The coarse copy sees one number of a row and nothing of the rest.
        ("an outlier a row", changed(&|row, column, x| if column == row % K { 90.0 } else { x })),
        ("sizes far apart", changed(&|row, _, x| x * 2.0_f32.powi((row % 80) as i32 - 40))),
        ("zeros", changed(&|row, _, x| if row % 3 == 0 { 0.0 } else { x })),
        ("denormal", changed(&|_, _, x| x * 1e-40)),
        ("tiny", changed(&|_, _, x| x * 1e-22)),
        ("huge", changed(&|_, _, x| x * 9e14)),
        (
            "cancelling",
            changed(&|_, column, x| {
                if column < 2 { 3e3 * (1 - 2 * column as i32) as f32 } else { x }
            }),
        ),
    ]
}

fn inputs() -> Vec<(&'static str, Vec<f32>)> {
    let plain = noise(3 * K, 5);
    let scaled = |by: f32| plain.iter().map(|x| x * by).collect::<Vec<_>>();
    let mut outlier = plain.clone();
    outlier[4] = 300.0;
    vec![
        ("plain", plain.clone()),
        ("outlier", outlier),
        ("tiny", scaled(1e-30)),
        ("denormal", scaled(1e-41)),
        ("huge", scaled(5e14)),
        ("zero", vec![0.0; 3 * K]),
    ]
}

/// Whether it was found, having compared it with the whole product.
fn compare(
    panels: Panels<'_>,
    x: &[f32],
    bias: Option<&[f32]>,
    limit: usize,
    count: usize,
) -> bool {
    let screen = Screen::new(panels, N, K).unwrap();
    let (mut screening, mut best, mut whole) = Default::default();
    let rows = x.len() / K;
    let found = screen.linear_best(x, panels, limit, bias, count, &mut screening, &mut best);
    let ask = Ask { count, log_sum: false };
    if found {
        assert!(gemm::linear_best(x, rows, K, panels, limit, bias, ask, &mut whole));
        for row in 0..rows {
            let values = |best: &Best| best.row(row).iter().map(|x| x.1).collect::<Vec<_>>();
            assert_eq!(best.row(row), whole.row(row));
            assert_eq!(bits(&values(&best)), bits(&values(&whole)));
        }
    }
    found
}

#[test]
fn the_best_are_those_of_the_whole_product() {
    on_every_isa(|isa| {
        let (mut tried, mut found) = (0, 0);
        for (of_weights, rows) in weights() {
            let mut floats = vec![0.0; pack::packed_len(N, K)];
            pack::from_rows(&rows, N, K, &mut floats);
            for (of_inputs, x) in inputs() {
                let biases = [None, Some(noise(N, 8)), Some(vec![-1e20; N])];
                for (i, bias) in biases.iter().enumerate() {
                    let (limit, count) = [(N, 1), (N - 45, 4), (N - 1, 1)][i];
                    let panels = Panels::Float(&floats);
                    let hit = compare(panels, &x, bias.as_deref(), limit, count);
                    (tried, found) = (tried + 1, found + usize::from(hit));
                    let plain = of_weights == "plain" && of_inputs == "plain";
                    assert!(hit || !plain || i == 2, "{} {i}: left too much", isa.name());
                }
            }
        }
        assert!(found > tried / 4, "{}: {found} of {tried}", isa.name());
    });
}

#[test]
fn weights_of_16_bits_and_rounded_ones_are_screened_as_they_are_multiplied() {
    let mut floats = vec![0.0; pack::packed_len(N, K)];
    pack::from_rows(&noise(N * K, 1), N, K, &mut floats);
    for format in [HalfFormat::Float16, HalfFormat::Bfloat16] {
        let mut half = vec![0; floats.len()];
        format.narrow(&floats, &mut half);
        for panels in [Panels::Half(format, &half), Panels::Rounded(format, &floats)] {
            for seed in 0..20 {
                assert!(compare(panels, &noise(2 * K, seed), None, N, 2));
            }
        }
    }
}

#[test]
fn bounds_hold_for_every_result() {
    on_every_isa(|isa| {
        for (of_weights, rows) in weights() {
            let mut floats = vec![0.0; pack::packed_len(N, K)];
            pack::from_rows(&rows, N, K, &mut floats);
            let screen = Screen::new(Panels::Float(&floats), N, K).unwrap();
            for (of_inputs, x) in inputs() {
                let bias = noise(N, 8);
                let of_rows: Vec<_> = x.chunks(K).map(|x| RowBound::new(x).unwrap()).collect();
                let call = Bounds { screen: &screen, rows: &of_rows };
                let ask = Ask { count: N, log_sum: true };
                let mut bounds = Best::default();
                let layer = (screen.coarse(), N, Some(&bias[..]));
                assert!(coarse_product(&x, (3, K), layer, &call, ask, &mut bounds));
                let mut whole = vec![0.0; 3 * N];
                gemm::linear(&x, 3, K, &floats[..], N, Some(&bias), Epilogue::None, &mut whole);
                for (row, whole) in whole.chunks(N).enumerate() {
                    let what = format!("{} {of_weights} {of_inputs} {row}", isa.name());
                    for &(id, lower) in bounds.row(row) {
                        assert!(lower <= whole[id as usize], "{what} {id}");
                    }
                    let highest = bounds.highest(row, N.div_ceil(PANEL));
                    for (upper, panel) in highest.iter().zip(whole.chunks(PANEL)) {
                        assert!(panel.iter().all(|x| x <= upper), "{what}");
                    }
                }
            }
        }
    });
}

#[test]
fn the_answer_is_the_same_for_any_number_of_threads() {
    let mut floats = vec![0.0; pack::packed_len(N, K)];
    pack::from_rows(&noise(N * K, 1), N, K, &mut floats);
    let run = |threads| {
        with_threads(threads, || {
            let screen = Screen::new(Panels::Float(&floats), N, K).unwrap();
            let (mut screening, mut best) = Default::default();
            let x = noise(2 * K, 3);
            let panels = Panels::Float(&floats);
            assert!(screen.linear_best(&x, panels, N, None, 3, &mut screening, &mut best));
            (0..2).flat_map(|row| best.row(row).to_vec()).collect::<Vec<_>>()
        })
    };
    assert_eq!(run(1), run(2));
    assert_eq!(run(1), run(4));
}

#[test]
fn what_may_overflow_or_is_no_number_is_left_to_the_whole_product() {
    let mut floats = vec![0.0; pack::packed_len(N, K)];
    pack::from_rows(&noise(N * K, 1), N, K, &mut floats);
    for value in [f32::NAN, f32::INFINITY, 1e20] {
        let mut broken = floats.clone();
        broken[K * PANEL + 7] = value;
        assert!(Screen::new(Panels::Float(&broken), N, K).is_none(), "weight {value}");
        let mut x = noise(K, 2);
        x[3] = value;
        assert!(!compare(Panels::Float(&floats), &x, None, N, 1), "input {value}");
    }
    for value in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY, f32::MAX, -2e37] {
        let mut bias = vec![0.0; N];
        bias[N - 1] = value;
        assert!(!compare(Panels::Float(&floats), &noise(K, 2), Some(&bias), N, 1), "bias {value}");
        assert!(compare(Panels::Float(&floats), &noise(K, 2), Some(&bias), N - 1, 1));
    }
    assert!(Screen::new(Panels::Float(&[]), 0, K).is_none());
}
