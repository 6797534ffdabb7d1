//! One function for each kernel: it checks what the kernel takes for granted, and launches it.

use std::sync::Arc;

use candle_core::cuda_backend::WrapErr;
use candle_core::cuda_backend::cudarc::cublas::{result::gemm_ex, sys as cublas};
use candle_core::cuda_backend::cudarc::driver::sys::CUdeviceptr;
use candle_core::cuda_backend::cudarc::driver::{
    DevicePtr, DeviceRepr, LaunchConfig, PushKernelArg,
};
use candle_core::{CudaStorage, Layout, Result};
use half::{bf16, f16};

use super::super::half_float::HalfFormat;
use super::{Card, CardRows, Numbers};

/// Threads of a warp.
pub(super) const WARP: usize = 32;
/// Warps of a block of `linear.cu`.
const WARPS: usize = 4;
/// Rows from which on cuBLAS multiplies: below, reading the weights is the limit.
const MANY_ROWS: usize = 17;
/// Inputs that a lane of `linear.cu` reads at a time.
const LANE_INPUTS: usize = 8;
/// Threads of a block that has one row.
pub(super) const ROW_THREADS: usize = 256;
/// Floats of shared memory that every kernel may have.
pub(super) const SHARED_FLOATS: usize = 12 << 10;
/// The widest rows that norms take.
pub const WIDEST: usize = SHARED_FLOATS - WARP;

/// An argument of a kernel.
#[derive(Clone, Copy)]
pub(super) enum Argument {
    Pointer(CUdeviceptr),
    Int(i32),
    Float(f32),
    Layers(LayersParameter),
}

/// `Layers` of `linear.cu`.
#[repr(C)]
#[derive(Clone, Copy, Default)]
pub(super) struct LayersParameter([LayerParameter; 3]);

/// `Layer` of `linear.cu`.
#[repr(C)]
#[derive(Clone, Copy, Default)]
struct LayerParameter {
    weight: CUdeviceptr,
    scales: CUdeviceptr,
    bias: CUdeviceptr,
    out: CUdeviceptr,
    outputs: i32,
}

// SAFETY: plain numbers, laid out as in C.
unsafe impl DeviceRepr for LayersParameter {}

/// A matrix or vector of floats of some type on a card.
#[derive(Clone, Copy)]
pub struct Weight {
    pub(super) start: CUdeviceptr,
    pub(super) kind: Kind,
    len: usize,
    /// Of each row of a matrix in int8.
    scales: Option<CUdeviceptr>,
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
    fn multiplied(self) -> Self {
        match self {
            Kind::MixedFloat16 => Kind::Float16,
            Kind::MixedBfloat16 => Kind::Bfloat16,
            other => other,
        }
    }

    fn of_cublas(self) -> cublas::cudaDataType {
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

    /// Whether it has float32.
    pub fn is_float32(&self) -> bool {
        self.kind == Kind::Float32
    }
}

/// A linear layer of a launch.
pub struct Layer<'a> {
    /// `[outputs, inputs]`
    pub weight: Weight,
    /// `[outputs]`, float32.
    pub bias: Option<Weight>,
    /// `[rows, outputs]`
    pub out: &'a mut CardRows,
}

/// The best of each row of scores.
#[derive(Debug, Default)]
pub struct Best {
    /// `[rows, count]`, the best first; an id of `u32::MAX` stands for none.
    pub found: Vec<(f32, u32)>,
    /// The logarithm of the sum of each row's exponentials.
    pub log_sums: Vec<f32>,
    /// Whether a score is not a number, or infinite.
    pub broken: bool,
}

