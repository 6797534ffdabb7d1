//! AVX-512 (F, BW, DQ, VL): sixteen floats in a vector, thirty-two registers, masks for the ends.

use std::arch::asm;
use std::arch::x86_64::*;

use super::avx2::transpose8;
use super::int8_x86;
use crate::kernels::int8_tile::Int8Tile;
use crate::kernels::isa::{Kernel, Pairs, Simd};

/// Proof that the processor has AVX-512 F, BW, DQ and VL, and with them AVX2 and FMA.
#[derive(Clone, Copy, Debug)]
pub struct Avx512 {
    /// Whether it has AVX-512 VNNI as well.
    vnni: bool,
    /// Whether it has AVX-512 BF16 as well.
    bf16: bool,
}

/// Calls an intrinsic of AVX-512 or below that touches no memory.
macro_rules! avx512 {
    ($call:expr) => {
        // SAFETY: an `Avx512` exists only where `new` found the features.
        unsafe { $call }
    };
}

impl Avx512 {
    /// `Some` if the processor has AVX-512 F, BW, DQ and VL, AVX2 and FMA.
    pub fn new() -> Option<Self> {
        let found = is_x86_feature_detected!("avx512f")
            && is_x86_feature_detected!("avx512bw")
            && is_x86_feature_detected!("avx512dq")
            && is_x86_feature_detected!("avx512vl")
            && is_x86_feature_detected!("avx2")
            && is_x86_feature_detected!("fma");
        found.then(|| Avx512 {
            vnni: is_x86_feature_detected!("avx512vnni"),
            bf16: is_x86_feature_detected!("avx512bf16"),
        })
    }

    /// The same without VNNI and BF16; `None` if the processor lacks both.
    pub fn plain(self) -> Option<Self> {
        (self.vnni || self.bf16).then_some(Avx512 { vnni: false, bf16: false })
    }

    /// Runs the kernel, compiled for these features.
    #[inline]
    pub fn run<K: Kernel>(self, kernel: K) -> K::Output {
        #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx2,fma")]
        fn inner<K: Kernel>(simd: Avx512, kernel: K) -> K::Output {
            kernel.run(simd)
        }
        avx512!(inner(self, kernel))
    }
}

/// Ones for the first `count` lanes.
#[inline(always)]
fn mask(count: usize) -> __mmask16 {
    debug_assert!(count <= 16);
    ((1_u32 << count.min(16)) - 1) as __mmask16
}

/// The upper eight lanes.
#[inline(always)]
fn upper(a: __m512) -> __m256 {
    avx512!(_mm512_extractf32x8_ps::<1>(a))
}

// The instructions of AVX-512 BF16 are written down: as intrinsics they would be calls, since kernels are
// compiled for processors that lack them too.

/// # Safety
/// The processor has AVX-512 BF16.
#[inline]
#[target_feature(enable = "avx512f")]
unsafe fn vdpbf16ps(a: __m512, b: __m512, mut sum: __m512) -> __m512 {
    // SAFETY: the caller vouches for the instruction, which touches these registers only.
    unsafe {
        asm!(
            "vdpbf16ps {sum}, {a}, {b}",
            sum = inout(zmm_reg) sum,
            a = in(zmm_reg) a,
            b = in(zmm_reg) b,
            options(pure, nomem, nostack, preserves_flags),
        );
    }
    sum
}

/// # Safety
/// The processor has AVX-512 BF16.
#[inline]
#[target_feature(enable = "avx512f")]
unsafe fn vcvtne2ps2bf16(first: __m512, second: __m512) -> __m512 {
    let pairs;
    // SAFETY: the caller vouches for the instruction, which touches these registers only.
    unsafe {
        asm!(
            "vcvtne2ps2bf16 {pairs}, {second}, {first}",
            pairs = lateout(zmm_reg) pairs,
            second = in(zmm_reg) second,
            first = in(zmm_reg) first,
            options(pure, nomem, nostack, preserves_flags),
        );
    }
    pairs
}

impl Simd for Avx512 {
    type V = __m512;
    const LANES: usize = 16;
    const NAME: &'static str = "avx512";
    // Of thirty-two registers, twenty-four hold sums, two the weights and one the broadcast input.
    const TILE_ROWS: usize = 12;
    const TILE_VECTORS: usize = 2;

    #[inline(always)]
    fn splat(self, x: f32) -> __m512 {
        avx512!(_mm512_set1_ps(x))
    }

    #[inline(always)]
    unsafe fn load(self, from: *const f32) -> __m512 {
        // SAFETY: the caller vouches for sixteen floats; the load asks for no alignment.
        unsafe { _mm512_loadu_ps(from) }
    }

