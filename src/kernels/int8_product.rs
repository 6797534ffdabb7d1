//! Products of `f32` inputs with weights of 8 bits; [`int8`](super::int8) has scheme and layout.
//!
//! **Limits.** As in [`gemm`](super::gemm): with many rows the multiply-adds of the processor's 8-bit
//! instructions, with few the speed at which weights are read, each once. A row's inputs are quantised
//! once, before the parts of the product start; a tile keeps its sums in registers for the whole
//! depth, since whole-number sums need no blocks to stay exact.

mod results;

use std::ops::Range;

use super::best::{Ask, Best, Gathering};
use super::gemm::{Epilogue, Layer};
use super::gemm_operands::pack_rows;
use super::int8::{self, MOST_INPUTS, Quantized, Weight};
use super::int8_tile::{GROUP, Int8Tile, MOST_ROWS};
use super::isa::{self, Kernel, Simd};
use super::memory::{Slot, scratch};
use super::pack::PANEL;
use super::parallel::{self, share};
use super::screen::Bounds;
use super::team::{self, SharedMut};

/// Multiply-adds below which another part costs more than it saves (some 3 us).
const WORK_OF_A_PART: usize = 1 << 19;
/// Values below which quantising is not shared.
const VALUES_TO_SHARE: usize = 1 << 15;
/// Rows of a part: their inputs leave a second-level cache room for a panel.
const ROWS_OF_A_PART: usize = 144;
/// Parts for each thread, so that one that comes late leaves its share to the others.
const PARTS_PER_THREAD: usize = 16;
/// Bytes of a panel to ask memory for in advance.
const AHEAD: usize = 8 << 10;

/// A linear layer: `out = epilogue(x W^T + bias)`; `x [m, k]`, `w [n, k]`, `bias [n]`, `out [m, n]`.
///
/// # Panics
/// If a slice does not have the length that `m`, `k` and `n` say, or `k` is above [`MOST_INPUTS`].
#[allow(clippy::too_many_arguments)] // Three sizes, three operands, two options: all different.
pub fn linear(
    x: &[f32],
    m: usize,
    k: usize,
    w: Weight<'_>,
    n: usize,
    bias: Option<&[f32]>,
    epilogue: Epilogue,
    out: &mut [f32],
) {
    linear_each(x, m, k, [Layer { w, n, bias, out }], epilogue);
}

/// Several linear layers over the same inputs, which are quantised once; each has the bits of
/// [`linear`].
///
/// # Panics
/// As for [`linear`].
pub fn linear_each<const N: usize>(
    x: &[f32],
    m: usize,
    k: usize,
    mut layers: [Layer<'_, Weight<'_>>; N],
    epilogue: Epilogue,
) {
    assert!(k <= MOST_INPUTS, "{k} inputs: their sum could leave 32 bits");
    assert_eq!(x.len(), m * k, "`x` is not [m, k]");
    quantized(x, m, k, &mut |inputs| {
        let products = layers.each_mut().map(|Layer { w, n, bias, out }| {
            int8::check(w.packed, w.scales, *n, k);
            assert_eq!(out.len(), m * *n, "`out` is not [m, n]");
            assert!(bias.is_none_or(|bias| bias.len() == *n), "`bias` is not [n]");
            let out = Out::Written(SharedMut(out.as_mut_ptr()));
            Product::new(inputs, k, (*w, *n, *bias), epilogue, out)
        });
        run(&products);
    });
}

/// What `ask` asks of each row of the linear layer `x W^T + bias` with the first `n` outputs of `w`, of
/// which there may be more; as [`gemm::linear_best`](super::gemm::linear_best).
///
/// # Panics
/// If a slice is shorter than `m`, `k` and `n` say, or `k` is above [`MOST_INPUTS`].
#[allow(clippy::too_many_arguments)] // As for `linear`.
pub fn linear_best(
    x: &[f32],
    m: usize,
    k: usize,
    w: Weight<'_>,
    n: usize,
    bias: Option<&[f32]>,
    ask: Ask,
    best: &mut Best,
) -> bool {
    gather(x, (m, k), (w, n, bias), None, ask, best);
    best.finish(n)
}

/// The lower bounds that `bounds` makes of the results, in `best`, and the highest upper bound of each
/// panel; as [`linear_best`] otherwise.
pub(super) fn screen(
    x: &[f32],
    (m, k): (usize, usize),
    layer: LayerOf<'_>,
    bounds: &Bounds<'_>,
    ask: Ask,
    best: &mut Best,
) -> bool {
    gather(x, (m, k), layer, Some(bounds), ask, best);
    best.merge()
}

/// A weight, its first outputs that count, and their bias.
type LayerOf<'a> = (Weight<'a>, usize, Option<&'a [f32]>);

