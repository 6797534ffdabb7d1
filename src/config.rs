//! The model's sizes and switches, validated once. A field of a Hugging Face `config.json` that
//! changes the numbers is read or refused, never skipped.

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};

mod hugging_face;

/// Largest value a size may have: far above any BART, small enough that products of two fit.
const MAX_SIZE: usize = 1 << 24;

/// Most layers of a stack: far above any BART, few enough that making them does not take for ever.
const MAX_LAYERS: usize = 1 << 10;

/// The function between the two products of a feed-forward block, by its names in Hugging Face.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Activation {
    /// `x * Phi(x)` with the error function: what BART has.
    #[serde(alias = "gelu_python")]
    Gelu,
    /// GELU with a hyperbolic tangent in place of the error function.
    #[serde(alias = "gelu_fast", alias = "gelu_pytorch_tanh")]
    GeluNew,
    /// `x * sigmoid(1.702 x)`.
    QuickGelu,
    /// `max(x, 0)`.
    Relu,
    /// `x * sigmoid(x)`.
    #[serde(alias = "swish")]
    Silu,
    /// The hyperbolic tangent.
    Tanh,
}

/// The families of models that compute as BART does, by their `model_type` in Hugging Face.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Family {
    /// BART (Lewis et al. 2019, arXiv:1910.13461).
    Bart,
    /// mBART (Liu et al. 2020, arXiv:2001.08210): norms before the blocks, and one after each stack.
    Mbart,
    /// PLBART (Ahmad et al. 2021, arXiv:2103.06333): BART's arithmetic, embeddings scaled.
    Plbart,
}

/// Sizes and switches of a BART model, under the names of Hugging Face's `BartConfig`, whose
/// defaults (those of bart-large) hold for absent fields.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct BartConfig {
    /// The family, which says how files and answers begin; the arithmetic is in the other fields.
    pub model_type: Family,
    /// Number of token ids.
    pub vocab_size: usize,
    /// Width of the hidden states.
    pub d_model: usize,
    /// Encoder depth.
    pub encoder_layers: usize,
    /// Decoder depth.
    pub decoder_layers: usize,
    /// Attention heads of each encoder layer.
    pub encoder_attention_heads: usize,
    /// Attention heads of each decoder layer.
    pub decoder_attention_heads: usize,
    /// Inner width of the encoder's feed-forward blocks.
    pub encoder_ffn_dim: usize,
    /// Inner width of the decoder's feed-forward blocks.
    pub decoder_ffn_dim: usize,
    /// Rows of the learned position tables, Hugging Face's offset of 2 not counted.
    pub max_position_embeddings: usize,
    /// The activation of the feed-forward blocks.
    pub activation_function: Activation,
    /// Dropout probability after each sub-layer and after the embeddings.
    pub dropout: f64,
    /// Dropout probability on attention weights.
    pub attention_dropout: f64,
    /// Dropout probability after the feed-forward activation.
    pub activation_dropout: f64,
    /// Probability of skipping a whole encoder layer in training (LayerDrop).
    pub encoder_layerdrop: f64,
    /// Probability of skipping a whole decoder layer in training (LayerDrop).
    pub decoder_layerdrop: f64,
    /// Whether token embeddings are multiplied by sqrt(d_model).
    pub scale_embedding: bool,
    /// Whether each block's norm stands before it (`x + block(LN(x))`, as in mBART) and not after
    /// the sum (`LN(x + block(x))`, as in BART).
    pub normalize_before: bool,
    /// Whether each stack ends with a norm of its own, as in mBART.
    pub add_final_layer_norm: bool,
    /// Whether the language-model head is the token table.
    pub tie_word_embeddings: bool,
    /// Whether encoder and decoder have token tables of their own; only with a head of its own too.
    pub separate_embeddings: bool,
    /// Whether the logits carry a stored, untrained bias.
    pub final_logits_bias: bool,
    /// Standard deviation of freshly drawn weights.
    pub init_std: f64,
}

impl Default for BartConfig {
    fn default() -> Self {
        BartConfig {
            model_type: Family::Bart,
            vocab_size: 50265,
            d_model: 1024,
            encoder_layers: 12,
            decoder_layers: 12,
            encoder_attention_heads: 16,
            decoder_attention_heads: 16,
            encoder_ffn_dim: 4096,
            decoder_ffn_dim: 4096,
            max_position_embeddings: 1024,
            activation_function: Activation::Gelu,
            dropout: 0.1,
            attention_dropout: 0.0,
            activation_dropout: 0.0,
            encoder_layerdrop: 0.0,
            decoder_layerdrop: 0.0,
            scale_embedding: false,
            normalize_before: false,
            add_final_layer_norm: false,
            tie_word_embeddings: true,
            separate_embeddings: false,
            final_logits_bias: false,
            init_std: 0.02,
        }
    }
}

