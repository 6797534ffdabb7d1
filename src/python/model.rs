//! `_core.Model`: the backbone with its head, and the passes through it.

use std::path::PathBuf;
use std::sync::Arc;

use numpy::{IntoPyArray, PyArrayDyn, PyArrayMethods, PyReadonlyArrayDyn, PyUntypedArrayMethods};
use pyo3::prelude::*;
use pyo3::types::PyDict;

use super::arrays::{self, Rectangle};
use super::classification_head::PyClassificationHead;
use super::enter::{compute, compute_interruptible};
use super::generation::Request;
use super::optimizer::PyOptimizer;
use super::parameters::{self, Int8};
use super::step::{StepArrays, loss_settings, same_rows, step_dict};
use super::weight_file::{self, Filling, PyWeightFile};
use crate::config::BartConfig;
use crate::error::{Error, Result};
use crate::generation;
use crate::model::batch::Rows;
use crate::model::cross_attention::{CrossAttention, Tokens};
use crate::model::{BartModel, Batch, Initialisation, Parameter, Pass, Precision};
use crate::ops::hidden::Hidden;
use crate::ops::place::Place;
use crate::training::step;
use crate::weights::checkpoint;
use crate::weights::safetensors::{self, FloatFormat};

/// Answers of a generation: for each input its sequences, best first, each as (ids, score, stopped,
/// token_logprobs).
type Answers = Vec<Vec<(Vec<u32>, f32, bool, Vec<f32>)>>;

/// Float array on its way to Python.
type Floats<'py> = Bound<'py, PyArrayDyn<f32>>;

/// A BART model. Frozen: several Python threads may use one at the same time.
#[pyclass(frozen, name = "Model", module = "bart_fast._core")]
pub struct PyModel {
    model: Arc<BartModel>,
}

#[pymethods]
impl PyModel {
    /// A model of the sizes in `config` (JSON), weights drawn from `seed`, or zero without one.
    #[new]
    #[pyo3(signature = (config, seed = None, dtype = "float32"))]
    fn new(py: Python<'_>, config: &str, seed: Option<u64>, dtype: &str) -> PyResult<Self> {
        let precision = Precision::from_name(dtype)?;
        let config = BartConfig::from_json(config)?;
        let initialisation = match seed {
            Some(seed) => Initialisation::Random { seed, deviation: config.init_std },
            None => Initialisation::Zeros,
        };
        compute(py, move || {
            let model = BartModel::with_precision(config, initialisation, precision)?;
            Ok(PyModel { model: Arc::new(model) })
        })
    }

    /// The sizes and switches as JSON.
    #[getter]
    fn config(&self) -> String {
        self.model.config().to_json()
    }

    /// Name and shape of every parameter, in the order of the checkpoint.
    fn parameters(&self) -> Vec<(String, Vec<usize>)> {
        let entry = |p: &Arc<Parameter>| (p.name().to_string(), p.shape().to_vec());
        self.model.parameters().iter().map(entry).collect()
    }

    /// Number of trained values.
    fn count_parameters(&self) -> usize {
        self.model.learned().map(|parameter| parameter.count()).sum()
    }

