//! The instruction set every machine has: arrays of eight floats in plain Rust, which the compiler
//! turns into whatever vectors it may assume.

use half::{bf16, f16};

use crate::kernels::isa::Simd;

/// Plain Rust.
#[derive(Clone, Copy, Debug)]
pub struct Scalar(());

impl Scalar {
    /// Always there.
    pub fn new() -> Self {
        Scalar(())
    }
}

impl Default for Scalar {
    fn default() -> Self {
        Scalar::new()
    }
}

/// Eight floats.
#[derive(Clone, Copy, Debug)]
#[repr(C, align(32))]
pub struct Float8([f32; 8]);

#[inline(always)]
fn map(a: Float8, f: impl Fn(f32) -> f32) -> Float8 {
    Float8(std::array::from_fn(|i| f(a.0[i])))
}

#[inline(always)]
fn zip(a: Float8, b: Float8, f: impl Fn(f32, f32) -> f32) -> Float8 {
    Float8(std::array::from_fn(|i| f(a.0[i], b.0[i])))
}

/// Nearest whole number, ties to even, without the library call that `f32::round_ties_even` is on
/// processors of the baseline: adding 1.5 * 2^23 leaves no bits for a fraction.
#[inline(always)]
fn round(x: f32) -> f32 {
    const SHIFT: f32 = 12_582_912.0;
    let rounded = (x + SHIFT) - SHIFT;
    if x.abs() < 4_194_304.0 { rounded.copysign(x) } else { x }
}

impl Simd for Scalar {
    type V = Float8;
    const LANES: usize = 8;
    const NAME: &'static str = "scalar";
    // Eight of the sixteen 4-float registers of the x86-64 baseline hold sums.
    const TILE_ROWS: usize = 4;
    const TILE_VECTORS: usize = 1;

    #[inline(always)]
    fn splat(self, x: f32) -> Float8 {
        Float8([x; 8])
    }

    #[inline(always)]
    unsafe fn load(self, from: *const f32) -> Float8 {
        // SAFETY: the caller vouches for eight floats; `[f32; 8]` needs their alignment only.
        Float8(unsafe { from.cast::<[f32; 8]>().read_unaligned() })
    }

    #[inline(always)]
    unsafe fn load_i32(self, from: *const i32) -> Float8 {
        // SAFETY: the caller vouches for eight numbers.
        let numbers = unsafe { std::slice::from_raw_parts(from, 8) };
        Float8(std::array::from_fn(|i| numbers[i] as f32))
    }

    #[inline(always)]
    unsafe fn store_i8(self, to: *mut i8, v: Float8) {
        // Added to a small float, this leaves its whole part in the lowest bits.
        const SHIFT: f32 = 12_582_912.0;
        let bytes = v.0.map(|x| (x + SHIFT).to_bits() as i8);
        // SAFETY: the caller vouches for eight bytes.
        unsafe { to.cast::<[i8; 8]>().write_unaligned(bytes) }
    }

    #[inline(always)]
    unsafe fn load_bf16(self, from: *const u16) -> Float8 {
        // SAFETY: the caller vouches for eight numbers.
        let numbers = unsafe { std::slice::from_raw_parts(from, 8) };
        Float8(std::array::from_fn(|i| f32::from_bits(u32::from(numbers[i]) << 16)))
    }

    #[inline(always)]
    unsafe fn load_f16(self, from: *const u16) -> Float8 {
        // SAFETY: the caller vouches for eight numbers.
        let numbers = unsafe { std::slice::from_raw_parts(from, 8) };
        Float8(std::array::from_fn(|i| f16::from_bits(numbers[i]).to_f32()))
    }

    #[inline(always)]
    unsafe fn store_bf16(self, to: *mut u16, v: Float8) {
        let narrow = v.0.map(|x| bf16::from_f32(x).to_bits());
        // SAFETY: the caller vouches for eight numbers.
        unsafe { to.cast::<[u16; 8]>().write_unaligned(narrow) }
    }

    #[inline(always)]
    unsafe fn store_f16(self, to: *mut u16, v: Float8) {
        let narrow = v.0.map(|x| f16::from_f32(x).to_bits());
        // SAFETY: the caller vouches for eight numbers.
        unsafe { to.cast::<[u16; 8]>().write_unaligned(narrow) }
    }

