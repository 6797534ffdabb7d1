//! The tokenizer of sentencepiece vocabularies, from Hugging Face's `tokenizer.json`.

use tokenizers::{
    AddedToken, DecoderWrapper, NormalizerWrapper, PostProcessorWrapper, PreTokenizerWrapper,
    TokenizerImpl,
};

use super::unigram::Unigram;
use super::unigram_json::parse_unigram_json;
use crate::{Error, Result};

type Pipeline = TokenizerImpl<
    Unigram,
    NormalizerWrapper,
    PreTokenizerWrapper,
    PostProcessorWrapper,
    DecoderWrapper,
>;

/// Sentencepiece's unigram model, and what Hugging Face puts around it. Encoding takes `&self`.
pub struct SentencePiece {
    pipeline: Pipeline,
    vocabulary: Vec<(String, u32)>,
    special: Vec<(String, u32)>,
    template: (Vec<u32>, Vec<u32>),
}

impl SentencePiece {
    /// From the text of a `tokenizer.json`.
    ///
    /// # Errors
    /// [`Error::Tokenizer`] for one that is damaged, or describes something that is not supported.
    pub fn from_json(text: &str) -> Result<Self> {
        Self::parse(text).map_err(Error::Tokenizer)
    }

    fn parse(text: &str) -> std::result::Result<Self, String> {
        let file = parse_unigram_json(text.as_bytes())?;
        let mut vocabulary: Vec<(String, u32)> =
            file.model.pieces().zip(0..).map(|(piece, id)| (piece.to_string(), id)).collect();
        let mut pipeline = Pipeline::new(file.model);
        pipeline.with_normalizer(file.normalizer).map_err(|error| error.to_string())?;
        pipeline.with_pre_tokenizer(file.pre_tokenizer);
        pipeline.with_decoder(file.decoder);
        let mut added = file.added_tokens;
        // New ids are given in this order.
        added.sort_by_key(|token| token.id);
        let mut special = Vec::new();
        let tokens = added.iter().map(|token| {
            AddedToken::from(token.content.as_str(), token.special)
                .single_word(token.single_word)
                .lstrip(token.lstrip)
                .rstrip(token.rstrip)
                .normalized(token.normalized.unwrap_or(!token.special))
        });
        pipeline.add_tokens(tokens).map_err(|error| error.to_string())?;
        for token in added {
            let (content, id) = (token.content, token.id);
            let given = pipeline.token_to_id(&content);
            if given != Some(id) {
                return Err(format!("`added_tokens`: {content:?} has id {id}, expected {given:?}"));
            }
            if id as usize >= vocabulary.len() {
                vocabulary.push((content.clone(), id));
            }
            if token.special {
                special.push((content, id));
            }
        }
        let id = |token: String| {
            let missing = || format!("`post_processor`: {token:?} is not in the vocabulary");
            pipeline.token_to_id(&token).ok_or_else(missing)
        };
        let ids = |tokens: Vec<String>| -> std::result::Result<Vec<u32>, String> {
            tokens.into_iter().map(id).collect()
        };
        let template = (ids(file.template.0)?, ids(file.template.1)?);
        Ok(SentencePiece { pipeline, vocabulary, special, template })
    }

    /// Token ids of `text`. Adds no special tokens.
    ///
    /// # Errors
    /// [`Error::Tokenizer`] when the `tokenizers` crate refuses the text.
    pub fn encode(&self, text: &str) -> Result<Vec<u32>> {
        let encoding = self.pipeline.encode_fast(text, false).map_err(refused)?;
        Ok(encoding.get_ids().to_vec())
    }

    /// [`Self::encode`], and the characters of `text` that each token came from, without the space
    /// before a word.
    ///
    /// # Errors
    /// As [`Self::encode`].
    pub fn encode_with_spans(&self, text: &str) -> Result<Vec<(u32, (usize, usize))>> {
        let encoding = self.pipeline.encode_char_offsets(text, false).map_err(refused)?;
        let letters: Vec<char> = text.chars().collect();
        let without_spaces = |&(start, end): &(usize, usize)| {
            let part = letters.get(start..end).unwrap_or_default();
            (start + part.iter().take_while(|&&letter| letter == ' ').count(), end)
        };
        let spans = encoding.get_offsets().iter().map(without_spaces);
        Ok(encoding.get_ids().iter().copied().zip(spans).collect())
    }

    /// The text of `ids`, leaving out those in `skip`.
    ///
    /// # Errors
    /// [`Error::Argument`] naming `ids` for an id without a token.
    pub fn decode(&self, ids: &[u32], skip: &[u32]) -> Result<String> {
        let kept: Vec<u32> = ids.iter().copied().filter(|id| !skip.contains(id)).collect();
        if let Some(id) = kept.iter().find(|&&id| self.id_to_token(id).is_none()) {
            let message = format!("{id} is not in the vocabulary of {}", self.vocabulary.len());
            return Err(Error::argument("ids", message));
        }
        self.pipeline.decode(&kept, false).map_err(refused)
    }

    /// The id of a token.
    pub fn token_to_id(&self, token: &str) -> Option<u32> {
        self.pipeline.token_to_id(token)
    }

