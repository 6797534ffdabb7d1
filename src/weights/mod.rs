//! Checkpoint files: one file a format. Names are mapped in `names.rs`; what does not fit the
//! model is listed whole in one error.

pub mod names;
pub mod safetensors;
