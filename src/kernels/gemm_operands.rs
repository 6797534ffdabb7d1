//! The operands of a product: how they are stored, and how blocks of them are packed.
//!
//! Of the left operand that is tiles, `[depth][rows]` each; of the right one a panel, `[depth][PANEL]`.
//! Where a product multiplies in pairs, two neighbours of the depth make one: they are narrowed first
//! and moved then, as half as many words.

use std::ops::Range;

use super::element::{Bfloat16, Float16, elements, round, widen};
use super::gemm::Panels;
use super::half_float::HalfFormat;
use super::isa::Simd;
use super::memory::{Slot, scratch};
use super::pack::{PANEL, transpose_block};
use super::pairs::{self, Numbers, Pair};
use super::parallel::share;

/// The floats of a left operand.
#[derive(Clone, Copy)]
pub(super) enum LeftValues<'a> {
    /// Stored `[rows, depth]`.
    Rows(&'a [f32]),
    /// Stored `[depth, rows]`.
    Columns(&'a [f32]),
}

/// The left operand, logically `[rows, depth]`.
#[derive(Clone, Copy)]
pub(super) struct Left<'a> {
    pub values: LeftValues<'a>,
    pub rows: usize,
    pub depth: usize,
    pub numbers: Numbers,
}

/// The right operand, logically `[depth, columns]`.
#[derive(Clone, Copy)]
pub(super) enum Right<'a> {
    /// A packed weight with `columns` outputs and `depth` inputs.
    Panels(Panels<'a>),
    /// Stored `[depth, columns]`.
    Rows(&'a [f32]),
    /// A packed weight with `depth` outputs and `columns` inputs.
    Transposed(&'a [f32]),
}

/// Tile `index` of `count` that share `rows` rows as evenly as can be: its first row and height.
#[inline(always)]
pub(super) fn tile(rows: usize, count: usize, index: usize) -> (usize, usize) {
    let tile = share(rows, count, index);
    (tile.start, tile.len())
}

/// Tiles of `rows` rows.
#[inline(always)]
pub(super) fn tiles<S: Simd>(_: S, rows: usize) -> usize {
    rows.div_ceil(S::TILE_ROWS)
}

impl Left<'_> {
    /// Words of a tile's row for so many depths.
    #[inline(always)]
    pub(super) fn steps(&self, depth: usize) -> usize {
        match self.numbers {
            Numbers::Float32 => depth,
            Numbers::Bfloat16Pairs => depth.div_ceil(2),
        }
    }

    /// Where the tiles of some rows and of depths from `depth` on begin among those that are packed for all
    /// rows and for `depths`: by parts of the rows, and in these by blocks of the depth.
    #[inline(always)]
    pub(super) fn place(&self, rows: &Range<usize>, depth: usize, depths: &Range<usize>) -> usize {
        rows.start * self.steps(depths.len()) + rows.len() * self.steps(depth - depths.start)
    }

    /// One row, which is its own tile, as it is stored.
    #[inline(always)]
    pub(super) fn as_stored(&self, rows: &Range<usize>, depth: usize) -> Option<*const f32> {
        match self.values {
            LeftValues::Rows(x) if rows.len() == 1 && self.numbers == Numbers::Float32 => {
                Some(x[rows.start * self.depth + depth..].as_ptr())
            }
            _ => None,
        }
    }

    /// Packs some of the tiles that share `rows`, for the given depths, one after the other.
    #[inline(always)]
    pub(super) fn pack<S: Simd>(
        &self,
        s: S,
        rows: &Range<usize>,
        some: Range<usize>,
        depths: Range<usize>,
        to: &mut [f32],
    ) {
        let (count, steps) = (tiles(s, rows.len()), self.steps(depths.len()));
        if steps == 0 {
            return;
        }
        let mut to = to;
        for index in some {
            let (row, height) = tile(rows.len(), count, index);
            let (tile, rest) = to.split_at_mut(height * steps);
            self.pack_tile(s, rows.start + row, height, depths.clone(), tile);
            to = rest;
        }
    }

    #[inline(always)]
    fn pack_tile<S: Simd>(
        &self,
        s: S,
        row: usize,
        height: usize,
        depths: Range<usize>,
        to: &mut [f32],
    ) {
        let steps = self.steps(depths.len());
        match (self.values, self.numbers) {
            (LeftValues::Rows(x), Numbers::Float32) => {
                let from =
                    &x[row * self.depth + depths.start..][..(height - 1) * self.depth + steps];
                // SAFETY: `from` reaches the last of `height` strides; `to` has room for the tile.
                unsafe {
                    pack_rows(s, from.as_ptr(), self.depth, height, steps, to.as_mut_ptr());
                }
            }
            (LeftValues::Rows(x), Numbers::Bfloat16Pairs) => {
                let mut narrow = scratch(Slot::Work, height * steps);
                for (r, to) in narrow.chunks_exact_mut(steps).enumerate() {
                    let from = &x[(row + r) * self.depth..][depths.clone()];
                    pairs::narrow_row(s, from, to);
                }
                // SAFETY: both hold `height * steps` words.
                unsafe {
                    pack_rows(s, narrow.as_ptr(), steps, height, steps, to.as_mut_ptr());
                }
            }
            (LeftValues::Columns(x), Numbers::Float32) => {
                let start = depths.start * self.rows + row;
                let from = &x[start..][..(steps - 1) * self.rows + height];
                // SAFETY: `from` reaches the last of `steps` strides; `to` has room for the tile.
                unsafe {
                    let to = to.as_mut_ptr();
                    copy_block(s, from.as_ptr(), self.rows, height, steps, to, height);
                }
            }
            (LeftValues::Columns(x), Numbers::Bfloat16Pairs) => {
                let line = |depth: usize| &x[depth * self.rows + row..][..height];
                join_lines(s, depths, line, height, to);
            }
        }
    }
}

/// Joins lines of each two depths into one of pairs, `stride` words apart.
#[inline(always)]
fn join_lines<'a, S: Simd>(
    s: S,
    depths: Range<usize>,
    line: impl Fn(usize) -> &'a [f32],
    stride: usize,
    to: &mut [f32],
) {
    for (first, to) in depths.clone().step_by(2).zip(to.chunks_exact_mut(stride)) {
        let second = (first + 1 < depths.end).then(|| line(first + 1));
        let first = line(first);
        pairs::join_rows(s, first, second, &mut to[..first.len()]);
    }
}

