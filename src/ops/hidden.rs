//! Rows of floats on their way through the model: hidden states, or the scores made of them.

use candle_core::{DType, Device, Result, Tensor};

#[cfg(feature = "cuda")]
use super::card::Held;
use super::place::{Place, with_values};
use super::weight::HalfFormat;
use super::{Way, tensor, wants_gradient, way, with_floats};
#[cfg(feature = "cuda")]
use crate::kernels::cuda::{Card, CardRows};
use crate::kernels::pool::{self, Buffer};

pub use crate::kernels::pool::trim;

/// `[rows, width]` of float32.
///
/// In a pass without gradients by our kernels they are plain floats in pooled memory, so that decoding
/// allocates nothing; in any other pass they are a tensor of candle. Every operation takes both and
/// answers in kind; the model never asks.
#[derive(Debug)]
pub struct Hidden {
    values: Values,
    width: usize,
}

#[derive(Debug)]
enum Values {
    Floats(Buffer),
    Tensor(Tensor),
    #[cfg(feature = "cuda")]
    Card(CardRows),
}

impl Hidden {
    /// Rows of a pass without gradients, by the way in force: `write` sets each of the floats.
    pub fn new(rows: usize, width: usize, write: impl FnOnce(&mut [f32])) -> Result<Self> {
        let hidden = Self::computed(rows, width, write);
        match way() {
            Way::Kernel => Ok(hidden),
            Way::Portable => hidden.tensor()?.try_into(),
        }
    }

    /// What a kernel computes: `write` sets each of the floats.
    pub(super) fn computed(rows: usize, width: usize, write: impl FnOnce(&mut [f32])) -> Self {
        let mut buffer = pool::buffer(rows * width);
        write(&mut buffer);
        Self::of(buffer, width)
    }

    /// Whole rows that a kernel has computed.
    pub(super) fn of(floats: Buffer, width: usize) -> Self {
        Hidden { values: Values::Floats(floats), width }
    }

    /// Rows that a kernel of a card has computed.
    #[cfg(feature = "cuda")]
    pub(super) fn of_card(rows: CardRows) -> Self {
        let width = rows.width();
        Hidden { values: Values::Card(rows), width }
    }

