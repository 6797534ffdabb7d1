//! Contrastive search (Su et al., 2022) as in keras-hub (`ContrastiveSampler`), each input alone.
//!
//! Of the `k` most probable tokens the one is taken whose probability, less its likeness to what was
//! said before, is highest: `(1 - alpha) * probability - alpha * likeness`, where the likeness is the
//! largest cosine between the decoder's hidden state of the token and those of the tokens before it.
//! So each step feeds all candidates, and the scores that follow the chosen one are kept.

use std::mem;
use std::sync::Arc;

use super::arguments::Arguments;
use super::constraints::check_choice;
use super::generate::{Decoding, check_shape};
use super::input::{Input, Sequence};
use super::model::{PromptRow, Scores, StepModel, StepRow, Wanted};
use super::options::Options;
use super::samplers::{MOST_SEQUENCES, Method, check_single, check_temperature};
use super::scores;
use crate::error::{Error, Result};

/// The settings of a contrastive search.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct ContrastiveSettings {
    /// How many candidates each step has.
    pub k: usize,
    /// What likeness weighs, from 0 to 1.
    pub alpha: f32,
    /// Divides the logits.
    pub temperature: f32,
}

/// From the arguments `k`, `alpha` and `temperature`.
pub(super) fn build(arguments: &mut Arguments) -> Result<Method> {
    let settings = ContrastiveSettings {
        k: arguments.count("k", 5, 1)?,
        alpha: arguments.number("alpha", 0.6)?,
        temperature: check_temperature(arguments.number("temperature", 1.0)?)?,
    };
    if settings.k > MOST_SEQUENCES {
        let message = format!("received {}, expected at most {MOST_SEQUENCES}", settings.k);
        return Err(Error::argument("k", message));
    }
    if !(0.0..=1.0).contains(&settings.alpha) {
        let message = format!("received {}, expected a number from 0 to 1", settings.alpha);
        return Err(Error::argument("alpha", message));
    }
    check_single(arguments)?;
    Ok(Method::Contrastive(settings))
}

/// One input's sequence.
struct Row {
    sequence: Sequence,
    /// Which of the input's slots holds the history.
    origin: usize,
    /// The scores of the next token; then, of the candidates, the tokens and their probabilities.
    logits: Vec<f32>,
    candidates: Vec<(u32, f32)>,
    /// Hidden states of all tokens so far, scaled to length one.
    history: Vec<f32>,
}

/// The state of a generation, of whose rows `live` still grow.
pub(super) struct Search {
    inputs: Vec<Arc<Input>>,
    options: Arc<Options>,
    settings: ContrastiveSettings,
    rows: Vec<Row>,
    live: Vec<usize>,
    /// Whether the prompts were fed.
    has_begun: bool,
    scores: Scores,
    hidden: Vec<f32>,
    moves: Vec<(usize, usize)>,
    steps: Vec<StepRow>,
}

impl Search {
    pub fn new(
        inputs: Vec<Arc<Input>>,
        options: Arc<Options>,
        settings: ContrastiveSettings,
    ) -> Self {
        let row = |input: &Arc<Input>| Row {
            sequence: Sequence {
                ids: input.prompt(input.start()).to_vec(),
                score: 0.0,
                token_logprobs: Vec::new(),
                stopped: false,
            },
            origin: 0,
            logits: Vec::new(),
            candidates: Vec::new(),
            history: Vec::new(),
        };
        let has_room = |&source: &usize| inputs[source].start() < inputs[source].max_length();
        Self {
            rows: inputs.iter().map(row).collect(),
            live: (0..inputs.len()).filter(has_room).collect(),
            inputs,
            options,
            settings,
            has_begun: false,
            scores: Scores::default(),
            hidden: Vec::new(),
            moves: Vec::new(),
            steps: Vec::new(),
        }
    }

    /// Feeds the prompts.
    fn begin(&mut self, model: &mut dyn StepModel) -> Result<()> {
        let prompt = |&source: &usize| PromptRow {
            source,
            slot: source * self.settings.k,
            tokens: &self.rows[source].sequence.ids,
            capacity: self.inputs[source].max_length(),
        };
        let prompts: Vec<_> = self.live.iter().map(prompt).collect();
        model.prefill(&prompts, self.settings.k, Wanted::All, &mut self.scores)?;
        let logits = self.scores.all()?;
        check_shape(logits, self.live.len(), model.vocabulary_size())?;
        model.hidden_states(&mut self.hidden)?;
        let tokens = prompts.iter().map(|prompt| prompt.tokens.len()).sum::<usize>();
        let width = self.hidden.len() / tokens;
        let mut hidden = self.hidden.chunks_exact(width.max(1));
        let logits = self.scores.all()?.chunks_exact(model.vocabulary_size());
        for (&source, logits) in self.live.iter().zip(logits) {
            let row = &mut self.rows[source];
            row.logits.extend_from_slice(logits);
            for state in hidden.by_ref().take(row.sequence.ids.len()) {
                push_unit(&mut row.history, state);
            }
        }
        Ok(())
    }

