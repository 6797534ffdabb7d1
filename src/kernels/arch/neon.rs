//! Advanced SIMD of aarch64: four floats in a vector, thirty-two registers. It is part of the
//! baseline, so plain functions may use it.

use std::arch::aarch64::*;

use half::{bf16, f16};

use super::int8_neon;
use crate::kernels::int8_tile::Int8Tile;
use crate::kernels::isa::Simd;

/// Proof that the processor is an aarch64.
#[derive(Clone, Copy, Debug)]
pub struct Neon {
    /// Whether it has `dotprod`.
    dot: bool,
}

impl Neon {
    /// Always there on this architecture.
    pub fn new() -> Self {
        Neon { dot: std::arch::is_aarch64_feature_detected!("dotprod") }
    }

    /// The same without `dotprod`; `None` if the processor lacks it.
    pub fn plain(self) -> Option<Self> {
        self.dot.then_some(Neon { dot: false })
    }
}

impl Default for Neon {
    fn default() -> Self {
        Neon::new()
    }
}

/// Calls an intrinsic that touches no memory.
macro_rules! neon {
    ($call:expr) => {
        // SAFETY: Advanced SIMD belongs to the aarch64 baseline.
        unsafe { $call }
    };
}

impl Simd for Neon {
    type V = float32x4_t;
    const LANES: usize = 4;
    const NAME: &'static str = "neon";
    // Of thirty-two registers, twenty-four hold sums, four the weights and one the input.
    const TILE_ROWS: usize = 6;
    const TILE_VECTORS: usize = 4;

    #[inline(always)]
    fn splat(self, x: f32) -> float32x4_t {
        neon!(vdupq_n_f32(x))
    }

    #[inline(always)]
    unsafe fn load(self, from: *const f32) -> float32x4_t {
        // SAFETY: the caller vouches for four floats.
        unsafe { vld1q_f32(from) }
    }

    #[inline(always)]
    unsafe fn load_i32(self, from: *const i32) -> float32x4_t {
        // SAFETY: the caller vouches for four numbers.
        unsafe { vcvtq_f32_s32(vld1q_s32(from)) }
    }

    #[inline(always)]
    unsafe fn store_i8(self, to: *mut i8, v: float32x4_t) {
        // SAFETY: the caller vouches for four bytes.
        unsafe {
            let pairs = vmovn_s32(vcvtnq_s32_f32(v));
            let bytes = vmovn_s16(vcombine_s16(pairs, pairs));
            to.cast::<[i8; 4]>().write_unaligned(
                vget_lane_s32::<0>(vreinterpret_s32_s8(bytes)).to_ne_bytes().map(|byte| byte as i8),
            );
        }
    }

    #[inline(always)]
    unsafe fn load_bf16(self, from: *const u16) -> float32x4_t {
        // SAFETY: the caller vouches for four numbers.
        unsafe { vreinterpretq_f32_u32(vshll_n_u16::<16>(vld1_u16(from))) }
    }

    #[inline(always)]
    unsafe fn load_f16(self, from: *const u16) -> float32x4_t {
        // SAFETY: the caller vouches for four numbers.
        unsafe {
            let wide: [f32; 4] = std::array::from_fn(|i| f16::from_bits(*from.add(i)).to_f32());
            vld1q_f32(wide.as_ptr())
        }
    }

    #[inline(always)]
    fn int8_rows(self) -> usize {
        // Of thirty-two registers, twenty-four hold sums.
        6
    }

    #[inline(always)]
    unsafe fn int8_tile<const R: usize>(self, tile: Int8Tile) {
        // SAFETY: `dot` says whether the feature is present; the caller's duties are passed on.
        unsafe {
            if self.dot {
                int8_neon::tile::<R, true>(tile)
            } else {
                int8_neon::tile::<R, false>(tile)
            }
        }
    }

    #[inline(always)]
    unsafe fn store_bf16(self, to: *mut u16, v: float32x4_t) {
        let mut wide = [0.0_f32; 4];
        // SAFETY: the array holds four floats; the caller vouches for four numbers.
        unsafe {
            vst1q_f32(wide.as_mut_ptr(), v);
            to.cast::<[u16; 4]>().write_unaligned(wide.map(|x| bf16::from_f32(x).to_bits()));
        }
    }

