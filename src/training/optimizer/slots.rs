//! What optimizers keep of a parameter.

use std::borrow::Cow;
#[cfg(feature = "cuda")]
use std::sync::Arc;

use super::{Matrices, OptimizerConfig};
use crate::error::{Error, Result};
#[cfg(feature = "cuda")]
use crate::kernels::cuda::{Card, CardFloats};
use crate::kernels::pack;

/// Floats in memory, or on the card that updates with them.
#[derive(Debug)]
pub(super) enum Values {
    Host(Vec<f32>),
    #[cfg(feature = "cuda")]
    Card(CardFloats),
}

impl Values {
    fn zeros(length: usize) -> Self {
        Values::Host(vec![0.0; length])
    }

    pub fn len(&self) -> usize {
        match self {
            Values::Host(values) => values.len(),
            #[cfg(feature = "cuda")]
            Values::Card(values) => values.len(),
        }
    }

    pub fn read(&self) -> Result<Cow<'_, [f32]>> {
        match self {
            Values::Host(values) => Ok(Cow::Borrowed(values)),
            #[cfg(feature = "cuda")]
            Values::Card(values) => Ok(Cow::Owned(values.card().alone(|| values.to_host())?)),
        }
    }

    /// In memory, where they are from now on.
    pub fn host(&mut self) -> Result<&mut Vec<f32>> {
        #[cfg(feature = "cuda")]
        if let Values::Card(values) = self {
            *self = Values::Host(values.card().alone(|| values.to_host())?);
        }
        match self {
            Values::Host(values) => Ok(values),
            #[cfg(feature = "cuda")]
            Values::Card(_) => unreachable!("they were just brought here"),
        }
    }

    /// On a card, where they are from now on.
    #[cfg(feature = "cuda")]
    pub fn card(&mut self, card: &Arc<Card>) -> Result<&mut CardFloats> {
        let elsewhere = |values: &CardFloats| !Arc::ptr_eq(values.card(), card);
        if let Values::Card(values) = self
            && elsewhere(values)
        {
            self.host()?;
        }
        if let Values::Host(values) = self {
            *self = Values::Card(CardFloats::new(card, values)?);
        }
        match self {
            Values::Card(values) => Ok(values),
            Values::Host(_) => unreachable!("they were just brought there"),
        }
    }
}

/// State of one parameter; what the two or three vectors are called is the rule's business
/// ([`Rule::slot_names`]). A slot the rule does not use is absent.
#[derive(Debug, Default)]
pub(super) struct Slots {
    matrix: bool,
    /// How the values of a matrix lie; `None`: row-major, as they are saved.
    layout: Option<Matrices>,
    pub of_rule: Vec<Values>,
    pub accumulated: Option<Values>,
    pub average: Option<Values>,
}

const ACCUMULATOR: &str = "gradient_accumulator";
pub(super) const AVERAGE: &str = "average";

/// Every slot a parameter has, the accumulator and the running mean last.
pub(super) fn slot_names(config: &OptimizerConfig, matrix: bool) -> Vec<&'static str> {
    let mut names = config.rule.slot_names(matrix);
    names.extend(config.gradient_accumulation_steps.map(|_| ACCUMULATOR));
    names.extend(config.ema_momentum.map(|_| AVERAGE));
    names
}

impl Slots {
    pub fn new(config: &OptimizerConfig, length: usize, matrices: Option<Matrices>) -> Self {
        let lengths = config.rule.slot_lengths(length, matrices);
        Self {
            matrix: matrices.is_some(),
            layout: matrices,
            of_rule: lengths.into_iter().map(Values::zeros).collect(),
            accumulated: config.gradient_accumulation_steps.map(|_| Values::zeros(length)),
            average: config.ema_momentum.map(|_| Values::zeros(length)),
        }
    }

    /// From the values of all slots, in the order of [`slot_names`].
    pub fn from_values(config: &OptimizerConfig, matrix: bool, values: Vec<Vec<f32>>) -> Self {
        let mut values: Vec<Values> = values.into_iter().map(Values::Host).collect();
        let average = config.ema_momentum.and_then(|_| values.pop());
        let accumulated = config.gradient_accumulation_steps.and_then(|_| values.pop());
        Self { matrix, layout: None, of_rule: values, accumulated, average }
    }

    pub fn names(&self, config: &OptimizerConfig) -> Vec<&'static str> {
        slot_names(config, self.matrix)
    }

    pub fn values(&self) -> impl Iterator<Item = &Values> {
        self.of_rule.iter().chain(&self.accumulated).chain(&self.average)
    }

    /// All values as they are saved: those of matrices row-major.
    pub fn saved(&self, config: &OptimizerConfig) -> Result<Vec<Cow<'_, [f32]>>> {
        let factored = self.of_rule.len() * usize::from(config.rule.keeps_averages());
        let mut saved = Vec::new();
        for (i, values) in self.values().enumerate() {
            let values = values.read()?;
            saved.push(match self.layout {
                Some(layout) if layout.lanes > 1 && i >= factored => {
                    Cow::Owned(relaid(&values, layout, row_major(layout)))
                }
                _ => values,
            });
        }
        Ok(saved)
    }

    /// Has the values of a matrix lie as its own do, wherever these are now.
    pub fn bring_to(&mut self, config: &OptimizerConfig, matrices: Option<Matrices>) -> Result<()> {
        let Some(to) = matrices else { return Ok(()) };
        let from = self.layout.unwrap_or(row_major(to));
        self.layout = Some(to);
        if from.lanes == to.lanes {
            return Ok(());
        }
        // Averages of rows and columns lie as they did.
        let of_rule = self.of_rule.iter_mut().filter(|_| !config.rule.keeps_averages());
        for values in of_rule.chain(&mut self.accumulated).chain(&mut self.average) {
            let values = values.host()?;
            *values = relaid(values, from, to);
        }
        Ok(())
    }

    pub fn check(
        &self,
        name: &str,
        config: &OptimizerConfig,
        length: usize,
        matrices: Option<Matrices>,
    ) -> Result<()> {
        let lanes = self.layout.map_or(1, |layout| layout.lanes);
        let length = matrices.map_or(length, |to| Matrices { lanes, ..to }.stored());
        let mut lengths = config.rule.slot_lengths(length, matrices);
        lengths.resize(slot_names(config, matrices.is_some()).len(), length);
        let names = slot_names(config, matrices.is_some());
        check_length(name, "state", self.values().count(), lengths.len())?;
        for ((slot, values), expected) in names.iter().zip(self.values()).zip(lengths) {
            check_length(name, slot, values.len(), expected)?;
        }
        Ok(())
    }
}

pub(super) fn check_length(parameter: &str, what: &str, got: usize, expected: usize) -> Result<()> {
    if got == expected {
        return Ok(());
    }
    Err(Error::argument(
        parameter,
        format!("its {what} has {got} values, the parameter has {expected}"),
    ))
}

fn row_major(matrices: Matrices) -> Matrices {
    Matrices { lanes: 1, ..matrices }
}

/// The values of a matrix in another layout; one of both is row-major.
fn relaid(values: &[f32], from: Matrices, to: Matrices) -> Vec<f32> {
    let (rows, columns) = (from.rows, from.columns);
    let mut other = vec![0.0; to.stored()];
    match from.lanes {
        1 => pack::from_rows(values, rows, columns, &mut other),
        _ => pack::to_rows(values, rows, columns, &mut other),
    }
    other
}
