//! Tests of attention against the definition in f64, written with loops over everything.

use super::super::isa::{self, Pairs};
use super::super::parallel::with_threads;
use super::super::testing::{Failures, assert_same_bits, noise, on_every_isa, with_pairs};
use super::*;

/// A description with its arrays.
#[derive(Clone)]
struct Case {
    lengths: Vec<(usize, usize)>,
    q_offsets: Vec<usize>,
    k_offsets: Vec<usize>,
    visible: Option<Vec<bool>>,
    causal: bool,
    heads: usize,
    head_dim: usize,
    /// Values between the end of a row and the next.
    gap: usize,
    no_key: NoKey,
    dropout: Option<Dropout>,
    q: Vec<f32>,
    k: Vec<f32>,
    v: Vec<f32>,
    dout: Vec<f32>,
}

impl Case {
    fn new(lengths: &[(usize, usize)], heads: usize, head_dim: usize) -> Self {
        let offsets = |side: fn(&(usize, usize)) -> usize| {
            let ends = lengths.iter().map(side).scan(0, |end, length| {
                *end += length;
                Some(*end)
            });
            std::iter::once(0).chain(ends).collect::<Vec<_>>()
        };
        let (q_offsets, k_offsets) = (offsets(|l| l.0), offsets(|l| l.1));
        let (queries, keys) = (q_offsets[lengths.len()], k_offsets[lengths.len()]);
        let (width, gap) = (heads * head_dim, 3);
        let scaled = |len, seed| noise(len, seed).into_iter().map(|x| 2.0 * x).collect();
        Self {
            lengths: lengths.to_vec(),
            q_offsets,
            k_offsets,
            visible: None,
            causal: false,
            heads,
            head_dim,
            gap,
            no_key: NoKey::Zeros,
            dropout: None,
            q: scaled(queries * (width + gap), 1),
            k: scaled(keys * (width + gap), 2),
            v: scaled(keys * (width + gap), 3),
            dout: noise(queries * width, 4),
        }
    }

    fn width(&self) -> usize {
        self.heads * self.head_dim
    }

    fn stride(&self) -> usize {
        self.width() + self.gap
    }

    fn scale(&self) -> f32 {
        1.0 / (self.head_dim as f32).sqrt()
    }

