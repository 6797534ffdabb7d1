//! Reads Hugging Face's `config.json`: what changes the numbers is honoured or refused by its name.

use serde_json::{Map, Value};

use super::{Activation, BartConfig, Family};
use crate::error::{Error, Result};

/// Families that look like BART and compute otherwise: what differs, by a field or in words.
const OTHER_FAMILIES: [(&str, &str); 16] = [
    ("bigbird_pegasus", "attention that is sparse (`attention_type`) and no bias in it"),
    ("blenderbot", "no norm of the embeddings (`normalize_embedding`)"),
    ("blenderbot-small", "the decoder's norm before positions (`do_blenderbot_90_layernorm`)"),
    ("fsmt", "sinusoidal positions and two vocabularies (`src_vocab_size`, `tgt_vocab_size`)"),
    ("led", "attention within windows (`attention_window`)"),
    ("longt5", "relative positions (`relative_attention_num_buckets`)"),
    ("m2m_100", "sinusoidal positions (`static_position_embeddings`)"),
    ("marian", "sinusoidal positions (`static_position_embeddings`)"),
    ("mt5", "relative positions (`relative_attention_num_buckets`)"),
    ("mvp", "prompts in its attention (`use_prompt`)"),
    ("nllb-moe", "a choice of experts (`num_experts`) and sinusoidal positions"),
    ("pegasus", "sinusoidal positions (`static_position_embeddings`)"),
    ("pegasus_x", "attention in blocks (`block_size`) and sinusoidal positions"),
    ("prophetnet", "predictions of n-grams (`ngram`)"),
    ("t5", "relative positions (`relative_attention_num_buckets`)"),
    ("umt5", "relative positions (`relative_attention_num_buckets`)"),
];

impl Family {
    /// What Hugging Face's configuration of the family says where `config.json` is silent.
    fn defaults(self) -> BartConfig {
        let bart = BartConfig { model_type: self, ..BartConfig::default() };
        match self {
            Family::Bart => bart,
            Family::Mbart => {
                BartConfig { normalize_before: true, add_final_layer_norm: true, ..bart }
            }
            Family::Plbart => BartConfig {
                vocab_size: 50005,
                d_model: 768,
                encoder_layers: 6,
                decoder_layers: 6,
                encoder_attention_heads: 12,
                decoder_attention_heads: 12,
                encoder_ffn_dim: 3072,
                decoder_ffn_dim: 3072,
                attention_dropout: 0.1,
                scale_embedding: true,
                ..bart
            },
        }
    }

    fn read(fields: &Map<String, Value>) -> Result<Self> {
        let Some(name) = fields.get("model_type") else {
            let message = "is missing, so this is not a BART checkpoint";
            return Err(Error::config("model_type", message));
        };
        if let Ok(family) = serde_json::from_value(name.clone()) {
            return Ok(family);
        }
        let other = OTHER_FAMILIES.iter().find(|(other, _)| name.as_str() == Some(other));
        let which = other.map_or(String::new(), |(_, what)| format!(", which has {what}"));
        let message = format!("received {name}{which}; supported are bart, mbart and plbart");
        Err(Error::config("model_type", message))
    }
}

