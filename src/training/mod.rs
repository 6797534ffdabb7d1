//! Loss, optimizers and the training step.

pub mod gradients;
pub mod optimizer;
pub mod step;
