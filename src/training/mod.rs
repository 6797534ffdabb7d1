//! Loss, optimizers and the training step.

pub mod classification;
pub mod gradients;
pub mod loss;
#[cfg(feature = "cuda")]
mod on_card;
pub mod optimizer;
pub mod step;
