//! A tensor as a file holds it, and its values on their way out, widened to float32.

use std::fs::File;
use std::io;
use std::path::Path;

use half::{bf16, f16};
use safetensors::Dtype;

use crate::error::{Error, Result};
use crate::kernels::memory;

/// Bytes of other formats than float32 that are read at once, onto the stack.
const BYTES_WIDENED_AT_ONCE: usize = 1 << 15;
/// Values that a tensor with gaps may span beyond twice its own number.
const GAPS: usize = 1 << 12;

/// Where a file keeps a tensor. Who makes one has checked that its values lie within the file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredTensor {
    /// Its sizes.
    pub shape: Vec<usize>,
    /// How a value is stored.
    pub dtype: Dtype,
    /// Where its first value begins, in bytes from the start of the file.
    pub start: u64,
    /// For each dimension the distance of two neighbours, in values; `None` for row-major values
    /// without gaps.
    pub strides: Option<Vec<usize>>,
}

impl StoredTensor {
    /// A view of `count` values that begin at byte `start`: `shape` and `strides` from value
    /// `offset` on, as torch describes tensors.
    ///
    /// # Errors
    /// What is wrong, if a value lies outside or a size cannot be.
    pub fn view(
        dtype: Dtype,
        (start, count): (u64, u64),
        offset: u64,
        shape: Vec<usize>,
        strides: Vec<usize>,
    ) -> std::result::Result<Self, String> {
        let absurd = || format!("has sizes {shape:?} that no file could hold");
        if shape.len() != strides.len() {
            return Err(format!("has sizes {shape:?}, but strides {strides:?}"));
        }
        shape.iter().try_fold(1_usize, |product, &n| product.checked_mul(n)).ok_or_else(absurd)?;
        let span = span(&shape, &strides).ok_or_else(absurd)?;
        let end = (span as u64).checked_add(offset).ok_or_else(absurd)?;
        if end > count {
            return Err(format!(
                "reads {end} values of a storage that has {count} (sizes {shape:?}, strides {strides:?})"
            ));
        }
        let row_major = is_row_major(&shape, &strides);
        Ok(StoredTensor {
            dtype,
            start: start + offset * byte_width(dtype) as u64,
            strides: (!row_major).then_some(strides),
            shape,
        })
    }

    /// How many values it has.
    pub fn count(&self) -> usize {
        self.shape.iter().product()
    }
}

#[cfg(test)]
impl StoredTensor {
    /// Where its last value ends, in bytes from the start of the file.
    pub fn end(&self) -> u64 {
        let count = match &self.strides {
            Some(strides) => span(&self.shape, strides).unwrap(),
            None => self.count(),
        };
        self.start + (count * byte_width(self.dtype)) as u64
    }
}

/// From the first to the last value, both counted; `None` where that is no number.
fn span(shape: &[usize], strides: &[usize]) -> Option<usize> {
    if shape.contains(&0) {
        return Some(0);
    }
    let steps = shape.iter().zip(strides).map(|(n, stride)| (n - 1).checked_mul(*stride));
    steps.into_iter().try_fold(1_usize, |sum, step| sum.checked_add(step?))
}

fn is_row_major(shape: &[usize], strides: &[usize]) -> bool {
    let mut expected = 1;
    shape.iter().zip(strides).rev().all(|(&size, &stride)| {
        // Where there is one neighbour only, its distance means nothing.
        let fits = size <= 1 || stride == expected;
        expected = expected.saturating_mul(size);
        fits
    })
}

/// The bytes of one value. Types of less than a byte are not read.
pub fn byte_width(dtype: Dtype) -> usize {
    dtype.bitsize() / 8
}

/// The values of one tensor in row-major order. Several threads may read them at once.
///
/// They are read and not mapped: a mapped file that somebody cuts off meanwhile ends the process.
pub struct Values<'a> {
    path: &'a Path,
    file: &'a File,
    dtype: Dtype,
    /// Where in the file the first one is.
    start: u64,
    count: usize,
    /// All of them, only where they are not in order.
    gathered: Option<Vec<f32>>,
}

