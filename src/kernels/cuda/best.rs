//! The best scores, and how a card goes on with them: `best.cu` and `follow.cu`.

use std::sync::Arc;

use candle_core::Result;
use candle_core::cuda_backend::cudarc::driver::DeviceRepr;
use candle_core::cuda_backend::cudarc::driver::sys::CUdeviceptr;

use super::launch::{Argument, ROW_THREADS, SHARED_FLOATS, WARP};
use super::{Arriving, Card, CardRows, Numbers};

/// Scores of a part: four for each thread.
const PART: usize = 1024;

/// The best of each row of scores, on a card: together, so that they come in one copy.
#[derive(Debug)]
pub struct CardBest {
    /// Logarithms of sums `[rows]`, candidates `[rows, count, 2]`, and the rows' tokens.
    results: CardRows,
    rows: usize,
    count: usize,
    has_tokens: bool,
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
    /// After which tokens they are, where a card has these.
    pub tokens: Vec<u32>,
}

/// What is known of a choice among the best: see `Likely` of `follow.cu`.
#[derive(Clone, Copy)]
pub struct Likely {
    /// Of each row: after which row of the step before it comes.
    pub from: Numbers,
    /// A token that is certain, or `u32::MAX`.
    pub given: Numbers,
    /// Where the tokens end that are ruled out after it, and these tokens.
    pub ends: Numbers,
    /// See there.
    pub ruled_out: Numbers,
    /// Keys of the draws, two for each row; `None`: the best is chosen.
    pub keys: Option<Numbers>,
    /// Among how many it is drawn.
    pub candidates: usize,
    /// At which temperature.
    pub temperature: f32,
    /// Among the first that together have this probability.
    pub top_p: f32,
}

/// `Likely` of `follow.cu`.
#[repr(C)]
#[derive(Clone, Copy)]
pub(super) struct LikelyParameter {
    /// `from`, `given`, `ends`, `ruled_out`, `keys`.
    pointers: [CUdeviceptr; 5],
    candidates: i32,
    temperature: f32,
    top_p: f32,
}

// SAFETY: plain numbers, laid out as in C.
unsafe impl DeviceRepr for LikelyParameter {}

impl CardBest {
    /// How many of the best of so many scores the kernels find, at most.
    pub fn most(limit: usize) -> usize {
        (SHARED_FLOATS - 2 * WARP) / (2 * limit.div_ceil(PART).max(1))
    }
}

impl Card {
    /// The `count` best of the first `limit` of each row of scores, beside the rows' `tokens`.
    ///
    /// # Errors
    /// What the driver reports.
    pub fn best(
        self: &Arc<Self>,
        scores: &CardRows,
        limit: usize,
        count: usize,
        tokens: Option<Numbers>,
    ) -> Result<CardBest> {
        let rows = scores.rows();
        assert!(limit <= scores.width() && count > 0, "more scores are wanted than there are");
        assert!(tokens.is_none_or(|tokens| tokens.count == rows), "another number of tokens");
        let parts = limit.div_ceil(PART);
        let candidates = self.rows(rows, 2 * parts * count)?;
        let sums = self.rows(rows, 2 * parts)?;
        let results = self.rows(1, rows * (2 + 2 * count))?;
        let best = CardBest { results, rows, count, has_tokens: tokens.is_some() };
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
            Argument::Pointer(tokens.map_or(0, |tokens| tokens.start)),
            Argument::Pointer(best.at(rows)),
            Argument::Pointer(best.at(0)),
            Argument::Pointer(best.at(rows * (1 + 2 * count))),
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

    /// Has the card copy them to the host: [`Best::of_words`] understands them.
    ///
    /// # Errors
    /// What the driver reports.
    pub fn fetch(&self) -> Result<Arriving> {
        let words = self.rows * (1 + 2 * self.count) + if self.has_tokens { self.rows } else { 0 };
        self.results.card().fetch(self.results.pointer(), words)
    }

    /// How many rows they are of.
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// Writes into `tokens` what likely follows them, at `positions`: for `rows` rows, of which all behind are
    /// like the last.
    ///
    /// # Errors
    /// What the driver reports.
    pub fn follow(
        &self,
        likely: Likely,
        (positions, tokens): (Numbers, Numbers),
        rows: usize,
    ) -> Result<()> {
        let filled_up = tokens.count;
        assert!(positions.count == filled_up && 0 < rows && rows <= filled_up, "rows");
        let of_rows = [likely.from, likely.given, likely.ends];
        assert!(of_rows.iter().all(|numbers| numbers.count == rows), "one for each row");
        assert!(likely.keys.is_none_or(|keys| keys.count == 2 * rows), "two for each row");
        let keys = likely.keys.map_or(0, |keys| keys.start);
        let [from, given, ends] = of_rows.map(|numbers| numbers.start);
        let parameter = LikelyParameter {
            pointers: [from, given, ends, likely.ruled_out.start, keys],
            candidates: likely.candidates as i32,
            temperature: likely.temperature,
            top_p: likely.top_p,
        };
        let arguments = [
            Argument::Pointer(self.at(self.rows)),
            Argument::Int(self.count as i32),
            Argument::Likely(parameter),
            Argument::Pointer(positions.start),
            Argument::Int(rows as i32),
            Argument::Int(filled_up as i32),
            Argument::Pointer(tokens.start),
        ];
        let grid = (filled_up.div_ceil(ROW_THREADS), 1, 1);
        self.results.card().launch("follow", grid, ROW_THREADS, 0, &arguments)
    }
}

impl Best {
    /// Of what [`CardBest::fetch`] has brought.
    pub fn of_words(words: &[u32], rows: usize) -> Self {
        let each = words.len() / rows.max(1);
        // Tokens make it even.
        let count = (each - 1) / 2;
        let (log_sums, rest) = words.split_at(rows);
        let (found, tokens) = rest.split_at(2 * rows * count);
        Best {
            count,
            found: found.as_chunks().0.iter().map(|&[x, id]| (f32::from_bits(x), id)).collect(),
            log_sums: log_sums.iter().map(|&word| f32::from_bits(word)).collect(),
            tokens: tokens.to_vec(),
        }
    }
}
