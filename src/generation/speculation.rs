//! Source-guided speculation: guesses are fed with the last token of a row, and those stay that the
//! row would have said anyway.
//!
//! A pass over the weights costs nearly the same for one token as for many, and gives the scores
//! after each of them. So the next tokens are guessed ([`super::drafts`]) and fed along; then the
//! tokens are chosen one after the other, each from the scores after its own history, as without
//! guesses. A guess that was not chosen ends that, and with it the ones behind it are forgotten. Rules,
//! samplers and stops only ever see what was chosen, in the order in which it is chosen without
//! guesses, and a row's scores have the same bits in any company: so has the answer.
//!
//! The method: Yang et al., 2023, "Inference with Reference: Lossless Acceleration of Large Language
//! Models" (copying from a reference), and Saxena, 2023, "Prompt Lookup Decoding"; after blockwise
//! parallel decoding (Stern, Shazeer and Uszkoreit, 2018) and speculative decoding (Leviathan, Kalman
//! and Matias, 2023). Theirs copy what follows the last few tokens, a fixed number; ours keeps its
//! place through substitutions, and drafts as many as are worth it.

use serde_json::Value;

use super::arguments::{Arguments, refusal};
use super::drafts::Drafter;
use super::input::{Input, Sequence};
use crate::error::Result;

/// When guesses are made.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Speculative {
    /// Never.
    #[default]
    Off,
    /// Where they cannot change a bit of the answer.
    Auto,
    /// Always: where scores depend on what else a pass holds, nearly equal ones may change places.
    Source,
}

/// Reads `speculative`: not given, "auto" or "source".
pub(super) fn from_arguments(arguments: &mut Arguments) -> Result<Speculative> {
    match arguments.any("speculative") {
        None => Ok(Speculative::Off),
        Some(Value::String(word)) if word == "auto" => Ok(Speculative::Auto),
        Some(Value::String(word)) if word == "source" => Ok(Speculative::Source),
        Some(other) => Err(refusal("speculative", &other, "None, \"auto\" or \"source\"")),
    }
}

/// As many rows as cost what a pass costs without any: a small model on one thread. Large models,
/// whose weights come from memory, would bear more, and draft nearly as much with this. A guess costs a
/// row and saves, if it is right, its row's share of a pass.
const ROWS_OF_A_PASS: f32 = 6.0;
/// With more live rows than these passes are bound by arithmetic, and a guess costs what it saves.
const MOST_LIVE: usize = 8;
/// Guesses for a row in one pass.
const MOST_GUESSES: usize = 15;

/// The guesses of a generation, by row.
#[derive(Debug)]
pub(super) struct Speculation {
    drafters: Vec<Drafter>,
    drafts: Vec<Vec<u32>>,
}

impl Speculation {
    /// For rows that have come to the ends of their prompts.
    pub fn new<'a>(rows: impl Iterator<Item = (&'a Input, &'a Sequence)>) -> Self {
        let drafters: Vec<_> =
            rows.map(|(input, sequence)| Drafter::new(input.source(), &sequence.ids)).collect();
        Self { drafts: vec![Vec::new(); drafters.len()], drafters }
    }

    /// Guesses what follows in one of `live` rows, if it is worth it; every guess is a token of the vocabulary, and so
    /// short is the draft that a token can follow it.
    pub fn guess(
        &mut self,
        row: usize,
        input: &Input,
        ids: &[u32],
        live: usize,
        vocabulary: usize,
    ) {
        let draft = &mut self.drafts[row];
        draft.clear();
        if live > MOST_LIVE {
            return;
        }
        let most = (input.max_length() - 1).saturating_sub(ids.len()).min(MOST_GUESSES);
        let worth = live as f32 / (live as f32 + ROWS_OF_A_PASS);
        let given = |position| input.forced(position);
        self.drafters[row].guess((input.source(), ids), (worth, most), given, draft);
        if let Some(beyond) = draft.iter().position(|&token| token as usize >= vocabulary) {
            draft.truncate(beyond);
        }
    }

    /// The last guesses for a row.
    pub fn draft(&self, row: usize) -> &[u32] {
        &self.drafts[row]
    }

    /// Notes that a row was extended by the last of `ids`.
    pub fn follow(&mut self, row: usize, input: &Input, ids: &[u32]) {
        self.drafters[row].follow(input.source(), ids);
    }
}
