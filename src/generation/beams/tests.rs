//! Recorded answers of the references (`tests/golden/decoding_cases.json`, made by the script
//! beside it), and what the references do not promise.

use serde_json::{Value, json};

use crate::generation::testing::{FakeModel, decode, options, toy_logits};
use crate::generation::{Input, Sequence};

fn ids(value: &Value) -> Vec<u32> {
    value.as_array().unwrap().iter().map(|id| id.as_u64().unwrap() as u32).collect()
}

fn recorded_cases() -> Vec<Value> {
    cases_of("decoding_cases.json")
}

fn cases_of(file: &str) -> Vec<Value> {
    let path = format!("{}/tests/golden/{file}", env!("CARGO_MANIFEST_DIR"));
    let file: Value = serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap();
    file["cases"].as_array().unwrap().clone()
}

fn inputs(case: &Value) -> Vec<Input> {
    let max_length = case["max_length"].as_u64().unwrap() as usize;
    let prompts = case["prompts"].as_array().unwrap();
    let input = |(row, prompt): (usize, &Value)| match case["mask"].get(row) {
        None => Input::new(ids(prompt), max_length, row as u64),
        Some(mask) => {
            let given = ids(mask).into_iter().map(|real| real == 1).collect();
            Input::masked(ids(prompt), given, max_length, row as u64)
        }
    };
    prompts.iter().enumerate().map(|case| input(case).unwrap()).collect()
}

fn toy(case: &Value) -> FakeModel {
    let (vocabulary, favoured) =
        (case["vocabulary"].as_u64().unwrap() as usize, ids(&case["favoured"]));
    FakeModel::new(vocabulary, move |_, history| toy_logits(history, vocabulary, &favoured))
}

fn answer(case: &Value, inputs: &[Input]) -> Vec<Vec<Sequence>> {
    let mut settings = case["options"].clone();
    if case["kind"] == "keras" {
        settings["compat"] = json!("keras");
        settings["return_all_beams"] = json!(true);
    }
    decode(&mut toy(case), inputs, &options(settings)).unwrap()
}

/// What differs from the recorded answer, if anything.
fn difference(case: &Value, answers: &[Vec<Sequence>]) -> Option<String> {
    let expected = case["expected"].as_array().unwrap();
    let same = |(expected, sequence): (&Value, &Sequence)| {
        let score = expected["score"].as_f64().unwrap();
        let close = (score - f64::from(sequence.score)).abs() <= 1e-5 * score.abs().max(1.0);
        ids(&expected["ids"]) == sequence.ids && close
    };
    let equal = expected.len() == answers.len()
        && expected.iter().zip(answers).all(|(expected, sequences)| {
            let expected = expected.as_array().unwrap();
            expected.len() == sequences.len() && expected.iter().zip(sequences).all(same)
        });
    (!equal).then(|| format!("{case}\ngot {answers:?}"))
}

#[test]
fn answers_equal_the_recorded_ones() {
    let cases = recorded_cases();
    for kind in ["transformers", "keras", "keras_row"] {
        assert!(cases.iter().filter(|case| case["kind"] == kind).count() >= 20, "few {kind} cases");
    }
    assert_no_difference(&cases);
}

fn assert_no_difference(cases: &[Value]) {
    let differences: Vec<String> =
        cases.iter().filter_map(|case| difference(case, &answer(case, &inputs(case)))).collect();
    let shown = differences.iter().take(3).cloned().collect::<Vec<_>>().join("\n\n");
    assert!(differences.is_empty(), "{} of {} differ:\n{shown}", differences.len(), cases.len());
}

#[test]
fn groups_and_forced_words_equal_the_recorded_ones() {
    for kind in ["groups", "words"] {
        let mut cases = cases_of("search_cases.json");
        cases.retain(|case| case["kind"] == kind);
        assert!(cases.len() >= 40, "few {kind} cases");
        assert_no_difference(&cases);
        for case in &cases {
            let inputs = inputs(case);
            let alone = inputs.chunks(1).map(|input| answer(case, input).remove(0));
            assert!(answer(case, &inputs).into_iter().eq(alone), "{case}");
        }
    }
}

#[test]
fn a_score_is_the_sum_of_the_tokens_log_probabilities() {
    let mut compared = 0;
    for case in recorded_cases().iter().chain(&cases_of("search_cases.json")) {
        let penalty = match case["kind"].as_str() {
            Some("keras" | "keras_row") => 0.0,
            _ => case["options"]["length_penalty"].as_f64().unwrap_or(1.0),
        };
        let inputs = inputs(case);
        let shortest = inputs.iter().map(Input::start).min().unwrap();
        for (input, sequences) in inputs.iter().zip(answer(case, &inputs)) {
            for sequence in sequences.iter().filter(|sequence| sequence.score != 0.0) {
                let generated = sequence.ids.len() - input.start();
                assert_eq!(sequence.token_logprobs.len(), generated, "{case}");
                let sum: f64 = sequence.token_logprobs.iter().map(|&x| f64::from(x)).sum();
                // keras-hub scores beyond the stop token and from the shortest prompt on.
                let whole = !sequence.stopped && input.start() == shortest;
                if case["kind"] == "keras" && !whole {
                    continue;
                }
                let score = sum / (generated as f64).powf(penalty);
                let near = (score - f64::from(sequence.score)).abs() <= 1e-5 * score.abs().max(1.0);
                assert!(near || sequence.score < -1e8, "{case}: {score}, {}", sequence.score);
                compared += 1;
            }
        }
    }
    assert!(compared > 300, "{compared}");
}

