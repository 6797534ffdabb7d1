//! The choice of tokens by a card, from scores that the host never sees.

use candle_core::Result;

use super::head::Found;
use super::hidden::Hidden;
use super::step_inputs::StepInputs;

/// How tokens are chosen after the rows of a step.
#[derive(Debug, Default)]
pub struct Choices {
    /// For each row: a token that is certain to follow it, or [`UNKNOWN`].
    pub given: Vec<u32>,
    /// Where the tokens will stand.
    pub positions: Vec<u32>,
    /// What changes the scores before.
    pub rules: Rules,
    /// How the others are picked.
    pub pick: Pick,
    /// The key of each row's draws ([`Stream::key`](crate::random::Stream::key)), if there are any.
    pub keys: Vec<[u32; 2]>,
    /// Tokens from this one on are not chosen.
    pub limit: usize,
    /// Whether the logarithms of the tokens' probabilities are wanted.
    pub log_probabilities: bool,
}

/// Stands for a token that is not known.
pub const UNKNOWN: u32 = u32::MAX;

/// How a token is picked by its score.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub enum Pick {
    /// The highest; of equals the first.
    #[default]
    Best,
    /// At random.
    Draw(Draw),
}

/// A draw in proportion to the probabilities, of the tokens that the filters leave, in the order of their ids.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Draw {
    /// At which temperature.
    pub temperature: f32,
    /// Leaves so many of the likeliest.
    pub top_k: Option<usize>,
    /// Leaves the likeliest that together have this probability; 1: all.
    pub top_p: f32,
    /// Leaves those that have this part of the likeliest's probability.
    pub min_p: f32,
    /// Whether each filter sees what the one before has left, and `top_k` leaves equals of the last with it, as
    /// with Hugging Face; else all see all probabilities, and what leads to `top_p` exactly does not suffice, as
    /// with Keras.
    pub in_turn: bool,
}

impl Draw {
    /// A draw among all tokens.
    pub fn of_all(temperature: f32) -> Self {
        Draw { temperature, top_k: None, top_p: 1.0, min_p: 0.0, in_turn: false }
    }
}

/// What rules do to the scores after each row of a step, in this order.
#[derive(Debug, Default)]
pub struct Rules {
    /// Tokens whose scores are divided by the penalty if they are positive, else multiplied.
    penalised: Vec<u32>,
    penalty: f32,
    /// Tokens that are not chosen.
    ruled_out: Vec<u32>,
    /// Tokens whose scores grow by a part of their size: the bits of the part.
    grown: Vec<[u32; 2]>,
    /// Where what belongs to a row ends in each of the three.
    ends: Vec<[u32; 3]>,
}

impl Rules {
    /// Divides the scores of these tokens by a penalty, or multiplies them where they are negative.
    pub fn penalise(&mut self, tokens: impl IntoIterator<Item = u32>, penalty: f32) {
        self.penalised.extend(tokens);
        self.penalty = penalty;
    }

    /// Has a token not be chosen.
    pub fn rule_out(&mut self, token: u32) {
        self.ruled_out.push(token);
    }

    /// Has a score grow by a part of its size.
    pub fn grow(&mut self, token: u32, part: f32) {
        self.grown.push([token, part.to_bits()]);
    }

    fn clear(&mut self) {
        self.penalised.clear();
        self.ruled_out.clear();
        self.grown.clear();
        self.ends.clear();
    }

    fn end_row(&mut self) {
        let lengths = [self.penalised.len(), self.ruled_out.len(), self.grown.len()];
        self.ends.push(lengths.map(|length| length as u32));
    }
}

impl Choices {
    /// Forgets the rows.
    pub fn clear(&mut self) {
        self.given.clear();
        self.positions.clear();
        self.rules.clear();
        self.keys.clear();
    }

    /// Adds a row, of which the [`Self::rules`] were told; the token will stand at `position`.
    pub fn push(&mut self, given: Option<u32>, position: usize) {
        self.given.push(given.unwrap_or(UNKNOWN));
        self.positions.push(position as u32);
        self.rules.end_row();
    }
}

/// The choice after a row.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Chosen {
    /// Whether a score was NaN or positive infinity.
    pub broken: bool,
    /// The highest score that the rules left.
    pub best: f32,
    /// The token.
    pub token: u32,
    /// Its log probability, if that was wanted.
    pub log_probability: Option<f32>,
}

