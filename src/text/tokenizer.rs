//! The tokenizer: vocabulary, special tokens, encoding and decoding.

use std::path::Path;
use std::thread;

use tokenizers::{
    AddedToken, DecoderWrapper, NormalizerWrapper, PostProcessorWrapper, TokenizerImpl,
};

use super::alphabet;
use super::bpe::{Bpe, Pieces};
use super::files::{self, parse_merge};
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
    TokenizerImpl<Bpe, NormalizerWrapper, WordSplit, PostProcessorWrapper, DecoderWrapper>;

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
    /// How many pieces the vocabulary has, without those we add.
    count: usize,
    /// Ids from here on are ours: pieces that merges name and the vocabulary lacks.
    first_own_id: u32,
    /// Id of `<unk>`.
    unknown: Option<u32>,
    /// Ids that stand for their own text, whatever its letters.
    special: Vec<u32>,
}

impl Tokenizer {
    /// Builds a tokenizer from a vocabulary (piece and id) and merges (`"left right"`, the most
    /// important first). Ids may have gaps. Merges may name pieces outside the vocabulary:
    /// such a piece can be passed through, but a word that ends with it gives `<unk>` there, or
    /// nothing where the vocabulary has no `<unk>`.
    ///
    /// # Errors
    /// [`Error::Argument`] naming `vocabulary`, `merges` or `special_tokens`.
    pub fn new<P: AsRef<str>>(
        vocabulary: impl IntoIterator<Item = (P, u32)>,
        merges: &[impl AsRef<str>],
        options: &TokenizerOptions,
    ) -> Result<Self> {
        let vocabulary = vocabulary.into_iter();
        let mut pieces = Pieces::with_capacity(vocabulary.size_hint().0);
        vocabulary.for_each(|(piece, id)| pieces.insert(piece.as_ref(), id));
        Self::build(pieces, merges.iter().map(AsRef::as_ref), options)
    }

    /// Builds a tokenizer from the files of a preset, vocabulary and merges; as `new` otherwise.
    ///
    /// # Errors
    /// Those of [`Self::new`]; [`Error::Io`] when a file cannot be read, [`Error::Format`] when it is too large or
    /// damaged.
    pub fn from_files(
        vocabulary: &Path,
        merges: &Path,
        options: &TokenizerOptions,
    ) -> Result<Self> {
        let pieces = files::read_pieces(vocabulary)?;
        let text = files::read_text(merges)?;
        let lines = text.split('\n').map(|line| line.strip_suffix('\r').unwrap_or(line));
        Self::build(pieces, lines.filter(|line| !line.is_empty()), options)
    }

    fn build<'a>(
        mut pieces: Pieces,
        merges: impl Iterator<Item = &'a str>,
        options: &TokenizerOptions,
    ) -> Result<Self> {
        check_ids(&pieces)?;
        let count = pieces.len();
        let first_own_id = pieces.ids().iter().max().map_or(0, |largest| largest + 1);
        let added = added_tokens(&pieces, &options.special_tokens)?;
        let unknown = pieces.id(UNKNOWN);
        let special = options.special_tokens.iter().filter_map(|token| pieces.id(token)).collect();
        let merges = complete(&mut pieces, merges, first_own_id)?;
        let mut pipeline = Pipeline::new(Bpe::new(pieces, merges));
        pipeline.with_pre_tokenizer(Some(WordSplit { add_prefix_space: options.add_prefix_space }));
        pipeline.add_special_tokens(added).map_err(|error| Error::Tokenizer(error.to_string()))?;
        Ok(Tokenizer { pipeline, count, first_own_id, unknown, special })
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
            let piece = self.id_to_token(*id).ok_or_else(|| self.no_such_id(*id))?;
            if self.special.contains(id) {
                bytes.extend_from_slice(piece.as_bytes());
            } else {
                alphabet::extend_with_bytes(&mut bytes, piece);
            }
        }
        Ok(String::from_utf8(bytes)
            .unwrap_or_else(|error| String::from_utf8_lossy(error.as_bytes()).into_owned()))
    }

    /// The id of a piece as the vocabulary spells it, such as `"Ġfox"`.
    pub fn token_to_id(&self, token: &str) -> Option<u32> {
        self.model().pieces().id(token).filter(|id| *id < self.first_own_id)
    }

    /// The piece of an id as the vocabulary spells it.
    pub fn id_to_token(&self, id: u32) -> Option<&str> {
        if id < self.first_own_id { self.model().piece_of(id) } else { None }
    }

    /// The number of pieces in the vocabulary. Ids may be larger, where it has gaps.
    pub fn vocabulary_size(&self) -> usize {
        self.count
    }

    /// Pieces and ids, in the order in which they came.
    pub fn vocabulary(&self) -> impl Iterator<Item = (&str, u32)> {
        self.model().pieces().iter().take(self.count)
    }

    /// The ids of the vocabulary, ascending.
    pub fn sorted_ids(&self) -> impl Iterator<Item = u32> {
        // Ours are above all others.
        self.model().sorted_ids().take(self.count)
    }

    /// The merges, best first.
    pub fn merges(&self) -> impl Iterator<Item = (&str, &str)> {
        self.model().merges()
    }

    fn model(&self) -> &Bpe {
        self.pipeline.get_model()
    }

    fn no_such_id(&self, id: u32) -> Error {
        let largest = i64::from(self.first_own_id) - 1;
        Error::argument(
            "ids",
            format!("{id} is not in the vocabulary ({} pieces, largest id {largest})", self.count),
        )
    }
}

