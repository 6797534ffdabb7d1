//! Weights of 8 bits, and products of which both sides are.
//!
//! The scheme is Keras' (`abs_max_quantize`, keras 3.15): a row `x` of inputs, or of a weight
//! `[n, k]`, is `q / scale` with `scale = 127 / (max |x| + 1e-7)` and `q = x * scale` rounded to the
//! nearest whole number, ties to even. An output is the whole-number sum of `q_x * q_w`, divided by the product
//! of both scales; the bias comes last. The sums are exact, so their order does not matter: a row has
//! the same bits in any batch, by any instruction set.
//!
//! A weight is stored as one byte `q + 128` an element, row after row, with a scale for each row. The
//! functions here are all that knows this layout.

use super::gelu;
use super::gemm::Epilogue;
use super::isa::{self, Kernel, Simd, with_isa};
use super::team;

/// What a stored byte is more than the number it means.
pub const OFFSET: u8 = 128;
/// The largest magnitude of a quantised value.
pub const LARGEST: i8 = 127;
/// Keeps the scale of a row of zeros finite.
pub const EPSILON: f32 = 1e-7;
/// The most inputs a product may have: beyond, a sum could leave 32 bits.
pub const MOST_INPUTS: usize = (i32::MAX / (127 * 127)) as usize;

/// Outputs that one part of a product computes.
const OUTPUTS_PER_PART: usize = 512;
/// Values that are read at a time while a matrix is quantised.
const READ_AT_ONCE: usize = 1 << 16;

/// The byte that stands for a quantised value.
pub const fn byte(value: i8) -> u8 {
    value.cast_unsigned().wrapping_add(OFFSET)
}

/// The quantised value that a byte stands for.
pub const fn value(byte: u8) -> i8 {
    byte.wrapping_sub(OFFSET).cast_signed()
}

/// Quantises a row: writes its values, and gives their scale (0 or NaN if one is not finite).
///
/// # Panics
/// If the lengths differ.
pub fn quantize_row(x: &[f32], values: &mut [i8]) -> f32 {
    assert_eq!(x.len(), values.len(), "quantize_row: x and values");
    isa::dispatch(QuantizeRow { x, values })
}

struct QuantizeRow<'a> {
    x: &'a [f32],
    values: &'a mut [i8],
}

impl Kernel for QuantizeRow<'_> {
    type Output = f32;

    #[inline(always)]
    fn run<S: Simd>(self, _: S) -> f32 {
        // Magnitudes compare as their bits do, and there a NaN is larger than all: it ends in the scale.
        let mut largest = 0;
        for x in self.x {
            largest = x.abs().to_bits().max(largest);
        }
        let scale = f32::from(LARGEST) / (f32::from_bits(largest) + EPSILON);
        for (value, x) in self.values.iter_mut().zip(self.x) {
            // Finite inputs stay below 127.5; of any others the scale makes NaN in the result.
            *value = ((x * scale).round_ties_even() as i8).max(-LARGEST);
        }
        scale
    }
}

/// Quantises a row-major `[n, k]` that `read` hands out in runs of whole rows.
///
/// # Errors
/// What `read` returns; rows of later runs are as they were.
///
/// # Panics
/// If a length does not fit `n` and `k` (so do all functions here).
pub fn from_row_runs<E>(
    n: usize,
    k: usize,
    packed: &mut [u8],
    scales: &mut [f32],
    mut read: impl FnMut(&mut [f32]) -> Result<(), E>,
) -> Result<(), E> {
    check(packed, scales, n, k);
    let rows = (READ_AT_ONCE / k.max(1)).clamp(1, n.max(1));
    let (mut run, mut values) = (vec![0.0; rows * k], vec![0; k]);
    for (i, scales) in scales.chunks_mut(rows).enumerate() {
        let run = &mut run[..scales.len() * k];
        read(run)?;
        for (r, scale) in scales.iter_mut().enumerate() {
            *scale = quantize_row(&run[r * k..][..k], &mut values);
            let row = &mut packed[(i * rows + r) * k..][..k];
            row.iter_mut().zip(&values).for_each(|(to, from)| *to = byte(*from));
        }
    }
    Ok(())
}

