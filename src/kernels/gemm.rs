//! Products of `f32` matrices with packed weights: a linear layer and its two gradients.
//!
//! **Bits.** Every element of a result is one chain of multiply-adds, `acc = fma(x[d], w[d], acc)`
//! for `d` ascending from 0, and the bias is added to the finished chain. Tiles, blocks, parts and
//! threads only decide which chains run side by side. Hence a row has the same bits alone and in any
//! batch, at any number of threads, on one instruction set.
//!
//! **Limits.** With many rows the limit is the multiply-adds the processor can do; with up to some
//! sixteen it is how fast the weights can be read, and each panel is read from memory once.
//! `benches/kernels.rs` reports the share of either. Blocks and tiles are chosen after Goto and van
//! de Geijn, *Anatomy of High-Performance Matrix Multiplication* (2008), with the roles of the two
//! operands exchanged: the weight is the one that is stored in panels.

use std::ops::Range;

use super::best::{Ask, Best};
use super::disjoint::Disjoint;
use super::gemm_blocks::{DEPTH_BLOCK, Layout, PackLeft, Part, Product};
use super::gemm_operands::{Left, LeftValues, Right};
use super::half_float::HalfFormat;
use super::isa::{self, Kernel, Pairs, Simd};
use super::memory::{Slot, scratch};
use super::pack::{PANEL, packed_len};
pub use super::pairs::Numbers;
use super::parallel::share;
use super::pool::{self, Buffer};
use super::team::{self, SharedMut};

/// What follows the bias of a linear layer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Epilogue {
    /// Nothing.
    #[default]
    None,
    /// The exact GELU, with the bits of [`gelu::forward`](super::gelu::forward).
    Gelu,
}

/// The panels of a weight, as they are stored and as they are multiplied.
#[derive(Clone, Copy)]
pub enum Panels<'a> {
    /// Floats.
    Float(&'a [f32]),
    /// 16 bits, widened block by block.
    Half(HalfFormat, &'a [u16]),
    /// Floats, rounded to 16 bits block by block.
    Rounded(HalfFormat, &'a [f32]),
}

impl Panels<'_> {
    pub(super) fn len(&self) -> usize {
        match self {
            Panels::Float(panels) | Panels::Rounded(_, panels) => panels.len(),
            Panels::Half(_, panels) => panels.len(),
        }
    }

    /// Elements from `first` on as products multiply them.
    pub(super) fn widen(&self, first: usize, to: &mut [f32]) {
        let range = first..first + to.len();
        match self {
            Panels::Float(panels) => to.copy_from_slice(&panels[range]),
            Panels::Half(format, panels) => format.widen(&panels[range], to),
            Panels::Rounded(format, panels) => format.round(&panels[range], to),
        }
    }
}

impl<'a, T: AsRef<[f32]> + ?Sized> From<&'a T> for Panels<'a> {
    fn from(panels: &'a T) -> Self {
        Panels::Float(panels.as_ref())
    }
}

/// A linear layer over given inputs: `out = epilogue(x W^T + bias)`.
pub struct Layer<'a, W> {
    /// The weight, `[n, k]`.
    pub w: W,
    /// Number of outputs.
    pub n: usize,
    /// `[n]`
    pub bias: Option<&'a [f32]>,
    /// `[m, n]`
    pub out: &'a mut [f32],
}

/// A linear layer: `out = epilogue(x W^T + bias)`; `x [m, k]`, `w` packed `[n, k]`, `bias [n]`,
/// `out [m, n]`.
///
/// # Panics
/// If a slice does not have the length that `m`, `k` and `n` say (so do all functions here).
#[allow(clippy::too_many_arguments)] // Three sizes, three operands, two options: all different.
pub fn linear<'w>(
    x: &[f32],
    m: usize,
    k: usize,
    w: impl Into<Panels<'w>>,
    n: usize,
    bias: Option<&[f32]>,
    epilogue: Epilogue,
    out: &mut [f32],
) {
    linear_each(x, m, k, [Layer { w: w.into(), n, bias, out }], epilogue);
}

