//! `_core.Tokenizer`: the byte-level BPE of `src/text`.

use std::path::PathBuf;

use numpy::{IntoPyArray, PyArray1};
use pyo3::prelude::*;
use pyo3::pybacked::PyBackedStr;
use pyo3::types::PyDict;

use super::enter::enter;
use crate::error::{Error, Result};
use crate::kernels::lasting::lasting;
use crate::kernels::team;
use crate::text::{self, Tokenizer, TokenizerOptions};

/// Byte-level BPE. Adds no start or end tokens and pads nothing; safe from several threads.
#[pyclass(frozen, name = "Tokenizer", module = "bart_fast._core")]
pub struct PyTokenizer {
    inner: Tokenizer,
}

#[pymethods]
impl PyTokenizer {
    #[new]
    #[pyo3(signature = (vocabulary, merges, special_tokens, add_prefix_space = false))]
    fn new(
        py: Python<'_>,
        vocabulary: &Bound<'_, PyDict>,
        merges: Vec<String>,
        special_tokens: Vec<String>,
        add_prefix_space: bool,
    ) -> PyResult<Self> {
        let vocabulary = vocabulary.iter().map(read_entry).collect::<PyResult<Vec<_>>>()?;
        let options = TokenizerOptions { special_tokens, add_prefix_space };
        let inner = enter(py, || lasting(|| Tokenizer::new(vocabulary, &merges, &options)))?;
        Ok(PyTokenizer { inner })
    }

    /// The vocabulary from token to id, in the order in which it came.
    fn vocabulary<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyDict>> {
        let vocabulary = PyDict::new(py);
        for (piece, id) in self.inner.vocabulary() {
            vocabulary.set_item(piece, id)?;
        }
        Ok(vocabulary)
    }

    /// The merge rules, best first.
    fn merges(&self) -> Vec<String> {
        self.inner.merges().map(|(left, right)| format!("{left} {right}")).collect()
    }

    /// The ids of the vocabulary, ascending.
    fn sorted_ids<'py>(&self, py: Python<'py>) -> Bound<'py, PyArray1<i64>> {
        self.inner.sorted_ids().map(i64::from).collect::<Vec<_>>().into_pyarray(py)
    }

    /// Token ids of a text.
    fn encode(&self, py: Python<'_>, text: PyBackedStr) -> PyResult<Vec<u32>> {
        enter(py, || self.inner.encode(&text))
    }

    /// Token ids of each text, in order.
    fn encode_batch(&self, py: Python<'_>, texts: Vec<PyBackedStr>) -> PyResult<Vec<Vec<u32>>> {
        enter(py, || self.inner.encode_batch(&texts, team::num_threads()))
    }

    /// Token ids of a text, and the span of characters `(start, end)` of each.
    fn encode_with_spans(
        &self,
        py: Python<'_>,
        text: PyBackedStr,
    ) -> PyResult<Vec<(u32, (usize, usize))>> {
        enter(py, || self.inner.encode_with_spans(&text))
    }

    /// The text of token ids, leaving out those in `skip`.
    #[pyo3(signature = (ids, skip = None))]
    fn decode(&self, py: Python<'_>, ids: Vec<i64>, skip: Option<Vec<u32>>) -> PyResult<String> {
        let skip = skip.unwrap_or_default();
        enter(py, || self.inner.decode(&to_ids(&ids)?, &skip))
    }

    /// The text of each row of token ids, in order.
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

    /// The id of a token as the vocabulary spells it, or `None`.
    fn token_to_id(&self, token: &str) -> Option<u32> {
        self.inner.token_to_id(token)
    }

    /// The token of an id as the vocabulary spells it, or `None`.
    fn id_to_token(&self, id: i64) -> Option<&str> {
        u32::try_from(id).ok().and_then(|id| self.inner.id_to_token(id))
    }

    /// The number of tokens in the vocabulary.
    fn vocabulary_size(&self) -> usize {
        self.inner.vocabulary_size()
    }
}

/// The tokenizer of a vocabulary and merges that are files.
#[pyfunction]
#[pyo3(signature = (vocabulary, merges, special_tokens, add_prefix_space = false))]
pub fn read_tokenizer(
    py: Python<'_>,
    vocabulary: PathBuf,
    merges: PathBuf,
    special_tokens: Vec<String>,
    add_prefix_space: bool,
) -> PyResult<PyTokenizer> {
    let options = TokenizerOptions { special_tokens, add_prefix_space };
    let read = || Tokenizer::from_files(&vocabulary, &merges, &options);
    let inner = enter(py, || lasting(read))?;
    Ok(PyTokenizer { inner })
}

/// Vocabulary, merges, added tokens, and whether a space is put in front of text.
type TokenizerContent<'py> = (Bound<'py, PyDict>, Vec<String>, Vec<String>, bool);

/// What a Hugging Face `tokenizer.json` of byte-level BPE says; the vocabulary in the order of the ids.
#[pyfunction]
pub fn read_tokenizer_json(py: Python<'_>, path: PathBuf) -> PyResult<TokenizerContent<'_>> {
    let file = enter(py, || text::read_tokenizer_json(&path))?;
    let mut pieces: Vec<(String, u32)> = file.vocabulary.into_iter().collect();
    pieces.sort_unstable_by(|(left, left_id), (right, right_id)| {
        (left_id, left).cmp(&(right_id, right))
    });
    let vocabulary = PyDict::new(py);
    for (piece, id) in pieces {
        vocabulary.set_item(piece, id)?;
    }
    Ok((vocabulary, file.merges, file.added_tokens, file.add_prefix_space))
}

/// An entry of a Python vocabulary.
fn read_entry((token, id): (Bound<'_, PyAny>, Bound<'_, PyAny>)) -> PyResult<(String, u32)> {
    match (token.extract(), id.extract()) {
        (Ok(token), Ok(id)) => Ok((token, id)),
        _ => {
            let message = format!(
                "maps tokens (str) to ids (int, not negative). Received: {}: {}",
                token.repr()?,
                id.repr()?
            );
            Err(Error::argument("vocabulary", message).into())
        }
    }
}

/// Ids as Python has them, which may be negative.
pub(super) fn to_ids(ids: &[i64]) -> Result<Vec<u32>> {
    let to_id = |&id: &i64| {
        u32::try_from(id)
            .map_err(|_| Error::argument("ids", format!("{id} is not in the vocabulary")))
    };
    ids.iter().map(to_id).collect()
}
