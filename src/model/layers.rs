//! The two small layers that everything is built from.

use std::sync::Arc;

use candle_core::Tensor;

use super::parameter::{Parameter, Parameters};
use super::pass::Pass;
use crate::config::Activation;
use crate::error::Result;
use crate::ops;

/// `x W^T + b`.
#[derive(Debug)]
pub struct Linear {
    weight: Arc<Parameter>,
    bias: Arc<Parameter>,
}

impl Linear {
    /// A layer from `inputs` to `outputs` features, named `{name}.weight` and `{name}.bias`.
    pub fn new(
        parameters: &mut Parameters,
        name: &str,
        inputs: usize,
        outputs: usize,
    ) -> Result<Self> {
        Ok(Linear {
            weight: parameters.matrix(&format!("{name}.weight"), outputs, inputs)?,
            bias: parameters.vector(&format!("{name}.bias"), outputs, 0.0)?,
        })
    }

    /// `x [rows, inputs]` to `[rows, outputs]`.
    pub fn forward(&self, x: &Tensor, pass: &Pass) -> Result<Tensor> {
        Ok(ops::linear::linear(x, &self.weight.weight(pass), Some(self.bias.tensor(pass)))?)
    }

    /// `activation` of [`Self::forward`]; GELU in one pass with it.
    pub fn forward_activated(
        &self,
        x: &Tensor,
        activation: Activation,
        pass: &Pass,
    ) -> Result<Tensor> {
        let activate = match activation {
            Activation::Gelu => {
                let (weight, bias) = (self.weight.weight(pass), self.bias.tensor(pass));
                return Ok(ops::linear::linear_gelu(x, &weight, bias)?);
            }
            Activation::GeluNew => ops::activation::gelu_new,
            Activation::QuickGelu => ops::activation::quick_gelu,
            Activation::Relu => ops::activation::relu,
            Activation::Silu => ops::activation::silu,
            Activation::Tanh => ops::activation::tanh,
        };
        Ok(activate(&self.forward(x, pass)?)?)
    }
}

/// Layer normalisation with gain and bias, after a residual sum.
#[derive(Debug)]
pub struct LayerNorm {
    weight: Arc<Parameter>,
    bias: Arc<Parameter>,
}

impl LayerNorm {
    /// A norm over `width` features, named `{name}.weight` and `{name}.bias`.
    pub fn new(parameters: &mut Parameters, name: &str, width: usize) -> Result<Self> {
        Ok(LayerNorm {
            weight: parameters.vector(&format!("{name}.weight"), width, 1.0)?,
            bias: parameters.vector(&format!("{name}.bias"), width, 0.0)?,
        })
    }

    /// `LN(x)` or `LN(x + residual)`, shape kept.
    pub fn forward(&self, x: &Tensor, residual: Option<&Tensor>, pass: &Pass) -> Result<Tensor> {
        let (gamma, beta) = (self.weight.tensor(pass), self.bias.tensor(pass));
        Ok(ops::add_layer_norm::add_layer_norm(x, residual, gamma, beta)?)
    }
}
