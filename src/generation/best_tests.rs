//! A generation that is given the best scores alone is the one that is given all.

use serde_json::{Value, json};

use super::Input;
use super::testing::{FakeModel, decode, options, toy_logits};

const VOCABULARY: usize = 120;

fn with(base: &Value, more: &Value) -> Value {
    let mut fields = base.as_object().unwrap().clone();
    fields.extend(more.as_object().unwrap().clone());
    Value::Object(fields)
}

/// The answers, and how many passes left the best scores alone.
fn run(
    settings: &Value,
    inputs: &[Input],
    best: bool,
) -> (Vec<Vec<super::Sequence>>, usize, usize) {
    let mut model = FakeModel::new(VOCABULARY, |source, history| {
        // Steps of 1/8, so that there are equals.
        let logits = toy_logits(history, VOCABULARY, &[7, source as u32]);
        logits.iter().map(|x| (x * 8.0).round() / 8.0).collect()
    });
    model.leaves_the_best = best;
    let answers = decode(&mut model, inputs, &options(settings.clone())).unwrap();
    (answers, model.best_alone, model.passes.len())
}

#[test]
fn the_best_scores_lead_where_all_do() {
    let plain = json!({});
    let rules = json!({"no_repeat_ngram_size": 2, "bad_words_ids": [[7], [3, 5]], "min_length": 6,
        "suppress_tokens": [9, 11], "begin_suppress_tokens": [4], "forced_eos_token_id": [7],
        "encoder_no_repeat_ngram_size": 3, "exponential_decay_length_penalty": [6, 1.5]});
    let methods = [
        json!({"sampler": "greedy"}),
        json!({"sampler": "greedy", "token_logprobs": true}),
        json!({"sampler": "greedy", "speculative": "source"}),
        json!({"sampler": "top_k", "k": 6, "temperature": 0.7, "token_logprobs": true}),
        json!({"sampler": "top_k", "k": 3, "num_return_sequences": 3, "speculative": "source"}),
        json!({"sampler": "sample", "top_k": 6, "temperature": 0.7, "token_logprobs": true}),
        json!({"sampler": "sample", "top_k": 5, "top_p": 0.8, "speculative": "source"}),
        json!({"sampler": "beam", "num_beams": 4, "length_penalty": 2.0, "num_return_sequences": 3}),
        json!({"sampler": "beam", "num_beams": 1}),
    ];
    let inputs: Vec<Input> = (0..3)
        .map(|i| {
            let mut ids = vec![2, i, 5 + i];
            let mut given = vec![true; 3];
            if i == 1 {
                // A token that is given in the midst of the answer.
                ids.extend([0, 0, 40]);
                given.extend([false, false, true]);
            }
            let input = Input::masked(ids, given, 14, u64::from(i)).unwrap();
            input.with_source(vec![2, 7, 9, 30, 31, 32, 33, 40, 41])
        })
        .collect();
    for method in methods {
        for more in [&plain, &rules, &json!({"vocabulary_limit": 100})] {
            let settings = with(&with(&method, more), &json!({"stop_token_ids": [7], "seed": 3}));
            let (all, none, _) = run(&settings, &inputs, false);
            let (best, some, passes) = run(&settings, &inputs, true);
            assert_eq!(none, 0);
            assert_eq!(best, all, "{settings}");
            // Rules that change scores, given tokens of beams, and equals call for all scores.
            let needs_all = *more == rules && settings.get("token_logprobs").is_some();
            assert!(some > 0 || needs_all, "{settings}: {some} of {passes}");
        }
    }
}

#[test]
fn what_needs_all_scores_gets_them() {
    for settings in [
        json!({"sampler": "random"}),
        json!({"sampler": "top_p"}),
        json!({"sampler": "sample", "top_p": 0.5}),
        json!({"sampler": "greedy", "repetition_penalty": 1.2}),
        json!({"sampler": "top_k", "k": 1000}),
        json!({"sampler": "beam", "num_beams": 4, "temperature": 0.7}),
        json!({"sampler": "beam", "num_beams": 4, "num_beam_groups": 2, "diversity_penalty": 0.5}),
        json!({"sampler": "beam", "num_beams": 4, "compat": "keras"}),
        json!({"sampler": "beam", "num_beams": 4, "do_sample": true, "top_k": 30}),
        json!({"sampler": "beam", "num_beams": 4, "force_words_ids": [[5, 6]]}),
    ] {
        let inputs = [Input::new(vec![2], 6, 0).unwrap()];
        assert_eq!(run(&settings, &inputs, true).1, 0, "{settings}");
    }
}
