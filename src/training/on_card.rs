//! Updates of parameters on one of NVIDIA's cards: neither values nor gradients leave it.

use std::sync::Arc;

use candle_core::Tensor;

use super::gradients::Gradients;
use super::loss::StepResult;
use super::optimizer::Optimizer;
use crate::error::Result;
use crate::kernels::cuda::{Card, Weight};
use crate::model::Parameter;
use crate::ops::{Way, way};

/// The card that has all of these, if its kernels update them.
pub(super) fn card_of(
    parameters: &[&Parameter],
    optimizer: &Optimizer,
) -> Result<Option<Arc<Card>>> {
    let Some(first) = parameters.first() else { return Ok(None) };
    let device = first.place().device();
    let there = |parameter: &&Parameter| {
        parameter.place().device().same_device(device) && parameter.keeps_float32()
    };
    let takes = device.is_cuda() && way() == Way::Kernel && optimizer.runs_on_cards();
    match takes && parameters.iter().all(there) {
        true => Ok(Some(Card::of(device)?)),
        false => Ok(None),
    }
}

/// [`update`](super::step::update) there, given the gradients.
pub(super) fn update(
    card: &Arc<Card>,
    parameters: &[&Parameter],
    gradients: &Gradients<'_>,
    optimizer: &mut Optimizer,
    mut result: StepResult,
    learning_rate: f64,
) -> Result<StepResult> {
    let tensors = parameters.iter().map(|parameter| gradients.tensor(parameter));
    // They live until the card has read them.
    let tensors = tensors.collect::<Result<Vec<_>>>()?;
    let of_gradients =
        tensors.iter().map(|tensor| floats(card, tensor)).collect::<Result<Vec<_>>>()?;
    let norm = card.sums_of_squares(&of_gradients)?.iter().sum::<f64>().sqrt();
    result.gradient_norm = Some(norm);
    if !norm.is_finite() {
        return Ok(result);
    }
    optimizer.begin_step(learning_rate);
    if optimizer.accumulates() {
        for (parameter, &gradient) in parameters.iter().zip(&of_gradients) {
            optimizer.accumulate_on_card(
                card,
                (parameter.name(), parameter.matrices()),
                gradient,
            )?;
        }
    }
    optimizer.clip_to_global_norm(norm);
    for (parameter, &gradient) in parameters.iter().zip(&of_gradients) {
        let value = floats(card, parameter.var().as_tensor())?;
        optimizer.update_on_card(
            card,
            (parameter.name(), parameter.matrices()),
            value,
            gradient,
        )?;
    }
    // What the card reports of all this, while the step can still fail.
    card.synchronize()?;
    result.applied = true;
    Ok(result)
}

fn floats(card: &Card, tensor: &Tensor) -> Result<Weight> {
    match Weight::of_tensor(card, tensor)? {
        Some(floats) => Ok(floats),
        None => unreachable!("what is trained has floats"),
    }
}