/// Several linear layers over the same inputs, side by side; each has the bits of [`linear`].
pub fn linear_each<const N: usize>(
    x: &[f32],
    m: usize,
    k: usize,
    layers: [Layer<'_, Panels<'_>>; N],
    epilogue: Epilogue,
) {
    linear_each_in(Numbers::Float32, x, m, k, layers, epilogue);
}

/// [`linear_each`] in other numbers than the weights'.
pub fn linear_each_in<const N: usize>(
    numbers: Numbers,
    x: &[f32],
    m: usize,
    k: usize,
    layers: [Layer<'_, Panels<'_>>; N],
    epilogue: Epilogue,
) {
    assert_eq!(x.len(), m * k, "`x` is not [m, k]");
    let left = Left { values: LeftValues::Rows(x), rows: m, depth: k, numbers: available(numbers) };
    run(&layers.map(|Layer { w, n, bias, out }| {
        assert_eq!(w.len(), packed_len(n, k), "`w` is not packed [n, k]");
        assert_eq!(out.len(), m * n, "`out` is not [m, n]");
        assert!(bias.is_none_or(|bias| bias.len() == n), "`bias` is not [n]");
        let (right, out) = (Right::Panels(w), SharedMut(out.as_mut_ptr()));
        Product { columns: n, left, right, out, layout: Layout::Rows, bias, epilogue }
    }));
}

/// What `ask` asks of each row of the linear layer `x W^T + bias` with the first `n` outputs of `w`; the
/// results themselves are not written. `false` if one of them is not a finite number: there is no answer
/// then.
///
/// # Panics
/// If a slice is shorter than `m`, `k` and `n` say.
#[allow(clippy::too_many_arguments)] // As for `linear`.
pub fn linear_best<'w>(
    x: &[f32],
    m: usize,
    k: usize,
    w: impl Into<Panels<'w>>,
    n: usize,
    bias: Option<&[f32]>,
    ask: Ask,
    best: &mut Best,
) -> bool {
    let w = w.into();
    assert_eq!(x.len(), m * k, "`x` is not [m, k]");
    assert!(w.len() >= packed_len(n, k), "`w` is not packed [n, k]");
    assert!(bias.is_none_or(|bias| bias.len() >= n), "`bias` is not [n]");
    let left = Left { values: LeftValues::Rows(x), rows: m, depth: k, numbers: Numbers::Float32 };
    let product = |out: &mut [f32]| Product {
        columns: n,
        left,
        right: Right::Panels(w),
        out: SharedMut(out.as_mut_ptr()),
        layout: Layout::OnePanel,
        bias,
        epilogue: Epilogue::None,
    };
    let grid = Grid::new(&product(&mut []), team::num_threads());
    let isa = isa::current();
    let gathering = best.begin((m, n), grid.panel_parts, ask);
    team::run(grid.parts(), &|part| {
        let rows = share(m, grid.row_parts, part % grid.row_parts);
        let panel_part = part / grid.row_parts;
        let panels = share(grid.panels, grid.panel_parts, panel_part);
        let mut out = scratch(Slot::Work, rows.len() * PANEL);
        let product = product(&mut out);
        // SAFETY: parts of one number differ in their rows, others in their panels.
        let gatherer = Some(unsafe { gathering.part(panel_part) });
        let packed = None;
        let (depths, depth_block) = (0..k, k);
        let part = Part { product: &product, rows, panels, depths, depth_block, packed, gatherer };
        isa::with_isa(isa, part);
    });
    best.finish(n)
}

/// The gradient of a linear layer's input: `dx = dy W`; `dy [m, n]`, `w` packed `[n, k]`, `dx [m, k]`.
pub fn linear_backward_input(
    numbers: Numbers,
    dy: &[f32],
    m: usize,
    n: usize,
    w: &[f32],
    k: usize,
    dx: &mut [f32],
) {
    assert_eq!(dy.len(), m * n, "`dy` is not [m, n]");
    assert_eq!(w.len(), packed_len(n, k), "`w` is not packed [n, k]");
    assert_eq!(dx.len(), m * k, "`dx` is not [m, k]");
    let left =
        Left { values: LeftValues::Rows(dy), rows: m, depth: n, numbers: available(numbers) };
    let product = Product {
        columns: k,
        left,
        right: Right::Transposed(w),
        out: SharedMut(dx.as_mut_ptr()),
        layout: Layout::Rows,
        bias: None,
        epilogue: Epilogue::None,
    };
    run(&[product]);
}

