//! The choice of the token after each row of scores: `choose.cu`.

use std::sync::Arc;

use candle_core::Result;
use candle_core::cuda_backend::cudarc::driver::DeviceRepr;
use candle_core::cuda_backend::cudarc::driver::sys::CUdeviceptr;

use super::launch::{Argument, WARP};
use super::{Arriving, Card, CardNumbers, CardRows, Numbers};

/// What is known of the choices after some rows of scores.
#[derive(Clone, Copy)]
pub struct Choices<'a> {
    /// Of each: after which row of scores it is.
    pub from: &'a [u32],
    /// A token that is certain, or `u32::MAX`.
    pub given: &'a [u32],
    /// Where the token will stand.
    pub positions: &'a [u32],
    /// Where a row's part of the three that follow ends.
    pub ends: &'a [[u32; 3]],
    /// Tokens whose scores are divided by the penalty, or multiplied below zero; each once in a row.
    pub penalised: &'a [u32],
    /// Tokens that are not chosen.
    pub ruled_out: &'a [u32],
    /// Tokens whose scores grow, and the bits of the part of their size by which they do; each once in a row.
    pub grown: &'a [[u32; 2]],
    /// The keys of the draws; none: the best is chosen.
    pub keys: &'a [[u32; 2]],
    /// See [`Self::penalised`].
    pub penalty: f32,
    /// At which temperature is drawn.
    pub temperature: f32,
    /// Among the likeliest that together have this probability; 1: among all.
    pub top_p: f32,
    /// Among those that have this part of the highest probability.
    pub min_p: f32,
    /// Among so many of the likeliest; 0: among all.
    pub top_k: usize,
    /// Whether each of these sees what the one before has left, and equals of the last of the likeliest are left
    /// with it.
    pub in_turn: bool,
    /// Tokens from here on are not chosen.
    pub limit: usize,
    /// Whether the logarithm of the best one's probability is wanted.
    pub log_probability: bool,
}

/// `Choices` of `choose.cu`.
#[repr(C)]
#[derive(Clone, Copy)]
pub(super) struct ChoicesParameter {
    /// `from`, `given`, `positions`, `ends`, `penalised`, `ruled_out`, `grown`, `keys`.
    pointers: [CUdeviceptr; 8],
    penalty: f32,
    temperature: f32,
    top_p: f32,
    min_p: f32,
    top_k: i32,
    limit: i32,
    in_turn: u32,
    log_probability: u32,
}

// SAFETY: plain numbers, laid out as in C.
unsafe impl DeviceRepr for ChoicesParameter {}

/// What a card has chosen after a row.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Chosen {
    /// The token.
    pub token: u32,
    /// The highest score; negative infinity if no token is allowed.
    pub best: f32,
    /// Of the token.
    pub log_probability: f32,
    /// Whether a score was NaN, or positive infinity.
    pub broken: bool,
}

/// Where a card finds what is known of choices.
#[derive(Debug)]
pub struct CardChooser {
    card: Arc<Card>,
    numbers: CardNumbers,
}

impl CardChooser {
    /// On a card.
    ///
    /// # Errors
    /// What the driver reports.
    pub fn new(card: &Arc<Card>) -> Result<Self> {
        /// Numbers that there is room for at first.
        const ROOM: usize = 1024;
        Ok(CardChooser { card: card.clone(), numbers: CardNumbers::new(card, &[], ROOM)? })
    }