    #[inline(always)]
    unsafe fn store(self, to: *mut f32, v: Float8) {
        // SAFETY: as for `load`.
        unsafe { to.cast::<[f32; 8]>().write_unaligned(v.0) }
    }

    #[inline(always)]
    unsafe fn load_part(self, from: *const f32, count: usize) -> Float8 {
        debug_assert!(count <= 8);
        let mut v = [0.0; 8];
        for (i, lane) in v.iter_mut().enumerate().take(count) {
            // SAFETY: `i < count`, and the caller vouches for `count` floats.
            *lane = unsafe { *from.add(i) };
        }
        Float8(v)
    }

    #[inline(always)]
    unsafe fn store_part(self, to: *mut f32, v: Float8, count: usize) {
        debug_assert!(count <= 8);
        for (i, lane) in v.0.iter().enumerate().take(count) {
            // SAFETY: `i < count`, and the caller vouches for `count` floats.
            unsafe { *to.add(i) = *lane };
        }
    }

    #[inline(always)]
    fn add(self, a: Float8, b: Float8) -> Float8 {
        zip(a, b, |a, b| a + b)
    }

    #[inline(always)]
    fn sub(self, a: Float8, b: Float8) -> Float8 {
        zip(a, b, |a, b| a - b)
    }

    #[inline(always)]
    fn mul(self, a: Float8, b: Float8) -> Float8 {
        zip(a, b, |a, b| a * b)
    }

    #[inline(always)]
    fn div(self, a: Float8, b: Float8) -> Float8 {
        zip(a, b, |a, b| a / b)
    }

    #[inline(always)]
    fn max(self, a: Float8, b: Float8) -> Float8 {
        zip(a, b, |a, b| if a > b { a } else { b })
    }

    #[inline(always)]
    fn min(self, a: Float8, b: Float8) -> Float8 {
        zip(a, b, |a, b| if a < b { a } else { b })
    }

    #[inline(always)]
    fn fma(self, a: Float8, b: Float8, c: Float8) -> Float8 {
        // `mul_add` is a library call of some 20 ns where the baseline has no instruction for it.
        let fused = cfg!(any(target_feature = "fma", target_arch = "aarch64"));
        let one = |i: usize| {
            if fused { a.0[i].mul_add(b.0[i], c.0[i]) } else { a.0[i] * b.0[i] + c.0[i] }
        };
        Float8(std::array::from_fn(one))
    }

    #[inline(always)]
    fn neg(self, a: Float8) -> Float8 {
        map(a, |a| -a)
    }

    #[inline(always)]
    fn abs(self, a: Float8) -> Float8 {
        map(a, f32::abs)
    }

    #[inline(always)]
    fn sqrt(self, a: Float8) -> Float8 {
        map(a, f32::sqrt)
    }

    #[inline(always)]
    fn round(self, a: Float8) -> Float8 {
        map(a, round)
    }

    #[inline(always)]
    fn floor(self, a: Float8) -> Float8 {
        map(a, |a| {
            let nearest = round(a);
            if nearest > a { nearest - 1.0 } else { nearest }
        })
    }

    #[inline(always)]
    fn pow2i(self, n: Float8) -> Float8 {
        map(n, |n| f32::from_bits((n as i32).wrapping_add(127).wrapping_shl(23) as u32))
    }

    #[inline(always)]
    fn select_gt(self, a: Float8, b: Float8, x: Float8, y: Float8) -> Float8 {
        Float8(std::array::from_fn(|i| if a.0[i] > b.0[i] { x.0[i] } else { y.0[i] }))
    }

    #[inline(always)]
    fn reduce_add(self, a: Float8) -> f32 {
        let a = a.0;
        let q = [a[0] + a[4], a[1] + a[5], a[2] + a[6], a[3] + a[7]];
        (q[0] + q[2]) + (q[1] + q[3])
    }

    #[inline(always)]
    fn reduce_max(self, a: Float8) -> f32 {
        a.0.iter().copied().fold(f32::NEG_INFINITY, |m, x| if x > m { x } else { m })
    }
}
