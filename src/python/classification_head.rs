//! `_core.ClassificationHead`: the head of a sequence classifier, over the model it is used with.

use std::sync::Arc;

use numpy::{IntoPyArray, PyArrayDyn, PyArrayMethods, PyReadonlyArrayDyn, PyUntypedArrayMethods};
use pyo3::exceptions::{PyKeyError, PyValueError};
use pyo3::prelude::*;
use pyo3::types::PyDict;

use super::enter::{compute, compute_interruptible};
use super::model::{PyModel, tokens};
use crate::error::Error;
use crate::model::classification_head::ClassificationHead;
use crate::model::{Batch, Initialisation, Parameter, Pass};
use crate::ops::with_floats;

/// Float array on its way to Python.
type Floats<'py> = Bound<'py, PyArrayDyn<f32>>;

/// A head. Frozen: several Python threads may use one at the same time.
#[pyclass(frozen, name = "ClassificationHead", module = "bart_fast._core")]
pub struct PyClassificationHead {
    head: ClassificationHead,
}

#[pymethods]
impl PyClassificationHead {
    /// A head of these sizes, weights drawn from `seed`, or zero without one.
    #[new]
    #[pyo3(signature = (width, hidden_dim, num_classes, dropout = 0.0, deviation = 0.02, seed = None))]
    fn new(
        py: Python<'_>,
        width: usize,
        hidden_dim: usize,
        num_classes: usize,
        dropout: f64,
        deviation: f64,
        seed: Option<u64>,
    ) -> PyResult<Self> {
        let initialisation = match seed {
            Some(seed) => Initialisation::Random { seed, deviation },
            None => Initialisation::Zeros,
        };
        compute(py, move || {
            let head =
                ClassificationHead::new(width, hidden_dim, num_classes, dropout, initialisation)?;
            Ok(PyClassificationHead { head })
        })
    }

    /// Name and shape of every parameter, in the order of the checkpoint.
    fn parameters(&self) -> Vec<(String, Vec<usize>)> {
        let entry = |p: &Arc<Parameter>| (p.name().to_string(), p.shape().to_vec());
        self.head.parameters().iter().map(entry).collect()
    }

    /// A copy of a parameter (float32).
    fn get_parameter<'py>(&self, py: Python<'py>, name: &str) -> PyResult<Floats<'py>> {
        let parameter = self.parameter(name)?;
        let values = compute(py, || parameter.values())?;
        values.into_pyarray(py).reshape(parameter.shape().to_vec())
    }

    /// Replaces parameters by arrays of float32 of their shapes.
    fn set_parameters(&self, py: Python<'_>, values: &Bound<'_, PyDict>) -> PyResult<()> {
        for (name, array) in values.iter() {
            let name: String = name.extract()?;
            let parameter = self.parameter(&name)?;
            let array: PyReadonlyArrayDyn<'_, f32> = array.extract().map_err(|_| {
                PyValueError::new_err(format!("`{name}` must be an array of float32"))
            })?;
            if array.shape() != parameter.shape() {
                let (want, got) = (parameter.shape(), array.shape());
                let message = format!("`{name}` has shape {want:?}, received {got:?}");
                return Err(Error::Weights(message).into());
            }
            let values: Vec<f32> = array.as_array().iter().copied().collect();
            compute(py, || parameter.assign(&values))?;
        }
        Ok(())
    }

    /// Scores `[rows, classes]` of texts as ragged ids (with their positions, if masks had holes);
    /// the decoder's ids go up to the position that is classified.
    #[pyo3(signature = (model, encoder_token_ids, encoder_positions, decoder_token_ids))]
    fn classify<'py>(
        &self,
        py: Python<'py>,
        model: &PyModel,
        encoder_token_ids: Vec<Vec<u32>>,
        encoder_positions: Option<Vec<Vec<u32>>>,
        decoder_token_ids: Vec<Vec<u32>>,
    ) -> PyResult<Floats<'py>> {
        let source = tokens(&encoder_token_ids, encoder_positions.as_deref());
        let target = tokens(&decoder_token_ids, None);
        let scores = compute_interruptible(py, |stop| {
            let [source, target] = [source, target].map(|rows| {
                Batch::from_sequences(rows.iter().map(|each| (each.ids, each.positions)))
            });
            let pass = Pass::inference().stopped_by(stop);
            let scores = self.head.classify(model.core(), &source, &target, &pass)?.contiguous()?;
            Ok(with_floats([&scores], |[scores]| scores.to_vec())?)
        })?;
        let rows = encoder_token_ids.len();
        let classes = scores.len() / rows.max(1);
        scores.into_pyarray(py).reshape(vec![rows, classes])
    }
}

impl PyClassificationHead {
    fn parameter(&self, name: &str) -> PyResult<Arc<Parameter>> {
        let found = self.head.parameters().iter().find(|parameter| parameter.name() == name);
        let missing = || PyKeyError::new_err(format!("the head has no parameter `{name}`"));
        found.cloned().ok_or_else(missing)
    }

    /// The head itself.
    pub(super) fn core(&self) -> &ClassificationHead {
        &self.head
    }
}
