//! The innermost loop of products in 8-bit integers: a tile of rows and one panel of a weight.
//!
//! Sums are whole numbers and exact, so that their order means nothing: each instruction set adds as
//! suits it, and all give the same result.

use super::pack::PANEL;

/// Inputs that lie together: the four bytes that processors multiply and add in one step.
pub const GROUP: usize = 4;

/// Rows of the tallest tile of any instruction set.
pub const MOST_ROWS: usize = 12;

/// One tile: `sums[r][j] = sum over g, i of a[g][r][i] * (b[g][j][i] - 128)`.
#[derive(Clone, Copy)]
pub struct Int8Tile {
    /// `[groups][rows]`, [`GROUP`] signed bytes each.
    pub a: *const u32,
    /// `[groups][PANEL][GROUP]`, each 128 more than it means.
    pub b: *const u8,
    /// Number of groups.
    pub groups: usize,
    /// `[rows]`: -128 times the sum of a row's inputs, for who multiplies by `b` as it is.
    pub start: *const i32,
    /// `[rows][PANEL]`
    pub sums: *mut i32,
    /// What to have ready after this tile: as large as `b`, at any address.
    pub ahead: *const u8,
}

/// The tile in plain Rust.
///
/// # Safety
/// As for [`Simd::int8_tile`](super::isa::Simd::int8_tile).
#[inline(always)]
pub unsafe fn plain<const R: usize>(tile: Int8Tile) {
    for r in 0..R {
        // SAFETY: the caller vouches for the start and the sums of every row, for `groups * R`
        // inputs and for `groups` rows of the panel.
        unsafe {
            let mut sums = [*tile.start.add(r); PANEL];
            for g in 0..tile.groups {
                let x = (*tile.a.add(g * R + r)).to_ne_bytes().map(|byte| i32::from(byte as i8));
                let row = tile.b.add(g * PANEL * GROUP);
                let weights = std::slice::from_raw_parts(row, PANEL * GROUP);
                for (sum, w) in sums.iter_mut().zip(weights.chunks_exact(GROUP)) {
                    // What comes between may leave 32 bits, the end does not.
                    *sum = sum.wrapping_add(
                        x[0] * i32::from(w[0])
                            + x[1] * i32::from(w[1])
                            + x[2] * i32::from(w[2])
                            + x[3] * i32::from(w[3]),
                    );
                }
            }
            std::slice::from_raw_parts_mut(tile.sums.add(r * PANEL), PANEL).copy_from_slice(&sums);
        }
    }
}
