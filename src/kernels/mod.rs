//! Fast loops over slices: slices in, slices out. This layer knows no model, no tensor library and
//! no Python, and it is the only one that may contain `unsafe`.
//!
//! How to read it, from the bottom:
//!
//! - [`arch`] gives the vector primitives of each processor, [`isa`] the trait over them, the choice
//!   among them and the elementary functions built on them.
//! - [`team`] is the one set of worker threads; [`memory`] lends each thread scratch space,
//!   [`pool`] keeps the buffers of results.
//! - [`pack`] is the one layout in which weights are stored, [`gemm`] the products over it (`gemm_operands` packs what they multiply);
//!   [`half_float`] stores them in 16 bits (`element` widens these in registers, `pairs` multiplies them two by two), [`int8`] in 8, with its own products.
//! - `lanes` and `parallel` split rows into vectors and work into parts; on them stand
//!   [`layer_norm`], [`gelu`], [`softmax`], [`cross_entropy`], [`dropout`], [`elementwise`],
//!   [`optimizer`], [`adafactor`], and [`attention`] with its cached form, [`kv_cache`].
//! - [`limits`] measures what the machine could do at best, for the benches.
//!
//! Every function has the same bits for any number of threads and for any number of rows: each sum
//! has one order, fixed by the instruction set alone.

pub mod adafactor;
pub mod arch;
pub mod attention;
pub mod best;
#[cfg(test)]
pub mod counting_allocator;
pub mod cross_entropy;
#[cfg(feature = "cuda")]
pub mod cuda;
mod disjoint;
pub mod dropout;
mod element;
pub mod elementwise;
pub mod gelu;
pub mod gemm;
mod gemm_blocks;
mod gemm_microkernel;
mod gemm_operands;
#[cfg(test)]
mod guard_tests;
pub mod half_float;
pub mod int8;
mod int8_product;
pub mod int8_tile;
pub mod isa;
pub mod kv_cache;
mod lanes;
pub mod lasting;
pub mod layer_norm;
pub mod limits;
pub mod memory;
pub mod optimizer;
pub mod pack;
mod pairs;
pub(crate) mod parallel;
pub mod pool;
pub mod screen;
pub mod softmax;
pub mod team;
#[cfg(test)]
pub mod testing;

use crate::error::Result;

/// Reads `BART_FAST_ISA` and `BART_FAST_NUM_THREADS` once, before the first kernel runs.
///
/// # Errors
/// [`Error::Argument`](crate::error::Error::Argument) naming the variable whose value cannot be
/// used. A program that never calls this gets the defaults in place of such a value.
pub fn configure() -> Result<()> {
    isa::configure()?;
    team::configure()
}
