//! The Python extension module `bart_fast._core`: converts, releases the interpreter, delegates, maps errors.

use pyo3::prelude::*;

mod adapters;
mod arrays;
mod callbacks;
mod classification_head;
mod constraints;
mod enter;
mod errors;
mod generation;
mod model;
mod optimizer;
mod parameters;
mod runtime;
mod sentencepiece;
mod step;
mod tokenizer;
mod weight_file;

#[pymodule]
mod _core {
    use super::*;

    #[pymodule_export]
    use super::adapters::{PyAdapters, read_adapter};
    #[pymodule_export]
    use super::classification_head::PyClassificationHead;
    #[pymodule_export]
    use super::constraints::PyConstraints;
    #[pymodule_export]
    use super::generation::PyGeneration;
    #[pymodule_export]
    use super::model::PyModel;
    #[pymodule_export]
    use super::optimizer::PyOptimizer;
    #[pymodule_export]
    use super::runtime::{
        cards, count_parameters, get_num_threads, has_classification_head, has_separate_embeddings,
        measure_limits, parse_hf_config, runtime_info, set_num_threads, set_portable,
    };
    #[pymodule_export]
    use super::sentencepiece::{PySentencePiece, read_tokenizer_kind};
    #[pymodule_export]
    use super::tokenizer::{PyTokenizer, read_tokenizer, read_tokenizer_json};
    #[pymodule_export]
    use super::weight_file::PyWeightFile;

    #[pymodule_init]
    fn init(module: &Bound<'_, PyModule>) -> PyResult<()> {
        crate::kernels::configure()?;
        crate::ops::configure()?;
        // candle's own pool is sized once, at first use: `_runtime.py` sees to it that this is here,
        // with one thread, so that it neither fights our team nor outlives a fork.
        candle_core::utils::barrier_pool();
        module.add("__version__", env!("CARGO_PKG_VERSION"))
    }
}
