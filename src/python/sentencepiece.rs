//! `_core.SentencePiece`: the tokenizers of `tokenizer.json` files with a unigram model.

use std::path::PathBuf;

use pyo3::prelude::*;
use pyo3::pybacked::PyBackedStr;

use super::enter::enter;
use super::tokenizer::to_ids;
use crate::text::{self, SentencePiece};

/// A token id, and the characters of the text that it came from.
type Spans = Vec<(u32, (usize, usize))>;

/// Sentencepiece's unigram model. Adds no special tokens and pads nothing; safe from several threads.
#[pyclass(frozen, name = "SentencePiece", module = "bart_fast._core")]
pub struct PySentencePiece {
    inner: SentencePiece,
}

#[pymethods]
impl PySentencePiece {
    #[new]
    fn new(py: Python<'_>, tokenizer_json: PyBackedStr) -> PyResult<Self> {
        let inner = enter(py, || SentencePiece::from_json(&tokenizer_json))?;
        Ok(PySentencePiece { inner })
    }

    /// Token ids of each text, in order.
    fn encode_batch(&self, py: Python<'_>, texts: Vec<PyBackedStr>) -> PyResult<Vec<Vec<u32>>> {
        enter(py, || texts.iter().map(|text| self.inner.encode(text)).collect())
    }

    /// Token ids of a text, and the span of characters `(start, end)` of each.
    fn encode_with_spans(&self, py: Python<'_>, text: PyBackedStr) -> PyResult<Spans> {
        enter(py, || self.inner.encode_with_spans(&text))
    }

    /// The text of each row of token ids, in order, leaving out those in `skip`.
    #[pyo3(signature = (ids, skip = None))]
    fn decode_batch(
        &self,
        py: Python<'_>,
        ids: Vec<Vec<i64>>,
        skip: Option<Vec<u32>>,
    ) -> PyResult<Vec<String>> {
        let skip = skip.unwrap_or_default();
        enter(py, || ids.iter().map(|row| self.inner.decode(&to_ids(row)?, &skip)).collect())
    }

    /// The token of an id, or `None`.
    fn id_to_token(&self, id: i64) -> Option<&str> {
        u32::try_from(id).ok().and_then(|id| self.inner.id_to_token(id))
    }

    /// The number of tokens.
    fn vocabulary_size(&self) -> usize {
        self.inner.vocabulary().len()
    }

    /// Every token with its id, in the order of the ids.
    fn vocabulary(&self) -> Vec<(String, u32)> {
        self.inner.vocabulary().to_vec()
    }

    /// Special tokens with their ids, languages among them.
    fn special_tokens(&self) -> Vec<(String, u32)> {
        self.inner.special_tokens().to_vec()
    }

    /// Ids that stand before and after a source.
    fn template(&self) -> (Vec<u32>, Vec<u32>) {
        let (before, after) = self.inner.template();
        (before.to_vec(), after.to_vec())
    }
}

/// The kind of the model in a `tokenizer.json`, such as `BPE` or `Unigram`, and the file's text.
#[pyfunction]
pub fn read_tokenizer_kind(py: Python<'_>, path: PathBuf) -> PyResult<(String, String)> {
    enter(py, || text::read_tokenizer_kind(&path))
}
