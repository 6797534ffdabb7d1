//! Where the gradient of a weight gathers.
//!
//! candle's backward adds every gradient to zeros that it makes for the purpose: for a weight that
//! is used once, two passes over memory and two allocations for nothing, which cost a quarter of a
//! training step. The backward of an operation that reads a [`super::weight::Weight`] writes into
//! the weight's own buffer instead, which is kept from step to step, and reports none to candle.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use candle_core::{Result, Tensor};

/// A buffer for the gradient of one weight, in the layout of the weight. Clones share it.
#[derive(Debug, Clone, Default)]
pub struct GradientBuffer(Arc<Mutex<State>>);

#[derive(Debug, Default)]
struct State {
    values: Vec<f32>,
    /// Whether `values` is of the backward pass that runs; else it is left from an earlier one.
    written: bool,
    /// On a card they stay there.
    on_card: Option<Tensor>,
}

impl GradientBuffer {
    /// Forgets what an earlier backward pass wrote; the memory is kept.
    pub fn clear(&self) {
        let mut state = self.lock();
        state.written = false;
        state.on_card = None;
    }

    /// Adds a gradient that stays on its card.
    pub(super) fn add_tensor(&self, gradient: &Tensor) -> Result<()> {
        let mut state = self.lock();
        let sum = match &state.on_card {
            Some(sum) => (sum + gradient)?,
            None => gradient.clone(),
        };
        state.on_card = Some(sum);
        Ok(())
    }

    /// The gradient on a card, if a backward pass left one since [`Self::clear`].
    pub fn tensor(&self) -> Option<Tensor> {
        self.lock().on_card.clone()
    }

    /// Adds a gradient of `len` values that `write` computes, overwriting what it is given.
    pub(super) fn add_dense(&self, len: usize, write: impl FnOnce(&mut [f32])) {
        let mut state = self.lock();
        if state.written {
            let mut more = vec![0.0; len];
            write(&mut more);
            state.values.iter_mut().zip(&more).for_each(|(sum, x)| *sum += x);
            return;
        }
        state.values.resize(len, 0.0);
        write(&mut state.values);
        state.written = true;
    }

    /// Adds a gradient of `len` values, most of them zero, which `add` adds to what it is given.
    pub(super) fn add_sparse(&self, len: usize, add: impl FnOnce(&mut [f32])) {
        let mut state = self.lock();
        if !state.written {
            state.values.clear();
            state.values.resize(len, 0.0);
            state.written = true;
        }
        add(&mut state.values);
    }

    /// Calls `read` with the gradient, if a backward pass wrote one since [`Self::clear`].
    pub fn with<R>(&self, read: impl FnOnce(&[f32]) -> R) -> Option<R> {
        let state = self.lock();
        state.written.then(|| read(&state.values))
    }

    /// After a panic the values are unfinished, but the next step clears them.
    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gradients_of_one_pass_add_up_and_those_of_the_next_start_anew() {
        let buffer = GradientBuffer::default();
        let values = || buffer.with(<[f32]>::to_vec);
        assert_eq!(values(), None);
        buffer.add_dense(3, |x| x.copy_from_slice(&[1.0, 2.0, 3.0]));
        buffer.add_sparse(3, |x| x[1] += 0.5);
        buffer.add_dense(3, |x| x.copy_from_slice(&[1.0, 1.0, 1.0]));
        assert_eq!(values(), Some(vec![2.0, 3.5, 4.0]));
        buffer.clear();
        assert_eq!(values(), None);
        buffer.add_sparse(3, |x| x[1] += 0.5);
        assert_eq!(values(), Some(vec![0.0, 0.5, 0.0]));
        buffer.clear();
        buffer.add_dense(3, |x| x.fill(4.0));
        assert_eq!(values(), Some(vec![4.0; 3]));
    }
}