    /// Finds the candidates of every live row and writes down what the slots are fed.
    fn propose(&mut self) -> Result<()> {
        self.moves.clear();
        self.steps.clear();
        for &source in &self.live {
            let (input, row) = (&self.inputs[source], &mut self.rows[source]);
            let position = row.sequence.ids.len();
            row.propose(input, &self.options, self.settings)?;
            for (place, &(token, _)) in row.candidates.iter().enumerate() {
                let slot = source * self.settings.k + place;
                if place != row.origin {
                    self.moves.push((slot, source * self.settings.k + row.origin));
                }
                self.steps.push(StepRow { slot, token, position });
            }
        }
        Ok(())
    }

    /// Extends every live row by its best candidate, given the scores that follow each.
    fn choose(&mut self, logits: &[f32]) -> Result<()> {
        let vocabulary = logits.len() / self.steps.len();
        let width = self.hidden.len() / self.steps.len();
        let mut first = 0;
        for &source in &self.live {
            let (input, row) = (&self.inputs[source], &mut self.rows[source]);
            let hidden = &self.hidden[first * width..][..row.candidates.len() * width];
            let best = row.best(hidden, self.settings.alpha);
            let (token, probability) = row.candidates[best];
            let is_given = input.forced(row.sequence.ids.len()).is_some();
            push_unit(&mut row.history, &hidden[best * width..][..width]);
            row.origin = best;
            row.logits.clear();
            row.logits.extend_from_slice(&logits[(first + best) * vocabulary..][..vocabulary]);
            first += row.candidates.len();

            row.sequence.ids.push(token);
            if self.options.token_logprobs {
                row.sequence.token_logprobs.push(probability.ln());
            }
            row.sequence.stopped =
                !is_given && self.options.stops(&row.sequence.ids, input.sequence())?;
        }
        let (rows, inputs) = (&self.rows, &self.inputs);
        self.live.retain(|&source| {
            let sequence = &rows[source].sequence;
            !sequence.stopped && sequence.ids.len() < inputs[source].max_length()
        });
        Ok(())
    }
}

impl Decoding for Search {
    fn is_over(&self) -> bool {
        self.live.is_empty()
    }

    fn step(
        &mut self,
        model: &mut dyn StepModel,
        stop: &mut dyn FnMut() -> Result<()>,
    ) -> Result<()> {
        if self.is_over() {
            return Ok(());
        }
        if !mem::replace(&mut self.has_begun, true) {
            stop()?;
            self.begin(model)?;
        }
        self.propose()?;
        if !self.moves.is_empty() {
            model.reorder(&self.moves)?;
        }
        stop()?;
        let mut scores = mem::take(&mut self.scores);
        model.step(&self.steps, Wanted::All, &mut scores)?;
        let logits = scores.all()?;
        check_shape(logits, self.steps.len(), model.vocabulary_size())?;
        model.hidden_states(&mut self.hidden)?;
        self.choose(logits)?;
        self.scores = scores;
        Ok(())
    }

    fn certain(&self, input: usize) -> &[u32] {
        // What was chosen stays.
        &self.rows[input].sequence.ids
    }

    fn finish(self: Box<Self>) -> Vec<Vec<Sequence>> {
        self.rows.into_iter().map(|row| vec![row.sequence]).collect()
    }
}

impl Row {
    /// The most probable next tokens; a given token is the only one, and certain.
    fn propose(
        &mut self,
        input: &Input,
        options: &Options,
        settings: ContrastiveSettings,
    ) -> Result<()> {
        let position = self.sequence.ids.len();
        if let Some(token) = input.forced(position) {
            self.candidates = vec![(token, 1.0)];
            return Ok(());
        }
        let vocabulary = self.logits.len();
        let limit = options.vocabulary_limit.unwrap_or(vocabulary).clamp(1, vocabulary);
        let logits = &mut self.logits[..limit];
        scores::check_logits(logits, input.sequence(), position)?;
        options.constrain(&input.context(&self.sequence.ids), logits)?;
        let best = logits[scores::argmax(logits) as usize];
        check_choice(best, position, &options.constraints)?;
        scores::softmax(logits, settings.temperature);
        self.candidates = scores::top_k(logits, settings.k);
        // What is ruled out is no candidate, however much the others are like what was said.
        self.candidates.retain(|&(_, probability)| probability > 0.0);
        Ok(())
    }

