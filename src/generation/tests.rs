//! The loop with a fake model and the alphabet: expected output is a word.

use std::sync::Arc;

use serde_json::json;

use super::testing::{FakeModel, decode, options, toy_logits};
use super::{Input, Options, generate};
use crate::error::{Error, Result};

/// Token ids of a word: a is 0, z is 25.
fn spell(word: &str) -> Vec<u32> {
    word.bytes().map(|letter| u32::from(letter - b'a')).collect()
}

fn read(ids: &[u32]) -> String {
    ids.iter().map(|&id| char::from(b'a' + id as u8)).collect()
}

/// A model that says `words[source]`, letter by letter, whatever was said before.
fn speaker(words: &'static [&'static str]) -> FakeModel {
    FakeModel::new(26, |source, history| {
        let word = words[source].as_bytes();
        let letter = word[history.len().min(word.len() - 1)];
        (0..26).map(|id| if id == letter - b'a' { 5.0 } else { f32::from(id) / 50.0 }).collect()
    })
}

fn prompts(words: &[&str], max_length: usize) -> Vec<Input> {
    let input = |(row, word): (usize, &&str)| Input::new(spell(word), max_length, row as u64);
    words.iter().enumerate().map(|word| input(word).unwrap()).collect()
}

/// The answers as words, for a sampler that gives one each.
fn words(model: &mut FakeModel, inputs: &[Input], options: &Arc<Options>) -> Result<Vec<String>> {
    Ok(decode(model, inputs, options)?.iter().map(|answers| read(&answers[0].ids)).collect())
}

#[test]
fn a_row_ends_at_its_stop_token_or_length_and_leaves_the_batch() {
    let mut model = speaker(&["cats", "do", "elephants"]);
    let settings = options(json!({"sampler": "greedy", "stop_token_ids": [spell("s")[0], 14]}));
    let inputs = prompts(&["c", "d", "el"], 6);
    let answers = decode(&mut model, &inputs, &settings).unwrap();
    let word = |row: usize| read(&answers[row][0].ids);
    assert_eq!([word(0), word(1), word(2)], ["cats", "do", "elepha"]);
    assert_eq!([0, 1, 2].map(|row: usize| answers[row][0].stopped), [true, true, false]);
    // All three, then without "do", which ended with its first letter, then the longest alone.
    assert_eq!(model.passes, [3, 2, 2, 1]);
}

#[test]
fn each_row_has_its_own_maximum_length_and_full_rows_are_not_fed() {
    let mut model = speaker(&["abcdef", "abcdef", "abcdef"]);
    let inputs = [(1, 5), (3, 3), (1, 2)].map(|(given, most): (usize, usize)| {
        Input::new(spell(&"abcdef"[..given]), most, 0).unwrap()
    });
    let settings = options(json!({"sampler": "greedy"}));
    assert_eq!(words(&mut model, &inputs, &settings).unwrap(), ["abcde", "abc", "ab"]);
    assert_eq!(model.passes, [2, 1, 1, 1]);
}

#[test]
fn nothing_to_do_needs_no_model() {
    let settings = options(json!({"sampler": "greedy"}));
    let mut model = speaker(&["abc"]);
    assert!(decode(&mut model, &[], &settings).unwrap().is_empty());
    assert_eq!(words(&mut model, &prompts(&["abc"], 2), &settings).unwrap(), ["abc"]);
    assert!(model.passes.is_empty());
}

#[test]
fn given_letters_are_kept_and_do_not_end_a_row() {
    let mask = [true, true, false, false, true, false];
    let input = Input::masked(spell("hexxsx"), mask.to_vec(), 6, 0).unwrap();
    let mut model = speaker(&["aaayet"]);
    let settings = options(json!({"sampler": "greedy", "stop_token_ids": [18]}));
    // Three are given by count, so the x under the hole stays; s is a stop token, but given.
    assert_eq!(words(&mut model, &[input], &settings).unwrap(), ["hexyst"]);
}

