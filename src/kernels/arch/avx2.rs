//! AVX2 with FMA and F16C: eight floats in a vector, sixteen registers.

use std::arch::x86_64::*;

use super::int8_x86;
use crate::kernels::int8_tile::Int8Tile;
use crate::kernels::isa::{Kernel, Simd};

/// Proof that the processor has AVX2, FMA and F16C.
#[derive(Clone, Copy, Debug)]
pub struct Avx2 {
    /// Whether it has AVX-VNNI as well.
    vnni: bool,
}

/// Calls an intrinsic of AVX, AVX2, FMA or F16C that touches no memory.
macro_rules! avx2 {
    ($call:expr) => {
        // SAFETY: an `Avx2` exists only where `new` found the features.
        unsafe { $call }
    };
}

impl Avx2 {
    /// `Some` if the processor has AVX2, FMA and F16C (which no processor with AVX2 is known to lack).
    pub fn new() -> Option<Self> {
        let found = is_x86_feature_detected!("avx2")
            && is_x86_feature_detected!("fma")
            && is_x86_feature_detected!("f16c");
        found.then(|| Avx2 { vnni: is_x86_feature_detected!("avxvnni") })
    }

    /// The same without AVX-VNNI; `None` if the processor lacks it.
    pub fn plain(self) -> Option<Self> {
        self.vnni.then_some(Avx2 { vnni: false })
    }

    /// Runs the kernel, compiled for these features.
    #[inline]
    pub fn run<K: Kernel>(self, kernel: K) -> K::Output {
        #[target_feature(enable = "avx2,fma,f16c")]
        fn inner<K: Kernel>(simd: Avx2, kernel: K) -> K::Output {
            kernel.run(simd)
        }
        avx2!(inner(self, kernel))
    }
}

/// All ones in the first `count` lanes: eight lanes from a table of eight ones and eight zeros.
#[inline(always)]
fn mask(count: usize) -> __m256i {
    const TABLE: [i32; 16] = [-1, -1, -1, -1, -1, -1, -1, -1, 0, 0, 0, 0, 0, 0, 0, 0];
    debug_assert!(count <= 8);
    // SAFETY: the index is clamped to 0..=8 and eight more entries follow; AVX is present, since
    // only methods of `Avx2` call this.
    unsafe { _mm256_loadu_si256(TABLE.as_ptr().add(8 - count.min(8)).cast()) }
}

impl Simd for Avx2 {
    type V = __m256;
    const LANES: usize = 8;
    const NAME: &'static str = "avx2";
    // Of sixteen registers, twelve hold sums, two the weights and one the broadcast input.
    const TILE_ROWS: usize = 6;
    const TILE_VECTORS: usize = 2;

    #[inline(always)]
    fn splat(self, x: f32) -> __m256 {
        avx2!(_mm256_set1_ps(x))
    }

    #[inline(always)]
    unsafe fn load(self, from: *const f32) -> __m256 {
        // SAFETY: the caller vouches for eight floats; the load asks for no alignment.
        unsafe { _mm256_loadu_ps(from) }
    }

    #[inline(always)]
    unsafe fn load_i32(self, from: *const i32) -> __m256 {
        // SAFETY: the caller vouches for eight numbers; the load asks for no alignment.
        unsafe { _mm256_cvtepi32_ps(_mm256_loadu_si256(from.cast())) }
    }

    #[inline(always)]
    unsafe fn store_i8(self, to: *mut i8, v: __m256) {
        // SAFETY: the caller vouches for eight bytes; the store asks for no alignment.
        unsafe {
            let whole = _mm256_cvtps_epi32(v);
            let lower = _mm256_castsi256_si128(whole);
            let pairs = _mm_packs_epi32(lower, _mm256_extracti128_si256::<1>(whole));
            _mm_storel_epi64(to.cast(), _mm_packs_epi16(pairs, pairs));
        }
    }

    #[inline(always)]
    unsafe fn load_bf16(self, from: *const u16) -> __m256 {
        // SAFETY: the caller vouches for eight numbers; the load asks for no alignment.
        unsafe {
            let wide = _mm256_cvtepu16_epi32(_mm_loadu_si128(from.cast()));
            _mm256_castsi256_ps(_mm256_slli_epi32::<16>(wide))
        }
    }

    #[inline(always)]
    unsafe fn load_f16(self, from: *const u16) -> __m256 {
        // SAFETY: the caller vouches for eight numbers; the load asks for no alignment.
        unsafe { _mm256_cvtph_ps(_mm_loadu_si128(from.cast())) }
    }

