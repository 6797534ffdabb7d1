//! Reads Hugging Face's `tokenizer.json`, as far as it describes byte-level BPE as BART has it. What
//! would cut or merge text in another way is refused by its name.

use std::collections::HashMap;
use std::fs::File;
use std::io::Read;
use std::path::Path;

use serde::Deserialize;

use super::limited::{Items, Vocabulary};
use crate::error::{Error, Result};

/// The longest file that is read. Those of the largest vocabularies have 17 MB.
const MAX_BYTES: u64 = 24 << 20;
/// The model of byte-level BPE.
const BPE: &str = "BPE";
/// The token that takes the white space before it, here as in BART.
const MASK: &str = "<mask>";

/// What a `tokenizer.json` says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TokenizerFile {
    /// Piece to id, added tokens among them.
    pub vocabulary: HashMap<String, u32>,
    /// Merges, `"left right"`, the most important first.
    pub merges: Vec<String>,
    /// Tokens that text may name and that are never split, in the order of the file.
    pub added_tokens: Vec<String>,
    /// Whether text that does not begin with a space is treated as if it did.
    pub add_prefix_space: bool,
}

/// Reads a `tokenizer.json` of byte-level BPE.
///
/// # Errors
/// [`Error::Io`] when the file cannot be read, [`Error::Format`] when it is damaged, too large, or
/// of another kind.
pub fn read_tokenizer_json(path: impl AsRef<Path>) -> Result<TokenizerFile> {
    let path = path.as_ref();
    let bytes = read_limited(path)?;
    parse_tokenizer_json(&bytes).map_err(|message| Error::format(path, message))
}

/// The kind of a `tokenizer.json`, `BPE` or `Unigram`, and its text.
///
/// # Errors
/// As for [`read_tokenizer_json`].
pub fn read_tokenizer_kind(path: impl AsRef<Path>) -> Result<(String, String)> {
    let path = path.as_ref();
    let bytes = read_limited(path)?;
    let damaged = |message: String| Error::format(path, message);
    let kind = kind_of(&bytes).map_err(damaged)?.unwrap_or_else(|| BPE.to_string());
    let text = String::from_utf8(bytes).map_err(|_| damaged("is not UTF-8".to_string()))?;
    Ok((kind, text))
}

fn read_limited(path: &Path) -> Result<Vec<u8>> {
    let io = |source| Error::io(path, source);
    let mut bytes = Vec::new();
    let file = File::open(path).map_err(io)?;
    file.take(MAX_BYTES + 1).read_to_end(&mut bytes).map_err(io)?;
    Ok(bytes)
}

/// What the file says its model is; files of the first versions do not.
fn kind_of(bytes: &[u8]) -> std::result::Result<Option<String>, String> {
    if bytes.len() as u64 > MAX_BYTES {
        return Err(format!("is longer than {MAX_BYTES} bytes"));
    }
    let kind: Kind = serde_json::from_slice(bytes).map_err(damaged)?;
    Ok(kind.model.kind)
}

pub(super) fn damaged(error: serde_json::Error) -> String {
    format!("is no description of a tokenizer: {error}")
}

/// The content of a `tokenizer.json`.
///
/// # Errors
/// What is wrong with it.
pub fn parse_tokenizer_json(bytes: &[u8]) -> std::result::Result<TokenizerFile, String> {
    if let Some(kind) = kind_of(bytes)?.filter(|kind| kind != BPE) {
        return Err(format!(
            "`model`: {kind} is not supported; BART's text is cut by byte-level BPE (\"BPE\") and \
             that of its relatives by sentencepiece (\"Unigram\")"
        ));
    }
    let file: Content = serde_json::from_slice(bytes).map_err(damaged)?;
    let add_prefix_space = check_splitting(file.normalizer, file.pre_tokenizer)?;
    check_model(&file.model)?;
    let mut vocabulary = file.model.vocab.0;
    let mut added_tokens = Vec::with_capacity(file.added_tokens.0.len());
    for token in file.added_tokens.0 {
        token.check()?;
        let id = *vocabulary.entry(token.content.clone()).or_insert(token.id);
        if id != token.id {
            let (content, other) = (token.content, token.id);
            return Err(format!("gives {content:?} two ids, {id} and {other}"));
        }
        added_tokens.push(token.content);
    }
    let merges: std::result::Result<_, _> =
        file.model.merges.0.into_iter().map(Merge::into_line).collect();
    Ok(TokenizerFile { vocabulary, merges: merges?, added_tokens, add_prefix_space })
}

