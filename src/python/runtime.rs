//! Functions of the module: threads, the way of computing, what runs here, configurations.

use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};

use pyo3::prelude::*;
use pyo3::types::PyDict;

use super::enter::enter;
use crate::config::BartConfig;
use crate::error::{Error, Result};
use crate::kernels::team::MOST_THREADS;
use crate::kernels::{isa, limits, team};
use crate::ops::{self, Way, place};
use crate::weights::checkpoint;

/// Sets how many threads compute, from now on.
#[pyfunction]
pub fn set_num_threads(n: i64) -> Result<()> {
    match usize::try_from(n) {
        Ok(n @ 1..=MOST_THREADS) => {
            team::set_num_threads(n);
            Ok(())
        }
        _ => Err(Error::argument("n", format!("must be 1 to {MOST_THREADS}, received {n}"))),
    }
}

/// How many threads compute.
#[pyfunction]
pub fn get_num_threads() -> usize {
    team::num_threads()
}

/// The variable that candle's matrix products read at every call.
const PRODUCT_THREADS: &str = "RAYON_NUM_THREADS";

/// What [`PRODUCT_THREADS`] was before the portable way was chosen.
static PRODUCT_THREADS_BEFORE: Mutex<Option<String>> = Mutex::new(None);

/// Computes with candle's own operations (`True`) or with our kernels (`False`, the default).
///
/// The portable way takes one thread: with more, candle's products start threads of their own, and
/// a child that is forked later would wait for them for ever.
#[pyfunction]
pub fn set_portable(py: Python<'_>, portable: bool) -> PyResult<()> {
    let way = if portable { Way::Portable } else { Way::Kernel };
    if way == ops::way() {
        return Ok(());
    }
    let environment = py.import("os")?.getattr("environ")?;
    let mut before = PRODUCT_THREADS_BEFORE.lock().unwrap_or_else(PoisonError::into_inner);
    if portable {
        *before = environment.call_method1("get", (PRODUCT_THREADS,))?.extract()?;
        environment.set_item(PRODUCT_THREADS, "1")?;
    } else {
        if let Some(threads) = before.take() {
            environment.set_item(PRODUCT_THREADS, threads)?;
        } else {
            environment.call_method1("pop", (PRODUCT_THREADS, py.None()))?;
        }
    }
    ops::set_way(way);
    Ok(())
}

/// Reads a Hugging Face `config.json` into our configuration, both as JSON text.
#[pyfunction]
pub fn parse_hf_config(json_text: &str) -> Result<String> {
    Ok(BartConfig::from_hugging_face(json_text)?.to_json())
}

/// Whether a checkpoint of Hugging Face has the head of a sequence classifier.
#[pyfunction]
pub fn has_classification_head(py: Python<'_>, paths: Vec<PathBuf>) -> PyResult<bool> {
    enter(py, || checkpoint::has_classification_head(&paths))
}

/// Whether encoder and decoder of an untied checkpoint of Hugging Face read different token tables.
#[pyfunction]
pub fn has_separate_embeddings(py: Python<'_>, paths: Vec<PathBuf>) -> PyResult<bool> {
    enter(py, || checkpoint::has_separate_embeddings(&paths))
}

/// The number of weights of a model with this configuration (JSON text), which may be more than can
/// exist.
#[pyfunction]
pub fn count_parameters(config: &str) -> Result<u64> {
    Ok(BartConfig::from_json(config)?.parameter_count())
}

/// What runs here: version, instruction set, threads, way of computing.
#[pyfunction]
pub fn runtime_info(py: Python<'_>) -> PyResult<Bound<'_, PyDict>> {
    let info = PyDict::new(py);
    info.set_item("version", env!("CARGO_PKG_VERSION"))?;
    info.set_item("instruction_set", isa::current_name())?;
    info.set_item("threads", team::num_threads())?;
    info.set_item("portable", ops::way() == Way::Portable)?;
    Ok(info)
}

/// The cards that models can be on: name here, maker's name, memory and what is free of it in bytes.
#[pyfunction]
pub fn cards(py: Python<'_>) -> PyResult<Vec<(String, String, u64, u64)>> {
    let found = enter(py, || Ok(place::cards()?))?;
    let tuple = |card: place::Found| {
        let [memory, free] = card.memory;
        (card.device, card.name, memory, free)
    };
    Ok(found.into_iter().map(tuple).collect())
}

/// How often each limit is measured; the best counts.
const LIMIT_ROUNDS: usize = 5;

/// What this machine can do now with `threads` threads: `memory_read_bandwidth` in bytes a second,
/// `multiply_add_peak` (f32) and `int8_multiply_add_peak` in operations a second. For benchmarks: other
/// passes wait meanwhile.
#[pyfunction]
pub fn measure_limits(py: Python<'_>, threads: i64) -> PyResult<Bound<'_, PyDict>> {
    let before = team::num_threads();
    set_num_threads(threads)?;
    let measured = enter(py, || {
        Ok([
            ("memory_read_bandwidth", limits::memory_read_bandwidth(LIMIT_ROUNDS)),
            ("multiply_add_peak", limits::multiply_add_peak(LIMIT_ROUNDS)),
            ("int8_multiply_add_peak", limits::int8_multiply_add_peak(LIMIT_ROUNDS)),
        ])
    });
    team::set_num_threads(before);
    let dict = PyDict::new(py);
    for (name, limit) in measured? {
        dict.set_item(name, limit)?;
    }
    Ok(dict)
}