    #[inline(always)]
    unsafe fn store_bf16(self, to: *mut u16, v: __m256) {
        // SAFETY: the caller vouches for eight numbers; the store asks for no alignment.
        unsafe {
            let bits = _mm256_castps_si256(v);
            let upper = _mm256_srli_epi32::<16>(bits);
            let odd = _mm256_and_si256(upper, _mm256_set1_epi32(1));
            let half = _mm256_add_epi32(odd, _mm256_set1_epi32(0x7fff));
            let rounded = _mm256_srli_epi32::<16>(_mm256_add_epi32(bits, half));
            let nan = _mm256_castps_si256(_mm256_cmp_ps::<_CMP_UNORD_Q>(v, v));
            let quiet = _mm256_or_si256(upper, _mm256_set1_epi32(0x40));
            let rounded = _mm256_blendv_epi8(rounded, quiet, nan);
            let lower = _mm256_castsi256_si128(rounded);
            let packed = _mm_packus_epi32(lower, _mm256_extracti128_si256::<1>(rounded));
            _mm_storeu_si128(to.cast(), packed);
        }
    }

    #[inline(always)]
    unsafe fn store_f16(self, to: *mut u16, v: __m256) {
        const NEAREST: i32 = _MM_FROUND_TO_NEAREST_INT;
        // SAFETY: the caller vouches for eight numbers; the store asks for no alignment.
        unsafe { _mm_storeu_si128(to.cast(), _mm256_cvtps_ph::<NEAREST>(v)) }
    }

    #[inline(always)]
    unsafe fn store(self, to: *mut f32, v: __m256) {
        // SAFETY: the caller vouches for eight floats; the store asks for no alignment.
        unsafe { _mm256_storeu_ps(to, v) }
    }

    #[inline(always)]
    unsafe fn load_part(self, from: *const f32, count: usize) -> __m256 {
        // SAFETY: masked lanes are not read; the caller vouches for the first `count`.
        unsafe { _mm256_maskload_ps(from, mask(count)) }
    }

    #[inline(always)]
    unsafe fn store_part(self, to: *mut f32, v: __m256, count: usize) {
        // SAFETY: masked lanes are not written; the caller vouches for the first `count`.
        unsafe { _mm256_maskstore_ps(to, mask(count), v) }
    }

    #[inline(always)]
    fn add(self, a: __m256, b: __m256) -> __m256 {
        avx2!(_mm256_add_ps(a, b))
    }

    #[inline(always)]
    fn sub(self, a: __m256, b: __m256) -> __m256 {
        avx2!(_mm256_sub_ps(a, b))
    }

    #[inline(always)]
    fn mul(self, a: __m256, b: __m256) -> __m256 {
        avx2!(_mm256_mul_ps(a, b))
    }

    #[inline(always)]
    fn div(self, a: __m256, b: __m256) -> __m256 {
        avx2!(_mm256_div_ps(a, b))
    }

    #[inline(always)]
    fn max(self, a: __m256, b: __m256) -> __m256 {
        avx2!(_mm256_max_ps(a, b))
    }

    #[inline(always)]
    fn min(self, a: __m256, b: __m256) -> __m256 {
        avx2!(_mm256_min_ps(a, b))
    }

    #[inline(always)]
    fn fma(self, a: __m256, b: __m256, c: __m256) -> __m256 {
        avx2!(_mm256_fmadd_ps(a, b, c))
    }

    #[inline(always)]
    fn neg(self, a: __m256) -> __m256 {
        avx2!(_mm256_xor_ps(a, _mm256_set1_ps(-0.0)))
    }

    #[inline(always)]
    fn abs(self, a: __m256) -> __m256 {
        avx2!(_mm256_andnot_ps(_mm256_set1_ps(-0.0), a))
    }

    #[inline(always)]
    fn sqrt(self, a: __m256) -> __m256 {
        avx2!(_mm256_sqrt_ps(a))
    }

    #[inline(always)]
    fn round(self, a: __m256) -> __m256 {
        avx2!(_mm256_round_ps::<{ _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC }>(a))
    }

    #[inline(always)]
    fn floor(self, a: __m256) -> __m256 {
        avx2!(_mm256_round_ps::<{ _MM_FROUND_TO_NEG_INF | _MM_FROUND_NO_EXC }>(a))
    }

    #[inline(always)]
    fn pow2i(self, n: __m256) -> __m256 {
        avx2!({
            let exponent = _mm256_add_epi32(_mm256_cvtps_epi32(n), _mm256_set1_epi32(127));
            _mm256_castsi256_ps(_mm256_slli_epi32::<23>(exponent))
        })
    }

