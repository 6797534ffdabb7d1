//! The Python extension module `bart_fast._core`: converts, releases the interpreter, delegates, maps errors.

use pyo3::prelude::*;

mod enter;
mod errors;
mod optimizer;
mod tokenizer;

#[pymodule]
mod _core {
    use super::*;

    #[pymodule_export]
    use super::optimizer::PyOptimizer;
    #[pymodule_export]
    use super::tokenizer::PyTokenizer;

    #[pymodule_init]
    fn init(module: &Bound<'_, PyModule>) -> PyResult<()> {
        module.add("__version__", env!("CARGO_PKG_VERSION"))
    }
}