impl BartConfig {
    /// Reads a Hugging Face `config.json` written by transformers 3 to 5, of a BART, mBART or PLBART.
    ///
    /// Whether encoder and decoder have token tables of their own is for the weights to say.
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
        let family = Family::read(&fields)?;
        refuse_other_arithmetic(&fields, family)?;
        let mut ours = serde_json::to_value(family.defaults()).expect("serialises");
        let slots = ours.as_object_mut().expect("a struct is an object");
        for (name, slot) in slots.iter_mut() {
            match name.as_str() {
                "model_type" | "separate_embeddings" => {}
                // A stored bias is announced by the weights, not by the config.
                "final_logits_bias" => *slot = Value::Bool(true),
                name => {
                    if let Some(given) = given(&fields, name)? {
                        check_kind(name, slot, given)?;
                        *slot = given.clone();
                    }
                }
            }
        }
        let config: BartConfig = serde_json::from_value(ours)
            .map_err(|e| Error::config("config.json", e.to_string()))?;
        config.validate()?;
        Ok(config)
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
fn refuse_other_arithmetic(fields: &Map<String, Value>, family: Family) -> Result<()> {
    let supported = [
        ("normalize_embedding", Value::Bool(true)),
        ("static_position_embeddings", Value::Bool(false)),
        ("is_encoder_decoder", Value::Bool(true)),
        ("extra_pos_embeddings", Value::from(2)),
        ("is_decoder", Value::Bool(false)),
        ("tie_encoder_decoder", Value::Bool(false)),
        ("do_blenderbot_90_layernorm", Value::Bool(false)),
        ("pruned_heads", Value::Object(Map::new())),
    ];
    // Version 3 of transformers had these fields for BART; the other families are what they are.
    let pre_norm = Value::Bool(family == Family::Mbart);
    let norms = [("normalize_before", pre_norm.clone()), ("add_final_layer_norm", pre_norm)];
    let fixed = if family == Family::Bart { &[][..] } else { &norms[..] };
    for (name, only) in supported.iter().chain(fixed) {
        match fields.get(*name) {
            None | Some(Value::Null) => {}
            Some(given) if given == only => {}
            Some(given) => {
                return Err(Error::config(
                    *name,
                    format!("received {given}, but only {only} is supported"),
                ));
            }
        }
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
    fn fields_are_read_or_refused() {
        let base = r#"{"model_type": "bart", "d_model": 16, "encoder_attention_heads": 2,
            "decoder_attention_heads": 4, "scale_embedding": true, "num_beams": 4,
            "task_specific_params": {"x": 1}, "extra_pos_embeddings": 2, "classif_dropout": 0.0"#;
        let config = BartConfig::from_hugging_face(&format!("{base}}}")).unwrap();
        assert_eq!((config.d_model, config.decoder_attention_heads), (16, 4));
        assert_eq!(config.embedding_scale(), 4.0);
        assert_eq!(config.vocab_size, 50265);
        for (field, value) in [
            ("normalize_before", "1"),
            ("add_final_layer_norm", "\"yes\""),
            ("normalize_embedding", "false"),
            ("static_position_embeddings", "true"),
            ("activation_function", "\"mish\""),
            ("activation_function", "3"),
            ("tie_word_embeddings", "0"),
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
        assert!(BartConfig::from_hugging_face("[").is_err());
    }

    #[test]
    fn families_have_their_arithmetic_and_others_are_refused_by_name() {
        let read = |text: &str| BartConfig::from_hugging_face(text);
        let mbart = read(r#"{"model_type": "mbart", "normalize_before": true}"#).unwrap();
        assert!(mbart.normalize_before && mbart.add_final_layer_norm && !mbart.scale_embedding);
        let plbart = read(r#"{"model_type": "plbart"}"#).unwrap();
        assert!(!plbart.normalize_before && plbart.scale_embedding);
        assert_eq!((plbart.vocab_size, plbart.d_model, plbart.encoder_layers), (50005, 768, 6));
        let old = read(r#"{"model_type": "bart", "normalize_before": true}"#).unwrap();
        assert!(old.normalize_before && !old.add_final_layer_norm);
        let untied = r#"{"model_type": "bart", "tie_word_embeddings": false,
            "separate_embeddings": true}"#;
        let untied = read(untied).unwrap();
        assert!(!untied.tie_word_embeddings && !untied.separate_embeddings);
        for (text, named) in [
            (r#"{"model_type": "mbart", "normalize_before": false}"#, "normalize_before"),
            (r#"{"model_type": "plbart", "add_final_layer_norm": true}"#, "add_final_layer_norm"),
            (r#"{"model_type": "marian"}"#, "static_position_embeddings"),
            (r#"{"model_type": "led"}"#, "attention_window"),
            (r#"{"model_type": "gpt2"}"#, "received \"gpt2\"; supported are bart, mbart"),
            (r#"{"model_type": 3}"#, "received 3; supported"),
            (r#"{"d_model": 3}"#, "`model_type`: is missing"),
        ] {
            let error = read(text).unwrap_err().to_string();
            assert!(error.contains(named), "{text}: {error}");
        }
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
}
