//! Weights of 8 bits, and products of which both sides are.
//!
//! The scheme is Keras' (`abs_max_quantize`, keras 3.15): a row `x` of inputs, or of a weight
//! `[n, k]`, is `q / scale` with `scale = 127 / (max |x| + 1e-7)` and `q = x * scale` rounded to the
//! nearest whole number, ties to even. An output is the whole-number sum of `q_x * q_w`, divided by
//! the product of both scales; the bias comes last. The sums are exact, so their order does not
//! matter: a row has the same bits in any batch, by any instruction set.
//!
//! A weight is stored as one byte `q + 128` an element and a scale for each row. As in
//! [`pack`](super::pack) the bytes lie in panels of [`PANEL`] outputs; a panel is
//! `[inputs / 4][PANEL][4]`, so that what one step of the processors' 8-bit products reads lies
//! together. It is filled up with what means 0. The functions here are all that knows this layout.

use super::disjoint::Disjoint;
use super::isa::{self, Kernel, Simd};
use super::lanes;
use super::memory::{Slot, scratch};
use super::pack::{PANEL, Read};
use super::parallel;

pub use super::int8_product::{linear, linear_best, linear_each};
pub use super::int8_tile::GROUP;

/// What a stored byte is more than the number it means.
pub const OFFSET: u8 = 128;
/// The largest magnitude of a quantised value.
pub const LARGEST: i8 = 127;
/// Keeps the scale of a row of zeros finite.
pub const EPSILON: f32 = 1e-7;
/// The most inputs a product may have: beyond, a sum could leave 32 bits.
pub const MOST_INPUTS: usize = (i32::MAX / (127 * 127)) as usize;

/// Added to a small float, it leaves the nearest whole number, ties to even, in the lowest bits.
const ROUND: f32 = 12_582_912.0;
/// Bytes that are read at a time of a matrix that is stored the other way round.
const BYTES_READ_AT_ONCE: usize = 1 << 15;
/// Groups of a panel that are packed together: 8 KiB.
const GROUPS_PER_BLOCK: usize = 64;

/// The byte that stands for a quantised value.
pub const fn byte(value: i8) -> u8 {
    value.cast_unsigned().wrapping_add(OFFSET)
}

/// The quantised value that a byte stands for.
pub const fn value(byte: u8) -> i8 {
    byte.wrapping_sub(OFFSET).cast_signed()
}

/// The shape in which a weight `[n, k]` is stored: panels, groups, rows of a panel, bytes of a group.
pub const fn packed_shape(n: usize, k: usize) -> (usize, usize, usize, usize) {
    (n.div_ceil(PANEL), k.div_ceil(GROUP), PANEL, GROUP)
}

/// Bytes of a stored weight `[n, k]`.
pub const fn packed_len(n: usize, k: usize) -> usize {
    n.div_ceil(PANEL) * PANEL * k.div_ceil(GROUP) * GROUP
}

/// Where the first group of row `n` lies; the next ones follow at [`STRIDE`].
#[inline(always)]
const fn first_group(n: usize, k: usize) -> usize {
    (n / PANEL * k.div_ceil(GROUP) * PANEL + n % PANEL) * GROUP
}

/// Bytes from one group of a row to the next.
const STRIDE: usize = PANEL * GROUP;

/// A weight as it is stored: bytes and scales of `[n, k]`.
#[derive(Clone, Copy)]
pub struct Weight<'a> {
    /// `packed_len(n, k)` bytes.
    pub packed: &'a [u8],
    /// A scale for each of `n` rows.
    pub scales: &'a [f32],
}

/// Quantises a row: writes its values, and gives their scale (0 or NaN if one is not finite).
///
/// # Panics
/// If the lengths differ.
pub fn quantize_row(x: &[f32], values: &mut [i8]) -> f32 {
    isa::dispatch(QuantizeRow { x, values }).scale
}

struct QuantizeRow<'a> {
    x: &'a [f32],
    values: &'a mut [i8],
}

impl Kernel for QuantizeRow<'_> {
    type Output = Quantized;

    #[inline(always)]
    fn run<S: Simd>(self, s: S) -> Quantized {
        quantize(s, self.x, self.values)
    }
}

/// The whole number nearest to what is at most 127 large, ties to even.
#[inline(always)]
pub(super) fn round(x: f32) -> i32 {
    i32::from((x + ROUND).to_bits() as i8)
}

/// What is known of a row's values.
#[derive(Clone, Copy, Debug)]
pub(super) struct Quantized {
    pub scale: f32,
    /// Of all values.
    pub sum: i32,
}

