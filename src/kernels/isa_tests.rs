use super::*;
use crate::kernels::testing::{Failures, noise, on_every_isa, ulp_error};

/// One primitive applied to slices of any length, the last vector in part.
struct Map<'a, F> {
    a: &'a [f32],
    b: &'a [f32],
    out: &'a mut [f32],
    op: F,
}

/// Which primitive: an enum, since a closure cannot be generic over the instruction set.
#[derive(Clone, Copy, Debug)]
enum Op {
    Add,
    Sub,
    Mul,
    Div,
    Max,
    Min,
    Fma,
    Neg,
    Abs,
    Sqrt,
    Round,
    Floor,
    Pow2i,
    SelectGt,
    Exp,
}

impl Op {
    const ALL: [Op; 14] = [
        Op::Add,
        Op::Sub,
        Op::Mul,
        Op::Div,
        Op::Max,
        Op::Min,
        Op::Fma,
        Op::Neg,
        Op::Abs,
        Op::Sqrt,
        Op::Round,
        Op::Floor,
        Op::Pow2i,
        Op::SelectGt,
    ];

    #[inline(always)]
    fn vector<S: Simd>(self, s: S, a: S::V, b: S::V) -> S::V {
        match self {
            Op::Add => s.add(a, b),
            Op::Sub => s.sub(a, b),
            Op::Mul => s.mul(a, b),
            Op::Div => s.div(a, b),
            Op::Max => s.max(a, b),
            Op::Min => s.min(a, b),
            Op::Fma => s.fma(a, b, a),
            Op::Neg => s.neg(a),
            Op::Abs => s.abs(a),
            Op::Sqrt => s.sqrt(a),
            Op::Round => s.round(a),
            Op::Floor => s.floor(a),
            Op::Pow2i => s.pow2i(s.round(a)),
            Op::SelectGt => s.select_gt(a, b, s.splat(1.0), s.splat(2.0)),
            Op::Exp => s.exp(a),
        }
    }

    /// The definition.
    fn number(self, a: f32, b: f32, fused: bool) -> f32 {
        match self {
            Op::Add => a + b,
            Op::Sub => a - b,
            Op::Mul => a * b,
            Op::Div => a / b,
            Op::Max => {
                if a > b {
                    a
                } else {
                    b
                }
            }
            Op::Min => {
                if a < b {
                    a
                } else {
                    b
                }
            }
            Op::Fma => {
                if fused {
                    a.mul_add(b, a)
                } else {
                    a * b + a
                }
            }
            Op::Neg => -a,
            Op::Abs => a.abs(),
            Op::Sqrt => a.sqrt(),
            Op::Round => a.round_ties_even(),
            Op::Floor => a.floor(),
            Op::Pow2i => a.round_ties_even().exp2(),
            Op::SelectGt => {
                if a > b {
                    1.0
                } else {
                    2.0
                }
            }
            Op::Exp => f64::from(a).exp() as f32,
        }
    }
}

impl Kernel for Map<'_, Op> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let mut i = 0;
        while i < self.a.len() {
            let count = (self.a.len() - i).min(S::LANES);
            let (a, b) = (self.a[i..].as_ptr(), self.b[i..].as_ptr());
            let out = self.out[i..].as_mut_ptr();
            // SAFETY: `count` floats remain in all three slices, which have one length.
            unsafe {
                if count == S::LANES {
                    s.store(out, self.op.vector(s, s.load(a), s.load(b)));
                } else {
                    let v = self.op.vector(s, s.load_part(a, count), s.load_part(b, count));
                    s.store_part(out, v, count);
                }
            }
            i += count;
        }
    }
}

fn map(isa: Isa, op: Op, a: &[f32], b: &[f32]) -> Vec<f32> {
    let mut out = vec![f32::NAN; a.len() + 1];
    let (body, _end) = out.split_at_mut(a.len());
    with_isa(isa, Map { a, b, out: body, op });
    assert!(out[a.len()].is_nan(), "{}: {op:?} wrote past the end", isa.name());
    out.pop();
    out
}

/// Whether `fma` rounds once.
fn fused(isa: Isa) -> bool {
    isa.name() != "scalar" || cfg!(any(target_feature = "fma", target_arch = "aarch64"))
}

#[test]
fn primitives_equal_their_definitions_at_every_length() {
    let mut failures = Failures::default();
    on_every_isa(|isa| {
        for op in Op::ALL {
            for len in 0..=40 {
                let a: Vec<f32> = noise(len, 1).iter().map(|x| x * 20.0).collect();
                let b = noise(len, 2);
                let out = map(isa, op, &a, &b);
                for i in 0..len {
                    let expected = op.number(a[i], b[i], fused(isa));
                    let same = out[i].to_bits() == expected.to_bits()
                        || (out[i].is_nan() && expected.is_nan());
                    failures.check(same, || {
                        let name = isa.name();
                        format!(
                            "{name} {op:?}({:e}, {:e}) = {:e}, not {expected:e}",
                            a[i], b[i], out[i]
                        )
                    });
                }
            }
        }
    });
    failures.finish();
}

