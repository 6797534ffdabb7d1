//! The decoder: causal self-attention, attention to the encoder's output and feed-forward blocks,
//! each within a [`Residual`].

use std::sync::Arc;

use super::attention::MultiHeadAttention;
use super::batch::Batch;
use super::cache::{CachedRows, DecoderCache};
use super::embedding::Embedding;
use super::encoder::{FeedForward, answer_without_keys};
use super::layers::{FinalNorm, Residual};
use super::parameter::{Parameter, Parameters};
use super::pass::Pass;
use super::recomputed::Recomputed;
use crate::config::BartConfig;
use crate::error::Result;
use crate::ops::attention::{NoKey, Spans};
use crate::ops::hidden::Hidden;

/// Where a layer's two attentions find keys and values: in whole sequences, or in caches.
trait Attend {
    fn self_attention(&mut self, block: &MultiHeadAttention, x: &Hidden) -> Result<Hidden>;
    fn cross_attention(&mut self, block: &MultiHeadAttention, x: &Hidden) -> Result<Hidden>;
}

/// One decoder layer.
#[derive(Debug)]
pub struct DecoderLayer {
    self_attn: MultiHeadAttention,
    around_self_attn: Residual,
    encoder_attn: MultiHeadAttention,
    around_encoder_attn: Residual,
    feed_forward: FeedForward,
    around_feed_forward: Residual,
}

impl DecoderLayer {
    fn new(parameters: &mut Parameters, name: &str, config: &BartConfig) -> Result<Self> {
        let (width, heads) = (config.d_model, config.decoder_attention_heads);
        let cached = parameters.precision().cached();
        let mut attention = |part: &str| -> Result<_> {
            let name = format!("{name}.{part}");
            let block =
                MultiHeadAttention::new(parameters, &name, width, heads, config.attention_dropout)?;
            let block = block.keeping(cached);
            Ok((block, Residual::new(parameters, &format!("{name}_layer_norm"), config)?))
        };
        let (self_attn, around_self_attn) = attention("self_attn")?;
        let (encoder_attn, around_encoder_attn) = attention("encoder_attn")?;
        Ok(DecoderLayer {
            self_attn,
            around_self_attn,
            encoder_attn,
            around_encoder_attn,
            feed_forward: FeedForward::new(parameters, name, config, config.decoder_ffn_dim)?,
            around_feed_forward: Residual::new(
                parameters,
                &format!("{name}.final_layer_norm"),
                config,
            )?,
        })
    }

    fn forward(&self, x: &Hidden, attend: &mut dyn Attend, pass: &Pass) -> Result<Hidden> {
        let x =
            self.around_self_attn.around(x, pass, |x| attend.self_attention(&self.self_attn, x))?;
        let x = self
            .around_encoder_attn
            .around(&x, pass, |x| attend.cross_attention(&self.encoder_attn, x))?;
        self.around_feed_forward.around(&x, pass, |x| self.feed_forward.forward(x, pass))
    }
}

/// The decoder stack.
#[derive(Debug)]
pub struct Decoder {
    embedding: Embedding,
    layers: Vec<Recomputed<DecoderLayer>>,
    layer_norm: FinalNorm,
    layerdrop: f64,
    no_key: NoKey,
}

impl Decoder {
    /// The stack over a token table.
    pub fn new(
        parameters: &mut Parameters,
        config: &BartConfig,
        tokens: &Arc<Parameter>,
    ) -> Result<Self> {
        Ok(Decoder {
            embedding: Embedding::new(parameters, "decoder", config, tokens)?,
            layers: (0..config.decoder_layers)
                .map(|i| {
                    let name = format!("decoder.layers.{i}");
                    Recomputed::new(parameters, |all| DecoderLayer::new(all, &name, config))
                })
                .collect::<Result<_>>()?,
            layer_norm: FinalNorm::new(parameters, "decoder", config)?,
            layerdrop: config.decoder_layerdrop,
            no_key: answer_without_keys(config),
        })
    }

    /// Hidden states `[rows, width]` of whole targets, given the encoder's output.
    pub fn forward(
        &self,
        target: &Batch,
        memory: &Hidden,
        source: &Batch,
        pass: &Pass,
    ) -> Result<Hidden> {
        let spans = Sees::new(target, source, self.no_key);
        let mut x = self.embedding.forward(target, pass)?;
        for layer in &self.layers {
            pass.check_stop()?;
            if !pass.skips_layer(self.layerdrop) {
                let spans = spans.clone();
                x = layer.forward([&x, memory], pass, move |layer, [x, memory], pass| {
                    layer.forward(x, &mut WholeSequences { memory, spans: &spans, pass }, pass)
                })?;
            }
        }
        self.layer_norm.forward(x, pass)
    }

