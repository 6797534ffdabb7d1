//! 8-bit products of x86-64: `vpdpbusd` where the processor has it (AVX-512 VNNI, AVX-VNNI), else
//! `vpmaddubsw`.
//!
//! Both multiply unsigned by signed bytes. `vpdpbusd` takes weights as they are stored, 128 too large,
//! and sums that begin with what takes this back. `vpmaddubsw` adds two products in 16 bits and would
//! saturate, so it gets the magnitudes of weights, and inputs that carry the sign of both: two
//! products of at most 128 * 127 fit.

use std::arch::x86_64::*;

use crate::kernels::int8_tile::{GROUP, Int8Tile};
use crate::kernels::pack::PANEL;

/// Bytes of a panel's row.
const ROW: usize = PANEL * GROUP;

/// Asks for a row's two cache lines.
#[inline(always)]
fn prefetch(at: *const u8) {
    // SAFETY: a prefetch of any address is allowed.
    unsafe {
        _mm_prefetch::<{ _MM_HINT_T1 }>(at.cast());
        _mm_prefetch::<{ _MM_HINT_T1 }>(at.wrapping_add(64).cast());
    }
}

/// The tile with AVX-512 VNNI.
///
/// # Safety
/// As for `Simd::int8_tile`.
#[allow(clippy::needless_range_loop)] // The row is an index into memory too.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni")]
pub(super) unsafe fn avx512_vnni<const R: usize>(tile: Int8Tile) {
    let Int8Tile { a, b, groups, start, sums: to, ahead } = tile;
    // SAFETY: the caller vouches for all that the tile points to.
    unsafe {
        let mut sums: [[__m512i; 2]; R] =
            std::array::from_fn(|r| [_mm512_set1_epi32(*start.add(r)); 2]);
        // Two groups at a time into sums of their own, where few rows leave the registers free: one
        // chain would wait for itself.
        let paired = if R <= 4 { groups & !1 } else { 0 };
        if R <= 4 {
            let mut others = [[_mm512_setzero_si512(); 2]; R];
            for g in (0..paired).step_by(2) {
                let row = b.add(g * ROW);
                prefetch(ahead.wrapping_add(g * ROW));
                prefetch(ahead.wrapping_add((g + 1) * ROW));
                let w: [__m512i; 4] =
                    std::array::from_fn(|i| _mm512_loadu_si512(row.add(i * 64).cast()));
                for r in 0..R {
                    let x = _mm512_set1_epi32(*a.add(g * R + r) as i32);
                    let y = _mm512_set1_epi32(*a.add((g + 1) * R + r) as i32);
                    sums[r][0] = _mm512_dpbusd_epi32(sums[r][0], w[0], x);
                    sums[r][1] = _mm512_dpbusd_epi32(sums[r][1], w[1], x);
                    others[r][0] = _mm512_dpbusd_epi32(others[r][0], w[2], y);
                    others[r][1] = _mm512_dpbusd_epi32(others[r][1], w[3], y);
                }
            }
            for r in 0..R {
                for v in 0..2 {
                    sums[r][v] = _mm512_add_epi32(sums[r][v], others[r][v]);
                }
            }
        }
        for g in paired..groups {
            prefetch(ahead.wrapping_add(g * ROW));
            let row = b.add(g * ROW);
            let w = [_mm512_loadu_si512(row.cast()), _mm512_loadu_si512(row.add(64).cast())];
            for r in 0..R {
                let x = _mm512_set1_epi32(*a.add(g * R + r) as i32);
                sums[r][0] = _mm512_dpbusd_epi32(sums[r][0], w[0], x);
                sums[r][1] = _mm512_dpbusd_epi32(sums[r][1], w[1], x);
            }
        }
        for r in 0..R {
            _mm512_storeu_si512(to.add(r * PANEL).cast(), sums[r][0]);
            _mm512_storeu_si512(to.add(r * PANEL + 16).cast(), sums[r][1]);
        }
    }
}

