//! keras-hub's beam search (`BeamSampler.__call__`), for one input.
//!
//! Beams are the `num_beams` best of all extensions, ended or not, ranked by summed log
//! probability. A call goes on until every beam of every input holds a generated stop token: what
//! follows a stop token is cut off, but it was scored, so the answer depends on batch-mates. A
//! given token replaces the one chosen, yet the chosen one's probability counts.

use std::mem;
use std::sync::Arc;

use super::{Beam, BeamSettings, Candidate, Candidates, Search, first_beams, shared_start};
use crate::error::Result;
use crate::generation::input::{Input, Sequence};
use crate::generation::options::Options;
use crate::generation::scores;

pub(super) struct Keras {
    input: Arc<Input>,
    settings: Arc<BeamSettings>,
    running: Vec<Beam>,
    next: Vec<Beam>,
    parents: Vec<usize>,
}

impl Search for Keras {
    fn begin(
        input: Arc<Input>,
        start: usize,
        _: Arc<Options>,
        settings: Arc<BeamSettings>,
    ) -> Self {
        let running = first_beams(&input, start, settings.num_beams);
        Self {
            next: first_beams(&input, start, settings.num_beams),
            running,
            parents: vec![0; settings.num_beams],
            input,
            settings,
        }
    }

    fn beams(&self) -> &[Beam] {
        &self.running
    }

    fn parents(&self) -> &[usize] {
        &self.parents
    }

    fn score(&self, row: &mut [f32], _: Option<u32>) {
        // Not a log softmax: a probability that underflows is lost there, so it is here.
        scores::softmax(row, self.settings.temperature);
        row.iter_mut().for_each(|x| *x = x.ln());
    }

    fn advance(&mut self, _: usize, candidates: &mut Candidates<'_>) -> Result<()> {
        let candidates = candidates.best(&self.running, self.settings.num_beams)?;
        let position = self.running[0].ids.len();
        let forced = self.input.forced(position);
        let places = self.next.iter_mut().zip(&mut self.parents);
        for ((beam, parent), candidate) in places.zip(candidates) {
            let origin = &self.running[candidate.beam];
            let token = Candidate { id: forced.unwrap_or(candidate.id), ..*candidate };
            beam.continue_from(origin, &token);
            beam.end = origin.end.or(candidate.stops.then_some(position + 1));
            *parent = candidate.beam;
        }
        mem::swap(&mut self.running, &mut self.next);
        Ok(())
    }

    fn is_over(&self) -> bool {
        self.running[0].ids.len() >= self.input.max_length()
    }

    fn is_settled(&self) -> bool {
        self.is_over() || self.running.iter().all(|beam| beam.end.is_some())
    }

    fn certain(&self) -> &[u32] {
        // Every beam goes on and may become the best; what follows its first stop token is cut off.
        let shown = |beam: &'_ Beam| beam.end.unwrap_or(beam.ids.len());
        shared_start(self.running.iter().map(|beam| &beam.ids[..shown(beam)]))
    }

    fn finish(mut self) -> Vec<Sequence> {
        self.running.sort_by(|a, b| b.score.total_cmp(&a.score));
        self.running.truncate(self.settings.returned);
        let prompt = self.input.start();
        let answer = |mut beam: Beam| {
            // The search may have begun before the prompt of this input had ended.
            let searched = beam.ids.len() - beam.token_logprobs.len();
            beam.token_logprobs.drain(..(prompt - searched).min(beam.token_logprobs.len()));
            if let Some(end) = beam.end {
                beam.ids.truncate(end);
                beam.token_logprobs.truncate(end.saturating_sub(prompt));
            }
            Sequence {
                ids: beam.ids,
                score: beam.score,
                token_logprobs: beam.token_logprobs,
                stopped: beam.end.is_some(),
            }
        };
        self.running.into_iter().map(answer).collect()
    }
}
