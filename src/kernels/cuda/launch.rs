//! One function for each kernel: it checks what the kernel takes for granted, and launches it.

use candle_core::Result;
use candle_core::cuda_backend::WrapErr;
use candle_core::cuda_backend::cudarc::driver::sys::CUdeviceptr;
use candle_core::cuda_backend::cudarc::driver::{LaunchConfig, PushKernelArg};

use super::beams::BeamsParameter;
use super::choose::ChoicesParameter;
use super::dropout::Draw;
use super::linear::LayersParameter;
use super::optimizer::Four;
use super::softmax::WeightsParameter;
use super::weight::{Kind, Weight};
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
    Beams(BeamsParameter),
    Choices(ChoicesParameter),
    Weights(WeightsParameter),
}

impl Argument {
    /// A number of numbers, which kernels count in 31 bits.
    pub(super) fn count(count: usize) -> Result<Self> {
        match i32::try_from(count) {
            Ok(count) => Ok(Argument::Int(count)),
            Err(_) => candle_core::bail!("{count} numbers are more than a kernel counts"),
        }
    }
}

/// Whether the kernel for many rows norms these.
fn norms_many(x: &CardRows) -> bool {
    /// Rows from which on they are many.
    const MANY: usize = 256;
    /// The widest rows that it takes.
    const WIDEST_OF_MANY: usize = 1024;
    x.rows() >= MANY && x.width() <= WIDEST_OF_MANY && x.width().is_multiple_of(8)
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
                Argument::Beams(beams) => builder.arg(beams),
                Argument::Choices(choices) => builder.arg(choices),
                Argument::Weights(weights) => builder.arg(weights),
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

    /// Whether [`Self::add_norm`] takes rows as they are.
    pub fn norms(x: &CardRows, residual: Option<&CardRows>) -> bool {
        let residual = residual.map_or(Kind::Float32, CardRows::kind);
        let all_float32 = x.is_float32() && residual == Kind::Float32;
        all_float32 && x.width() <= WIDEST || !x.is_float32() && norms_many(x)
    }

    /// `out = LN(x + residual) * gamma + beta`, in the numbers of `x`.
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
        assert!(Self::norms(x, residual) && out.kind() == x.kind(), "numbers of another kind");
        let rows_of =
            [Argument::Pointer(x.start()), Argument::Pointer(residual.map_or(0, CardRows::start))];
        let others = [
            Argument::Int(width as i32),
            Argument::Pointer(gamma.start),
            Argument::Pointer(beta.start),
            Argument::Pointer(out.start()),
        ];
        if norms_many(x) {
            let arguments = [&rows_of[..], &[Argument::Int(rows as i32)], &others].concat();
            let kinds = [x.kind(), residual.map_or(x.kind(), CardRows::kind)].map(Kind::name);
            let name = format!("add_norm_many_{}_{}", kinds[0], kinds[1]);
            let grid = (rows.div_ceil(ROW_THREADS / WARP), 1, 1);
            return self.launch(&name, grid, ROW_THREADS, 0, &arguments);
        }
        let arguments = [&rows_of[..], &others].concat();
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
}
