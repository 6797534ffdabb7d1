//! How to decode: everything that is the same for all inputs of a call.

use serde_json::{Map, Value};

use super::arguments::{Arguments, refusal};
use super::constraints::{self, Callbacks, Constraint, Context, StoppingCriterion};
use super::samplers::{self, Method};
use super::speculation::{self, Speculative};
use crate::error::{Error, Result};
use crate::ops::choices::Rules;

/// The settings of a call of [`super::generate`].
#[derive(Debug)]
pub struct Options {
    /// How the next token is chosen.
    pub method: Method,
    /// Tokens that end a sequence; none: every sequence grows to its maximum length.
    pub stop_token_ids: Vec<u32>,
    /// Seed of all random draws.
    pub seed: u64,
    /// What changes the scores before the choice.
    pub constraints: Vec<Box<dyn Constraint>>,
    /// What ends a sequence beside the stop tokens.
    pub stopping_criteria: Option<Box<dyn StoppingCriterion>>,
    /// Whether samplers report each token's log probability (beam search always does).
    pub token_logprobs: bool,
    /// Whether samplers are helped by guesses.
    pub speculative: Speculative,
    /// Only ids below this are generated (a model's table may be larger than its vocabulary).
    pub vocabulary_limit: Option<usize>,
}

impl Options {
    /// The given method, and nothing else set.
    pub fn new(method: Method) -> Self {
        Self {
            method,
            stop_token_ids: Vec::new(),
            seed: 0,
            constraints: Vec::new(),
            stopping_criteria: None,
            token_logprobs: false,
            speculative: Speculative::Off,
            vocabulary_limit: None,
        }
    }

    /// Reads a flat object: `sampler` (a name of [`samplers::names`]) and that sampler's arguments
    /// as its `get_config()` gives them, `num_return_sequences`, `stop_token_ids`, `seed`,
    /// `token_logprobs`, `speculative`, `vocabulary_limit`, and the arguments of the constraints
    /// ([`constraints::names`]).
    ///
    /// # Errors
    /// `Argument` for an unknown name or a value that cannot be used.
    pub fn from_json(options: Map<String, Value>) -> Result<Self> {
        Self::from_json_and(options, Callbacks::default())
    }

    /// [`Options::from_json`] with functions of the caller.
    ///
    /// # Errors
    /// As there.
    pub fn from_json_and(options: Map<String, Value>, mut callbacks: Callbacks) -> Result<Self> {
        let mut arguments = Arguments::new(options);
        let name = match arguments.any("sampler") {
            Some(Value::String(name)) => name,
            Some(other) => return Err(refusal("sampler", &other, "the name of a sampler")),
            None => return Err(Error::argument("sampler", "missing")),
        };
        let stop_token_ids = arguments.token_ids("stop_token_ids")?;
        let seed = arguments.seed("seed")?;
        let token_logprobs = arguments.flag("token_logprobs", false)?;
        let speculative = speculation::from_arguments(&mut arguments)?;
        let vocabulary_limit = arguments.optional_count("vocabulary_limit", 1)?;
        let constraints =
            constraints::from_arguments(&mut arguments, &stop_token_ids, &mut callbacks)?;
        let stopping_criteria = callbacks.stopping_criteria;
        let method = samplers::from_arguments(&name, &mut arguments)?;
        arguments.finish(&format!("sampler {name:?}"))?;
        Ok(Self {
            method,
            stop_token_ids,
            seed,
            constraints,
            stopping_criteria,
            token_logprobs,
            speculative,
            vocabulary_limit,
        })
    }

    /// Applies the constraints, in their order.
    ///
    /// # Errors
    /// What a function of the caller returned.
    pub fn constrain(&self, context: &Context<'_>, scores: &mut [f32]) -> Result<()> {
        self.constraints.iter().try_for_each(|constraint| constraint.apply(context, scores))
    }

    /// Tells `visit` the tokens that the constraints rule out; `false` where they do more to the scores.
    pub(super) fn rules_out(&self, context: &Context<'_>, visit: &mut dyn FnMut(u32)) -> bool {
        self.constraints.iter().all(|constraint| constraint.rules_out(context, visit))
    }

    /// Tells `rules` what the constraints do; `false` where a card cannot do that.
    pub(super) fn describe(&self, context: &Context<'_>, rules: &mut Rules) -> bool {
        self.constraints.iter().all(|constraint| constraint.describe(context, rules))
    }

    /// Whether functions of the user are called, which are asked in the order of the tokens.
    pub(super) fn calls_functions(&self) -> bool {
        self.stopping_criteria.is_some()
            || self.constraints.iter().any(|constraint| constraint.calls_functions())
    }

    /// Whether a sequence of the input numbered `input` ends with its last token, which was generated.
    ///
    /// # Errors
    /// What a function of the caller returned.
    pub fn stops(&self, ids: &[u32], input: u64) -> Result<bool> {
        if ids.last().is_some_and(|last| self.stop_token_ids.contains(last)) {
            return Ok(true);
        }
        self.stopping_criteria.as_ref().map_or(Ok(false), |rule| rule.stops(ids, input))
    }

    /// How many cache slots each input needs.
    pub fn slots_per_source(&self) -> usize {
        match &self.method {
            Method::Sample(settings) => settings.returned,
            Method::Contrastive(settings) => settings.k,
            Method::Beam(settings) => settings.num_beams,
        }
    }
}
