//! The model's sizes and switches, validated once. A field of a Hugging Face `config.json` that
//! changes the numbers is read or refused, never skipped.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::error::{Error, Result};

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

/// Sizes and switches of a BART model, under the names of Hugging Face's `BartConfig`, whose
/// defaults (those of bart-large) hold for absent fields.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct BartConfig {
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
    /// Whether the logits carry a stored, untrained bias.
    pub final_logits_bias: bool,
    /// Standard deviation of freshly drawn weights.
    pub init_std: f64,
}

impl Default for BartConfig {
    fn default() -> Self {
        BartConfig {
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

    /// Reads a Hugging Face `config.json` written by transformers 3 to 5.
    ///
    /// # Errors
    /// [`Error::Config`] naming the field whose value changes the numbers in a way that this
    /// crate does not compute, or whose type or size is wrong.
    pub fn from_hugging_face(text: &str) -> Result<Self> {
        let value: Value = serde_json::from_str(text)
            .map_err(|e| Error::config("config.json", format!("is not JSON: {e}")))?;
        let Value::Object(fields) = value else {
            return Err(Error::config("config.json", "must hold a JSON object"));
        };
        refuse_other_arithmetic(&fields)?;
        let mut ours = serde_json::to_value(BartConfig::default()).expect("serialises");
        let slots = ours.as_object_mut().expect("a struct is an object");
        for (name, slot) in slots.iter_mut() {
            // A stored bias is announced by the weights, not by the config.
            if name == "final_logits_bias" {
                *slot = Value::Bool(true);
            } else if let Some(given) = given(&fields, name)? {
                check_kind(name, slot, given)?;
                *slot = given.clone();
            }
        }
        let config: BartConfig = serde_json::from_value(ours)
            .map_err(|e| Error::config("config.json", e.to_string()))?;
        config.validate()?;
        Ok(config)
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
        size(self.vocab_size) * width
            + 2 * (size(self.max_position_embeddings) * width + norm)
            + size(self.encoder_layers) * encoder_layer
            + size(self.decoder_layers) * decoder_layer
            + if self.final_logits_bias { size(self.vocab_size) } else { 0 }
    }

    /// What token embeddings are multiplied by.
    pub fn embedding_scale(&self) -> f32 {
        if self.scale_embedding { (self.d_model as f64).sqrt() as f32 } else { 1.0 }
    }
}

/// The value of a field, under its own name or the one that transformers has for all models.
fn given<'a>(fields: &'a Map<String, Value>, name: &str) -> Result<Option<&'a Value>> {
    let field = |name: &str| fields.get(name).filter(|given| !given.is_null());
    let aliases = [("d_model", "hidden_size"), ("encoder_attention_heads", "num_attention_heads")];
    let alias = aliases.iter().find(|(own, _)| *own == name).map(|(_, alias)| *alias);
    match (field(name), alias.and_then(field)) {
        (Some(own), Some(other)) if own != other => {
            let alias = alias.unwrap_or_default();
            Err(Error::config(name, format!("is {own}, but `{alias}`, which is the same, {other}")))
        }
        (own, other) => Ok(own.or(other)),
    }
}

/// Fields whose only supported value is given here; any other value means other arithmetic.
fn refuse_other_arithmetic(fields: &Map<String, Value>) -> Result<()> {
    let supported = [
        ("model_type", Value::from("bart")),
        ("normalize_before", Value::Bool(false)),
        ("add_final_layer_norm", Value::Bool(false)),
        ("normalize_embedding", Value::Bool(true)),
        ("static_position_embeddings", Value::Bool(false)),
        ("tie_word_embeddings", Value::Bool(true)),
        ("is_encoder_decoder", Value::Bool(true)),
        ("extra_pos_embeddings", Value::from(2)),
        ("is_decoder", Value::Bool(false)),
        ("tie_encoder_decoder", Value::Bool(false)),
        ("do_blenderbot_90_layernorm", Value::Bool(false)),
        ("pruned_heads", Value::Object(Map::new())),
    ];
    for (name, only) in supported {
        match fields.get(name) {
            None | Some(Value::Null) => {}
            Some(given) if *given == only => {}
            Some(given) => {
                return Err(Error::config(
                    name,
                    format!("received {given}, but only {only} is supported"),
                ));
            }
        }
    }
    if !fields.contains_key("model_type") {
        return Err(Error::config("model_type", "is missing, so this is not a BART checkpoint"));
    }
    if fields.get("quantization_config").is_some_and(|value| !value.is_null()) {
        return Err(Error::config(
            "quantization_config",
            "quantised Hugging Face checkpoints are not supported\nhint: use the unquantised one",
        ));
    }
    Ok(())
}