    /// The token of an id.
    pub fn id_to_token(&self, id: u32) -> Option<&str> {
        self.vocabulary.get(id as usize).map(|(token, _)| token.as_str())
    }

    /// Tokens and ids, in the order of the ids.
    pub fn vocabulary(&self) -> &[(String, u32)] {
        &self.vocabulary
    }

    /// Special tokens, languages among them: text may name them, and answers leave them out.
    pub fn special_tokens(&self) -> &[(String, u32)] {
        &self.special
    }

    /// Ids that stand before and after a source.
    pub fn template(&self) -> (&[u32], &[u32]) {
        (&self.template.0, &self.template.1)
    }
}

fn refused(error: tokenizers::Error) -> Error {
    Error::Tokenizer(error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    const SPACES: &str = r#"{"type": "Replace", "pattern": {"Regex": " {2,}"}, "content": "▁"}"#;

    /// An mBART's, with some part of it replaced.
    fn file(from: &str, to: &str) -> String {
        let text = format!(
            r#"{{"added_tokens": [
                {{"id": 6, "content": "<mask>", "lstrip": true, "special": true}},
                {{"id": 5, "content": "en_XX", "special": true}},
                {{"id": 2, "content": "</s>", "special": true, "normalized": false}}],
            "normalizer": {{"type": "Sequence", "normalizers": [
                {{"type": "Strip", "strip_left": false, "strip_right": true}}, {SPACES}]}},
            "pre_tokenizer": {{"type": "Metaspace", "replacement": "\u2581", "split": true}},
            "post_processor": {{"type": "TemplateProcessing", "single": [
                {{"Sequence": {{"id": "A", "type_id": 0}}}},
                {{"SpecialToken": {{"id": "</s>", "type_id": 0}}}},
                {{"SpecialToken": {{"id": "en_XX", "type_id": 0}}}}], "special_tokens": {{}}}},
            "decoder": {{"type": "Metaspace", "replacement": "\u2581", "prepend_scheme": "always"}},
            "model": {{"type": "Unigram", "unk_id": 0, "vocab": [["<unk>", 0.0], ["\u2581", -2.5],
                ["</s>", 0.0], ["\u2581a", -1.5], ["b", -3]]}}}}"#
        );
        assert!(text.contains(from), "{from}");
        text.replacen(from, to, 1)
    }

    #[test]
    fn text_is_cut_and_put_together() {
        let tokenizer = SentencePiece::from_json(&file("", "")).unwrap();
        assert_eq!(tokenizer.encode("ab  a<mask>b</s> xyz ").unwrap(), [3, 4, 3, 6, 1, 4, 2, 1, 0]);
        assert_eq!(tokenizer.template(), (&[][..], &[2, 5][..]));
        assert_eq!(tokenizer.decode(&[3, 4, 3, 2, 5], &[2, 5]).unwrap(), "ab a");
        assert_eq!(tokenizer.decode(&[], &[]).unwrap(), "");
        assert_eq!(tokenizer.id_to_token(6), Some("<mask>"));
        assert_eq!(tokenizer.token_to_id("en_XX"), Some(5));
        assert_eq!(tokenizer.special_tokens().len(), 3);
        assert_eq!(
            tokenizer.encode_with_spans("b a").unwrap(),
            [(1, (0, 1)), (4, (0, 1)), (3, (2, 3))]
        );
        assert!(tokenizer.decode(&[7], &[]).unwrap_err().to_string().contains("7 is not in"));
    }

    #[test]
    fn other_parts_are_refused_by_name() {
        for (from, to, named) in [
            ("\"type\": \"Strip\"", "\"type\": \"Lowercase\"", "Lowercase"),
            (" {2,}", "(a+)+(?!b)", "(a+)+(?!b)"),
            (
                "\"pre_tokenizer\": {\"type\": \"Metaspace\"",
                "\"pre_tokenizer\": {\"type\": \"Bert\"",
                "Bert",
            ),
            (
                "\"decoder\": {\"type\": \"Metaspace\"",
                "\"decoder\": {\"type\": \"WordPiece\"",
                "WordPiece",
            ),
            ("TemplateProcessing", "ByteLevel", "`post_processor`: ByteLevel"),
            ("\"id\": \"A\"", "\"id\": \"B\"", "sequence B"),
            ("{\"id\": \"en_XX\", \"type_id\"", "{\"id\": \"fr_XX\", \"type_id\"", "fr_XX"),
            ("\"unk_id\": 0", "\"unk_id\": 9", "`unk_id` is 9"),
            ("\"unk_id\": 0, ", "", "unk_id is missing"),
            ("\"unk_id\": 0", "\"unk_id\": 0, \"byte_fallback\": true", "byte_fallback"),
            ("\"id\": 6", "\"id\": 8", "<mask>"),
            ("-1.5", "1e999", "out of range"),
            ("\"replacement\": \"\\u2581\", \"split\"", "\"split\"", "replacement is missing"),
        ] {
            let error = SentencePiece::from_json(&file(from, to)).err().expect(named).to_string();
            assert!(error.contains(named), "{named}: {error}");
        }
        assert!(SentencePiece::from_json(&"[".repeat(100_000)).is_err());
    }
}
