//! Optimizers with Keras' names, defaults and formulas: Adam (and AdamW), SGD, RMSprop, Lion, Adafactor.
//!
//! A step is `begin_step`, where gradients accumulate one `accumulate` per parameter, then one `update`
//! per parameter, in any order but always the same; [`Optimizer::apply`] does all and refuses a step
//! whose gradient is not finite. State is kept per parameter name in the layout of the parameter it
//! belongs to. Every rule maps a zero weight with a zero gradient to zero, so the zero padding of packed
//! weights stays zero; all but Adafactor are elementwise.

mod config;
#[cfg(feature = "cuda")]
mod on_card;
mod slots;

use std::borrow::Cow;
use std::collections::{BTreeMap, HashMap};

pub use config::{OptimizerConfig, Rule};

use self::slots::{AVERAGE, Slots, Values, check_length, slot_names};
use crate::error::{Error, Result};
pub use crate::kernels::adafactor::Matrices;
use crate::kernels::adafactor::{self, AdafactorStep};
use crate::kernels::elementwise;
use crate::kernels::optimizer::{self as rules, AdamStep, RmspropStep};

/// One parameter of a step: its value is updated in place.
#[derive(Debug)]
pub struct Parameter<'a> {
    /// Canonical name, e.g. `encoder.layers.0.fc1.weight`.
    pub name: &'a str,
    /// How its values lie as a matrix, if it is one.
    pub matrices: Option<Matrices>,
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
#[derive(Debug)]
pub struct Optimizer {
    config: OptimizerConfig,
    iterations: u64,
    step: Step,
    slots: HashMap<String, Slots>,
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
    /// Squares of the mean gradients that were accumulated for this step.
    mean_squares: f64,
}

impl Step {
    /// Which share of the running mean stays.
    fn keeps_of_average(&self, config: &OptimizerConfig) -> Option<f32> {
        // As in Keras the mean starts at the weights after the first update.
        let first = self.number == 1;
        config.ema_momentum.map(|keep| if first { 0.0 } else { keep as f32 })
    }

