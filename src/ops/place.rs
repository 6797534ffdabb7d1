//! Where the tensors of a model are, and with that by which operations it is computed.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

use candle_core::{DType, Device, Result, Tensor};

use super::with_floats;
use crate::error::{Error, without_backtrace};

/// Where tensors are.
#[derive(Debug, Clone, Default)]
pub enum Place {
    /// On the CPU, matrices in the layout that our kernels read.
    #[default]
    Kernels,
    /// As they are, for candle's own operations: on a graphics card, or on the CPU as such a card has
    /// them. Models in 16 bits compute in these.
    Portable(Device),
}

/// The name of the place where the CPU computes as a card would, for checks.
const PORTABLE: &str = "portable";

impl Place {
    /// The place of this name: `cpu`, `portable`, or `cuda` or `metal`, with the number of a card behind a
    /// colon or without.
    ///
    /// # Errors
    /// `Argument` for another name, and if the card is not there or this build has no code for it.
    pub fn from_name(name: &str) -> crate::error::Result<Self> {
        let (kind, number) = match name.split_once(':') {
            Some((kind, number)) => (kind, number.parse::<usize>().ok()),
            None => (name, Some(0)),
        };
        match (kind, number) {
            _ if name == "cpu" => Ok(Place::Kernels),
            _ if name == PORTABLE => Ok(Place::Portable(Device::Cpu)),
            ("cuda" | "metal", Some(number)) => card(name, kind, number),
            _ => Err(Error::argument(
                "device",
                format!("must be cpu, cuda, cuda:0 and so on, or metal, received {name:?}"),
            )),
        }
    }

    /// Its name.
    pub fn name(&self) -> String {
        use candle_core::DeviceLocation::{Cpu, Cuda, Metal};
        match (self, self.device().location()) {
            (Place::Kernels, _) => "cpu".to_string(),
            (_, Cpu) => PORTABLE.to_string(),
            (_, Cuda { gpu_id }) => format!("cuda:{gpu_id}"),
            (_, Metal { gpu_id }) => format!("metal:{gpu_id}"),
        }
    }

    /// The device that holds them.
    pub fn device(&self) -> &Device {
        match self {
            Place::Kernels => &Device::Cpu,
            Place::Portable(device) => device,
        }
    }

    /// Does `work` while no other thread has work for the card, if this is one: what others ask of it would
    /// be recorded with it. May be nested.
    pub fn alone<R>(&self, work: impl FnOnce() -> R) -> R {
        #[cfg(feature = "cuda")]
        if let Place::Portable(device) = self
            && device.is_cuda()
            && let Ok(card) = crate::kernels::cuda::Card::of(device)
        {
            return card.alone(work);
        }
        work()
    }

    /// Gives back memory that a card keeps for passes to come.
    pub fn trim(&self) {
        #[cfg(feature = "cuda")]
        if let Place::Portable(device) = self
            && device.is_cuda()
            && let Ok(card) = crate::kernels::cuda::Card::of(device)
        {
            card.trim();
        }
    }

    /// Whether our kernels compute here.
    pub fn has_kernels(&self) -> bool {
        matches!(self, Place::Kernels)
    }
}

/// The values of a tensor of floats on any device, row-major, as float32.
pub fn values(tensor: &Tensor) -> Result<Vec<f32>> {
    alone(tensor, || values_alone(tensor))
}

/// [`Place::alone`] with the device of a tensor.
pub fn alone<R>(tensor: &Tensor, work: impl FnOnce() -> R) -> R {
    Place::Portable(tensor.device().clone()).alone(work)
}

fn values_alone(tensor: &Tensor) -> Result<Vec<f32>> {
    tensor.to_dtype(DType::F32)?.to_device(&Device::Cpu)?.flatten_all()?.to_vec1()
}

/// Calls `work` with [`values`], which are not copied where our kernels could read them.
pub fn with_values<R>(tensor: &Tensor, work: impl FnOnce(&[f32]) -> R) -> Result<R> {
    if tensor.device().is_cpu() && tensor.dtype() == DType::F32 {
        return with_floats([&tensor.contiguous()?], |[values]| work(values));
    }
    Ok(work(&values(tensor)?))
}

