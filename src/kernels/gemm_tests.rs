use super::*;
use crate::kernels::isa::{Isa, Kernel, Simd, with_isa};
use crate::kernels::testing::{Failures, assert_same_bits, noise, on_every_isa, with_pairs};
use crate::kernels::{gelu, pack};

/// Rows around every tile height and every limit of the plan.
const ROWS: [usize; 27] = [
    1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17, 18, 19, 20, 24, 25, 31, 47, 191,
    193, 400,
];
/// Columns around a panel, and depths around a block.
const WIDTHS: [usize; 7] = [1, 31, 32, 33, 47, 64, 100];
const DEPTHS: [usize; 7] = [1, 7, 64, 257, 767, 768, 769];

/// The definition: `out[i][j] = sum of left[i][d] * right[d][j]`, one chain of the instruction set's
/// multiply-add with `d` ascending.
struct Naive<'a> {
    rows: usize,
    columns: usize,
    depth: usize,
    left: &'a dyn Fn(usize, usize) -> f32,
    right: &'a dyn Fn(usize, usize) -> f32,
}

impl Kernel for Naive<'_> {
    type Output = Vec<f32>;

    #[inline(always)]
    fn run<S: Simd>(self, s: S) -> Vec<f32> {
        let mut out = Vec::with_capacity(self.rows * self.columns);
        let mut lane = [0.0; 16];
        for i in 0..self.rows {
            for j in 0..self.columns {
                let mut sum = s.zero();
                for d in 0..self.depth {
                    sum = s.fma(s.splat((self.left)(i, d)), s.splat((self.right)(d, j)), sum);
                }
                // SAFETY: the longest vector has sixteen lanes.
                unsafe { s.store(lane.as_mut_ptr(), sum) };
                out.push(lane[0]);
            }
        }
        out
    }
}

impl Naive<'_> {
    /// The same in `f64`, and the sum of magnitudes that bounds the rounding error.
    fn exact(&self, i: usize, j: usize) -> (f64, f64) {
        (0..self.depth).fold((0.0, 0.0), |(sum, size), d| {
            let term = f64::from((self.left)(i, d)) * f64::from((self.right)(d, j));
            (sum + term, size + term.abs())
        })
    }

    /// Compares `got` with the chain's bits, and with the exact sum within the chain's error bound.
    fn check(self, isa: Isa, got: &[f32], what: &str) {
        let (columns, depth) = (self.columns, self.depth as f64);
        let mut failures = Failures::default();
        for (at, value) in got.iter().enumerate() {
            let (exact, size) = self.exact(at / columns, at % columns);
            let bound = (depth + 1.0) * f64::from(f32::EPSILON) * size;
            failures.check((f64::from(*value) - exact).abs() <= bound, || {
                format!("{what} [{at}]: {value:e}, exact {exact:e}")
            });
        }
        failures.finish();
        assert_same_bits(got, &with_isa(isa, self), what);
    }
}

/// A weight and inputs for a case.
struct Case {
    m: usize,
    n: usize,
    k: usize,
    x: Vec<f32>,
    dy: Vec<f32>,
    w: Vec<f32>,
    packed: Vec<f32>,
}

impl Case {
    fn new(m: usize, n: usize, k: usize) -> Self {
        let w = noise(n * k, 3);
        let mut packed = vec![0.0; packed_len(n, k)];
        pack::from_rows(&w, n, k, &mut packed);
        Case { m, n, k, x: noise(m * k, 1), dy: noise(m * n, 2), w, packed }
    }

    fn linear(&self) -> Vec<f32> {
        let mut out = vec![f32::NAN; self.m * self.n];
        linear(&self.x, self.m, self.k, &self.packed, self.n, None, Epilogue::None, &mut out);
        out
    }

    fn backward_input(&self) -> Vec<f32> {
        let mut dx = vec![f32::NAN; self.m * self.k];
        linear_backward_input(
            Numbers::Float32,
            &self.dy,
            self.m,
            self.n,
            &self.packed,
            self.k,
            &mut dx,
        );
        dx
    }

    fn backward_weight(&self) -> Vec<f32> {
        let mut dw = vec![f32::NAN; self.packed.len()];
        linear_backward_weight(
            Numbers::Float32,
            &self.x,
            &self.dy,
            self.m,
            self.k,
            self.n,
            &mut dw,
        );
        dw
    }