fn gather(
    x: &[f32],
    (m, k): (usize, usize),
    (w, n, bias): LayerOf<'_>,
    bounds: Option<&Bounds<'_>>,
    ask: Ask,
    best: &mut Best,
) {
    assert!(w.packed.len() >= int8::packed_len(n, k), "the weight is not [n, k]");
    assert!(w.scales.len() >= n, "the scales are not [n]");
    assert!(k <= MOST_INPUTS, "{k} inputs: their sum could leave 32 bits");
    assert_eq!(x.len(), m * k, "`x` is not [m, k]");
    assert!(bias.is_none_or(|bias| bias.len() >= n), "`bias` is not [n]");
    let (_, panel_parts) = parts(m, k, n);
    let gathering = best.begin((m, n), panel_parts, ask);
    quantized(x, m, k, &mut |inputs| {
        let out = Out::Gathered(&gathering, bounds);
        run(&[Product::new(inputs, k, (w, n, bias), Epilogue::None, out)]);
    });
}

/// Quantises `x [m, k]` for `work`.
fn quantized(x: &[f32], m: usize, k: usize, work: &mut dyn FnMut(&Inputs)) {
    let isa = isa::current();
    let tiles = Tiles { rows: m, height: isa::with_isa(isa, Height) };
    let groups = k.div_ceil(GROUP);
    // Numbers of four bytes all: the values of a group, and a scale and a sum for each row.
    let mut values = scratch(Slot::Left, m * groups);
    let mut rows = scratch(Slot::Right, 2 * m);
    let (scales, starts) = rows.split_at_mut(m);
    let inputs = Inputs {
        tiles,
        groups,
        values: SharedMut(values.as_mut_ptr().cast()),
        scales: SharedMut(scales.as_mut_ptr()),
        starts: SharedMut(starts.as_mut_ptr().cast()),
    };
    parallel::items(tiles.count(), m * k >= VALUES_TO_SHARE, |isa, tile| {
        isa::with_isa(isa, Quantize { x, k, inputs: &inputs, tile });
    });
    work(&inputs);
}

/// Computes products on the team, side by side.
fn run<const N: usize>(products: &[Product<'_>; N]) {
    let isa = isa::current();
    team::run(products.iter().map(Product::parts).sum(), &|mut part| {
        for product in products {
            if part < product.parts() {
                return isa::with_isa(isa, product.part(part));
            }
            part -= product.parts();
        }
    });
}

/// Into how many parts a product is divided, by rows and by panels.
fn parts(m: usize, k: usize, n: usize) -> (usize, usize) {
    let panels = n.div_ceil(PANEL);
    let row_parts = if panels == 0 { 0 } else { m.div_ceil(ROWS_OF_A_PART) };
    let threads = team::num_threads();
    let wanted = if threads == 1 { 1 } else { threads * PARTS_PER_THREAD };
    let worthwhile = wanted.min(m * n * k / WORK_OF_A_PART);
    (row_parts, worthwhile.div_ceil(row_parts.max(1)).clamp(1, panels.max(1)))
}

/// How rows are divided into tiles of at most `height` rows.
#[derive(Clone, Copy)]
struct Tiles {
    rows: usize,
    height: usize,
}

impl Tiles {
    fn count(self) -> usize {
        self.rows.div_ceil(self.height)
    }

    fn tile(self, index: usize) -> Range<usize> {
        share(self.rows, self.count(), index)
    }
}

/// Rows of a tile of the instruction set.
struct Height;

impl Kernel for Height {
    type Output = usize;

    #[inline(always)]
    fn run<S: Simd>(self, s: S) -> usize {
        s.int8_rows()
    }
}

/// The quantised inputs, with room for `tiles.rows` rows.
struct Inputs {
    tiles: Tiles,
    groups: usize,
    /// Tile after tile, `[groups][rows of the tile]`.
    values: SharedMut<u32>,
    scales: SharedMut<f32>,
    /// -128 times the sum of a row's values.
    starts: SharedMut<i32>,
}

/// Quantises the rows of one tile.
struct Quantize<'a> {
    x: &'a [f32],
    k: usize,
    inputs: &'a Inputs,
    tile: usize,
}

impl Kernel for Quantize<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let Quantize { x, k, inputs, tile } = self;
        let (groups, rows) = (inputs.groups, inputs.tiles.tile(tile));
        let height = rows.len();
        let mut buffer = scratch(Slot::Work, height * groups);
        for (i, row) in rows.clone().enumerate() {
            let place = &mut buffer[i * groups..(i + 1) * groups];
            // SAFETY: floats are four bytes each, and any bytes are numbers.
            let values: &mut [i8] = unsafe {
                std::slice::from_raw_parts_mut(place.as_mut_ptr().cast(), groups * GROUP)
            };
            let (values, filling) = values.split_at_mut(k);
            filling.fill(0);
            let Quantized { scale, sum } = int8::quantize(s, &x[row * k..][..k], values);
            // SAFETY: there is room for every row's scale and start, and each row is quantised once.
            unsafe {
                *inputs.scales.get().add(row) = scale;
                *inputs.starts.get().add(row) = (-128_i32).wrapping_mul(sum);
            }
        }
        // SAFETY: there is room for `groups` groups of every row; a tile's rows lie together, and each
        // tile is quantised once. The buffer holds `height` rows of `groups` groups.
        unsafe {
            let to = inputs.values.get().add(rows.start * groups).cast::<f32>();
            pack_rows(s, buffer.as_ptr(), groups, height, groups, to);
        }
    }
}

