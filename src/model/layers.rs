//! The two small layers that everything is built from.

use std::sync::Arc;

use super::parameter::{Parameter, Parameters};
use super::pass::Pass;
use crate::config::{Activation, BartConfig};
use crate::error::Result;
use crate::ops;
use crate::ops::hidden::Hidden;

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
    pub fn forward(&self, x: &Hidden, pass: &Pass) -> Result<Hidden> {
        let [y] = Self::forward_each([self], x, pass)?;
        Ok(y)
    }

    /// [`Self::forward`] of several layers over the same `x`, in one pass over it.
    pub fn forward_each<const N: usize>(
        layers: [&Linear; N],
        x: &Hidden,
        pass: &Pass,
    ) -> Result<[Hidden; N]> {
        let weights = layers.map(|layer| layer.weight.weight(pass));
        let affine = |i: usize| (&weights[i], Some(layers[i].bias.tensor(pass)));
        let mut ys = ops::linear::linear_each(x, std::array::from_fn(affine))?;
        for (layer, y) in layers.iter().zip(&mut ys) {
            if let Some(low_rank) = layer.weight.low_rank() {
                *y = ops::add::add(y, &low_rank.forward(x, pass)?)?;
            }
        }
        Ok(ys)
    }

    /// `activation` of [`Self::forward`]; GELU in one pass with it.
    pub fn forward_activated(
        &self,
        x: &Hidden,
        activation: Activation,
        pass: &Pass,
    ) -> Result<Hidden> {
        let activate = match activation {
            Activation::Gelu if self.weight.low_rank().is_some() => ops::activation::gelu,
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

/// Layer normalisation with gain and bias.
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
    pub fn forward(&self, x: &Hidden, residual: Option<&Hidden>, pass: &Pass) -> Result<Hidden> {
        let (gamma, beta) = (self.weight.tensor(pass), self.bias.tensor(pass));
        Ok(ops::add_layer_norm::add_layer_norm(x, residual, gamma, beta)?)
    }
}

/// A block's residual connection and norm: `LN(x + block(x))` as in BART (post-norm), or
/// `x + block(LN(x))` as in mBART (pre-norm; Xiong et al. 2020, arXiv:2002.04745).
#[derive(Debug)]
pub struct Residual {
    norm: LayerNorm,
    before: bool,
    dropout: f64,
}

impl Residual {
    /// The connection whose norm is named `norm`.
    pub fn new(parameters: &mut Parameters, norm: &str, config: &BartConfig) -> Result<Self> {
        Ok(Residual {
            norm: LayerNorm::new(parameters, norm, config.d_model)?,
            before: config.normalize_before,
            dropout: config.dropout,
        })
    }

    /// `x [rows, width]` with what `block` makes of it, shape kept.
    pub fn around(
        &self,
        x: &Hidden,
        pass: &Pass,
        block: impl FnOnce(&Hidden) -> Result<Hidden>,
    ) -> Result<Hidden> {
        if self.before {
            let y = pass.dropout(block(&self.norm.forward(x, None, pass)?)?, self.dropout)?;
            return Ok(ops::add::add(x, &y)?);
        }
        let y = pass.dropout(block(x)?, self.dropout)?;
        self.norm.forward(&y, Some(x), pass)
    }
}

/// The norm at the end of a stack, where the configuration asks for one.
#[derive(Debug)]
pub struct FinalNorm(Option<LayerNorm>);

impl FinalNorm {
    /// That of the stack `name`.
    pub fn new(parameters: &mut Parameters, name: &str, config: &BartConfig) -> Result<Self> {
        let norm = || LayerNorm::new(parameters, &format!("{name}.layer_norm"), config.d_model);
        Ok(FinalNorm(config.add_final_layer_norm.then(norm).transpose()?))
    }

    /// The stack's output for its last layer's `x`.
    pub fn forward(&self, x: Hidden, pass: &Pass) -> Result<Hidden> {
        match &self.0 {
            Some(norm) => norm.forward(&x, None, pass),
            None => Ok(x),
        }
    }
}
