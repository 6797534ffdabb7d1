//! The decoder: causal self-attention, attention to the encoder's output and feed-forward blocks,
//! each followed by `LN(x + block(x))` (post-norm).

use std::sync::Arc;

use candle_core::Tensor;

use super::attention::MultiHeadAttention;
use super::batch::Batch;
use super::cache::{CachedRows, DecoderCache};
use super::embedding::Embedding;
use super::encoder::{FeedForward, answer_without_keys};
use super::layers::LayerNorm;
use super::parameter::{Parameter, Parameters};
use super::pass::Pass;
use crate::config::BartConfig;
use crate::error::Result;
use crate::ops::attention::{NoKey, Spans};

/// Where a layer's two attentions find keys and values: in whole sequences, or in caches.
trait Attend {
    fn self_attention(&mut self, block: &MultiHeadAttention, x: &Tensor) -> Result<Tensor>;
    fn cross_attention(&mut self, block: &MultiHeadAttention, x: &Tensor) -> Result<Tensor>;
}

/// One decoder layer.
#[derive(Debug)]
pub struct DecoderLayer {
    self_attn: MultiHeadAttention,
    self_attn_layer_norm: LayerNorm,
    encoder_attn: MultiHeadAttention,
    encoder_attn_layer_norm: LayerNorm,
    feed_forward: FeedForward,
    final_layer_norm: LayerNorm,
    dropout: f64,
}

impl DecoderLayer {
    fn new(parameters: &mut Parameters, name: &str, config: &BartConfig) -> Result<Self> {
        let (width, heads) = (config.d_model, config.decoder_attention_heads);
        let mut attention = |part: &str| -> Result<_> {
            let name = format!("{name}.{part}");
            let block =
                MultiHeadAttention::new(parameters, &name, width, heads, config.attention_dropout)?;
            Ok((block, LayerNorm::new(parameters, &format!("{name}_layer_norm"), width)?))
        };
        let (self_attn, self_attn_layer_norm) = attention("self_attn")?;
        let (encoder_attn, encoder_attn_layer_norm) = attention("encoder_attn")?;
        Ok(DecoderLayer {
            self_attn,
            self_attn_layer_norm,
            encoder_attn,
            encoder_attn_layer_norm,
            feed_forward: FeedForward::new(parameters, name, config, config.decoder_ffn_dim)?,
            final_layer_norm: LayerNorm::new(
                parameters,
                &format!("{name}.final_layer_norm"),
                width,
            )?,
            dropout: config.dropout,
        })
    }

    fn forward(&self, x: &Tensor, attend: &mut dyn Attend, pass: &Pass) -> Result<Tensor> {
        let attended = attend.self_attention(&self.self_attn, x)?;
        let attended = pass.dropout(attended, self.dropout)?;
        let x = self.self_attn_layer_norm.forward(&attended, Some(x), pass)?;

        let attended = attend.cross_attention(&self.encoder_attn, &x)?;
        let attended = pass.dropout(attended, self.dropout)?;
        let x = self.encoder_attn_layer_norm.forward(&attended, Some(&x), pass)?;

        let fed = pass.dropout(self.feed_forward.forward(&x, pass)?, self.dropout)?;
        self.final_layer_norm.forward(&fed, Some(&x), pass)
    }
}

/// The decoder stack.
#[derive(Debug)]
pub struct Decoder {
    embedding: Embedding,
    layers: Vec<DecoderLayer>,
    layerdrop: f64,
    no_key: NoKey,
}

impl Decoder {
    /// The stack over the shared token table.
    pub fn new(
        parameters: &mut Parameters,
        config: &BartConfig,
        tokens: &Arc<Parameter>,
    ) -> Result<Self> {
        Ok(Decoder {
            embedding: Embedding::new(parameters, "decoder", config, tokens)?,
            layers: (0..config.decoder_layers)
                .map(|i| DecoderLayer::new(parameters, &format!("decoder.layers.{i}"), config))
                .collect::<Result<_>>()?,
            layerdrop: config.decoder_layerdrop,
            no_key: answer_without_keys(config),
        })
    }

    /// Hidden states `[rows, width]` of whole targets, given the encoder's output.
    pub fn forward(
        &self,
        target: &Batch,
        memory: &Tensor,
        source: &Batch,
        pass: &Pass,
    ) -> Result<Tensor> {
        let mut attend = WholeSequences::new(target, memory, source, self.no_key, pass);
        let mut x = self.embedding.forward(target, pass)?;
        for layer in &self.layers {
            pass.check_stop()?;
            if !pass.skips_layer(self.layerdrop) {
                x = layer.forward(&x, &mut attend, pass)?;
            }
        }
        Ok(x)
    }

