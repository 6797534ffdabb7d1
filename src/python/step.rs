//! What a training or evaluation step takes from Python, and what it answers.

use numpy::{IntoPyArray, PyArrayMethods};
use pyo3::prelude::*;
use pyo3::types::PyDict;

use super::arrays::{self, Rectangle};
use crate::error::{Error, Result};
use crate::model::BartModel;
use crate::training::loss::{Detail, LossSettings, StepResult};
use crate::training::step::{Examples, Padded};

/// Ids and their mask.
type IdsAndMask<'a, 'py> = (&'a Bound<'py, PyAny>, &'a Bound<'py, PyAny>);

fn padded((ids, mask): IdsAndMask<'_, '_>, stack: &str) -> Result<Padded> {
    let ids = arrays::ids(&format!("{stack}_token_ids"), ids)?;
    let mask = arrays::mask(&format!("{stack}_padding_mask"), mask, &ids)?;
    Ok(Padded { ids: ids.values, mask, width: ids.width })
}

/// The rectangles of a training or evaluation step.
pub struct StepArrays {
    source: Padded,
    target: Padded,
}

/// What the decoder should say at each position, and how much each counts.
pub struct Labels {
    ids: Vec<u32>,
    weights: Option<Vec<f32>>,
}

impl StepArrays {
    /// Ids with their masks, of encoder and decoder.
    pub fn new(source: IdsAndMask<'_, '_>, target: IdsAndMask<'_, '_>) -> Result<Self> {
        Ok(StepArrays { source: padded(source, "encoder")?, target: padded(target, "decoder")? })
    }

    /// Targets of the decoder's shape, and their weights.
    pub fn labels(
        &self,
        targets: &Bound<'_, PyAny>,
        sample_weight: Option<&Bound<'_, PyAny>>,
    ) -> Result<Labels> {
        let (rows, width) = (self.target.ids.len() / self.target.width, self.target.width);
        let labels = arrays::ids("y", targets)?;
        if (labels.rows, labels.width) != (rows, width) {
            let message = format!(
                "must have the shape of `decoder_token_ids` [{rows}, {width}], received [{}, {}]",
                labels.rows, labels.width
            );
            return Err(Error::argument("y", message));
        }
        same_rows(self.source.ids.len() / self.source.width, &labels)?;
        let weights = sample_weight
            .map(|weights| arrays::weights("sample_weight", weights, &labels))
            .transpose()?;
        Ok(Labels { ids: labels.values, weights })
    }

    /// All of them, for a step.
    pub fn examples(
        &self,
        model: &BartModel,
        labels: &Labels,
        settings: LossSettings,
    ) -> Result<Examples> {
        let weights = labels.weights.as_deref();
        Examples::new(model, &self.source, &self.target, &labels.ids, weights, settings)
    }
}

/// Refuses another number of targets than of sources.
pub fn same_rows<T>(source_rows: usize, target: &Rectangle<T>) -> Result<()> {
    if source_rows == target.rows {
        return Ok(());
    }
    let message = format!("{source_rows} sources, but {} rows here", target.rows);
    Err(Error::argument("decoder_token_ids", message))
}

/// What a step is told about its loss.
pub fn loss_settings(
    normalizer: Option<f64>,
    label_smoothing: f64,
    every_position: bool,
    detail: &str,
) -> Result<LossSettings> {
    if !(0.0..1.0).contains(&label_smoothing) {
        let message = format!("received {label_smoothing}, allowed: 0 to below 1");
        return Err(Error::argument("label_smoothing", message));
    }
    let detail = Detail::from_name(detail)?;
    Ok(LossSettings { normalizer, label_smoothing, every_position, detail })
}

/// A step's answer by the keys that the stub lists.
pub fn step_dict(py: Python<'_>, result: StepResult) -> PyResult<Bound<'_, PyDict>> {
    let dict = PyDict::new(py);
    dict.set_item("loss", result.loss)?;
    dict.set_item("weighted_nll_sum", result.weighted_nll_sum)?;
    dict.set_item("weight_sum", result.weight_sum)?;
    dict.set_item("correct_weight_sum", result.correct_weight_sum)?;
    dict.set_item("nll_sum", result.nll_sum)?;
    dict.set_item("correct", result.correct)?;
    dict.set_item("tokens", result.tokens)?;
    dict.set_item("gradient_norm", result.gradient_norm)?;
    dict.set_item("applied", result.applied)?;
    if let Some(nll) = result.nll_of_rows {
        dict.set_item("nll_of_rows", nll.into_pyarray(py))?;
    }
    if let Some(logits) = result.logits {
        let classes = logits.len() / result.tokens.max(1);
        let shape = [logits.len() / classes.max(1), classes];
        dict.set_item("logits", logits.into_pyarray(py).reshape(shape)?)?;
    }
    Ok(dict)
}
