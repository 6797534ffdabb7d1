//! Loss, optimizers and the training step.

pub mod optimizer;
pub mod step;