impl BartConfig {
    /// Reads our own JSON (the fields of this struct).
    ///
    /// # Errors
    /// [`Error::Config`] for an unknown field, a wrong type, or sizes that cannot be a model.
    pub fn from_json(text: &str) -> Result<Self> {
        let config: BartConfig =
            serde_json::from_str(text).map_err(|e| Error::config("config", e.to_string()))?;
        config.validate()?;
        Ok(config)
    }

    /// The fields of this struct as JSON.
    pub fn to_json(&self) -> String {
        serde_json::to_string(self).expect("a struct of numbers serialises")
    }

    /// Checks that the sizes can be a model.
    ///
    /// # Errors
    /// [`Error::Config`] naming the first field that cannot.
    pub fn validate(&self) -> Result<()> {
        let sizes = [
            ("vocab_size", self.vocab_size),
            ("d_model", self.d_model),
            ("encoder_layers", self.encoder_layers),
            ("decoder_layers", self.decoder_layers),
            ("encoder_attention_heads", self.encoder_attention_heads),
            ("decoder_attention_heads", self.decoder_attention_heads),
            ("encoder_ffn_dim", self.encoder_ffn_dim),
            ("decoder_ffn_dim", self.decoder_ffn_dim),
            ("max_position_embeddings", self.max_position_embeddings),
        ];
        for (name, size) in sizes {
            let most = if name.ends_with("_layers") { MAX_LAYERS } else { MAX_SIZE };
            if size == 0 || size > most {
                return Err(Error::config(name, format!("must be 1 to {most}, received {size}")));
            }
        }
        for (name, heads) in [
            ("encoder_attention_heads", self.encoder_attention_heads),
            ("decoder_attention_heads", self.decoder_attention_heads),
        ] {
            if !self.d_model.is_multiple_of(heads) {
                return Err(Error::config(
                    name,
                    format!("must divide d_model ({}), received {heads}", self.d_model),
                ));
            }
        }
        let probabilities = [
            ("dropout", self.dropout),
            ("attention_dropout", self.attention_dropout),
            ("activation_dropout", self.activation_dropout),
            ("encoder_layerdrop", self.encoder_layerdrop),
            ("decoder_layerdrop", self.decoder_layerdrop),
        ];
        for (name, p) in probabilities {
            if !(0.0..1.0).contains(&p) {
                return Err(Error::config(
                    name,
                    format!("must be at least 0 and below 1, received {p}"),
                ));
            }
        }
        if !(self.init_std.is_finite() && self.init_std >= 0.0) {
            return Err(Error::config(
                "init_std",
                format!("must be 0 or more, received {}", self.init_std),
            ));
        }
        if self.separate_embeddings && self.tie_word_embeddings {
            return Err(Error::config(
                "separate_embeddings",
                "must be false where `tie_word_embeddings` is true, received true",
            ));
        }
        Ok(())
    }

    /// The number of weights of a model of these sizes, which may be more than can exist.
    pub fn parameter_count(&self) -> u64 {
        let size = |size: usize| size as u64;
        let (width, norm) = (size(self.d_model), 2 * size(self.d_model));
        let attention = 4 * (width * width + width);
        let feed_forward = |inner: usize| 2 * width * size(inner) + size(inner) + width;
        let encoder_layer = attention + norm + feed_forward(self.encoder_ffn_dim) + norm;
        let decoder_layer = 2 * (attention + norm) + feed_forward(self.decoder_ffn_dim) + norm;
        let tables = match (self.tie_word_embeddings, self.separate_embeddings) {
            (true, _) => 1,
            (false, false) => 2,
            (false, true) => 3,
        };
        let norms = if self.add_final_layer_norm { 2 * norm } else { norm };
        tables * size(self.vocab_size) * width
            + 2 * (size(self.max_position_embeddings) * width + norms)
            + size(self.encoder_layers) * encoder_layer
            + size(self.decoder_layers) * decoder_layer
            + if self.final_logits_bias { size(self.vocab_size) } else { 0 }
    }

    /// What token embeddings are multiplied by.
    pub fn embedding_scale(&self) -> f32 {
        if self.scale_embedding { (self.d_model as f64).sqrt() as f32 } else { 1.0 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn own_json_round_trips() {
        let config = BartConfig { d_model: 64, ..BartConfig::default() };
        assert_eq!(BartConfig::from_json(&config.to_json()).unwrap(), config);
        for wrong in [
            r#"{"d_modell": 3}"#,
            r#"{"d_model": 30}"#,
            r#"{"model_type": "pegasus"}"#,
            r#"{"separate_embeddings": true}"#,
        ] {
            assert!(BartConfig::from_json(wrong).is_err(), "{wrong}");
        }
    }
}