    /// A copy of a parameter (float32), with what the adapter in use adds to it; `base`: without.
    #[pyo3(signature = (name, base = false))]
    fn get_parameter<'py>(&self, py: Python<'py>, name: &str, base: bool) -> PyResult<Floats<'py>> {
        parameters::get(py, self.model.parameters(), name, !base)
    }

    /// Sets parameters from datasets of `files`, each planned as (parameter, (file, dataset), whether it is
    /// transposed, the scales as (file, dataset) or `None`).
    fn fill(
        &self,
        py: Python<'_>,
        files: Vec<PyRef<'_, PyWeightFile>>,
        plan: Vec<Filling>,
    ) -> PyResult<()> {
        weight_file::fill(py, self.model.parameters(), &files, plan)
    }

    /// Replaces parameters by arrays of float32 of their shapes; nothing changes if one does not fit.
    fn set_parameters(&self, py: Python<'_>, values: &Bound<'_, PyDict>) -> PyResult<()> {
        parameters::set(py, self.model.parameters(), values)
    }

    /// Puts the running means of `optimizer` in the place of the weights; with `exchange` they change places.
    #[pyo3(signature = (optimizer, exchange = false))]
    fn put_averages(
        &self,
        py: Python<'_>,
        optimizer: &PyOptimizer,
        exchange: bool,
    ) -> PyResult<()> {
        compute(py, || {
            let _alone = self.model.lock_for_training();
            parameters::put_averages(&self.model.trainable(), optimizer, exchange)
        })
    }

    /// Values and scales of a matrix in int8, with what the adapter in use adds to it (`base`: without);
    /// `None` for another parameter.
    #[pyo3(signature = (name, base = false))]
    fn get_int8<'py>(
        &self,
        py: Python<'py>,
        name: &str,
        base: bool,
    ) -> PyResult<Option<Int8<'py>>> {
        parameters::get_int8(py, self.model.parameters(), name, !base)
    }

    /// Replaces a matrix in int8 by values of its shape and the scales of its rows, which divide.
    fn set_int8(
        &self,
        py: Python<'_>,
        name: &str,
        values: PyReadonlyArrayDyn<'_, i8>,
        scales: PyReadonlyArrayDyn<'_, f32>,
    ) -> PyResult<()> {
        parameters::set_int8(py, self.model.parameters(), name, values, scales)
    }

    /// In which numbers weights are kept and multiplied: a name of Keras, such as "bfloat16".
    #[getter]
    fn dtype(&self) -> &'static str {
        self.model.precision().name()
    }

    /// Names of the parameters that training changes, those of the adapter in use among them.
    fn trainable(&self) -> Vec<String> {
        self.model.trainable().iter().map(|parameter| parameter.name().to_owned()).collect()
    }

    /// Says of parameters whether training changes them.
    fn set_trainable(&self, names: Vec<String>, trainable: bool) -> PyResult<()> {
        let find = |name: &String| parameters::find(self.model.parameters(), name);
        let found = names.iter().map(find).collect::<PyResult<Vec<_>>>()?;
        found.iter().for_each(|parameter| parameter.set_trainable(trainable));
        Ok(())
    }

    /// Whether training computes the inner values of layers again in the backward pass.
    fn recomputes(&self) -> bool {
        self.model.recomputes()
    }

    /// Says so, from the next step on.
    fn set_recomputes(&self, recomputes: bool) {
        self.model.set_recomputes(recomputes);
    }

    /// Refuses a precision that cannot be trained, before any work is done.
    fn check_trainable(&self) -> PyResult<()> {
        Ok(self.model.check_trainable()?)
    }

    /// Bytes that the trained values take in a file of the model's precision.
    fn count_bytes(&self) -> usize {
        self.model.learned().map(|parameter| parameter.bytes()).sum()
    }

    /// A copy of the model in another precision.
    fn to_dtype(&self, py: Python<'_>, dtype: &str) -> PyResult<Self> {
        let precision = Precision::from_name(dtype)?;
        compute(py, || Ok(PyModel { model: Arc::new(self.model.to_precision(precision)?) }))
    }

    /// A copy of the model on another device.
    fn to_device(&self, py: Python<'_>, device: &str) -> PyResult<Self> {
        compute(py, || {
            let place = Place::from_name(device)?;
            Ok(PyModel { model: Arc::new(self.model.to_place(place)?) })
        })
    }

    /// Where the model is: a name that `to_device` takes.
    #[getter]
    fn device(&self) -> String {
        self.model.place().name()
    }

    /// The model with another number of token ids: it shares every parameter that does not depend on
    /// it; token tables and the logits' bias are zero.
    fn with_vocabulary(&self, py: Python<'_>, vocab_size: usize) -> PyResult<Self> {
        compute(py, || Ok(PyModel { model: Arc::new(self.model.with_vocabulary(vocab_size)?) }))
    }

    /// Fills all parameters, and those of a head, from the files of one checkpoint: safetensors, or
    /// what torch saved. Whether it has a head that was not asked for.
    #[pyo3(signature = (paths, head = None))]
    fn load_checkpoint(
        &self,
        py: Python<'_>,
        paths: Vec<PathBuf>,
        head: Option<&PyClassificationHead>,
    ) -> PyResult<bool> {
        compute(py, || checkpoint::load(&self.model, head.map(PyClassificationHead::core), &paths))
    }

    /// Writes all parameters, and those of a head, under Hugging Face's names; `dtype` float32,
    /// float16 or bfloat16.
    #[pyo3(signature = (path, dtype = "float32", head = None))]
    fn save_safetensors(
        &self,
        py: Python<'_>,
        path: PathBuf,
        dtype: &str,
        head: Option<&PyClassificationHead>,
    ) -> PyResult<()> {
        let format = FloatFormat::from_name(dtype)?;
        compute(py, || {
            let head = head.map(PyClassificationHead::core);
            safetensors::save(&self.model, head, &path, format)
        })
    }

    /// The encoder's output `[batch, length, width]`, at masked positions too.
    fn encode<'py>(
        &self,
        py: Python<'py>,
        encoder_token_ids: &Bound<'py, PyAny>,
        encoder_padding_mask: &Bound<'py, PyAny>,
    ) -> PyResult<Floats<'py>> {
        let (source, shape) = self.rectangle(
            ("encoder_token_ids", encoder_token_ids),
            ("encoder_padding_mask", encoder_padding_mask),
        )?;
        let hidden = compute_interruptible(py, |stop| {
            floats(&self.model.encode(&source, &Pass::inference().stopped_by(stop))?)
        })?;
        self.hidden_array(py, hidden, &shape)
    }

    /// Both stacks' outputs `[batch, length, width]`, at masked positions too.
    fn forward<'py>(
        &self,
        py: Python<'py>,
        encoder_token_ids: &Bound<'py, PyAny>,
        encoder_padding_mask: &Bound<'py, PyAny>,
        decoder_token_ids: &Bound<'py, PyAny>,
        decoder_padding_mask: &Bound<'py, PyAny>,
    ) -> PyResult<(Floats<'py>, Floats<'py>)> {
        let (source, source_shape) = self.rectangle(
            ("encoder_token_ids", encoder_token_ids),
            ("encoder_padding_mask", encoder_padding_mask),
        )?;
        let (target, target_shape) = self.rectangle(
            ("decoder_token_ids", decoder_token_ids),
            ("decoder_padding_mask", decoder_padding_mask),
        )?;
        same_rows(source_shape.rows, &target_shape)?;
        let (memory, hidden) = compute_interruptible(py, |stop| {
            let pass = Pass::inference().stopped_by(stop);
            let memory = self.model.encode(&source, &pass)?;
            let hidden = self.model.decode(&target, &memory, &source, &pass)?;
            Ok((floats(&memory)?, floats(&hidden)?))
        })?;
        Ok((
            self.hidden_array(py, memory, &source_shape)?,
            self.hidden_array(py, hidden, &target_shape)?,
        ))
    }

    /// Scores of every token `[..., vocabulary]` after hidden states `[..., width]` (float32).
    fn logits<'py>(
        &self,
        py: Python<'py>,
        hidden: PyReadonlyArrayDyn<'py, f32>,
    ) -> PyResult<Floats<'py>> {
        let config = self.model.config();
        let mut shape = hidden.shape().to_vec();
        if shape.last() != Some(&config.d_model) {
            let message =
                format!("the last dimension must be {}, received {shape:?}", config.d_model);
            return Err(Error::argument("hidden", message).into());
        }
        let values: Vec<f32> = hidden.as_array().iter().copied().collect();
        let logits = compute(py, || {
            let rows = values.len() / config.d_model;
            let hidden =
                Hidden::new(rows, config.d_model, |floats| floats.copy_from_slice(&values))?;
            let hidden = hidden.at(self.model.place())?;
            floats(&self.model.logits(&hidden, &Pass::inference())?)
        })?;
        *shape.last_mut().expect("checked above") = config.vocab_size;
        logits.into_pyarray(py).reshape(shape)
    }

    /// Rows of the token table `[batch, length, width]`, not scaled.
    fn embed<'py>(&self, py: Python<'py>, token_ids: &Bound<'py, PyAny>) -> PyResult<Floats<'py>> {
        let ids = arrays::ids("token_ids", token_ids)?;
        let rows = compute(py, || {
            Batch::single_rows(ids.values.iter().map(|&id| (id, 0)))
                .check("token_ids", self.model.config())?;
            floats(&self.model.embed(&ids.values)?)
        })?;
        self.hidden_array(py, rows, &ids)
    }

    /// What decoder layers look at in the sources `[targets, layers, heads, *size]`: sources and
    /// targets as ragged ids, with their positions where masks had holes, the source of each
    /// target, and by how many rows the weights stand below their queries.
    #[pyo3(signature = (encoder_token_ids, encoder_positions, decoder_token_ids, decoder_positions,
        decoder_sources, layers, shift, size))]
    #[allow(clippy::too_many_arguments)] // A boundary: the Python side names each one.
    fn cross_attention<'py>(
        &self,
        py: Python<'py>,
        encoder_token_ids: Vec<Vec<u32>>,
        encoder_positions: Option<Vec<Vec<u32>>>,
        decoder_token_ids: Vec<Vec<u32>>,
        decoder_positions: Option<Vec<Vec<u32>>>,
        decoder_sources: Vec<usize>,
        layers: Vec<usize>,
        shift: usize,
        size: (usize, usize),
    ) -> PyResult<Floats<'py>> {
        let wanted = CrossAttention {
            sources: tokens(&encoder_token_ids, encoder_positions.as_deref()),
            targets: tokens(&decoder_token_ids, decoder_positions.as_deref()),
            target_sources: &decoder_sources,
            layers: &layers,
            shift,
            size,
        };
        let weights = compute_interruptible(py, |stop| {
            wanted.compute(&self.model, &Pass::inference().stopped_by(stop))
        })?;
        let heads = self.model.config().decoder_attention_heads;
        let shape = vec![decoder_token_ids.len(), layers.len(), heads, size.0, size.1];
        weights.into_pyarray(py).reshape(shape)
    }

    /// Decodes: sources as ragged ids (with their positions, if masks had holes), decoder rows as
    /// ragged ids with masks (`None`: all given) and the most tokens each may have, and `options`
    /// as JSON, `callbacks` as functions by their arguments. For each input its sequences, best
    /// first, as (ids, score, stopped, token_logprobs).
    #[pyo3(signature = (encoder_token_ids, encoder_positions, decoder_token_ids, decoder_masks, max_lengths, options,
        callbacks = None))]
    #[allow(clippy::too_many_arguments)] // A boundary: the Python side names each one.
    fn generate(
        &self,
        py: Python<'_>,
        encoder_token_ids: Vec<Vec<u32>>,
        encoder_positions: Option<Vec<Vec<u32>>>,
        decoder_token_ids: Vec<Vec<u32>>,
        decoder_masks: Option<Vec<Vec<bool>>>,
        max_lengths: Vec<usize>,
        options: &str,
        callbacks: Option<&Bound<'_, PyDict>>,
    ) -> PyResult<Answers> {
        let request = Request::new(
            (encoder_token_ids, encoder_positions),
            (decoder_token_ids, decoder_masks, max_lengths),
            (options, callbacks),
        )?;
        let model = self.model.clone();
        let answers = compute_interruptible(py, |stop| {
            let (mut decoder, inputs, options) = request.begin(model, stop)?;
            generation::generate(&mut decoder, inputs, options, &mut || stop())
        })?;
        let tuple = |answer: generation::Sequence| {
            (answer.ids, answer.score, answer.stopped, answer.token_logprobs)
        };
        Ok(answers.into_iter().map(|best| best.into_iter().map(tuple).collect()).collect())
    }

    /// One training step with `optimizer`; see `StepResult` in the stub for the answer's keys.
    #[pyo3(signature = (optimizer, encoder_token_ids, encoder_padding_mask, decoder_token_ids,
        decoder_padding_mask, targets, sample_weight, learning_rate, seed, normalizer = None,
        label_smoothing = 0.0, every_position = false, detail = "sums"))]
    #[allow(clippy::too_many_arguments)] // A boundary: the Python side names each one.
    fn train_step<'py>(
        &self,
        py: Python<'py>,
        optimizer: &PyOptimizer,
        encoder_token_ids: &Bound<'py, PyAny>,
        encoder_padding_mask: &Bound<'py, PyAny>,
        decoder_token_ids: &Bound<'py, PyAny>,
        decoder_padding_mask: &Bound<'py, PyAny>,
        targets: &Bound<'py, PyAny>,
        sample_weight: Option<&Bound<'py, PyAny>>,
        learning_rate: f64,
        seed: u64,
        normalizer: Option<f64>,
        label_smoothing: f64,
        every_position: bool,
        detail: &str,
    ) -> PyResult<Bound<'py, PyDict>> {
        let settings = loss_settings(normalizer, label_smoothing, every_position, detail)?;
        let arrays = StepArrays::new(
            (encoder_token_ids, encoder_padding_mask),
            (decoder_token_ids, decoder_padding_mask),
        )?;
        let labels = arrays.labels(targets, sample_weight)?;
        let result = compute(py, || {
            let examples = arrays.examples(&self.model, &labels, settings)?;
            step::train(&self.model, &mut optimizer.lock(), &examples, learning_rate, seed)
        })?;
        step_dict(py, result)
    }

    /// Loss and accuracy of a batch; nothing is changed.
    #[pyo3(signature = (encoder_token_ids, encoder_padding_mask, decoder_token_ids,
        decoder_padding_mask, targets, sample_weight, normalizer = None,
        label_smoothing = 0.0, every_position = false, detail = "sums"))]
    #[allow(clippy::too_many_arguments)] // A boundary: the Python side names each one.
    fn evaluate_step<'py>(
        &self,
        py: Python<'py>,
        encoder_token_ids: &Bound<'py, PyAny>,
        encoder_padding_mask: &Bound<'py, PyAny>,
        decoder_token_ids: &Bound<'py, PyAny>,
        decoder_padding_mask: &Bound<'py, PyAny>,
        targets: &Bound<'py, PyAny>,
        sample_weight: Option<&Bound<'py, PyAny>>,
        normalizer: Option<f64>,
        label_smoothing: f64,
        every_position: bool,
        detail: &str,
    ) -> PyResult<Bound<'py, PyDict>> {
        let settings = loss_settings(normalizer, label_smoothing, every_position, detail)?;
        let arrays = StepArrays::new(
            (encoder_token_ids, encoder_padding_mask),
            (decoder_token_ids, decoder_padding_mask),
        )?;
        let labels = arrays.labels(targets, sample_weight)?;
        let result = compute(py, || {
            let examples = arrays.examples(&self.model, &labels, settings)?;
            step::evaluate(&self.model, &examples)
        })?;
        step_dict(py, result)
    }
}

