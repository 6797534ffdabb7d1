//! The whole model: two stacks over their token tables, and the language-model head.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use candle_core::{DType, Tensor};

use super::adapters::Adapters;
use super::batch::Batch;
use super::cache::{CachedRows, DecoderCache};
use super::decoder::Decoder;
use super::embedding::TokenTables;
use super::encoder::Encoder;
use super::parameter::{Initialisation, Parameter, Parameters};
use super::pass::Pass;
use super::precision::Precision;
use super::steps::{Leaves, Left, Steps};
use crate::config::BartConfig;
use crate::error::{Error, Result};
use crate::ops;
use crate::ops::cross_entropy::RowLosses;
use crate::ops::hidden::{self, Hidden};
use crate::ops::place::Place;

/// BART with its language-model head.
#[derive(Debug)]
pub struct BartModel {
    config: BartConfig,
    precision: Precision,
    place: Place,
    tokens: TokenTables,
    encoder: Encoder,
    decoder: Decoder,
    final_logits_bias: Option<Arc<Parameter>>,
    parameters: Vec<Arc<Parameter>>,
    adapters: Adapters,
    recomputes: AtomicBool,
    training: Mutex<()>,
    kept: Mutex<Option<Steps>>,
}

impl BartModel {
    /// A model of the given sizes in float32.
    ///
    /// # Errors
    /// As for [`Self::with_precision`].
    pub fn new(config: BartConfig, initialisation: Initialisation) -> Result<Self> {
        Self::with_precision(config, initialisation, Precision::Float32)
    }

    /// A model of the given sizes.
    ///
    /// # Errors
    /// `Config` if the sizes cannot be a model, `Argument` if they cannot have the precision,
    /// `Memory` if there is no room for it.
    pub fn with_precision(
        config: BartConfig,
        initialisation: Initialisation,
        precision: Precision,
    ) -> Result<Self> {
        config.validate()?;
        Error::check_room("a model of these sizes", config.parameter_count())?;
        Self::of(config, Parameters::new(initialisation, precision, Place::Kernels))
    }

    /// The model with another number of token ids, in the same precision. All parameters whose shape
    /// does not depend on it are the same ones, in both models; the others are zero.
    ///
    /// # Errors
    /// As for [`Self::new`].
    pub fn with_vocabulary(&self, vocab_size: usize) -> Result<Self> {
        let config = BartConfig { vocab_size, ..self.config.clone() };
        config.validate()?;
        let without = BartConfig { vocab_size: 0, ..config.clone() };
        let tables = config.parameter_count() - without.parameter_count();
        Error::check_room("token tables of this size", tables)?;
        let place = self.place.clone();
        let parameters = Parameters::taking_over(&self.parameters, self.precision, place);
        self.with_training_of_mine(Self::of(config, parameters)?)
    }

    /// `other` with the same adapters, and the same of it trained.
    fn with_training_of_mine(&self, other: Self) -> Result<Self> {
        for parameter in &other.parameters {
            if let Some(mine) = self.parameters.iter().find(|p| p.name() == parameter.name()) {
                parameter.set_trainable(mine.is_trainable());
            }
        }
        other.set_recomputes(self.recomputes());
        let adapters = self.adapters.carried_to(&other.parameters)?;
        Ok(BartModel { adapters, ..other })
    }

    fn of(config: BartConfig, mut parameters: Parameters) -> Result<Self> {
        let (precision, place) = (parameters.precision(), parameters.place().clone());
        let tokens = TokenTables::new(&mut parameters, &config)?;
        let encoder = Encoder::new(&mut parameters, &config, &tokens.encoder)?;
        let decoder = Decoder::new(&mut parameters, &config, &tokens.decoder)?;
        let final_logits_bias = config
            .final_logits_bias
            .then(|| parameters.vector("final_logits_bias", config.vocab_size, 0.0))
            .transpose()?;
        let parameters = parameters.into_list();
        Ok(BartModel {
            config,
            precision,
            place,
            tokens,
            encoder,
            decoder,
            final_logits_bias,
            parameters,
            adapters: Adapters::default(),
            recomputes: AtomicBool::new(false),
            training: Mutex::new(()),
            kept: Mutex::default(),
        })
    }

    /// A copy in another precision. One matrix at a time is held in float32 beside both.
    ///
    /// # Errors
    /// As for [`Self::with_precision`], and `Weights` if the precision cannot hold a value.
    pub fn to_precision(&self, precision: Precision) -> Result<Self> {
        self.copied_to(precision, self.place.clone())
    }

    /// A copy at another place.
    ///
    /// # Errors
    /// `Memory` if there is no room for it, and what the device reports.
    pub fn to_place(&self, place: Place) -> Result<Self> {
        self.copied_to(self.precision, place)
    }

