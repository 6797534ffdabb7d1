//! Checkpoint files: one file a format. Each reader says where a file keeps its tensors
//! ([`StoredTensor`]), after it has checked that they lie within the file; [`checkpoint`] joins the
//! files of a checkpoint and fills a model. Names are mapped in `names.rs`, token tables in `tables.rs`; what does not fit the
//! model is listed whole in one error.

pub mod adapter_file;
pub mod checkpoint;
pub mod hdf5;
pub mod names;
pub mod pickle;
pub mod safetensors;
pub mod torch;

mod stored;
mod tables;
mod zip;

#[cfg(test)]
mod testing;
#[cfg(test)]
mod tests;

pub use stored::{StoredTensor, Values};
