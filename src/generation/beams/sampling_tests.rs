//! Beams of which the extensions are drawn.

use serde_json::{Value, json};

use crate::generation::Input;
use crate::generation::testing::{FakeModel, decode, options, toy_logits};

fn toy(favoured: &'static [u32]) -> FakeModel {
    FakeModel::new(9, move |_, history| toy_logits(history, 9, favoured))
}

/// The probability with which `wanted` draws without putting back give each set of tokens, as bits.
fn probabilities_of_sets(weights: &[f64], wanted: usize) -> Vec<f64> {
    let mut sets = vec![0.0; 1 << weights.len()];
    sets[0] = 1.0;
    for size in 0..wanted as u32 {
        for set in (0..sets.len()).filter(|set| set.count_ones() == size) {
            let is_in = |token: usize| set >> token & 1 == 1;
            let left: f64 = (0..weights.len()).filter(|&t| !is_in(t)).map(|t| weights[t]).sum();
            for token in (0..weights.len()).filter(|&token| !is_in(token)) {
                sets[set | 1 << token] += sets[set] * weights[token] / left;
            }
        }
    }
    sets.iter_mut().enumerate().for_each(|(set, p)| {
        if set.count_ones() != wanted as u32 {
            *p = 0.0;
        }
    });
    sets
}

#[test]
fn extensions_are_drawn_without_putting_back() {
    // Two beams and no stop token: four of five tokens are drawn, and the two best of them win.
    let logits = [0.0f32, 0.3, 0.9, -0.5, 0.6];
    let temperature = 1.5;
    let weights = logits.map(|x| f64::from(x / temperature).exp());
    let mut order = [0, 1, 2, 3, 4];
    order.sort_by(|&a: &usize, &b| weights[b].total_cmp(&weights[a]));
    let mut exact = [[0.0; 5]; 5];
    for (set, p) in probabilities_of_sets(&weights, 4).into_iter().enumerate() {
        let mut drawn = order.iter().filter(|&&token| set >> token & 1 == 1);
        if let (Some(&first), Some(&second)) = (drawn.next(), drawn.next()) {
            exact[first][second] += p;
        }
    }
    let draws = 6_000;
    let inputs: Vec<Input> =
        (0..draws).map(|number| Input::new(vec![0], 2, number).unwrap()).collect();
    let settings = json!({
        "sampler": "beam", "num_beams": 2, "num_return_sequences": 2, "do_sample": true,
        "temperature": temperature, "seed": 12
    });
    let mut model = FakeModel::new(5, move |_, _| logits.to_vec());
    let mut counts = [[0.0; 5]; 5];
    for answers in decode(&mut model, &inputs, &options(settings)).unwrap() {
        counts[answers[0].ids[1] as usize][answers[1].ids[1] as usize] += 1.0;
    }
    let mut chi_square = 0.0;
    for (count, p) in counts.iter().flatten().zip(exact.iter().flatten()) {
        let expected = p * draws as f64;
        if *p == 0.0 {
            assert_eq!(*count, 0.0);
        } else {
            chi_square += (count - expected).powi(2) / expected;
        }
    }
    // Three pairs can win: of the best three tokens at least two are drawn. The 99.9 % point.
    assert_eq!(exact.iter().flatten().filter(|p| **p > 0.0).count(), 3);
    assert!(chi_square <= 13.8, "{chi_square}: {counts:?}");
}

#[test]
fn draws_belong_to_the_sequence_and_not_to_its_batch() {
    let run = |inputs: &[Input], seed: u64| {
        let settings = json!({
            "sampler": "beam", "num_beams": 3, "do_sample": true, "top_k": 6, "top_p": 0.95,
            "stop_token_ids": [4], "seed": seed, "num_return_sequences": 2
        });
        decode(&mut toy(&[4]), inputs, &options(settings)).unwrap()
    };
    let inputs: Vec<Input> =
        (0..6).map(|number| Input::new(vec![1, 2], 9, number).unwrap()).collect();
    let together = run(&inputs, 3);
    for (input, answers) in inputs.iter().zip(&together) {
        assert_eq!(&run(std::slice::from_ref(input), 3)[0], answers);
    }
    assert!(together.iter().any(|answers| answers != &together[0]), "all drew alike");
    assert_ne!(run(&inputs, 4), together);
}

#[test]
fn scores_are_those_of_the_filtered_log_probabilities() {
    let settings = json!({
        "sampler": "beam", "num_beams": 2, "do_sample": true, "temperature": 0.5, "top_k": 3,
        "length_penalty": 0.0
    });
    let answers =
        decode(&mut toy(&[]), &[Input::new(vec![7], 5, 0).unwrap()], &options(settings)).unwrap();
    let ids = &answers[0][0].ids;
    let mut sum = 0.0;
    for end in 1..ids.len() {
        let logits = toy_logits(&ids[..end], 9, &[]);
        let log_sum = logits.iter().map(|&x| f64::from(x).exp()).sum::<f64>().ln();
        let better = logits.iter().filter(|&&x| x > logits[ids[end] as usize]).count();
        assert!(better < 3, "the token was filtered out");
        // The temperature divides log probabilities, which are not normalised again.
        sum += (f64::from(logits[ids[end] as usize]) - log_sum) / 0.5;
    }
    assert!((f64::from(answers[0][0].score) - sum).abs() < 1e-5);
}

#[test]
fn every_rule_keeps_given_tokens() {
    for (rule, value) in [
        ("do_sample", json!(true)),
        ("num_beam_groups", json!(2)),
        ("force_words_ids", json!([[5, 6]])),
        ("compat", Value::Null),
    ] {
        let mask = vec![true, false, false, true, false, true];
        let input = Input::masked(vec![5, 2, 2, 4, 2, 7], mask, 8, 0).unwrap();
        let mut settings = json!({
            "sampler": "beam", "num_beams": 4, "return_all_beams": true, "stop_token_ids": [4]
        });
        settings[rule] = value;
        if rule == "num_beam_groups" {
            settings["diversity_penalty"] = json!(0.5);
        }
        for answer in &decode(&mut toy(&[]), &[input], &options(settings)).unwrap()[0] {
            let ids = &answer.ids;
            assert_eq!(ids[..4], [5, 2, 2, 4], "{rule}");
            assert!(ids.len() < 6 || ids[5] == 7, "{rule}: {ids:?}");
            assert!(answer.stopped == (ids.len() < 8 || ids[7] == 4), "{rule}: {answer:?}");
        }
    }
}