    fn copied_to(&self, precision: Precision, place: Place) -> Result<Self> {
        if place.device().is_cpu() {
            Error::check_room("a model of these sizes", self.config.parameter_count())?;
        }
        let parameters = Parameters::new(Initialisation::Zeros, precision, place);
        let other = Self::of(self.config.clone(), parameters)?;
        for (from, to) in self.parameters.iter().zip(&other.parameters) {
            match from.int8_values()? {
                Some((values, scales)) if precision == self.precision => {
                    to.assign_int8(&values, &scales)?;
                }
                _ => to.assign(&from.values()?)?,
            }
        }
        self.with_training_of_mine(other)
    }

    /// Where its tensors are.
    pub fn place(&self) -> &Place {
        &self.place
    }

    /// In which numbers its weights are kept and multiplied.
    pub fn precision(&self) -> Precision {
        self.precision
    }

    /// Its sizes and switches.
    pub fn config(&self) -> &BartConfig {
        &self.config
    }

    /// All parameters, in the order of the checkpoint.
    pub fn parameters(&self) -> &[Arc<Parameter>] {
        &self.parameters
    }

    /// Those that BART learns: all but the stored logits bias, which it keeps fixed.
    pub fn learned(&self) -> impl Iterator<Item = &Arc<Parameter>> {
        self.parameters.iter().filter(|parameter| parameter.name() != "final_logits_bias")
    }

    /// Those that training changes: the learned ones that are not frozen, and those of the adapter in
    /// use.
    pub fn trainable(&self) -> Vec<Arc<Parameter>> {
        let base = self.learned().filter(|parameter| parameter.is_trainable()).cloned();
        base.chain(self.adapters.trainable()).collect()
    }

    /// Its named sets of low-rank additions.
    pub(super) fn adapters(&self) -> &Adapters {
        &self.adapters
    }

    /// Refuses training of weights that are too coarse for it, which the model's precision may keep.
    ///
    /// # Errors
    /// `Argument` naming the way out.
    pub fn check_trainable(&self) -> Result<()> {
        let coarse = |p: &Arc<Parameter>| p.is_trainable() && !p.keeps_float32();
        if self.learned().any(coarse) { self.precision.check_trainable() } else { Ok(()) }
    }

    /// Whether training keeps a layer's input alone and computes the rest again in the backward pass.
    pub fn recomputes(&self) -> bool {
        self.recomputes.load(Ordering::Relaxed)
    }

    /// Says so, from the next step on.
    pub fn set_recomputes(&self, recomputes: bool) {
        self.recomputes.store(recomputes, Ordering::Relaxed);
    }