    /// Its rows in float32, if they are on a card whose kernels take them, and no gradient is wanted of them.
    #[cfg(feature = "cuda")]
    pub(super) fn on_card(&self) -> Result<Option<Held<'_>>> {
        Ok(match self.on_card_as_they_are()? {
            Some(rows) if !rows.is_float32() => Some(Held::Owned(rows.widened()?)),
            other => other,
        })
    }

    /// The same in whatever numbers they are.
    #[cfg(feature = "cuda")]
    pub(super) fn on_card_as_they_are(&self) -> Result<Option<Held<'_>>> {
        match &self.values {
            Values::Card(rows) => Ok(Some(Held::Borrowed(rows))),
            Values::Tensor(tensor) if way() == Way::Kernel && tensor.device().is_cuda() => {
                if tensor.track_op() {
                    return Ok(None);
                }
                let rows = Card::of(tensor.device())?.rows_of(tensor)?;
                Ok(Some(Held::Owned(rows)))
            }
            _ => Ok(None),
        }
    }

    /// Its floats, if our kernels take it, and no gradient is wanted of it or of `parameters`.
    pub(super) fn floats_beside(&self, parameters: &[&Tensor]) -> Option<&[f32]> {
        self.floats().filter(|_| !wants_gradient(parameters))
    }

    /// Its floats, if our kernels take it and no gradient is wanted of it.
    pub(super) fn floats(&self) -> Option<&[f32]> {
        match &self.values {
            Values::Floats(floats) => Some(floats),
            _ => None,
        }
    }

    /// Whether its numbers are of this format already.
    pub(super) fn is_of(&self, format: HalfFormat) -> bool {
        match &self.values {
            #[cfg(feature = "cuda")]
            Values::Card(rows) => format == HalfFormat::Bfloat16 && !rows.is_float32(),
            _ => {
                let _ = format;
                false
            }
        }
    }

    /// Number of rows.
    pub fn rows(&self) -> usize {
        match &self.values {
            Values::Floats(floats) => floats.len() / self.width.max(1),
            Values::Tensor(tensor) => tensor.dims()[0],
            #[cfg(feature = "cuda")]
            Values::Card(rows) => rows.rows(),
        }
    }

    /// Floats in a row.
    pub fn width(&self) -> usize {
        self.width
    }

    /// The same floats as rows of another width, which divides them.
    pub fn with_width(self, width: usize) -> Result<Self> {
        match self.values {
            Values::Floats(floats) => Ok(Self::of(floats, width)),
            Values::Tensor(tensor) => {
                let rows = tensor.elem_count() / width.max(1);
                tensor.contiguous()?.reshape((rows, width))?.try_into()
            }
            #[cfg(feature = "cuda")]
            Values::Card(rows) => Ok(Self::of_card(rows.with_width(width))),
        }
    }

    /// The rows as a tensor, a copy where they are none yet.
    pub fn tensor(&self) -> Result<Tensor> {
        match &self.values {
            Values::Floats(floats) => tensor(floats.to_vec(), (self.rows(), self.width)),
            Values::Tensor(tensor) => Ok(tensor.clone()),
            #[cfg(feature = "cuda")]
            Values::Card(rows) => rows.tensor(),
        }
    }

    /// Calls `work` with all floats, row after row.
    pub fn read<R>(&self, work: impl FnOnce(&[f32]) -> R) -> Result<R> {
        match &self.values {
            Values::Floats(floats) => Ok(work(floats)),
            Values::Tensor(tensor) => with_values(tensor, work),
            #[cfg(feature = "cuda")]
            Values::Card(rows) => Ok(work(&rows.card().alone(|| rows.download())?)),
        }
    }

    /// The same rows at a place, where our kernels compute in float32.
    pub fn at(self, place: &Place) -> Result<Self> {
        match (place, &self.values) {
            (Place::Kernels, Values::Floats(_)) => Ok(self),
            (Place::Kernels, Values::Tensor(tensor)) => {
                tensor.to_dtype(DType::F32)?.to_device(&Device::Cpu)?.try_into()
            }
            #[cfg(feature = "cuda")]
            (_, Values::Card(rows)) => Hidden::try_from(rows.tensor()?)?.at(place),
            (Place::Portable(device), _) => self.tensor()?.to_device(device)?.try_into(),
        }
    }

    /// The rows with these numbers, in this order.
    pub fn select(&self, rows: &[u32]) -> Result<Self> {
        match &self.values {
            Values::Floats(floats) => Ok(Self::computed(rows.len(), self.width, |out| {
                for (to, &row) in out.chunks_exact_mut(self.width.max(1)).zip(rows) {
                    to.copy_from_slice(&floats[row as usize * self.width..][..self.width]);
                }
            })),
            Values::Tensor(tensor) => super::rows::select(tensor, rows)?.try_into(),
            #[cfg(feature = "cuda")]
            Values::Card(all) => Hidden::try_from(all.tensor()?)?.select(rows),
        }
    }

    /// What `work` makes of the rows as a tensor: in kind, or a tensor where `work` brought in what a
    /// gradient is wanted of. For the operations of which there is no kernel.
    pub(super) fn by_candle(&self, work: impl FnOnce(&Tensor) -> Result<Tensor>) -> Result<Self> {
        let result = work(&self.tensor()?)?;
        if self.floats().is_none() || result.track_op() {
            return result.try_into();
        }
        let (rows, width) = result.dims2()?;
        with_floats([&result.to_device(&Device::Cpu)?.contiguous()?], |[floats]| {
            Self::computed(rows, width, |out| out.copy_from_slice(floats))
        })
    }
}

/// Rows that gradients may go through.
impl TryFrom<Tensor> for Hidden {
    type Error = candle_core::Error;

    fn try_from(tensor: Tensor) -> Result<Self> {
        let width = tensor.dims2()?.1;
        Ok(Hidden { values: Values::Tensor(tensor), width })
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::in_way;
    use super::*;

    #[test]
    fn both_kinds_select_and_read_the_same() {
        let both = in_way(|| {
            let write = |out: &mut [f32]| (0..12).for_each(|i| out[i] = i as f32);
            let hidden = Hidden::new(4, 3, write).unwrap();
            let chosen = hidden.select(&[3, 0, 3]).unwrap();
            let doubled = chosen.by_candle(|x| x * 2.0).unwrap();
            assert_eq!((doubled.rows(), doubled.width()), (3, 3));
            assert_eq!(doubled.floats().is_some(), hidden.floats().is_some());
            doubled.read(<[f32]>::to_vec).unwrap()
        });
        assert_eq!(both.kernel, [18.0, 20.0, 22.0, 0.0, 2.0, 4.0, 18.0, 20.0, 22.0]);
        assert_eq!(both.kernel, both.portable);
    }
}