    /// Whether the running mean takes the value's place.
    fn takes_average(&self, config: &OptimizerConfig) -> bool {
        config.ema_overwrite_frequency.is_some_and(|every| self.number.is_multiple_of(every))
    }
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
            mean_squares: 0.0,
        };
    }

    /// Whether gradients of several batches make one update.
    pub fn accumulates(&self) -> bool {
        self.config.gradient_accumulation_steps.is_some()
    }

    /// Adds a gradient to those of earlier batches. Where an optimizer accumulates, call it for every
    /// parameter after `begin_step`, before the norm is clipped.
    ///
    /// # Errors
    /// As [`Self::update`].
    pub fn accumulate(
        &mut self,
        name: &str,
        matrices: Option<Matrices>,
        gradient: &[f32],
    ) -> Result<()> {
        let updates = self.step.updates;
        let count = self.config.gradient_accumulation_steps.unwrap_or(1);
        let wants_norm = self.config.global_clipnorm.is_some();
        let slots = self.slots_of(name, matrices, gradient.len())?;
        let Some(accumulated) = slots.accumulated.as_mut() else { return Ok(()) };
        let accumulated = accumulated.host()?;
        elementwise::add_assign(accumulated, gradient);
        if updates {
            elementwise::divide(accumulated, count as f32);
            if wants_norm {
                let squares = elementwise::sum_of_squares(accumulated);
                self.step.mean_squares += squares;
            }
        }
        Ok(())
    }

    fn slots_of(
        &mut self,
        name: &str,
        matrices: Option<Matrices>,
        length: usize,
    ) -> Result<&mut Slots> {
        let config = &self.config;
        if !self.slots.contains_key(name) {
            self.slots.insert(name.to_owned(), Slots::new(config, length, matrices));
        }
        let slots = self.slots.get_mut(name).expect("it was inserted");
        slots.check(name, config, length, matrices)?;
        slots.bring_to(config, matrices)?;
        Ok(slots)
    }

    /// Clips this step's gradients to `global_clipnorm`, given the norm of all of them together
    /// ([`global_norm`]); where gradients accumulate, by the norm of their means. Call it between
    /// `begin_step` and the first `update`; without `global_clipnorm` in the configuration it does
    /// nothing.
    pub fn clip_to_global_norm(&mut self, norm: f64) {
        let norm = if self.accumulates() { self.step.mean_squares.sqrt() } else { norm };
        if let Some(limit) = self.config.global_clipnorm {
            self.step.gradient_scale = (limit / norm.max(limit)) as f32;
        }
    }

    /// Updates one parameter in place from its gradient, or from what was accumulated; then its
    /// running mean, if one is kept.
    ///
    /// # Errors
    /// `Error::Argument` when the gradient or restored state has another length than the parameter.
    pub fn update(
        &mut self,
        name: &str,
        matrices: Option<Matrices>,
        value: &mut [f32],
        gradient: &[f32],
    ) -> Result<()> {
        check_length(name, "gradient", gradient.len(), value.len())?;
        self.slots_of(name, matrices, value.len())?;
        let Self { config, step, slots, .. } = self;
        let slots = slots.get_mut(name).expect("it was just looked up");
        let own = (name, matrices);
        let of_rule = slots.of_rule.iter_mut().map(Values::host).collect::<Result<Vec<_>>>()?;
        let mut of_rule: Vec<&mut [f32]> = of_rule.into_iter().map(Vec::as_mut_slice).collect();
        match slots.accumulated.as_mut().map(Values::host).transpose()? {
            None => Self::update_now(config, step, own, value, gradient, &mut of_rule),
            Some(mean) if step.updates => {
                Self::update_now(config, step, own, value, mean, &mut of_rule);
                mean.fill(0.0);
            }
            Some(_) => {}
        }
        let average = slots.average.as_mut().map(Values::host).transpose()?;
        if let (Some(average), Some(keep)) = (average, step.keeps_of_average(config)) {
            rules::running_mean(average, value, keep);
            if step.takes_average(config) {
                value.copy_from_slice(average);
            }
        }
        Ok(())
    }

    /// Puts the running mean of a parameter in its place; with `exchange` the value takes that of the
    /// mean. A parameter without one stays.
    ///
    /// # Errors
    /// `Error::Argument` when the mean has another length.
    pub fn put_average(
        &mut self,
        name: &str,
        matrices: Option<Matrices>,
        value: &mut [f32],
        exchange: bool,
    ) -> Result<()> {
        let Some(slots) = self.slots.get_mut(name) else { return Ok(()) };
        slots.bring_to(&self.config, matrices)?;
        let Some(average) = slots.average.as_mut() else { return Ok(()) };
        let average = average.host()?;
        check_length(name, AVERAGE, average.len(), value.len())?;
        if exchange {
            value.swap_with_slice(average);
        } else {
            value.copy_from_slice(average);
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
                slots.check(parameter.name, &self.config, value, parameter.matrices)?;
            }
        }
        let gradients: Vec<&[f32]> =
            parameters.iter().map(|parameter| parameter.gradient).collect();
        let norm = global_norm(&gradients);
        let applied = norm.is_finite();
        if applied {
            self.begin_step(learning_rate);
            if self.accumulates() {
                for parameter in parameters.iter() {
                    self.accumulate(parameter.name, parameter.matrices, parameter.gradient)?;
                }
            }
            self.clip_to_global_norm(norm);
            for Parameter { name, matrices, value, gradient } in parameters {
                self.update(name, *matrices, value, gradient)?;
            }
        }
        Ok(StepReport { gradient_norm: norm as f32, applied })
    }

    /// The state, one entry `parameter/slot` each, that of matrices row-major. Opaque: meant for
    /// [`Self::set_state`] of an optimizer of the same configuration on the same model, wherever that is.
    ///
    /// # Errors
    /// What a card reports that keeps it.
    pub fn state(&self) -> Result<BTreeMap<String, Cow<'_, [f32]>>> {
        let mut state = BTreeMap::new();
        for (parameter, slots) in &self.slots {
            for (slot, values) in slots.names(&self.config).iter().zip(slots.saved(&self.config)?) {
                state.insert(format!("{parameter}/{slot}"), values);
            }
        }
        Ok(state)
    }

    /// Replaces the state and the number of steps made.
    ///
    /// # Errors
    /// `Error::Argument` when a slot is unknown to this optimizer or one of a parameter is missing.
    pub fn set_state(&mut self, iterations: u64, state: BTreeMap<String, Vec<f32>>) -> Result<()> {
        // Names of the slots of a matrix and of another parameter.
        let known = [true, false].map(|matrix| slot_names(&self.config, matrix));
        let mut found: BTreeMap<String, BTreeMap<String, Vec<f32>>> = BTreeMap::new();
        for (key, values) in state {
            let (parameter, slot) = key.rsplit_once('/').unwrap_or((&key, ""));
            if !known.iter().any(|names| names.contains(&slot)) {
                let message = format!(
                    "slot `{key}` is unknown to this optimizer, which keeps: {}",
                    known[0].join(", ")
                );
                return Err(Error::argument("state", message));
            }
            found.entry(parameter.to_owned()).or_default().insert(slot.to_owned(), values);
        }
        let mut slots = HashMap::with_capacity(found.len());
        for (parameter, mut values) in found {
            let fits = |names: &&Vec<&str>| {
                names.len() == values.len() && names.iter().all(|name| values.contains_key(*name))
            };
            let Some(names) = known.iter().find(fits) else {
                let message = format!(
                    "parameter `{parameter}` has {} of {} slots: {}",
                    values.len(),
                    known[0].len(),
                    known[0].join(", ")
                );
                return Err(Error::argument("state", message));
            };
            let ordered = names.iter().filter_map(|name| values.remove(*name)).collect();
            let matrix = *names == known[0];
            slots.insert(parameter, Slots::from_values(&self.config, matrix, ordered));
        }
        self.slots = slots;
        self.iterations = iterations;
        Ok(())
    }

    /// The rule itself, on a gradient that is final but for clipping.
    fn update_now(
        config: &OptimizerConfig,
        step: &Step,
        (name, matrices): (&str, Option<Matrices>),
        value: &mut [f32],
        gradient: &[f32],
        slots: &mut [&mut [f32]],
    ) {
        let common = config.common(step.learning_rate, step.gradient_scale, name, || {
            elementwise::sum_of_squares(gradient)
        });
        match (&config.rule, slots) {
            (Rule::Adam { beta_1, beta_2, epsilon, .. }, [m, v, rest @ ..]) => {
                let adam =
                    AdamStep::new(*beta_1, *beta_2, *epsilon, step.learning_rate, step.number);
                rules::adam(
                    value,
                    gradient,
                    m,
                    v,
                    rest.first_mut().map(|slot| &mut **slot),
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
                let m = m.first_mut().map(|slot| &mut **slot);
                let average = average.first_mut().map(|slot| &mut **slot);
                debug_assert_eq!(average.is_some(), *centered);
                rules::rmsprop(value, gradient, v, m, average, common, rmsprop);
            }
            (Rule::Lion { beta_1, beta_2 }, [m, ..]) => {
                rules::lion(value, gradient, m, common, (*beta_1 as f32, *beta_2 as f32));
            }
            (rule @ Rule::Adafactor { .. }, slots) => {
                let adafactor = adafactor_step(rule, step);
                match (slots, matrices) {
                    ([row, column], Some(shape)) => {
                        let averages = [&mut **row, &mut **column];
                        adafactor::matrices(value, gradient, averages, shape, common, adafactor);
                    }
                    ([v], _) => adafactor::vector(value, gradient, v, common, adafactor),
                    _ => unreachable!("Slots::new and set_state give every slot of the rule"),
                }
            }
            _ => unreachable!("Slots::new and set_state give every slot of the rule"),
        }
    }
}

/// What a step of Adafactor needs of its rule.
fn adafactor_step(rule: &Rule, step: &Step) -> AdafactorStep {
    let Rule::Adafactor { beta_2_decay, epsilon_1, epsilon_2, clip_threshold, .. } = *rule else {
        unreachable!("only asked for Adafactor")
    };
    let (decay, epsilons) = ((beta_2_decay, clip_threshold), (epsilon_1, epsilon_2));
    AdafactorStep::new(decay, epsilons, step.learning_rate, step.number)
}

/// Norm of several gradients taken as one vector, summed in one fixed order. Not finite if any
/// element is not.
pub fn global_norm(gradients: &[&[f32]]) -> f64 {
    gradients.iter().map(|gradient| elementwise::sum_of_squares(gradient)).sum::<f64>().sqrt()
}

#[cfg(test)]
mod tests;