    /// Has the card choose after rows of `scores`, which it changes, and write what it has chosen into `tokens`
    /// too, if there are: those behind the last row's are like it. [`Chosen::of_words`] understands what arrives.
    ///
    /// # Errors
    /// What the driver reports.
    pub fn choose(
        &mut self,
        scores: &CardRows,
        choices: &Choices<'_>,
        tokens: Option<Numbers>,
    ) -> Result<Arriving> {
        // Scores of a thread, and threads of a block.
        const EACH: usize = 32;
        const MOST_THREADS: usize = 1024;
        let rows = choices.from.len();
        let parameter = self.parameter(choices, scores)?;
        let chosen = self.card.rows(rows, CHOSEN_WORDS)?;
        assert!(tokens.is_none_or(|tokens| tokens.count >= rows), "tokens");
        let threads = choices.limit.div_ceil(EACH).next_multiple_of(WARP).clamp(WARP, MOST_THREADS);
        let arguments = [
            Argument::Pointer(scores.pointer()),
            Argument::Int(scores.width() as i32),
            Argument::Choices(parameter),
            Argument::Int(rows as i32),
            Argument::Pointer(chosen.pointer()),
            Argument::Pointer(tokens.map_or(0, |tokens| tokens.start)),
            Argument::Int(tokens.map_or(0, |tokens| tokens.count) as i32),
        ];
        // A double and a number for each warp, a candidate for each thread.
        let shared = 3 * WARP + 2 * threads;
        self.card.launch("choose_tokens", (rows, 1, 1), threads, shared, &arguments)?;
        self.card.fetch(chosen.pointer(), rows * CHOSEN_WORDS)
    }

    /// The card.
    pub(super) fn card(&self) -> &Arc<Card> {
        &self.card
    }

    /// Sends what is known, for the card to find it: where each part begins.
    pub(super) fn send<const N: usize>(&mut self, parts: [&[u32]; N]) -> Result<[CUdeviceptr; N]> {
        self.numbers.set(&parts.concat())?;
        let mut first = 0;
        Ok(parts.map(|part| {
            first += part.len();
            self.numbers.part(first - part.len(), part.len()).start
        }))
    }

    /// The same of choices.
    fn parameter(&mut self, choices: &Choices<'_>, scores: &CardRows) -> Result<ChoicesParameter> {
        let rows = choices.from.len();
        assert!(choices.limit <= scores.width(), "more scores are wanted than there are");
        assert!(choices.from.iter().all(|&row| (row as usize) < scores.rows()), "rows");
        let lengths = [choices.given.len(), choices.positions.len(), choices.ends.len()];
        assert!(lengths == [rows; 3], "one for each row");
        assert!(choices.keys.is_empty() || choices.keys.len() == rows, "one for each row");
        let ends = [choices.penalised.len(), choices.ruled_out.len(), choices.grown.len()];
        assert!(choices.ends.last().is_none_or(|last| last.map(|end| end as usize) == ends));
        assert!(choices.ends.is_sorted_by(|a, b| (0..3).all(|list| a[list] <= b[list])), "ends");
        let pointers = self.send([
            choices.from,
            choices.given,
            choices.positions,
            choices.ends.as_flattened(),
            choices.penalised,
            choices.ruled_out,
            choices.grown.as_flattened(),
            choices.keys.as_flattened(),
        ])?;
        let mut parameter = ChoicesParameter {
            pointers,
            penalty: choices.penalty,
            temperature: choices.temperature,
            top_p: choices.top_p,
            min_p: choices.min_p,
            top_k: i32::try_from(choices.top_k).unwrap_or(i32::MAX),
            limit: choices.limit as i32,
            in_turn: choices.in_turn.into(),
            log_probability: choices.log_probability.into(),
        };
        if choices.keys.is_empty() {
            parameter.pointers[7] = 0;
        }
        Ok(parameter)
    }
}

/// Words of a [`Chosen`] on a card.
const CHOSEN_WORDS: usize = 4;

impl Chosen {
    /// What [`CardChooser::choose`] has brought, row after row.
    pub fn of_words(words: &[u32]) -> impl Iterator<Item = Self> {
        words.as_chunks::<CHOSEN_WORDS>().0.iter().map(|&[token, best, log, broken]| Chosen {
            token,
            best: f32::from_bits(best),
            log_probability: f32::from_bits(log),
            broken: broken != 0,
        })
    }
}
