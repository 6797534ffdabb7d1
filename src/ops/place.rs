//! Where the tensors of a model are, and with that by which operations it is computed.

use candle_core::{DType, Device, Result, Tensor};

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

impl Place {
    /// The device that holds them.
    pub fn device(&self) -> &Device {
        match self {
            Place::Kernels => &Device::Cpu,
            Place::Portable(device) => device,
        }
    }

    /// Whether our kernels compute here.
    pub fn has_kernels(&self) -> bool {
        matches!(self, Place::Kernels)
    }
}

/// The values of a tensor of floats on any device, row-major, as float32.
pub fn values(tensor: &Tensor) -> Result<Vec<f32>> {
    tensor.to_dtype(DType::F32)?.to_device(&Device::Cpu)?.flatten_all()?.to_vec1()
}