/// The tile with AVX-VNNI, `V` vectors of a panel at a time.
///
/// # Safety
/// As for `Simd::int8_tile`; `V` is 2 or 4.
#[allow(clippy::needless_range_loop)] // The row is an index into memory too.
#[target_feature(enable = "avx2,avxvnni")]
pub(super) unsafe fn avx_vnni<const R: usize, const V: usize>(tile: Int8Tile) {
    let Int8Tile { a, b, groups, start, sums: to, ahead } = tile;
    for vector in (0..PANEL / 8).step_by(V) {
        // SAFETY: the caller vouches for all that the tile points to.
        unsafe {
            let to = to.add(vector * 8);
            let mut sums: [[__m256i; V]; R] =
                std::array::from_fn(|r| [_mm256_set1_epi32(*start.add(r)); V]);
            for g in 0..groups {
                let row = b.add(g * ROW + vector * 32);
                prefetch(ahead.wrapping_add(g * ROW));
                let w: [__m256i; V] =
                    std::array::from_fn(|v| _mm256_loadu_si256(row.add(v * 32).cast()));
                for r in 0..R {
                    let x = _mm256_set1_epi32(*a.add(g * R + r) as i32);
                    for v in 0..V {
                        sums[r][v] = _mm256_dpbusd_avx_epi32(sums[r][v], w[v], x);
                    }
                }
            }
            for r in 0..R {
                for v in 0..V {
                    _mm256_storeu_si256(to.add(r * PANEL + v * 8).cast(), sums[r][v]);
                }
            }
        }
    }
}

/// The tile with AVX2 alone, `V` vectors of a panel at a time.
///
/// # Safety
/// As for `Simd::int8_tile`; `V` is 2 or 4.
#[allow(clippy::needless_range_loop)] // The row is an index into memory too.
#[target_feature(enable = "avx2")]
pub(super) unsafe fn avx2<const R: usize, const V: usize>(tile: Int8Tile) {
    let Int8Tile { a, b, groups, sums: to, ahead, .. } = tile;
    let (ones, stored) = (_mm256_set1_epi16(1), _mm256_set1_epi8(i8::MIN));
    for vector in (0..PANEL / 8).step_by(V) {
        // SAFETY: the caller vouches for all that the tile points to.
        unsafe {
            let to = to.add(vector * 8);
            let mut sums = [[_mm256_setzero_si256(); V]; R];
            for g in 0..groups {
                let row = b.add(g * ROW + vector * 32);
                prefetch(ahead.wrapping_add(g * ROW));
                let x: [__m256i; R] =
                    std::array::from_fn(|r| _mm256_set1_epi32(*a.add(g * R + r) as i32));
                for v in 0..V {
                    let w = _mm256_loadu_si256(row.add(v * 32).cast());
                    let w = _mm256_xor_si256(w, stored);
                    let size = _mm256_abs_epi8(w);
                    for r in 0..R {
                        let pairs = _mm256_maddubs_epi16(size, _mm256_sign_epi8(x[r], w));
                        sums[r][v] = _mm256_add_epi32(sums[r][v], _mm256_madd_epi16(pairs, ones));
                    }
                }
            }
            for r in 0..R {
                for v in 0..V {
                    _mm256_storeu_si256(to.add(r * PANEL + v * 8).cast(), sums[r][v]);
                }
            }
        }
    }
}

/// The tile with AVX-512 that lacks VNNI.
///
/// # Safety
/// As for `Simd::int8_tile`.
#[allow(clippy::needless_range_loop)] // The row is an index into memory too.
#[target_feature(enable = "avx512f,avx512bw,avx512vl")]
pub(super) unsafe fn avx512<const R: usize>(tile: Int8Tile) {
    let Int8Tile { a, b, groups, sums: to, ahead, .. } = tile;
    let (ones, stored) = (_mm512_set1_epi16(1), _mm512_set1_epi8(i8::MIN));
    let zero = _mm512_setzero_si512();
    // SAFETY: the caller vouches for all that the tile points to.
    unsafe {
        let mut sums = [[zero; 2]; R];
        for g in 0..groups {
            let row = b.add(g * ROW);
            prefetch(ahead.wrapping_add(g * ROW));
            let w = [_mm512_loadu_si512(row.cast()), _mm512_loadu_si512(row.add(64).cast())]
                .map(|w| _mm512_xor_si512(w, stored));
            let sizes = w.map(|w| _mm512_abs_epi8(w));
            let negative = w.map(|w| _mm512_movepi8_mask(w));
            for r in 0..R {
                let x = _mm512_set1_epi32(*a.add(g * R + r) as i32);
                for v in 0..2 {
                    let signed = _mm512_mask_sub_epi8(x, negative[v], zero, x);
                    let pairs = _mm512_maddubs_epi16(sizes[v], signed);
                    sums[r][v] = _mm512_add_epi32(sums[r][v], _mm512_madd_epi16(pairs, ones));
                }
            }
        }
        for r in 0..R {
            _mm512_storeu_si512(to.add(r * PANEL).cast(), sums[r][0]);
            _mm512_storeu_si512(to.add(r * PANEL + 16).cast(), sums[r][1]);
        }
    }
}
