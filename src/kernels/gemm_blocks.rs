//! One part of a product: a range of rows times a range of panels, in blocks that fit the caches.
//!
//! For each block of the depth, at most [`DEPTH_BLOCK`], the left rows are packed into tiles
//! `[depth][rows]`; for each panel, its block is packed unless it is already (or widened, where it is
//! stored in 16 bits and enough rows share the pains), and all tiles pass over it. Tiles and panel
//! stay in the second-level cache meanwhile. Sums go on from one block to the next through the output,
//! so that each remains a single chain.

use std::ops::Range;

use super::best::Gatherer;
use super::element::{Bfloat16, Element, Float16, elements, round, widen};
use super::gelu;
use super::gemm::{Epilogue, Panels};
use super::gemm_microkernel::{MOST_ROWS, Tile, multiply};
use super::half_float::HalfFormat;
use super::isa::{Kernel, Simd};
use super::memory::{Slot, scratch};
use super::pack::{PANEL, transpose_block};
use super::pairs::{self, Numbers, Pair};
use super::parallel::share;
use super::team::SharedMut;

/// Depth of a block. A deeper one reads and writes the sums in the output less often, which weighs
/// more than a panel's block (96 KiB) streaming from the second-level cache: measured from 256 to 768.
pub(super) const DEPTH_BLOCK: usize = 768;

/// Rows of a panel to ask memory for in advance: 8 KiB, some 100 ns at the rate memory is read.
const ROWS_AHEAD: usize = 64;

/// The left operand, logically `[rows, depth]`.
#[derive(Clone, Copy)]
pub(super) enum Left<'a> {
    /// Stored `[rows, depth]`.
    Rows(&'a [f32]),
    /// Stored `[depth, rows]`.
    Columns(&'a [f32]),
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

/// How the result is stored.
#[derive(Clone, Copy, PartialEq)]
pub(super) enum Layout {
    /// `[rows, columns]`
    Rows,
    /// As a packed weight with `columns` outputs and `rows` inputs, the last panel filled up.
    Panels,
    /// One panel of the rows of a part, `[rows, PANEL]`, which the next panel overwrites.
    OnePanel,
}

/// A whole product. The lengths of all slices, and of what `out` points to, fit the sizes.
pub(super) struct Product<'a> {
    pub rows: usize,
    pub columns: usize,
    pub depth: usize,
    pub left: Left<'a>,
    pub right: Right<'a>,
    pub out: SharedMut<f32>,
    pub layout: Layout,
    pub bias: Option<&'a [f32]>,
    pub epilogue: Epilogue,
    pub numbers: Numbers,
}

/// One part. Parts of a product that run at the same time differ in rows or panels.
pub(super) struct Part<'a> {
    pub product: &'a Product<'a>,
    pub rows: Range<usize>,
    pub panels: Range<usize>,
    pub depth_block: usize,
    /// Who takes the results where they are laid out as one panel; `depth_block` is then the depth.
    pub gatherer: Option<Gatherer<'a>>,
}

impl Kernel for Part<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(mut self, s: S) {
        let total = self.product.depth;
        let block = self.depth_block.min(total);
        let mut left = scratch(Slot::Left, self.rows.len() * block);
        let as_stored = self.reads_as_stored(s);
        let mut right = scratch(Slot::Right, if as_stored { 0 } else { block * PANEL });
        let mut first = 0;
        loop {
            let range = first..(first + block).min(total);
            let a = self.left_block(s, range.clone(), &mut left);
            if self.in_pairs() {
                self.join_left(s, range.len(), &mut left);
            }
            for panel in self.panels.clone() {
                let at = (panel, range.clone());
                let start = (panel * total + range.start) * PANEL;
                match self.product.right {
                    Right::Panels(Panels::Half(HalfFormat::Float16, w)) if as_stored => {
                        self.multiply(s, at, a, w[start..].as_ptr().cast::<Float16>());
                    }
                    Right::Panels(Panels::Half(HalfFormat::Bfloat16, w)) if as_stored => {
                        self.multiply(s, at, a, w[start..].as_ptr().cast::<Bfloat16>());
                    }
                    _ if self.in_pairs() => {
                        let b = self.right_pairs(s, panel, range.clone(), &mut right);
                        self.multiply(s, at, a, b);
                    }
                    _ => {
                        let b = self.right_block(s, panel, range.clone(), &mut right);
                        self.multiply(s, at, a, b);
                    }
                }
                if range.end == total {
                    self.finish(s, panel);
                    self.hand_over(s, panel);
                }
            }
            first = range.end;
            // At the end and not at the head: a product of no depth still sets its result.
            if first >= total {
                break;
            }
        }
        if let Some(gatherer) = self.gatherer {
            gatherer.finish();
        }
    }
}

/// Tile `index` of `count` that share `rows` rows as evenly as can be: its first row and height.
#[inline(always)]
fn tile(rows: usize, count: usize, index: usize) -> (usize, usize) {
    let tile = share(rows, count, index);
    (tile.start, tile.len())
}

