//! Optimizers with Keras' names, defaults and formulas: Adam (and AdamW), SGD, RMSprop.
//!
//! A step is `begin_step`, one `update` per parameter, in any order; [`Optimizer::apply`] does both
//! and refuses a step whose gradient is not finite. State is kept per parameter name in the layout
//! of the parameter it belongs to. Every rule is elementwise and maps a zero weight with a zero
//! gradient to zero, so the zero padding of packed weights stays zero.

mod config;

use std::collections::{BTreeMap, HashMap};

pub use config::{OptimizerConfig, Rule};

use crate::error::{Error, Result};
use crate::kernels::elementwise;
use crate::kernels::optimizer::{self as rules, AdamStep, RmspropStep};

/// One parameter of a step: its value is updated in place.
#[derive(Debug)]
pub struct Parameter<'a> {
    /// Canonical name, e.g. `encoder.layers.0.fc1.weight`.
    pub name: &'a str,
    /// The value.
    pub value: &'a mut [f32],
    /// Its gradient, in the same layout.
    pub gradient: &'a [f32],
}

/// What [`Optimizer::apply`] saw and did.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct StepReport {
    /// Norm of all gradients together, before clipping.
    pub gradient_norm: f32,
    /// False when that norm is not finite: then nothing was changed.
    pub applied: bool,
}

/// An optimizer and its state.
#[derive(Clone, Debug)]
pub struct Optimizer {
    config: OptimizerConfig,
    iterations: u64,
    step: Step,
    slots: HashMap<String, Slots>,
}

/// State of one parameter; what the two or three vectors are called is the rule's business
/// ([`Rule::slot_names`]). A slot the rule does not use is absent.
#[derive(Clone, Debug, Default)]
struct Slots {
    of_rule: Vec<Vec<f32>>,
    accumulated: Option<Vec<f32>>,
}

/// What is the same for every parameter of the current step.
#[derive(Clone, Copy, Debug, Default)]
struct Step {
    learning_rate: f64,
    /// Updates made including this one; it drives Adam's bias correction.
    number: u64,
    /// Factor of every gradient, from clipping by the global norm.
    gradient_scale: f32,
    /// False while gradients are only being accumulated.
    updates: bool,
}

impl Optimizer {
    /// An optimizer without state.
    pub fn new(config: OptimizerConfig) -> Self {
        Self { config, iterations: 0, step: Step::default(), slots: HashMap::new() }
    }

    /// The configuration.
    pub fn config(&self) -> &OptimizerConfig {
        &self.config
    }

    /// Steps begun so far. With gradient accumulation every batch counts as one.
    pub fn iterations(&self) -> u64 {
        self.iterations
    }

    /// Begins a step: [`Self::update`] then uses this learning rate and bias correction.
    pub fn begin_step(&mut self, learning_rate: f64) {
        self.iterations += 1;
        let every = u64::from(self.config.gradient_accumulation_steps.unwrap_or(1));
        self.step = Step {
            learning_rate,
            number: self.iterations.div_ceil(every),
            gradient_scale: 1.0,
            updates: self.iterations.is_multiple_of(every),
        };
    }

    /// Clips this step's gradients to `global_clipnorm`, given the norm of all of them together
    /// ([`global_norm`]). Call it between `begin_step` and the first `update`; without
    /// `global_clipnorm` in the configuration it does nothing.
    pub fn clip_to_global_norm(&mut self, norm: f64) {
        if let Some(limit) = self.config.global_clipnorm {
            self.step.gradient_scale = (limit / norm.max(limit)) as f32;
        }
    }

    /// Updates one parameter in place from its gradient.
    ///
    /// # Errors
    /// `Error::Argument` when the gradient or restored state has another length than the parameter.
    pub fn update(&mut self, name: &str, value: &mut [f32], gradient: &[f32]) -> Result<()> {
        check_length(name, "gradient", gradient.len(), value.len())?;
        let new = || Slots::new(&self.config, value.len());
        let slots = self.slots.entry(name.to_owned()).or_insert_with(new);
        slots.check(name, &self.config, value.len())?;
        let Some(accumulated) = slots.accumulated.as_mut() else {
            Self::update_now(&self.config, &self.step, name, value, gradient, &mut slots.of_rule);
            return Ok(());
        };
        elementwise::add_assign(accumulated, gradient);
        if self.step.updates {
            let count = self.config.gradient_accumulation_steps.unwrap_or(1);
            elementwise::divide(accumulated, count as f32);
            let mean = &*accumulated;
            Self::update_now(&self.config, &self.step, name, value, mean, &mut slots.of_rule);
            accumulated.fill(0.0);
        }
        Ok(())
    }

