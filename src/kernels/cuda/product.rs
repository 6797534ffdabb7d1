//! Products of many rows, by cuBLAS.

use std::sync::Arc;

use candle_core::cuda_backend::WrapErr;
use candle_core::cuda_backend::cudarc::cublas::{result::gemm_strided_batched_ex, sys as cublas};
use candle_core::cuda_backend::cudarc::driver::DevicePtr;
use candle_core::cuda_backend::cudarc::driver::sys::CUdeviceptr;
use candle_core::{CudaStorage, Result};

use super::super::half_float::HalfFormat;
use super::launch::{Argument, ROW_THREADS};
use super::weight::{Kind, Weight};
use super::{Card, CardRows};

/// One side of a product, row-major; with `transposed` its columns take part as rows.
#[derive(Clone, Copy)]
pub(super) struct Factor {
    pub start: CUdeviceptr,
    pub kind: Kind,
    pub transposed: bool,
}

impl Card {
    /// `out [m, n] = a [m, k] b [k, n]` of each of `count` matrices: factors are narrowed to `kind` where they have
    /// more bits, sums are float32, and results what `out` says.
    ///
    /// # Errors
    /// What the driver reports.
    pub(super) fn product(
        self: &Arc<Self>,
        count: usize,
        (m, n, k): (usize, usize, usize),
        [a, b]: [Factor; 2],
        kind: Kind,
        (out, results): (CUdeviceptr, Kind),
    ) -> Result<()> {
        let narrow_a = self.narrowed(a, count * m * k, kind)?;
        let narrow_b = self.narrowed(b, count * k * n, kind)?;
        let start = |factor: Factor, narrow: &Option<CardRows>| {
            narrow.as_ref().map_or(factor.start, CardRows::pointer)
        };
        let operation = |factor: Factor| match factor.transposed {
            true => cublas::cublasOperation_t::CUBLAS_OP_T,
            false => cublas::cublasOperation_t::CUBLAS_OP_N,
        };
        // How far rows are apart.
        let leading = |factor: Factor, rows, columns| match factor.transposed {
            true => rows as i32,
            false => columns as i32,
        };
        let (one, zero) = (1.0_f32, 0.0_f32);
        self.stream.context().bind_to_thread().w()?;
        // cuBLAS counts columns first: out^T [n, m] = b^T a^T.
        // SAFETY: callers checked the sizes, and both constants outlive the call.
        let status = unsafe {
            gemm_strided_batched_ex(
                *self.blas.handle(),
                operation(b),
                operation(a),
                n as i32,
                m as i32,
                k as i32,
                (&raw const one).cast(),
                start(b, &narrow_b) as *const _,
                kind.of_cublas(),
                leading(b, k, n),
                (k * n) as i64,
                start(a, &narrow_a) as *const _,
                kind.of_cublas(),
                leading(a, m, k),
                (m * k) as i64,
                (&raw const zero).cast(),
                out as *mut _,
                results.of_cublas(),
                n as i32,
                (m * n) as i64,
                count as i32,
                cublas::cublasComputeType_t::CUBLAS_COMPUTE_32F,
                cublas::cublasGemmAlgo_t::CUBLAS_GEMM_DEFAULT,
            )
        };
        status.map_err(candle_core::Error::wrap)
    }

    /// Products of `count` matrices of float32 with as many in bfloat16, `[m, n]` each: `a [m, k]`, or `[k, m]` if it
    /// is transposed, and `b` likewise.
    ///
    /// # Errors
    /// What the driver reports.
    ///
    /// # Panics
    /// If the sizes do not fit.
    pub fn product_bfloat16(
        self: &Arc<Self>,
        count: usize,
        (m, n, k): (usize, usize, usize),
        [(a, a_transposed), (b, b_transposed)]: [(Weight, bool); 2],
    ) -> Result<CudaStorage> {
        assert!(a.len == count * m * k && b.len == count * k * n, "factors of unlike sizes");
        let out = self.floats(count * m * n)?;
        let a = Factor { start: a.start, kind: a.kind, transposed: a_transposed };
        let b = Factor { start: b.start, kind: b.kind, transposed: b_transposed };
        let to = (out.device_ptr(&self.stream).0, Kind::Float32);
        self.product(count, (m, n, k), [a, b], Kind::Bfloat16, to)?;
        Ok(CudaStorage::wrap_cuda_slice(out, self.device.clone()))
    }

    /// The numbers of a factor in fewer bits, where it has more: two of them take the place of a float.
    fn narrowed(
        self: &Arc<Self>,
        factor: Factor,
        count: usize,
        kind: Kind,
    ) -> Result<Option<CardRows>> {
        if factor.kind == kind {
            return Ok(None);
        }
        let narrow = self.rows(count.div_ceil(2), 1)?;
        let arguments = [
            Argument::Pointer(factor.start),
            Argument::Pointer(narrow.pointer()),
            Argument::count(count)?,
        ];
        let blocks = count.div_ceil(ROW_THREADS);
        let name = format!("narrow_{}", kind.name());
        self.launch(&name, (blocks, 1, 1), ROW_THREADS, 0, &arguments)?;
        Ok(Some(narrow))
    }

    /// `out = x`, rounded to `format`.
    ///
    /// # Errors
    /// What the driver reports.
    ///
    /// # Panics
    /// If the sizes do not fit.
    pub fn round(&self, x: &CardRows, format: HalfFormat, out: &mut CardRows) -> Result<()> {
        let count = x.rows() * x.width();
        assert_eq!(out.rows() * out.width(), count, "rows of unlike sizes");
        let arguments = [
            Argument::Pointer(x.pointer()),
            Argument::Pointer(out.pointer()),
            Argument::count(count)?,
        ];
        let name = format!("round_{}", Kind::from(format).name());
        self.launch(&name, (count.div_ceil(ROW_THREADS), 1, 1), ROW_THREADS, 0, &arguments)
    }
}
