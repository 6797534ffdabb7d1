//! `_core.Constraints`: the rules of a generation, for a loop that runs in Python.

use numpy::{IntoPyArray, PyArray2, PyArrayMethods, PyReadonlyArray2, PyUntypedArrayMethods};
use pyo3::prelude::*;
use pyo3::types::PyDict;

use super::enter::enter;
use super::generation::options_from;
use crate::error::Error;
use crate::generation::Options;
use crate::generation::constraints::{Context, check_choice};

/// One row: its ids so far, how many were given, the most it may have, the source's ids, and its
/// number among the inputs.
type Row = (Vec<u32>, usize, usize, Vec<u32>, u64);

/// The constraints and stopping criteria of a call.
#[pyclass(frozen, name = "Constraints", module = "bart_fast._core")]
pub struct PyConstraints {
    options: Options,
}

#[pymethods]
impl PyConstraints {
    /// From the options (JSON) and functions that `Model.generate` takes.
    #[new]
    #[pyo3(signature = (options, callbacks = None))]
    fn new(options: &str, callbacks: Option<&Bound<'_, PyDict>>) -> PyResult<Self> {
        Ok(Self { options: options_from(options, callbacks)? })
    }

    /// The scores `[rows, vocabulary]` as the constraints leave them.
    fn apply<'py>(
        &self,
        py: Python<'py>,
        rows: Vec<Row>,
        scores: PyReadonlyArray2<'py, f32>,
    ) -> PyResult<Bound<'py, PyArray2<f32>>> {
        let shape = [scores.shape()[0], scores.shape()[1]];
        if shape[0] != rows.len() || shape[1] == 0 {
            let message = format!("{} rows, but scores of shape {shape:?}", rows.len());
            return Err(Error::argument("scores", message).into());
        }
        let mut scores: Vec<f32> = scores.as_array().iter().copied().collect();
        enter(py, || {
            for ((ids, prompt_length, max_length, source, input), scores) in
                rows.iter().zip(scores.chunks_exact_mut(shape[1]))
            {
                let (prompt_length, max_length, input) = (*prompt_length, *max_length, *input);
                let context = Context { ids, prompt_length, max_length, source, input };
                self.options.constrain(&context, scores)?;
                let best = scores.iter().copied().fold(f32::NEG_INFINITY, f32::max);
                check_choice(best, ids.len(), &self.options.constraints)?;
            }
            Ok(())
        })?;
        scores.into_pyarray(py).reshape(shape)
    }

    /// Whether each row (its ids and its number among the inputs) ends with its last token.
    fn stops(&self, py: Python<'_>, rows: Vec<(Vec<u32>, u64)>) -> PyResult<Vec<bool>> {
        enter(py, || rows.iter().map(|(ids, input)| self.options.stops(ids, *input)).collect())
    }
}
