//! The operations of the paper, one file each: our CPU kernel, candle's portable way (the
//! reference, and what CUDA and Metal run) and the backward of both.
//!
//! Which way is taken depends on where the tensors live and on one switch; the model never asks.

pub mod activation;
pub mod add;
pub mod add_layer_norm;
pub mod attention;
#[cfg(feature = "cuda")]
mod card;
#[cfg(feature = "cuda")]
mod card_product;
#[cfg(feature = "cuda")]
mod card_training;
pub mod choices;
pub mod cross_entropy;
pub mod dropout;
pub mod embed;
mod frozen_linear;
pub mod gelu;
pub mod gradient;
pub mod head;
pub mod head_loss;
pub mod hidden;
pub mod int8;
pub mod kv_store;
pub mod linear;
mod padded;
pub mod place;
pub mod recompute;
pub mod recording;
pub mod round;
pub mod rows;
pub mod scale;
pub mod screen;
pub mod step_inputs;
pub mod weight;

#[cfg(test)]
pub(crate) mod testing;

use std::sync::atomic::{AtomicU8, Ordering};

use candle_core::{CpuStorage, DType, Layout, Result, Storage, Tensor};

use crate::kernels::team;

/// How operations on CPU tensors are computed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Way {
    /// Our fused kernels (the default on the CPU).
    Kernel,
    /// candle's own operations only: what CUDA and Metal run, and the reference in tests.
    Portable,
}

const UNSET: u8 = 0;
const KERNEL: u8 = 1;
const PORTABLE: u8 = 2;
static WAY: AtomicU8 = AtomicU8::new(UNSET);

/// Chooses how operations on CPU tensors are computed, for the whole process.
pub fn set_way(way: Way) {
    let code = if way == Way::Portable { PORTABLE } else { KERNEL };
    WAY.store(code, Ordering::Relaxed);
}

/// The way in force: what [`set_way`] said, else `BART_FAST_WAY=portable`, else kernels.
pub fn way() -> Way {
    #[cfg(test)]
    if let Some(way) = testing::forced() {
        return way;
    }
    match WAY.load(Ordering::Relaxed) {
        KERNEL => Way::Kernel,
        PORTABLE => Way::Portable,
        _ => {
            let way = from_environment().unwrap_or(Way::Kernel);
            set_way(way);
            way
        }
    }
}

/// The environment variable that chooses the way.
const VARIABLE: &str = "BART_FAST_WAY";

/// Runs `work` on every item, on as many threads as there are.
pub fn for_each<T: Send>(items: &mut [T], work: impl Fn(&mut T) + Sync) {
    team::run_chunks(items, 1, &|_, items| items.iter_mut().for_each(&work));
}

/// Reads `BART_FAST_WAY` once, before the first operation runs.
///
/// # Errors
/// `Argument` if its value is not known. A program that never calls this gets the kernels then.
pub fn configure() -> crate::error::Result<()> {
    set_way(from_environment()?);
    Ok(())
}

/// What `BART_FAST_WAY` asks for: `kernel` (also where it is not set) or `portable`.
fn from_environment() -> crate::error::Result<Way> {
    match std::env::var(VARIABLE).as_deref() {
        Err(_) | Ok("" | "kernel") => Ok(Way::Kernel),
        Ok("portable") => Ok(Way::Portable),
        Ok(other) => Err(crate::error::Error::argument(
            VARIABLE,
            format!(
                "received `{other}`, known are `kernel` and `portable`\nhint: unset {VARIABLE}"
            ),
        )),
    }
}

/// Whether our CPU kernels take this operation.
pub(crate) fn use_kernels(x: &Tensor) -> bool {
    way() == Way::Kernel && x.device().is_cpu() && x.dtype() == DType::F32
}

/// Whether our kernels, of the CPU or of a card, take this operation where gradients may be wanted.
pub(crate) fn have_kernels(x: &Tensor) -> bool {
    #[cfg(feature = "cuda")]
    if card_training::takes(x) {
        return true;
    }
    use_kernels(x)
}

/// The floats of a contiguous CPU operand.
pub(crate) fn floats<'a>(storage: &'a CpuStorage, layout: &Layout) -> Result<&'a [f32]> {
    slice(storage.as_slice()?, layout)
}

/// What `layout`, which must be contiguous, means of a whole storage.
fn slice<'a, T>(all: &'a [T], layout: &Layout) -> Result<&'a [T]> {
    match layout.contiguous_offsets() {
        Some((start, end)) => Ok(&all[start..end]),
        None => candle_core::bail!("a kernel was given a tensor that is not contiguous"),
    }
}

/// Calls `work` with the floats of contiguous CPU tensors.
pub(crate) fn with_floats<const N: usize, R>(
    tensors: [&Tensor; N],
    work: impl FnOnce([&[f32]; N]) -> R,
) -> Result<R> {
    let guards = tensors.map(|tensor| tensor.storage_and_layout());
    let mut slices: [&[f32]; N] = [&[]; N];
    for (slot, (storage, layout)) in slices.iter_mut().zip(&guards) {
        *slot = floats(on_cpu(storage)?, layout)?;
    }
    Ok(work(slices))
}

/// The storage of a CPU tensor.
fn on_cpu(storage: &Storage) -> Result<&CpuStorage> {
    match storage {
        Storage::Cpu(storage) => Ok(storage),
        _ => candle_core::bail!("a CPU kernel was given a tensor of another device"),
    }
}

/// Whether a backward pass will come through here.
pub(crate) fn wants_gradient(tensors: &[&Tensor]) -> bool {
    tensors.iter().any(|tensor| tensor.track_op())
}

/// A CPU tensor of fresh floats.
pub(crate) fn tensor(data: Vec<f32>, shape: impl Into<candle_core::Shape>) -> Result<Tensor> {
    Tensor::from_vec(data, shape.into(), &candle_core::Device::Cpu)
}
