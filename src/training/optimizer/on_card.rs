//! Optimizers whose parameters are on a card: state, gradients and values stay there.

use std::sync::Arc;

use super::slots::Slots;
use super::{Matrices, Optimizer, Rule};
use crate::error::Result;
use crate::kernels::cuda::{Card, ElementRule, Weight};
use crate::kernels::optimizer::{AdamStep, RmspropStep};

impl Optimizer {
    /// Whether the rule is computed on cards: all but Adafactor's are.
    pub fn runs_on_cards(&self) -> bool {
        !self.config.rule.keeps_averages()
    }

    /// [`Optimizer::accumulate`] of a gradient on a card.
    ///
    /// # Errors
    /// As [`Optimizer::update`], and what the card reports.
    pub fn accumulate_on_card(
        &mut self,
        card: &Arc<Card>,
        (name, matrices): (&str, Option<Matrices>),
        gradient: Weight,
    ) -> Result<()> {
        let updates = self.step.updates;
        let count = self.config.gradient_accumulation_steps.unwrap_or(1) as f32;
        let wants_norm = self.config.global_clipnorm.is_some();
        let slots = self.slots_of(name, matrices, gradient.len())?;
        let Some(accumulated) = slots.accumulated.as_mut() else { return Ok(()) };
        let accumulated = accumulated.card(card)?;
        accumulated.blend(1.0, gradient, 1.0)?;
        if updates {
            let sums = accumulated.as_weight();
            accumulated.blend(1.0 / count, sums, 0.0)?;
            if wants_norm {
                let squares: f64 = card.sums_of_squares(&[accumulated.as_weight()])?.iter().sum();
                self.step.mean_squares += squares;
            }
        }
        Ok(())
    }

    /// [`Optimizer::update`] of a parameter on a card.
    ///
    /// # Errors
    /// As there, and what the card reports.
    pub fn update_on_card(
        &mut self,
        card: &Arc<Card>,
        (name, matrices): (&str, Option<Matrices>),
        value: Weight,
        gradient: Weight,
    ) -> Result<()> {
        self.slots_of(name, matrices, value.len())?;
        let Self { config, step, slots, .. } = self;
        let slots = slots.get_mut(name).expect("it was just looked up");
        let Slots { of_rule, accumulated, average, .. } = slots;
        let mut mean = accumulated.as_mut().map(|mean| mean.card(card)).transpose()?;
        let gradient = mean.as_ref().map_or(gradient, |mean| mean.as_weight());
        if step.updates {
            let squares = match config.clipnorm {
                Some(_) => card.sums_of_squares(&[gradient])?.iter().sum(),
                None => 0.0,
            };
            let (learning_rate, scale) = (step.learning_rate, step.gradient_scale);
            let common = config.common(learning_rate, scale, name, || squares);
            let mut arrays = of_rule.iter_mut().map(|array| array.card(card));
            let mut next = || arrays.next().transpose();
            let (rule, state) = match config.rule {
                Rule::Adam { beta_1, beta_2, epsilon, .. } => {
                    let adam = AdamStep::new(beta_1, beta_2, epsilon, learning_rate, step.number);
                    (ElementRule::Adam(adam), [next()?, next()?, next()?])
                }
                Rule::Sgd { momentum, nesterov } => {
                    let momentum = momentum as f32;
                    (ElementRule::Sgd { momentum, nesterov }, [next()?, None, None])
                }
                Rule::Rmsprop { rho, epsilon, momentum, centered } => {
                    let v = next()?;
                    let m = if momentum > 0.0 { next()? } else { None };
                    let average = if centered { next()? } else { None };
                    let rmsprop = RmspropStep::new(rho, epsilon, momentum);
                    (ElementRule::Rmsprop(rmsprop), [v, m, average])
                }
                Rule::Lion { beta_1, beta_2 } => {
                    let betas = [beta_1 as f32, beta_2 as f32];
                    (ElementRule::Lion(betas), [next()?, None, None])
                }
                Rule::Adafactor { .. } => unreachable!("it is not computed on cards"),
            };
            card.update(rule, (value, gradient), state, common)?;
            if let Some(mean) = &mut mean {
                mean.clear()?;
            }
        }
        let average = average.as_mut().map(|average| average.card(card)).transpose()?;
        if let (Some(average), Some(keep)) = (average, step.keeps_of_average(config)) {
            average.blend(keep, value, 1.0 - keep)?;
            if step.takes_average(config) {
                card.copy(value, average)?;
            }
        }
        Ok(())
    }
}