/// The gradient of a linear layer's weight: `dW = dy^T x`, overwritten; `x [m, k]`, `dy [m, n]`, `dw`
/// packed `[n, k]`, its filling columns zero.
pub fn linear_backward_weight(
    numbers: Numbers,
    x: &[f32],
    dy: &[f32],
    m: usize,
    k: usize,
    n: usize,
    dw: &mut [f32],
) {
    assert_eq!(x.len(), m * k, "`x` is not [m, k]");
    assert_eq!(dy.len(), m * n, "`dy` is not [m, n]");
    assert_eq!(dw.len(), packed_len(n, k), "`dw` is not packed [n, k]");
    let (values, numbers) = (LeftValues::Columns(x), available(numbers));
    let left = Left { values, rows: k, depth: m, numbers };
    let product = Product {
        columns: n,
        left,
        right: Right::Rows(dy),
        out: SharedMut(dw.as_mut_ptr()),
        layout: Layout::Panels,
        bias: None,
        epilogue: Epilogue::None,
    };
    run(&[product]);
}

/// `numbers`, or floats where the instruction set in use lacks such products.
fn available(numbers: Numbers) -> Numbers {
    match isa::pairs_of(isa::current()) {
        Pairs::Fast => numbers,
        // What defines them is slow.
        Pairs::Plain if cfg!(test) => numbers,
        _ => Numbers::Float32,
    }
}

/// The gradient of a bias: `db[j] = sum over i of dy[i][j]`, `i` ascending; `dy [m, n]`, `db [n]`.
pub fn column_sums(dy: &[f32], m: usize, n: usize, db: &mut [f32]) {
    /// Columns of a part: a page of each row.
    const COLUMNS: usize = 1024;
    assert_eq!(dy.len(), m * n, "`dy` is not [m, n]");
    assert_eq!(db.len(), n, "`db` is not [n]");
    // Narrower parts only where there is enough to share.
    let width = if m * n < WORK_OF_A_PART / 4 { n.max(1) } else { COLUMNS.min(n.div_ceil(8)) };
    let isa = isa::current();
    team::run_chunks(db, width, &|part, sums| {
        isa::with_isa(isa, ColumnSums { dy, n, first: part * width, sums });
    });
}

/// Sums of some columns, from `first` on, of rows of `n`.
struct ColumnSums<'a> {
    dy: &'a [f32],
    n: usize,
    first: usize,
    sums: &'a mut [f32],
}

impl Kernel for ColumnSums<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, _: S) {
        self.sums.fill(0.0);
        for row in self.dy.chunks_exact(self.n) {
            let row = &row[self.first..][..self.sums.len()];
            self.sums.iter_mut().zip(row).for_each(|(sum, x)| *sum += x);
        }
    }
}

/// Multiply-adds below which another part costs more than it saves (some 3 us).
const WORK_OF_A_PART: usize = 1 << 18;
/// Rows of a part whose right operand is packed already: with [`DEPTH_BLOCK`] 432 KiB of tiles, which
/// leave a second-level cache room for a panel.
const ROWS_OF_A_PART: usize = 144;
/// The same where each part packs its panels: more rows share one packing.
const ROWS_WHERE_PACKING: usize = 512;
/// Up to this many rows the whole depth is one block: panels are read as one stream.
const FEW_ROWS: usize = 24;
/// Depth of that block at most: a panel of 512 KiB, which a second pass over it still finds near.
const DEPTH_OF_FEW_ROWS: usize = 4096;
/// Words of tiles that are packed before parts multiply them: 6 MiB, which the last cache still has then.
const WORDS_PACKED_AT_ONCE: usize = if cfg!(test) { 1 << 15 } else { 3 << 19 };
/// Parts for each thread, so that one that comes late leaves its share to the others.
const PARTS_PER_THREAD: usize = 4;

