//! The tokenizer: vocabulary, special tokens, encoding and decoding.

use std::collections::HashMap;
use std::thread;

use tokenizers::models::bpe::{BPE, Merges, Vocab};
use tokenizers::{
    AddedToken, DecoderWrapper, NormalizerWrapper, PostProcessorWrapper, TokenizerImpl,
};

use super::alphabet;
use super::files::parse_merge;
use super::word_split::WordSplit;
use crate::{Error, Result};

/// Stands for a piece outside the vocabulary, and stays whole in text.
const UNKNOWN: &str = "<unk>";
/// Stays whole in text and, as in Hugging Face's checkpoints of BART, takes the white space
/// before it: the model has never seen `Ġ` in front of a mask.
const MASK: &str = "<mask>";
/// Ids leave as `i32`, as in keras-hub.
const LARGEST_ID: u32 = i32::MAX as u32;
/// Text that is worth a thread of its own, in bytes (about 50 ms of work).
const BYTES_PER_THREAD: usize = 1 << 16;

type Pipeline =
    TokenizerImpl<BPE, NormalizerWrapper, WordSplit, PostProcessorWrapper, DecoderWrapper>;

/// How a [`Tokenizer`] treats text.
#[derive(Clone, Debug, Default)]
pub struct TokenizerOptions {
    /// Pieces of the vocabulary that text may name and that are never split or merged.
    /// `<unk>` and `<mask>` are always among them where the vocabulary has them.
    pub special_tokens: Vec<String>,
    /// Treat text that does not begin with a space as if it did.
    pub add_prefix_space: bool,
}

/// Byte-level BPE as in GPT-2, RoBERTa and BART. Cheap to share: encoding takes `&self`.
///
/// ```
/// # use bart_fast::text::{Tokenizer, TokenizerOptions};
/// # fn main() -> bart_fast::Result<()> {
/// let vocabulary = [("a", 0), ("Ġ", 1), ("Ġa", 2)].map(|(piece, id)| (piece.to_owned(), id));
/// let merges = ["Ġ a".to_owned()];
/// let tokenizer = Tokenizer::new(vocabulary, &merges, &TokenizerOptions::default())?;
/// assert_eq!(tokenizer.encode("a a")?, [0, 2]);
/// assert_eq!(tokenizer.decode(&[0, 2], &[])?, "a a");
/// # Ok(())
/// # }
/// ```
pub struct Tokenizer {
    pipeline: Pipeline,
    /// The vocabulary, without the pieces we add.
    ids: HashMap<String, u32>,
    /// The way back: the piece and the bytes it stands for.
    pieces: HashMap<u32, Piece>,
    /// Ids from here on are ours: pieces that merges name and the vocabulary lacks.
    first_own_id: u32,
    /// Id of `<unk>`.
    unknown: Option<u32>,
}

struct Piece {
    text: String,
    bytes: Vec<u8>,
}

impl Tokenizer {
    /// Builds a tokenizer from a vocabulary (piece and id) and merges (`"left right"`, the most
    /// important first). Ids may have gaps. Merges may name pieces outside the vocabulary:
    /// such a piece can be passed through, but a word that ends with it gives `<unk>` there, or
    /// nothing where the vocabulary has no `<unk>`.
    ///
    /// # Errors
    /// [`Error::Argument`] naming `vocabulary`, `merges` or `special_tokens`.
    pub fn new(
        vocabulary: impl IntoIterator<Item = (String, u32)>,
        merges: &[String],
        options: &TokenizerOptions,
    ) -> Result<Self> {
        let ids: HashMap<String, u32> = vocabulary.into_iter().collect();
        let pieces = invert(&ids, &options.special_tokens)?;
        let first_own_id = ids.values().max().map_or(0, |largest| largest + 1);
        let (all_ids, merges) = complete(&ids, merges, first_own_id)?;
        let model = BPE::builder()
            .vocab_and_merges(all_ids, merges)
            .build()
            .map_err(|error| Error::Tokenizer(error.to_string()))?;
        let mut pipeline = Pipeline::new(model);
        pipeline.with_pre_tokenizer(Some(WordSplit { add_prefix_space: options.add_prefix_space }));
        pipeline
            .add_special_tokens(added_tokens(&ids, &options.special_tokens)?)
            .map_err(|error| Error::Tokenizer(error.to_string()))?;
        let unknown = ids.get(UNKNOWN).copied();
        Ok(Tokenizer { pipeline, ids, pieces, first_own_id, unknown })
    }

