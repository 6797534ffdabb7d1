//! Guesses change how many passes an answer takes, and nothing else.

use std::sync::{Arc, Mutex};

use serde_json::{Value, json};

use super::constraints::{Constraint, Context, StoppingCriterion};
use super::testing::{FakeModel, decode, options, toy_logits};
use super::{Input, Options, Sequence};
use crate::error::Result;

/// A model that copies its source with some slips, the fewer the higher `fidelity` is.
fn copyist(sources: &[Vec<u32>], fidelity: f32) -> FakeModel {
    let sources = sources.to_vec();
    FakeModel::new(12, move |source, history| {
        let mut logits = toy_logits(&history[history.len().saturating_sub(3)..], 12, &[]);
        if let Some(&token) = sources[source].get(history.len() - 1) {
            logits[token as usize] += fidelity;
        }
        logits
    })
}

/// Sources of eleven letters, each its own, which end with the stop token 2.
fn sources(count: u32) -> Vec<Vec<u32>> {
    let letter = |source: u32, place: u32| (source * 7 + place * (3 + source % 4)) % 9 + 3;
    let source = |source| (0..11).map(|place| letter(source, place)).chain([2]).collect();
    (0..count).map(source).collect()
}

fn inputs(sources: &[Vec<u32>]) -> Vec<Input> {
    let input = |(row, source): (usize, &Vec<u32>)| {
        let input = match row % 4 {
            0 => Input::new(vec![0], 16, row as u64),
            1 => Input::new(vec![0, source[0], source[1]], 9, row as u64),
            2 => Input::new(vec![0], 2, row as u64),
            // Two given tokens stand behind holes, the second beyond the limit on generated ones.
            _ => Input::masked(
                vec![0, 4, 5, 5, 5, 11],
                vec![true, false, true, false, false, true],
                14,
                row as u64,
            ),
        };
        input.unwrap().with_source(source.clone())
    };
    sources.iter().enumerate().map(input).collect()
}

/// The answers without guesses and with them, and the passes that both took.
fn both_ways(
    sources: &[Vec<u32>],
    fidelity: f32,
    settings: &Value,
) -> ([Vec<Vec<Sequence>>; 2], [usize; 2]) {
    let run = |speculative: Value| {
        let mut settings = settings.clone();
        settings["speculative"] = speculative;
        let mut model = copyist(sources, fidelity);
        let answers = decode(&mut model, &inputs(sources), &options(settings)).unwrap();
        (answers, model.passes.len())
    };
    let ((plain, passes), (guided, fewer)) = (run(Value::Null), run(json!("auto")));
    ([plain, guided], [passes, fewer])
}

#[test]
fn every_answer_is_the_same_with_fewer_passes() {
    let rules = [
        json!({}),
        json!({"stop_token_ids": [2], "min_new_tokens": 4, "no_repeat_ngram_size": 2}),
        json!({"stop_token_ids": [2, 5], "repetition_penalty": 1.3, "vocabulary_limit": 10}),
        json!({"stop_token_ids": [2], "forced_bos_token_id": 7, "forced_eos_token_id": [2]}),
        json!({"stop_token_ids": [2], "encoder_no_repeat_ngram_size": 3, "suppress_tokens": [4]}),
        json!({"stop_token_ids": [2], "bad_words_ids": [[3, 6], [8]], "min_length": 7}),
    ];
    let samplers = [
        json!({"sampler": "greedy"}),
        json!({"sampler": "sample", "temperature": 0.4, "seed": 5, "num_return_sequences": 3}),
        json!({"sampler": "top_p", "p": 0.6, "seed": 8}),
    ];
    let mut passes = [0, 0];
    for (sampler, rule) in samplers.iter().flat_map(|s| rules.iter().map(move |r| (s, r))) {
        for (count, fidelity) in [(1, 0.0), (1, 9.0), (5, 0.0), (5, 4.0), (8, 7.0), (20, 9.0)] {
            let mut settings = sampler.clone();
            let fields = rule.as_object().unwrap();
            fields.iter().for_each(|(name, value)| settings[name] = value.clone());
            settings["token_logprobs"] = json!(true);
            let ([plain, guided], [many, fewer]) = both_ways(&sources(count), fidelity, &settings);
            assert_eq!(plain, guided, "{settings} {count} {fidelity}");
            assert!(fewer <= many, "{settings} {count} {fidelity}: {fewer} passes, not {many}");
            passes = [passes[0] + many, passes[1] + fewer];
        }
    }
    assert!(passes[1] * 10 < passes[0] * 9, "{passes:?}");
}