impl Card {
    /// Launches a kernel: `grid` blocks of `threads` threads and `shared` floats.
    ///
    /// The arguments must be those of the kernel, and what they point to as large as it takes them to be.
    pub(super) fn launch(
        &self,
        name: &str,
        grid: (usize, usize, usize),
        threads: usize,
        shared: usize,
        arguments: &[Argument],
    ) -> Result<()> {
        if grid.0 * grid.1 * grid.2 == 0 {
            return Ok(());
        }
        if shared > SHARED_FLOATS {
            candle_core::bail!(
                "{name} needs {shared} floats of shared memory, there are {SHARED_FLOATS}"
            );
        }
        let function = self.function(name)?;
        let mut builder = self.stream.launch_builder(&function);
        for argument in arguments {
            match argument {
                Argument::Pointer(pointer) => builder.arg(pointer),
                Argument::Int(number) => builder.arg(number),
                Argument::Float(number) => builder.arg(number),
                Argument::Layers(layers) => builder.arg(layers),
            };
        }
        let config = LaunchConfig {
            grid_dim: (grid.0 as u32, grid.1 as u32, grid.2 as u32),
            block_dim: (threads as u32, 1, 1),
            shared_mem_bytes: (4 * shared) as u32,
        };
        // SAFETY: the functions of this folder, who alone can call this, check what their kernels take
        // for granted; all memory lives until the stream has come past its last use, since it comes
        // back to a pool that only this stream is served from.
        unsafe { builder.launch(config) }.w()?;
        Ok(())
    }

