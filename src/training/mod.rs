//! Loss, optimizers and the training step.

pub mod classification;
pub mod gradients;
pub mod loss;
pub mod optimizer;
pub mod step;