/// Computes products of one left operand on the team, side by side. What they write does not overlap.
fn run<const N: usize>(products: &[Product<'_>; N]) {
    let Some(left) = products.first().map(|product| product.left) else { return };
    let threads = team::num_threads();
    let grids: [Grid; N] = std::array::from_fn(|i| Grid::new(&products[i], threads));
    if packs_once(left, &grids) {
        let slice = (WORDS_PACKED_AT_ONCE / (left.rows * DEPTH_BLOCK)).max(1) * DEPTH_BLOCK;
        for first in (0..left.depth).step_by(slice) {
            let depths = first..(first + slice).min(left.depth);
            let tiles = packed(left, &grids[0], depths.clone());
            run_parts(products, &grids, &depths, Some(&tiles));
        }
    } else {
        run_parts(products, &grids, &(0..left.depth), None);
    }
}

/// Computes all parts of products for some depths.
fn run_parts(
    products: &[Product<'_>],
    grids: &[Grid],
    depths: &Range<usize>,
    packed: Option<&[f32]>,
) {
    let isa = isa::current();
    team::run(grids.iter().map(Grid::parts).sum(), &|mut part| {
        for (product, grid) in products.iter().zip(grids) {
            if part < grid.parts() {
                // Neighbouring parts share panels.
                let rows = share(product.left.rows, grid.row_parts, part % grid.row_parts);
                let panels = share(grid.panels, grid.panel_parts, part / grid.row_parts);
                let (depths, depth_block) = (depths.clone(), grid.depth_block);
                let part =
                    Part { product, rows, panels, depths, depth_block, packed, gatherer: None };
                return isa::with_isa(isa, part);
            }
            part -= grid.parts();
        }
    });
}

/// Whether the left operand is packed before the parts start, and not by each of them: where several read
/// the same rows. Few rows are packed faster than they are waited for.
fn packs_once(left: Left<'_>, grids: &[Grid]) -> bool {
    let parts = |grid: &Grid| (grid.row_parts, grid.depth_block);
    let alike = grids.windows(2).all(|two| parts(&two[0]) == parts(&two[1]));
    let readers: usize = grids.iter().map(|grid| grid.panel_parts).sum();
    left.rows > FEW_ROWS && left.depth > 0 && readers > 1 && alike
}

/// The left operand in tiles, for some depths.
fn packed(left: Left<'_>, grid: &Grid, depths: Range<usize>) -> Buffer {
    let isa = isa::current();
    let mut tiles = pool::buffer(left.rows * left.steps(depths.len()));
    let to = Disjoint::new(&mut tiles);
    let shares = (PARTS_PER_THREAD * team::num_threads()).div_ceil(grid.row_parts);
    team::run(grid.row_parts * shares, &|part| {
        let rows = share(left.rows, grid.row_parts, part / shares);
        let share = (part % shares, shares);
        let (depths, depth_block) = (depths.clone(), grid.depth_block);
        isa::with_isa(isa, PackLeft { left, rows, share, depths, depth_block, to: &to });
    });
    tiles
}

/// How a product is split.
struct Grid {
    panels: usize,
    row_parts: usize,
    panel_parts: usize,
    depth_block: usize,
}

impl Grid {
    fn new(product: &Product<'_>, threads: usize) -> Self {
        let panels = product.columns.div_ceil(PANEL);
        let Left { rows, depth, numbers, .. } = product.left;
        if rows == 0 || panels == 0 {
            return Grid { panels, row_parts: 0, panel_parts: 0, depth_block: DEPTH_BLOCK };
        }
        let packed = numbers == Numbers::Float32
            && matches!(product.right, Right::Panels(Panels::Float(_) | Panels::Half(..)));
        let most_rows = if packed { ROWS_OF_A_PART } else { ROWS_WHERE_PACKING };
        let row_parts = rows.div_ceil(most_rows);
        let work = rows * panels * PANEL * depth;
        let wanted = if threads == 1 { 1 } else { threads * PARTS_PER_THREAD };
        let worthwhile = wanted.min(work / WORK_OF_A_PART);
        let panel_parts = worthwhile.div_ceil(row_parts).clamp(1, panels);
        let few = packed && rows <= FEW_ROWS;
        let depth_block = if few { DEPTH_OF_FEW_ROWS } else { DEPTH_BLOCK };
        Grid { panels, row_parts, panel_parts, depth_block }
    }

    fn parts(&self) -> usize {
        self.row_parts * self.panel_parts
    }
}

#[cfg(test)]
#[path = "gemm_tests.rs"]
mod tests;