/// A whole product.
struct Product<'a> {
    inputs: &'a Inputs,
    w: Weight<'a>,
    n: usize,
    bias: Option<&'a [f32]>,
    epilogue: Epilogue,
    out: Out<'a>,
    row_parts: usize,
    panel_parts: usize,
}

/// What becomes of the results.
enum Out<'a> {
    /// They are written where there is room for `inputs.tiles.rows` rows of `n`.
    Written(SharedMut<f32>),
    /// What is asked of them, or of their bounds, is gathered.
    Gathered(&'a Gathering<'a>, Option<&'a Bounds<'a>>),
}

impl<'a> Product<'a> {
    /// Divides a layer of `k` inputs into parts.
    fn new(
        inputs: &'a Inputs,
        k: usize,
        (w, n, bias): LayerOf<'a>,
        epilogue: Epilogue,
        out: Out<'a>,
    ) -> Self {
        let (row_parts, panel_parts) = parts(inputs.tiles.rows, k, n);
        Product { inputs, w, n, bias, epilogue, out, row_parts, panel_parts }
    }

    fn parts(&self) -> usize {
        self.row_parts * self.panel_parts
    }

    /// A part. Neighbouring parts share panels.
    fn part(&self, part: usize) -> Part<'_> {
        let panels = self.n.div_ceil(PANEL);
        let panel_part = part / self.row_parts;
        Part {
            product: self,
            of_tiles: share(self.inputs.tiles.count(), self.row_parts, part % self.row_parts),
            panels: share(panels, self.panel_parts, panel_part),
            panel_part,
        }
    }
}

/// Some tiles times some panels.
struct Part<'a> {
    product: &'a Product<'a>,
    of_tiles: Range<usize>,
    panels: Range<usize>,
    panel_part: usize,
}

impl Kernel for Part<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let Product { inputs, w, .. } = self.product;
        let panel_bytes = inputs.groups * PANEL * GROUP;
        let mut sums = [0_i32; MOST_ROWS * PANEL];
        let mut gathered = match &self.product.out {
            Out::Gathered(gathering, _) => {
                // SAFETY: parts of one number differ in their rows, others in their panels.
                let gatherer = unsafe { gathering.part(self.panel_part) };
                Some((gatherer, [[0.0; PANEL]; MOST_ROWS]))
            }
            Out::Written(_) => None,
        };
        for panel in self.panels.clone() {
            let b = w.packed[panel * panel_bytes..].as_ptr();
            self.ask_ahead(s, panel);
            for index in self.of_tiles.clone() {
                let rows = inputs.tiles.tile(index);
                let is_last = index + 1 == self.of_tiles.end && self.of_tiles.len() > 1;
                let tile = Int8Tile {
                    a: inputs.values.get().wrapping_add(rows.start * inputs.groups),
                    b,
                    groups: inputs.groups,
                    start: inputs.starts.get().wrapping_add(rows.start),
                    sums: sums.as_mut_ptr(),
                    // This panel a little ahead, or, while the last of several tiles passes over
                    // it, the next one.
                    ahead: b.wrapping_add(if is_last { panel_bytes } else { AHEAD }),
                };
                // SAFETY: all rows of the tile were quantised, the panel has `groups` groups, and
                // `sums` holds the tallest tile.
                unsafe { multiply(s, rows.len(), tile) };
                self.finish(s, rows, panel, &sums, gathered.as_mut());
            }
        }
        if let Some((gatherer, _)) = gathered {
            gatherer.finish();
        }
    }
}

/// Computes a tile of `rows` rows.
///
/// # Safety
/// As for [`Simd::int8_tile`], with `rows` rows.
#[inline(always)]
unsafe fn multiply<S: Simd>(s: S, rows: usize, tile: Int8Tile) {
    debug_assert!(rows >= 1 && rows <= s.int8_rows() && s.int8_rows() <= MOST_ROWS);
    // SAFETY: each arm passes its own number of rows; the caller vouches for the rest.
    unsafe {
        match rows {
            1 => s.int8_tile::<1>(tile),
            2 => s.int8_tile::<2>(tile),
            3 => s.int8_tile::<3>(tile),
            4 => s.int8_tile::<4>(tile),
            5 => s.int8_tile::<5>(tile),
            6 => s.int8_tile::<6>(tile),
            7 => s.int8_tile::<7>(tile),
            8 => s.int8_tile::<8>(tile),
            9 => s.int8_tile::<9>(tile),
            10 => s.int8_tile::<10>(tile),
            11 => s.int8_tile::<11>(tile),
            _ => s.int8_tile::<12>(tile),
        }
    }
}
