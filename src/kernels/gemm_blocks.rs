//! One part of a product: a range of rows times a range of panels, in blocks that fit the caches.
//!
//! For each block of the depth, at most [`DEPTH_BLOCK`], the left rows are packed into tiles
//! `[depth][rows]`; for each panel, its block is packed unless it is already (or widened, where it is
//! stored in 16 bits and enough rows share the pains), and all tiles pass over it. Tiles and panel
//! stay in the second-level cache meanwhile. Sums go on from one block to the next through the output,
//! so that each remains a single chain.

use std::ops::Range;

use super::best::Gatherer;
use super::disjoint::Disjoint;
use super::element::{Bfloat16, Element, Float16};
use super::gelu;
use super::gemm::{Epilogue, Panels};
use super::gemm_microkernel::{MOST_ROWS, Tile, multiply};
use super::gemm_operands::{Left, Right, copy_block, tile, tiles};
use super::half_float::HalfFormat;
use super::isa::{Kernel, Simd};
use super::memory::{Slot, scratch};
use super::pack::PANEL;
use super::pairs::Numbers;
use super::parallel::share;
use super::team::SharedMut;

/// Depth of a block. A deeper one reads and writes the sums in the output less often, which weighs
/// more than a panel's block (96 KiB) streaming from the second-level cache: measured from 256 to 768.
pub(super) const DEPTH_BLOCK: usize = 768;

/// Rows of a panel to ask memory for in advance: 8 KiB, some 100 ns at the rate memory is read.
const ROWS_AHEAD: usize = 64;

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
    pub columns: usize,
    pub left: Left<'a>,
    pub right: Right<'a>,
    pub out: SharedMut<f32>,
    pub layout: Layout,
    pub bias: Option<&'a [f32]>,
    pub epilogue: Epilogue,
}

/// One part. Parts of a product that run at the same time differ in rows or panels.
pub(super) struct Part<'a> {
    pub product: &'a Product<'a>,
    pub rows: Range<usize>,
    pub panels: Range<usize>,
    /// Sums of later depths go on from those of earlier ones, in the output.
    pub depths: Range<usize>,
    pub depth_block: usize,
    /// The left operand of these depths, where it is packed already (see [`PackLeft`]).
    pub packed: Option<&'a [f32]>,
    /// Who takes the results where they are laid out as one panel; `depth_block` is then the depth.
    pub gatherer: Option<Gatherer<'a>>,
}