    /// Linear layers over the same inputs `x`, with GELU behind them if it is asked for.
    ///
    /// # Errors
    /// What the driver reports.
    ///
    /// # Panics
    /// If sizes do not fit together (so do all functions here).
    pub fn linear(
        self: &Arc<Self>,
        x: &CardRows,
        layers: &mut [Layer<'_>],
        with_gelu: bool,
    ) -> Result<()> {
        let (rows, inputs) = (x.rows(), x.width());
        assert!(layers.len() <= 3, "at most three layers");
        for Layer { weight, bias, out } in layers.iter() {
            let outputs = out.width();
            assert_eq!(weight.len, outputs * inputs, "`weight` is not [outputs, inputs]");
            assert!(bias.is_none_or(|bias| bias.len == outputs && bias.is_float32()), "`bias`");
            assert_eq!(out.rows(), rows, "`out` is not [rows, outputs]");
        }
        let alike = layers.iter().all(|layer| layer.weight.kind == layers[0].weight.kind);
        let is_int8 = layers.iter().any(|layer| layer.weight.kind == Kind::Int8);
        if alike && (is_int8 || rows < MANY_ROWS && inputs.is_multiple_of(LANE_INPUTS)) {
            return self.linear_few(x, layers, with_gelu);
        }
        layers.iter_mut().try_for_each(|layer| self.linear_many(x, layer, with_gelu))
    }

    fn linear_few(
        self: &Arc<Self>,
        x: &CardRows,
        layers: &mut [Layer<'_>],
        with_gelu: bool,
    ) -> Result<()> {
        let Some(first) = layers.first() else { return Ok(()) };
        let (rows, kind) = (x.rows(), first.weight.kind);
        let (tile, outputs) = match rows {
            0 | 1 => (1, 1),
            2 => (2, 2),
            3 | 4 => (4, 4),
            _ => (8, 4),
        };
        let mut parameter = LayersParameter::default();
        for (to, layer) in parameter.0.iter_mut().zip(layers.iter()) {
            *to = LayerParameter {
                weight: layer.weight.start,
                scales: layer.weight.scales.unwrap_or_default(),
                bias: layer.bias.map_or(0, |bias| bias.start),
                out: layer.out.pointer(),
                outputs: layer.out.width() as i32,
            };
        }
        let most = layers.iter().map(|layer| layer.out.width()).max().unwrap_or(0);
        let grid = (most.div_ceil(WARPS * outputs), layers.len(), rows.div_ceil(tile));
        let quantized = (kind == Kind::Int8).then(|| self.quantize(x)).transpose()?;
        let inputs = match &quantized {
            None => vec![Argument::Pointer(x.pointer())],
            Some(both) => both.iter().map(|part| Argument::Pointer(part.pointer())).collect(),
        };
        let arguments = [
            Argument::Int(rows as i32),
            Argument::Int(x.width() as i32),
            Argument::Layers(parameter),
            Argument::Int(i32::from(with_gelu)),
        ];
        let arguments = [inputs, arguments.to_vec()].concat();
        self.launch(&format!("linear_{}_{tile}", kind.name()), grid, WARPS * WARP, 0, &arguments)
    }

    /// Rows in whole numbers of 8 bits, and the scale of each.
    fn quantize(self: &Arc<Self>, x: &CardRows) -> Result<[CardRows; 2]> {
        let (rows, width) = (x.rows(), x.width());
        let both = [self.rows((rows * width).div_ceil(4), 1)?, self.rows(rows, 1)?];
        let arguments = [
            Argument::Pointer(x.pointer()),
            Argument::Int(width as i32),
            Argument::Pointer(both[0].pointer()),
            Argument::Pointer(both[1].pointer()),
        ];
        self.launch("quantize_rows", (rows, 1, 1), ROW_THREADS, 0, &arguments)?;
        Ok(both)
    }

    /// Numbers of float32 in fewer bits: two of them take the place of a float.
    fn narrow(self: &Arc<Self>, from: CUdeviceptr, count: usize, kind: Kind) -> Result<CardRows> {
        let narrow = self.rows(count.div_ceil(2), 1)?;
        let arguments = [
            Argument::Pointer(from),
            Argument::Pointer(narrow.pointer()),
            Argument::Int(count as i32),
        ];
        let blocks = count.div_ceil(ROW_THREADS);
        let name = format!("narrow_{}", kind.name());
        self.launch(&name, (blocks, 1, 1), ROW_THREADS, 0, &arguments)?;
        Ok(narrow)
    }

    /// By cuBLAS: inputs in the weight's numbers, sums and results in float32.
    fn linear_many(
        self: &Arc<Self>,
        x: &CardRows,
        layer: &mut Layer<'_>,
        with_gelu: bool,
    ) -> Result<()> {
        let (rows, inputs, outputs) = (x.rows(), x.width(), layer.out.width());
        if rows == 0 || outputs == 0 {
            return Ok(());
        }
        let kind = layer.weight.kind.multiplied();
        let narrowed = |from, count, is_wide: bool| match kind {
            Kind::Float32 => Ok(None),
            _ if is_wide => self.narrow(from, count, kind).map(Some),
            _ => Ok(None),
        };
        let weight = narrowed(layer.weight.start, layer.weight.len, kind != layer.weight.kind)?;
        let x_narrow = narrowed(x.pointer(), rows * inputs, true)?;
        let from = x_narrow.as_ref().map_or(x.pointer(), CardRows::pointer);
        let weight = weight.as_ref().map_or(layer.weight.start, CardRows::pointer);
        let (one, zero) = (1.0_f32, 0.0_f32);
        self.stream.context().bind_to_thread().w()?;
        // cuBLAS counts columns first: out^T [outputs, rows] = weight [outputs, inputs] x^T.
        // SAFETY: the sizes were checked, and both constants outlive the call.
        let status = unsafe {
            gemm_ex(
                *self.blas.handle(),
                cublas::cublasOperation_t::CUBLAS_OP_T,
                cublas::cublasOperation_t::CUBLAS_OP_N,
                outputs as i32,
                rows as i32,
                inputs as i32,
                (&raw const one).cast(),
                weight as *const _,
                kind.of_cublas(),
                inputs as i32,
                from as *const _,
                kind.of_cublas(),
                inputs as i32,
                (&raw const zero).cast(),
                layer.out.pointer() as *mut _,
                cublas::cudaDataType::CUDA_R_32F,
                outputs as i32,
                cublas::cublasComputeType_t::CUBLAS_COMPUTE_32F,
                cublas::cublasGemmAlgo_t::CUBLAS_GEMM_DEFAULT,
            )
        };
        status.map_err(candle_core::Error::wrap)?;
        if layer.bias.is_none() && !with_gelu {
            return Ok(());
        }
        let arguments = [
            Argument::Pointer(layer.out.pointer()),
            Argument::Pointer(layer.bias.map_or(0, |bias| bias.start)),
            Argument::Int(outputs as i32),
            Argument::Int(i32::from(with_gelu)),
        ];
        self.launch("add_bias", (rows, 1, 1), ROW_THREADS, 0, &arguments)
    }

    /// `out = LN(x + residual) * gamma + beta`
    ///
    /// # Errors
    /// What the driver reports.
    pub fn add_norm(
        &self,
        x: &CardRows,
        residual: Option<&CardRows>,
        [gamma, beta]: [Weight; 2],
        out: &mut CardRows,
    ) -> Result<()> {
        let (rows, width) = (x.rows(), x.width());
        let fits = |other: &CardRows| (other.rows(), other.width()) == (rows, width);
        assert!(residual.is_none_or(fits) && fits(out), "rows of unlike sizes");
        assert!([gamma, beta].iter().all(|w| w.is_float32() && w.len == width), "gain and bias");
        let arguments = [
            Argument::Pointer(x.pointer()),
            Argument::Pointer(residual.map_or(0, CardRows::pointer)),
            Argument::Int(width as i32),
            Argument::Pointer(gamma.start),
            Argument::Pointer(beta.start),
            Argument::Pointer(out.pointer()),
        ];
        self.launch("add_norm", (rows, 1, 1), ROW_THREADS, width + WARP, &arguments)
    }

    /// `out = scale * table[tokens] + positions[places]`
    ///
    /// # Errors
    /// What the driver reports.
    pub fn embed(
        &self,
        [table, positions]: [Weight; 2],
        [tokens, places]: [Numbers; 2],
        scale: f32,
        out: &mut CardRows,
    ) -> Result<()> {
        let (rows, width) = (out.rows(), out.width());
        assert!(tokens.count == rows && places.count == rows, "another number of tokens");
        assert!(table.len.is_multiple_of(width) && positions.len.is_multiple_of(width), "tables");
        assert!(positions.is_float32(), "positions");
        let scales = table.scales.map(Argument::Pointer);
        let arguments = [
            Argument::Pointer(positions.start),
            Argument::Pointer(tokens.start),
            Argument::Pointer(places.start),
            Argument::Float(scale),
            Argument::Int(width as i32),
            Argument::Pointer(out.pointer()),
        ];
        let table_is = [Argument::Pointer(table.start)];
        let arguments: Vec<_> = table_is.into_iter().chain(scales).chain(arguments).collect();
        let name = format!("embed_{}", table.kind.name());
        self.launch(&name, (rows, 1, 1), ROW_THREADS, 0, &arguments)
    }

    /// The `count` best of the first `limit` of each row of scores.
    ///
    /// # Errors
    /// What the card reports of this and of the work before.
    pub fn best(
        self: &Arc<Self>,
        scores: &CardRows,
        limit: usize,
        count: usize,
        best: &mut Best,
    ) -> Result<()> {
        /// Scores of a part: four for each thread.
        const PART: usize = 1024;
        let rows = scores.rows();
        assert!(limit <= scores.width() && count > 0, "more scores are wanted than there are");
        let parts = limit.div_ceil(PART);
        let candidates = self.rows(rows, 2 * parts * count)?;
        let sums = self.rows(rows, 2 * parts)?;
        // The results lie together, and come in one copy: what is broken, the sums, the best.
        let results = self.rows(1, 1 + rows + 2 * rows * count)?;
        let at = |floats: usize| results.pointer() + (4 * floats) as CUdeviceptr;
        self.zero(results.pointer(), 1)?;
        let arguments = [
            Argument::Pointer(scores.pointer()),
            Argument::Int(scores.width() as i32),
            Argument::Int(limit as i32),
            Argument::Int(PART as i32),
            Argument::Int(count as i32),
            Argument::Pointer(candidates.pointer()),
            Argument::Pointer(sums.pointer()),
            Argument::Pointer(at(0)),
        ];
        let shared = PART + 2 * WARP;
        self.launch("best_of_part", (parts, rows, 1), ROW_THREADS, shared, &arguments)?;
        let arguments = [
            Argument::Pointer(candidates.pointer()),
            Argument::Pointer(sums.pointer()),
            Argument::Int(parts as i32),
            Argument::Int(count as i32),
            Argument::Pointer(at(1 + rows)),
            Argument::Pointer(at(1)),
        ];
        let shared = 2 * parts * count + 2 * WARP;
        self.launch("best_of_row", (rows, 1, 1), ROW_THREADS, shared, &arguments)?;
        let floats = results.download()?;
        best.broken = floats[0].to_bits() != 0;
        best.log_sums.clear();
        best.log_sums.extend_from_slice(&floats[1..=rows]);
        best.found.clear();
        let pairs = floats[1 + rows..].as_chunks::<2>().0;
        best.found.extend(pairs.iter().map(|[score, id]| (*score, id.to_bits())));
        Ok(())
    }

    /// Sets floats to 0.
    fn zero(&self, start: CUdeviceptr, floats: usize) -> Result<()> {
        use candle_core::cuda_backend::cudarc::driver::result::memset_d8_async;
        self.stream.context().bind_to_thread().w()?;
        // SAFETY: the caller's memory has so many floats.
        unsafe { memset_d8_async(start, 0, 4 * floats, self.stream.cu_stream()) }.w()
    }
}