/// A device that models can be on.
#[derive(Debug, Clone)]
pub struct Found {
    /// Its name here, such as `cuda:0`.
    pub device: String,
    /// What its maker calls it.
    pub name: String,
    /// Its memory in bytes, and what of that is free; 0 if nobody says.
    pub memory: [u64; 2],
}

/// The cards of this machine that this build computes on, but for those that are too old.
///
/// # Errors
/// What the driver reports.
pub fn cards() -> Result<Vec<Found>> {
    #[cfg(feature = "cuda")]
    {
        use crate::kernels::cuda::{NEEDED, descriptions};
        let found = descriptions()?.into_iter().enumerate();
        Ok(found
            .filter(|(_, card)| card.capability >= NEEDED)
            .map(|(number, card)| Found {
                device: format!("cuda:{number}"),
                name: card.name,
                memory: [card.memory, card.free],
            })
            .collect())
    }
    #[cfg(not(feature = "cuda"))]
    Ok(Vec::new())
}

/// Cards in use. Tensors of one card work together only where they come from one of candle's devices.
static CARDS: Mutex<BTreeMap<(String, usize), Device>> = Mutex::new(BTreeMap::new());

fn card(name: &str, kind: &str, number: usize) -> crate::error::Result<Place> {
    use candle_core::Error::{NotCompiledWithCudaSupport, NotCompiledWithMetalSupport};
    let mut cards = CARDS.lock().unwrap_or_else(PoisonError::into_inner);
    let key = (kind.to_string(), number);
    if let Some(device) = cards.get(&key) {
        return Ok(Place::Portable(device.clone()));
    }
    let opened = match kind {
        "cuda" => check_cuda(number).and_then(|()| Device::new_cuda_with_stream(number)),
        _ => Device::new_metal(number),
    };
    let why = match opened {
        Ok(device) => {
            cards.insert(key, device.clone());
            return Ok(Place::Portable(device));
        }
        Err(NotCompiledWithCudaSupport) => {
            "needs the package `bart-fast-cuda`, which is not installed".to_string()
        }
        Err(NotCompiledWithMetalSupport) => {
            "needs a build with the feature `metal`, on a Mac".to_string()
        }
        Err(error) => format!("cannot be used: {}", without_backtrace(&error)),
    };
    Err(Error::argument("device", format!("{name:?} {why}\nhint: device=\"cpu\" is always there")))
}

/// Whether there is a card of this number that the kernels are compiled for.
#[cfg(feature = "cuda")]
fn check_cuda(number: usize) -> Result<()> {
    use crate::kernels::cuda::{NEEDED, descriptions};
    let found = descriptions()?;
    let Some(card) = found.get(number) else {
        candle_core::bail!("there is no such card, this machine has {}", found.len())
    };
    if card.capability < NEEDED {
        let ((major, minor), (most, least)) = (card.capability, NEEDED);
        let name = &card.name;
        candle_core::bail!(
            "{name} has compute capability {major}.{minor}, {most}.{least} is needed"
        )
    }
    Ok(())
}

#[cfg(not(feature = "cuda"))]
fn check_cuda(_number: usize) -> Result<()> {
    Err(candle_core::Error::NotCompiledWithCudaSupport)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_have_names_and_others_are_refused() {
        for name in ["cpu", "portable"] {
            assert_eq!(Place::from_name(name).unwrap().name(), name);
        }
        for name in ["", "gpu", "cpu:0", "cuda:", "cuda:-1", "cuda:x", "portable:1", "CUDA"] {
            let error = Place::from_name(name).unwrap_err();
            assert!(matches!(error, Error::Argument { .. }), "{name}: {error}");
        }
        #[cfg(not(feature = "cuda"))]
        for name in ["cuda", "cuda:1"] {
            let error = Place::from_name(name).unwrap_err().to_string();
            assert!(error.contains(name) && error.contains("`bart-fast-cuda`"), "{error}");
        }
    }
}
