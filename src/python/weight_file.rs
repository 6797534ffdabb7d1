//! `_core.WeightFile`: a weight file of Keras that the core reads by itself, and how such files fill
//! parameters.

use std::collections::HashMap;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use pyo3::prelude::*;

use super::enter::{compute, enter};
use super::parameters::find;
use crate::error::{Error, Result};
use crate::model::Parameter;
use crate::weights::{StoredTensor, Values, checkpoint, hdf5};

/// An open HDF5 file whose datasets lie in it as plain values.
#[pyclass(frozen, name = "WeightFile", module = "bart_fast._core")]
pub struct PyWeightFile {
    path: PathBuf,
    file: File,
    datasets: Vec<(String, StoredTensor)>,
}

#[pymethods]
impl PyWeightFile {
    /// Opens a file. One of another kind, or damaged, is refused: the HDF5 library knows more of it.
    #[new]
    fn new(py: Python<'_>, path: PathBuf) -> PyResult<Self> {
        enter(py, || {
            let mut file = File::open(&path).map_err(|source| Error::io(&path, source))?;
            match hdf5::read(&mut file) {
                Some(datasets) => Ok(PyWeightFile { path, file, datasets }),
                None => Err(Error::format(path, "is not HDF5 as Keras writes it")),
            }
        })
    }

    /// Where it is.
    #[getter]
    fn path(&self) -> &Path {
        &self.path
    }

    /// Name, dtype and shape of every dataset.
    fn datasets(&self) -> Vec<(&str, &'static str, Vec<usize>)> {
        let datasets = self.datasets.iter();
        datasets
            .map(|(name, tensor)| {
                (name.as_str(), hdf5::type_name(tensor.dtype), tensor.shape.clone())
            })
            .collect()
    }
}

/// A dataset: which of the files has it, and its name.
type Place = (usize, String);

/// What fills a parameter: its name, the values, whether these are those of the transposed matrix, and the
/// scales of its rows where they are quantised.
pub(super) type Filling = (String, Place, bool, Option<Place>);

/// Sets parameters from the datasets of open files.
pub(super) fn fill(
    py: Python<'_>,
    parameters: &[Arc<Parameter>],
    files: &[PyRef<'_, PyWeightFile>],
    plan: Vec<Filling>,
) -> PyResult<()> {
    let files: Vec<&PyWeightFile> = files.iter().map(|file| &**file).collect();
    let indices: Vec<HashMap<&str, &StoredTensor>> =
        files.iter().map(|file| file.index()).collect();
    let values = |(file, name): &Place| -> Result<Values<'_>> {
        let tensor = indices.get(*file).and_then(|index| index.get(name.as_str()));
        let missing =
            || Error::argument("plan", format!("there is no dataset {name} in file {file}"));
        Values::new(&files[*file].path, &files[*file].file, name, tensor.ok_or_else(missing)?)
    };
    let plan = plan
        .into_iter()
        .map(|(name, place, transposed, scales)| {
            Ok((find(parameters, &name)?, place, transposed, scales))
        })
        .collect::<PyResult<Vec<_>>>()?;
    compute(py, || {
        plan.iter().try_for_each(|(parameter, place, transposed, scales)| {
            let scales = scales.as_ref().map(|place| {
                let scales = values(place)?.to_floats()?;
                if scales.iter().all(|scale| scale.is_finite() && *scale > 0.0) {
                    return Ok(scales);
                }
                let name = &place.1;
                let message = format!("{name} holds scales that are not above 0 and finite");
                Err(Error::format(&files[place.0].path, message))
            });
            let scales = scales.transpose()?;
            let dataset = values(place)?;
            checkpoint::fill(parameter, &dataset, scales.as_deref(), *transposed).map_err(|error| {
                // Its names of the datasets are what the file is known by.
                match error {
                    Error::Weights(message) => {
                        Error::format(&files[place.0].path, format!("{}: {message}", place.1))
                    }
                    other => other,
                }
            })
        })
    })
}

impl PyWeightFile {
    fn index(&self) -> HashMap<&str, &StoredTensor> {
        self.datasets.iter().map(|(name, tensor)| (name.as_str(), tensor)).collect()
    }
}
