//! BART as the paper draws it (Lewis et al. 2019, arXiv:1910.13461), written once in tensors; it
//! calls [`crate::ops`] and never asks which device it runs on.
//!
//! Sequences are ragged: rows of all sequences lie end to end (a [`Batch`]), and only rows that
//! are needed exist.

pub mod adapters;
pub mod attention;
pub mod backbone;
pub mod batch;
pub mod cache;
pub mod classification_head;
pub mod cross_attention;
pub mod decoder;
pub mod embedding;
pub mod encoder;
pub mod layers;
pub mod low_rank;
pub mod parameter;
pub mod pass;
pub mod precision;
pub mod recomputed;
pub mod steps;

pub use backbone::BartModel;
pub use batch::Batch;
pub use cache::{CachedRows, DecoderCache};
pub use parameter::{Initialisation, Parameter};
pub use pass::{Pass, StopCheck};
pub use precision::Precision;
pub use steps::{Leaves, Left, Passed, Steps};