    /// The weights that some layers give the source in [`Self::forward`]: `take` gets a layer's
    /// number and its weights, a block `[heads, target rows, source rows]` for each sequence.
    pub fn cross_attention(
        &self,
        target: &Batch,
        memory: &Tensor,
        source: &Batch,
        layers: &[usize],
        pass: &Pass,
        take: &mut dyn FnMut(usize, Tensor) -> Result<()>,
    ) -> Result<()> {
        let whole = WholeSequences::new(target, memory, source, self.no_key, pass);
        let mut attend = Observed { whole, wanted: false, weights: None };
        let mut x = self.embedding.forward(target, pass)?;
        let last = layers.iter().max().map_or(0, |&layer| layer + 1);
        for (number, layer) in self.layers.iter().enumerate().take(last) {
            pass.check_stop()?;
            attend.wanted = layers.contains(&number);
            x = layer.forward(&x, &mut attend, pass)?;
            if let Some(weights) = attend.weights.take() {
                take(number, weights)?;
            }
        }
        Ok(())
    }

    /// Hidden states `[rows, width]` of new rows, which see what is cached of their sequences.
    pub fn step(
        &self,
        rows: &Batch,
        slots: &CachedRows,
        cache: &mut DecoderCache,
    ) -> Result<Tensor> {
        let pass = Pass::inference();
        let mut x = self.embedding.forward(rows, &pass)?;
        for (layer, cache) in self.layers.iter().zip(cache.layers_mut()) {
            let mut attend = Cached { slots, cache, pass: &pass };
            x = layer.forward(&x, &mut attend, &pass)?;
        }
        cache.advance(slots);
        Ok(x)
    }

    /// Computes and stores the keys and values of each source, once for the whole generation.
    pub fn remember_sources(
        &self,
        memory: &Tensor,
        source: &Batch,
        cache: &mut DecoderCache,
    ) -> Result<()> {
        let pass = Pass::inference();
        for (layer, cache) in self.layers.iter().zip(cache.layers_mut()) {
            let (k, v) = layer.encoder_attn.keys_values(memory, &pass)?;
            cache.store_sources(&k, &v, source.offsets())?;
        }
        Ok(())
    }
}

struct WholeSequences<'a> {
    memory: &'a Tensor,
    to_target: Spans,
    to_source: Spans,
    pass: &'a Pass<'a>,
}

impl<'a> WholeSequences<'a> {
    fn new(
        target: &Batch,
        memory: &'a Tensor,
        source: &Batch,
        no_key: NoKey,
        pass: &'a Pass<'a>,
    ) -> Self {
        let to_target = target.attending_to(target, true, no_key);
        let to_source = target.attending_to(source, false, no_key);
        WholeSequences { memory, to_target, to_source, pass }
    }
}

impl Attend for WholeSequences<'_> {
    fn self_attention(&mut self, block: &MultiHeadAttention, x: &Tensor) -> Result<Tensor> {
        block.forward(x, x, &self.to_target, self.pass)
    }

    fn cross_attention(&mut self, block: &MultiHeadAttention, x: &Tensor) -> Result<Tensor> {
        block.forward(x, self.memory, &self.to_source, self.pass)
    }
}

/// Whole sequences, and the weights of the layer that was passed last, where they are wanted.
struct Observed<'a> {
    whole: WholeSequences<'a>,
    wanted: bool,
    weights: Option<Tensor>,
}

impl Attend for Observed<'_> {
    fn self_attention(&mut self, block: &MultiHeadAttention, x: &Tensor) -> Result<Tensor> {
        self.whole.self_attention(block, x)
    }

    fn cross_attention(&mut self, block: &MultiHeadAttention, x: &Tensor) -> Result<Tensor> {
        if self.wanted {
            let WholeSequences { memory, to_source, pass, .. } = &self.whole;
            self.weights = Some(block.weights(x, memory, to_source, pass)?);
        }
        self.whole.cross_attention(block, x)
    }
}

struct Cached<'a> {
    slots: &'a CachedRows,
    cache: &'a mut super::cache::LayerCache,
    pass: &'a Pass<'a>,
}

impl Attend for Cached<'_> {
    fn self_attention(&mut self, block: &MultiHeadAttention, x: &Tensor) -> Result<Tensor> {
        let q = block.queries(x, self.pass)?;
        let (k, v) = block.keys_values(x, self.pass)?;
        let context = self.cache.attend_to_target(&q, &k, &v, self.slots)?;
        block.output(&context, self.pass)
    }

    fn cross_attention(&mut self, block: &MultiHeadAttention, x: &Tensor) -> Result<Tensor> {
        let q = block.queries(x, self.pass)?;
        let context = self.cache.attend_to_source(&q, self.slots)?;
        block.output(&context, self.pass)
    }
}