#[test]
fn minimum_lengths_hold_the_stop_token_back() {
    for (name, least, expected) in
        [("min_length", 5, "bbyyyb"), ("min_new_tokens", 2, "bbyyb"), ("min_length", 2, "bbb")]
    {
        // "b" is said always and stops; the next best is "y", since "z" is out of the vocabulary.
        let mut model = speaker(&["b"]);
        let settings = options(json!({
            "sampler": "greedy", "stop_token_ids": [1], "vocabulary_limit": 25, name: least
        }));
        assert_eq!(words(&mut model, &prompts(&["bb"], 9), &settings).unwrap(), [expected]);
    }
}

#[test]
fn random_draws_do_not_depend_on_batch_mates() {
    for sampler in ["random", "top_k", "top_p"] {
        let mut settings = options(json!({"sampler": sampler, "seed": 4, "stop_token_ids": [0]}));
        Arc::get_mut(&mut settings).unwrap().constraints.clear();
        // The same model for all sources, so that only the sequence number tells rows apart.
        let run = |inputs: &[Input]| {
            let mut model = FakeModel::new(26, |_, history| toy_logits(history, 26, &[0]));
            words(&mut model, inputs, &settings).unwrap()
        };
        let inputs = prompts(&["same", "same", "other", "same"], 12);
        let together = run(&inputs);
        let reversed: Vec<Input> = inputs.iter().rev().cloned().collect();
        assert!(together.iter().rev().eq(run(&reversed).iter()));
        for (input, word) in inputs.iter().zip(&together) {
            assert_eq!(&run(std::slice::from_ref(input))[0], word);
        }
        if sampler == "random" {
            assert_ne!(together[0], together[1], "equal texts at two places draw differently");
        }
    }
}

#[test]
fn several_answers_draw_from_streams_of_their_own() {
    let run = |inputs: &[Input], count: usize| {
        let settings = json!({
            "sampler": "sample", "top_k": 9, "seed": 4, "stop_token_ids": [0],
            "num_return_sequences": count, "token_logprobs": true
        });
        let mut model =
            FakeModel::new(26, |source, history| toy_logits(history, 26, &[source as u32 / 9, 0]));
        decode(&mut model, inputs, &options(settings)).unwrap()
    };
    let inputs = prompts(&["same", "same", "other"], 12);
    let together = run(&inputs, 4);
    assert!(together.iter().all(|answers| answers.len() == 4));
    assert!(together[0].iter().any(|answer| answer != &together[0][0]), "all drew alike");
    assert_ne!(together[0], together[1]);
    for (input, answers) in inputs.iter().zip(&together) {
        assert_eq!(&run(std::slice::from_ref(input), 4)[0], answers);
        assert_eq!(run(std::slice::from_ref(input), 1)[0][0], answers[0]);
        for answer in answers {
            assert_eq!(answer.token_logprobs.len(), answer.ids.len() - input.start());
        }
    }
}

#[test]
fn log_probabilities_are_those_of_the_choice() {
    // Four letters; 1 stops, but not yet, and 3 is out of the vocabulary.
    let logits = [0.5f32, 2.0, 1.0, 9.0];
    for (sampler, expected) in [
        (json!({"sampler": "greedy"}), -((0.5f64 - 1.0).exp() + 1.0).ln()),
        (json!({"sampler": "top_k", "k": 1}), 0.0),
        (json!({"sampler": "sample", "top_k": 1}), 0.0),
        (json!({"sampler": "contrastive", "k": 1}), -((0.5f64 - 1.0).exp() + 1.0).ln()),
    ] {
        let mut settings = sampler.clone();
        for (name, value) in [
            ("stop_token_ids", json!([1])),
            ("min_length", json!(9)),
            ("vocabulary_limit", json!(3)),
            ("token_logprobs", json!(true)),
        ] {
            settings[name] = value;
        }
        let mut model = FakeModel::new(4, move |_, _| logits.to_vec());
        if sampler["sampler"] == "contrastive" {
            model = model.with_hidden(|_| vec![1.0]);
        }
        let input = Input::masked(vec![0, 0, 3], vec![true, false, true], 3, 0).unwrap();
        let free = Input::new(vec![0], 3, 1).unwrap();
        let answers = decode(&mut model, &[input, free], &options(settings)).unwrap();
        // Of the first input the prompt is two tokens by count, and the last one is given.
        assert_eq!(
            (&answers[0][0].ids[..], &answers[0][0].token_logprobs[..]),
            (&[0, 0, 3][..], &[0.0][..])
        );
        assert_eq!(answers[1][0].ids, [0, 2, 2]);
        for log in &answers[1][0].token_logprobs {
            assert!((f64::from(*log) - expected).abs() < 1e-6, "{sampler}: {log}");
        }
    }
}