    /// A whole step: norm, clipping, and the update of every parameter. A gradient that is not
    /// finite changes nothing, not even `iterations`.
    ///
    /// # Errors
    /// As [`Self::update`]; lengths are checked before anything is changed.
    pub fn apply(
        &mut self,
        learning_rate: f64,
        parameters: &mut [Parameter<'_>],
    ) -> Result<StepReport> {
        for parameter in parameters.iter() {
            let (value, gradient) = (parameter.value.len(), parameter.gradient.len());
            check_length(parameter.name, "gradient", gradient, value)?;
            if let Some(slots) = self.slots.get(parameter.name) {
                slots.check(parameter.name, &self.config, value)?;
            }
        }
        let gradients: Vec<&[f32]> =
            parameters.iter().map(|parameter| parameter.gradient).collect();
        let norm = global_norm(&gradients);
        let applied = norm.is_finite();
        if applied {
            self.begin_step(learning_rate);
            self.clip_to_global_norm(norm);
            for parameter in parameters {
                self.update(parameter.name, parameter.value, parameter.gradient)?;
            }
        }
        Ok(StepReport { gradient_norm: norm as f32, applied })
    }

    /// The state, one entry `parameter/slot` each, in the layout of its parameter. Opaque: meant
    /// for [`Self::set_state`] of an optimizer of the same configuration on the same model.
    pub fn state(&self) -> BTreeMap<String, &[f32]> {
        let names = self.config.rule.slot_names();
        let mut state = BTreeMap::new();
        for (parameter, slots) in &self.slots {
            for (slot, values) in names.iter().zip(&slots.of_rule) {
                state.insert(format!("{parameter}/{slot}"), values.as_slice());
            }
            if let Some(values) = &slots.accumulated {
                state.insert(format!("{parameter}/{ACCUMULATOR}"), values.as_slice());
            }
        }
        state
    }

    /// Replaces the state and the number of steps made.
    ///
    /// # Errors
    /// `Error::Argument` when a slot is unknown to this optimizer or one of a parameter is missing.
    pub fn set_state(&mut self, iterations: u64, state: BTreeMap<String, Vec<f32>>) -> Result<()> {
        let names = self.slot_names();
        let mut found: HashMap<String, BTreeMap<usize, Vec<f32>>> = HashMap::new();
        for (key, values) in state {
            let (parameter, slot) = key.rsplit_once('/').unwrap_or((&key, ""));
            let Some(index) = names.iter().position(|name| *name == slot) else {
                let message = format!(
                    "slot `{key}` is unknown to this optimizer, which keeps: {}",
                    names.join(", ")
                );
                return Err(Error::argument("state", message));
            };
            found.entry(parameter.to_owned()).or_default().insert(index, values);
        }
        let mut slots = HashMap::with_capacity(found.len());
        for (parameter, values) in found {
            if values.len() != names.len() {
                let message = format!(
                    "parameter `{parameter}` has {} of {} slots: {}",
                    values.len(),
                    names.len(),
                    names.join(", ")
                );
                return Err(Error::argument("state", message));
            }
            let mut of_rule: Vec<Vec<f32>> = values.into_values().collect();
            let accumulated = self.config.gradient_accumulation_steps.and_then(|_| of_rule.pop());
            slots.insert(parameter, Slots { of_rule, accumulated });
        }
        self.slots = slots;
        self.iterations = iterations;
        Ok(())
    }

    /// Every slot a parameter has, the accumulator last.
    fn slot_names(&self) -> Vec<&'static str> {
        let mut names = self.config.rule.slot_names();
        if self.config.gradient_accumulation_steps.is_some() {
            names.push(ACCUMULATOR);
        }
        names
    }

    /// The rule itself, on a gradient that is final but for clipping.
    fn update_now(
        config: &OptimizerConfig,
        step: &Step,
        name: &str,
        value: &mut [f32],
        gradient: &[f32],
        slots: &mut [Vec<f32>],
    ) {
        let common = config.common(step.learning_rate, step.gradient_scale, name, gradient);
        match (&config.rule, slots) {
            (Rule::Adam { beta_1, beta_2, epsilon, .. }, [m, v, rest @ ..]) => {
                let adam =
                    AdamStep::new(*beta_1, *beta_2, *epsilon, step.learning_rate, step.number);
                rules::adam(
                    value,
                    gradient,
                    m,
                    v,
                    rest.first_mut().map(Vec::as_mut_slice),
                    common,
                    adam,
                );
            }
            (Rule::Sgd { .. }, []) => rules::sgd(value, gradient, common),
            (Rule::Sgd { momentum, nesterov }, [m, ..]) => {
                rules::sgd_momentum(value, gradient, m, common, *momentum as f32, *nesterov);
            }
            (Rule::Rmsprop { rho, epsilon, momentum, centered }, [v, rest @ ..]) => {
                let with_momentum = *momentum > 0.0;
                let (m, average) = rest.split_at_mut(usize::from(with_momentum));
                let rmsprop = RmspropStep::new(*rho, *epsilon, *momentum);
                let m = m.first_mut().map(Vec::as_mut_slice);
                let average = average.first_mut().map(Vec::as_mut_slice);
                debug_assert_eq!(average.is_some(), *centered);
                rules::rmsprop(value, gradient, v, m, average, common, rmsprop);
            }
            _ => unreachable!("Slots::new and set_state give every slot of the rule"),
        }
    }
}

const ACCUMULATOR: &str = "gradient_accumulator";

impl Slots {
    fn new(config: &OptimizerConfig, length: usize) -> Self {
        Self {
            of_rule: vec![vec![0.0; length]; config.rule.slot_names().len()],
            accumulated: config.gradient_accumulation_steps.map(|_| vec![0.0; length]),
        }
    }

    fn check(&self, name: &str, config: &OptimizerConfig, length: usize) -> Result<()> {
        for (slot, values) in config.rule.slot_names().iter().zip(&self.of_rule) {
            check_length(name, slot, values.len(), length)?;
        }
        match &self.accumulated {
            Some(values) => check_length(name, ACCUMULATOR, values.len(), length),
            None => Ok(()),
        }
    }
}

fn check_length(parameter: &str, what: &str, got: usize, expected: usize) -> Result<()> {
    if got == expected {
        return Ok(());
    }
    Err(Error::argument(
        parameter,
        format!("its {what} has {got} values, the parameter has {expected}"),
    ))
}

/// Norm of several gradients taken as one vector, summed in one fixed order. Not finite if any
/// element is not.
pub fn global_norm(gradients: &[&[f32]]) -> f64 {
    gradients.iter().map(|gradient| elementwise::sum_of_squares(gradient)).sum::<f64>().sqrt()
}

#[cfg(test)]
mod tests;
