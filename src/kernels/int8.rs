//! Weights in 8-bit integers, and products of `f32` inputs with them.
//!
//! **Method.** The scheme of Keras' `abs_max_quantize`: a row of the weight, which is what one output
//! reads, has one scale, `127 / (max |w| + 1e-7)`, and holds `round(w * scale)`; so does each row of
//! the inputs, the moment it is read. The products are summed in 32-bit integers, and the sum divided
//! by the product of both scales.
//!
//! **Bits.** Integer sums are exact, so that a row gives the same bits alone, in any batch, with any
//! number of threads and on every instruction set, up to the activation behind it.
//!
//! **Layout.** As in [`pack`](super::pack), a row of panels of [`PANEL`] outputs; a panel is
//! `[inputs / 4][PANEL][4]`, filled up with zeros: what one step of the processors' 8-bit products
//! reads lies together.

use std::ops::Range;

use super::gelu;
use super::gemm::Epilogue;
use super::int8_tile::{GROUP, Int8Tile, MOST_ROWS};
use super::isa::{self, Kernel, Simd};
use super::memory::{AlignedBuffer, Slot, scratch};
use super::pack::PANEL;
use super::parallel;
use super::team::{self, SharedMut};

/// The largest magnitude of a code.
const LARGEST: f32 = 127.0;
/// Keeps a row of zeros from a division by zero.
const EPSILON: f32 = 1e-7;
/// Added to a small float, it leaves the nearest whole number (ties to even) in the lowest bits.
const ROUND: f32 = 12_582_912.0;

/// Multiply-adds below which another part costs more than it saves (some 3 us).
const WORK_OF_A_PART: usize = 1 << 19;
/// Rows of a part: their inputs leave a second-level cache room for a panel.
const ROWS_OF_A_PART: usize = 144;
/// Parts for each thread, so that one that comes late leaves its share to the others.
const PARTS_PER_THREAD: usize = 4;
/// Bytes of a panel to ask memory for in advance.
const AHEAD: usize = 8 << 10;

/// A weight `[rows = outputs, columns = inputs]` in 8-bit integers.
#[derive(Debug)]
pub struct Int8Weight {
    rows: usize,
    columns: usize,
    codes: AlignedBuffer<i8>,
    /// Of each row: what its values were multiplied by.
    scales: Vec<f32>,
    /// Of each row of all panels: minus 128 times the sum of its codes, which undoes what inputs that
    /// were moved up by 128 add.
    offsets: Vec<i32>,
}

impl Int8Weight {
    /// From codes `[rows, columns]`, row-major, and a scale for each row.
    ///
    /// # Panics
    /// If a length does not fit (so do all functions here).
    pub fn from_codes(codes: &[i8], scales: Vec<f32>, columns: usize) -> Self {
        let rows = scales.len();
        assert_eq!(codes.len(), rows * columns, "`codes` are not [rows, columns]");
        let mut weight = Self::empty(scales, columns);
        for (row, codes) in codes.chunks_exact(columns.max(1)).enumerate() {
            weight.put(row, codes);
        }
        weight
    }

    /// Quantises a row-major `[rows, columns]` that `read` hands out, a row at a time, in order.
    ///
    /// # Errors
    /// What `read` returns.
    pub fn from_rows<E>(
        rows: usize,
        columns: usize,
        mut read: impl FnMut(&mut [f32]) -> Result<(), E>,
    ) -> Result<Self, E> {
        let mut weight = Self::empty(vec![0.0; rows], columns);
        let (mut values, mut codes) = (vec![0.0; columns], vec![0; columns]);
        for row in 0..rows {
            read(&mut values)?;
            weight.scales[row] = quantize_row(&values, 0, &mut codes);
            let codes: &[u8] = &codes;
            weight.put(row, &codes.iter().map(|&code| code as i8).collect::<Vec<_>>());
        }
        Ok(weight)
    }

    fn empty(scales: Vec<f32>, columns: usize) -> Self {
        let rows = scales.len();
        let padded = rows.div_ceil(PANEL) * PANEL;
        Int8Weight {
            rows,
            columns,
            codes: AlignedBuffer::zeroed(padded * columns.div_ceil(GROUP) * GROUP),
            scales,
            offsets: vec![0; padded],
        }
    }

    /// Where group `group` of `row` lies.
    #[inline(always)]
    fn place(&self, row: usize, group: usize) -> usize {
        let groups = self.columns.div_ceil(GROUP);
        ((row / PANEL * groups + group) * PANEL + row % PANEL) * GROUP
    }

