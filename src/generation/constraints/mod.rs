//! Constraints: what changes the scores of the next token before it is chosen.
//!
//! A new one is a file with its struct and its `build`, and a line in [`REGISTRY`]. Names, values and
//! the order in which they apply are those of transformers' logits processors.

mod bad_words;
mod callbacks;
mod exponential_decay;
mod forced_tokens;
mod min_length;
mod no_repeat_ngram;
mod repetition_penalty;
mod suppress_tokens;

use std::fmt::Debug;

use super::arguments::Arguments;
use crate::error::{Error, Result};
use crate::ops::choices::Rules;

pub use bad_words::BadWords;
pub use callbacks::{Callbacks, StoppingCriterion};
pub use exponential_decay::ExponentialDecay;
pub use forced_tokens::{ForcedFirstToken, ForcedLastToken};
pub use min_length::{MinLength, MinNewTokens};
pub use no_repeat_ngram::{NoRepeatNgram, NoRepeatSourceNgram};
pub use repetition_penalty::RepetitionPenalty;
pub use suppress_tokens::{SuppressFirstTokens, SuppressTokens};

/// What a constraint may look at.
#[derive(Clone, Copy, Debug)]
pub struct Context<'a> {
    /// The sequence so far, prompt included; its length is the position of the next token.
    pub ids: &'a [u32],
    /// How many of them were given.
    pub prompt_length: usize,
    /// The most tokens the sequence may have, prompt included.
    pub max_length: usize,
    /// What the encoder read, without padding.
    pub source: &'a [u32],
    /// Which of the call's inputs it is.
    pub input: u64,
}

/// A rule on the next token. Rules must depend on the context alone, so that a sequence does not
/// depend on its batch-mates.
pub trait Constraint: Debug + Send + Sync {
    /// The argument that asks for it.
    fn name(&self) -> &'static str;

    /// Changes the scores `[vocabulary]` of the next token: logits for samplers, log probabilities
    /// for beam search (which are not normalised again). Negative infinity rules a token out; no
    /// score becomes NaN or positive infinity.
    ///
    /// # Errors
    /// What a function of the caller returned.
    fn apply(&self, context: &Context<'_>, scores: &mut [f32]) -> Result<()>;

    /// Tells `visit` the tokens that [`Constraint::apply`] rules out; `false` where it does more or
    /// something else to the scores, or cannot tell. Of tokens that are only ruled out others can be
    /// chosen without all scores.
    fn rules_out(&self, _context: &Context<'_>, _visit: &mut dyn FnMut(u32)) -> bool {
        false
    }

    /// Tells `rules` what [`Constraint::apply`] does, so that a card can do the same; `false` where it does
    /// something else to the scores, or cannot tell.
    fn describe(&self, context: &Context<'_>, rules: &mut Rules) -> bool {
        self.rules_out(context, &mut |token| rules.rule_out(token))
    }

    /// Whether it calls a function of the user, which is to be asked in the order in which tokens are
    /// chosen.
    fn calls_functions(&self) -> bool {
        false
    }
}

/// What a constraint is built from.
pub(super) struct Request<'a> {
    arguments: &'a mut Arguments,
    stop_token_ids: &'a [u32],
    forced_first: Option<u32>,
    callbacks: &'a mut Callbacks,
}

type Built = Result<Option<Box<dyn Constraint>>>;
type Build = fn(&mut Request<'_>) -> Built;

/// Every constraint by its argument, in the order in which they apply.
const REGISTRY: [(&str, Build); 13] = [
    ("repetition_penalty", repetition_penalty::build),
    ("no_repeat_ngram_size", no_repeat_ngram::build),
    ("encoder_no_repeat_ngram_size", no_repeat_ngram::build_for_source),
    ("bad_words_ids", bad_words::build),
    ("min_length", min_length::build),
    ("min_new_tokens", min_length::build_for_new_tokens),
    ("prefix_allowed_tokens_fn", callbacks::build_allowed_prefix),
    ("forced_bos_token_id", forced_tokens::build_first),
    ("forced_eos_token_id", forced_tokens::build_last),
    ("exponential_decay_length_penalty", exponential_decay::build),
    ("suppress_tokens", suppress_tokens::build),
    ("begin_suppress_tokens", suppress_tokens::build_for_first),
    ("logits_processor", callbacks::build_processors),
];

/// The arguments that [`super::Options::from_json`] knows for constraints.
pub fn names() -> impl Iterator<Item = &'static str> {
    REGISTRY.iter().map(|(name, _)| *name)
}

/// The constraints that a call's arguments ask for, in the order they apply.
pub(super) fn from_arguments(
    arguments: &mut Arguments,
    stop_token_ids: &[u32],
    callbacks: &mut Callbacks,
) -> Result<Vec<Box<dyn Constraint>>> {
    let forced_first = arguments.optional_token_id("forced_bos_token_id")?;
    let mut request = Request { arguments, stop_token_ids, forced_first, callbacks };
    let built = REGISTRY.iter().map(|(_, build)| build(&mut request));
    Ok(built.collect::<Result<Vec<_>>>()?.into_iter().flatten().collect())
}

