//! `_core.Optimizer`: the optimizer state that training steps update.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use numpy::{
    IntoPyArray, PyArray1, PyArrayMethods, PyReadonlyArray1, PyReadonlyArrayDyn,
    PyUntypedArrayMethods,
};
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyString};

use super::enter::enter;
use crate::error::{Error, Result};
use crate::training::optimizer::{Matrices, Optimizer, OptimizerConfig, Parameter, StepReport};

/// Key of the step counter in the state dictionary; no parameter has this name.
const ITERATIONS: &str = "iterations";

/// Optimizer of a model: rule, constants and state per parameter.
#[pyclass(frozen, name = "Optimizer", module = "bart_fast._core")]
pub struct PyOptimizer {
    inner: Mutex<Optimizer>,
}

impl PyOptimizer {
    /// The optimizer, for one step. Call it with the interpreter released: another thread may hold
    /// the lock for as long as its own step takes.
    pub fn lock(&self) -> MutexGuard<'_, Optimizer> {
        // A panic inside a step leaves numbers behind, not broken invariants.
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[pymethods]
impl PyOptimizer {
    #[new]
    fn new(config: &str) -> PyResult<Self> {
        let config = OptimizerConfig::from_json(config)?;
        Ok(Self { inner: Mutex::new(Optimizer::new(config)) })
    }

    /// Steps made so far.
    #[getter]
    fn iterations(&self, py: Python<'_>) -> u64 {
        py.detach(|| self.lock().iterations())
    }

    /// The state: `iterations` (int64) and one float32 array per parameter and slot, copied.
    fn state<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyDict>> {
        let (iterations, slots) = py.detach(|| {
            let optimizer = self.lock();
            let copy = |(key, values): (String, Cow<'_, [f32]>)| (key, values.into_owned());
            let state = optimizer.state()?.into_iter().map(copy).collect::<Vec<_>>();
            Ok::<_, Error>((optimizer.iterations(), state))
        })?;
        let state = PyDict::new(py);
        state.set_item(ITERATIONS, vec![iterations as i64].into_pyarray(py))?;
        for (key, values) in slots {
            state.set_item(key, values.into_pyarray(py))?;
        }
        Ok(state)
    }

    /// Replaces the state by one that `state()` of a like optimizer returned.
    fn set_state(&self, py: Python<'_>, state: &Bound<'_, PyDict>) -> PyResult<()> {
        let mut iterations = None;
        let mut slots = BTreeMap::new();
        for (key, value) in state {
            let key: String = key.extract()?;
            if key == ITERATIONS {
                iterations = Some(read_iterations(&value)?);
            } else {
                let values: PyReadonlyArray1<'_, f32> =
                    value.extract().map_err(|_| not_float32("state", &key, &value))?;
                slots.insert(key, values.as_array().to_vec());
            }
        }
        let iterations = iterations.ok_or_else(|| {
            PyErr::from(Error::argument("state", "the entry `iterations` is missing"))
        })?;
        enter(py, || self.lock().set_state(iterations, slots))
    }

    /// One step on arrays: returns the new values, the norm of all gradients, and whether the step
    /// was made (it is not when that norm is not finite).
    fn apply<'py>(
        &self,
        py: Python<'py>,
        parameters: &Bound<'py, PyDict>,
        gradients: &Bound<'py, PyDict>,
        learning_rate: f64,
    ) -> PyResult<(Bound<'py, PyDict>, f32, bool)> {
        let mut steps = Vec::with_capacity(parameters.len());
        for (key, value) in parameters {
            let name: String = key.extract()?;
            let gradient = gradients.get_item(&key)?.ok_or_else(|| {
                PyErr::from(Error::argument(
                    "gradients",
                    format!("no gradient for parameter `{name}`"),
                ))
            })?;
            let shape = read_array("parameters", &name, &value)?.shape().to_vec();
            steps.push(ArrayStep {
                value: to_vec(&read_array("parameters", &name, &value)?),
                gradient: to_vec(&read_array("gradients", &name, &gradient)?),
                name,
                shape,
            });
        }
        let report = enter(py, || self.apply_all(learning_rate, &mut steps))?;
        let updated = PyDict::new(py);
        for step in steps {
            let array = PyArray1::from_vec(py, step.value).reshape(step.shape)?;
            updated.set_item(PyString::new(py, &step.name), array)?;
        }
        Ok((updated, report.gradient_norm, report.applied))
    }
}

/// A parameter that came as an array.
struct ArrayStep {
    name: String,
    shape: Vec<usize>,
    value: Vec<f32>,
    gradient: Vec<f32>,
}

impl PyOptimizer {
    fn apply_all(&self, learning_rate: f64, steps: &mut [ArrayStep]) -> Result<StepReport> {
        let mut parameters: Vec<Parameter<'_>> = steps
            .iter_mut()
            .map(|step| Parameter {
                name: &step.name,
                matrices: matrices(&step.shape),
                value: &mut step.value,
                gradient: &step.gradient,
            })
            .collect();
        self.lock().apply(learning_rate, &mut parameters)
    }
}

/// An array of two axes is a matrix, and one of more holds several, in its last two, as in Keras.
fn matrices(shape: &[usize]) -> Option<Matrices> {
    let [rest @ .., rows, columns] = shape else { return None };
    let count = rest.iter().product();
    Some(Matrices { count, rows: *rows, columns: *columns, lanes: 1 })
}

fn read_iterations(value: &Bound<'_, PyAny>) -> PyResult<u64> {
    let values: Option<PyReadonlyArray1<'_, i64>> = value.extract().ok();
    let single = values.and_then(|values| match values.as_array().to_vec()[..] {
        [count] => u64::try_from(count).ok(),
        _ => None,
    });
    single.ok_or_else(|| {
        PyErr::from(Error::argument(
            "state",
            "the entry `iterations` must be one int64 that is not negative",
        ))
    })
}

fn read_array<'py>(
    argument: &str,
    name: &str,
    value: &Bound<'py, PyAny>,
) -> PyResult<PyReadonlyArrayDyn<'py, f32>> {
    value.extract().map_err(|_| not_float32(argument, name, value))
}

fn to_vec(array: &PyReadonlyArrayDyn<'_, f32>) -> Vec<f32> {
    array.as_array().iter().copied().collect()
}

fn not_float32(argument: &str, name: &str, value: &Bound<'_, PyAny>) -> PyErr {
    let kind =
        value.get_type().name().map_or_else(|_| "object".to_owned(), |kind| kind.to_string());
    let message = format!("entry `{name}` must be a float32 numpy array; received {kind}");
    PyErr::from(Error::argument(argument, message))
}