    #[inline(always)]
    unsafe fn store_f16(self, to: *mut u16, v: float32x4_t) {
        let mut wide = [0.0_f32; 4];
        // SAFETY: the array holds four floats; the caller vouches for four numbers.
        unsafe {
            vst1q_f32(wide.as_mut_ptr(), v);
            to.cast::<[u16; 4]>().write_unaligned(wide.map(|x| f16::from_f32(x).to_bits()));
        }
    }

    #[inline(always)]
    unsafe fn store(self, to: *mut f32, v: float32x4_t) {
        // SAFETY: the caller vouches for four floats.
        unsafe { vst1q_f32(to, v) }
    }

    #[inline(always)]
    unsafe fn load_part(self, from: *const f32, count: usize) -> float32x4_t {
        debug_assert!(count <= 4);
        let mut lanes = [0.0_f32; 4];
        // SAFETY: the caller vouches for `count` floats, at most four.
        unsafe {
            std::ptr::copy_nonoverlapping(from, lanes.as_mut_ptr(), count);
            vld1q_f32(lanes.as_ptr())
        }
    }

    #[inline(always)]
    unsafe fn store_part(self, to: *mut f32, v: float32x4_t, count: usize) {
        debug_assert!(count <= 4);
        let mut lanes = [0.0_f32; 4];
        // SAFETY: the caller vouches for `count` floats, at most four.
        unsafe {
            vst1q_f32(lanes.as_mut_ptr(), v);
            std::ptr::copy_nonoverlapping(lanes.as_ptr(), to, count);
        }
    }

    #[inline(always)]
    fn add(self, a: float32x4_t, b: float32x4_t) -> float32x4_t {
        neon!(vaddq_f32(a, b))
    }

    #[inline(always)]
    fn sub(self, a: float32x4_t, b: float32x4_t) -> float32x4_t {
        neon!(vsubq_f32(a, b))
    }

    #[inline(always)]
    fn mul(self, a: float32x4_t, b: float32x4_t) -> float32x4_t {
        neon!(vmulq_f32(a, b))
    }

    #[inline(always)]
    fn div(self, a: float32x4_t, b: float32x4_t) -> float32x4_t {
        neon!(vdivq_f32(a, b))
    }

    #[inline(always)]
    fn max(self, a: float32x4_t, b: float32x4_t) -> float32x4_t {
        self.select_gt(a, b, a, b)
    }

    #[inline(always)]
    fn min(self, a: float32x4_t, b: float32x4_t) -> float32x4_t {
        self.select_gt(b, a, a, b)
    }

    #[inline(always)]
    fn fma(self, a: float32x4_t, b: float32x4_t, c: float32x4_t) -> float32x4_t {
        neon!(vfmaq_f32(c, a, b))
    }

    #[inline(always)]
    fn neg(self, a: float32x4_t) -> float32x4_t {
        neon!(vnegq_f32(a))
    }

    #[inline(always)]
    fn abs(self, a: float32x4_t) -> float32x4_t {
        neon!(vabsq_f32(a))
    }

    #[inline(always)]
    fn sqrt(self, a: float32x4_t) -> float32x4_t {
        neon!(vsqrtq_f32(a))
    }

    #[inline(always)]
    fn round(self, a: float32x4_t) -> float32x4_t {
        neon!(vrndnq_f32(a))
    }

    #[inline(always)]
    fn floor(self, a: float32x4_t) -> float32x4_t {
        neon!(vrndmq_f32(a))
    }

    #[inline(always)]
    fn pow2i(self, n: float32x4_t) -> float32x4_t {
        neon!({
            let exponent = vaddq_s32(vcvtnq_s32_f32(n), vdupq_n_s32(127));
            vreinterpretq_f32_s32(vshlq_n_s32::<23>(exponent))
        })
    }

    #[inline(always)]
    fn select_gt(
        self,
        a: float32x4_t,
        b: float32x4_t,
        x: float32x4_t,
        y: float32x4_t,
    ) -> float32x4_t {
        neon!(vbslq_f32(vcgtq_f32(a, b), x, y))
    }

    #[inline(always)]
    fn reduce_add(self, a: float32x4_t) -> f32 {
        neon!({
            let two = vadd_f32(vget_low_f32(a), vget_high_f32(a));
            vget_lane_f32::<0>(two) + vget_lane_f32::<1>(two)
        })
    }

    #[inline(always)]
    fn reduce_max(self, a: float32x4_t) -> f32 {
        neon!(vmaxvq_f32(a))
    }
}
