//! `_core.Adapters`: the named sets of low-rank additions of a model, and what of it training changes.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::Arc;

use numpy::{IntoPyArray, PyArrayDyn, PyArrayMethods};
use pyo3::prelude::*;
use pyo3::types::PyDict;

use super::enter::compute;
use super::model::PyModel;
use super::parameters;
use crate::model::{BartModel, Parameter};
use crate::weights::adapter_file;

/// View of a model's adapters; it holds the model.
#[pyclass(frozen, name = "Adapters", module = "bart_fast._core")]
pub struct PyAdapters {
    model: Arc<BartModel>,
}

#[pymethods]
impl PyAdapters {
    #[new]
    fn new(model: &PyModel) -> Self {
        PyAdapters { model: model.shared() }
    }

    /// Names of all sets; the one in use or `None`; and whether that is merged into the weights.
    fn names(&self) -> (Vec<String>, Option<String>, bool) {
        let (names, in_use) = self.model.adapter_names();
        let merged = in_use.as_ref().is_some_and(|(_, merged)| *merged);
        (names, in_use.map(|(name, _)| name), merged)
    }

    /// Names of the matrices that can have additions.
    fn matrices(&self) -> Vec<String> {
        self.model.adaptable().map(|matrix| matrix.name().to_owned()).collect()
    }

    /// A new set, which is then in use.
    #[allow(clippy::too_many_arguments)] // A boundary: the Python side names each one.
    fn add(
        &self,
        py: Python<'_>,
        adapter: &str,
        matrices: Vec<String>,
        rank: usize,
        alpha: f64,
        by_head: bool,
        seed: u64,
    ) -> PyResult<()> {
        compute(py, || self.model.add_adapter(adapter, &matrices, (rank, alpha), by_head, seed))
    }

    /// Puts another set in use, or none.
    #[pyo3(signature = (adapter))]
    fn choose(&self, adapter: Option<&str>) -> PyResult<()> {
        Ok(self.model.use_adapter(adapter)?)
    }

    /// Forgets a set.
    fn remove(&self, adapter: &str) -> PyResult<()> {
        Ok(self.model.remove_adapter(adapter)?)
    }

    /// Says of all sets whether training changes them when they are in use.
    fn set_trainable(&self, trainable: bool) {
        self.model.set_adapters_trainable(trainable);
    }

    /// Adds the set in use to the weights themselves.
    fn merge(&self, py: Python<'_>) -> PyResult<()> {
        compute(py, || self.model.merge_adapter())
    }

    /// Gives the weights back what they were before `merge`.
    fn unmerge(&self, py: Python<'_>) -> PyResult<()> {
        compute(py, || self.model.unmerge_adapter())
    }

    /// What `alpha` over the rank is in a set.
    fn scale(&self, adapter: &str) -> PyResult<f32> {
        Ok(self.model.adapter_scale(adapter)?)
    }

    /// Name and shape of every parameter of a set.
    fn parameters(&self, adapter: &str) -> PyResult<Vec<(String, Vec<usize>)>> {
        let entry = |p: &Arc<Parameter>| (p.name().to_owned(), p.shape().to_vec());
        Ok(self.model.adapter_parameters(adapter)?.iter().map(entry).collect())
    }

    /// A copy of a parameter of a set (float32).
    fn get<'py>(
        &self,
        py: Python<'py>,
        adapter: &str,
        name: &str,
    ) -> PyResult<Bound<'py, PyArrayDyn<f32>>> {
        parameters::get(py, &self.model.adapter_parameters(adapter)?, name, false)
    }

    /// Writes a set with `settings` to a safetensors file.
    fn save(
        &self,
        py: Python<'_>,
        adapter: &str,
        settings: HashMap<String, String>,
        path: PathBuf,
    ) -> PyResult<()> {
        compute(py, || adapter_file::save(&self.model, adapter, settings, &path))
    }

    /// Replaces parameters of a set by arrays of float32 of their shapes; nothing changes if one does
    /// not fit.
    fn set(&self, py: Python<'_>, adapter: &str, values: &Bound<'_, PyDict>) -> PyResult<()> {
        parameters::set(py, &self.model.adapter_parameters(adapter)?, values)
    }
}

/// The settings in the header of a small safetensors file, and its tensors as float32, by their names.
#[pyfunction]
pub fn read_adapter<'py>(
    py: Python<'py>,
    path: PathBuf,
) -> PyResult<(HashMap<String, String>, Bound<'py, PyDict>)> {
    let (settings, tensors) = compute(py, || adapter_file::read(&path))?;
    let found = PyDict::new(py);
    for (name, shape, values) in tensors {
        found.set_item(name, values.into_pyarray(py).reshape(shape)?)?;
    }
    Ok((settings, found))
}