impl Right<'_> {
    /// Panel `panel` of an operand `[depth, columns]`, for the given depths, `[depth][PANEL]`: in `to`, or
    /// where it is stored.
    #[inline(always)]
    pub(super) fn floats<S: Simd>(
        &self,
        s: S,
        (depth, columns): (usize, usize),
        panel: usize,
        depths: Range<usize>,
        to: &mut [f32],
    ) -> *const f32 {
        let width = PANEL.min(columns - panel * PANEL);
        let start = (panel * depth + depths.start) * PANEL;
        let stored = start..start + depths.len() * PANEL;
        let block = ..depths.len() * PANEL;
        if width < PANEL && !matches!(self, Right::Panels(_)) {
            to[block].fill(0.0);
        }
        match self {
            Right::Panels(Panels::Float(w)) => return w[stored].as_ptr(),
            Right::Panels(Panels::Rounded(HalfFormat::Float16, w)) => {
                round::<S, Float16>(s, &w[stored], &mut to[block]);
            }
            Right::Panels(Panels::Rounded(HalfFormat::Bfloat16, w)) => {
                round::<S, Bfloat16>(s, &w[stored], &mut to[block]);
            }
            Right::Panels(Panels::Half(HalfFormat::Float16, w)) => {
                widen::<S, Float16>(s, elements(&w[stored]), &mut to[block]);
            }
            Right::Panels(Panels::Half(HalfFormat::Bfloat16, w)) => {
                widen::<S, Bfloat16>(s, elements(&w[stored]), &mut to[block]);
            }
            // SAFETY: the source is [depth, columns] and `width` columns are left; `to` holds
            // `depths.len()` rows of a panel.
            Right::Rows(x) => unsafe {
                let from = x.as_ptr().add(depths.start * columns + panel * PANEL);
                let to = to[block].as_mut_ptr();
                copy_block(s, from, columns, width, depths.len(), to, PANEL);
            },
            Right::Transposed(w) => {
                debug_assert!(depths.start.is_multiple_of(PANEL));
                let blocks = to[block].chunks_mut(PANEL * PANEL);
                for (first, to) in depths.clone().step_by(PANEL).zip(blocks) {
                    let count = PANEL.min(depths.end - first);
                    let from = &w[first * columns + panel * PANEL * PANEL..][..width * PANEL];
                    // SAFETY: the source has `width` rows of a panel, `to` has `count`.
                    unsafe {
                        let to = to.as_mut_ptr();
                        transpose_block(s, from.as_ptr(), width, count, PANEL, to, PANEL);
                    }
                }
            }
        }
        to.as_ptr()
    }

    /// The same in pairs, `[depth / 2][PANEL]`.
    #[inline(always)]
    pub(super) fn pairs<S: Simd>(
        &self,
        s: S,
        (depth, columns): (usize, usize),
        panel: usize,
        depths: Range<usize>,
        to: &mut [f32],
    ) -> *const Pair {
        let width = PANEL.min(columns - panel * PANEL);
        let packed = &mut to[..depths.len().div_ceil(2) * PANEL];
        if width < PANEL && !matches!(self, Right::Panels(_)) {
            packed.fill(0.0);
        }
        match self {
            Right::Panels(Panels::Float(w) | Panels::Rounded(_, w)) => {
                let line = |d: usize| &w[(panel * depth + d) * PANEL..][..PANEL];
                join_lines(s, depths, line, PANEL, packed);
            }
            Right::Panels(Panels::Half(..)) => {
                self.floats(s, (depth, columns), panel, depths.clone(), to);
                pairs::join_block(s, PANEL, &mut to[..depths.len() * PANEL]);
            }
            Right::Rows(x) => {
                let line = |d: usize| &x[d * columns + panel * PANEL..][..width];
                join_lines(s, depths, line, PANEL, packed);
            }
            Right::Transposed(w) => {
                debug_assert!(depths.start.is_multiple_of(PANEL));
                let mut narrow = [0.0; PANEL * PANEL / 2];
                let blocks = packed.chunks_mut(PANEL * PANEL / 2);
                for (first, to) in depths.clone().step_by(PANEL).zip(blocks) {
                    let count = PANEL.min(depths.end - first);
                    let from = &w[first * columns + panel * PANEL * PANEL..][..width * PANEL];
                    for (from, to) in
                        from.chunks_exact(PANEL).zip(narrow.chunks_exact_mut(PANEL / 2))
                    {
                        pairs::narrow_row(s, from, to);
                    }
                    // SAFETY: `narrow` has `width` rows of half a panel, `to` has half of `count` rows.
                    unsafe {
                        let (from, to, count) =
                            (narrow.as_ptr(), to.as_mut_ptr(), count.div_ceil(2));
                        transpose_block(s, from, width, count, PANEL / 2, to, PANEL);
                    }
                }
            }
        }
        to.as_ptr().cast()
    }
}