    fn put(&mut self, row: usize, codes: &[i8]) {
        for (group, codes) in codes.chunks(GROUP).enumerate() {
            let place = self.place(row, group);
            self.codes[place..][..codes.len()].copy_from_slice(codes);
        }
        self.offsets[row] = -128 * codes.iter().map(|&code| i32::from(code)).sum::<i32>();
    }

    /// Number of outputs.
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// Number of inputs.
    pub fn columns(&self) -> usize {
        self.columns
    }

    /// The scale of each row.
    pub fn scales(&self) -> &[f32] {
        &self.scales
    }

    /// Bytes that it takes.
    pub fn bytes(&self) -> usize {
        self.codes.len() + (self.scales.len() + self.offsets.len()) * 4
    }

    /// The codes of one row.
    pub fn row(&self, row: usize) -> impl Iterator<Item = i8> + '_ {
        (0..self.columns).map(move |i| self.codes[self.place(row, i / GROUP) + i % GROUP])
    }

    /// Rows `ids` of the weight as floats, times `scale`: an embedding's lookup. `out [ids, columns]`.
    pub fn gather_rows(&self, ids: &[u32], scale: f32, out: &mut [f32]) {
        assert_eq!(out.len(), ids.len() * self.columns, "`out` is not [ids, columns]");
        for (&id, out) in ids.iter().zip(out.chunks_exact_mut(self.columns.max(1))) {
            let row_scale = self.scales[id as usize];
            for (to, code) in out.iter_mut().zip(self.row(id as usize)) {
                *to = f32::from(code) / row_scale * scale;
            }
        }
    }
}

/// `values` as codes, each flipped by exclusive or with `flip`; what they were multiplied by. A row
/// that is not finite has the scale NaN.
#[inline(always)]
fn quantize_row(values: &[f32], flip: u8, codes: &mut [u8]) -> f32 {
    // Without their sign the bits of floats are in the order of their magnitudes, NaN above all.
    let largest = values.iter().fold(0, |largest, x| (x.to_bits() & 0x7fff_ffff).max(largest));
    let largest = f32::from_bits(largest);
    let scale = if largest.is_finite() { LARGEST / (largest + EPSILON) } else { f32::NAN };
    for (code, x) in codes.iter_mut().zip(values) {
        *code = (x * scale + ROUND).to_bits() as u8 ^ flip;
    }
    scale
}

/// A linear layer: `out = epilogue(x W^T + bias)`; `x [m, columns]`, `bias [rows]`, `out [m, rows]`.
pub fn linear(
    x: &[f32],
    weight: &Int8Weight,
    bias: Option<&[f32]>,
    epilogue: Epilogue,
    out: &mut [f32],
) {
    let (n, k) = (weight.rows, weight.columns);
    let m = if n == 0 { 0 } else { out.len() / n };
    assert_eq!(out.len(), m * n, "`out` is not [m, rows]");
    assert_eq!(x.len(), m * k, "`x` is not [m, columns]");
    assert!(bias.is_none_or(|bias| bias.len() == n), "`bias` is not [rows]");
    if m == 0 {
        return;
    }
    let isa = isa::current();
    let tiles = Tiles { rows: m, height: isa::with_isa(isa, Height) };
    let groups = k.div_ceil(GROUP);
    let mut codes = scratch(Slot::Left, m * groups);
    let mut scales = scratch(Slot::Right, m);
    let (codes, scales) =
        (SharedMut(codes.as_mut_ptr().cast::<u32>()), SharedMut(scales.as_mut_ptr()));
    parallel::items(tiles.count(), m * k >= WORK_OF_A_PART / 16, |isa, tile| {
        isa::with_isa(
            isa,
            Quantize { x, k, tiles, tile, codes: codes.get(), scales: scales.get() },
        );
    });
    let panels = n.div_ceil(PANEL);
    let row_parts = m.div_ceil(ROWS_OF_A_PART);
    let threads = team::num_threads();
    let wanted = if threads == 1 { 1 } else { threads * PARTS_PER_THREAD };
    let worthwhile = wanted.min(m * n * k / WORK_OF_A_PART);
    let panel_parts = worthwhile.div_ceil(row_parts).clamp(1, panels);
    let out = SharedMut(out.as_mut_ptr());
    team::run(row_parts * panel_parts, &|part| {
        let part = Part {
            weight,
            tiles,
            codes: codes.get(),
            scales: scales.get(),
            bias,
            epilogue,
            out: out.get(),
            // Neighbouring parts share panels.
            of_tiles: share(tiles.count(), row_parts, part % row_parts),
            panels: share(panels, panel_parts, part / row_parts),
        };
        isa::with_isa(isa, part);
    });
}