impl Kernel for Part<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(mut self, s: S) {
        let Product { columns, left, right, .. } = *self.product;
        let total = left.depth;
        let block = self.depth_block.min(self.depths.len());
        let own = if self.packed.is_some() { 0 } else { self.rows.len() * left.steps(block) };
        let mut tiles = scratch(Slot::Left, own);
        let as_stored = self.reads_as_stored(s);
        let mut panels = scratch(Slot::Right, if as_stored { 0 } else { block * PANEL });
        let mut first = self.depths.start;
        loop {
            let range = first..(first + block).min(self.depths.end);
            let a = self.left_block(s, range.clone(), &mut tiles);
            for panel in self.panels.clone() {
                let at = (panel, range.clone());
                let start = (panel * total + range.start) * PANEL;
                match right {
                    Right::Panels(Panels::Half(HalfFormat::Float16, w)) if as_stored => {
                        self.multiply(s, at, a, w[start..].as_ptr().cast::<Float16>());
                    }
                    Right::Panels(Panels::Half(HalfFormat::Bfloat16, w)) if as_stored => {
                        self.multiply(s, at, a, w[start..].as_ptr().cast::<Bfloat16>());
                    }
                    _ if self.in_pairs() => {
                        let sizes = (total, columns);
                        let b = right.pairs(s, sizes, panel, range.clone(), &mut panels);
                        self.multiply(s, at, a, b);
                    }
                    _ => {
                        let sizes = (total, columns);
                        let b = right.floats(s, sizes, panel, range.clone(), &mut panels);
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
            if first >= self.depths.end {
                break;
            }
        }
        if let Some(gatherer) = self.gatherer {
            gatherer.finish();
        }
    }
}

impl Part<'_> {
    fn in_pairs(&self) -> bool {
        self.product.left.numbers == Numbers::Bfloat16Pairs
    }

    /// The tiles of the left operand for the given depths, one after the other.
    #[inline(always)]
    fn left_block<S: Simd>(&self, s: S, depths: Range<usize>, own: &mut [f32]) -> *const f32 {
        let left = &self.product.left;
        if let Some(all) = self.packed {
            return all[left.place(&self.rows, depths.start, &self.depths)..].as_ptr();
        }
        if let Some(row) = left.as_stored(&self.rows, depths.start) {
            return row;
        }
        left.pack(s, &self.rows, 0..tiles(s, self.rows.len()), depths, own);
        own.as_ptr()
    }

    /// Whether panels are read where they are stored, and not from a block that was made of them.
    fn reads_as_stored<S: Simd>(&self, s: S) -> bool {
        match self.product.right {
            _ if self.in_pairs() => false,
            Right::Panels(Panels::Float(_)) => true,
            // To widen elements twice in registers costs less than to write and read them.
            Right::Panels(Panels::Half(..)) => tiles(s, self.rows.len()) <= 2,
            _ => false,
        }
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
        let (count, depth) = (tiles(s, self.rows.len()), depths.len());
        let width = PANEL.min(self.product.columns - panel * PANEL);
        let whole = width == PANEL || self.product.layout != Layout::Rows;
        let mut full = [0.0_f32; MOST_ROWS * PANEL];
        // What to have ready: rows of this panel a little ahead, and, while the last of several tiles
        // passes over it, the next panel. A panel packed just now is near already.
        let (soon, next) = if self.reads_as_stored(s) {
            (b.wrapping_add(ROWS_AHEAD * PANEL), b.wrapping_add(self.product.left.depth * PANEL))
        } else {
            (b, b)
        };
        for index in 0..count {
            let (row, height) = tile(self.rows.len(), count, index);
            let (to, result_stride) = self.place(self.rows.start + row, panel);
            let steps = depth.div_ceil(E::STEPS);
            let a = a.wrapping_add(row * steps);
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
        let Product { columns, layout, ref out, .. } = *self.product;
        let (start, stride) = match layout {
            Layout::Rows => (row * columns + panel * PANEL, columns),
            Layout::Panels => ((panel * self.product.left.rows + row) * PANEL, PANEL),
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

/// Some tiles of a part's rows, packed once for all parts that read them.
pub(super) struct PackLeft<'a> {
    pub left: Left<'a>,
    /// The rows of a part.
    pub rows: Range<usize>,
    /// Which share of their tiles, and of how many shares.
    pub share: (usize, usize),
    pub depths: Range<usize>,
    pub depth_block: usize,
    pub to: &'a Disjoint<'a, f32>,
}

impl Kernel for PackLeft<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let PackLeft { left, rows, to, .. } = self;
        let count = tiles(s, rows.len());
        let some = share(count, self.share.1, self.share.0);
        if some.is_empty() {
            return;
        }
        let (last, height) = tile(rows.len(), count, some.end - 1);
        let taken = tile(rows.len(), count, some.start).0..last + height;
        for first in self.depths.clone().step_by(self.depth_block) {
            let depths = first..(first + self.depth_block).min(self.depths.end);
            let steps = left.steps(depths.len());
            let start = left.place(&rows, first, &self.depths) + taken.start * steps;
            // SAFETY: blocks of the depth lie apart, and so do the shares of the tiles of each.
            let to = unsafe { to.slice(start, taken.len() * steps) };
            left.pack(s, &rows, some.clone(), depths, to);
        }
    }
}