/// Stores values `[n, k]` that are quantised already.
pub fn from_rows(values: &[i8], n: usize, k: usize, packed: &mut [u8]) {
    assert!(values.len() == n * k && packed.len() == n * k, "the weight is not [n, k]");
    packed.iter_mut().zip(values).for_each(|(to, from)| *to = byte(*from));
}

/// The quantised values `[n, k]`, row-major.
pub fn to_rows(packed: &[u8], n: usize, k: usize) -> Vec<i8> {
    assert_eq!(packed.len(), n * k, "the weight is not [n, k]");
    packed.iter().map(|&b| value(b)).collect()
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
    for (row, &id) in out.chunks_exact_mut(k.max(1)).zip(ids) {
        let (bytes, scale) = (&packed[id as usize * k..][..k], scales[id as usize]);
        row.iter_mut().zip(bytes).for_each(|(to, b)| *to = f32::from(value(*b)) / scale);
    }
}

/// A weight as it is stored: bytes and scales of `[n, k]`.
#[derive(Clone, Copy)]
pub struct Weight<'a> {
    /// `n * k` bytes.
    pub packed: &'a [u8],
    /// A scale for each of `n` rows.
    pub scales: &'a [f32],
}

/// A linear layer: `out = epilogue(x W^T + bias)`; `x [m, k]`, `w [n, k]`, `bias [n]`, `out [m, n]`.
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
    check(w.packed, w.scales, n, k);
    assert!(k <= MOST_INPUTS, "{k} inputs: their sum could leave 32 bits");
    assert_eq!(x.len(), m * k, "`x` is not [m, k]");
    assert_eq!(out.len(), m * n, "`out` is not [m, n]");
    assert!(bias.is_none_or(|bias| bias.len() == n), "`bias` is not [n]");
    let (mut values, mut scales) = (vec![0; m * k], vec![0.0; m]);
    for (row, scale) in scales.iter_mut().enumerate() {
        *scale = quantize_row(&x[row * k..][..k], &mut values[row * k..][..k]);
    }
    let isa = isa::current();
    team::run_chunks(out, OUTPUTS_PER_PART, &|part, out| {
        let first = part * OUTPUTS_PER_PART;
        with_isa(isa, Part { x: &values, x_scales: &scales, w, bias, n, k, first, out });
    });
    if epilogue == Epilogue::Gelu {
        let sums = out.to_vec();
        gelu::forward(&sums, out);
    }
}

/// Some outputs in a row, from `first` on.
struct Part<'a> {
    x: &'a [i8],
    x_scales: &'a [f32],
    w: Weight<'a>,
    bias: Option<&'a [f32]>,
    n: usize,
    k: usize,
    first: usize,
    out: &'a mut [f32],
}

impl Kernel for Part<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, _: S) {
        for (i, out) in self.out.iter_mut().enumerate() {
            let (row, column) = ((self.first + i) / self.n, (self.first + i) % self.n);
            let x = &self.x[row * self.k..][..self.k];
            let w = &self.w.packed[column * self.k..][..self.k];
            let mut sum = 0_i32;
            for (x, w) in x.iter().zip(w) {
                sum += i32::from(*x) * i32::from(value(*w));
            }
            let y = sum as f32 / (self.x_scales[row] * self.w.scales[column]);
            *out = if let Some(bias) = self.bias { y + bias[column] } else { y };
        }
    }
}

