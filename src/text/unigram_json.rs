//! Reads a `tokenizer.json` of a sentencepiece vocabulary, as XLM-R, mBART and their like have it. Its
//! parts are those that `tokenizers` makes of sentencepiece's models; others are refused by name.

use regex::Regex;
use serde::Deserialize;
use tokenizers::normalizers::replace::ReplacePattern;
use tokenizers::normalizers::{NFC, NFD, NFKC, NFKD, Nmt, Replace, Sequence, Strip};
use tokenizers::pre_tokenizers::metaspace::{Metaspace, PrependScheme};
use tokenizers::pre_tokenizers::sequence::Sequence as PreSequence;
use tokenizers::pre_tokenizers::whitespace::WhitespaceSplit;
use tokenizers::{DecoderWrapper, NormalizerWrapper, PreTokenizerWrapper};

use super::charsmap;
use super::limited::Items;
use super::tokenizer_json::{AddedToken, damaged};
use super::unigram::Unigram;

/// The most bytes in tokens that text is searched for: a table is made of them, a hundred times larger.
const MAX_ADDED: usize = 1 << 20;

type Outcome<T> = Result<T, String>;

/// What a `tokenizer.json` says, ready to be put together.
pub struct UnigramFile {
    /// Pieces and scores.
    pub model: Unigram,
    /// What happens to text first.
    pub normalizer: Option<NormalizerWrapper>,
    /// Where it may be cut.
    pub pre_tokenizer: Option<PreTokenizerWrapper>,
    /// How pieces become text.
    pub decoder: Option<DecoderWrapper>,
    /// Tokens that are found in text before it is cut, in the order of the file.
    pub(super) added_tokens: Vec<AddedToken>,
    /// Special tokens before and after a text.
    pub template: (Vec<String>, Vec<String>),
}

/// The content of a `tokenizer.json` whose model is `Unigram`.
///
/// # Errors
/// What is wrong with it, or not supported.
pub fn parse_unigram_json(bytes: &[u8]) -> Outcome<UnigramFile> {
    let file: Content = serde_json::from_slice(bytes).map_err(damaged)?;
    let letters: usize = file.added_tokens.0.iter().map(|token| token.content.len()).sum();
    if letters > MAX_ADDED {
        return Err(format!("`added_tokens`: has more than {MAX_ADDED} bytes of tokens"));
    }
    let model = file.model;
    if model.kind != "Unigram" || model.byte_fallback == Some(true) {
        return Err(format!("`model`: {} with byte_fallback is not supported", model.kind));
    }
    let unknown = model.unk_id.ok_or("`model`: unk_id is missing")?;
    let model = Unigram::new(model.vocab.0, unknown).map_err(|e| format!("`model`: {e}"))?;
    Ok(UnigramFile {
        model,
        normalizer: file.normalizer.map(normalizer).transpose()?,
        pre_tokenizer: file.pre_tokenizer.map(pre_tokenizer).transpose()?,
        decoder: file.decoder.map(decoder).transpose()?,
        added_tokens: file.added_tokens.0,
        template: file.post_processor.map_or(Ok(Default::default()), template)?,
    })
}

#[derive(Deserialize)]
struct Content {
    #[serde(default)]
    added_tokens: Items<AddedToken>,
    normalizer: Option<Part>,
    pre_tokenizer: Option<Part>,
    post_processor: Option<PostProcessor>,
    decoder: Option<Part>,
    model: Model,
}

#[derive(Deserialize)]
struct Model {
    #[serde(rename = "type")]
    kind: String,
    unk_id: Option<usize>,
    vocab: Items<(String, f64)>,
    byte_fallback: Option<bool>,
}

/// A normalizer, pre-tokenizer or decoder: the fields of all kinds that are read.
#[derive(Deserialize)]
struct Part {
    #[serde(rename = "type")]
    kind: String,
    #[serde(default)]
    normalizers: Items<Part>,
    #[serde(default)]
    pretokenizers: Items<Part>,
    precompiled_charsmap: Option<String>,
    pattern: Option<Pattern>,
    content: Option<String>,
    strip_left: Option<bool>,
    strip_right: Option<bool>,
    replacement: Option<char>,
    prepend_scheme: Option<PrependScheme>,
    add_prefix_space: Option<bool>,
    split: Option<bool>,
}

#[derive(Deserialize)]
enum Pattern {
    String(String),
    Regex(String),
}