/// What is known of beams, of which a card is to say how they go on before the host has compared them.
#[derive(Debug, Default)]
pub struct Beams {
    /// How many a source has: its rows are neighbours.
    pub count: usize,
    /// The scores of the rows so far.
    pub scores: Vec<f32>,
    /// Tokens that do not follow a row, row after row, and where each row's end.
    pub ruled_out: Vec<u32>,
    /// See there.
    pub ends: Vec<u32>,
    /// Tokens that end a sequence.
    pub stops: Vec<u32>,
}

/// A token, and which beam of its source it continues.
pub type Continued = [u32; 2];

/// What a card needs to choose.
#[derive(Debug, Default)]
pub struct Chooser {
    #[cfg(feature = "cuda")]
    pub(super) on_card: Option<crate::kernels::cuda::CardChooser>,
}

/// What a card is about to choose.
#[derive(Debug)]
pub struct Choosing {
    #[cfg(feature = "cuda")]
    pub(super) words: crate::kernels::cuda::Arriving,
    #[cfg(feature = "cuda")]
    pub(super) log_probabilities: bool,
    #[cfg(not(feature = "cuda"))]
    never: std::convert::Infallible,
}

impl Chooser {
    /// Has a card choose after the rows `from` of scores, which it changes; the tokens are those of the `next` step
    /// too, if its inputs are given. `None` if the scores are not on a card.
    ///
    /// # Errors
    /// What the card reports.
    pub fn choose(
        &mut self,
        scores: &Hidden,
        from: &[u32],
        choices: &Choices,
        next: Option<&StepInputs>,
    ) -> Result<Option<Choosing>> {
        #[cfg(feature = "cuda")]
        return super::card::choose(self, scores, from, choices, next);
        #[cfg(not(feature = "cuda"))]
        {
            let (_, _, _, _) = (scores, from, choices, next);
            Ok(None)
        }
    }

    /// Has a card continue beams after the rows `from`, of which it has found the best, as the `next` step: if it
    /// does, [`Found::fetch`] brings how.
    ///
    /// # Errors
    /// What the card reports.
    pub fn continue_beams(
        &mut self,
        found: &Found,
        from: &[u32],
        beams: &Beams,
        next: &mut StepInputs,
    ) -> Result<()> {
        #[cfg(feature = "cuda")]
        return super::card::continue_beams(self, found, from, beams, next);
        #[cfg(not(feature = "cuda"))]
        {
            let (_, _, _, _) = (found, from, beams, next);
            Ok(())
        }
    }
}

impl Beams {
    /// Whether a card continues so many, among tokens below `limit`.
    pub fn are_continued(&self, limit: usize) -> bool {
        #[cfg(feature = "cuda")]
        return self.count > 1 && crate::kernels::cuda::Beams::takes(self.count, limit);
        #[cfg(not(feature = "cuda"))]
        {
            let _ = limit;
            false
        }
    }
}

impl Choosing {
    /// Waits for it, and leaves it in `chosen`.
    ///
    /// # Errors
    /// What the card reports of this and of the work before.
    pub fn wait(self, chosen: &mut Vec<Chosen>) -> Result<()> {
        #[cfg(feature = "cuda")]
        return super::card::chosen(self, chosen);
        #[cfg(not(feature = "cuda"))]
        {
            let _ = chosen;
            match self.never {}
        }
    }
}

#[cfg(feature = "cuda")]
impl Choices {
    /// As the kernels take them.
    pub(super) fn on_card<'a>(&'a self, from: &'a [u32]) -> crate::kernels::cuda::Choices<'a> {
        let Choices { given, positions, rules, keys, .. } = self;
        let draw = match self.pick {
            Pick::Best => Draw::of_all(1.0),
            Pick::Draw(draw) => draw,
        };
        crate::kernels::cuda::Choices {
            from,
            given,
            positions,
            ends: &rules.ends,
            penalised: &rules.penalised,
            ruled_out: &rules.ruled_out,
            grown: &rules.grown,
            keys,
            penalty: rules.penalty,
            temperature: draw.temperature,
            top_p: draw.top_p,
            min_p: draw.min_p,
            top_k: draw.top_k.unwrap_or(0),
            in_turn: draw.in_turn,
            limit: self.limit,
            log_probability: self.log_probabilities,
        }
    }
}