    /// The weights that some layers give the source in [`Self::forward`]: `take` gets a layer's
    /// number and its weights, a block `[heads, target rows, source rows]` for each sequence.
    pub fn cross_attention(
        &self,
        target: &Batch,
        memory: &Hidden,
        source: &Batch,
        layers: &[usize],
        pass: &Pass,
        take: &mut dyn FnMut(usize, &[f32]) -> Result<()>,
    ) -> Result<()> {
        let spans = Sees::new(target, source, self.no_key);
        let whole = WholeSequences { memory, spans: &spans, pass };
        let mut attend = Observed { whole, wanted: false, weights: None };
        let mut x = self.embedding.forward(target, pass)?;
        let last = layers.iter().max().map_or(0, |&layer| layer + 1);
        for (number, layer) in self.layers.iter().enumerate().take(last) {
            pass.check_stop()?;
            attend.wanted = layers.contains(&number);
            x = DecoderLayer::forward(layer, &x, &mut attend, pass)?;
            if let Some(weights) = attend.weights.take() {
                take(number, &weights)?;
            }
        }
        Ok(())
    }

    /// Hidden states `[rows, width]` of new rows, which see what is cached of their sequences, and are stored
    /// there; the cache has yet to count them.
    pub fn step(
        &self,
        rows: &Batch,
        slots: &CachedRows,
        cache: &mut DecoderCache,
    ) -> Result<Hidden> {
        let pass = Pass::inference();
        let mut x = self.embedding.forward_step(rows, slots.inputs(), &pass)?;
        for (layer, cache) in self.layers.iter().zip(cache.layers_mut()) {
            let mut attend = Cached { slots, cache, pass: &pass };
            x = DecoderLayer::forward(layer, &x, &mut attend, &pass)?;
        }
        self.layer_norm.forward(x, &pass)
    }

    /// Computes and stores the keys and values of each source, once for the whole generation.
    pub fn remember_sources(
        &self,
        memory: &Hidden,
        source: &Batch,
        cache: &mut DecoderCache,
    ) -> Result<()> {
        let pass = Pass::inference();
        for (layer, cache) in self.layers.iter().zip(cache.layers_mut()) {
            let [k, v] = layer.encoder_attn.keys_values(memory, &pass)?;
            cache.store_sources(&k, &v, source.offsets())?;
        }
        Ok(())
    }
}

/// Which rows of the target and of the source a row of the target sees.
#[derive(Clone)]
struct Sees {
    target: Spans,
    source: Spans,
}

impl Sees {
    fn new(target: &Batch, source: &Batch, no_key: NoKey) -> Self {
        Sees {
            target: target.attending_to(target, true, no_key),
            source: target.attending_to(source, false, no_key),
        }
    }
}

struct WholeSequences<'a> {
    memory: &'a Hidden,
    spans: &'a Sees,
    pass: &'a Pass<'a>,
}

impl Attend for WholeSequences<'_> {
    fn self_attention(&mut self, block: &MultiHeadAttention, x: &Hidden) -> Result<Hidden> {
        block.self_attention(x, &self.spans.target, self.pass)
    }

    fn cross_attention(&mut self, block: &MultiHeadAttention, x: &Hidden) -> Result<Hidden> {
        block.cross_attention(x, self.memory, &self.spans.source, self.pass)
    }
}

/// Whole sequences, and the weights of the layer that was passed last, where they are wanted.
struct Observed<'a> {
    whole: WholeSequences<'a>,
    wanted: bool,
    weights: Option<Vec<f32>>,
}

impl Attend for Observed<'_> {
    fn self_attention(&mut self, block: &MultiHeadAttention, x: &Hidden) -> Result<Hidden> {
        self.whole.self_attention(block, x)
    }

    fn cross_attention(&mut self, block: &MultiHeadAttention, x: &Hidden) -> Result<Hidden> {
        if self.wanted {
            let WholeSequences { memory, spans, pass } = &self.whole;
            self.weights = Some(block.weights(x, memory, &spans.source, pass)?);
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
    fn self_attention(&mut self, block: &MultiHeadAttention, x: &Hidden) -> Result<Hidden> {
        let [q, k, v] = block.queries_keys_values(x, self.pass)?;
        let context = self.cache.attend_to_target(&q, &k, &v, self.slots)?;
        block.output(&context, self.pass)
    }

    fn cross_attention(&mut self, block: &MultiHeadAttention, x: &Hidden) -> Result<Hidden> {
        let q = block.queries(x, self.pass)?;
        let context = self.cache.attend_to_source(&q, self.slots)?;
        block.output(&context, self.pass)
    }
}
