//! Token and position embeddings with their norm: the bottom of both stacks.

use std::sync::Arc;

use super::batch::Batch;
use super::layers::LayerNorm;
use super::parameter::{Parameter, Parameters};
use super::pass::Pass;
use crate::config::BartConfig;
use crate::error::Result;
use crate::ops;
use crate::ops::hidden::Hidden;
use crate::ops::step_inputs::StepInputs;

/// The token tables: in BART one, which encoder, decoder and language-model head share.
#[derive(Debug)]
pub struct TokenTables {
    /// What the encoder reads, `[vocabulary, width]`.
    pub encoder: Arc<Parameter>,
    /// What the decoder reads.
    pub decoder: Arc<Parameter>,
    /// What hidden states are compared with for the logits.
    pub head: Arc<Parameter>,
}

impl TokenTables {
    /// As many as the configuration asks for.
    pub fn new(parameters: &mut Parameters, config: &BartConfig) -> Result<Self> {
        let mut table = |name: &str| parameters.matrix(name, config.vocab_size, config.d_model);
        let (encoder, decoder) = if config.separate_embeddings {
            (table("encoder.embed_tokens.weight")?, table("decoder.embed_tokens.weight")?)
        } else {
            let shared = table("shared.weight")?;
            (shared.clone(), shared)
        };
        let head = match config.tie_word_embeddings {
            true => decoder.clone(),
            false => table("lm_head.weight")?,
        };
        Ok(TokenTables { encoder, decoder, head })
    }
}

/// `dropout(LN(scale * E[token] + P[position]))`.
#[derive(Debug)]
pub struct Embedding {
    tokens: Arc<Parameter>,
    scale: f32,
    positions: Arc<Parameter>,
    layernorm: LayerNorm,
    dropout: f64,
}

impl Embedding {
    /// The embedding of the stack `name` ("encoder" or "decoder") over a token table.
    pub fn new(
        parameters: &mut Parameters,
        name: &str,
        config: &BartConfig,
        tokens: &Arc<Parameter>,
    ) -> Result<Self> {
        let (places, width) = (config.max_position_embeddings, config.d_model);
        Ok(Embedding {
            tokens: tokens.clone(),
            scale: config.embedding_scale(),
            positions: parameters.table(
                &format!("{name}.embed_positions.weight"),
                places,
                width,
            )?,
            layernorm: LayerNorm::new(parameters, &format!("{name}.layernorm_embedding"), width)?,
            dropout: config.dropout,
        })
    }

    /// The batch's tokens as `[rows, width]`.
    pub fn forward(&self, batch: &Batch, pass: &Pass) -> Result<Hidden> {
        self.forward_step(batch, &StepInputs::default(), pass)
    }

    /// The same of a decoding step, whose rows are among `inputs`.
    pub fn forward_step(&self, batch: &Batch, inputs: &StepInputs, pass: &Pass) -> Result<Hidden> {
        let table = self.tokens.weight(pass);
        let positions = self.positions.tensor(pass);
        let rows = (batch.tokens(), batch.positions(), inputs);
        let x = ops::embed::embed_step(&table, rows, self.scale, positions)?;
        let x = self.layernorm.forward(&x, None, pass)?;
        pass.dropout(x, self.dropout)
    }
}