impl<'a> Values<'a> {
    /// The values of the tensor called `name` in `file`.
    ///
    /// # Errors
    /// `Format` for other types than floats and int8, and for values that lie scattered over the
    /// file.
    pub fn new(path: &'a Path, file: &'a File, name: &str, tensor: &StoredTensor) -> Result<Self> {
        let (dtype, start, count) = (tensor.dtype, tensor.start, tensor.count());
        if !matches!(dtype, Dtype::F32 | Dtype::F64 | Dtype::F16 | Dtype::BF16 | Dtype::I8) {
            return Err(no_floats(path, name, dtype));
        }
        let mut values = Values { path, file, dtype, start, count, gathered: None };
        if let Some(strides) = &tensor.strides {
            let span = span(&tensor.shape, strides).unwrap_or(usize::MAX);
            if span > count.saturating_mul(2).saturating_add(GAPS) {
                let message = format!(
                    "tensor {name} has {count} values spread over {span} (strides {strides:?})\n\
                     hint: save it again after `.contiguous()`"
                );
                return Err(Error::format(path, message));
            }
            let mut spanned = vec![0.0; span];
            values.read_in_order(0, &mut spanned)?;
            let gathered = Gathered::new(spanned, &tensor.shape, strides);
            values.gathered = Some(gathered.take(count).collect());
        }
        Ok(values)
    }

    /// How many there are.
    pub fn count(&self) -> usize {
        self.count
    }

    /// All of them.
    ///
    /// # Errors
    /// `Io` if the file cannot be read.
    pub fn to_floats(&self) -> Result<Vec<f32>> {
        let mut floats = vec![0.0; self.count];
        self.read(0, &mut floats)?;
        Ok(floats)
    }

    /// Fills `out` with the values from `first` on.
    ///
    /// # Errors
    /// `Io` if the file cannot be read.
    pub fn read(&self, first: usize, out: &mut [f32]) -> Result<()> {
        match &self.gathered {
            None => self.read_in_order(first, out),
            Some(gathered) => {
                out.copy_from_slice(&gathered[first..][..out.len()]);
                Ok(())
            }
        }
    }

    /// Fills `out` with whole numbers of 8 bits from the value `first` on.
    ///
    /// # Errors
    /// `Io` if the file cannot be read.
    pub fn read_int8(&self, first: usize, out: &mut [i8]) -> Result<()> {
        match &self.gathered {
            None => self.fill(first, memory::bytes_of_int8(out)),
            Some(gathered) => {
                let values = &gathered[first..][..out.len()];
                out.iter_mut().zip(values).for_each(|(out, value)| *out = *value as i8);
                Ok(())
            }
        }
    }

    /// Values in the order of the file, widened.
    fn read_in_order(&self, first: usize, out: &mut [f32]) -> Result<()> {
        if self.dtype == Dtype::F32 {
            self.fill(first, memory::bytes_of_floats(out))?;
            out.iter_mut().for_each(|x| *x = f32::from_bits(u32::from_le(x.to_bits())));
            return Ok(());
        }
        let mut bytes = [0; BYTES_WIDENED_AT_ONCE];
        let per_part = bytes.len() / byte_width(self.dtype);
        for (part, out) in out.chunks_mut(per_part).enumerate() {
            let bytes = &mut bytes[..out.len() * byte_width(self.dtype)];
            self.fill(first + part * per_part, bytes)?;
            match self.dtype {
                Dtype::F64 => decode(bytes, out, |x| f64::from_le_bytes(x) as f32),
                Dtype::I8 => decode(bytes, out, |x| f32::from(i8::from_le_bytes(x))),
                Dtype::F16 => decode(bytes, out, |x| f16::from_le_bytes(x).to_f32()),
                _ => decode(bytes, out, |x| bf16::from_le_bytes(x).to_f32()),
            }
        }
        Ok(())
    }

    /// The bytes of values from `first` on.
    fn fill(&self, first: usize, bytes: &mut [u8]) -> Result<()> {
        let start = self.start.saturating_add((first * byte_width(self.dtype)) as u64);
        read_exact_at(self.file, bytes, start).map_err(|e| Error::io(self.path, e))
    }
}

