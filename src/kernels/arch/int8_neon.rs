//! 8-bit products of aarch64: `sdot` where the processor has it, else widening products that are
//! added in pairs.

use std::arch::aarch64::*;

use crate::kernels::int8_tile::{GROUP, Int8Tile};
use crate::kernels::pack::PANEL;

/// Bytes of a panel's row.
const ROW: usize = PANEL * GROUP;
/// Vectors of four sums that a pass over the panel keeps for each row.
const VECTORS: usize = 4;

/// Four products of signed bytes in every lane, and their sum added to `sum`.
///
/// # Safety
/// The processor has `dotprod`.
#[inline(always)]
unsafe fn sdot(sum: int32x4_t, w: int8x16_t, x: int8x16_t) -> int32x4_t {
    let mut sum = sum;
    // As text, since the compiler's own name for it is not stable yet.
    // SAFETY: the caller vouches for the instruction, which touches nothing but these registers.
    unsafe {
        std::arch::asm!(
            ".arch_extension dotprod",
            "sdot {sum:v}.4s, {w:v}.16b, {x:v}.16b",
            sum = inout(vreg) sum,
            w = in(vreg) w,
            x = in(vreg) x,
            options(pure, nomem, nostack, preserves_flags)
        );
    }
    sum
}

/// The same of the baseline.
#[inline(always)]
fn widening(sum: int32x4_t, w: int8x16_t, x: int8x16_t) -> int32x4_t {
    // SAFETY: Advanced SIMD belongs to the aarch64 baseline. Two products of at most 128 * 127 fit
    // into 16 bits.
    unsafe {
        let low = vmull_s8(vget_low_s8(w), vget_low_s8(x));
        vpadalq_s16(sum, vpaddq_s16(low, vmull_high_s8(w, x)))
    }
}

/// The tile; `DOT` says that the processor has `dotprod`.
///
/// # Safety
/// As for `Simd::int8_tile`.
#[allow(clippy::needless_range_loop)] // The row is an index into memory too.
pub(super) unsafe fn tile<const R: usize, const DOT: bool>(tile: Int8Tile) {
    let Int8Tile { a, b, groups, sums: to, .. } = tile;
    for vector in (0..PANEL / 4).step_by(VECTORS) {
        // SAFETY: the caller vouches for all that the tile points to, and for `dotprod`.
        unsafe {
            let to = to.add(vector * 4);
            let mut sums = [[vdupq_n_s32(0); VECTORS]; R];
            for g in 0..groups {
                let row = b.add(g * ROW + vector * 16);
                let w: [int8x16_t; VECTORS] = std::array::from_fn(|v| {
                    vreinterpretq_s8_u8(veorq_u8(vld1q_u8(row.add(v * 16)), vdupq_n_u8(0x80)))
                });
                for r in 0..R {
                    let x = vreinterpretq_s8_u32(vdupq_n_u32(*a.add(g * R + r)));
                    for v in 0..VECTORS {
                        sums[r][v] = if DOT {
                            sdot(sums[r][v], w[v], x)
                        } else {
                            widening(sums[r][v], w[v], x)
                        };
                    }
                }
            }
            for r in 0..R {
                for v in 0..VECTORS {
                    vst1q_s32(to.add(r * PANEL + v * 4), sums[r][v]);
                }
            }
        }
    }
}
