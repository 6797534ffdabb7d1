//! Parameters of a model as numpy arrays, and back.

use std::sync::Arc;

use numpy::{
    IntoPyArray, PyArray1, PyArrayDyn, PyArrayMethods, PyReadonlyArrayDyn, PyUntypedArrayMethods,
};
use pyo3::exceptions::{PyKeyError, PyValueError};
use pyo3::prelude::*;
use pyo3::types::PyDict;

use super::enter::compute;
use super::optimizer::PyOptimizer;
use crate::error::{Error, Result};
use crate::model::Parameter;

/// The values of a matrix in int8, and the scales of its rows.
pub(super) type Int8<'py> = (Bound<'py, PyArrayDyn<i8>>, Bound<'py, PyArray1<f32>>);

/// The parameter of this name.
pub(super) fn find(parameters: &[Arc<Parameter>], name: &str) -> PyResult<Arc<Parameter>> {
    let found = parameters.iter().find(|parameter| parameter.name() == name);
    found
        .cloned()
        .ok_or_else(|| PyKeyError::new_err(format!("the model has no parameter `{name}`")))
}

/// A copy of a parameter as float32; `merged`: with what is added to it.
pub(super) fn get<'py>(
    py: Python<'py>,
    parameters: &[Arc<Parameter>],
    name: &str,
    merged: bool,
) -> PyResult<Bound<'py, PyArrayDyn<f32>>> {
    let parameter = find(parameters, name)?;
    let values =
        compute(py, || if merged { parameter.merged_values() } else { parameter.values() })?;
    values.into_pyarray(py).reshape(parameter.shape().to_vec())
}

/// Replaces parameters; nothing changes if one does not fit.
pub(super) fn set(
    py: Python<'_>,
    parameters: &[Arc<Parameter>],
    values: &Bound<'_, PyDict>,
) -> PyResult<()> {
    let mut plan = Vec::new();
    for (name, array) in values.iter() {
        let name: String = name.extract()?;
        let array: PyReadonlyArrayDyn<'_, f32> = array
            .extract()
            .map_err(|_| PyValueError::new_err(format!("`{name}` must be an array of float32")))?;
        let parameter = find(parameters, &name)?;
        check_shape(&parameter, array.shape())?;
        plan.push((parameter, array.as_array().iter().copied().collect::<Vec<f32>>()));
    }
    compute(py, || {
        plan.iter().try_for_each(|(parameter, values)| parameter.check(values))?;
        plan.iter().try_for_each(|(parameter, values)| parameter.assign(values))
    })
}

/// Puts the running means of an optimizer in the place of the values; with `exchange` they change
/// places.
pub(super) fn put_averages<'a>(
    parameters: impl IntoIterator<Item = &'a Arc<Parameter>>,
    optimizer: &PyOptimizer,
    exchange: bool,
) -> Result<()> {
    let mut optimizer = optimizer.lock();
    for parameter in parameters {
        let mut outcome = Ok(());
        parameter.update(|value| {
            outcome =
                optimizer.put_average(parameter.name(), parameter.matrices(), value, exchange);
        })?;
        outcome?;
    }
    Ok(())
}

/// Values and scales of a matrix in int8; `None` for another parameter. `merged`: with what is added to
/// it, quantised anew.
pub(super) fn get_int8<'py>(
    py: Python<'py>,
    parameters: &[Arc<Parameter>],
    name: &str,
    merged: bool,
) -> PyResult<Option<Int8<'py>>> {
    let parameter = find(parameters, name)?;
    let read = || if merged { parameter.merged_int8_values() } else { parameter.int8_values() };
    let Some((values, scales)) = compute(py, read)? else { return Ok(None) };
    let values = values.into_pyarray(py).reshape(parameter.shape().to_vec())?;
    Ok(Some((values, scales.into_pyarray(py))))
}

/// Replaces a matrix in int8.
pub(super) fn set_int8(
    py: Python<'_>,
    parameters: &[Arc<Parameter>],
    name: &str,
    values: PyReadonlyArrayDyn<'_, i8>,
    scales: PyReadonlyArrayDyn<'_, f32>,
) -> PyResult<()> {
    let parameter = find(parameters, name)?;
    check_shape(&parameter, values.shape())?;
    let values: Vec<i8> = values.as_array().iter().copied().collect();
    let scales: Vec<f32> = scales.as_array().iter().copied().collect();
    compute(py, || parameter.assign_int8(&values, &scales))
}

fn check_shape(parameter: &Parameter, shape: &[usize]) -> PyResult<()> {
    if shape == parameter.shape() {
        return Ok(());
    }
    let (name, want) = (parameter.name(), parameter.shape());
    Err(Error::Weights(format!("`{name}` has shape {want:?}, received {shape:?}")).into())
}