    fn ragged(&self) -> Ragged<'_> {
        Ragged {
            q_offsets: &self.q_offsets,
            k_offsets: &self.k_offsets,
            key_visible: self.visible.as_deref(),
            causal: self.causal,
            heads: self.heads,
            head_dim: self.head_dim,
            scale: self.scale(),
            q_stride: self.stride(),
            kv_stride: self.stride(),
            no_key: self.no_key,
            dropout: self.dropout,
        }
    }

    fn forward(&self) -> Vec<f32> {
        let mut out = vec![7.0; self.dout.len()];
        forward(&self.ragged(), &self.q, &self.k, &self.v, &mut out);
        out
    }

    fn forward_bfloat16(&self) -> Vec<f32> {
        let mut out = vec![7.0; self.dout.len()];
        forward_bfloat16(&self.ragged(), &self.q, &self.k, &self.v, &mut out);
        out
    }

    /// out, lse, dq, dk, dv, and out by bfloat16, if there is such a thing
    fn run(&self) -> [Vec<f32>; 6] {
        let (queries, keys) = self.ragged().totals();
        let mut out = vec![7.0; queries * self.width()];
        let mut lse = vec![7.0; queries * self.heads];
        let mut dq = vec![7.0; queries * self.width()];
        let [mut dk, mut dv] = [(); 2].map(|()| vec![7.0; keys * self.width()]);
        let ragged = self.ragged();
        forward_save(&ragged, &self.q, &self.k, &self.v, &mut out, &mut lse);
        backward(
            &ragged, &self.q, &self.k, &self.v, &out, &self.dout, &lse, &mut dq, &mut dk, &mut dv,
        );
        let has_pairs = isa::pairs_of(isa::current()) != Pairs::Missing;
        let coarse = has_pairs && self.dropout.is_none();
        [out, lse, dq, dk, dv, if coarse { self.forward_bfloat16() } else { Vec::new() }]
    }

    /// Whether query `i` of sequence `s` sees key `j`.
    fn sees(&self, s: usize, i: usize, j: usize) -> bool {
        let (queries, keys) = self.lengths[s];
        let visible = self.visible.as_ref().is_none_or(|visible| visible[self.k_offsets[s] + j]);
        visible && (!self.causal || j + queries <= i + keys)
    }

    /// The definition, on arrays of f64 laid out as q, k and v are.
    fn reference(&self, [q, k, v]: [&[f64]; 3]) -> Vec<f64> {
        let mut out = vec![0.0; self.dout.len()];
        for (s, &(queries, keys)) in self.lengths.iter().enumerate() {
            for (i, head) in (0..queries).flat_map(|i| (0..self.heads).map(move |h| (i, h))) {
                let query = self.q_offsets[s] + i;
                let at = |row: usize, d: usize| row * self.stride() + head * self.head_dim + d;
                let dot = |j: usize| -> f64 {
                    let key = self.k_offsets[s] + j;
                    (0..self.head_dim).map(|d| q[at(query, d)] * k[at(key, d)]).sum()
                };
                let scale = f64::from(self.scale());
                let seen: Vec<usize> = (0..keys).filter(|&j| self.sees(s, i, j)).collect();
                let scores: Vec<f64> = seen.iter().map(|&j| (scale * dot(j)).exp()).collect();
                let total: f64 = scores.iter().sum();
                let mut weights = vec![0.0; keys];
                for (&j, score) in seen.iter().zip(scores) {
                    let index = dropout_index(query, self.heads, head, j);
                    let factor = self.dropout.map_or(1.0, |dropout| dropout.factor(index));
                    weights[j] = score / total * f64::from(factor);
                }
                if seen.is_empty() && self.no_key == NoKey::MeanOfValues {
                    weights.fill(1.0 / keys as f64);
                }
                for (j, weight) in weights.into_iter().enumerate() {
                    for d in 0..self.head_dim {
                        let value = v[at(self.k_offsets[s] + j, d)];
                        out[query * self.width() + head * self.head_dim + d] += weight * value;
                    }
                }
            }
        }
        out
    }

    fn wide_inputs(&self) -> [Vec<f64>; 3] {
        [&self.q, &self.k, &self.v].map(|values| values.iter().map(|&x| f64::from(x)).collect())
    }

    fn check_forward(&self, failures: &mut Failures, what: &str) {
        let [q, k, v] = self.wide_inputs();
        let exact = self.reference([&q, &k, &v]);
        for (i, (&got, exact)) in self.forward().iter().zip(exact).enumerate() {
            let near = (f64::from(got) - exact).abs() <= 4e-6;
            failures.check(near, || format!("{what} [{i}]: {got}, expected {exact}"));
        }
    }

    /// Every gradient against central differences of sum(out * dout) in f64.
    fn check_gradients(&self, failures: &mut Failures, what: &str) {
        let loss = |inputs: &[Vec<f64>; 3]| -> f64 {
            let out = self.reference([&inputs[0], &inputs[1], &inputs[2]]);
            out.iter().zip(&self.dout).map(|(out, &dout)| out * f64::from(dout)).sum()
        };
        let mut inputs = self.wide_inputs();
        let [_, _, dq, dk, dv, _] = self.run();
        for (which, gradient) in [dq, dk, dv].iter().enumerate() {
            for (i, &got) in gradient.iter().enumerate() {
                let at = i / self.width() * self.stride() + i % self.width();
                let before = inputs[which][at];
                inputs[which][at] = before + 1e-5;
                let above = loss(&inputs);
                inputs[which][at] = before - 1e-5;
                let slope = (above - loss(&inputs)) / 2e-5;
                inputs[which][at] = before;
                let near = (f64::from(got) - slope).abs() <= 2e-5;
                let name = ["dq", "dk", "dv"][which];
                failures.check(near, || format!("{what} {name} [{i}]: {got}, expected {slope}"));
            }
        }
    }
}