/// Whether words get a space in front, if text is cut as BART's is.
fn check_splitting(
    normalizer: Option<Part>,
    pre_tokenizer: Option<Part>,
) -> std::result::Result<bool, String> {
    if let Some(Part { kind, .. }) = normalizer {
        return Err(format!("`normalizer`: {kind} is not supported, only null is"));
    }
    match pre_tokenizer {
        Some(Part { kind, add_prefix_space, use_regex }) if kind == "ByteLevel" => {
            if use_regex == Some(false) {
                return Err("`pre_tokenizer`: use_regex must be true, received false".to_string());
            }
            Ok(add_prefix_space.unwrap_or(true))
        }
        other => {
            let kind = other.map_or("null".to_string(), |part| part.kind);
            Err(format!("`pre_tokenizer`: {kind} is not supported, only ByteLevel is"))
        }
    }
}

/// Refuses what changes how a word is merged.
fn check_model(model: &Bpe) -> std::result::Result<(), String> {
    let affix = |affix: &Option<String>| affix.as_ref().is_some_and(|text| !text.is_empty());
    let wrong = [
        ("continuing_subword_prefix", affix(&model.continuing_subword_prefix)),
        ("end_of_word_suffix", affix(&model.end_of_word_suffix)),
        ("dropout", model.dropout.is_some_and(|rate| rate != 0.0)),
        ("byte_fallback", model.byte_fallback == Some(true)),
        ("ignore_merges", model.ignore_merges == Some(true)),
    ];
    match wrong.iter().find(|(_, wrong)| *wrong) {
        Some((field, _)) => Err(format!("`model`: {field} is not supported")),
        None => Ok(()),
    }
}

/// What is looked at first: a file of another kind has other fields.
#[derive(Deserialize)]
struct Kind {
    model: ModelKind,
}

#[derive(Deserialize)]
struct ModelKind {
    #[serde(rename = "type")]
    kind: Option<String>,
}

#[derive(Deserialize)]
struct Content {
    #[serde(default)]
    added_tokens: Items<AddedToken>,
    normalizer: Option<Part>,
    pre_tokenizer: Option<Part>,
    model: Bpe,
}

#[derive(Deserialize)]
struct Part {
    #[serde(rename = "type")]
    kind: String,
    add_prefix_space: Option<bool>,
    use_regex: Option<bool>,
}

#[derive(Deserialize)]
struct Bpe {
    vocab: Vocabulary,
    merges: Items<Merge>,
    dropout: Option<f64>,
    continuing_subword_prefix: Option<String>,
    end_of_word_suffix: Option<String>,
    byte_fallback: Option<bool>,
    ignore_merges: Option<bool>,
}

/// A token that is found in text before it is cut.
#[derive(Deserialize)]
pub(super) struct AddedToken {
    pub id: u32,
    pub content: String,
    #[serde(default)]
    pub single_word: bool,
    #[serde(default)]
    pub lstrip: bool,
    #[serde(default)]
    pub rstrip: bool,
    pub normalized: Option<bool>,
    #[serde(default)]
    pub special: bool,
}

impl AddedToken {
    fn check(&self) -> std::result::Result<(), String> {
        let is_mask = self.content == MASK;
        let wrong = [
            ("single_word", self.single_word, false),
            ("lstrip", self.lstrip, is_mask),
            ("rstrip", self.rstrip, false),
        ];
        match wrong.iter().find(|(_, given, only)| given != only) {
            Some((field, given, only)) => Err(format!(
                "`added_tokens`: {:?} has {field} {given}, but only {only} is supported",
                self.content
            )),
            None => Ok(()),
        }
    }
}

/// A merge as it was written until and since version 0.20 of `tokenizers`.
#[derive(Deserialize)]
#[serde(untagged)]
enum Merge {
    Line(String),
    Pair(String, String),
}

