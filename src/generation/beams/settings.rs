//! The settings of beam search and how they are read.

use std::sync::Arc;

use serde_json::Value;

use super::forced::ForcedWords;
use crate::error::{Error, Result};
use crate::generation::arguments::{Arguments, refusal};
use crate::generation::options::Options;
use crate::generation::samplers::{MOST_SEQUENCES, Method, Warpers, check_temperature};

/// By which rule beams end and are ranked.
#[derive(Clone, Debug, PartialEq)]
pub enum BeamRule {
    /// Hugging Face's: ended sequences are set aside, ranked by score over length to the power of
    /// the penalty.
    Standard,
    /// Hugging Face's with the beams in groups that avoid each other's tokens.
    Groups {
        /// How many; they divide the number of beams.
        groups: usize,
        /// What a token loses for each beam of earlier groups that chose it in the same step.
        diversity_penalty: f32,
    },
    /// Hugging Face's for answers that hold certain words.
    Forced(ForcedWords),
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
#[derive(Clone, Debug, PartialEq)]
pub struct BeamSettings {
    /// How many sequences are extended at a time.
    pub num_beams: usize,
    /// How many sequences are returned for each input, best first; at most `num_beams`.
    pub returned: usize,
    /// Divides the logits.
    pub temperature: f32,
    /// Candidates are drawn from what these leave, where there are any; standard rule only.
    pub warpers: Option<Warpers>,
    /// Scores are divided by (generated length)^penalty; not with the keras rule.
    pub length_penalty: f32,
    /// Not with the keras rule.
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
            warpers: None,
            length_penalty: 1.0,
            early_stopping: EarlyStopping::Heuristic,
            rule: BeamRule::Standard,
        }
    }
}

impl BeamSettings {
    /// How many tokens after each beam are looked at: even if every stop token came first, one is left
    /// to go on with.
    pub(super) fn continuations(&self, options: &Options) -> usize {
        (1 + options.stop_token_ids.len()).max(2)
    }

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
/// `early_stopping` (True, False or "never") and `temperature`, and those that choose a rule: `compat`
/// ("keras"), `num_beam_groups` with `diversity_penalty`, `force_words_ids`, or `do_sample` with the
/// arguments of [`Warpers`].
pub(in crate::generation) fn build(arguments: &mut Arguments) -> Result<Method> {
    let default = BeamSettings::default();
    let num_beams = arguments.count("num_beams", default.num_beams, 1)?;
    let all = arguments.flag("return_all_beams", false)?;
    let asked = arguments.optional_count("num_return_sequences", 1)?;
    let mut settings = BeamSettings {
        num_beams,
        returned: asked.unwrap_or(if all { num_beams } else { 1 }),
        length_penalty: arguments.number("length_penalty", default.length_penalty)?,
        early_stopping: match arguments.any("early_stopping") {
            None | Some(Value::Bool(false)) => EarlyStopping::Heuristic,
            Some(Value::Bool(true)) => EarlyStopping::AtOnce,
            Some(Value::String(word)) if word == "never" => EarlyStopping::WhenBeaten,
            Some(other) => {
                return Err(refusal("early_stopping", &other, "True, False or \"never\""));
            }
        },
        ..default
    };
    let compat = match arguments.any("compat") {
        None => None,
        Some(Value::String(word)) if word == "keras" => Some(("compat", BeamRule::Keras)),
        Some(other) => return Err(refusal("compat", &other, "None or \"keras\"")),
    };
    let groups = groups(arguments, num_beams)?.map(|rule| ("num_beam_groups", rule));
    let words = match arguments.any("force_words_ids") {
        None => None,
        Some(words) => Some(("force_words_ids", BeamRule::Forced(ForcedWords::from_json(&words)?))),
    };
    let sampled = arguments.flag("do_sample", false)?.then_some(("do_sample", BeamRule::Standard));
    let mut chosen = [compat, groups, words, sampled].into_iter().flatten();
    let first = chosen.next();
    if let (Some((first, _)), Some((second, _))) = (&first, chosen.next()) {
        let message =
            format!("cannot be used together with `{first}`\nhint: leave one of them out");
        return Err(Error::argument(second, message));
    }
    match first {
        Some(("do_sample", _)) => settings.warpers = Some(Warpers::from_arguments(arguments)?),
        _ => settings.temperature = arguments.number("temperature", settings.temperature)?,
    }
    if let Some((name, rule)) = first {
        if num_beams == 1 && rule != BeamRule::Keras {
            let message = format!("received 1, but `{name}` needs several beams");
            return Err(Error::argument("num_beams", message));
        }
        settings.rule = rule;
    }
    Ok(Method::Beam(Arc::new(settings.check()?)))
}

/// Takes `num_beam_groups` (1: none) and `diversity_penalty`, which need each other.
fn groups(arguments: &mut Arguments, num_beams: usize) -> Result<Option<BeamRule>> {
    let groups = arguments.count("num_beam_groups", 1, 1)?;
    let diversity_penalty = arguments.number("diversity_penalty", 0.0)?;
    if !num_beams.is_multiple_of(groups) {
        let message = format!("received {groups}, expected a divisor of `num_beams`, {num_beams}");
        return Err(Error::argument("num_beam_groups", message));
    }
    match (groups > 1, diversity_penalty > 0.0) {
        (true, true) => Ok(Some(BeamRule::Groups { groups, diversity_penalty })),
        (false, false) if diversity_penalty == 0.0 => Ok(None),
        _ => Err(Error::argument(
            "diversity_penalty",
            format!(
                "received {diversity_penalty} with {groups} groups of beams; groups need a number \
                 above 0, and it needs groups\nhint: groups without a penalty would all find the same"
            ),
        )),
    }
}