/// [`quantize_row`], to be compiled into kernels. If an input is not finite, the values are something,
/// and the scale makes NaN of every result.
#[inline(always)]
pub(super) fn quantize<S: Simd>(s: S, x: &[f32], values: &mut [i8]) -> Quantized {
    assert_eq!(x.len(), values.len(), "quantize: x and values");
    let scale = f32::from(LARGEST) / (largest(s, x) + EPSILON);
    let factor = s.splat(scale);
    // Of a lane at most a quarter of MOST_INPUTS numbers up to 127: a float holds that exactly.
    let mut sums = s.zero();
    let whole = x.len() / S::LANES * S::LANES;
    let (body, tail) = x.split_at(whole);
    for (i, part) in body.chunks_exact(S::LANES).enumerate() {
        let value = s.round(s.mul(lanes::load(s, part), factor));
        sums = s.add(sums, value);
        // SAFETY: as many values as inputs.
        unsafe { s.store_i8(values.as_mut_ptr().add(i * S::LANES), value) };
    }
    if !tail.is_empty() {
        let value = s.round(s.mul(lanes::load(s, tail), factor));
        sums = s.add(sums, value);
        let mut last = [0; lanes::MOST];
        // SAFETY: the array has room for a vector.
        unsafe { s.store_i8(last.as_mut_ptr(), value) };
        values[whole..].copy_from_slice(&last[..tail.len()]);
    }
    let mut each = [0.0; lanes::MOST];
    lanes::store(s, &mut each[..S::LANES], sums);
    let mut sum = 0;
    for lane in each {
        sum += lane as i32;
    }
    Quantized { scale, sum }
}

/// The largest magnitude; NaN if an element is NaN.
#[inline(always)]
fn largest<S: Simd>(s: S, x: &[f32]) -> f32 {
    let (mut highest, mut doubt) = ([s.zero(); 4], [s.zero(); 4]);
    // Not one loop over parts of blocks: that keeps its sums in memory.
    let mut blocks = x.chunks_exact(4 * S::LANES);
    for block in &mut blocks {
        for i in 0..4 {
            let part = lanes::load(s, &block[i * S::LANES..(i + 1) * S::LANES]);
            highest[i] = s.max(s.abs(part), highest[i]);
            // NaN of what is not finite.
            doubt[i] = s.fma(part, s.zero(), doubt[i]);
        }
    }
    for part in blocks.remainder().chunks(S::LANES) {
        let part = lanes::load(s, part);
        highest[0] = s.max(s.abs(part), highest[0]);
        doubt[0] = s.fma(part, s.zero(), doubt[0]);
    }
    let [a, b, c, d] = doubt;
    if s.reduce_add(s.add(s.add(a, b), s.add(c, d))).is_nan() {
        // Magnitudes compare as their bits do, and there a NaN is larger than all.
        let bits = x.iter().map(|x| x.abs().to_bits()).max().unwrap_or(0);
        return f32::from_bits(bits);
    }
    let [a, b, c, d] = highest;
    s.reduce_max(s.max(s.max(a, b), s.max(c, d)))
}

/// Quantises the row-major `[n, k]` that `read` hands out.
///
/// # Errors
/// What `read` returns; `packed` and `scales` are then of no use.
///
/// # Panics
/// If a length does not fit `n` and `k` (so do all functions here).
pub fn quantize_rows<E: Send>(
    n: usize,
    k: usize,
    packed: &mut [u8],
    scales: &mut [f32],
    read: &Read<'_, f32, E>,
) -> Result<(), E> {
    check(packed, scales, n, k);
    let (packed, all_scales) = (Disjoint::new(packed), Disjoint::new(scales));
    parallel::try_run(n.div_ceil(PANEL), &|p| {
        let rows = PANEL.min(n - p * PANEL);
        let mut run = scratch(Slot::Work, rows * k);
        read(p * PANEL * k, &mut run)?;
        let mut values = vec![0; rows * k];
        // SAFETY: each panel is a part of its own, and so are the scales of its rows.
        let (panel, scales) = unsafe { (panel(&packed, p, k), all_scales.slice(p * PANEL, rows)) };
        for (r, scale) in scales.iter_mut().enumerate() {
            *scale = quantize_row(&run[r * k..][..k], &mut values[r * k..][..k]);
        }
        pack_panel(&values, k, panel);
        Ok(())
    })
}

/// Packs the row-major `[n, k]` of quantised values that `read` hands out.
///
/// # Errors
/// What `read` returns; `packed` is then of no use.
pub fn read_rows<E: Send>(
    n: usize,
    k: usize,
    packed: &mut [u8],
    read: &Read<'_, i8, E>,
) -> Result<(), E> {
    assert_eq!(packed.len(), packed_len(n, k), "the weight is not [n, k]");
    let packed = Disjoint::new(packed);
    parallel::try_run(n.div_ceil(PANEL), &|p| {
        let mut run = vec![0; PANEL.min(n - p * PANEL) * k];
        read(p * PANEL * k, &mut run)?;
        // SAFETY: each panel is a part of its own.
        pack_panel(&run, k, unsafe { panel(&packed, p, k) });
        Ok(())
    })
}