impl Merge {
    fn into_line(self) -> std::result::Result<String, String> {
        match self {
            Merge::Line(line) => Ok(line),
            Merge::Pair(left, right) if !left.contains(' ') && !right.contains(' ') => {
                Ok(format!("{left} {right}"))
            }
            Merge::Pair(left, right) => {
                Err(format!("`merges`: {left:?} and {right:?} must not hold spaces"))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MODEL: &str =
        r#""model": {"type": "BPE", "vocab": {"a": 0, "b": 1, "ab": 2}, "merges": ["a b"]}"#;
    const BYTES: &str = r#""pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": false}"#;

    fn parse(text: &str) -> std::result::Result<TokenizerFile, String> {
        parse_tokenizer_json(text.as_bytes())
    }

    #[test]
    fn both_ways_of_writing_merges_and_added_tokens() {
        let added = r#""added_tokens": [{"id": 7, "content": "<x>", "special": true},
            {"id": 2, "content": "ab"}, {"id": 8, "content": "<mask>", "lstrip": true}]"#;
        let pairs =
            MODEL.replace(r#"["a b"]"#, r#"[["a", "b"]]"#).replace(r#""type": "BPE", "#, "");
        for model in [MODEL, &pairs] {
            let file = parse(&format!("{{{added}, {BYTES}, {model}}}")).unwrap();
            assert_eq!(file.merges, ["a b"]);
            assert_eq!(file.added_tokens, ["<x>", "ab", "<mask>"]);
            assert_eq!((file.vocabulary["<x>"], file.vocabulary.len()), (7, 5));
            assert!(!file.add_prefix_space);
        }
        let silent = BYTES.replace(r#", "add_prefix_space": false"#, "");
        assert!(parse(&format!("{{{silent}, {MODEL}}}")).unwrap().add_prefix_space);
    }

    #[test]
    fn what_cuts_text_in_another_way_is_refused_by_name() {
        let with = |part: &str| format!("{{{BYTES}, {MODEL}, {part}}}");
        let model = |part: &str| {
            let model = MODEL.replace(r#""type""#, &format!(r#"{part}, "type""#));
            format!("{{{BYTES}, {model}}}")
        };
        let token = |part: &str| with(&format!(r#""added_tokens": [{{"id": 9, {part}}}]"#));
        for (text, named) in [
            (r#"{"model": {"type": "Unigram", "vocab": [["a", -1.5]]}}"#.to_string(), "Unigram"),
            (r#"{"model": {"type": "WordPiece", "vocab": {}}}"#.to_string(), "WordPiece"),
            (format!("{{{MODEL}}}"), "`pre_tokenizer`: null"),
            (format!("{{{MODEL}, {}}}", BYTES.replace("ByteLevel", "Metaspace")), "Metaspace"),
            (
                format!("{{{MODEL}, {}}}", BYTES.replace("add_prefix_space", "use_regex")),
                "use_regex",
            ),
            (with(r#""normalizer": {"type": "NFC"}"#), "NFC"),
            (model(r#""byte_fallback": true"#), "byte_fallback"),
            (model(r#""ignore_merges": true"#), "ignore_merges"),
            (model(r#""end_of_word_suffix": "</w>""#), "end_of_word_suffix"),
            (model(r#""dropout": 0.1"#), "dropout"),
            (token(r#""content": "x", "rstrip": true"#), "rstrip"),
            (token(r#""content": "<mask>""#), "lstrip"),
            (token(r#""content": "ab""#), "two ids"),
            (with(r#""added_tokens": 3"#), "expected a list"),
            (format!("{{{BYTES}, {}}}", MODEL.replace("\"a b\"", "[\"a \", \"b\"]")), "`merges`"),
            (format!("{{{BYTES}, {}}}", MODEL.replace("2", "-2")), "invalid value"),
            ("[".repeat(100_000), "no description"),
            (String::new(), "no description"),
        ] {
            let error = parse(&text).unwrap_err();
            let start: String = text.chars().take(120).collect();
            assert!(error.contains(named), "{start}: {error}");
        }
    }

    #[test]
    fn lists_have_a_limit() {
        let merges = vec!["\"a b\""; super::super::limited::MAX_ITEMS + 1].join(",");
        let model = MODEL.replace("\"a b\"", &merges);
        assert!(parse(&format!("{{{BYTES}, {model}}}")).unwrap_err().contains("more than 400000"));
    }
}