    /// Token ids of `text`. Adds no start or end token.
    ///
    /// # Errors
    /// [`Error::Tokenizer`] when the `tokenizers` crate refuses the text.
    pub fn encode(&self, text: &str) -> Result<Vec<u32>> {
        let encoding = self
            .pipeline
            .encode_fast(text, false)
            .map_err(|error| Error::Tokenizer(error.to_string()))?;
        let in_vocabulary =
            |&id: &u32| if id < self.first_own_id { Some(id) } else { self.unknown };
        Ok(encoding.get_ids().iter().filter_map(in_vocabulary).collect())
    }

    /// [`Tokenizer::encode`], and the part of `text` that each token came from, in characters and
    /// without the space before a word. Tokens that share a character each have all of it.
    ///
    /// # Errors
    /// As [`Tokenizer::encode`].
    pub fn encode_with_spans(&self, text: &str) -> Result<Vec<(u32, (usize, usize))>> {
        let encoding = self
            .pipeline
            .encode_char_offsets(text, false)
            .map_err(|error| Error::Tokenizer(error.to_string()))?;
        let letters: Vec<char> = text.chars().collect();
        let without_spaces = |&(start, end): &(usize, usize)| {
            let part = letters.get(start..end).unwrap_or_default();
            let spaces = part.iter().take_while(|&&letter| letter == ' ').count();
            (start + spaces, end)
        };
        let spans = encoding.get_offsets().iter().map(without_spaces);
        let in_vocabulary =
            |&id: &u32| if id < self.first_own_id { Some(id) } else { self.unknown };
        let ids = encoding.get_ids().iter().map(in_vocabulary);
        Ok(ids.zip(spans).filter_map(|(id, span)| Some((id?, span))).collect())
    }