#[test]
fn rounding_is_exact_at_ties_and_for_large_numbers() {
    let a =
        [0.5, 1.5, 2.5, -0.5, -1.5, -2.5, 4_194_303.5, 8_388_609.0, -3e9, 1e30, 0.49999997, -0.0];
    on_every_isa(|isa| {
        for op in [Op::Round, Op::Floor] {
            let out = map(isa, op, &a, &a);
            let expected: Vec<f32> = a.iter().map(|x| op.number(*x, 0.0, true)).collect();
            assert_eq!(out, expected, "{} {op:?}", isa.name());
        }
    });
}

/// Vectors summed and compared to the documented order.
struct Reduce<'a>(&'a [f32; 16]);

impl Kernel for Reduce<'_> {
    type Output = (f32, f32, usize);

    #[inline(always)]
    fn run<S: Simd>(self, s: S) -> Self::Output {
        // SAFETY: sixteen floats are at least a vector.
        let v = unsafe { s.load(self.0.as_ptr()) };
        (s.reduce_add(v), s.reduce_max(v), S::LANES)
    }
}

#[test]
fn reductions_halve_until_one_is_left() {
    on_every_isa(|isa| {
        let values: [f32; 16] = noise(16, 3).try_into().unwrap();
        let (sum, max, lanes) = with_isa(isa, Reduce(&values));
        let mut tree = values[..lanes].to_vec();
        while tree.len() > 1 {
            let upper = tree.split_off(tree.len() / 2);
            tree.iter_mut().zip(upper).for_each(|(a, b)| *a += b);
        }
        assert_eq!(sum.to_bits(), tree[0].to_bits(), "{}", isa.name());
        assert_eq!(max, values[..lanes].iter().copied().fold(f32::MIN, f32::max));
    });
}

/// Eight rows of a matrix `[8][8]` as columns, `stride` apart.
struct Transpose<'a>(&'a [f32], &'a mut [f32], usize);

impl Kernel for Transpose<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let rows = std::array::from_fn(|i| self.0[i * 8..i * 8 + 8].as_ptr());
        assert!(self.1.len() >= 7 * self.2 + 8);
        // SAFETY: each row has eight floats, and the destination room for eight strides.
        unsafe { s.transpose8(rows, self.1.as_mut_ptr(), self.2) }
    }
}

#[test]
fn transpose8_writes_ascending_rows_of_eight() {
    on_every_isa(|isa| {
        let source = noise(64, 4);
        for stride in [5, 6, 8, 12, 33] {
            let mut out = vec![0.0; 8 * stride + 8];
            with_isa(isa, Transpose(&source, &mut out, stride));
            let mut expected = vec![0.0; 8 * stride + 8];
            for j in 0..8 {
                for i in 0..8 {
                    expected[j * stride + i] = source[i * 8 + j];
                }
            }
            assert_eq!(out, expected, "{} stride {stride}", isa.name());
        }
    });
}

/// Largest error of `exp` over the given bit patterns, in ULPs.
fn worst_exp(isa: Isa, patterns: impl Iterator<Item = u32>) -> (f64, f32) {
    let mut worst = (0.0, 0.0);
    let mut chunk = Vec::with_capacity(4096);
    let mut patterns = patterns.peekable();
    while patterns.peek().is_some() {
        chunk.clear();
        chunk.extend(patterns.by_ref().take(4096).map(f32::from_bits));
        for (x, y) in chunk.iter().zip(map(isa, Op::Exp, &chunk, &chunk)) {
            let error = ulp_error(y, f64::from(*x).exp());
            if error > worst.0 {
                worst = (error, *x);
            }
        }
    }
    worst
}

#[test]
fn exp_is_within_1_02_ulp() {
    on_every_isa(|isa| {
        let (error, x) = worst_exp(isa, (0..=u32::MAX).step_by(4099));
        assert!(error < 1.02, "{}: exp({x:e}) is {error} ULP off", isa.name());
    });
}

#[test]
#[ignore = "every f32: a minute"]
fn exp_is_within_1_02_ulp_everywhere() {
    on_every_isa(|isa| {
        let (error, x) = worst_exp(isa, 0..=u32::MAX);
        println!("{}: worst {error} ULP at {x:e}", isa.name());
        assert!(error < 1.02, "{}: exp({x:e}) is {error} ULP off", isa.name());
    });
}

#[test]
fn exp_meets_its_ends() {
    on_every_isa(|isa| {
        let x = [
            0.0,
            -0.0,
            f32::INFINITY,
            f32::NEG_INFINITY,
            88.72,
            88.73,
            -103.9,
            -104.1,
            1e38,
            -1e38,
        ];
        let y = map(isa, Op::Exp, &x, &x);
        let (finite, tiny) = (y[4], y[6]);
        assert_eq!(y[..4], [1.0, 1.0, f32::INFINITY, 0.0], "{}", isa.name());
        assert!(finite.is_finite() && tiny > 0.0 && tiny < 1e-44, "{finite:e} {tiny:e}");
        assert_eq!((y[5], y[7], y[8], y[9]), (f32::INFINITY, 0.0, f32::INFINITY, 0.0));
        assert!(map(isa, Op::Exp, &[f32::NAN], &[0.0])[0].is_nan());
    });
}