/// Refuses ids that are too large or stand for two pieces.
fn check_ids(pieces: &Pieces) -> Result<()> {
    let wrong = |message| Err(Error::argument("vocabulary", message));
    if let Some((text, id)) = pieces.iter().find(|(_, id)| *id > LARGEST_ID) {
        return wrong(format!("{text:?} has id {id}; the largest allowed is {LARGEST_ID}"));
    }
    let mut ids: Vec<u32> = pieces.ids().to_vec();
    ids.sort_unstable();
    let Some(twice) = ids.windows(2).find(|pair| pair[0] == pair[1]).map(|pair| pair[0]) else {
        return Ok(());
    };
    let mut names: Vec<&str> =
        pieces.iter().filter(|(_, id)| *id == twice).map(|(piece, _)| piece).collect();
    names.sort_unstable();
    wrong(format!("{:?} and {:?} have the same id {twice}", names[0], names[1]))
}

/// Adds every character of the alphabet and every piece that merges name to the vocabulary, so that
/// nothing is lost before the last merge. Gives the merges: two pieces and what they become.
fn complete<'a>(
    pieces: &mut Pieces,
    merges: impl Iterator<Item = &'a str>,
    first_own_id: u32,
) -> Result<Vec<(u32, u32, u32)>> {
    let mut next_id = first_own_id;
    let mut id = |piece: &str| {
        pieces.id(piece).unwrap_or_else(|| {
            pieces.insert(piece, next_id);
            next_id += 1;
            next_id - 1
        })
    };
    let mut buffer = [0; 4];
    for character in alphabet::characters() {
        id(character.encode_utf8(&mut buffer));
    }
    let mut triples = Vec::with_capacity(merges.size_hint().0);
    let mut whole = String::new();
    for merge in merges {
        let Some((left, right)) = parse_merge(merge)? else { continue };
        whole.clear();
        whole.push_str(left);
        whole.push_str(right);
        triples.push((id(left), id(right), id(&whole)));
    }
    Ok(triples)
}

/// What text may name: the asked-for special tokens, `<unk>` and `<mask>`.
fn added_tokens(pieces: &Pieces, special_tokens: &[String]) -> Result<Vec<AddedToken>> {
    let missing: Vec<&String> =
        special_tokens.iter().filter(|token| pieces.id(token).is_none()).collect();
    if !missing.is_empty() {
        let message = format!("not in the vocabulary: {missing:?}");
        return Err(Error::argument("special_tokens", message));
    }
    let always = [UNKNOWN, MASK].into_iter().filter(|token| pieces.id(token).is_some());
    let mut contents: Vec<&str> = special_tokens.iter().map(String::as_str).chain(always).collect();
    contents.sort_unstable();
    contents.dedup();
    let token = |content| AddedToken::from(content, true).lstrip(content == MASK);
    Ok(contents.into_iter().map(token).collect())
}

#[cfg(test)]
#[path = "tokenizer_tests.rs"]
mod tests;