/// Hides about a third of the keys, the first of each sequence among them.
fn with_holes(case: &Case) -> Case {
    let keys = case.k_offsets[case.lengths.len()];
    let mut visible: Vec<bool> = noise(keys, 9).iter().map(|&x| x > -0.3).collect();
    for &start in case.k_offsets.iter().filter(|&&start| start < keys) {
        visible[start] = false;
    }
    Case { visible: Some(visible), ..case.clone() }
}

fn causal(case: &Case) -> Case {
    Case { causal: true, ..case.clone() }
}

fn dropped(case: &Case) -> Case {
    let dropout = Some(Dropout { probability: 0.3, seed: 8, stream: 5 });
    Case { dropout, ..case.clone() }
}

fn averaged(case: &Case) -> Case {
    Case { no_key: NoKey::MeanOfValues, ..case.clone() }
}

#[test]
fn every_length_follows_the_definition() {
    on_every_isa(|isa| {
        let mut failures = Failures::default();
        for length in (0..41).chain([63, 64, 65, 129]) {
            let case = Case::new(&[(length, length)], 2, 8);
            for (case, kind) in [
                (case.clone(), "plain"),
                (causal(&case), "causal"),
                (with_holes(&case), "holes"),
                (averaged(&causal(&with_holes(&case))), "causal holes, mean"),
                (dropped(&causal(&case)), "causal dropout"),
            ] {
                case.check_forward(&mut failures, &format!("{} {kind} {length}", isa.name()));
            }
        }
        failures.finish();
    });
}

#[test]
fn every_head_width_follows_the_definition() {
    on_every_isa(|isa| {
        let mut failures = Failures::default();
        for head_dim in (1..36).chain([48, 64, 80, 128]) {
            let case = Case::new(&[(3, 35), (9, 9)], 3, head_dim);
            case.check_forward(&mut failures, &format!("{} width {head_dim}", isa.name()));
        }
        Case::new(&[(512, 512)], 1, 64).check_forward(&mut failures, isa.name());
        failures.finish();
    });
}

/// Of bfloat16, beside the definition of inputs that are rounded: rounding moves a weight by 2^-9 of it at
/// most, its exponential is off by 8e-5 at most, and values reach 2.
#[test]
fn bfloat16_follows_the_definition() {
    with_pairs(|isa| {
        let mut failures = Failures::default();
        let mut check = |case: Case, what: &str| {
            let inputs = [&case.q, &case.k, &case.v].map(|values| {
                let rounded = values.iter().map(|&x| half::bf16::from_f32(x).to_f64());
                rounded.collect::<Vec<f64>>()
            });
            let exact = case.reference([&inputs[0], &inputs[1], &inputs[2]]);
            for (i, (&got, exact)) in case.forward_bfloat16().iter().zip(exact).enumerate() {
                let near = (f64::from(got) - exact).abs() <= 4.3e-3;
                failures.check(near, || format!("{what} [{i}]: {got}, expected {exact}"));
            }
        };
        for length in (0..41).chain([63, 64, 65, 129]) {
            let case = Case::new(&[(length, length)], 2, 8);
            let holes = with_holes(&case);
            let what = format!("{} length {length}", isa.name());
            check(averaged(&causal(&holes)), &what);
            check(holes, &what);
            check(causal(&case), &what);
            check(case, &what);
        }
        for head_dim in (1..36).chain([48, 64, 80, 128]) {
            let case = Case::new(&[(3, 35), (9, 9), (2, 0), (0, 3)], 3, head_dim);
            check(case, &format!("{} width {head_dim}", isa.name()));
        }
        check(Case::new(&[(512, 512)], 1, 64), isa.name());
        failures.finish();
    });
}

