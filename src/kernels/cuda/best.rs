//! The best scores of each row: `best.cu`.

use std::sync::Arc;

use candle_core::Result;
use candle_core::cuda_backend::cudarc::driver::sys::CUdeviceptr;

use super::launch::{Argument, ROW_THREADS, SHARED_FLOATS, WARP};
use super::{Arriving, Card, CardRows};

/// Scores of a part: four for each thread.
const PART: usize = 1024;

/// The best of each row of scores, on a card: together, so that they come in one copy.
#[derive(Debug)]
pub struct CardBest {
    /// Logarithms of sums `[rows]`, candidates `[rows, count, 2]`, and how beams go on `[rows, 2]`.
    results: CardRows,
    rows: usize,
    count: usize,
}

/// The same on the host.
#[derive(Debug, Default)]
pub struct Best {
    /// Candidates of a row.
    pub count: usize,
    /// `[rows, count]`, the best first; an id of `u32::MAX` stands for none.
    pub found: Vec<(f32, u32)>,
    /// The logarithm of the sum of each row's exponentials; NaN if a score is not a number, or infinite.
    pub log_sums: Vec<f32>,
    /// How beams go on, if the card has said: of each row the token, and which beam of its source it continues.
    pub continued: Vec<[u32; 2]>,
}

impl CardBest {
    /// How many of the best of so many scores the kernels find, at most.
    pub fn most(limit: usize) -> usize {
        (SHARED_FLOATS - 2 * WARP) / (2 * limit.div_ceil(PART).max(1))
    }
}

impl Card {
    /// The `count` best of the first `limit` of each row of scores.
    ///
    /// # Errors
    /// What the driver reports.
    pub fn best(
        self: &Arc<Self>,
        scores: &CardRows,
        limit: usize,
        count: usize,
    ) -> Result<CardBest> {
        let rows = scores.rows();
        assert!(limit <= scores.width() && count > 0, "more scores are wanted than there are");
        let parts = limit.div_ceil(PART);
        let candidates = self.rows(rows, 2 * parts * count)?;
        let sums = self.rows(rows, 2 * parts)?;
        let results = self.rows(1, rows * (3 + 2 * count))?;
        let best = CardBest { results, rows, count };
        let arguments = [
            Argument::Pointer(scores.pointer()),
            Argument::Int(scores.width() as i32),
            Argument::Int(limit as i32),
            Argument::Int(PART as i32),
            Argument::Int(count as i32),
            Argument::Pointer(candidates.pointer()),
            Argument::Pointer(sums.pointer()),
        ];
        let shared = PART + 2 * WARP;
        self.launch("best_of_part", (parts, rows, 1), ROW_THREADS, shared, &arguments)?;
        let arguments = [
            Argument::Pointer(candidates.pointer()),
            Argument::Pointer(sums.pointer()),
            Argument::Int(parts as i32),
            Argument::Int(count as i32),
            Argument::Pointer(best.at(rows)),
            Argument::Pointer(best.at(0)),
        ];
        let shared = 2 * parts * count + 2 * WARP;
        self.launch("best_of_row", (rows, 1, 1), ROW_THREADS, shared, &arguments)?;
        Ok(best)
    }
}

impl CardBest {
    /// Where the results lie from the given one on.
    fn at(&self, word: usize) -> CUdeviceptr {
        self.results.pointer() + (size_of::<f32>() * word) as CUdeviceptr
    }

    /// Where logarithms, candidates, and the beams' continuations lie.
    pub(super) fn parts(&self) -> [CUdeviceptr; 3] {
        [0, self.rows, self.rows * (1 + 2 * self.count)].map(|word| self.at(word))
    }

    /// Has the card copy them to the host, with how beams go on if that was asked for: [`Best::of_words`] understands
    /// them.
    ///
    /// # Errors
    /// What the driver reports.
    pub fn fetch(&self, with_beams: bool) -> Result<Arriving> {
        let words = self.rows * (1 + 2 * self.count + if with_beams { 2 } else { 0 });
        self.results.card().fetch(self.results.pointer(), words)
    }

    /// How many it has of each row.
    pub fn count(&self) -> usize {
        self.count
    }

    /// How many rows they are of.
    pub fn rows(&self) -> usize {
        self.rows
    }
}

impl Best {
    /// Of what [`CardBest::fetch`] has brought of rows with so many each.
    pub fn of_words(words: &[u32], rows: usize, count: usize) -> Self {
        let (log_sums, rest) = words.split_at(rows);
        let (found, continued) = rest.split_at(2 * rows * count);
        Best {
            count,
            continued: continued.as_chunks().0.to_vec(),
            found: found.as_chunks().0.iter().map(|&[x, id]| (f32::from_bits(x), id)).collect(),
            log_sums: log_sums.iter().map(|&word| f32::from_bits(word)).collect(),
        }
    }
}