/// The names of [`Activation`], for the error that refuses another.
const ACTIVATIONS: &str = "gelu, gelu_new, quick_gelu, relu, silu (swish) or tanh";

fn check_kind(name: &str, expected: &Value, given: &Value) -> Result<()> {
    let (fits, kind) = match expected {
        Value::Bool(_) => (given.is_boolean(), "true or false"),
        Value::Number(n) if n.is_u64() => (given.is_u64(), "a whole number"),
        Value::String(_) => {
            (serde_json::from_value::<Activation>(given.clone()).is_ok(), ACTIVATIONS)
        }
        _ => (given.is_number(), "a number"),
    };
    if fits {
        Ok(())
    } else {
        Err(Error::config(name, format!("must be {kind}, received {given}")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hugging_face_fields_are_read_or_refused() {
        let base = r#"{"model_type": "bart", "d_model": 16, "encoder_attention_heads": 2,
            "decoder_attention_heads": 4, "scale_embedding": true, "num_beams": 4,
            "task_specific_params": {"x": 1}, "extra_pos_embeddings": 2, "classif_dropout": 0.0"#;
        let config = BartConfig::from_hugging_face(&format!("{base}}}")).unwrap();
        assert_eq!((config.d_model, config.decoder_attention_heads), (16, 4));
        assert_eq!(config.embedding_scale(), 4.0);
        assert_eq!(config.vocab_size, 50265);
        for (field, value) in [
            ("normalize_before", "true"),
            ("add_final_layer_norm", "true"),
            ("normalize_embedding", "false"),
            ("static_position_embeddings", "true"),
            ("activation_function", "\"mish\""),
            ("activation_function", "3"),
            ("tie_word_embeddings", "false"),
            ("vocab_size", "-3"),
            ("vocab_size", "\"many\""),
            ("encoder_layers", "0"),
            ("dropout", "1.5"),
            ("encoder_ffn_dim", "99999999999"),
            ("is_decoder", "true"),
            ("tie_encoder_decoder", "true"),
            ("do_blenderbot_90_layernorm", "true"),
            ("pruned_heads", "{\"0\": [1]}"),
            ("hidden_size", "24"),
            ("num_attention_heads", "8"),
        ] {
            let text = format!("{base}, \"{field}\": {value}}}");
            let error = BartConfig::from_hugging_face(&text).unwrap_err().to_string();
            assert!(error.contains(field), "{field}={value}: {error}");
        }
        let error = BartConfig::from_hugging_face(r#"{"model_type": "mbart"}"#).unwrap_err();
        assert!(error.to_string().contains("model_type"));
        assert!(BartConfig::from_hugging_face("[").is_err());
    }

    #[test]
    fn names_that_all_models_share_are_read() {
        let text = r#"{"model_type": "bart", "hidden_size": 32, "num_attention_heads": 8,
            "pruned_heads": {}, "dtype": "float16", "d_model": null}"#;
        let config = BartConfig::from_hugging_face(text).unwrap();
        assert_eq!((config.d_model, config.encoder_attention_heads), (32, 8));
    }

    #[test]
    fn activations_are_read_by_all_their_names() {
        for (name, expected) in [
            ("gelu_python", Activation::Gelu),
            ("gelu_fast", Activation::GeluNew),
            ("quick_gelu", Activation::QuickGelu),
            ("relu", Activation::Relu),
            ("swish", Activation::Silu),
            ("tanh", Activation::Tanh),
        ] {
            let text = format!(r#"{{"model_type": "bart", "activation_function": "{name}"}}"#);
            let config = BartConfig::from_hugging_face(&text).unwrap();
            assert_eq!(config.activation_function, expected);
        }
    }

    #[test]
    fn own_json_round_trips() {
        let config = BartConfig { d_model: 64, ..BartConfig::default() };
        assert_eq!(BartConfig::from_json(&config.to_json()).unwrap(), config);
        assert!(BartConfig::from_json(r#"{"d_modell": 3}"#).is_err());
        assert!(BartConfig::from_json(r#"{"d_model": 30}"#).is_err());
    }
}