#[test]
fn another_seed_draws_otherwise() {
    let run = |seed: u64| {
        let settings = options(json!({"sampler": "random", "seed": seed}));
        let mut model = FakeModel::new(26, |_, history| toy_logits(history, 26, &[]));
        words(&mut model, &prompts(&["a"], 20), &settings).unwrap()
    };
    assert_eq!(run(1), run(1));
    assert_ne!(run(1), run(2));
}

#[test]
fn the_stop_check_ends_a_call_between_tokens() {
    for sampler in ["greedy", "contrastive", "beam"] {
        let mut model = speaker(&["abcdefgh"]).with_hidden(|_| vec![1.0]);
        let mut checks = 0;
        let mut stop = || {
            checks += 1;
            if checks > 3 { Err(Error::Interrupted) } else { Ok(()) }
        };
        let settings = options(json!({"sampler": sampler}));
        let result = generate(&mut model, prompts(&["a"], 8), settings, &mut stop);
        assert!(matches!(result, Err(Error::Interrupted)));
        assert_eq!(model.passes.len(), 3);
    }
}

#[test]
fn broken_logits_end_a_call_with_the_place() {
    for sampler in ["greedy", "top_k", "beam"] {
        for broken in [f32::NAN, f32::INFINITY] {
            let mut model = FakeModel::new(4, move |source, history| {
                vec![0.0, 1.0, 2.0, if source == 1 && history.len() == 3 { broken } else { 0.5 }]
            });
            let settings = options(json!({"sampler": sampler}));
            let error = decode(&mut model, &prompts(&["a", "b"], 8), &settings).unwrap_err();
            assert!(matches!(error, Error::Weights(_)));
            assert!(error.to_string().contains("input 1 at position 3"), "{error}");
        }
    }
}

#[test]
fn a_vocabulary_without_an_allowed_token_is_an_error() {
    for sampler in ["greedy", "random", "beam"] {
        let mut model = FakeModel::new(2, |_, _| vec![0.0, 1.0]);
        let settings =
            options(json!({"sampler": sampler, "stop_token_ids": [0, 1], "min_length": 3}));
        let error = decode(&mut model, &prompts(&["a"], 8), &settings).unwrap_err();
        assert!(error.to_string().starts_with("`min_length`: no token"), "{error}");
    }
}

#[test]
fn logits_of_the_wrong_size_are_an_error() {
    struct Short;
    impl super::StepModel for Short {
        fn vocabulary_size(&self) -> usize {
            4
        }
        fn prefill(
            &mut self,
            _: &[super::PromptRow],
            _: usize,
            _: super::Wanted,
            scores: &mut super::Scores,
        ) -> Result<()> {
            scores.all_mut().resize(3, 0.0);
            Ok(())
        }
        fn step(
            &mut self,
            _: &[super::StepRow],
            _: super::Wanted,
            _: &mut super::Scores,
        ) -> Result<()> {
            Ok(())
        }
        fn reorder(&mut self, _: &[(usize, usize)]) -> Result<()> {
            Ok(())
        }
    }
    for sampler in ["greedy", "beam"] {
        let settings = options(json!({"sampler": sampler}));
        let result = generate(&mut Short, prompts(&["a"], 8), settings, &mut || Ok(()));
        assert!(result.unwrap_err().to_string().starts_with("`model`: returned 3 logits"));
    }
}
