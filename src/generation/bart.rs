//! The real model behind [`StepModel`]: BART over its caches.

use std::sync::Arc;

use super::model::{PromptRow, Scores, StepModel, StepRow, Wanted};
use crate::error::{Error, Result};
use crate::model::{BartModel, Batch, CachedRows, DecoderCache, Pass, StopCheck};
use crate::ops::hidden::{self, Hidden};
use crate::ops::recording::{Output, Recordings};
use crate::ops::{self, Way, head};

/// One generation of a BART model over encoded sources.
#[derive(Debug)]
pub struct BartDecoder {
    model: Arc<BartModel>,
    source: Batch,
    memory: Hidden,
    cache: Option<DecoderCache>,
    /// Of the tokens that were fed last.
    hidden: Option<Output>,
    /// The rows of `hidden` after which scores were wanted; none: after all.
    wanted: Vec<u32>,
    screening: head::Screening,
    /// The rows of a step and their places, kept for the memory they have.
    rows: Batch,
    places: CachedRows,
    recordings: Recordings,
}

impl BartDecoder {
    /// Encodes the sources, once for the whole generation; `stop` is asked before each layer.
    ///
    /// # Errors
    /// `Argument` for ids or positions outside the model's tables, and what `stop` returns.
    pub fn new(model: Arc<BartModel>, source: Batch, stop: &StopCheck) -> Result<Self> {
        source.check("encoder_token_ids", model.config())?;
        let memory = model.encode(&source, &Pass::inference().stopped_by(stop))?;
        Ok(BartDecoder {
            model,
            source,
            memory,
            cache: None,
            hidden: None,
            wanted: Vec::new(),
            screening: head::Screening::default(),
            rows: Batch::default(),
            places: CachedRows::default(),
            recordings: Recordings::default(),
        })
    }

    /// Feeds `self.rows` to the cache: the prompts, or those of a further step.
    fn feed(&mut self, slots: impl IntoIterator<Item = usize>, further: bool) -> Result<()> {
        self.rows.check("decoder_token_ids", self.model.config())?;
        let cache = self.cache.as_mut().ok_or_else(|| {
            Error::argument("prompts", "a step was asked for before any prompt was fed")
        })?;
        cache.place(slots, &mut self.places);
        // Gone before the new one is made, which can have its memory.
        self.hidden = None;
        let BartDecoder { model, rows, places, recordings, .. } = self;
        let hidden = model.place().alone(|| {
            if places.bring_to(model.place(), rows, cache)? {
                recordings.forget();
            }
            let mut step = || model.decode_step(rows, places, cache);
            match further {
                true => recordings.run(model.place(), rows.rows(), step),
                false => step().map(Output::New),
            }
        })?;
        // Here, since a recorded step does only what the card does.
        cache.advance(places);
        self.hidden = Some(hidden);
        Ok(())
    }

    /// Leaves what is wanted of the scores after the rows of the last pass that count.
    fn score(&mut self, wanted: Wanted, scores: &mut Scores) -> Result<()> {
        let Some(hidden) = &self.hidden else { return Ok(()) };
        let chosen = match self.wanted.is_empty() {
            true => None,
            false => Some(self.model.place().alone(|| hidden.select(&self.wanted))?),
        };
        let hidden = chosen.as_ref().unwrap_or(hidden);
        let screening = &mut self.screening;
        if let Wanted::Best { ask, limit } = wanted
            && self.model.best_scores(hidden, (limit, ask), screening, scores.best_mut())?
        {
            return Ok(());
        }
        self.model.scores(hidden, scores.all_mut())
    }
}

impl Drop for BartDecoder {
    fn drop(&mut self) {
        self.hidden = None;
        self.cache = None;
        hidden::trim();
        self.model.place().trim();
    }
}

impl StepModel for BartDecoder {
    fn vocabulary_size(&self) -> usize {
        self.model.config().vocab_size
    }

    fn prefill(
        &mut self,
        prompts: &[PromptRow<'_>],
        slots_per_source: usize,
        wanted: Wanted,
        scores: &mut Scores,
    ) -> Result<()> {
        let sources = self.source.sequences();
        let slot_sources: Vec<usize> =
            (0..sources * slots_per_source).map(|slot| slot / slots_per_source).collect();
        let mut capacities = vec![0; slot_sources.len()];
        for prompt in prompts {
            let first = prompt.source * slots_per_source;
            capacities[first..first + slots_per_source].fill(prompt.capacity);
        }
        let cache =
            self.model.start_decoding(&self.memory, &self.source, &capacities, slot_sources)?;
        self.cache = Some(cache);
        self.rows = Batch::from_sequences(prompts.iter().map(|prompt| (prompt.tokens, None)));
        self.wanted.clear();
        self.wanted.extend(self.rows.offsets()[1..].iter().map(|&end| end as u32 - 1));
        let slots =
            prompts.iter().flat_map(|prompt| std::iter::repeat_n(prompt.slot, prompt.tokens.len()));
        self.feed(slots, false)?;
        self.score(wanted, scores)
    }

    fn step(&mut self, rows: &[StepRow], wanted: Wanted, scores: &mut Scores) -> Result<()> {
        self.rows.set_single_rows(rows.iter().map(|row| (row.token, row.position as u32)));
        self.wanted.clear();
        self.feed(rows.iter().map(|row| row.slot), true)?;
        self.score(wanted, scores)
    }

    fn all_scores(&mut self, scores: &mut Scores) -> Result<()> {
        self.score(Wanted::All, scores)
    }

    fn hidden_states(&self, hidden: &mut Vec<f32>) -> Result<()> {
        hidden.clear();
        if let Some(states) = &self.hidden {
            let place = self.model.place();
            place.alone(|| states.read(|states| hidden.extend_from_slice(states)))?;
        }
        Ok(())
    }

    fn is_batch_invariant(&self) -> bool {
        ops::way() == Way::Kernel && self.model.place().has_kernels()
    }

    fn rewind(&mut self, slot: usize, length: usize) -> Result<()> {
        if let Some(cache) = &mut self.cache {
            cache.rewind(slot, length);
        }
        Ok(())
    }

    fn reorder(&mut self, moves: &[(usize, usize)]) -> Result<()> {
        if let Some(cache) = &mut self.cache {
            cache.reorder(moves);
        }
        Ok(())
    }
}

#[cfg(test)]
#[path = "bart_tests.rs"]
mod tests;