/// Reads without a cursor, which threads would share.
#[cfg(unix)]
fn read_exact_at(file: &File, bytes: &mut [u8], start: u64) -> io::Result<()> {
    std::os::unix::fs::FileExt::read_exact_at(file, bytes, start)
}

#[cfg(windows)]
fn read_exact_at(file: &File, mut bytes: &mut [u8], mut start: u64) -> io::Result<()> {
    while !bytes.is_empty() {
        match std::os::windows::fs::FileExt::seek_read(file, bytes, start)? {
            0 => return Err(io::ErrorKind::UnexpectedEof.into()),
            count => (bytes, start) = (&mut bytes[count..], start + count as u64),
        }
    }
    Ok(())
}

/// The error for a tensor of another type than floats.
pub fn no_floats(path: &Path, name: &str, dtype: Dtype) -> Error {
    Error::format(path, format!("tensor {name} has dtype {dtype:?}, expected floats"))
}

fn decode<const N: usize>(bytes: &[u8], out: &mut [f32], widen: impl Fn([u8; N]) -> f32) {
    let (chunks, _) = bytes.as_chunks::<N>();
    out.iter_mut().zip(chunks).for_each(|(out, chunk)| *out = widen(*chunk));
}

/// Goes through values in memory in row-major order, whatever order they lie in.
struct Gathered {
    values: Vec<f32>,
    /// Size, stride and current index of each dimension.
    axes: Vec<(usize, usize, usize)>,
    at: usize,
}

impl Gathered {
    fn new(values: Vec<f32>, shape: &[usize], strides: &[usize]) -> Self {
        let axes = shape.iter().zip(strides).map(|(&size, &stride)| (size, stride, 0)).collect();
        Gathered { values, axes, at: 0 }
    }
}

impl Iterator for Gathered {
    type Item = f32;

    fn next(&mut self) -> Option<f32> {
        let value = *self.values.get(self.at)?;
        for (size, stride, index) in self.axes.iter_mut().rev() {
            if *index + 1 < *size {
                *index += 1;
                self.at += *stride;
                break;
            }
            self.at -= *index * *stride;
            *index = 0;
        }
        Some(value)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn view(shape: &[usize], strides: &[usize], offset: u64, count: u64) -> Option<StoredTensor> {
        StoredTensor::view(Dtype::F32, (100, count), offset, shape.into(), strides.into()).ok()
    }

    #[test]
    fn views_stay_within_their_storage() {
        assert_eq!(view(&[2, 3], &[3, 1], 1, 7).unwrap().strides, None);
        assert_eq!(view(&[2, 3], &[3, 1], 1, 7).unwrap().start, 104);
        assert_eq!(view(&[2, 1], &[1, 99], 0, 2).unwrap().strides, None);
        assert_eq!(view(&[3, 2], &[1, 3], 0, 6).unwrap().strides, Some(vec![1, 3]));
        assert!(view(&[0, 3], &[3, 1], 0, 0).is_some());
        assert!(view(&[2, 3], &[3, 1], 2, 7).is_none());
        assert!(view(&[usize::MAX, 3], &[3, 1], 0, 7).is_none());
        assert!(view(&[1 << 40, 1 << 30], &[0, 0], 0, 1).is_none());
        assert!(view(&[2], &[usize::MAX], 0, 7).is_none());
        assert!(view(&[2], &[1], u64::MAX, 7).is_none());
        assert!(view(&[2], &[], 0, 7).is_none());
        assert!(view(&[0, 1 << 40, 1 << 40], &[1, 1, 1], 0, 0).is_some());
    }

    #[test]
    fn gathered_values_are_row_major() {
        let gathered = Gathered::new(vec![0., 1., 2., 3., 4., 5.], &[3, 2], &[1, 3]);
        assert_eq!(gathered.take(6).collect::<Vec<_>>(), [0., 3., 1., 4., 2., 5.]);
        let expanded = Gathered::new(vec![7., 8.], &[2, 2], &[0, 1]);
        assert_eq!(expanded.take(4).collect::<Vec<_>>(), [7., 8., 7., 8.]);
    }
}
