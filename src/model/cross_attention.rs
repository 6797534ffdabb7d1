//! Attention to the source as an array, for whoever asks to see it: one pass over given targets.
//!
//! A whole pass gives the bits of cached decoding, so a generation needs to keep nothing: what its
//! answers looked at is computed from the answers.

use super::backbone::{BartModel, product};
use super::batch::Batch;
use super::pass::Pass;
use crate::error::{Error, Result};

/// Rows of sources and targets that one pass computes.
const ROWS_AT_ONCE: usize = 4096;

/// A ragged sequence of tokens, and their positions if these have gaps.
#[derive(Debug, Clone, Copy)]
pub struct Tokens<'a> {
    /// Token ids.
    pub ids: &'a [u32],
    /// Position of each; `None`: 0, 1, ...
    pub positions: Option<&'a [u32]>,
}

/// What is asked for, and the rectangle in which it is wanted.
#[derive(Debug)]
pub struct CrossAttention<'a> {
    /// The sources.
    pub sources: Vec<Tokens<'a>>,
    /// What the decoder reads.
    pub targets: Vec<Tokens<'a>>,
    /// The source of each target; they ascend.
    pub target_sources: &'a [usize],
    /// Decoder layers, in the order in which they are wanted.
    pub layers: &'a [usize],
    /// The weights of the query at position p stand in row p + `shift`.
    pub shift: usize,
    /// Rows and columns of the answer's last two axes.
    pub size: (usize, usize),
}

impl CrossAttention<'_> {
    /// The weights `[targets, layers, heads, rows, columns]`; 0 where no query or no key stands.
    ///
    /// # Errors
    /// `Argument` for ids or positions outside the model's tables and for numbers that do not fit
    /// together, `Memory` if the answer has no room, and what the pass's check returns.
    pub fn compute(&self, model: &BartModel, pass: &Pass) -> Result<Vec<f32>> {
        self.check(model)?;
        let (rows, columns) = self.size;
        let heads = model.config().decoder_attention_heads;
        let shape = [self.targets.len(), self.layers.len(), heads, rows, columns];
        Error::check_room("the cross-attentions of this batch", product(&shape))?;
        let mut answer = vec![0.0; shape.iter().product()];
        if answer.is_empty() {
            return Ok(answer);
        }
        let mut first = 0;
        while first < self.targets.len() {
            let last = self.end_of_part(first);
            let size = answer.len() / self.targets.len();
            let answer = &mut answer[first * size..last * size];
            self.compute_part(model, first, last, answer, pass)?;
            first = last;
        }
        Ok(answer)
    }

    fn check(&self, model: &BartModel) -> Result<()> {
        let wrong = |what: &str| Err(Error::argument("cross_attention", what));
        let sources = self.target_sources;
        let known = sources.last().is_none_or(|&last| last < self.sources.len());
        if sources.len() != self.targets.len() || !sources.is_sorted() || !known {
            return wrong("each target needs a source, in order");
        }
        if self.layers.iter().any(|&layer| layer >= model.config().decoder_layers) {
            return wrong("there is no such layer");
        }
        Ok(())
    }

    /// Up to which target one pass computes from `first` on: one at least.
    fn end_of_part(&self, first: usize) -> usize {
        let mut rows = 0;
        let fits = |&target: &usize| {
            let source = self.target_sources[target];
            rows += self.targets[target].ids.len() + self.sources[source].ids.len();
            rows <= ROWS_AT_ONCE
        };
        first + (first..self.targets.len()).take_while(fits).count().max(1)
    }

    fn compute_part(
        &self,
        model: &BartModel,
        first: usize,
        last: usize,
        answer: &mut [f32],
        pass: &Pass,
    ) -> Result<()> {
        let wanted = &self.target_sources[first..last];
        let range = wanted[0]..wanted[wanted.len() - 1] + 1;
        let target = batch(&self.targets[first..last]);
        let source = batch(&self.sources[range.clone()]);
        target.check("decoder_token_ids", model.config())?;
        source.check("encoder_token_ids", model.config())?;
        let memory = model.encode(&source, pass)?;
        // Targets that share a source each get its rows.
        let sources: Vec<Tokens> = wanted.iter().map(|&source| self.sources[source]).collect();
        let rows: Vec<u32> = wanted
            .iter()
            .map(|&each| each - range.start)
            .flat_map(|each| source.offsets()[each] as u32..source.offsets()[each + 1] as u32)
            .collect();
        let memory = model.place().alone(|| memory.select(&rows))?;
        let source = batch(&sources);
        model.cross_attention(
            &target,
            &memory,
            &source,
            self.layers,
            pass,
            &mut |layer, weights| self.place(model, (&target, &source), layer, weights, answer),
        )
    }

    /// Moves the blocks of one layer to their places in the rectangle.
    fn place(
        &self,
        model: &BartModel,
        (target, source): (&Batch, &Batch),
        layer: usize,
        mut weights: &[f32],
        answer: &mut [f32],
    ) -> Result<()> {
        let (rows, columns) = self.size;
        let heads = model.config().decoder_attention_heads;
        for (s, answer) in answer.chunks_mut(self.layers.len() * heads * rows * columns).enumerate()
        {
            let of = |batch: &Batch| {
                let rows = batch.offsets()[s]..batch.offsets()[s + 1];
                batch.positions()[rows].iter().map(|&p| p as usize).collect::<Vec<_>>()
            };
            let (queries, keys) = (of(target), of(source));
            let fits = |positions: &[usize], shift, size| {
                positions.iter().all(|position| position + shift < size)
            };
            if !fits(&queries, self.shift, rows) || !fits(&keys, 0, columns) {
                return Err(Error::argument("cross_attention", "the rectangle is too small"));
            }
            let (block, rest) = weights.split_at(heads * queries.len() * keys.len());
            weights = rest;
            for (place, _) in self.layers.iter().enumerate().filter(|(_, each)| **each == layer) {
                let answer = &mut answer[place * heads * rows * columns..];
                let mut block = block.iter();
                for (head, query) in
                    (0..heads).flat_map(|head| queries.iter().map(move |query| (head, query)))
                {
                    let row =
                        &mut answer[(head * rows + query + self.shift) * columns..][..columns];
                    for (&key, &weight) in keys.iter().zip(&mut block) {
                        row[key] = weight;
                    }
                }
            }
        }
        Ok(())
    }
}

fn batch(sequences: &[Tokens]) -> Batch {
    Batch::from_sequences(sequences.iter().map(|each| (each.ids, each.positions)))
}