/// Packs `height` rows, `stride` apart, into a tile `[depth][height]`. The floats may be any 32 bits.
///
/// # Safety
/// - `from` is valid for `depth` floats at each of `height` strides; `1 <= height <= MOST_ROWS`.
/// - `to` is valid for `depth * height` floats.
#[inline(always)]
pub(super) unsafe fn pack_rows<S: Simd>(
    s: S,
    from: *const f32,
    stride: usize,
    height: usize,
    depth: usize,
    to: *mut f32,
) {
    if height == 1 {
        // SAFETY: both hold `depth` floats.
        unsafe { std::ptr::copy_nonoverlapping(from, to, depth) };
        return;
    }
    // Groups of eight rows; the last group ends with the tile and may overlap the one before. A
    // tile of less than eight rows repeats its last row: what that writes is overwritten by the
    // next depth, which comes later; the last ones, which would write past the tile, come singly.
    let past = 8_usize.saturating_sub(height).div_ceil(height);
    let whole = depth.saturating_sub(past) & !7;
    for group in (0..height).step_by(8) {
        let group = group.min(height.saturating_sub(8));
        // SAFETY: row numbers are below `height`, depths below `whole`; a group writes eight floats
        // from `d * height + group`, which end with the tile where it has eight rows, and else reach
        // at most `past` depths further.
        unsafe {
            let row = |i: usize| from.add((group + i).min(height - 1) * stride);
            let rows = [row(0), row(1), row(2), row(3), row(4), row(5), row(6), row(7)];
            for d in (0..whole).step_by(8) {
                let here = [
                    rows[0].add(d),
                    rows[1].add(d),
                    rows[2].add(d),
                    rows[3].add(d),
                    rows[4].add(d),
                    rows[5].add(d),
                    rows[6].add(d),
                    rows[7].add(d),
                ];
                s.transpose8(here, to.add(d * height + group), height);
            }
        }
    }
    for d in whole..depth {
        for r in 0..height {
            // SAFETY: both indices are inside.
            unsafe { *to.add(d * height + r) = *from.add(r * stride + d) };
        }
    }
}

/// Copies `rows` rows of `width` floats from one stride to another.
///
/// # Safety
/// - `from` and `to` are valid for `width` floats at each of `rows` of their strides.
/// - They do not overlap.
#[inline(always)]
pub(super) unsafe fn copy_block<S: Simd>(
    s: S,
    from: *const f32,
    from_stride: usize,
    width: usize,
    rows: usize,
    to: *mut f32,
    to_stride: usize,
) {
    let whole = width / S::LANES * S::LANES;
    for r in 0..rows {
        // SAFETY: `r < rows`, and columns stay below `width`.
        unsafe {
            let (from, to) = (from.add(r * from_stride), to.add(r * to_stride));
            for c in (0..whole).step_by(S::LANES) {
                s.store(to.add(c), s.load(from.add(c)));
            }
            if whole < width {
                s.store_part(
                    to.add(whole),
                    s.load_part(from.add(whole), width - whole),
                    width - whole,
                );
            }
        }
    }
}
