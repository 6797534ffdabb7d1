//! What an optimizer is told once: the rule with its constants, decay and clipping.

use serde::Deserialize;
use serde_json::{Map, Value};

use crate::error::{Error, Result};
use crate::kernels::adafactor::Matrices;
use crate::kernels::optimizer::Common;

/// The update rule with its own constants.
#[derive(Clone, Debug, Deserialize, PartialEq)]
#[serde(tag = "class_name", rename_all = "lowercase", deny_unknown_fields)]
pub enum Rule {
    /// Kingma and Ba, "Adam", with bias correction in the step size; AdamW is this with weight decay.
    #[serde(alias = "adamw")]
    Adam {
        /// Decay rate of the mean of gradients.
        beta_1: f64,
        /// Decay rate of the mean of squared gradients.
        beta_2: f64,
        /// Added to the root of the second mean ("epsilon hat" in the paper).
        epsilon: f64,
        /// Divide by the largest second mean seen instead of the last (Reddi et al.).
        amsgrad: bool,
    },
    /// Gradient descent.
    Sgd {
        /// Share of the last movement that is kept; 0 keeps no state.
        momentum: f64,
        /// Look ahead by one movement.
        nesterov: bool,
    },
    /// Hinton's RMSprop with plain momentum.
    Rmsprop {
        /// Decay rate of the mean of squared gradients.
        rho: f64,
        /// Share of the last increment that is kept; 0 keeps no state for it.
        momentum: f64,
        /// Added under the root.
        epsilon: f64,
        /// Subtract the squared mean gradient, so that the denominator estimates the variance.
        centered: bool,
    },
    /// Chen et al., "Symbolic Discovery of Optimization Algorithms": every weight moves alike.
    Lion {
        /// Share of the mean of gradients in the direction.
        beta_1: f64,
        /// Decay rate of that mean.
        beta_2: f64,
    },
    /// Shazeer and Stern, "Adafactor".
    Adafactor {
        /// Exponent of a step's number: one minus that power is the decay rate of mean squares.
        beta_2_decay: f64,
        /// Added to squared gradients.
        epsilon_1: f64,
        /// The least size of a parameter that steps are measured by.
        epsilon_2: f64,
        /// The largest root mean square of an update.
        clip_threshold: f64,
        /// Keras' switch, without effect there too: steps are bounded by one over the root of
        /// their number with and without it.
        #[allow(dead_code)] // It is read from what Keras writes.
        relative_step: bool,
    },
}