impl PyModel {
    /// The model itself.
    pub(super) fn core(&self) -> &BartModel {
        &self.model
    }

    /// The model, for what outlives a call.
    pub(super) fn shared(&self) -> Arc<BartModel> {
        self.model.clone()
    }

    fn rectangle(
        &self,
        (name, ids): (&str, &Bound<'_, PyAny>),
        (mask_name, mask): (&str, &Bound<'_, PyAny>),
    ) -> Result<(Batch, Rectangle<u32>)> {
        let ids = arrays::ids(name, ids)?;
        let mask = arrays::mask(mask_name, mask, &ids)?;
        let batch = Batch::from_padded(&ids.values, &mask, ids.width, Rows::All);
        batch.check(name, self.model.config())?;
        Ok((batch, ids))
    }

    fn hidden_array<'py>(
        &self,
        py: Python<'py>,
        values: Vec<f32>,
        shape: &Rectangle<u32>,
    ) -> PyResult<Floats<'py>> {
        let shape = vec![shape.rows, shape.width, self.model.config().d_model];
        values.into_pyarray(py).reshape(shape)
    }
}

/// Ragged rows with their positions; a row without any counts from 0.
pub(super) fn tokens<'a>(
    ids: &'a [Vec<u32>],
    positions: Option<&'a [Vec<u32>]>,
) -> Vec<Tokens<'a>> {
    let row = |(i, ids): (usize, &'a Vec<u32>)| Tokens {
        ids,
        positions: positions.and_then(|positions| positions.get(i)).map(Vec::as_slice),
    };
    ids.iter().enumerate().map(row).collect()
}

fn floats(hidden: &Hidden) -> Result<Vec<f32>> {
    Ok(hidden.read(<[f32]>::to_vec)?)
}
