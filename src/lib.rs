//! BART sequence-to-sequence models: the backbone on candle, decoding with caches, samplers and
//! the training step. `docs/design.md` shows the house; this file is its door.

#![deny(unsafe_code, missing_docs)]

pub mod config;
pub mod error;
pub mod generation;
#[allow(unsafe_code)] // The only place that may: see docs/design.md.
pub mod kernels;
pub mod model;
pub mod ops;
pub mod random;
pub mod text;
pub mod training;
pub mod weights;

#[cfg(feature = "python")]
mod python;

pub use error::{Error, Result};

/// Tokenizing makes many small blocks, for which glibc's allocator takes long. Weights have memory of their own.
#[cfg(not(test))]
#[global_allocator]
static ALLOCATOR: kernels::lasting::Allocator = kernels::lasting::Allocator;

#[cfg(test)]
#[global_allocator]
static ALLOCATOR: kernels::counting_allocator::CountingAllocator =
    kernels::counting_allocator::CountingAllocator;
