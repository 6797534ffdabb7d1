//! Functions of the module: threads, the way of computing, what runs here, configurations.

use pyo3::prelude::*;
use pyo3::types::PyDict;

use crate::config::BartConfig;
use crate::error::{Error, Result};
use crate::kernels::team::MOST_THREADS;
use crate::kernels::{isa, team};
use crate::ops::{self, Way};

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

/// Computes with candle's own operations (`True`) or with our kernels (`False`, the default).
#[pyfunction]
pub fn set_portable(portable: bool) {
    ops::set_way(if portable { Way::Portable } else { Way::Kernel });
}

/// Reads a Hugging Face `config.json` into our configuration, both as JSON text.
#[pyfunction]
pub fn parse_hf_config(json_text: &str) -> Result<String> {
    Ok(BartConfig::from_hugging_face(json_text)?.to_json())
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
