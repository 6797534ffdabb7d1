//! The real model behind [`StepModel`]: BART over its caches.

mod ahead;

use std::sync::Arc;

use self::ahead::Ahead;
use super::model::{PromptRow, Scores, StepModel, StepRow, Wanted};
use crate::error::{Error, Result};
use crate::model::{BartModel, Batch, Leaves, Pass, Passed, Steps, StopCheck};
use crate::ops::choices::{Beams, Choices};
use crate::ops::head;
use crate::ops::hidden::{self, Hidden};
use crate::ops::recording::Output;
use crate::ops::{self, Way};

/// One generation of a BART model over encoded sources.
#[derive(Debug)]
pub struct BartDecoder {
    model: Arc<BartModel>,
    source: Batch,
    memory: Hidden,
    steps: Option<Steps>,
    /// What the last pass gave.
    passed: Option<Output<Passed>>,
    /// The rows of `passed` after which scores were wanted; none: after all.
    wanted: Vec<u32>,
    screening: head::Screening,
    /// The rows of a step, kept for the memory they have.
    rows: Batch,
    /// How tokens are chosen after the step that comes next.
    choices: Choices,
    /// The beams of the step that comes next, if they were told.
    beams: Beams,
    expects: bool,
    /// Which slots continue which since the last step.
    moves: Vec<(usize, usize)>,
    ahead: Option<Ahead>,
    /// The rows of the last step.
    last: Vec<StepRow>,
    /// Whether the last pass came to its end: if not, nobody is to go on with what it left.
    is_whole: bool,
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
            steps: None,
            passed: None,
            wanted: Vec::new(),
            screening: head::Screening::default(),
            rows: Batch::default(),
            choices: Choices::default(),
            beams: Beams::default(),
            expects: false,
            moves: Vec::new(),
            ahead: None,
            last: Vec::new(),
            is_whole: false,
        })
    }

    /// Feeds `self.rows` to the cache: those of a further step, and what it leaves, or the prompts.
    fn feed(
        &mut self,
        slots: impl IntoIterator<Item = usize>,
        leaves: Option<Leaves>,
    ) -> Result<()> {
        self.rows.check("decoder_token_ids", self.model.config())?;
        let BartDecoder { model, rows, .. } = self;
        let steps = self.steps.as_mut().ok_or_else(|| {
            Error::argument("prompts", "a step was asked for before any prompt was fed")
        })?;
        let Steps { cache, places, recordings, .. } = steps;
        cache.place(slots, places);
        // Gone before the new one is made, which can have its memory.
        self.passed = None;
        let passed = model.place().alone(|| {
            if places.bring_to(model.place(), rows, cache, leaves.is_some())? {
                recordings.forget();
            }
            let mut step = |leaves| -> Result<_> {
                let hidden = model.decode_step(rows, places, cache)?;
                let left = model.leave(&hidden, leaves)?;
                Ok(Passed { hidden, left })
            };
            let count = places.inputs().rows().unwrap_or(rows.rows());
            match leaves {
                Some(leaves) => recordings.run(model.place(), (count, leaves), || step(leaves)),
                None => step(Leaves::Nothing).map(Output::New),
            }
        })?;
        // Here, since a recorded step does only what the card does.
        cache.advance(places);
        if leaves.is_some() {
            // A card may have filled up the rows.
            let is_longer = passed.hidden.rows() > rows.rows();
            self.wanted.clear();
            self.wanted.extend((0..rows.rows() as u32).filter(|_| is_longer));
        }
        self.passed = Some(passed);
        Ok(())
    }

    /// The rows of the last pass, which fed so many, that count.
    fn counting(&self, rows: usize) -> Vec<u32> {
        match self.wanted.is_empty() {
            true => (0..rows as u32).collect(),
            false => self.wanted.clone(),
        }
    }

    /// Leaves what is wanted of the scores after the rows of the last pass that count.
    fn score(&mut self, wanted: Wanted, scores: &mut Scores) -> Result<()> {
        let Some(Passed { hidden, .. }) = self.passed.as_deref() else { return Ok(()) };
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
        self.ahead = None;
        self.passed = None;
        if let Some(steps) = self.steps.take().filter(|_| self.is_whole) {
            self.model.keep(steps);
        }
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
        self.is_whole = false;
        self.ahead = None;
        let (memory, source) = (&self.memory, &self.source);
        let steps = self.model.start_decoding(memory, source, &capacities, slot_sources)?;
        self.steps = Some(steps);
        self.rows = Batch::from_sequences(prompts.iter().map(|prompt| (prompt.tokens, None)));
        self.wanted.clear();
        self.wanted.extend(self.rows.offsets()[1..].iter().map(|&end| end as u32 - 1));
        let slots =
            prompts.iter().flat_map(|prompt| std::iter::repeat_n(prompt.slot, prompt.tokens.len()));
        self.feed(slots, None)?;
        self.score(wanted, scores)?;
        self.is_whole = true;
        Ok(())
    }

    fn step(&mut self, rows: &[StepRow], wanted: Wanted, scores: &mut Scores) -> Result<()> {
        self.is_whole = false;
        rows.clone_into(&mut self.last);
        if self.steps.as_mut().is_some_and(Steps::follow_additions) {
            self.ahead = None;
        }
        let model = self.model.clone();
        let done = model.place().alone(|| {
            if !self.take_ahead(rows, wanted) {
                self.feed_further(rows, wanted)?;
            }
            let is_there = match wanted {
                Wanted::All => false,
                Wanted::Chosen => self.choose(rows, scores)?,
                Wanted::Best { ask, .. } => self.find(rows, (wanted, ask), scores)?,
            };
            if is_there {
                return Ok(());
            }
            self.feed_again(rows)?;
            self.score(wanted, scores)
        });
        self.moves.clear();
        self.expects = false;
        self.is_whole = done.is_ok();
        done
    }

    fn all_scores(&mut self, scores: &mut Scores) -> Result<()> {
        self.is_whole = false;
        let last = std::mem::take(&mut self.last);
        self.feed_again(&last)?;
        self.last = last;
        self.score(Wanted::All, scores)?;
        self.is_whole = true;
        Ok(())
    }

    fn hidden_states(&self, hidden: &mut Vec<f32>) -> Result<()> {
        hidden.clear();
        if let Some(Passed { hidden: states, .. }) = self.passed.as_deref() {
            let floats = self.rows.rows() * states.width();
            let place = self.model.place();
            place.alone(|| states.read(|states| hidden.extend_from_slice(&states[..floats])))?;
        }
        Ok(())
    }

    fn chooses(&self) -> bool {
        self.steps.as_ref().is_some_and(|steps| steps.cache.is_on_card())
    }

    fn choose_by(&mut self, choices: &mut Choices) {
        std::mem::swap(&mut self.choices, choices);
    }

    fn expect_beams(&mut self, beams: &mut Beams) {
        std::mem::swap(&mut self.beams, beams);
        self.expects = true;
    }

    fn is_batch_invariant(&self) -> bool {
        ops::way() == Way::Kernel && self.model.place().has_kernels()
    }

    fn rewind(&mut self, slot: usize, length: usize) -> Result<()> {
        if let Some(steps) = &mut self.steps {
            steps.cache.rewind(slot, length);
        }
        Ok(())
    }

    fn reorder(&mut self, moves: &[(usize, usize)]) -> Result<()> {
        if let Some(steps) = &mut self.steps {
            steps.cache.reorder(moves);
        }
        if !self.moves.is_empty() {
            // What the card has gone on with was compared with one reordering.
            self.ahead = None;
        }
        moves.clone_into(&mut self.moves);
        Ok(())
    }
}

#[cfg(test)]
mod tests;
