//! What a generation calls certain while it goes on: it is the beginning of its answer, always, and
//! comes early where it can.

use std::sync::Arc;

use serde_json::{Value, json};

use super::testing::{FakeModel, decode, options, toy_logits};
use super::{Generation, Input, Options};

/// What was certain after each step, and the answer.
fn steps(
    model: &mut FakeModel,
    input: &Input,
    options: &Arc<Options>,
) -> (Vec<Vec<u32>>, Vec<u32>) {
    let mut generation = Generation::new(vec![input.clone()], options.clone());
    let mut certain = Vec::new();
    while !generation.is_over() {
        certain.push(generation.certain(0).to_vec());
        generation.step(model, &mut || Ok(())).unwrap();
    }
    (certain, generation.finish()[0][0].ids.clone())
}

/// A random model over nine letters, the sharper the larger `sharpness` is.
fn random_model(seed: u32, sharpness: f32) -> FakeModel {
    FakeModel::new(9, move |_, history| {
        let seeded: Vec<u32> = [seed].iter().chain(history).copied().collect();
        toy_logits(&seeded, 9, &[2]).into_iter().map(|x| x * sharpness).collect()
    })
    .with_hidden(|history| toy_logits(history, 5, &[]))
}

/// Every method, with settings that move the end of a search.
fn methods() -> Vec<Value> {
    let mut methods = vec![
        json!({"sampler": "greedy"}),
        json!({"sampler": "random", "seed": 3}),
        json!({"sampler": "top_k", "k": 3, "seed": 4}),
        json!({"sampler": "top_p", "p": 0.7, "seed": 5}),
        json!({"sampler": "sample", "top_k": 4, "temperature": 0.7}),
        json!({"sampler": "contrastive", "k": 3}),
        json!({"sampler": "beam", "num_beams": 3, "compat": "keras"}),
        json!({"sampler": "beam", "num_beams": 1}),
        json!({"sampler": "beam", "num_beams": 3, "do_sample": true, "temperature": 1e-9}),
    ];
    let rules = [
        json!({}),
        json!({"do_sample": true, "top_k": 5}),
        json!({"num_beam_groups": 2, "diversity_penalty": 0.8}),
        json!({"num_beam_groups": 4, "diversity_penalty": 0.2}),
        json!({"force_words_ids": [[5, 6]]}),
    ];
    for rule in rules {
        for early_stopping in [json!(true), json!(false), json!("never")] {
            for length_penalty in [-20.0, -1.0, 0.0, 1.0, 2.0] {
                let mut method = rule.clone();
                method["sampler"] = json!("beam");
                method["num_beams"] = json!(4);
                method["early_stopping"] = early_stopping.clone();
                method["length_penalty"] = json!(length_penalty);
                methods.push(method);
            }
        }
    }
    methods
}

#[test]
fn the_answer_begins_with_what_was_certain() {
    let holes = Input::masked(vec![3, 1, 1, 4, 1], vec![true, true, false, true, false], 12, 0);
    let inputs = [Input::new(vec![3], 14, 0), Input::new(vec![3, 1, 2], 5, 0), holes];
    let rules = [
        json!({}),
        json!({"no_repeat_ngram_size": 2, "min_new_tokens": 4, "forced_eos_token_id": [2]}),
        json!({"exponential_decay_length_penalty": [2, 1.9], "repetition_penalty": 0.5}),
    ];
    for method in methods() {
        for rule in &rules {
            let mut settings = method.clone();
            settings["stop_token_ids"] = json!([2]);
            let fields = rule.as_object().unwrap();
            fields.iter().for_each(|(name, value)| settings[name] = value.clone());
            let settings = options(settings);
            for seed in 0..12 {
                let sharpness = [0.3, 1.0, 3.0, 9.0][seed % 4];
                let model = || random_model(seed as u32, sharpness);
                let input = inputs[seed % 3].as_ref().unwrap();
                let (certain, answer) = steps(&mut model(), input, &settings);
                let whole = decode(&mut model(), std::slice::from_ref(input), &settings).unwrap();
                assert_eq!(answer, whole[0][0].ids);
                for (step, ids) in certain.iter().enumerate() {
                    assert!(answer.starts_with(ids), "{method} {rule} {seed}: {ids:?} {answer:?}");
                    assert!(step == 0 || ids.starts_with(&certain[step - 1]), "{method}: shorter");
                }
            }
        }
    }
}

#[test]
fn one_token_is_certain_after_each_step_where_one_is_chosen() {
    for sampler in ["greedy", "random", "top_k", "top_p", "sample", "contrastive"] {
        let settings = options(json!({"sampler": sampler}));
        let input = Input::new(vec![3], 9, 0).unwrap();
        let (certain, answer) = steps(&mut random_model(1, 1.0), &input, &settings);
        let lengths: Vec<usize> = certain.iter().map(Vec::len).collect();
        assert_eq!((lengths, answer.len()), ((1..9).collect(), 9), "{sampler}");
    }
}

#[test]
fn beams_agree_soon_where_one_answer_is_much_better() {
    // It says 0, 1, 2 and so on to the stop token 11, and is at a loss after anything else.
    let model = || {
        FakeModel::new(12, |_, history| {
            let next = history.len();
            let is_word = (0..).zip(history).all(|(place, &token)| token == place);
            (0..12).map(|token| if is_word && token == next { 7.0 } else { 0.0 }).collect()
        })
    };
    for rule in [
        json!({}),
        json!({"early_stopping": true}),
        json!({"early_stopping": "never", "length_penalty": 2.0}),
        json!({"compat": "keras"}),
        json!({"force_words_ids": [[5, 6]]}),
        json!({"num_beam_groups": 2, "diversity_penalty": 0.1}),
    ] {
        let mut settings = rule.clone();
        settings["sampler"] = json!("beam");
        settings["num_beams"] = json!(4);
        settings["stop_token_ids"] = json!([11]);
        let input = Input::new(vec![0], 16, 0).unwrap();
        let (certain, answer) = steps(&mut model(), &input, &options(settings));
        assert_eq!(answer, (0..12).collect::<Vec<u32>>(), "{rule}");
        // After step s the beams are s + 1 tokens long.
        for (step, ids) in certain.iter().enumerate().take(11) {
            assert!(ids.len() + 3 > step, "{rule}: {} tokens after {step} steps", ids.len());
        }
    }
}

#[test]
fn beams_that_are_beaten_hold_nothing_back() {
    // The stop token 1 comes at once, is nearly certain, and after anything else never comes.
    let model = || {
        FakeModel::new(4, |_, history| match history {
            [0] => vec![0.0, 20.0, 0.0, 0.0],
            _ => vec![0.0, -50.0, 0.0, 0.0],
        })
    };
    for (early_stopping, length_penalty) in [(json!("never"), 0.0), (json!(false), 0.0)] {
        let settings = options(json!({
            "sampler": "beam", "num_beams": 3, "stop_token_ids": [1], "length_penalty": length_penalty,
            "early_stopping": early_stopping
        }));
        let input = Input::new(vec![0], 9, 0).unwrap();
        let (certain, answer) = steps(&mut model(), &input, &settings);
        assert_eq!(answer, [0, 1]);
        assert!(certain.len() > 2, "the search goes on for the other places");
        assert!(certain[1..].iter().all(|ids| ids == &answer));
    }
}