    /// The place of the best candidate, given their hidden states; of equals the more probable one.
    fn best(&self, hidden: &[f32], alpha: f32) -> usize {
        let width = hidden.len() / self.candidates.len();
        let mut best = (0, f32::NEG_INFINITY);
        for (place, (&(_, probability), state)) in
            self.candidates.iter().zip(hidden.chunks_exact(width.max(1))).enumerate()
        {
            let length = dot(state, state).sqrt();
            let said = self.history.chunks_exact(width.max(1));
            let cosine =
                said.map(|said| dot(said, state)).fold(f32::NEG_INFINITY, f32::max) / length;
            let score = (1.0 - alpha) * probability - alpha * cosine;
            if score > best.1 {
                best = (place, score);
            }
        }
        best.0
    }
}

/// Appends a vector scaled to length one.
fn push_unit(history: &mut Vec<f32>, state: &[f32]) {
    let length = dot(state, state).sqrt();
    history.extend(state.iter().map(|x| x / length));
}

/// The inner product, by eight sums that are independent of each other.
fn dot(a: &[f32], b: &[f32]) -> f32 {
    let mut sums = [0.0f32; 8];
    let (whole_a, whole_b) = (a.chunks_exact(8), b.chunks_exact(8));
    let rest = whole_a.remainder().iter().zip(whole_b.remainder()).map(|(a, b)| a * b).sum::<f32>();
    for (a, b) in whole_a.zip(whole_b) {
        for ((sum, a), b) in sums.iter_mut().zip(a).zip(b) {
            *sum += a * b;
        }
    }
    sums.iter().sum::<f32>() + rest
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::Input;
    use super::super::testing::{FakeModel, decode, options, toy_logits};

    /// A model over four letters, of which 0 is always likeliest, then 1, then 2; the hidden states
    /// of letters are at right angles, but 1 and 2 are alike.
    fn model() -> FakeModel {
        FakeModel::new(4, |_, _| vec![2.0, 1.9, 1.5, -1.0]).with_hidden(|history| {
            match history.last() {
                Some(0) => vec![1.0, 0.0, 0.0],
                Some(1) => vec![0.0, 2.0, 0.0],
                Some(2) => vec![0.0, 1.0, 0.2],
                _ => vec![0.0, 0.0, 3.0],
            }
        })
    }

    fn run(settings: serde_json::Value, prompt: &[u32], length: usize) -> Vec<u32> {
        let input = Input::new(prompt.to_vec(), length, 0).unwrap();
        decode(&mut model(), &[input], &options(settings)).unwrap()[0][0].ids.clone()
    }

    #[test]
    fn what_was_not_said_yet_is_preferred_and_more_so_the_larger_alpha_is() {
        let settings = |alpha: f32| json!({"sampler": "contrastive", "k": 3, "alpha": alpha, "temperature": 1.0});
        assert_eq!(run(settings(0.0), &[3], 5), [3, 0, 0, 0, 0]);
        // 0 and 1 are new; then all of them were said, and 0 is likeliest again.
        assert_eq!(run(settings(0.6), &[3], 4), [3, 0, 1, 0]);
        // After 1 the letter 2 is no news either, if less of the same than 0 or 1.
        assert_eq!(run(settings(0.9), &[3], 4), [3, 0, 1, 2]);
    }

    #[test]
    fn a_row_does_not_depend_on_its_batch_mates_and_ends_at_its_stop_token() {
        let toy = || {
            FakeModel::new(9, |source, history| {
                toy_logits(history, 9, if source % 2 == 0 { &[4] } else { &[] })
            })
            .with_hidden(|history| toy_logits(history, 11, &[]))
        };
        let inputs: Vec<Input> = (0..4)
            .map(|row| Input::new(vec![row as u32; 1 + row % 2], 9, row as u64).unwrap())
            .collect();
        let settings = options(json!({
            "sampler": "contrastive", "k": 4, "stop_token_ids": [4], "token_logprobs": true
        }));
        let together = decode(&mut toy(), &inputs, &settings).unwrap();
        assert!(together.iter().any(|answers| answers[0].stopped));
        for source in [0, 2] {
            // The same source number modulo 2, alone.
            let alone = decode(&mut toy(), &inputs[source..=source], &settings).unwrap();
            assert_eq!(alone[0], together[source]);
            let answer = &alone[0][0];
            assert_eq!(answer.token_logprobs.len(), answer.ids.len() - inputs[source].start());
            assert!(answer.token_logprobs.iter().all(|&log| log < 0.0));
        }
    }

    #[test]
    fn one_candidate_is_greedy_search_and_given_tokens_are_kept() {
        let mask = vec![true, false, true, false, false];
        let input = Input::masked(vec![3, 0, 2, 0, 1], mask, 5, 0).unwrap();
        for k in [1, 4] {
            let settings = options(json!({"sampler": "contrastive", "k": k, "alpha": 0.0}));
            let answers = decode(&mut model(), std::slice::from_ref(&input), &settings).unwrap();
            assert_eq!(answers[0][0].ids, [3, 0, 2, 0, 0]);
        }
    }
}
