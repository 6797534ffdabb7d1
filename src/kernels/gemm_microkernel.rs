//! The innermost loop of every product: a tile of up to [`MOST_ROWS`] rows and one panel.
//!
//! The tile's sums stay in registers while `depth` goes by; each step loads a row of the panel once
//! and one number per row of the tile. On AVX-512 that is 24 fused multiply-adds for 14 loads (12
//! rows by 32 columns), on AVX2 12 for 8 (6 by 16, a panel in two halves): both units that multiply
//! are busy and the two that load are not.

use super::element::Element;
use super::isa::Simd;
use super::pack::PANEL;

/// Rows of the tallest tile of any instruction set.
pub(super) const MOST_ROWS: usize = 12;

/// Bytes of a cache line.
const LINE: usize = 64;

/// One tile: `c[r][j] = (start ? 0 : c[r][j]) + sum over d of a[d][r] * b[d][j]`, each sum a single
/// chain of multiply-adds with `d` ascending.
#[derive(Clone, Copy)]
pub(super) struct Tile<E> {
    /// `[depth][rows]`
    pub a: *const f32,
    /// `[depth][PANEL]`
    pub b: *const E,
    /// `rows` rows of [`PANEL`] floats, `stride` apart.
    pub c: *mut f32,
    pub stride: usize,
    pub depth: usize,
    /// What to have ready after this tile: as large as `b`, at any address.
    pub ahead: *const E,
    /// Whether the chain begins here; otherwise it goes on from `c`.
    pub start: bool,
}

/// Computes a tile of `rows` rows, with the same bits for all elements of the same value.
///
/// # Safety
/// - `1 <= rows <= S::TILE_ROWS`.
/// - `a` is valid for `depth * rows` floats, `b` for `depth * PANEL` elements, and `c` for [`PANEL`]
///   floats at each of `rows` strides; `c` overlaps neither.
#[inline(always)]
pub(super) unsafe fn multiply<S: Simd, E: Element>(s: S, rows: usize, tile: Tile<E>) {
    debug_assert!(rows >= 1 && rows <= S::TILE_ROWS && S::TILE_ROWS <= MOST_ROWS);
    // SAFETY: each arm passes its own number of rows; the caller vouches for the rest.
    unsafe {
        match rows {
            1 => few_rows::<S, E, 1>(s, tile),
            2 => few_rows::<S, E, 2>(s, tile),
            3 => rows_of::<S, E, 3>(s, tile),
            4 => rows_of::<S, E, 4>(s, tile),
            5 => rows_of::<S, E, 5>(s, tile),
            6 => rows_of::<S, E, 6>(s, tile),
            7 => rows_of::<S, E, 7>(s, tile),
            8 => rows_of::<S, E, 8>(s, tile),
            9 => rows_of::<S, E, 9>(s, tile),
            10 => rows_of::<S, E, 10>(s, tile),
            11 => rows_of::<S, E, 11>(s, tile),
            _ => rows_of::<S, E, 12>(s, tile),
        }
    }
}

/// One or two rows: the whole panel at once, since registers are plenty and more chains at a time
/// hide the latency of the multiply-add.
///
/// # Safety
/// As for [`multiply`], with `R` rows.
#[inline(always)]
unsafe fn few_rows<S: Simd, E: Element, const R: usize>(s: S, tile: Tile<E>) {
    // SAFETY: the caller's duties are passed on.
    unsafe {
        match (S::LANES, R) {
            (4, _) => pass::<S, E, R, 8>(s, tile),
            (8, 1) => pass::<S, E, R, 4>(s, tile),
            (8, _) if S::TILE_VECTORS > 1 => pass::<S, E, R, 4>(s, tile),
            _ => rows_of::<S, E, R>(s, tile),
        }
    }
}

/// The panel in as many passes as the instruction set's tile width asks for.
///
/// # Safety
/// As for [`multiply`], with `R` rows.
#[inline(always)]
unsafe fn rows_of<S: Simd, E: Element, const R: usize>(s: S, tile: Tile<E>) {
    // A constant of the instruction set: taller tiles than it has are not even compiled.
    if R > S::TILE_ROWS {
        return;
    }
    // SAFETY: the caller's duties are passed on.
    unsafe {
        match S::TILE_VECTORS {
            1 => pass::<S, E, R, 1>(s, tile),
            2 => pass::<S, E, R, 2>(s, tile),
            _ => pass::<S, E, R, 4>(s, tile),
        }
    }
}

/// All columns of the panel, `V` vectors at a time.
///
/// # Safety
/// As for [`multiply`], with `R` rows.
#[allow(clippy::needless_range_loop)] // All three indices are also offsets into memory.
#[inline(always)]
unsafe fn pass<S: Simd, E: Element, const R: usize, const V: usize>(s: S, tile: Tile<E>) {
    let Tile { a, b, c, stride, depth, ahead, start } = tile;
    for first in (0..PANEL).step_by(V * S::LANES) {
        // SAFETY: the caller vouches for all rows of `a`, `b` and `c`; `first + V * LANES <= PANEL`
        // since the widths of all instruction sets divide a panel.
        unsafe {
            let mut sums = [[s.zero(); V]; R];
            if !start {
                for r in 0..R {
                    for v in 0..V {
                        sums[r][v] = s.load(c.add(r * stride + first + v * S::LANES));
                    }
                }
            }
            for d in 0..depth {
                for line in (first..first + V * S::LANES).step_by(LINE / size_of::<E>()) {
                    s.prefetch(ahead.wrapping_add(d * PANEL + line).cast());
                }
                let mut weights = [s.zero(); V];
                for v in 0..V {
                    weights[v] = E::load(s, b.add(d * PANEL + first + v * S::LANES));
                }
                for r in 0..R {
                    let x = s.splat(*a.add(d * R + r));
                    for v in 0..V {
                        sums[r][v] = E::multiply_add(s, x, weights[v], sums[r][v]);
                    }
                }
            }
            for r in 0..R {
                for v in 0..V {
                    s.store(c.add(r * stride + first + v * S::LANES), sums[r][v]);
                }
            }
        }
    }
}