    /// [`Tokenizer::encode`] of each text, in order, on up to `threads` threads. They are started
    /// here and end here: a pool that outlives the call would hang a forked child.
    ///
    /// # Errors
    /// The first text's that fails.
    pub fn encode_batch<T: AsRef<str> + Sync>(
        &self,
        texts: &[T],
        threads: usize,
    ) -> Result<Vec<Vec<u32>>> {
        let encode_all = |texts: &[T]| -> Result<Vec<Vec<u32>>> {
            texts.iter().map(|text| self.encode(text.as_ref())).collect()
        };
        let bytes: usize = texts.iter().map(|text| text.as_ref().len()).sum();
        let threads = threads.min(bytes / BYTES_PER_THREAD).min(texts.len());
        if threads < 2 {
            return encode_all(texts);
        }
        let parts = texts.chunks(texts.len().div_ceil(threads));
        let results: Vec<Result<Vec<Vec<u32>>>> = thread::scope(|scope| {
            let running: Vec<_> = parts.map(|part| scope.spawn(|| encode_all(part))).collect();
            running
                .into_iter()
                .map(|part| part.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
                .collect()
        });
        Ok(results.into_iter().collect::<Result<Vec<_>>>()?.into_iter().flatten().collect())
    }

    /// The text of `ids`, leaving out those in `skip`. Bytes that are not UTF-8, such as half a
    /// character, become U+FFFD.
    ///
    /// # Errors
    /// [`Error::Argument`] naming `ids` for an id without a piece.
    pub fn decode(&self, ids: &[u32], skip: &[u32]) -> Result<String> {
        let mut bytes = Vec::new();
        for id in ids.iter().filter(|id| !skip.contains(id)) {
            let piece = self.pieces.get(id).ok_or_else(|| self.no_such_id(*id))?;
            bytes.extend_from_slice(&piece.bytes);
        }
        Ok(String::from_utf8(bytes)
            .unwrap_or_else(|error| String::from_utf8_lossy(error.as_bytes()).into_owned()))
    }

    /// The id of a piece as the vocabulary spells it, such as `"Ġfox"`.
    pub fn token_to_id(&self, token: &str) -> Option<u32> {
        self.ids.get(token).copied()
    }

    /// The piece of an id as the vocabulary spells it.
    pub fn id_to_token(&self, id: u32) -> Option<&str> {
        self.pieces.get(&id).map(|piece| piece.text.as_str())
    }

    /// The number of pieces in the vocabulary. Ids may be larger, where it has gaps.
    pub fn vocabulary_size(&self) -> usize {
        self.ids.len()
    }

    fn no_such_id(&self, id: u32) -> Error {
        let largest = i64::from(self.first_own_id) - 1;
        Error::argument(
            "ids",
            format!(
                "{id} is not in the vocabulary ({} pieces, largest id {largest})",
                self.ids.len()
            ),
        )
    }
}

/// The way from ids to pieces. Special tokens stand for their own text, whatever their letters.
fn invert(ids: &HashMap<String, u32>, special_tokens: &[String]) -> Result<HashMap<u32, Piece>> {
    let mut pieces = HashMap::with_capacity(ids.len());
    for (text, &id) in ids {
        if id > LARGEST_ID {
            let message = format!("{text:?} has id {id}; the largest allowed is {LARGEST_ID}");
            return Err(Error::argument("vocabulary", message));
        }
        let special = special_tokens.contains(text);
        let bytes = if special { text.as_bytes().to_vec() } else { alphabet::bytes(text) };
        if let Some(Piece { text: other, .. }) =
            pieces.insert(id, Piece { text: text.clone(), bytes })
        {
            // Sorted, because a HashMap gives them in any order and errors should not vary.
            let (first, second) = if *text < other { (text, &other) } else { (&other, text) };
            let message = format!("{first:?} and {second:?} have the same id {id}");
            return Err(Error::argument("vocabulary", message));
        }
    }
    Ok(pieces)
}

/// The vocabulary with every character of the alphabet and every piece that merges name, so that
/// nothing is lost before the last merge; and the merges in pairs.
fn complete(
    ids: &HashMap<String, u32>,
    merges: &[String],
    first_own_id: u32,
) -> Result<(Vocab, Merges)> {
    let mut all_ids: Vocab = ids.iter().map(|(piece, &id)| (piece.clone(), id)).collect();
    let mut next_id = first_own_id;
    let mut add = |piece: String| {
        all_ids.entry(piece).or_insert_with(|| {
            next_id += 1;
            next_id - 1
        });
    };
    for character in alphabet::characters() {
        add(character.to_string());
    }
    let mut pairs = Merges::with_capacity(merges.len());
    for merge in merges {
        let Some((left, right)) = parse_merge(merge)? else { continue };
        add(left.to_owned());
        add(right.to_owned());
        add(format!("{left}{right}"));
        pairs.push((left.to_owned(), right.to_owned()));
    }
    Ok((all_ids, pairs))
}

/// What text may name: the asked-for special tokens, `<unk>` and `<mask>`.
fn added_tokens(ids: &HashMap<String, u32>, special_tokens: &[String]) -> Result<Vec<AddedToken>> {
    let missing: Vec<&String> =
        special_tokens.iter().filter(|token| !ids.contains_key(*token)).collect();
    if !missing.is_empty() {
        let message = format!("not in the vocabulary: {missing:?}");
        return Err(Error::argument("special_tokens", message));
    }
    let always = [UNKNOWN, MASK].into_iter().filter(|token| ids.contains_key(*token));
    let mut contents: Vec<&str> = special_tokens.iter().map(String::as_str).chain(always).collect();
    contents.sort_unstable();
    contents.dedup();
    let token = |content| AddedToken::from(content, true).lstrip(content == MASK);
    Ok(contents.into_iter().map(token).collect())
}

#[cfg(test)]
#[path = "tokenizer_tests.rs"]
mod tests;