/// Share `index` of `count` that divide `0..total` as evenly as can be.
fn share(total: usize, count: usize, index: usize) -> Range<usize> {
    let start = |i: usize| i * (total / count) + i.min(total % count);
    start(index)..start(index + 1)
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

/// Quantises the rows of one tile into `[groups][rows of the tile]`.
struct Quantize<'a> {
    x: &'a [f32],
    k: usize,
    tiles: Tiles,
    tile: usize,
    codes: *mut u32,
    scales: *mut f32,
}

impl Kernel for Quantize<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let Quantize { x, k, tiles, tile, codes, scales } = self;
        let (groups, rows, flip) = (k.div_ceil(GROUP), tiles.tile(tile), s.int8_flip());
        let height = rows.len();
        let mut bytes = scratch(Slot::Work, groups);
        // SAFETY: the loan is of `groups` floats, four bytes each, and any bytes will do.
        let bytes: &mut [u8] = unsafe {
            let len = groups * GROUP;
            std::slice::from_raw_parts_mut(bytes.as_mut_ptr().cast(), len)
        };
        bytes.fill(0);
        for row in rows.clone() {
            let scale = quantize_row(&x[row * k..][..k], flip, bytes);
            // SAFETY: the caller made room for `groups` numbers a row and a scale each; a tile's
            // rows lie together, and each tile is quantised once.
            unsafe {
                *scales.add(row) = scale;
                let to = codes.add(rows.start * groups + row - rows.start);
                for (group, four) in bytes.as_chunks::<GROUP>().0.iter().enumerate() {
                    *to.add(group * height) = u32::from_le_bytes(*four);
                }
            }
        }
    }
}

/// Some tiles times some panels.
struct Part<'a> {
    weight: &'a Int8Weight,
    tiles: Tiles,
    codes: *const u32,
    scales: *const f32,
    bias: Option<&'a [f32]>,
    epilogue: Epilogue,
    out: *mut f32,
    of_tiles: Range<usize>,
    panels: Range<usize>,
}

impl Kernel for Part<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        const ZEROS: [i32; PANEL] = [0; PANEL];
        let groups = self.weight.columns.div_ceil(GROUP);
        let panel_bytes = groups * PANEL * GROUP;
        let mut sums = [0_i32; MOST_ROWS * PANEL];
        for panel in self.panels.clone() {
            let b = self.weight.codes[panel * panel_bytes..].as_ptr();
            let start = if s.int8_flip() == 0 {
                ZEROS.as_ptr()
            } else {
                self.weight.offsets[panel * PANEL..].as_ptr()
            };
            for index in self.of_tiles.clone() {
                let rows = self.tiles.tile(index);
                let last = index + 1 == self.of_tiles.end;
                let single = self.of_tiles.len() == 1;
                let tile = Int8Tile {
                    a: self.codes.wrapping_add(rows.start * groups),
                    b,
                    groups,
                    start,
                    sums: sums.as_mut_ptr(),
                    // This panel a little ahead, or, while the last of several tiles passes over
                    // it, the next one.
                    ahead: b.wrapping_add(if last && !single { panel_bytes } else { AHEAD }),
                };
                // SAFETY: all rows of the tile were quantised, the panel has `groups` groups, and
                // `sums` holds the tallest tile.
                unsafe { multiply(s, rows.len(), tile) };
                self.finish(s, rows, panel, &sums);
            }
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

impl Part<'_> {
    /// Sums to results: scales, bias and epilogue.
    #[inline(always)]
    fn finish<S: Simd>(&self, s: S, rows: Range<usize>, panel: usize, sums: &[i32]) {
        let n = self.weight.rows;
        let first = panel * PANEL;
        let width = PANEL.min(n - first);
        for (row, sums) in rows.zip(sums.chunks_exact(PANEL)) {
            for column in (0..width).step_by(S::LANES) {
                let count = S::LANES.min(width - column);
                // SAFETY: `column + count <= width`, which are left in the row, in the scales and in
                // the bias; `sums` has whole panels; `scales` has all rows.
                unsafe {
                    let row_scale = s.splat(*self.scales.add(row));
                    let scales = self.weight.scales[first + column..].as_ptr();
                    let scales = s.mul(row_scale, s.load_part(scales, count));
                    let mut y = s.div(s.load_i32(sums[column..].as_ptr()), scales);
                    if let Some(bias) = self.bias {
                        y = s.add(y, s.load_part(bias[first + column..].as_ptr(), count));
                    }
                    if self.epilogue == Epilogue::Gelu {
                        y = gelu::gelu(s, y);
                    }
                    s.store_part(self.out.add(row * n + first + column), y, count);
                }
            }
        }
    }
}

#[cfg(test)]
#[path = "int8_tests.rs"]
mod tests;
