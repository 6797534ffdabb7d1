//! One function for each kernel: it checks what the kernel takes for granted, and launches it.

use std::sync::Arc;

use candle_core::Result;
use candle_core::cuda_backend::WrapErr;
use candle_core::cuda_backend::cudarc::driver::sys::CUdeviceptr;
use candle_core::cuda_backend::cudarc::driver::{LaunchConfig, PushKernelArg};

use super::dropout::Draw;
use super::linear::LayersParameter;
use super::optimizer::Four;
use super::weight::Weight;
use super::{Card, CardRows, Numbers};

/// Threads of a warp.
pub(super) const WARP: usize = 32;
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
    Long(u64),
    Draw(Draw),
    Four(Four),
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
        let mut builder = self.launches_on().launch_builder(&function);
        for argument in arguments {
            match argument {
                Argument::Pointer(pointer) => builder.arg(pointer),
                Argument::Int(number) => builder.arg(number),
                Argument::Float(number) => builder.arg(number),
                Argument::Layers(layers) => builder.arg(layers),
                Argument::Long(number) => builder.arg(number),
                Argument::Draw(draw) => builder.arg(draw),
                Argument::Four(numbers) => builder.arg(numbers),
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
        unsafe { memset_d8_async(start, 0, 4 * floats, self.launches_on().cu_stream()) }.w()
    }
}