fn check(packed: &[u8], scales: &[f32], n: usize, k: usize) {
    assert_eq!(packed.len(), n * k, "the weight is not [n, k]");
    assert_eq!(scales.len(), n, "the scales are not [n]");
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernels::testing::{assert_same_bits, noise, on_every_isa};

    /// The definition, in numbers wide enough that nothing is rounded twice.
    fn quantized(row: &[f32]) -> (Vec<i64>, f32) {
        let largest = row.iter().fold(0.0_f32, |largest, x| largest.max(x.abs()));
        let scale = 127.0 / (largest + 1e-7);
        (row.iter().map(|x| (x * scale).round_ties_even() as i64).collect(), scale)
    }

    fn stored(rows: &[f32], n: usize, k: usize) -> (Vec<u8>, Vec<f32>) {
        let (mut packed, mut scales, mut rest) = (vec![0; n * k], vec![f32::NAN; n], rows);
        let read = |run: &mut [f32]| -> Result<(), ()> {
            run.copy_from_slice(rest.split_off(..run.len()).unwrap());
            Ok(())
        };
        from_row_runs(n, k, &mut packed, &mut scales, read).unwrap();
        (packed, scales)
    }

    #[test]
    fn rows_are_quantised_by_the_definition() {
        on_every_isa(|_| {
            for (n, k) in [(1, 1), (3, 5), (33, 64), (2, 70_000), (0, 3), (3, 0)] {
                let mut rows = noise(n * k, 9);
                rows.iter_mut().take(k).for_each(|x| *x = 0.0);
                let (packed, scales) = stored(&rows, n, k);
                let values = to_rows(&packed, n, k);
                for r in 0..n {
                    let (expected, scale) = quantized(&rows[r * k..][..k]);
                    assert_eq!(scales[r].to_bits(), scale.to_bits());
                    let row: Vec<i64> = values[r * k..][..k].iter().map(|&q| q.into()).collect();
                    assert_eq!(row, expected, "[{n}, {k}] row {r}");
                }
                let mut again = vec![0; n * k];
                from_rows(&values, n, k, &mut again);
                assert_eq!(again, packed);
            }
        });
    }

    #[test]
    fn ties_go_to_even_and_extremes_are_kept() {
        // The scale is 1 but for its epsilon, which these values survive.
        let x = [127.0, -127.0, 2.5, 3.5, -2.5, 0.49];
        let mut values = [0; 6];
        assert_eq!(quantize_row(&x, &mut values), 1.0);
        assert_eq!(values, [127, -127, 2, 4, -2, 0]);
        assert_eq!((byte(-127), byte(0), value(byte(-1))), (1, 128, -1));
        assert!(quantize_row(&[f32::NAN, 2.0], &mut values[..2]).is_nan());
        assert_eq!(quantize_row(&[1.0, f32::NEG_INFINITY], &mut values[..2]), 0.0);
    }

    #[test]
    fn products_are_the_definition() {
        on_every_isa(|isa| {
            for (m, n, k) in
                [(1, 1, 1), (3, 33, 47), (7, 600, 16), (2, 5, 1000), (0, 4, 4), (4, 3, 0)]
            {
                let (x, w, bias) = (noise(m * k, 1), noise(n * k, 2), noise(n, 3));
                let (packed, scales) = stored(&w, n, k);
                let weight = Weight { packed: &packed, scales: &scales };
                let mut expected = vec![0.0; m * n];
                for i in 0..m * n {
                    let (xq, xs) = quantized(&x[i / n * k..][..k]);
                    let (wq, ws) = quantized(&w[i % n * k..][..k]);
                    let sum: i64 = xq.iter().zip(&wq).map(|(x, w)| x * w).sum();
                    expected[i] = sum as f32 / (xs * ws) + bias[i % n];
                }
                let mut out = vec![f32::NAN; m * n];
                linear(&x, m, k, weight, n, Some(&bias), Epilogue::None, &mut out);
                let what = format!("{} [{m}, {n}, {k}]", isa.name());
                assert_same_bits(&out, &expected, &what);
                let mut activated = vec![f32::NAN; m * n];
                linear(&x, m, k, weight, n, Some(&bias), Epilogue::Gelu, &mut activated);
                gelu::forward(&expected, &mut out);
                assert_same_bits(&activated, &out, &what);
                let mut rows = vec![f32::NAN; 2 * k];
                gather_rows(&packed, &scales, n, k, &[n as u32 - 1, 0], &mut rows);
                let last = quantized(&w[(n - 1) * k..]);
                assert!(rows.iter().zip(last.0).all(|(x, q)| *x == q as f32 / last.1));
            }
        });
    }
}