#[test]
fn a_copy_takes_few_passes_and_what_is_no_copy_few_guesses() {
    let source: Vec<u32> = (0..60).map(|place| 3 + place * place % 9).collect();
    let run = |fidelity: f32, speculative: &str| {
        let settings = options(json!({"sampler": "greedy", "speculative": speculative}));
        let input = Input::new(vec![0], 61, 0).unwrap().with_source(source.clone());
        let mut model = copyist(std::slice::from_ref(&source), fidelity);
        decode(&mut model, &[input], &settings).unwrap();
        model.passes
    };
    let passes = run(20.0, "auto");
    assert!(passes.len() < 12, "{passes:?}");
    // A copyist who copies nothing: letters that never come.
    let sources = vec![vec![11; 60]];
    let settings = options(json!({
        "sampler": "greedy", "speculative": "auto", "suppress_tokens": [11], "no_repeat_ngram_size": 2
    }));
    let input = Input::new(vec![0], 60, 0).unwrap().with_source(sources[0].clone());
    let mut model = copyist(&sources, 0.0);
    decode(&mut model, &[input], &settings).unwrap();
    let rows: usize = model.passes.iter().sum();
    assert!(rows < 59 + 25, "{rows} rows for 59 tokens");
}

#[test]
fn guesses_are_made_where_they_change_nothing_or_are_asked_for() {
    let source: Vec<u32> = (0..20).map(|place| 3 + place % 9).collect();
    for (invariant, speculative, guesses) in [
        (true, json!("auto"), true),
        (true, json!("source"), true),
        (true, Value::Null, false),
        (false, json!("auto"), false),
        (false, json!("source"), true),
    ] {
        let settings = options(json!({"sampler": "greedy", "speculative": speculative}));
        let input = Input::new(vec![0], 21, 0).unwrap().with_source(source.clone());
        let mut model = copyist(std::slice::from_ref(&source), 20.0);
        model.is_batch_invariant = invariant;
        decode(&mut model, &[input], &settings).unwrap();
        assert_eq!(model.passes.len() < 20, guesses, "{invariant} {speculative}");
    }
    let wrong = json!({"sampler": "greedy", "speculative": "model"});
    let error = Options::from_json(wrong.as_object().unwrap().clone()).unwrap_err();
    assert!(error.to_string().starts_with("`speculative`: received \"model\""), "{error}");
}

/// Writes down what it is shown, and ends a sequence of nine tokens.
#[derive(Clone, Debug, Default)]
struct Witness(Arc<Mutex<Vec<Vec<u32>>>>);

impl Constraint for Witness {
    fn name(&self) -> &'static str {
        "witness"
    }

    fn apply(&self, context: &Context<'_>, _: &mut [f32]) -> Result<()> {
        self.0.lock().unwrap().push(context.ids.to_vec());
        Ok(())
    }
}

impl StoppingCriterion for Witness {
    fn stops(&self, ids: &[u32], _: u64) -> Result<bool> {
        self.0.lock().unwrap().push(ids.to_vec());
        Ok(ids.len() == 9)
    }
}

#[test]
fn rules_of_one_row_see_what_they_see_without_guesses() {
    let seen = |speculative: Value| {
        let witness = Witness::default();
        let mut settings = options(json!({"sampler": "greedy", "speculative": speculative}));
        let fields = Arc::get_mut(&mut settings).unwrap();
        fields.constraints.push(Box::new(witness.clone()));
        fields.stopping_criteria = Some(Box::new(witness.clone()));
        let sources = sources(1);
        let mut model = copyist(&sources, 6.0);
        let answers = decode(&mut model, &inputs(&sources), &settings).unwrap();
        assert!(answers[0][0].stopped && answers[0][0].ids.len() == 9);
        (witness.0.lock().unwrap().clone(), model.passes.len())
    };
    let ((plain, passes), (guided, fewer)) = (seen(Value::Null), seen(json!("auto")));
    assert_eq!(plain, guided);
    assert!(fewer < passes);
}
