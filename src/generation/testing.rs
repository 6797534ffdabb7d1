//! A model for tests: its logits are a function of the history, so the expected output is exact.
//! It checks that the loop keeps to the contract of [`StepModel`].

use std::sync::Arc;

use super::{Input, Options, PromptRow, Scores, Sequence, StepModel, StepRow, Wanted, generate};
use crate::error::Result;

type Logits = Box<dyn Fn(usize, &[u32]) -> Vec<f32>>;
type Hidden = Box<dyn Fn(&[u32]) -> Vec<f32>>;

/// Keeps a history for each slot and computes logits from (source, history).
pub(super) struct FakeModel {
    vocabulary: usize,
    logits: Logits,
    hidden: Option<Hidden>,
    /// Hidden states of the tokens fed last.
    states: Vec<f32>,
    slots_per_source: usize,
    slots: Vec<Option<(Vec<u32>, usize)>>,
    /// How many rows each pass of the model had.
    pub passes: Vec<usize>,
    pub is_batch_invariant: bool,
    /// Whether it leaves the best scores alone where they are wanted.
    pub leaves_the_best: bool,
    /// How often it did.
    pub best_alone: usize,
    last: Vec<f32>,
}

impl FakeModel {
    pub fn new(vocabulary: usize, logits: impl Fn(usize, &[u32]) -> Vec<f32> + 'static) -> Self {
        let logits = Box::new(logits);
        Self {
            vocabulary,
            logits,
            hidden: None,
            states: Vec::new(),
            slots_per_source: 0,
            slots: Vec::new(),
            passes: Vec::new(),
            is_batch_invariant: true,
            leaves_the_best: true,
            best_alone: 0,
            last: Vec::new(),
        }
    }

    /// Adds hidden states as a function of the history up to a token. What is then fed may be a
    /// last token, which nothing follows.
    pub fn with_hidden(mut self, hidden: impl Fn(&[u32]) -> Vec<f32> + 'static) -> Self {
        self.hidden = Some(Box::new(hidden));
        self
    }

    fn score(&self, slot: usize) -> Vec<f32> {
        let (history, _) = self.slots[slot].as_ref().expect("the slot has a history");
        let row = (self.logits)(slot / self.slots_per_source, history);
        assert_eq!(row.len(), self.vocabulary);
        row
    }

    /// Leaves what is wanted of the last scores.
    fn leave(&mut self, wanted: Wanted, scores: &mut Scores) {
        scores.all_mut().clone_from(&self.last);
        let Wanted::Best { ask, limit } = wanted else { return };
        let rows: Vec<f32> =
            self.last.chunks(self.vocabulary).flat_map(|row| row[..limit].to_vec()).collect();
        if self.leaves_the_best && rows.iter().all(|x| x.is_finite()) {
            scores.best_mut().of_rows(&rows, limit, ask);
            self.best_alone += 1;
        }
    }
}

impl StepModel for FakeModel {
    fn vocabulary_size(&self) -> usize {
        self.vocabulary
    }

    fn prefill(
        &mut self,
        prompts: &[PromptRow<'_>],
        slots_per_source: usize,
        wanted: Wanted,
        scores: &mut Scores,
    ) -> Result<()> {
        assert!(self.passes.is_empty(), "prompts come first and once");
        self.passes.push(prompts.len());
        self.slots_per_source = slots_per_source;
        self.last.clear();
        for row in prompts {
            assert!(!row.tokens.is_empty() && row.tokens.len() < row.capacity);
            assert_eq!(row.slot / slots_per_source, row.source);
            self.slots.resize(self.slots.len().max((row.source + 1) * slots_per_source), None);
            self.slots[row.slot] = Some((row.tokens.to_vec(), row.capacity));
            if let Some(hidden) = &self.hidden {
                self.states
                    .extend((1..=row.tokens.len()).flat_map(|end| hidden(&row.tokens[..end])));
            }
            self.last.extend(self.score(row.slot));
        }
        self.leave(wanted, scores);
        Ok(())
    }

    fn step(&mut self, rows: &[StepRow], wanted: Wanted, scores: &mut Scores) -> Result<()> {
        self.passes.push(rows.len());
        self.states.clear();
        let in_order = |pair: &[StepRow]| {
            let same = pair[0].slot == pair[1].slot;
            pair[0].slot < pair[1].slot || same && pair[0].position + 1 == pair[1].position
        };
        assert!(rows.windows(2).all(in_order), "slot by slot, and in each token by token");
        self.last.clear();
        for row in rows {
            let (history, capacity) = self.slots[row.slot].as_mut().expect("a prompt came first");
            assert_eq!(row.position, history.len());
            history.push(row.token);
            match &self.hidden {
                Some(hidden) => self.states.extend(hidden(history)),
                None => assert!(history.len() < *capacity, "a token was fed that nothing follows"),
            }
            assert!(history.len() <= *capacity);
            self.last.extend(self.score(row.slot));
        }
        self.leave(wanted, scores);
        Ok(())
    }

    fn all_scores(&mut self, scores: &mut Scores) -> Result<()> {
        scores.all_mut().clone_from(&self.last);
        Ok(())
    }

    fn hidden_states(&self, hidden: &mut Vec<f32>) -> Result<()> {
        assert!(self.hidden.is_some());
        hidden.clone_from(&self.states);
        Ok(())
    }

    fn is_batch_invariant(&self) -> bool {
        self.is_batch_invariant
    }

    fn rewind(&mut self, slot: usize, length: usize) -> Result<()> {
        let (history, _) = self.slots[slot].as_mut().expect("a prompt came first");
        assert!((1..history.len()).contains(&length), "there is something to forget, not all");
        history.truncate(length);
        Ok(())
    }

    fn reorder(&mut self, moves: &[(usize, usize)]) -> Result<()> {
        let before = self.slots.clone();
        for &(destination, origin) in moves {
            assert_ne!(destination, origin);
            assert_eq!(destination / self.slots_per_source, origin / self.slots_per_source);
            self.slots[destination].clone_from(&before[origin]);
        }
        Ok(())
    }
}

/// Logits that hash the history: multiples of 1/8192 in [0, 8), `favoured` ids higher by 2. The
/// same in `tests/golden/make_decoding_cases.py`.
pub(super) fn toy_logits(history: &[u32], vocabulary: usize, favoured: &[u32]) -> Vec<f32> {
    let state = history.iter().fold(2_166_136_261u32, |state, &token| {
        let state = (state ^ token).wrapping_mul(16_777_619);
        state ^ (state >> 15)
    });
    let logit = |token: u32| {
        let mut mixed = state.wrapping_add(token.wrapping_mul(0x9E37_79B9));
        mixed = (mixed ^ (mixed >> 16)).wrapping_mul(0x85EB_CA6B);
        mixed = (mixed ^ (mixed >> 13)).wrapping_mul(0xC2B2_AE35);
        mixed ^= mixed >> 16;
        (mixed >> 16) as f32 / 8192.0 + if favoured.contains(&token) { 2.0 } else { 0.0 }
    };
    (0..vocabulary as u32).map(logit).collect()
}

/// Options from a JSON object.
pub(super) fn options(json: serde_json::Value) -> Arc<Options> {
    let serde_json::Value::Object(map) = json else { panic!("options are an object") };
    Arc::new(Options::from_json(map).expect("options can be used"))
}

/// Decodes without being stopped.
pub(super) fn decode(
    model: &mut FakeModel,
    inputs: &[Input],
    options: &Arc<Options>,
) -> Result<Vec<Vec<Sequence>>> {
    generate(model, inputs.to_vec(), options.clone(), &mut || Ok(()))
}