impl Part<'_> {
    fn tiles<S: Simd>(&self, _: S) -> usize {
        self.rows.len().div_ceil(S::TILE_ROWS)
    }

    fn in_pairs(&self) -> bool {
        self.product.numbers == Numbers::Bfloat16Pairs
    }

    /// Joins neighbours of a chain in the tiles of the left operand, each where it is.
    #[inline(always)]
    fn join_left<S: Simd>(&self, s: S, depth: usize, left: &mut [f32]) {
        let count = self.tiles(s);
        for index in 0..count {
            let (row, height) = tile(self.rows.len(), count, index);
            pairs::join_block(s, height, &mut left[row * depth..][..height * depth]);
        }
    }

    /// A panel of the right operand for the given depths in pairs, `[depth / 2][PANEL]`.
    #[inline(always)]
    fn right_pairs<S: Simd>(
        &self,
        s: S,
        panel: usize,
        depths: Range<usize>,
        right: &mut [f32],
    ) -> *const Pair {
        let block = depths.len() * PANEL;
        if let Right::Panels(Panels::Float(w) | Panels::Rounded(_, w)) = self.product.right {
            let stored = &w[(panel * self.product.depth + depths.start) * PANEL..][..block];
            for (rows, to) in stored.chunks(2 * PANEL).zip(right.chunks_exact_mut(PANEL)) {
                let (first, second) = rows.split_at(PANEL);
                pairs::join_rows(s, first, (!second.is_empty()).then_some(second), to);
            }
        } else {
            self.right_block(s, panel, depths, right);
            pairs::join_block(s, PANEL, &mut right[..block]);
        }
        right.as_ptr().cast()
    }

    /// Whether panels are read where they are stored, and not from a block that was made of them.
    fn reads_as_stored<S: Simd>(&self, s: S) -> bool {
        match self.product.right {
            _ if self.in_pairs() => false,
            Right::Panels(Panels::Float(_)) => true,
            // To widen elements twice in registers costs less than to write and read them.
            Right::Panels(Panels::Half(..)) => self.tiles(s) <= 2,
            _ => false,
        }
    }

    /// The tiles of the left operand for the given depths, one after the other.
    #[inline(always)]
    fn left_block<S: Simd>(&self, s: S, depths: Range<usize>, left: &mut [f32]) -> *const f32 {
        let (count, depth) = (self.tiles(s), depths.len());
        let to = left.as_mut_ptr();
        match self.product.left {
            // One row is its own tile.
            Left::Rows(x) if self.rows.len() == 1 && !self.in_pairs() => {
                return x[self.rows.start * self.product.depth + depths.start..].as_ptr();
            }
            Left::Rows(x) => {
                for index in 0..count {
                    let (row, height) = tile(self.rows.len(), count, index);
                    let start = (self.rows.start + row) * self.product.depth + depths.start;
                    // SAFETY: `x` is [rows, depth]; `left` has room for all tiles.
                    unsafe {
                        let from = x.as_ptr().add(start);
                        pack_rows(s, from, self.product.depth, height, depth, to.add(row * depth));
                    }
                }
            }
            Left::Columns(x) => {
                for index in 0..count {
                    let (row, height) = tile(self.rows.len(), count, index);
                    let start = depths.start * self.product.rows + self.rows.start + row;
                    // SAFETY: `x` is [depth, rows]; `left` has room for all tiles.
                    unsafe {
                        let from = x.as_ptr().add(start);
                        copy_block(
                            s,
                            from,
                            self.product.rows,
                            height,
                            depth,
                            to.add(row * depth),
                            height,
                        );
                    }
                }
            }
        }
        to
    }

    /// A panel of the right operand for the given depths, `[depth][PANEL]`.
    #[inline(always)]
    fn right_block<S: Simd>(
        &self,
        s: S,
        panel: usize,
        depths: Range<usize>,
        right: &mut [f32],
    ) -> *const f32 {
        let Product { columns, depth, .. } = *self.product;
        let width = PANEL.min(columns - panel * PANEL);
        let packed = matches!(self.product.right, Right::Panels(_));
        if width < PANEL && !packed {
            right.fill(0.0);
        }
        let start = (panel * depth + depths.start) * PANEL;
        let stored = start..start + depths.len() * PANEL;
        let to = right.as_mut_ptr();
        match self.product.right {
            Right::Panels(Panels::Float(w)) => return w[stored].as_ptr(),
            Right::Panels(Panels::Rounded(format, w)) => {
                let (w, right) = (&w[stored], &mut right[..depths.len() * PANEL]);
                match format {
                    HalfFormat::Float16 => round::<S, Float16>(s, w, right),
                    HalfFormat::Bfloat16 => round::<S, Bfloat16>(s, w, right),
                }
            }
            Right::Panels(Panels::Half(HalfFormat::Float16, w)) => {
                let (w, right) = (&w[stored], &mut right[..depths.len() * PANEL]);
                widen::<S, Float16>(s, elements(w), right);
            }
            Right::Panels(Panels::Half(HalfFormat::Bfloat16, w)) => {
                let (w, right) = (&w[stored], &mut right[..depths.len() * PANEL]);
                widen::<S, Bfloat16>(s, elements(w), right);
            }
            // SAFETY: the source is [depth, columns] and `width` columns are left; `right` holds
            // `depths.len()` rows of a panel.
            Right::Rows(x) => unsafe {
                let from = x.as_ptr().add(depths.start * columns + panel * PANEL);
                copy_block(s, from, columns, width, depths.len(), to, PANEL);
            },
            Right::Transposed(w) => {
                debug_assert!(depths.start.is_multiple_of(PANEL));
                for first in depths.clone().step_by(PANEL) {
                    let count = PANEL.min(depths.end - first);
                    let start = first * columns + panel * PANEL * PANEL;
                    // SAFETY: in the weight's panel `first / PANEL`, inputs from `panel * PANEL` on,
                    // `width` are left; `right` holds `depths.len()` rows of a panel.
                    unsafe {
                        let (from, to) =
                            (w.as_ptr().add(start), to.add((first - depths.start) * PANEL));
                        transpose_block(s, from, width, count, PANEL, to, PANEL);
                    }
                }
            }
        }
        to
    }

    /// All tiles of one panel, whose elements of some depths are `b`.
    #[inline(always)]
    fn multiply<S: Simd, E: Element>(
        &self,
        s: S,
        (panel, depths): (usize, Range<usize>),
        a: *const f32,
        b: *const E,
    ) {
        let (count, depth) = (self.tiles(s), depths.len());
        let width = PANEL.min(self.product.columns - panel * PANEL);
        let whole = width == PANEL || self.product.layout != Layout::Rows;
        let mut full = [0.0_f32; MOST_ROWS * PANEL];
        // What to have ready: rows of this panel a little ahead, and, while the last of several tiles
        // passes over it, the next panel. A panel packed just now is near already.
        let (soon, next) = if self.reads_as_stored(s) {
            (b.wrapping_add(ROWS_AHEAD * PANEL), b.wrapping_add(self.product.depth * PANEL))
        } else {
            (b, b)
        };
        for index in 0..count {
            let (row, height) = tile(self.rows.len(), count, index);
            let (to, result_stride) = self.place(self.rows.start + row, panel);
            let a = a.wrapping_add(row * depth);
            let start = depths.start == 0;
            let ahead = if index + 1 < count || count == 1 { soon } else { next };
            // SAFETY: `a` and `b` were made for this block. In the result there are `height` rows
            // of a panel; where it has only `width` columns, they go through the full tile, which
            // has `MOST_ROWS >= height` rows.
            unsafe {
                let (c, stride) =
                    if whole { (to, result_stride) } else { (full.as_mut_ptr(), PANEL) };
                if !whole && !start {
                    copy_block(s, to, result_stride, width, height, c, stride);
                }
                let steps = depth.div_ceil(E::STEPS);
                multiply(s, height, Tile { a, b, c, stride, depth: steps, ahead, start });
                if !whole {
                    copy_block(s, c, stride, width, height, to, result_stride);
                }
            }
        }
    }

    /// Where the result's `row` begins in `panel`, and the distance between rows.
    #[inline(always)]
    fn place(&self, row: usize, panel: usize) -> (*mut f32, usize) {
        let Product { rows, columns, layout, ref out, .. } = *self.product;
        let (start, stride) = match layout {
            Layout::Rows => (row * columns + panel * PANEL, columns),
            Layout::Panels => ((panel * rows + row) * PANEL, PANEL),
            Layout::OnePanel => ((row - self.rows.start) * PANEL, PANEL),
        };
        // SAFETY: `row` and `panel` are inside the result.
        (unsafe { out.get().add(start) }, stride)
    }

    /// Adds the bias and applies the epilogue to one panel, whose sums are complete.
    #[inline(always)]
    fn finish<S: Simd>(&self, s: S, panel: usize) {
        let first = panel * PANEL;
        let width = PANEL.min(self.product.columns - first);
        if self.product.bias.is_none() && self.product.epilogue == Epilogue::None {
            return;
        }
        for row in self.rows.clone() {
            let (c, _) = self.place(row, panel);
            for column in (0..width).step_by(S::LANES) {
                let count = S::LANES.min(width - column);
                // SAFETY: `column + count <= width`, which are left in the row and in the bias.
                unsafe {
                    let mut v = s.load_part(c.add(column), count);
                    if let Some(bias) = self.product.bias {
                        v = s.add(v, s.load_part(bias[first + column..].as_ptr(), count));
                    }
                    if self.product.epilogue == Epilogue::Gelu {
                        v = gelu::gelu(s, v);
                    }
                    s.store_part(c.add(column), v, count);
                }
            }
        }
    }
}

impl Part<'_> {
    /// Gives one panel's results to who gathers them.
    #[inline(always)]
    fn hand_over<S: Simd>(&mut self, s: S, panel: usize) {
        let Some(mut gatherer) = self.gatherer.take() else { return };
        debug_assert!(self.product.layout == Layout::OnePanel);
        for row in self.rows.clone() {
            let (values, _) = self.place(row, panel);
            // SAFETY: every row of the part has a whole panel.
            unsafe { gatherer.take(s, row, panel, values) };
        }
        self.gatherer = Some(gatherer);
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
unsafe fn copy_block<S: Simd>(
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
