//! The token tables of a checkpoint. Files hold up to four, some of them copies of others: which
//! fill the model's is for the configuration to say, and for their values.

use crate::config::BartConfig;

/// The table that encoder and decoder share.
pub const SHARED: &str = "shared.weight";
/// The encoder's own.
pub const ENCODER: &str = "encoder.embed_tokens.weight";
/// The decoder's own.
pub const DECODER: &str = "decoder.embed_tokens.weight";
/// The language-model head.
pub const HEAD: &str = "lm_head.weight";

/// The tensor that fills a parameter, of those that the checkpoint `has`, by their canonical names.
///
/// As in transformers, a tied model is `shared` whatever the copies hold, or else the decoder's;
/// and stacks read their own tables, where these were left out the shared one.
pub fn source<'a>(
    parameter: &'a str,
    config: &BartConfig,
    has: impl Fn(&str) -> bool,
) -> Option<&'a str> {
    let names = match parameter {
        SHARED if config.tie_word_embeddings => vec![SHARED, DECODER, ENCODER, HEAD],
        SHARED if !has(SHARED) && !has(ENCODER) => vec![],
        SHARED | DECODER => vec![DECODER, SHARED],
        ENCODER => vec![ENCODER, SHARED],
        other => vec![other],
    };
    names.into_iter().find(|name| has(name))
}

/// Pairs of tensors that stand for one parameter and so must hold the same.
pub fn agreeing(
    config: &BartConfig,
    has: impl Fn(&str) -> bool,
) -> Vec<(&'static str, &'static str)> {
    if !config.tie_word_embeddings {
        let pair = if config.separate_embeddings { None } else { stacks(&has) };
        return pair.into_iter().collect();
    }
    let copies: Vec<&str> =
        [DECODER, ENCODER, HEAD].into_iter().filter(|name| !has(SHARED) && has(name)).collect();
    copies.windows(2).map(|pair| (pair[0], pair[1])).collect()
}

/// What encoder and decoder read in an untied checkpoint, where these are two tensors.
pub fn stacks(has: impl Fn(&str) -> bool) -> Option<(&'static str, &'static str)> {
    let of = |own| [own, SHARED].into_iter().find(|name| has(name));
    of(ENCODER).zip(of(DECODER)).filter(|(encoder, decoder)| encoder != decoder)
}

/// Whether a tensor may be there without filling a parameter.
pub fn is_spare(name: &str, config: &BartConfig) -> bool {
    match name {
        ENCODER | DECODER => !config.separate_embeddings,
        HEAD => config.tie_word_embeddings,
        SHARED => !config.tie_word_embeddings,
        _ => false,
    }
}

/// Further names under which Hugging Face looks for a parameter's values: in an untied checkpoint
/// it takes none for a copy of another.
pub fn stored_copies(parameter: &str, config: &BartConfig) -> &'static [&'static str] {
    match parameter {
        SHARED if !config.tie_word_embeddings => &[ENCODER, DECODER],
        ENCODER => &[SHARED],
        _ => &[],
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(tie_word_embeddings: bool, separate_embeddings: bool) -> BartConfig {
        BartConfig { tie_word_embeddings, separate_embeddings, ..BartConfig::default() }
    }

    #[test]
    fn tables_are_taken_as_transformers_takes_them() {
        let (tied, untied, separate) =
            (config(true, false), config(false, false), config(false, true));
        let (all, two, own) = (
            &[SHARED, ENCODER, DECODER, HEAD][..],
            &[SHARED, HEAD][..],
            &[ENCODER, DECODER, HEAD][..],
        );
        for (parameter, config, there, expected) in [
            (SHARED, &tied, all, Some(SHARED)),
            (SHARED, &tied, own, Some(DECODER)),
            (SHARED, &tied, &own[..1], Some(ENCODER)),
            (SHARED, &untied, two, Some(SHARED)),
            (SHARED, &untied, all, Some(DECODER)),
            (SHARED, &untied, &own[1..], None),
            (HEAD, &untied, two, Some(HEAD)),
            (HEAD, &untied, &two[..1], None),
            (ENCODER, &separate, all, Some(ENCODER)),
            (ENCODER, &separate, two, Some(SHARED)),
            (DECODER, &separate, own, Some(DECODER)),
            (ENCODER, &separate, &own[1..], None),
        ] {
            let found = source(parameter, config, |name| there.contains(&name));
            assert_eq!(found, expected, "{parameter} of {there:?}");
        }
    }

    #[test]
    fn what_stands_for_one_table_must_agree() {
        let agreeing =
            |config: &BartConfig, there: &[&str]| agreeing(config, |name| there.contains(&name));
        let own = [ENCODER, DECODER, HEAD];
        assert_eq!(agreeing(&config(true, false), &[SHARED, DECODER, HEAD]), []);
        assert_eq!(agreeing(&config(true, false), &own), [(DECODER, ENCODER), (ENCODER, HEAD)]);
        assert_eq!(agreeing(&config(false, false), &own), [(ENCODER, DECODER)]);
        assert_eq!(agreeing(&config(false, false), &[SHARED, HEAD]), []);
        assert_eq!(agreeing(&config(false, false), &[SHARED, DECODER]), [(SHARED, DECODER)]);
        assert_eq!(agreeing(&config(false, true), &own), []);
    }
}
