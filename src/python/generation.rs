//! `_core.Generation`: one answer, token by token, and what every generation is made from.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError, TryLockError};

use pyo3::exceptions::PyRuntimeError;
use pyo3::prelude::*;
use pyo3::types::PyDict;

use super::callbacks::callbacks;
use super::enter::compute_interruptible;
use super::model::PyModel;
use crate::error::{Error, Result};
use crate::generation::bart::BartDecoder;
use crate::generation::{Generation, Input, Options};
use crate::model::{BartModel, Batch, StopCheck};

/// The options of a generation: JSON, and functions of the user.
pub(super) fn options_from(text: &str, functions: Option<&Bound<'_, PyDict>>) -> PyResult<Options> {
    match serde_json::from_str(text) {
        Ok(serde_json::Value::Object(fields)) => {
            Ok(Options::from_json_and(fields, callbacks(functions)?)?)
        }
        _ => Err(Error::argument("options", "must be a JSON object").into()),
    }
}

/// The arguments of a generation, checked.
pub(super) struct Request {
    source: Batch,
    inputs: Vec<Input>,
    options: Arc<Options>,
}

/// Ragged ids and, if masks had holes, their positions.
type Sources = (Vec<Vec<u32>>, Option<Vec<Vec<u32>>>);

/// What the decoder starts from: ragged ids, their masks (`None`: all given), and the most tokens of each
/// row.
type Given = (Vec<Vec<u32>>, Option<Vec<Vec<bool>>>, Vec<usize>);

impl Request {
    pub fn new(
        (source_ids, positions): Sources,
        (given, masks, limits): Given,
        (options, functions): (&str, Option<&Bound<'_, PyDict>>),
    ) -> PyResult<Self> {
        let options = Arc::new(options_from(options, functions)?);
        let rows = source_ids.len();
        if given.len() != rows || limits.len() != rows {
            let message = format!("{rows} sources, but {} decoder rows", given.len());
            return Err(Error::argument("decoder_token_ids", message).into());
        }
        let masks =
            masks.unwrap_or_else(|| given.iter().map(|ids| vec![true; ids.len()]).collect());
        let inputs = given
            .into_iter()
            .zip(masks)
            .zip(limits)
            .zip(&source_ids)
            .enumerate()
            .map(|(i, (((ids, mask), limit), source))| {
                Ok(Input::masked(ids, mask, limit, i as u64)?.with_source(source.clone()))
            })
            .collect::<Result<Vec<_>>>()?;
        let source = Batch::from_sequences(source_ids.iter().enumerate().map(|(i, ids)| {
            let positions = positions.as_ref().map(|positions| positions[i].as_slice());
            (ids.as_slice(), positions)
        }));
        Ok(Self { source, inputs, options })
    }

    /// Encodes the sources.
    pub fn begin(
        self,
        model: Arc<BartModel>,
        stop: &StopCheck,
    ) -> Result<(BartDecoder, Vec<Input>, Arc<Options>)> {
        Ok((BartDecoder::new(model, self.source, stop)?, self.inputs, self.options))
    }
}

/// The answer to one input, which comes token by token. Nothing runs between two calls.
#[pyclass(frozen, name = "Generation", module = "bart_fast._core")]
pub struct PyGeneration {
    state: Mutex<State>,
}

enum State {
    /// Nothing was computed.
    Asked(Box<(Arc<BartModel>, Request)>),
    /// `told` tokens of the answer were handed out.
    Running { decoder: Box<BartDecoder>, generation: Generation, told: usize },
    /// All was handed out, or it failed, or was closed: model and caches are let go.
    Over,
}

#[pymethods]
impl PyGeneration {
    /// Of one input; the arguments are those of `Model.generate`.
    #[new]
    #[pyo3(signature = (model, encoder_token_ids, encoder_positions, decoder_token_ids, decoder_masks, max_lengths,
        options, callbacks = None))]
    #[allow(clippy::too_many_arguments)] // A boundary: the Python side names each one.
    fn new(
        model: &PyModel,
        encoder_token_ids: Vec<Vec<u32>>,
        encoder_positions: Option<Vec<Vec<u32>>>,
        decoder_token_ids: Vec<Vec<u32>>,
        decoder_masks: Option<Vec<Vec<bool>>>,
        max_lengths: Vec<usize>,
        options: &str,
        callbacks: Option<&Bound<'_, PyDict>>,
    ) -> PyResult<Self> {
        if encoder_token_ids.len() != 1 {
            let message = format!("received {} rows, expected one", encoder_token_ids.len());
            return Err(Error::argument("encoder_token_ids", message).into());
        }
        let request = Request::new(
            (encoder_token_ids, encoder_positions),
            (decoder_token_ids, decoder_masks, max_lengths),
            (options, callbacks),
        )?;
        Ok(Self { state: Mutex::new(State::Asked(Box::new((model.shared(), request)))) })
    }

    /// The next tokens that are certain, one or more, prompt included; `None` after the last.
    fn advance(&self, py: Python<'_>) -> PyResult<Option<Vec<u32>>> {
        let mut state = self.lock()?;
        // What fails leaves nothing behind.
        let taken = std::mem::replace(&mut *state, State::Over);
        let (tokens, next) = compute_interruptible(py, |stop| taken.advance(stop))?;
        *state = next;
        Ok(tokens)
    }

    /// Lets model and caches go; `advance` gives `None` from now on.
    fn close(&self) -> PyResult<()> {
        *self.lock()? = State::Over;
        Ok(())
    }
}

impl PyGeneration {
    /// Never waits: who holds the lock may be a thread of the process that forked this one.
    fn lock(&self) -> PyResult<MutexGuard<'_, State>> {
        match self.state.try_lock() {
            Ok(state) => Ok(state),
            Err(TryLockError::Poisoned(poisoned)) => Ok(PoisonError::into_inner(poisoned)),
            Err(TryLockError::WouldBlock) => Err(PyRuntimeError::new_err(
                "another thread is at work on this stream\nhint: let each thread have its own",
            )),
        }
    }
}

impl State {
    fn advance(self, stop: &StopCheck) -> Result<(Option<Vec<u32>>, State)> {
        let (mut decoder, mut generation, told) = match self {
            State::Asked(asked) => {
                let (model, request) = *asked;
                let (decoder, inputs, options) = request.begin(model, stop)?;
                (Box::new(decoder), Generation::new(inputs, options), 0)
            }
            State::Running { decoder, generation, told } => (decoder, generation, told),
            State::Over => return Ok((None, State::Over)),
        };
        while !generation.is_over() {
            generation.step(&mut *decoder, &mut || stop())?;
            if generation.is_over() {
                break;
            }
            let certain = generation.certain(0);
            if certain.len() > told {
                let tokens = certain[told..].to_vec();
                let told = certain.len();
                return Ok((Some(tokens), State::Running { decoder, generation, told }));
            }
        }
        let answer = generation.finish().into_iter().flatten().next();
        let rest = answer.and_then(|answer| answer.ids.get(told..).map(<[u32]>::to_vec));
        Ok((rest.filter(|rest| !rest.is_empty()), State::Over))
    }
}
