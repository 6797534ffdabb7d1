//! Functions of the user that run in the middle of a generation, each asked for one sequence at a
//! time, so that no answer depends on its batch.

use numpy::{
    AllowTypeChange, IntoPyArray, PyArray1, PyArray2, PyArrayLikeDyn, PyArrayMethods,
    PyUntypedArrayMethods,
};
use pyo3::prelude::*;
use pyo3::types::PyDict;

use crate::error::{Error, Result};
use crate::generation::constraints::{Callbacks, Constraint, Context, StoppingCriterion};

const PREFIX: &str = "prefix_allowed_tokens_fn";
const PROCESSOR: &str = "logits_processor";
const CRITERION: &str = "stopping_criteria";

/// Reads the functions of a call: `prefix_allowed_tokens_fn`, and lists `logits_processor` and
/// `stopping_criteria`; each may be absent.
pub(super) fn callbacks(functions: Option<&Bound<'_, PyDict>>) -> PyResult<Callbacks> {
    let mut callbacks = Callbacks::default();
    let Some(functions) = functions else { return Ok(callbacks) };
    for (name, value) in functions.iter() {
        let name: String = name.extract()?;
        match name.as_str() {
            PREFIX => {
                callbacks.prefix_allowed_tokens_fn = Some(Box::new(AllowedPrefix(value.unbind())));
            }
            PROCESSOR => {
                callbacks.logits_processor = Some(Box::new(Processors(value.extract()?)));
            }
            CRITERION => {
                callbacks.stopping_criteria = Some(Box::new(Criteria(value.extract()?)));
            }
            _ => return Err(Error::argument(name, "not a function that generation asks").into()),
        }
    }
    Ok(callbacks)
}

/// Runs `work` with the interpreter; what Python raises there comes out of the call as it is.
fn ask<T>(work: impl FnOnce(Python<'_>) -> PyResult<T>) -> Result<T> {
    Python::attach(work).map_err(|exception| Error::Callback(Box::new(exception)))
}

fn row<'py>(py: Python<'py>, ids: &[u32]) -> Bound<'py, PyArray1<i64>> {
    ids.iter().map(|&id| i64::from(id)).collect::<Vec<_>>().into_pyarray(py)
}

/// The sequence as a batch of one, `[1, length]`.
fn batch<'py>(py: Python<'py>, ids: &[u32]) -> PyResult<Bound<'py, PyArray2<i64>>> {
    row(py, ids).reshape([1, ids.len()])
}

fn refusal(name: &str, received: &Bound<'_, PyAny>, expected: &str) -> PyErr {
    let text = received.repr().map_or_else(|_| "an object".to_string(), |text| text.to_string());
    let text: String = text.chars().take(120).collect();
    Error::argument(name, format!("the function returned {text}, expected {expected}")).into()
}

/// `fn(input, ids) -> allowed ids`, as in transformers' `PrefixConstrainedLogitsProcessor`.
#[derive(Debug)]
struct AllowedPrefix(Py<PyAny>);

impl Constraint for AllowedPrefix {
    fn name(&self) -> &'static str {
        PREFIX
    }

    fn calls_functions(&self) -> bool {
        true
    }

    fn apply(&self, context: &Context<'_>, scores: &mut [f32]) -> Result<()> {
        let vocabulary = scores.len();
        let allowed = ask(|py| {
            let answer = self.0.bind(py).call1((context.input, row(py, context.ids)))?;
            let expected = format!("one token id from 0 to {} or more", vocabulary - 1);
            let refused = |_| refusal(PREFIX, &answer, &expected);
            let mut allowed = vec![false; vocabulary];
            for id in answer.try_iter().map_err(refused)? {
                // An exception of a generator's own passes.
                let id: usize = id?.extract().map_err(refused)?;
                *allowed.get_mut(id).ok_or_else(|| refusal(PREFIX, &answer, &expected))? = true;
            }
            if !allowed.contains(&true) {
                return Err(refusal(PREFIX, &answer, &expected));
            }
            Ok(allowed)
        })?;
        for (score, allowed) in scores.iter_mut().zip(allowed) {
            if !allowed {
                *score = f32::NEG_INFINITY;
            }
        }
        Ok(())
    }
}

/// `fn(input_ids [1, length], scores [1, vocabulary]) -> scores`, one after the other.
#[derive(Debug)]
struct Processors(Vec<Py<PyAny>>);

impl Constraint for Processors {
    fn name(&self) -> &'static str {
        PROCESSOR
    }

    fn calls_functions(&self) -> bool {
        true
    }

    fn apply(&self, context: &Context<'_>, scores: &mut [f32]) -> Result<()> {
        ask(|py| self.0.iter().try_for_each(|function| process(function.bind(py), context, scores)))
    }
}

fn process(function: &Bound<'_, PyAny>, context: &Context, scores: &mut [f32]) -> PyResult<()> {
    let py = function.py();
    let given = scores.to_vec().into_pyarray(py).reshape([1, scores.len()])?;
    let answer = function.call1((batch(py, context.ids)?, given))?;
    let expected = format!("scores of shape [1, {}] without NaN or infinity", scores.len());
    let array: PyArrayLikeDyn<'_, f32, AllowTypeChange> =
        answer.extract().map_err(|_| refusal(PROCESSOR, &answer, &expected))?;
    let usable = |score: &f32| !score.is_nan() && *score != f32::INFINITY;
    if array.len() != scores.len() || !array.as_array().iter().all(usable) {
        return Err(refusal(PROCESSOR, &answer, &expected));
    }
    scores.iter_mut().zip(array.as_array().iter()).for_each(|(score, &new)| *score = new);
    Ok(())
}

/// `fn(input_ids [1, length], None) -> bool`; a sequence ends when one of them says so.
#[derive(Debug)]
struct Criteria(Vec<Py<PyAny>>);

impl StoppingCriterion for Criteria {
    fn stops(&self, ids: &[u32], _: u64) -> Result<bool> {
        ask(|py| {
            for function in &self.0 {
                let answer = function.bind(py).call1((batch(py, ids)?, py.None()))?;
                let refused = || refusal(CRITERION, &answer, "True, False, or an array of one");
                let array: PyArrayLikeDyn<'_, bool, AllowTypeChange> =
                    answer.extract().map_err(|_| refused())?;
                if array.len() != 1 || answer.is_none() {
                    return Err(refused());
                }
                if array.as_array().iter().all(|&stops| stops) {
                    return Ok(true);
                }
            }
            Ok(false)
        })
    }
}
