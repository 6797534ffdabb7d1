//! Loss, optimizers and the training step.