    fn check(&self, isa: Isa) {
        let &Case { m, n, k, .. } = self;
        let what = format!("{} m {m} n {n} k {k}", isa.name());
        let x = |i: usize, d: usize| self.x[i * k + d];
        let dy = |i: usize, d: usize| self.dy[i * n + d];
        let w = |j: usize, d: usize| self.w[j * k + d];

        Naive { rows: m, columns: n, depth: k, left: &x, right: &|d, j| w(j, d) }.check(
            isa,
            &self.linear(),
            &format!("{what} linear"),
        );
        Naive { rows: m, columns: k, depth: n, left: &dy, right: &w }.check(
            isa,
            &self.backward_input(),
            &format!("{what} dx"),
        );
        let dw = self.backward_weight();
        let mut rows = vec![f32::NAN; n * k];
        pack::to_rows(&dw, n, k, &mut rows);
        Naive { rows: n, columns: k, depth: m, left: &|j, i| dy(i, j), right: &x }.check(
            isa,
            &rows,
            &format!("{what} dw"),
        );
        let mut repacked = vec![0.0; dw.len()];
        pack::from_rows(&rows, n, k, &mut repacked);
        assert_same_bits(&dw, &repacked, &format!("{what} dw's filling"));
    }
}

#[test]
fn products_are_single_ascending_chains_at_every_size() {
    on_every_isa(|isa| {
        for (at, m) in ROWS.into_iter().enumerate() {
            // Every row count with two depths and two widths; all pairs come up.
            for step in 0..2 {
                let n = WIDTHS[(at + step) % WIDTHS.len()];
                let k = DEPTHS[(at * 2 + step * 3) % DEPTHS.len()];
                Case::new(m, n, k).check(isa);
            }
        }
    });
}

#[test]
fn a_long_depth_is_one_chain_too() {
    on_every_isa(|isa| {
        for m in [1, 3, 30] {
            Case::new(m, 40, DEPTH_OF_FEW_ROWS + 9).check(isa);
        }
    });
}

#[test]
fn threads_and_batches_change_no_bit() {
    on_every_isa(|isa| {
        let case = Case::new(45, 300, 1600);
        let one = team::with_threads(1, || {
            (case.linear(), case.backward_input(), case.backward_weight())
        });
        for threads in [2, 4] {
            team::with_threads(threads, || {
                let what = format!("{} {threads} threads", isa.name());
                assert_same_bits(&case.linear(), &one.0, &format!("{what} linear"));
                assert_same_bits(&case.backward_input(), &one.1, &format!("{what} dx"));
                assert_same_bits(&case.backward_weight(), &one.2, &format!("{what} dw"));
            });
        }
        for row in [0, 17, 44] {
            let alone = Case {
                m: 1,
                x: case.x[row * case.k..][..case.k].to_vec(),
                dy: case.dy[row * case.n..][..case.n].to_vec(),
                ..Case::new(1, case.n, case.k)
            };
            let what = format!("{} row {row} alone", isa.name());
            assert_same_bits(&alone.linear(), &one.0[row * case.n..][..case.n], &what);
            assert_same_bits(&alone.backward_input(), &one.1[row * case.k..][..case.k], &what);
        }
    });
}

#[test]
fn bias_and_gelu_follow_the_finished_chain() {
    on_every_isa(|isa| {
        for (m, n, k) in [(1, 70, 9), (5, 32, 300), (30, 33, 520)] {
            let case = Case::new(m, n, k);
            let bias = noise(n, 9);
            let mut expected = case.linear();
            for row in expected.chunks_exact_mut(n) {
                row.iter_mut().zip(&bias).for_each(|(y, b)| *y += b);
            }
            let mut out = vec![f32::NAN; m * n];
            let what = format!("{} m {m} n {n} k {k}", isa.name());
            linear(&case.x, m, k, &case.packed, n, Some(&bias), Epilogue::None, &mut out);
            assert_same_bits(&out, &expected, &what);
            linear(&case.x, m, k, &case.packed, n, Some(&bias), Epilogue::Gelu, &mut out);
            let mut activated = vec![0.0; m * n];
            gelu::forward(&expected, &mut activated);
            assert_same_bits(&out, &activated, &format!("{what} gelu"));
        }
    });
}

#[test]
fn empty_products() {
    linear(&[], 0, 4, &vec![0.0; packed_len(3, 4)], 3, None, Epilogue::None, &mut []);
    linear(&[1.0], 1, 1, &[], 0, None, Epilogue::None, &mut []);
    let mut out = [f32::NAN; 6];
    linear(&[], 2, 0, &[], 3, Some(&[1.0, 2.0, 3.0]), Epilogue::None, &mut out);
    assert_eq!(out, [1.0, 2.0, 3.0, 1.0, 2.0, 3.0]);
    let mut dw = [f32::NAN; 64];
    linear_backward_weight(Numbers::Float32, &[], &[], 0, 2, 5, &mut dw);
    assert_eq!(dw, [0.0; 64]);
}

#[test]
fn column_sums_ascend() {
    for (m, n) in [(0, 3), (1, 1), (5, 40), (300, 1030), (64, 5000)] {
        let dy = noise(m * n, 4);
        let mut expected = vec![0.0; n];
        for row in dy.chunks_exact(n) {
            expected.iter_mut().zip(row).for_each(|(sum, x)| *sum += x);
        }
        let mut db = vec![f32::NAN; n];
        column_sums(&dy, m, n, &mut db);
        assert_same_bits(&db, &expected, &format!("{m} x {n}"));
    }
}

