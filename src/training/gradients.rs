//! The gradients of a loss: of matrices in their own buffers, of the rest in candle's store.

use candle_core::Tensor;
use candle_core::backprop::GradStore;

use super::optimizer::global_norm;
use crate::error::Result;
use crate::model::Parameter;
use crate::ops::place::with_values;

/// What one backward pass computed. One lives at a time: the buffers are the parameters'.
pub struct Gradients<'a> {
    parameters: &'a [&'a Parameter],
    store: Option<GradStore>,
}

impl Drop for Gradients<'_> {
    /// Gives back what they have on a card.
    fn drop(&mut self) {
        self.parameters.iter().for_each(|parameter| parameter.gradient().clear());
    }
}

impl<'a> Gradients<'a> {
    /// Runs the backward pass of `loss` for all that is trained; without a loss all gradients are
    /// zero.
    ///
    /// # Errors
    /// Only what the tensor library reports.
    pub fn of(parameters: &'a [&'a Parameter], loss: Option<&Tensor>) -> Result<Self> {
        parameters.iter().for_each(|parameter| parameter.gradient().clear());
        let store = loss.map(Tensor::backward).transpose()?;
        Ok(Gradients { parameters, store })
    }

    /// Calls `read` with the gradient of a trainable parameter, in the parameter's layout; zeros
    /// where the loss does not depend on it.
    ///
    /// # Errors
    /// Only what the tensor library reports.
    pub fn with<R>(&self, parameter: &Parameter, mut read: impl FnMut(&[f32]) -> R) -> Result<R> {
        if let Some(result) = parameter.gradient().with(&mut read) {
            return Ok(result);
        }
        match self.found(parameter) {
            Some(gradient) => Ok(with_values(&gradient, read)?),
            None => Ok(read(&vec![0.0; parameter.var().elem_count()])),
        }
    }

    /// The gradient that a tensor holds, if one does.
    fn found(&self, parameter: &Parameter) -> Option<Tensor> {
        let stored = || self.store.as_ref()?.get(parameter.var().as_tensor()).cloned();
        parameter.gradient().tensor().or_else(stored)
    }

    /// The gradient as a contiguous tensor of float32, where candle computed it.
    ///
    /// # Errors
    /// Only what the tensor library reports.
    #[cfg(feature = "cuda")]
    pub fn tensor(&self, parameter: &Parameter) -> Result<Tensor> {
        match self.found(parameter) {
            Some(gradient) => Ok(gradient.to_dtype(candle_core::DType::F32)?.contiguous()?),
            None => Ok(parameter.var().zeros_like()?),
        }
    }

    /// The norm of all gradients together.
    ///
    /// # Errors
    /// Only what the tensor library reports.
    pub fn norm(&self) -> Result<f64> {
        let mut squares: f64 = 0.0;
        for parameter in self.parameters {
            let norm = self.with(parameter, |gradient| global_norm(&[gradient]))?;
            squares += norm * norm;
        }
        Ok(squares.sqrt())
    }
}