    #[inline(always)]
    fn select_gt(self, a: __m256, b: __m256, x: __m256, y: __m256) -> __m256 {
        avx2!(_mm256_blendv_ps(y, x, _mm256_cmp_ps::<_CMP_GT_OQ>(a, b)))
    }

    #[inline(always)]
    fn reduce_add(self, a: __m256) -> f32 {
        avx2!({
            let four = _mm_add_ps(_mm256_castps256_ps128(a), _mm256_extractf128_ps::<1>(a));
            let two = _mm_add_ps(four, _mm_movehl_ps(four, four));
            _mm_cvtss_f32(_mm_add_ss(two, _mm_movehdup_ps(two)))
        })
    }

    #[inline(always)]
    fn reduce_max(self, a: __m256) -> f32 {
        avx2!({
            let four = _mm_max_ps(_mm256_castps256_ps128(a), _mm256_extractf128_ps::<1>(a));
            let two = _mm_max_ps(four, _mm_movehl_ps(four, four));
            _mm_cvtss_f32(_mm_max_ss(two, _mm_movehdup_ps(two)))
        })
    }

    #[inline(always)]
    fn int8_rows(self) -> usize {
        // Of sixteen registers, twelve hold sums; without VNNI eight, since products need more.
        if self.vnni { 6 } else { 4 }
    }

    #[inline(always)]
    unsafe fn int8_tile<const R: usize>(self, tile: Int8Tile) {
        // SAFETY: the features are present; the caller's duties are passed on.
        unsafe {
            match (self.vnni, R) {
                (true, ..=2) => int8_x86::avx_vnni::<R, 4>(tile),
                (true, _) => int8_x86::avx_vnni::<R, 2>(tile),
                (false, ..=2) => int8_x86::avx2::<R, 4>(tile),
                (false, _) => int8_x86::avx2::<R, 2>(tile),
            }
        }
    }

    #[inline(always)]
    unsafe fn transpose8(self, rows: [*const f32; 8], destination: *mut f32, stride: usize) {
        // SAFETY: the caller vouches for the pointers; the features are present.
        unsafe { transpose8(rows, destination, stride) }
    }
}

/// [`Simd::transpose8`]: pairs, then fours, then halves change places.
///
/// # Safety
/// - Each row is valid for eight floats.
/// - `destination + j * stride` is valid for eight floats for `j` in 0..8.
#[inline]
#[target_feature(enable = "avx2")]
pub(super) unsafe fn transpose8(rows: [*const f32; 8], destination: *mut f32, stride: usize) {
    let mut r = [_mm256_setzero_ps(); 8];
    for (vector, row) in r.iter_mut().zip(rows) {
        // SAFETY: the caller vouches for eight floats at each row.
        *vector = unsafe { _mm256_loadu_ps(row) };
    }
    // Per half of four rows: columns 0 and 1 | 4 and 5 in `low`, 2 and 3 | 6 and 7 in `high`.
    let mut low = [_mm256_setzero_ps(); 4];
    let mut high = [_mm256_setzero_ps(); 4];
    for i in 0..4 {
        low[i] = _mm256_unpacklo_ps(r[2 * i], r[2 * i + 1]);
        high[i] = _mm256_unpackhi_ps(r[2 * i], r[2 * i + 1]);
    }
    let fours = [
        [_mm256_shuffle_ps::<0x44>(low[0], low[1]), _mm256_shuffle_ps::<0x44>(low[2], low[3])],
        [_mm256_shuffle_ps::<0xee>(low[0], low[1]), _mm256_shuffle_ps::<0xee>(low[2], low[3])],
        [_mm256_shuffle_ps::<0x44>(high[0], high[1]), _mm256_shuffle_ps::<0x44>(high[2], high[3])],
        [_mm256_shuffle_ps::<0xee>(high[0], high[1]), _mm256_shuffle_ps::<0xee>(high[2], high[3])],
    ];
    for (j, [first, second]) in fours.into_iter().enumerate() {
        // SAFETY: the caller vouches for eight floats at every stride, and `j + 4 < 8`. The upper
        // columns are written by the loop below, so that all are written in ascending order.
        unsafe {
            _mm256_storeu_ps(
                destination.add(j * stride),
                _mm256_permute2f128_ps::<0x20>(first, second),
            );
        }
    }
    for (j, [first, second]) in fours.into_iter().enumerate() {
        // SAFETY: as above.
        unsafe {
            _mm256_storeu_ps(
                destination.add((j + 4) * stride),
                _mm256_permute2f128_ps::<0x31>(first, second),
            );
        }
    }
}