impl Rule {
    /// Names of the state vectors of a matrix or of another parameter, in the order the rule takes
    /// them.
    pub fn slot_names(&self, matrix: bool) -> Vec<&'static str> {
        match self {
            Rule::Adam { amsgrad: false, .. } => vec!["momentum", "velocity"],
            Rule::Adam { amsgrad: true, .. } => vec!["momentum", "velocity", "velocity_hat"],
            Rule::Sgd { momentum, .. } if *momentum == 0.0 => vec![],
            Rule::Sgd { .. } | Rule::Lion { .. } => vec!["momentum"],
            Rule::Rmsprop { momentum, centered, .. } => {
                let mut names = vec!["velocity"];
                names.extend((*momentum > 0.0).then_some("momentum"));
                names.extend(centered.then_some("average_gradient"));
                names
            }
            Rule::Adafactor { .. } if matrix => vec!["row_velocity", "column_velocity"],
            Rule::Adafactor { .. } => vec!["velocity"],
        }
    }

    /// Lengths of the same, for a parameter of `length` values.
    /// Whether it keeps averages of a matrix' rows and columns, not numbers for each element.
    pub(super) fn keeps_averages(&self) -> bool {
        matches!(self, Rule::Adafactor { .. })
    }

    pub(super) fn slot_lengths(&self, length: usize, matrices: Option<Matrices>) -> Vec<usize> {
        match (self, matrices) {
            (Rule::Adafactor { .. }, Some(matrices)) => matrices.averages().to_vec(),
            _ => vec![length; self.slot_names(matrices.is_some()).len()],
        }
    }

    /// Constants outside their range, as (name, value, allowed).
    fn out_of_range(&self) -> Option<(&'static str, f64, &'static str)> {
        let share =
            |name, value: f64| (!(0.0..=1.0).contains(&value)).then_some((name, value, "0 to 1"));
        // A zero epsilon would make 0 / 0 of every weight without gradient.
        let above_zero = |name, value: f64| {
            (!(value > 0.0 && value.is_finite())).then_some((name, value, "a positive number"))
        };
        let positive = |value: f64| above_zero("epsilon", value);
        match *self {
            Rule::Adam { beta_1, beta_2, epsilon, .. } => share("beta_1", beta_1)
                .or_else(|| share("beta_2", beta_2))
                .or_else(|| positive(epsilon)),
            Rule::Sgd { momentum, .. } => share("momentum", momentum),
            Rule::Rmsprop { rho, momentum, epsilon, .. } => share("rho", rho)
                .or_else(|| share("momentum", momentum))
                .or_else(|| positive(epsilon)),
            // Without its share a gradient alone would say where to go.
            Rule::Lion { beta_1, beta_2 } => share("beta_1", beta_1)
                .or_else(|| above_zero("beta_1", beta_1))
                .or_else(|| share("beta_2", beta_2)),
            Rule::Adafactor { epsilon_1, epsilon_2, clip_threshold, .. } => {
                above_zero("epsilon_1", epsilon_1)
                    .or_else(|| above_zero("epsilon_2", epsilon_2))
                    .or_else(|| above_zero("clip_threshold", clip_threshold))
            }
        }
    }
}

/// Everything but the learning rate, which belongs to a step.
#[derive(Clone, Debug, PartialEq)]
pub struct OptimizerConfig {
    /// The update rule.
    pub rule: Rule,
    /// Share of a weight, times the learning rate, that each step takes away.
    pub weight_decay: Option<f64>,
    /// Largest norm of one parameter's gradient.
    pub clipnorm: Option<f64>,
    /// Largest size of one element of a gradient.
    pub clipvalue: Option<f64>,
    /// Largest norm of all gradients together.
    pub global_clipnorm: Option<f64>,
    /// Batches whose mean gradient makes one update.
    pub gradient_accumulation_steps: Option<u32>,
    /// Names of parameters that do not decay.
    pub exclude_from_weight_decay: Vec<String>,
    /// Share of the running mean of weights that a step keeps; `None` keeps no mean.
    pub ema_momentum: Option<f64>,
    /// Updates after which weights become their mean.
    pub ema_overwrite_frequency: Option<u64>,
}

/// The part of the JSON that every rule has.
#[derive(Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Shared {
    weight_decay: Option<f64>,
    clipnorm: Option<f64>,
    clipvalue: Option<f64>,
    global_clipnorm: Option<f64>,
    gradient_accumulation_steps: Option<u32>,
    exclude_from_weight_decay: Vec<String>,
    ema_momentum: Option<f64>,
    ema_overwrite_frequency: Option<u64>,
}

const SHARED: [&str; 8] = [
    "weight_decay",
    "clipnorm",
    "clipvalue",
    "global_clipnorm",
    "gradient_accumulation_steps",
    "exclude_from_weight_decay",
    "ema_momentum",
    "ema_overwrite_frequency",
];

impl OptimizerConfig {
    /// A rule without decay or clipping.
    pub fn new(rule: Rule) -> Self {
        Self {
            rule,
            weight_decay: None,
            clipnorm: None,
            clipvalue: None,
            global_clipnorm: None,
            gradient_accumulation_steps: None,
            exclude_from_weight_decay: Vec::new(),
            ema_momentum: None,
            ema_overwrite_frequency: None,
        }
    }