    /// A pass of training as this model does it.
    pub fn training_pass(&self, seed: u64) -> Pass<'static> {
        Pass::training(seed).recomputing(self.recomputes())
    }

    /// Held during a training step: gradients gather in buffers of the model, one step at a time.
    pub fn lock_for_training(&self) -> MutexGuard<'_, ()> {
        // Training needs the memory.
        *self.kept() = None;
        self.training.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The encoder's output `[source rows, width]`.
    pub fn encode(&self, source: &Batch, pass: &Pass) -> Result<Hidden> {
        self.check_room(source.rows(), self.config.encoder_ffn_dim)?;
        let memory = self.place.alone(|| self.encoder.forward(source, pass));
        hidden::trim();
        if memory.is_err() {
            // The memory may be what is missing.
            *self.kept() = None;
        }
        memory
    }

    /// The decoder's output `[target rows, width]` for whole targets.
    pub fn decode(
        &self,
        target: &Batch,
        memory: &Hidden,
        source: &Batch,
        pass: &Pass,
    ) -> Result<Hidden> {
        self.check_room(target.rows(), self.config.decoder_ffn_dim)?;
        let states = self.place.alone(|| self.decoder.forward(target, memory, source, pass));
        hidden::trim();
        states
    }

    /// The weights that some decoder layers give the source: see [`Decoder::cross_attention`].
    pub fn cross_attention(
        &self,
        target: &Batch,
        memory: &Hidden,
        source: &Batch,
        layers: &[usize],
        pass: &Pass,
        take: &mut dyn FnMut(usize, &[f32]) -> Result<()>,
    ) -> Result<()> {
        self.check_room(target.rows(), self.config.decoder_ffn_dim)?;
        let decoder = &self.decoder;
        self.place.alone(|| decoder.cross_attention(target, memory, source, layers, pass, take))
    }

    /// Computes and stores the keys and values of each source.
    pub(super) fn remember_sources(
        &self,
        memory: &Hidden,
        source: &Batch,
        cache: &mut DecoderCache,
    ) -> Result<()> {
        self.decoder.remember_sources(memory, source, cache)
    }

    /// What the last generation has left to the next.
    pub(super) fn kept(&self) -> MutexGuard<'_, Option<Steps>> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The decoder's output `[rows, width]` for new rows at the places `slots` of `cache`, which has yet to
    /// [count](DecoderCache::advance) them. On a card the caller has it [alone](Place::alone).
    pub fn decode_step(
        &self,
        rows: &Batch,
        slots: &CachedRows,
        cache: &mut DecoderCache,
    ) -> Result<Hidden> {
        self.decoder.step(rows, slots, cache)
    }

    /// Scores of every token `[rows, vocabulary]` after hidden states `[rows, width]`.
    pub fn logits(&self, hidden: &Hidden, pass: &Pass) -> Result<Hidden> {
        self.check_room_for_logits(hidden)?;
        let (weight, bias) = self.head(pass);
        Ok(self.place.alone(|| ops::linear::linear(hidden, &weight, bias))?)
    }

    /// The cross entropy of `targets` under [`Self::logits`], which then stand in memory once: the loss and what
    /// each row's was, for ids, scales of the rows and label smoothing. `None` where it gains nothing.
    pub fn head_loss(
        &self,
        hidden: &Hidden,
        targets: (&[u32], &[f32], f32),
        pass: &Pass,
    ) -> Result<Option<(Tensor, Arc<RowLosses>)>> {
        self.check_room_for_logits(hidden)?;
        let (weight, bias) = self.head(pass);
        Ok(ops::head_loss::head_loss(hidden, &weight, bias, targets)?)
    }

    /// The same into memory that is kept; for inference.
    pub fn scores(&self, hidden: &Hidden, out: &mut Vec<f32>) -> Result<()> {
        self.check_room_for_logits(hidden)?;
        let (weight, bias) = self.head(&Pass::inference());
        Ok(self.place.alone(|| ops::head::scores(hidden, &weight, bias, out))?)
    }

    /// What is asked of the first `limit` scores of each row, without the others; `false` if that is
    /// not to be had (see [`ops::head::best`]).
    pub fn best_scores(
        &self,
        hidden: &Hidden,
        (limit, ask): (usize, ops::head::Ask),
        screening: &mut ops::head::Screening,
        best: &mut ops::head::Best,
    ) -> Result<bool> {
        let (weight, bias) = self.head(&Pass::inference());
        let wanted = (limit, ask);
        let found = || ops::head::best(hidden, &weight, bias, wanted, screening, best);
        Ok(self.place.alone(found)?)
    }

    /// Has a card compute what a step leaves, given its hidden states; nothing where no kernel of it does.
    ///
    /// # Errors
    /// What the card reports.
    pub fn leave(&self, hidden: &Hidden, leaves: Leaves) -> Result<Left> {
        let (weight, bias) = self.head(&Pass::inference());
        let left = match leaves {
            Leaves::Nothing => None,
            Leaves::Scores => ops::head::scores_on_card(hidden, &weight, bias)?.map(Left::Scores),
            Leaves::Best { limit, count } => {
                ops::head::find(hidden, &weight, bias, (limit, count))?.map(Left::Best)
            }
        };
        Ok(left.unwrap_or(Left::Nothing))
    }

    /// Weight and bias of the head; the bias is never trained.
    fn head(&self, pass: &Pass) -> (ops::weight::Weight, Option<&Tensor>) {
        let untrained = Pass::inference();
        let bias = self.final_logits_bias.as_ref().map(|bias| bias.tensor(&untrained));
        (self.tokens.head.weight(pass), bias)
    }

    /// Refuses rows whose logits would not fit into memory.
    fn check_room_for_logits(&self, hidden: &Hidden) -> Result<()> {
        let count = product(&[hidden.rows(), self.config.vocab_size]);
        Error::check_room("the logits of this batch", count)
    }

    /// Refuses a batch whose widest layer alone would not fit into memory.
    fn check_room(&self, rows: usize, inner: usize) -> Result<()> {
        // Queries, keys, values, their result and the residual stand beside the inner values.
        Error::check_room("this batch", product(&[rows, 5 * self.config.d_model + inner]))
    }

    /// Rows of the encoder's token table `[tokens, width]`, not scaled.
    pub fn embed(&self, tokens: &[u32]) -> Result<Hidden> {
        let nowhere = Tensor::zeros((1, self.config.d_model), DType::F32, self.place.device())?;
        let places = vec![0; tokens.len()];
        let table = self.tokens.encoder.weight(&Pass::inference());
        Ok(ops::embed::embed(&table, tokens, 1.0, &nowhere, &places)?)
    }
}

/// The product of sizes, at most the largest number.
pub(super) fn product(sizes: &[usize]) -> u64 {
    sizes.iter().fold(1, |product, &size| product.saturating_mul(size as u64))
}