#[test]
fn the_standard_rule_does_not_depend_on_batch_mates() {
    let mut batches = 0;
    for case in recorded_cases().iter().filter(|case| case["options"]["sampler"] == "beam") {
        let (inputs, standard) = (inputs(case), case["kind"] == "transformers");
        let together = answer(case, &inputs);
        let alone: Vec<_> = inputs.chunks(1).map(|input| answer(case, input).remove(0)).collect();
        if standard {
            assert_eq!(together, alone, "{case}");
            batches += usize::from(inputs.len() > 1);
        }
    }
    assert!(batches > 10);
}

#[test]
fn the_keras_rule_scores_on_until_all_inputs_have_ended() {
    // keras-hub's own dependence on batch-mates, kept because it is what `compat="keras"` is for.
    let differs = |case: &&Value| {
        let inputs = inputs(case);
        let alone: Vec<_> = inputs.chunks(1).map(|input| answer(case, input).remove(0)).collect();
        answer(case, &inputs) != alone
    };
    assert!(recorded_cases().iter().filter(|case| case["kind"] == "keras").any(|c| differs(&c)));
}

#[test]
fn one_beam_is_greedy_search() {
    for prompt in 0..40 {
        let run = |settings: Value| {
            let input = Input::new(vec![prompt, 3], 9, 0).unwrap();
            let mut model = FakeModel::new(7, |_, history| toy_logits(history, 7, &[1]));
            let answers = decode(&mut model, &[input], &options(settings)).unwrap();
            (answers[0][0].ids.clone(), answers[0][0].stopped)
        };
        assert_eq!(
            run(json!({"sampler": "beam", "num_beams": 1, "stop_token_ids": [1, 2]})),
            run(json!({"sampler": "greedy", "stop_token_ids": [1, 2]})),
        );
    }
}

/// Log probabilities of the best sequence of three tokens after [0], by trying all.
fn exhaustive(vocabulary: u32) -> (Vec<u32>, f64) {
    let log_probability = |history: &[u32], id: u32| {
        let logits = toy_logits(history, vocabulary as usize, &[]);
        let sum: f64 = logits.iter().map(|&x| f64::from(x).exp()).sum();
        f64::from(logits[id as usize]) - sum.ln()
    };
    let mut best = (vec![], f64::NEG_INFINITY);
    for code in 0..vocabulary.pow(3) {
        let tokens = [code / vocabulary.pow(2), code / vocabulary % vocabulary, code % vocabulary];
        let ids = [0, tokens[0], tokens[1], tokens[2]];
        let score = (1..4).map(|end| log_probability(&ids[..end], ids[end])).sum();
        if score > best.1 {
            best = (ids.to_vec(), score);
        }
    }
    best
}

#[test]
fn enough_beams_find_the_best_sequence_of_all() {
    let (expected, score) = exhaustive(6);
    for compat in [Value::Null, json!("keras")] {
        let settings = json!({
            "sampler": "beam", "num_beams": 36, "length_penalty": 0.0, "compat": compat
        });
        let mut model = FakeModel::new(6, |_, history| toy_logits(history, 6, &[]));
        let input = Input::new(vec![0], 4, 0).unwrap();
        let answers = decode(&mut model, &[input], &options(settings)).unwrap();
        assert_eq!(answers[0][0].ids, expected);
        assert!((f64::from(answers[0][0].score) - score).abs() < 1e-5);
    }
}

#[test]
fn given_tokens_inside_the_answer_are_kept_and_cost_nothing() {
    // Three are given by count. Position 3 holds a stop token, which does not end the row, and
    // position 5 an id beyond the limit; 4 and 6 are free.
    let mask = vec![true, false, false, true, false, true];
    let input = Input::masked(vec![5, 2, 2, 1, 2, 7], mask, 7, 0).unwrap();
    let settings = json!({
        "sampler": "beam", "num_beams": 2, "return_all_beams": true, "length_penalty": 0.0,
        "stop_token_ids": [1], "min_new_tokens": 9, "vocabulary_limit": 6
    });
    let mut model = FakeModel::new(8, |_, _| (0..8).map(|id| id as f32).collect());
    let answers = decode(&mut model, &[input], &options(settings)).unwrap();
    let normal: f32 = (0..6).map(|id| (id as f32).exp()).sum::<f32>().ln();
    let sequences: Vec<_> = answers[0].iter().map(|sequence| &sequence.ids[..]).collect();
    // Second comes an equal pair: one 4 early or late; the better beam's child is first.
    assert_eq!(sequences, [[5, 2, 2, 1, 5, 7, 5], [5, 2, 2, 1, 5, 7, 4]]);
    assert!((answers[0][0].score - 2.0 * (5.0 - normal)).abs() < 1e-5);
    assert!((answers[0][1].score - (9.0 - 2.0 * normal)).abs() < 1e-5);
    assert!(!answers[0][0].stopped);
}

#[test]
fn the_number_of_answers_and_their_order_are_as_asked() {
    let settings = json!({
        "sampler": "beam", "num_beams": 4, "num_return_sequences": 3, "stop_token_ids": [2]
    });
    let inputs = [Input::new(vec![0], 7, 0).unwrap(), Input::new(vec![4, 4, 4], 3, 1).unwrap()];
    let mut model = FakeModel::new(6, |_, history| toy_logits(history, 6, &[2]));
    let answers = decode(&mut model, &inputs, &options(settings)).unwrap();
    assert!(answers.iter().all(|sequences| sequences.len() == 3));
    assert!(answers[0].windows(2).all(|pair| pair[0].score >= pair[1].score));
    // There was no room: the prompt comes back.
    assert!(answers[1].iter().all(|sequence| sequence.ids == [4, 4, 4]));
    assert_eq!(model.passes[..2], [1, 4]);
}