/// Packs the row-major `[k, n]` of quantised values that `read` hands out.
///
/// # Errors
/// As for [`read_rows`].
pub fn read_columns<E: Send>(
    n: usize,
    k: usize,
    packed: &mut [u8],
    read: &Read<'_, i8, E>,
) -> Result<(), E> {
    assert_eq!(packed.len(), packed_len(n, k), "the weight is not [n, k]");
    let lines = (BYTES_READ_AT_ONCE / n.max(1)).max(1).next_multiple_of(GROUP);
    let packed = Disjoint::new(packed);
    parallel::try_run(if n == 0 { 0 } else { k.div_ceil(lines) }, &|part| {
        let first = part * lines;
        let mut run = vec![0; lines.min(k - first) * n];
        read(first * n, &mut run)?;
        for (i, group_lines) in run.chunks(GROUP * n).enumerate() {
            for p in 0..n.div_ceil(PANEL) {
                let start = first_group(p * PANEL, k) + (first / GROUP + i) * STRIDE;
                // SAFETY: this group of every panel belongs to this part alone.
                let group = unsafe { packed.slice(start, STRIDE) };
                pack_group(group_lines, n, p * PANEL, group);
            }
        }
        Ok(())
    })
}

/// Panel `p` of a weight with `k` inputs.
///
/// # Safety
/// No other piece of this panel is alive.
unsafe fn panel<'a>(packed: &Disjoint<'a, u8>, p: usize, k: usize) -> &'a mut [u8] {
    let len = k.div_ceil(GROUP) * STRIDE;
    // SAFETY: the caller vouches that nobody else has it.
    unsafe { packed.slice(p * len, len) }
}

/// Packs values that are quantised already, row-major `[rows, k]` of one panel.
fn pack_panel(rows: &[i8], k: usize, panel: &mut [u8]) {
    if k == 0 {
        return;
    }
    let (groups, _) = panel.as_chunks_mut::<GROUP>();
    if rows.len() < PANEL * k || !k.is_multiple_of(GROUP) {
        groups.fill([OFFSET; GROUP]);
    }
    // By blocks, whose lines stay in the nearest cache while each row writes to all of them.
    for (block, groups) in groups.chunks_mut(GROUPS_PER_BLOCK * PANEL).enumerate() {
        let first = block * GROUPS_PER_BLOCK * GROUP;
        for (r, row) in rows.chunks_exact(k).enumerate() {
            let (values, rest) = row[first..].as_chunks::<GROUP>();
            let places = groups[r..].iter_mut().step_by(PANEL);
            places.zip(values).for_each(|(to, from)| *to = from.map(byte));
            if values.len() < GROUPS_PER_BLOCK
                && let Some(to) = groups.get_mut(values.len() * PANEL + r)
            {
                to.iter_mut().zip(rest).for_each(|(to, from)| *to = byte(*from));
            }
        }
    }
}

/// Packs up to [`GROUP`] lines `[inputs, n]` of quantised values as the group of outputs `first` on.
fn pack_group(lines: &[i8], n: usize, first: usize, group: &mut [u8]) {
    let width = PANEL.min(n - first);
    if width < PANEL || lines.len() < GROUP * n {
        group.fill(OFFSET);
        for (i, line) in lines.chunks_exact(n).enumerate() {
            let places = group[i..].iter_mut().step_by(GROUP);
            places.zip(&line[first..][..width]).for_each(|(to, from)| *to = byte(*from));
        }
        return;
    }
    let line = |i: usize| lines[i * n + first..].first_chunk::<PANEL>().expect("a whole panel");
    let lines: [&[i8; PANEL]; GROUP] = std::array::from_fn(line);
    let (places, _) = group.as_chunks_mut::<GROUP>();
    for (c, place) in places.iter_mut().enumerate() {
        *place = lines.map(|line| byte(line[c]));
    }
}

/// One row of a weight with `k` inputs.
fn row(packed: &[u8], row: usize, k: usize) -> impl Iterator<Item = i8> + '_ {
    let groups = packed[first_group(row, k)..].chunks(STRIDE);
    groups.flat_map(|group| &group[..GROUP]).take(k).map(|&byte| value(byte))
}

/// The quantised values `[n, k]`, row-major.
pub fn to_rows(packed: &[u8], n: usize, k: usize) -> Vec<i8> {
    assert_eq!(packed.len(), packed_len(n, k), "the weight is not [n, k]");
    (0..n * k.min(1)).flat_map(|n| row(packed, n, k)).collect()
}

/// Rows `ids` of the weight as floats: `out[t] = W[ids[t]]`, `out [t, k]`.
///
/// # Panics
/// If an id is not below `n`, or a length does not fit.
pub fn gather_rows(
    packed: &[u8],
    scales: &[f32],
    n: usize,
    k: usize,
    ids: &[u32],
    out: &mut [f32],
) {
    check(packed, scales, n, k);
    assert_eq!(out.len(), ids.len() * k, "`out` is not [ids, k]");
    for (out, &id) in out.chunks_exact_mut(k.max(1)).zip(ids) {
        let scale = scales[id as usize];
        out.iter_mut()
            .zip(row(packed, id as usize, k))
            .for_each(|(x, q)| *x = f32::from(q) / scale);
    }
}

pub(super) fn check(packed: &[u8], scales: &[f32], n: usize, k: usize) {
    assert_eq!(packed.len(), packed_len(n, k), "the weight is not [n, k]");
    assert_eq!(scales.len(), n, "the scales are not [n]");
}

#[cfg(test)]
#[path = "int8_tests.rs"]
mod tests;
