//! The encoder: bidirectional self-attention and feed-forward blocks, each within a [`Residual`].

use std::sync::Arc;

use super::attention::MultiHeadAttention;
use super::batch::Batch;
use super::embedding::Embedding;
use super::layers::{FinalNorm, Linear, Residual};
use super::parameter::{Parameter, Parameters};
use super::pass::Pass;
use super::recomputed::Recomputed;
use crate::config::{Activation, BartConfig};
use crate::error::Result;
use crate::ops::attention::{NoKey, Spans};
use crate::ops::hidden::Hidden;

/// What a query gets whose keys are all masked. keras-hub computes attention in two ways, by the
/// dropout it was built with, and they differ here; Hugging Face (without attention dropout) agrees
/// with the second.
pub(super) fn answer_without_keys(config: &BartConfig) -> NoKey {
    if config.attention_dropout > 0.0 { NoKey::Zeros } else { NoKey::MeanOfValues }
}

/// `FFN(x) = W2 dropout(f(W1 x))`, shared by both stacks; `f` is GELU in BART.
#[derive(Debug)]
pub struct FeedForward {
    fc1: Linear,
    fc2: Linear,
    activation: Activation,
    activation_dropout: f64,
}

impl FeedForward {
    /// The block of layer `name`, `inner` wide inside.
    pub fn new(
        parameters: &mut Parameters,
        name: &str,
        config: &BartConfig,
        inner: usize,
    ) -> Result<Self> {
        Ok(FeedForward {
            fc1: Linear::new(parameters, &format!("{name}.fc1"), config.d_model, inner)?,
            fc2: Linear::new(parameters, &format!("{name}.fc2"), inner, config.d_model)?,
            activation: config.activation_function,
            activation_dropout: config.activation_dropout,
        })
    }

    /// `[rows, width]` to `[rows, width]`.
    pub fn forward(&self, x: &Hidden, pass: &Pass) -> Result<Hidden> {
        let inner = self.fc1.forward_activated(x, self.activation, pass)?;
        let inner = pass.dropout(inner, self.activation_dropout)?;
        self.fc2.forward(&inner, pass)
    }
}

/// One encoder layer.
#[derive(Debug)]
pub struct EncoderLayer {
    self_attn: MultiHeadAttention,
    around_self_attn: Residual,
    feed_forward: FeedForward,
    around_feed_forward: Residual,
}

impl EncoderLayer {
    fn new(parameters: &mut Parameters, name: &str, config: &BartConfig) -> Result<Self> {
        let (width, heads) = (config.d_model, config.encoder_attention_heads);
        let attention = format!("{name}.self_attn");
        let dropout = config.attention_dropout;
        let self_attn = MultiHeadAttention::new(parameters, &attention, width, heads, dropout)?;
        Ok(EncoderLayer {
            self_attn: self_attn.in_bfloat16(parameters.precision().attends_in_bfloat16()),
            around_self_attn: Residual::new(
                parameters,
                &format!("{attention}_layer_norm"),
                config,
            )?,
            feed_forward: FeedForward::new(parameters, name, config, config.encoder_ffn_dim)?,
            around_feed_forward: Residual::new(
                parameters,
                &format!("{name}.final_layer_norm"),
                config,
            )?,
        })
    }

    /// `[rows, width]` to `[rows, width]`; `spans` says which rows see which.
    pub fn forward(&self, x: &Hidden, spans: &Spans, pass: &Pass) -> Result<Hidden> {
        let x = self
            .around_self_attn
            .around(x, pass, |x| self.self_attn.self_attention(x, spans, pass))?;
        self.around_feed_forward.around(&x, pass, |x| self.feed_forward.forward(x, pass))
    }
}

/// The encoder stack.
#[derive(Debug)]
pub struct Encoder {
    embedding: Embedding,
    layers: Vec<Recomputed<EncoderLayer>>,
    layer_norm: FinalNorm,
    layerdrop: f64,
    no_key: NoKey,
}

impl Encoder {
    /// The stack over a token table.
    pub fn new(
        parameters: &mut Parameters,
        config: &BartConfig,
        tokens: &Arc<Parameter>,
    ) -> Result<Self> {
        Ok(Encoder {
            embedding: Embedding::new(parameters, "encoder", config, tokens)?,
            layers: (0..config.encoder_layers)
                .map(|i| {
                    let name = format!("encoder.layers.{i}");
                    Recomputed::new(parameters, |all| EncoderLayer::new(all, &name, config))
                })
                .collect::<Result<_>>()?,
            layer_norm: FinalNorm::new(parameters, "encoder", config)?,
            layerdrop: config.encoder_layerdrop,
            no_key: answer_without_keys(config),
        })
    }

    /// The source's hidden states `[rows, width]`: the decoder's memory.
    pub fn forward(&self, source: &Batch, pass: &Pass) -> Result<Hidden> {
        let spans = source.attending_to(source, false, self.no_key);
        let mut x = self.embedding.forward(source, pass)?;
        for layer in &self.layers {
            pass.check_stop()?;
            if !pass.skips_layer(self.layerdrop) {
                let spans = spans.clone();
                x = layer
                    .forward([&x], pass, move |layer, [x], pass| layer.forward(x, &spans, pass))?;
            }
        }
        self.layer_norm.forward(x, pass)
    }
}
