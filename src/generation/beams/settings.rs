//! The settings of beam search and how they are read.

use serde_json::Value;

use crate::error::{Error, Result};
use crate::generation::arguments::{Arguments, refusal};
use crate::generation::samplers::{MOST_SEQUENCES, Method, check_temperature};

/// By which rule beams end and are ranked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BeamRule {
    /// Hugging Face's: ended sequences are set aside, ranked by score over length to the power of
    /// the penalty.
    Standard,
    /// keras-hub's: ended sequences are extended and scored like the others until every beam of
    /// every input has ended, so the answer depends on batch-mates; ranked by summed log
    /// probability.
    Keras,
}

/// When a search stops that has found `num_beams` sequences.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EarlyStopping {
    /// When the best running beam would not be better if it ended now (`False`).
    Heuristic,
    /// At once (`True`).
    AtOnce,
    /// When no running beam can become better (`"never"`).
    WhenBeaten,
}

/// The settings of a beam search.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct BeamSettings {
    /// How many sequences are extended at a time.
    pub num_beams: usize,
    /// How many sequences are returned for each input, best first; at most `num_beams`.
    pub returned: usize,
    /// Divides the logits.
    pub temperature: f32,
    /// Scores are divided by (generated length)^penalty; standard rule only.
    pub length_penalty: f32,
    /// Standard rule only.
    pub early_stopping: EarlyStopping,
    /// The rule.
    pub rule: BeamRule,
}

impl Default for BeamSettings {
    fn default() -> Self {
        Self {
            num_beams: 5,
            returned: 1,
            temperature: 1.0,
            length_penalty: 1.0,
            early_stopping: EarlyStopping::Heuristic,
            rule: BeamRule::Standard,
        }
    }
}

impl BeamSettings {
    /// Refuses values that cannot be used.
    ///
    /// # Errors
    /// `Argument` naming the first of them.
    pub fn check(self) -> Result<Self> {
        if !(1..=MOST_SEQUENCES).contains(&self.num_beams) {
            let message = format!(
                "received {}, expected an integer from 1 to {MOST_SEQUENCES}",
                self.num_beams
            );
            return Err(Error::argument("num_beams", message));
        }
        if !(1..=self.num_beams).contains(&self.returned) {
            let message = format!(
                "received {}, expected an integer from 1 to `num_beams`, which is {}",
                self.returned, self.num_beams
            );
            return Err(Error::argument("num_return_sequences", message));
        }
        if !self.length_penalty.is_finite() {
            let message = format!("received {}, expected a finite number", self.length_penalty);
            return Err(Error::argument("length_penalty", message));
        }
        check_temperature(self.temperature)?;
        Ok(self)
    }
}

/// From the arguments `num_beams`, `return_all_beams`, `num_return_sequences`, `length_penalty`,
/// `early_stopping` (True, False or "never"), `compat` (none or "keras") and `temperature`.
pub(in crate::generation) fn build(arguments: &mut Arguments) -> Result<Method> {
    let default = BeamSettings::default();
    let num_beams = arguments.count("num_beams", default.num_beams, 1)?;
    let all = arguments.flag("return_all_beams", false)?;
    let asked = arguments.optional_count("num_return_sequences", 1)?;
    let settings = BeamSettings {
        num_beams,
        returned: asked.unwrap_or(if all { num_beams } else { 1 }),
        temperature: arguments.number("temperature", default.temperature)?,
        length_penalty: arguments.number("length_penalty", default.length_penalty)?,
        early_stopping: match arguments.any("early_stopping") {
            None | Some(Value::Bool(false)) => EarlyStopping::Heuristic,
            Some(Value::Bool(true)) => EarlyStopping::AtOnce,
            Some(Value::String(word)) if word == "never" => EarlyStopping::WhenBeaten,
            Some(other) => {
                return Err(refusal("early_stopping", &other, "True, False or \"never\""));
            }
        },
        rule: match arguments.any("compat") {
            None => BeamRule::Standard,
            Some(Value::String(word)) if word == "keras" => BeamRule::Keras,
            Some(other) => return Err(refusal("compat", &other, "None or \"keras\"")),
        },
    };
    Ok(Method::Beam(settings.check()?))
}
