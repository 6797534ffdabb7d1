//! Matrices and vectors on a card, as kernels read them.

use candle_core::cuda_backend::cudarc::cublas::sys as cublas;
use candle_core::cuda_backend::cudarc::driver::DevicePtr;
use candle_core::cuda_backend::cudarc::driver::sys::CUdeviceptr;
use candle_core::{CudaStorage, Layout, Result, Tensor};
use half::{bf16, f16};

use super::super::half_float::HalfFormat;
use super::{Card, storage};

/// A matrix or vector of floats of some type on a card.
#[derive(Clone, Copy)]
pub struct Weight {
    pub(super) start: CUdeviceptr,
    pub(super) kind: Kind,
    pub(super) len: usize,
    /// Of each row of a matrix in int8.
    pub(super) scales: Option<CUdeviceptr>,
}

/// What weights and caches are kept in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Float32,
    Float16,
    Bfloat16,
    /// float32 that products round.
    MixedFloat16,
    MixedBfloat16,
    /// With a scale for each row.
    Int8,
}

impl From<HalfFormat> for Kind {
    fn from(format: HalfFormat) -> Self {
        match format {
            HalfFormat::Float16 => Kind::Float16,
            HalfFormat::Bfloat16 => Kind::Bfloat16,
        }
    }
}

impl Kind {
    pub(super) fn name(self) -> &'static str {
        match self {
            Kind::Float32 => "float32",
            Kind::Float16 => "float16",
            Kind::Bfloat16 => "bfloat16",
            Kind::MixedFloat16 => "mixed_float16",
            Kind::MixedBfloat16 => "mixed_bfloat16",
            Kind::Int8 => "int8",
        }
    }

    /// In what it is multiplied.
    pub(super) fn multiplied(self) -> Self {
        match self {
            Kind::MixedFloat16 => Kind::Float16,
            Kind::MixedBfloat16 => Kind::Bfloat16,
            other => other,
        }
    }

    pub(super) fn of_cublas(self) -> cublas::cudaDataType {
        match self {
            Kind::Float32 => cublas::cudaDataType::CUDA_R_32F,
            Kind::Float16 => cublas::cudaDataType::CUDA_R_16F,
            Kind::Bfloat16 => cublas::cudaDataType::CUDA_R_16BF,
            Kind::MixedFloat16 | Kind::MixedBfloat16 | Kind::Int8 => {
                unreachable!("products by cuBLAS are in numbers that it knows")
            }
        }
    }
}

impl Weight {
    /// What a contiguous tensor holds, for as long as it lives; `None` for whole numbers.
    ///
    /// # Errors
    /// If the tensor is not contiguous.
    pub fn new(card: &Card, storage: &CudaStorage, layout: &Layout) -> Result<Option<Self>> {
        use candle_core::cuda_backend::CudaStorageSlice as Slice;
        let Some((first, end)) = layout.contiguous_offsets() else {
            candle_core::bail!("a kernel was given a tensor that is not contiguous");
        };
        let (start, kind, size) = match &storage.slice {
            Slice::F32(slice) => {
                (slice.device_ptr(&card.stream).0, Kind::Float32, size_of::<f32>())
            }
            Slice::F16(slice) => {
                (slice.device_ptr(&card.stream).0, Kind::Float16, size_of::<f16>())
            }
            Slice::BF16(slice) => {
                (slice.device_ptr(&card.stream).0, Kind::Bfloat16, size_of::<bf16>())
            }
            _ => return Ok(None),
        };
        let start = start + (first * size) as CUdeviceptr;
        Ok(Some(Weight { start, kind, len: end - first, scales: None }))
    }

    /// [`Self::new`] of a tensor.
    ///
    /// # Errors
    /// If it is not contiguous, or not on a card.
    pub fn of_tensor(card: &Card, tensor: &Tensor) -> Result<Option<Self>> {
        let (stored, layout) = tensor.storage_and_layout();
        Self::new(card, storage(&stored)?, layout)
    }

    /// Floats that lie somewhere.
    pub(super) fn of_floats(start: CUdeviceptr, len: usize) -> Self {
        Weight { start, kind: Kind::Float32, len, scales: None }
    }

    /// The same of float32, which products round to `format`.
    pub fn rounded_to(self, format: HalfFormat) -> Self {
        assert!(self.is_float32(), "only float32 is rounded");
        let kind = match format {
            HalfFormat::Float16 => Kind::MixedFloat16,
            HalfFormat::Bfloat16 => Kind::MixedBfloat16,
        };
        Weight { kind, ..self }
    }

    /// A matrix of bytes with the scales of its rows.
    ///
    /// # Errors
    /// If they are not contiguous.
    pub fn int8(
        card: &Card,
        (bytes, layout): (&CudaStorage, &Layout),
        scales: Weight,
    ) -> Result<Self> {
        let Some((first, end)) = layout.contiguous_offsets() else {
            candle_core::bail!("a kernel was given a tensor that is not contiguous");
        };
        assert!(scales.is_float32(), "scales are float32");
        let start = bytes.as_cuda_slice::<u8>()?.device_ptr(&card.stream).0 + first as CUdeviceptr;
        Ok(Weight { start, kind: Kind::Int8, len: end - first, scales: Some(scales.start) })
    }

    /// Whether kernels multiply so many rows of `inputs` by it.
    pub fn takes(&self, rows: usize, inputs: usize) -> bool {
        /// Beyond, there are better ways than to read the weights again and again.
        const MOST_ROWS: usize = 256;
        self.kind != Kind::Int8 || inputs.is_multiple_of(16) && rows <= MOST_ROWS
    }

    /// How many numbers it has.
    #[expect(clippy::len_without_is_empty, reason = "no matrix is empty")]
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether it has bfloat16.
    pub fn is_bfloat16(&self) -> bool {
        self.kind == Kind::Bfloat16
    }

    /// Where its float32 are.
    pub(super) fn floats(self) -> CUdeviceptr {
        assert!(self.is_float32(), "a kernel of float32 was given {:?}", self.kind);
        self.start
    }

    /// Whether it has float32.
    pub fn is_float32(&self) -> bool {
        self.kind == Kind::Float32
    }
}
