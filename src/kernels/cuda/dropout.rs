//! What dropout draws from, as kernels read it.

use candle_core::cuda_backend::cudarc::driver::DeviceRepr;

use super::super::dropout::Dropout;

/// `Draw` of `dropout.h`.
#[repr(C)]
#[derive(Clone, Copy)]
pub(super) struct Draw {
    seed: [u32; 2],
    stream: [u32; 2],
    threshold: u32,
    kept: f32,
}

// SAFETY: plain numbers, laid out as in C.
unsafe impl DeviceRepr for Draw {}

impl Draw {
    /// Of which nothing is dropped.
    pub const NONE: Self = Draw { seed: [0; 2], stream: [0; 2], threshold: 0, kept: 1.0 };
}

impl From<Dropout> for Draw {
    fn from(dropout: Dropout) -> Self {
        let words = |number: u64| [number as u32, (number >> 32) as u32];
        Draw {
            seed: words(dropout.seed),
            stream: words(dropout.stream),
            threshold: dropout.threshold(),
            kept: dropout.kept_factor(),
        }
    }
}