#[test]
fn weights_times_values_are_the_attention() {
    on_every_isa(|isa| {
        let mut failures = Failures::default();
        let plain = Case::new(&[(1, 1), (0, 3), (2, 0), (7, 5), (13, 70), (33, 33)], 3, 5);
        for case in [plain.clone(), causal(&plain), averaged(&causal(&with_holes(&plain)))] {
            let count = |&(queries, keys): &(usize, usize)| 3 * queries * keys;
            let mut blocks = vec![7.0; case.lengths.iter().map(count).sum()];
            weights(&case.ragged(), &case.q, &case.k, &mut blocks);
            let (mut out, mut weights) = (vec![0.0; case.dout.len()], blocks.iter());
            for (s, &(queries, keys)) in case.lengths.iter().enumerate() {
                for (head, i, j) in (0..3).flat_map(|head| {
                    (0..queries).flat_map(move |i| (0..keys).map(move |j| (head, i, j)))
                }) {
                    let weight = *weights.next().unwrap();
                    let blind = !(0..keys).any(|j| case.sees(s, i, j));
                    assert!(weight == 0.0 || case.sees(s, i, j) || blind);
                    for d in head * 5..head * 5 + 5 {
                        out[(case.q_offsets[s] + i) * 15 + d] +=
                            weight * case.v[(case.k_offsets[s] + j) * case.stride() + d];
                    }
                }
            }
            for (i, (got, expected)) in out.into_iter().zip(case.forward()).enumerate() {
                let near = (got - expected).abs() <= 4e-6;
                failures.check(near, || format!("{} [{i}]: {got}, not {expected}", isa.name()));
            }
        }
        failures.finish();
    });
}

#[test]
fn gradients_are_the_slopes_of_the_definition() {
    let shapes = [
        (vec![(1, 1), (0, 3), (2, 0), (7, 5)], 2, 5),
        (vec![(13, 13), (3, 3)], 1, 8),
        (vec![(26, 34)], 1, 17),
        (vec![(5, 2), (33, 33)], 1, 3),
    ];
    on_every_isa(|isa| {
        let mut failures = Failures::default();
        for (lengths, heads, head_dim) in &shapes {
            let case = Case::new(lengths, *heads, *head_dim);
            for (case, kind) in [
                (case.clone(), "plain"),
                (causal(&case), "causal"),
                (with_holes(&dropped(&case)), "holes, dropout"),
                (averaged(&causal(&with_holes(&case))), "causal holes, mean"),
            ] {
                case.check_gradients(&mut failures, &format!("{} {kind} {lengths:?}", isa.name()));
            }
        }
        failures.finish();
    });
}

#[test]
fn a_row_without_keys_gets_zeros_or_the_mean() {
    on_every_isa(|_| {
        let mut case = Case::new(&[(4, 4)], 1, 16);
        case.visible = Some(vec![false; 4]);
        let [out, lse, dq, dk, dv, coarse] = case.run();
        assert!([out, dq, dk, dv, coarse].iter().flatten().all(|&x| x == 0.0));
        assert!(lse.iter().all(|&x| x == NO_KEY));
        let out = averaged(&case).forward();
        assert_same_bits(&out[..16], &out[16..32], "all rows are the same mean");
        for (d, &mean) in out[..16].iter().enumerate() {
            let exact = (0..4).map(|j| f64::from(case.v[j * case.stride() + d])).sum::<f64>() / 4.0;
            assert!((f64::from(mean) - exact).abs() < 1e-6);
        }
    });
}

#[test]
fn bits_depend_on_the_sequence_alone() {
    on_every_isa(|isa| {
        let lengths = [(5, 70), (130, 130), (0, 4), (64, 33), (1, 1)];
        for case in [Case::new(&lengths, 3, 40), causal(&with_holes(&Case::new(&lengths, 3, 40)))] {
            let once = with_threads(1, || case.run());
            for threads in [2, 4, 9] {
                for (got, once) in with_threads(threads, || case.run()).iter().zip(&once) {
                    assert_same_bits(got, once, &format!("{} {threads} threads", isa.name()));
                }
            }
            for (s, &length) in lengths.iter().enumerate() {
                let stride = case.stride();
                let (queries, keys) = (
                    case.q_offsets[s]..case.q_offsets[s + 1],
                    case.k_offsets[s]..case.k_offsets[s + 1],
                );
                let rows = |values: &[f32], rows: &std::ops::Range<usize>, stride: usize| {
                    values[rows.start * stride..rows.end * stride].to_vec()
                };
                let alone = Case {
                    lengths: vec![length],
                    q_offsets: vec![0, queries.len()],
                    k_offsets: vec![0, keys.len()],
                    visible: case.visible.as_ref().map(|visible| visible[keys.clone()].to_vec()),
                    q: rows(&case.q, &queries, stride),
                    k: rows(&case.k, &keys, stride),
                    v: rows(&case.v, &keys, stride),
                    dout: rows(&case.dout, &queries, case.width()),
                    ..case.clone()
                };
                let alone = alone.run();
                let width = case.width();
                assert_same_bits(&alone[0], &rows(&once[0], &queries, width), "out alone");
                assert_same_bits(&alone[2], &rows(&once[2], &queries, width), "dq alone");
                assert_same_bits(&alone[3], &rows(&once[3], &keys, width), "dk alone");
                assert_same_bits(&alone[4], &rows(&once[4], &keys, width), "dv alone");
                if !once[5].is_empty() {
                    assert_same_bits(&alone[5], &rows(&once[5], &queries, width), "bfloat16 alone");
                }
            }
        }
    });
}

