//! `_core.ClassificationHead`: the head of a sequence classifier, over the model it is used with.

use std::sync::Arc;

use numpy::{IntoPyArray, PyArrayDyn, PyArrayMethods};
use pyo3::prelude::*;
use pyo3::types::PyDict;

use super::enter::{compute, compute_interruptible};
use super::model::{PyModel, tokens};
use super::optimizer::PyOptimizer;
use super::parameters;
use super::step::{loss_settings, step_dict};
use super::weight_file::{self, Filling, PyWeightFile};
use crate::model::classification_head::ClassificationHead;
use crate::model::{Batch, Initialisation, Parameter, Pass};
use crate::training::classification::{self, LabelledTexts};
use crate::training::loss::LossSettings;

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
        parameters::get(py, self.head.parameters(), name, false)
    }

    /// Sets parameters from datasets of `files`, each planned as (parameter, (file, dataset), whether it is
    /// transposed, the scales as (file, dataset) or `None`).
    fn fill(
        &self,
        py: Python<'_>,
        files: Vec<PyRef<'_, PyWeightFile>>,
        plan: Vec<Filling>,
    ) -> PyResult<()> {
        weight_file::fill(py, self.head.parameters(), &files, plan)
    }

    /// Replaces parameters by arrays of float32 of their shapes; nothing changes if one does not fit.
    fn set_parameters(&self, py: Python<'_>, values: &Bound<'_, PyDict>) -> PyResult<()> {
        parameters::set(py, self.head.parameters(), values)
    }

    /// Puts the running means of `optimizer` in the place of the weights; with `exchange` they change places.
    #[pyo3(signature = (optimizer, exchange = false))]
    fn put_averages(
        &self,
        py: Python<'_>,
        optimizer: &PyOptimizer,
        exchange: bool,
    ) -> PyResult<()> {
        compute(py, || parameters::put_averages(self.head.parameters(), optimizer, exchange))
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
        let rows = encoder_token_ids.len();
        let given = (encoder_token_ids, encoder_positions, decoder_token_ids);
        let scores = compute_interruptible(py, |stop| {
            let [source, target] = batches(&given);
            let pass = Pass::inference().stopped_by(stop);
            let scores = self.head.classify(model.core(), &source, &target, &pass)?;
            Ok(scores.read(<[f32]>::to_vec)?)
        })?;
        let classes = scores.len() / rows.max(1);
        scores.into_pyarray(py).reshape(vec![rows, classes])
    }

    /// One training step of `model` and head; texts as in `classify`, a label and a weight for each.
    #[pyo3(signature = (model, optimizer, encoder_token_ids, encoder_positions, decoder_token_ids,
        labels, weights, learning_rate, seed, normalizer, label_smoothing = 0.0, detail = "sums"))]
    #[allow(clippy::too_many_arguments)] // A boundary: the Python side names each one.
    fn train_step<'py>(
        &self,
        py: Python<'py>,
        model: &PyModel,
        optimizer: &PyOptimizer,
        encoder_token_ids: Vec<Vec<u32>>,
        encoder_positions: Option<Vec<Vec<u32>>>,
        decoder_token_ids: Vec<Vec<u32>>,
        labels: Vec<u32>,
        weights: Vec<f32>,
        learning_rate: f64,
        seed: u64,
        normalizer: f64,
        label_smoothing: f64,
        detail: &str,
    ) -> PyResult<Bound<'py, PyDict>> {
        let settings = loss_settings(Some(normalizer), label_smoothing, true, detail)?;
        let rows = (encoder_token_ids, encoder_positions, decoder_token_ids);
        let texts = labelled(rows, labels, weights, settings);
        let (head, core) = (&self.head, model.core());
        let result = compute(py, || {
            classification::train(core, head, &mut optimizer.lock(), &texts, learning_rate, seed)
        })?;
        step_dict(py, result)
    }

    /// Loss and accuracy of a batch; nothing is changed.
    #[pyo3(signature = (model, encoder_token_ids, encoder_positions, decoder_token_ids, labels,
        weights, normalizer, label_smoothing = 0.0, detail = "sums"))]
    #[allow(clippy::too_many_arguments)] // A boundary: the Python side names each one.
    fn evaluate_step<'py>(
        &self,
        py: Python<'py>,
        model: &PyModel,
        encoder_token_ids: Vec<Vec<u32>>,
        encoder_positions: Option<Vec<Vec<u32>>>,
        decoder_token_ids: Vec<Vec<u32>>,
        labels: Vec<u32>,
        weights: Vec<f32>,
        normalizer: f64,
        label_smoothing: f64,
        detail: &str,
    ) -> PyResult<Bound<'py, PyDict>> {
        let settings = loss_settings(Some(normalizer), label_smoothing, true, detail)?;
        let rows = (encoder_token_ids, encoder_positions, decoder_token_ids);
        let texts = labelled(rows, labels, weights, settings);
        let (head, core) = (&self.head, model.core());
        let result = compute(py, || classification::evaluate(core, head, &texts))?;
        step_dict(py, result)
    }
}

/// Ragged ids and positions of the encoder, and ids of the decoder.
type Rows = (Vec<Vec<u32>>, Option<Vec<Vec<u32>>>, Vec<Vec<u32>>);

fn batches((ids, positions, decoder_ids): &Rows) -> [Batch; 2] {
    let (source, target) = (tokens(ids, positions.as_deref()), tokens(decoder_ids, None));
    [source, target]
        .map(|rows| Batch::from_sequences(rows.iter().map(|each| (each.ids, each.positions))))
}

fn labelled(
    rows: Rows,
    labels: Vec<u32>,
    weights: Vec<f32>,
    settings: LossSettings,
) -> LabelledTexts {
    let [source, target] = batches(&rows);
    LabelledTexts { source, target, labels, weights, settings }
}

impl PyClassificationHead {
    /// The head itself.
    pub(super) fn core(&self) -> &ClassificationHead {
        &self.head
    }
}