    #[inline(always)]
    unsafe fn load_i32(self, from: *const i32) -> __m512 {
        // SAFETY: the caller vouches for sixteen numbers; the load asks for no alignment.
        unsafe { _mm512_cvtepi32_ps(_mm512_loadu_si512(from.cast())) }
    }

    #[inline(always)]
    unsafe fn store_i8(self, to: *mut i8, v: __m512) {
        // SAFETY: the caller vouches for sixteen bytes; the store asks for no alignment.
        unsafe { _mm_storeu_si128(to.cast(), _mm512_cvtepi32_epi8(_mm512_cvtps_epi32(v))) }
    }

    #[inline(always)]
    unsafe fn load_bf16(self, from: *const u16) -> __m512 {
        // SAFETY: the caller vouches for sixteen numbers; the load asks for no alignment.
        unsafe {
            let wide = _mm512_cvtepu16_epi32(_mm256_loadu_si256(from.cast()));
            _mm512_castsi512_ps(_mm512_slli_epi32::<16>(wide))
        }
    }

    #[inline(always)]
    unsafe fn load_f16(self, from: *const u16) -> __m512 {
        // SAFETY: the caller vouches for sixteen numbers; the load asks for no alignment.
        unsafe { _mm512_cvtph_ps(_mm256_loadu_si256(from.cast())) }
    }

    #[inline(always)]
    unsafe fn store_bf16(self, to: *mut u16, v: __m512) {
        // Not the instruction of AVX-512 BF16, which makes zeros of subnormal numbers.
        // SAFETY: the caller vouches for sixteen numbers; the store asks for no alignment.
        unsafe {
            let bits = _mm512_castps_si512(v);
            let upper = _mm512_srli_epi32::<16>(bits);
            let odd = _mm512_and_si512(upper, _mm512_set1_epi32(1));
            let half = _mm512_add_epi32(odd, _mm512_set1_epi32(0x7fff));
            let rounded = _mm512_srli_epi32::<16>(_mm512_add_epi32(bits, half));
            let nan = _mm512_cmp_ps_mask::<_CMP_UNORD_Q>(v, v);
            let quiet = _mm512_set1_epi32(0x40);
            let rounded = _mm512_mask_or_epi32(rounded, nan, upper, quiet);
            _mm256_storeu_si256(to.cast(), _mm512_cvtepi32_epi16(rounded));
        }
    }

    #[inline(always)]
    unsafe fn store_f16(self, to: *mut u16, v: __m512) {
        const NEAREST: i32 = _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC;
        // SAFETY: the caller vouches for sixteen numbers; the store asks for no alignment.
        unsafe { _mm256_storeu_si256(to.cast(), _mm512_cvtps_ph::<NEAREST>(v)) }
    }

    #[inline(always)]
    unsafe fn store(self, to: *mut f32, v: __m512) {
        // SAFETY: the caller vouches for sixteen floats; the store asks for no alignment.
        unsafe { _mm512_storeu_ps(to, v) }
    }

    #[inline(always)]
    unsafe fn load_part(self, from: *const f32, count: usize) -> __m512 {
        // SAFETY: masked lanes are not read; the caller vouches for the first `count`.
        unsafe { _mm512_maskz_loadu_ps(mask(count), from) }
    }

    #[inline(always)]
    unsafe fn store_part(self, to: *mut f32, v: __m512, count: usize) {
        // SAFETY: masked lanes are not written; the caller vouches for the first `count`.
        unsafe { _mm512_mask_storeu_ps(to, mask(count), v) }
    }

    #[inline(always)]
    fn add(self, a: __m512, b: __m512) -> __m512 {
        avx512!(_mm512_add_ps(a, b))
    }

    #[inline(always)]
    fn sub(self, a: __m512, b: __m512) -> __m512 {
        avx512!(_mm512_sub_ps(a, b))
    }

    #[inline(always)]
    fn mul(self, a: __m512, b: __m512) -> __m512 {
        avx512!(_mm512_mul_ps(a, b))
    }

    #[inline(always)]
    fn div(self, a: __m512, b: __m512) -> __m512 {
        avx512!(_mm512_div_ps(a, b))
    }

    #[inline(always)]
    fn max(self, a: __m512, b: __m512) -> __m512 {
        avx512!(_mm512_max_ps(a, b))
    }

    #[inline(always)]
    fn min(self, a: __m512, b: __m512) -> __m512 {
        avx512!(_mm512_min_ps(a, b))
    }

    #[inline(always)]
    fn fma(self, a: __m512, b: __m512, c: __m512) -> __m512 {
        avx512!(_mm512_fmadd_ps(a, b, c))
    }