#[test]
fn a_causal_row_has_the_bits_of_a_shorter_sequence() {
    on_every_isa(|isa| {
        let case = causal(&Case::new(&[(70, 70)], 2, 24));
        let all = case.forward();
        let coarse = Some(&case.run()[5]).filter(|coarse| !coarse.is_empty()).cloned();
        for length in [1, 2, 5, 31, 32, 33, 64, 69] {
            // Only the last query, with the keys so far: a decoding step.
            let width = case.width();
            let row = length - 1;
            let step = Case {
                lengths: vec![(1, length)],
                q_offsets: vec![0, 1],
                k_offsets: vec![0, length],
                q: case.q[row * case.stride()..length * case.stride()].to_vec(),
                k: case.k[..length * case.stride()].to_vec(),
                v: case.v[..length * case.stride()].to_vec(),
                dout: vec![0.0; width],
                ..case.clone()
            };
            assert_same_bits(&step.forward(), &all[row * width..length * width], isa.name());
            if let Some(all) = &coarse {
                let row = &all[row * width..length * width];
                assert_same_bits(&step.forward_bfloat16(), row, isa.name());
            }
        }
    });
}

#[test]
fn not_a_number_is_not_hidden() {
    on_every_isa(|_| {
        let mut case = Case::new(&[(3, 40), (1, 1)], 1, 8);
        let stride = case.stride();
        case.k[17 * stride + 2] = f32::NAN;
        for out in [case.forward(), case.run()[5].clone()].iter().filter(|out| !out.is_empty()) {
            assert!(out[..3 * 8].iter().all(|x| x.is_nan()));
            assert!(out[3 * 8..].iter().all(|x| x.is_finite()));
        }
    });
}

/// `cargo test --release bench_attention -- --ignored --nocapture`
#[test]
#[ignore = "a measurement"]
fn bench_attention() {
    for (length, heads, repeats) in [(512, 12, 20), (64, 48, 100)] {
        let mut case = Case::new(&[(length, length)], heads, 64);
        case.gap = 0;
        on_every_isa(|isa| {
            let threads = super::super::team::num_threads();
            for threads in [1, threads] {
                let [mut forward, mut both, mut coarse] = [f64::INFINITY; 3];
                let pairs = isa::pairs_of(isa) == Pairs::Fast;
                with_threads(threads, || {
                    for _ in 0..repeats {
                        let start = std::time::Instant::now();
                        std::hint::black_box(case.forward());
                        forward = forward.min(start.elapsed().as_secs_f64());
                        std::hint::black_box(case.run());
                        both = both.min(start.elapsed().as_secs_f64());
                        let start = std::time::Instant::now();
                        if pairs {
                            std::hint::black_box(case.forward_bfloat16());
                            coarse = coarse.min(start.elapsed().as_secs_f64());
                        }
                    }
                });
                let products = (2 * length * length * heads * 64) as f64;
                println!(
                    "{:7} {length} x {heads} x 64, {threads} threads: forward {:.2} ms, {:.0} GF/s; backward {:.2} ms, {:.0} GF/s; bfloat16 {:.2} ms",
                    isa.name(),
                    forward * 1e3,
                    2.0 * products / forward / 1e9,
                    (both - 2.0 * forward) * 1e3,
                    5.0 * products / (both - 2.0 * forward) / 1e9,
                    coarse * 1e3,
                );
            }
        });
    }
}