#[test]
#[should_panic(expected = "`x` is not [m, k]")]
fn lengths_are_checked() {
    linear(&[0.0; 5], 2, 3, &[0.0; 96], 1, None, Epilogue::None, &mut [0.0; 2]);
}

#[test]
fn weights_of_sixteen_bits_give_what_their_floats_give() {
    on_every_isa(|isa| {
        for format in [HalfFormat::Float16, HalfFormat::Bfloat16] {
            for (m, n, k) in [(1, 33, 70), (13, 47, 769), (30, 64, 1), (3, 5, 0)] {
                let case = Case::new(m, n, k);
                let mut rounded = case.packed.clone();
                format.round(&case.packed, &mut rounded);
                let mut narrow = vec![0; rounded.len()];
                format.narrow(&case.packed, &mut narrow);
                let product = |panels: Panels<'_>| {
                    let mut out = vec![f32::NAN; m * n];
                    linear(&case.x, m, k, panels, n, None, Epilogue::Gelu, &mut out);
                    out
                };
                let expected = product(Panels::Float(&rounded));
                let what = format!("{} {format:?} [{m}, {n}, {k}]", isa.name());
                assert_same_bits(&product(Panels::Half(format, &narrow)), &expected, &what);
                let masters = Panels::Rounded(format, &case.packed);
                assert_same_bits(&product(masters), &expected, &what);
            }
        }
    });
}

/// A chain in pairs of bfloat16 numbers, the second of each added first; what is nearer to 0 than 2^-126
/// counts as 0, which these numbers are not.
fn chain_in_pairs(depth: usize, left: impl Fn(usize) -> f32, right: impl Fn(usize) -> f32) -> f32 {
    let term = |d: usize, sum: f32| {
        let rounded = |x: f32| half::bf16::from_f32(x).to_f32();
        if d < depth { rounded(left(d)).mul_add(rounded(right(d)), sum) } else { sum }
    };
    (0..depth).step_by(2).fold(0.0, |sum, d| term(d, term(d + 1, sum)))
}

#[test]
fn products_in_pairs_are_their_definition() {
    let sizes = [1, 2, 11, 12, 13, 31, 47].map(|m| (m, 33, 65));
    let more = [
        (47, 1600, 1700),
        (5, 1, 1),
        (7, 32, 2),
        (3, 70, 769),
        (769, 34, 3),
        (3, 769, 5),
        (530, 40, 6),
    ];
    with_pairs(|isa| {
        for (m, n, k) in sizes.into_iter().chain(more) {
            let case = Case::new(m, n, k);
            let numbers = Numbers::Bfloat16Pairs;
            let (x, dy, w) = (&case.x, &case.dy, &case.w);
            let what = |name: &str| format!("{} {name} {m} {n} {k}", isa.name());
            let each = |rows: usize, columns: usize, value: &dyn Fn(usize, usize) -> f32| {
                let cells = (0..rows * columns).map(|at| value(at / columns, at % columns));
                cells.collect::<Vec<f32>>()
            };

            let mut y = vec![f32::NAN; m * n];
            let layer = Layer { w: Panels::Float(&case.packed), n, bias: None, out: &mut y };
            linear_each_in(numbers, x, m, k, [layer], Epilogue::None);
            let of = |i, j| chain_in_pairs(k, |d| x[i * k + d], |d| w[j * k + d]);
            assert_same_bits(&y, &each(m, n, &of), &what("linear"));
            let mut narrow = vec![0; case.packed.len()];
            HalfFormat::Bfloat16.narrow(&case.packed, &mut narrow);
            let mut half = vec![f32::NAN; m * n];
            let panels = Panels::Half(HalfFormat::Bfloat16, &narrow);
            let layer = Layer { w: panels, n, bias: None, out: &mut half };
            linear_each_in(numbers, x, m, k, [layer], Epilogue::None);
            assert_same_bits(&half, &y, &what("linear of a weight in 16 bits"));

            let mut dx = vec![f32::NAN; m * k];
            linear_backward_input(numbers, dy, m, n, &case.packed, k, &mut dx);
            let of = |i, d| chain_in_pairs(n, |j| dy[i * n + j], |j| w[j * k + d]);
            assert_same_bits(&dx, &each(m, k, &of), &what("gradient of the input"));

            let mut dw = vec![f32::NAN; case.packed.len()];
            linear_backward_weight(numbers, x, dy, m, k, n, &mut dw);
            let mut rows = vec![0.0; n * k];
            pack::to_rows(&dw, n, k, &mut rows);
            let of = |j, d| chain_in_pairs(m, |i| x[i * k + d], |i| dy[i * n + j]);
            assert_same_bits(&rows, &each(n, k, &of), &what("gradient of the weight"));
        }
    });
}