    /// Reads flat JSON: `{"class_name": "adam", "beta_1": 0.9, ..., "weight_decay": null, ...}`.
    /// The rule's constants are all required; the shared options may be left out.
    ///
    /// # Errors
    /// `Error::Argument("config")` for malformed JSON, an unknown or missing field, or a value out
    /// of range.
    pub fn from_json(text: &str) -> Result<Self> {
        let invalid = |error: serde_json::Error| Error::argument("config", error.to_string());
        let fields: Map<String, Value> = serde_json::from_str(text).map_err(invalid)?;
        let (shared, rule): (Map<_, _>, Map<_, _>) =
            fields.into_iter().partition(|(name, _)| SHARED.contains(&name.as_str()));
        let shared: Shared = serde_json::from_value(Value::Object(shared)).map_err(invalid)?;
        let config = Self {
            rule: serde_json::from_value(Value::Object(rule)).map_err(invalid)?,
            weight_decay: shared.weight_decay,
            clipnorm: shared.clipnorm,
            clipvalue: shared.clipvalue,
            global_clipnorm: shared.global_clipnorm,
            gradient_accumulation_steps: shared.gradient_accumulation_steps,
            exclude_from_weight_decay: shared.exclude_from_weight_decay,
            ema_momentum: shared.ema_momentum,
            ema_overwrite_frequency: shared.ema_overwrite_frequency,
        };
        config.validate()?;
        Ok(config)
    }

    fn validate(&self) -> Result<()> {
        if let Some((name, value, allowed)) = self.rule.out_of_range() {
            return Err(Error::argument(name, format!("received {value}, allowed: {allowed}")));
        }
        let clips = [
            ("clipnorm", self.clipnorm),
            ("clipvalue", self.clipvalue),
            ("global_clipnorm", self.global_clipnorm),
        ];
        for (name, value) in clips {
            if let Some(value) = value.filter(|value| value.is_nan() || *value <= 0.0) {
                return Err(Error::argument(
                    name,
                    format!("received {value}, allowed: a positive number"),
                ));
            }
        }
        if clips.iter().filter(|(_, value)| value.is_some()).count() > 1 {
            let message = "only one of `clipnorm`, `clipvalue` and `global_clipnorm` can be set";
            return Err(Error::argument("clipnorm", message));
        }
        match self.gradient_accumulation_steps {
            Some(steps) if steps < 2 => Err(Error::argument(
                "gradient_accumulation_steps",
                format!("received {steps}, allowed: at least 2, or none"),
            )),
            _ => self.validate_averages(),
        }
    }

    fn validate_averages(&self) -> Result<()> {
        if let Some(momentum) = self.ema_momentum.filter(|m| !(0.0..=1.0).contains(m)) {
            let message = format!("received {momentum}, allowed: 0 to 1");
            return Err(Error::argument("ema_momentum", message));
        }
        match self.ema_overwrite_frequency {
            Some(0) => Err(Error::argument(
                "ema_overwrite_frequency",
                "received 0, allowed: at least 1, or none",
            )),
            _ => Ok(()),
        }
    }

    /// What every rule does to this parameter before its own formula.
    pub(super) fn common(
        &self,
        learning_rate: f64,
        scale: f32,
        name: &str,
        squares: impl FnOnce() -> f64,
    ) -> Common {
        let decays = !self.exclude_from_weight_decay.iter().any(|excluded| excluded == name);
        let decay = self.weight_decay.filter(|_| decays).map_or(0.0, |decay| decay * learning_rate);
        let norm_scale =
            self.clipnorm.map_or(1.0, |limit| (limit / squares().sqrt().max(limit)) as f32);
        Common {
            learning_rate: learning_rate as f32,
            decay: decay as f32,
            scale: scale * norm_scale,
            limit: self.clipvalue.map_or(f32::INFINITY, |limit| limit as f32),
        }
    }
}