    #[inline(always)]
    fn neg(self, a: __m512) -> __m512 {
        avx512!(_mm512_xor_ps(a, _mm512_set1_ps(-0.0)))
    }

    #[inline(always)]
    fn abs(self, a: __m512) -> __m512 {
        avx512!(_mm512_abs_ps(a))
    }

    #[inline(always)]
    fn sqrt(self, a: __m512) -> __m512 {
        avx512!(_mm512_sqrt_ps(a))
    }

    #[inline(always)]
    fn round(self, a: __m512) -> __m512 {
        avx512!(_mm512_roundscale_ps::<{ _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC }>(a))
    }

    #[inline(always)]
    fn floor(self, a: __m512) -> __m512 {
        avx512!(_mm512_roundscale_ps::<{ _MM_FROUND_TO_NEG_INF | _MM_FROUND_NO_EXC }>(a))
    }

    #[inline(always)]
    fn pow2i(self, n: __m512) -> __m512 {
        avx512!({
            let exponent = _mm512_add_epi32(_mm512_cvtps_epi32(n), _mm512_set1_epi32(127));
            _mm512_castsi512_ps(_mm512_slli_epi32::<23>(exponent))
        })
    }

    #[inline(always)]
    fn times_pow2(self, y: __m512, n: __m512) -> __m512 {
        avx512!(_mm512_scalef_ps(y, n))
    }

    #[inline(always)]
    fn select_gt(self, a: __m512, b: __m512, x: __m512, y: __m512) -> __m512 {
        avx512!(_mm512_mask_blend_ps(_mm512_cmp_ps_mask::<_CMP_GT_OQ>(a, b), y, x))
    }

    #[inline(always)]
    fn reduce_add(self, a: __m512) -> f32 {
        avx512!({
            let eight = _mm256_add_ps(_mm512_castps512_ps256(a), upper(a));
            let four = _mm_add_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps::<1>(eight));
            let two = _mm_add_ps(four, _mm_movehl_ps(four, four));
            _mm_cvtss_f32(_mm_add_ss(two, _mm_movehdup_ps(two)))
        })
    }

    #[inline(always)]
    fn reduce_max(self, a: __m512) -> f32 {
        avx512!({
            let eight = _mm256_max_ps(_mm512_castps512_ps256(a), upper(a));
            let four = _mm_max_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps::<1>(eight));
            let two = _mm_max_ps(four, _mm_movehl_ps(four, four));
            _mm_cvtss_f32(_mm_max_ss(two, _mm_movehdup_ps(two)))
        })
    }

    #[inline(always)]
    fn pairs(self) -> Pairs {
        if self.bf16 { Pairs::Fast } else { Pairs::Missing }
    }

    #[inline(always)]
    unsafe fn dot_pairs(self, a: __m512, b: __m512, sum: __m512) -> __m512 {
        // SAFETY: the caller vouches that pairs are not missing.
        unsafe { vdpbf16ps(a, b, sum) }
    }

    #[inline(always)]
    unsafe fn narrow_pairs(self, first: __m512, second: __m512) -> __m512 {
        // SAFETY: the caller vouches that pairs are not missing.
        unsafe { vcvtne2ps2bf16(first, second) }
    }

    #[inline(always)]
    unsafe fn join_pairs(self, first: __m512, second: __m512) -> __m512 {
        // SAFETY: the caller vouches that pairs are not missing.
        let narrow = unsafe { vcvtne2ps2bf16(first, second) };
        // Sixteen numbers of either: those of `second` move beside those of `first`.
        avx512!({
            let lower = _mm256_castps_si256(_mm512_castps512_ps256(narrow));
            let upper = _mm512_cvtepu16_epi32(_mm256_castps_si256(upper(narrow)));
            let both =
                _mm512_or_si512(_mm512_cvtepu16_epi32(lower), _mm512_slli_epi32::<16>(upper));
            _mm512_castsi512_ps(both)
        })
    }

    #[inline(always)]
    fn int8_rows(self) -> usize {
        // Of thirty-two registers, twenty-four hold sums; without VNNI products need more.
        if self.vnni { 12 } else { 8 }
    }

    #[inline(always)]
    unsafe fn int8_tile<const R: usize>(self, tile: Int8Tile) {
        // SAFETY: the features are present; the caller's duties are passed on.
        unsafe {
            if self.vnni { int8_x86::avx512_vnni::<R>(tile) } else { int8_x86::avx512::<R>(tile) }
        }
    }

    #[inline(always)]
    unsafe fn transpose8(self, rows: [*const f32; 8], destination: *mut f32, stride: usize) {
        // SAFETY: the caller vouches for the pointers; the features are present.
        unsafe { transpose8(rows, destination, stride) }
    }
}