fn normalizer(part: Part) -> Outcome<NormalizerWrapper> {
    let missing = |field: &str| format!("`normalizer`: {field} is missing");
    Ok(match part.kind.as_str() {
        "Sequence" => {
            let parts: Outcome<Vec<_>> = part.normalizers.0.into_iter().map(normalizer).collect();
            NormalizerWrapper::Sequence(Sequence::new(parts?))
        }
        "Precompiled" => {
            let map = part.precompiled_charsmap.ok_or_else(|| missing("precompiled_charsmap"))?;
            let map = charsmap::parse(&map).map_err(|e| format!("`precompiled_charsmap` {e}"))?;
            NormalizerWrapper::Precompiled(map)
        }
        "Strip" => {
            let (left, right) = (part.strip_left, part.strip_right);
            let strip = Strip::new(left.unwrap_or(true), right.unwrap_or(true));
            NormalizerWrapper::StripNormalizer(strip)
        }
        "Replace" => {
            let content = part.content.ok_or_else(|| missing("content"))?;
            let pattern = match part.pattern.ok_or_else(|| missing("pattern"))? {
                Pattern::String(text) => ReplacePattern::String(text),
                Pattern::Regex(text) => {
                    // What this engine knows takes no longer than the text; others can hang.
                    Regex::new(&text).map_err(|_| {
                        format!("`normalizer`: the expression {text:?} is not supported")
                    })?;
                    ReplacePattern::Regex(text)
                }
            };
            let replace = Replace::new(pattern, content);
            NormalizerWrapper::Replace(replace.map_err(|error| error.to_string())?)
        }
        "NFC" => NormalizerWrapper::NFC(NFC),
        "NFD" => NormalizerWrapper::NFD(NFD),
        "NFKC" => NormalizerWrapper::NFKC(NFKC),
        "NFKD" => NormalizerWrapper::NFKD(NFKD),
        "Nmt" => NormalizerWrapper::Nmt(Nmt),
        other => return Err(format!("`normalizer`: {other} is not supported")),
    })
}

fn pre_tokenizer(part: Part) -> Outcome<PreTokenizerWrapper> {
    Ok(match part.kind.as_str() {
        "Sequence" => {
            let parts: Outcome<Vec<_>> =
                part.pretokenizers.0.into_iter().map(pre_tokenizer).collect();
            PreTokenizerWrapper::Sequence(PreSequence::new(parts?))
        }
        "Metaspace" => PreTokenizerWrapper::Metaspace(metaspace(&part)?),
        "WhitespaceSplit" => PreTokenizerWrapper::WhitespaceSplit(WhitespaceSplit),
        other => return Err(format!("`pre_tokenizer`: {other} is not supported")),
    })
}

fn decoder(part: Part) -> Outcome<DecoderWrapper> {
    match part.kind.as_str() {
        "Metaspace" => Ok(DecoderWrapper::Metaspace(metaspace(&part)?)),
        other => Err(format!("`decoder`: {other} is not supported, only Metaspace is")),
    }
}

/// As files of all versions describe it: `add_prefix_space` is what `prepend_scheme` was.
fn metaspace(part: &Part) -> Outcome<Metaspace> {
    let scheme = match (part.prepend_scheme, part.add_prefix_space) {
        (Some(PrependScheme::Always | PrependScheme::First), Some(false)) => {
            return Err("`Metaspace`: add_prefix_space and prepend_scheme differ".to_string());
        }
        (Some(scheme), _) => scheme,
        (None, Some(false)) => PrependScheme::Never,
        (None, _) => PrependScheme::Always,
    };
    let replacement = part.replacement.ok_or("`Metaspace`: replacement is missing")?;
    Ok(Metaspace::new(replacement, scheme, part.split.unwrap_or(true)))
}

/// What puts special tokens around a text.
#[derive(Deserialize)]
struct PostProcessor {
    #[serde(rename = "type")]
    kind: String,
    #[serde(default)]
    single: Items<Place>,
    cls: Option<(String, u32)>,
    sep: Option<(String, u32)>,
}

#[derive(Deserialize)]
enum Place {
    SpecialToken { id: String },
    Sequence { id: String },
}

fn template(part: PostProcessor) -> Outcome<(Vec<String>, Vec<String>)> {
    match (part.kind.as_str(), part.cls, part.sep) {
        ("RobertaProcessing" | "BertProcessing", Some((cls, _)), Some((sep, _))) => {
            return Ok((vec![cls], vec![sep]));
        }
        ("TemplateProcessing", _, _) => {}
        (other, _, _) => return Err(format!("`post_processor`: {other} is not supported")),
    }
    let (mut before, mut after, mut texts) = (Vec::new(), Vec::new(), 0);
    for place in part.single.0 {
        match place {
            Place::Sequence { id } if id == "A" => texts += 1,
            Place::Sequence { id } => return Err(format!("`post_processor`: has a sequence {id}")),
            Place::SpecialToken { id } if texts == 0 => before.push(id),
            Place::SpecialToken { id } => after.push(id),
        }
    }
    // The shortest sequences that are made have two tokens.
    if texts != 1 || before.len() + after.len() > 2 {
        let (before, after) = (before.len(), after.len());
        return Err(format!(
            "`post_processor`: {texts} texts with {before} tokens before and {after} after; \
             supported is one text with two tokens at most"
        ));
    }
    Ok((before, after))
}