/// Refuses a row in which every token was ruled out, given its best score.
///
/// # Errors
/// `Argument` naming the constraints.
pub fn check_choice(best: f32, position: usize, constraints: &[Box<dyn Constraint>]) -> Result<()> {
    if best > f32::NEG_INFINITY {
        return Ok(());
    }
    let names: Vec<_> = constraints.iter().map(|constraint| constraint.name()).collect();
    let names = if names.is_empty() { "model".to_string() } else { names.join("`, `") };
    Err(Error::argument(
        names,
        format!(
            "no token of the vocabulary is allowed at position {position}\n\
             hint: together these rule out every token; leave one of them out"
        ),
    ))
}

/// Rules out `ids`; ids beyond the vocabulary cannot be generated anyway.
fn suppress(ids: &[u32], scores: &mut [f32]) {
    for &id in ids {
        if let Some(score) = scores.get_mut(id as usize) {
            *score = f32::NEG_INFINITY;
        }
    }
}

/// [`Constraint::apply`] of a rule that does nothing but rule out.
fn apply_ruling(rule: &dyn Constraint, context: &Context<'_>, scores: &mut [f32]) -> Result<()> {
    rule.rules_out(context, &mut |id| suppress(&[id], scores));
    Ok(())
}

/// Keeps a score that a penalty has enlarged below infinity, which would not be a number of any use
/// in a softmax; far beyond what a model gives.
fn bounded(score: f32) -> f32 {
    score.min(1e30)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::generation::Options;
    use serde_json::json;

    /// A context of nothing but ids, of which the first `prompt_length` were given.
    pub(super) fn context(ids: &[u32], prompt_length: usize) -> Context<'_> {
        Context { ids, prompt_length, max_length: 9, source: &[], input: 0 }
    }

    /// Applies one constraint that an argument asks for, with the stop tokens 0 and 3.
    pub(super) fn applied(
        settings: serde_json::Value,
        context: &Context<'_>,
        scores: &[f32],
    ) -> Vec<f32> {
        let mut fields = settings.as_object().unwrap().clone();
        fields.insert("sampler".into(), json!("greedy"));
        fields.insert("stop_token_ids".into(), json!([0, 3, 99]));
        let options = Options::from_json(fields).unwrap();
        assert_eq!(options.constraints.len(), 1);
        let mut scores = scores.to_vec();
        options.constraints[0].apply(context, &mut scores).unwrap();
        scores
    }

    /// Which ids it rules out of a vocabulary of five.
    pub(super) fn ruled_out(settings: serde_json::Value, context: &Context<'_>) -> Vec<usize> {
        let scores = applied(settings, context, &[0.5; 5]);
        (0..5).filter(|&id| scores[id] == f32::NEG_INFINITY).collect()
    }

    #[test]
    fn constraints_apply_in_the_order_of_transformers() {
        let settings = json!({
            "sampler": "greedy",
            "begin_suppress_tokens": [1], "suppress_tokens": [2],
            "exponential_decay_length_penalty": [2, 1.5],
            "forced_eos_token_id": [3], "forced_bos_token_id": 1,
            "min_new_tokens": 1, "min_length": 2, "bad_words_ids": [[1, 2]],
            "encoder_no_repeat_ngram_size": 2, "no_repeat_ngram_size": 2,
            "repetition_penalty": 1.5,
        });
        let options = Options::from_json(settings.as_object().unwrap().clone()).unwrap();
        let built: Vec<_> = options.constraints.iter().map(|each| each.name()).collect();
        let functions = ["prefix_allowed_tokens_fn", "logits_processor"];
        let known: Vec<_> = names().filter(|name| !functions.contains(name)).collect();
        assert_eq!(built, known);
    }

    #[test]
    fn unusable_values_name_their_argument() {
        for settings in [
            json!({"repetition_penalty": 0.0}),
            json!({"repetition_penalty": "much"}),
            json!({"no_repeat_ngram_size": -1}),
            json!({"encoder_no_repeat_ngram_size": 1.5}),
            json!({"bad_words_ids": 3}),
            json!({"bad_words_ids": [3]}),
            json!({"bad_words_ids": [[]]}),
            json!({"min_length": -1}),
            json!({"min_new_tokens": "two"}),
            json!({"forced_bos_token_id": -1}),
            json!({"forced_eos_token_id": [0.5]}),
            json!({"exponential_decay_length_penalty": 2}),
            json!({"exponential_decay_length_penalty": [2]}),
            json!({"exponential_decay_length_penalty": [2, 0.0]}),
            json!({"suppress_tokens": 3.5}),
            json!({"begin_suppress_tokens": [-4]}),
        ] {
            let mut fields = settings.as_object().unwrap().clone();
            let name = fields.keys().next().unwrap().clone();
            fields.insert("sampler".into(), json!("greedy"));
            let message = Options::from_json(fields).unwrap_err().to_string();
            assert!(message.starts_with(&format!("`{name}`: received ")), "{settings}: {message}");
        }
    }

    #[test]
    fn a_row_without_a_choice_names_the_constraints() {
        let constraints: Vec<Box<dyn Constraint>> =
            vec![Box::new(MinLength::new(2, &[0])), Box::new(SuppressTokens::new(vec![1]))];
        check_choice(f32::MIN, 1, &constraints).unwrap();
        let message = check_choice(f32::NEG_INFINITY, 1, &constraints).unwrap_err().to_string();
        assert!(message.starts_with("`min_length`, `suppress_tokens`: no token"), "{message}");
        let message = check_choice(f32::NEG_INFINITY, 1, &[]).unwrap_err().to_string();
        assert!(message.starts_with("`model`: "), "{message}");
    }
}