#[test]
fn every_name_is_found_and_another_is_refused_with_the_way_out() {
    for isa in available() {
        assert_eq!(by_name(isa.name()).unwrap().1, isa.name());
        if let Some((_, name)) = plain(isa) {
            assert_eq!(by_name(name).unwrap().1, format!("{}-plain", isa.name()));
        }
    }
    let message = by_name("mmx").unwrap_err().to_string();
    assert!(
        message.starts_with("`BART_FAST_ISA`: received `mmx`; this machine has `"),
        "{message}"
    );
    assert!(message.contains("`scalar`\nhint: unset BART_FAST_ISA"), "{message}");
    assert_eq!(available().last().unwrap().name(), "scalar");
}

/// Sixteen numbers of each kind, widened.
struct Widen<'a> {
    halves: &'a [u16; 16],
    numbers: &'a [i32; 16],
    out: [[f32; 16]; 3],
}

impl Kernel for Widen<'_> {
    type Output = [[f32; 16]; 3];

    #[inline(always)]
    fn run<S: Simd>(mut self, s: S) -> Self::Output {
        for i in (0..16).step_by(S::LANES) {
            // SAFETY: the lanes of every instruction set divide sixteen.
            unsafe {
                s.store(self.out[0].as_mut_ptr().add(i), s.load_bf16(self.halves.as_ptr().add(i)));
                s.store(self.out[1].as_mut_ptr().add(i), s.load_f16(self.halves.as_ptr().add(i)));
                s.store(self.out[2].as_mut_ptr().add(i), s.load_i32(self.numbers.as_ptr().add(i)));
            }
        }
        self.out
    }
}

#[test]
fn sixteen_bits_and_whole_numbers_widen_exactly() {
    on_every_isa(|isa| {
        let mut failures = Failures::default();
        for first in (0..=u16::MAX).step_by(16) {
            let halves = std::array::from_fn(|i| first + i as u16);
            // Whole numbers of all sizes: from 24 bits on they are rounded.
            let numbers = halves.map(|half| i32::from(half as i16) * 65_537);
            let out =
                with_isa(isa, Widen { halves: &halves, numbers: &numbers, out: [[0.0; 16]; 3] });
            for i in 0..16 {
                let expected = [
                    half::bf16::from_bits(halves[i]).to_f32(),
                    half::f16::from_bits(halves[i]).to_f32(),
                    numbers[i] as f32,
                ];
                for (kind, expected) in expected.into_iter().enumerate() {
                    let got = out[kind][i];
                    let same =
                        got.to_bits() == expected.to_bits() || (got.is_nan() && expected.is_nan());
                    failures.check(same, || {
                        format!(
                            "{} kind {kind} {:#x}: {got}, expected {expected}",
                            isa.name(),
                            halves[i]
                        )
                    });
                }
            }
        }
        failures.finish();
    });
}

/// Sixteen numbers, narrowed to bfloat16 and to float16.
struct Narrow<'a>(&'a [f32; 16]);

impl Kernel for Narrow<'_> {
    type Output = [[u16; 16]; 2];

    #[inline(always)]
    fn run<S: Simd>(self, s: S) -> Self::Output {
        let mut out = [[0; 16]; 2];
        for i in (0..16).step_by(S::LANES) {
            // SAFETY: the lanes of every instruction set divide sixteen.
            unsafe {
                let v = s.load(self.0.as_ptr().add(i));
                s.store_bf16(out[0].as_mut_ptr().add(i), v);
                s.store_f16(out[1].as_mut_ptr().add(i), v);
            }
        }
        out
    }
}

#[test]
fn floats_narrow_to_the_nearest_of_sixteen_bits() {
    // Between two numbers of either format: at, below, on and above the middle.
    const LOWER: [u32; 16] = [
        0, 1, 0xfff, 0x1000, 0x1001, 0x2000, 0x2fff, 0x3000, 0x3001, 0x5000, 0x7fff, 0x8000,
        0x8001, 0xb000, 0xd000, 0xffff,
    ];
    on_every_isa(|isa| {
        let mut failures = Failures::default();
        for upper in 0..=u32::from(u16::MAX) {
            let values = LOWER.map(|lower| f32::from_bits(upper << 16 | lower));
            let out = with_isa(isa, Narrow(&values));
            for (i, x) in values.into_iter().enumerate() {
                let (b, f) = (half::bf16::from_bits(out[0][i]), half::f16::from_bits(out[1][i]));
                let same = if x.is_nan() {
                    b.is_nan() && f.is_nan()
                } else {
                    out[0][i] == half::bf16::from_f32_const(x).to_bits()
                        && out[1][i] == half::f16::from_f32_const(x).to_bits()
                };
                failures.check(same, || format!("{} {:#x}: {b} {f}", isa.name(), x.to_bits()));
            }
        }
        failures.finish();
    });
}
