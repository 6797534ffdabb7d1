//! Gradients of the whole model: against finite differences, and kernels against the portable way.

use std::sync::Arc;

use super::*;
use crate::config::BartConfig;
use crate::model::{Initialisation, Parameter, Precision};
use crate::ops::testing::{Both, in_way};
use crate::random;

fn tiny(dropout: f64) -> BartModel {
    drawn(tiny_config(dropout))
}

/// The same with everything that mBART and untied checkpoints have otherwise.
fn tiny_mbart(dropout: f64) -> BartModel {
    drawn(BartConfig {
        normalize_before: true,
        add_final_layer_norm: true,
        tie_word_embeddings: false,
        separate_embeddings: true,
        ..tiny_config(dropout)
    })
}

fn tiny_config(dropout: f64) -> BartConfig {
    BartConfig {
        vocab_size: 37,
        d_model: 12,
        encoder_layers: 2,
        decoder_layers: 1,
        encoder_attention_heads: 3,
        decoder_attention_heads: 2,
        encoder_ffn_dim: 20,
        decoder_ffn_dim: 9,
        max_position_embeddings: 11,
        dropout,
        attention_dropout: dropout,
        activation_dropout: dropout,
        scale_embedding: true,
        final_logits_bias: true,
        init_std: 0.3,
        ..BartConfig::default()
    }
}

fn drawn(config: BartConfig) -> BartModel {
    let model = BartModel::new(config, Initialisation::Random { seed: 5, deviation: 0.3 }).unwrap();
    // Biases and norms away from their start, so that no gradient is zero by symmetry.
    for (i, parameter) in model.parameters().iter().enumerate() {
        let mut noise = vec![0.0; parameter.count()];
        random::fill_normal(9, i as u64, 0.1, &mut noise);
        let values = parameter.values().unwrap();
        let moved: Vec<f32> = values.iter().zip(&noise).map(|(x, n)| x + n).collect();
        parameter.assign(&moved).unwrap();
    }
    model
}

/// A frozen model with additions of rank 2 to half of its matrices, which are not zero any more.
fn adapted(precision: Precision, by_head: bool) -> BartModel {
    let model = tiny(0.1).to_precision(precision).unwrap();
    model.parameters().iter().for_each(|parameter| parameter.set_trainable(false));
    let names: Vec<String> = model.adaptable().step_by(2).map(|p| p.name().to_owned()).collect();
    model.add_adapter("one", &names, (2, 3.0), by_head, 7).unwrap();
    for (i, parameter) in model.adapter_parameters("one").unwrap().iter().enumerate() {
        let mut values = vec![0.0; parameter.count()];
        random::fill_normal(13, i as u64, 0.2, &mut values);
        parameter.assign(&values).unwrap();
    }
    model
}

/// Three ragged rows: padding, a hole in a source mask, a weighted position behind a mask.
fn examples(model: &BartModel) -> Examples {
    smoothed(model, 0.0)
}

fn smoothed(model: &BartModel, label_smoothing: f64) -> Examples {
    let draw = |stream: u64, count: u64| -> Vec<u32> {
        (0..count).map(|i| random::uniform_u32(3, stream, i) % 37).collect()
    };
    let mut source = Padded { ids: draw(0, 21), mask: vec![true; 21], width: 7 };
    for hidden in [9, 12, 13, 18, 19, 20] {
        source.mask[hidden] = false;
    }
    let mut target = Padded { ids: draw(1, 15), mask: vec![true; 15], width: 5 };
    for hidden in [8, 9, 14] {
        target.mask[hidden] = false;
    }
    let mut weights = vec![1.0; 15];
    (weights[3], weights[4], weights[9]) = (0.5, 0.0, 0.0);
    let settings = LossSettings { label_smoothing, ..LossSettings::default() };
    Examples::new(model, &source, &target, &draw(2, 15), Some(&weights), settings).unwrap()
}

fn loss_of(model: &BartModel, examples: &Examples) -> f64 {
    examples.loss(model, &model.training_pass(77)).unwrap().1.loss
}

/// The gradient of every trainable parameter, row-major.
fn gradients_of(model: &BartModel, examples: &Examples) -> Vec<Vec<f32>> {
    let (loss, _) = examples.loss(model, &model.training_pass(77)).unwrap();
    let trainable = model.trainable();
    let parameters: Vec<&Parameter> = trainable.iter().map(Arc::as_ref).collect();
    let gradients = Gradients::of(&parameters, loss.as_ref()).unwrap();
    let rows = |p: &Arc<Parameter>| gradients.with(p, |gradient| p.rows_of(gradient)).unwrap();
    trainable.iter().map(rows).collect()
}

#[test]
fn head_and_loss_in_one_are_the_two_of_them() {
    let bfloat16 = tiny(0.1).to_precision(Precision::MixedBfloat16).unwrap();
    for (model, smoothing) in [(tiny(0.1), 0.0), (tiny_mbart(0.1), 0.3), (bfloat16, 0.0)] {
        let of = |detail| {
            let mut examples = smoothed(&model, smoothing);
            examples.settings.detail = detail;
            let result = examples.loss(&model, &model.training_pass(77)).unwrap().1;
            (result.loss, result.nll_of_rows, gradients_of(&model, &examples))
        };
        let ((loss, rows, one), (same, same_rows, two)) = (of(Detail::Rows), of(Detail::Logits));
        assert_eq!((loss, rows), (same, same_rows));
        assert_eq!(one, two);
    }
}

#[test]
fn what_is_computed_again_has_the_same_gradients() {
    let frozen_below = tiny(0.3);
    let below = |name: &str| !name.starts_with("decoder.layers");
    let parameters = frozen_below.parameters().iter();
    parameters.filter(|p| below(p.name())).for_each(|p| p.set_trainable(false));
    let models = [
        ("all", tiny(0.3)),
        ("mbart", tiny_mbart(0.2)),
        ("float32 with low rank", adapted(Precision::Float32, true)),
        ("int8 with low rank", adapted(Precision::Int8, false)),
        ("layers over frozen ones", frozen_below),
    ];
    for (what, model) in models {
        let examples = examples(&model);
        let both = in_way(|| {
            let once = (loss_of(&model, &examples), gradients_of(&model, &examples));
            model.set_recomputes(true);
            let again = (loss_of(&model, &examples), gradients_of(&model, &examples));
            model.set_recomputes(false);
            (once, again)
        });
        for ((loss, gradients), (loss_again, again)) in [both.kernel, both.portable] {
            assert_eq!(loss, loss_again, "{what}");
            for (parameter, (a, b)) in model.trainable().iter().zip(gradients.iter().zip(&again)) {
                let size = a.iter().fold(1e-3_f32, |size, x| size.max(x.abs()));
                let apart = a.iter().zip(b).all(|(a, b)| (a - b).abs() <= 2e-6 * size);
                assert!(apart && a.len() == b.len(), "{what} {}", parameter.name());
            }
        }
    }
}

#[test]
fn every_gradient_is_the_slope_of_the_loss() {
    let adapted = adapted(Precision::Float32, true);
    let models = [(tiny(0.0), 0.0), (tiny(0.2), 0.3), (tiny_mbart(0.2), 0.0), (adapted, 0.0)];
    for (model, smoothing) in models {
        let examples = smoothed(&model, smoothing);
        let gradients = gradients_of(&model, &examples);
        for (i, (parameter, gradient)) in model.trainable().iter().zip(&gradients).enumerate() {
            let start = parameter.values().unwrap();
            let mut direction = vec![0.0; start.len()];
            random::fill_normal(11, i as u64, 1.0, &mut direction);
            let length = direction.iter().map(|d| d * d).sum::<f32>().sqrt();
            let slope = |step: f32| {
                let moved = |sign: f32| -> f64 {
                    let at = |(x, d): (&f32, &f32)| x + sign * step * d / length;
                    let values: Vec<f32> = start.iter().zip(&direction).map(at).collect();
                    parameter.assign(&values).unwrap();
                    loss_of(&model, &examples)
                };
                (moved(1.0) - moved(-1.0)) / (2.0 * f64::from(step))
            };
            let measured = (4.0 * slope(5e-3) - slope(1e-2)) / 3.0; // Richardson: error O(step^4)
            parameter.assign(&start).unwrap();
            let along = |(g, d): (&f32, &f32)| f64::from(*g) * f64::from(*d / length);
            let predicted: f64 = gradient.iter().zip(&direction).map(along).sum();
            let tolerance = 2e-4 + 2e-3 * predicted.abs();
            let name = parameter.name();
            assert!(
                (measured - predicted).abs() < tolerance,
                "{name} of {:?}: gradient {predicted}, measured {measured}",
                model.config()
            );
        }
    }
}

#[test]
fn kernels_and_portable_way_agree_on_loss_and_every_gradient() {
    let adapted = adapted(Precision::Float32, true);
    let models = [(tiny(0.0), 0.0), (tiny(0.3), 0.2), (tiny_mbart(0.3), 0.0), (adapted, 0.0)];
    for (model, smoothing) in models {
        let examples = smoothed(&model, smoothing);
        let run = || (loss_of(&model, &examples), gradients_of(&model, &examples));
        let Both { kernel, portable } = in_way(run);
        assert!((kernel.0 - portable.0).abs() < 1e-6, "{} {}", kernel.0, portable.0);
        for ((parameter, a), b) in model.trainable().iter().zip(&kernel.1).zip(&portable.1) {
            let scale = b.iter().fold(1e-2, |most: f32, x| most.max(x.abs()));
            for (a, b) in a.iter().zip(b) {
                assert!((a - b).abs() < 2e-5 * scale, "{}: {a} {b}", parameter.name());
            }
        }
    }
}

#[test]
fn a_loss_that_is_not_finite_changes_nothing() {
    let model = tiny(0.0);
    let mut examples = examples(&model);
    examples.weights[0] = f32::NAN;
    let before: Vec<_> = model.parameters().iter().map(|p| p.values().unwrap()).collect();
    let config = r#"{"class_name": "sgd", "momentum": 0.0, "nesterov": false}"#;
    let config = crate::training::optimizer::OptimizerConfig::from_json(config).unwrap();
    let mut optimizer = Optimizer::new(config);
    let result = train(&model, &mut optimizer, &examples, 0.1, 1).unwrap();
    assert!(!result.applied && optimizer.iterations() == 0);
    for (parameter, before) in model.parameters().iter().zip(before) {
        assert_eq!(parameter.values().unwrap(), before, "{}", parameter.name());
    }
}

#[test]
fn positions_that_do_not_count_change_no_bit() {
    let model = tiny(0.0);
    let source = Padded { ids: vec![3, 4, 5, 6], mask: vec![true; 4], width: 4 };
    let target = |last: u32| Padded {
        ids: vec![1, 2, 9, last],
        mask: vec![true, true, true, false],
        width: 4,
    };
    let run = |last| {
        let weights = [1.0, 1.0, 2.0, 0.0];
        let target = target(last);
        let examples = Examples::new(
            &model,
            &source,
            &target,
            &[2, 9, 7, last],
            Some(&weights),
            LossSettings::default(),
        );
        let examples = examples.unwrap();
        assert_eq!(examples.target.rows(), 3);
        loss_of(&model, &examples)
    };
    assert_eq!(run(0).to_bits(), run(36).to_bits());
}

#[test]
fn what_is_frozen_has_no_gradient_and_changes_no_other() {
    let frozen: [fn(&str) -> bool; 5] = [
        |name| name.starts_with("shared") || name.starts_with("encoder"),
        |name| name.ends_with(".weight"),
        |name| !name.starts_with("decoder.layers.0.fc"),
        |name| name.contains("layer_norm") || name.contains("layernorm"),
        |name| name.ends_with(".bias") || name.contains("embed"),
    ];
    let both = in_way(|| {
        for model in [tiny(0.2), tiny_mbart(0.2)] {
            let examples = examples(&model);
            let names: Vec<String> =
                model.trainable().iter().map(|p| p.name().to_owned()).collect();
            let all = gradients_of(&model, &examples);
            for frozen in frozen {
                model.parameters().iter().for_each(|p| p.set_trainable(!frozen(p.name())));
                let kept = names.iter().zip(&all).filter(|(name, _)| !frozen(name));
                let (kept, expected): (Vec<_>, Vec<_>) = kept.unzip();
                assert!(kept.len() < names.len() && !kept.is_empty());
                let trained = model.trainable();
                assert!(trained.iter().map(|p| p.name()).eq(kept.iter().map(|name| name.as_str())));
                for (name, (a, b)) in
                    kept.iter().zip(gradients_of(&model, &examples).iter().zip(expected))
                {
                    let near = |(a, b): (&f32, &f32)| (a - b).abs() <= 1e-6 + 1e-5 * b.abs();
                    assert!(a.iter().zip(b).all(near), "{name}");
                }
            }
        }
    });
    let ((), ()) = (both.kernel, both.portable);
}

#[test]
fn additions_of_zero_change_no_bit_and_merge_and_unmerge() {
    for by_head in [false, true] {
        check_additions(&tiny(0.0), by_head);
    }
}

fn check_additions(model: &BartModel, by_head: bool) {
    let examples = examples(model);
    let loss = || loss_of(model, &examples);
    let values = |p: &Arc<Parameter>| p.values().unwrap();
    let (before, weights) =
        (loss(), || -> Vec<_> { model.parameters().iter().map(values).collect() });
    let names: Vec<String> = model.adaptable().map(|p| p.name().to_owned()).collect();
    model.add_adapter("one", &names, (3, 6.0), by_head, 7).unwrap();
    assert_eq!(loss().to_bits(), before.to_bits());
    for parameter in model.adapter_parameters("one").unwrap() {
        let mut values = vec![0.0; parameter.count()];
        random::fill_normal(3, 0, 0.1, &mut values);
        parameter.assign(&values).unwrap();
    }
    let (adapted, plain) = (loss(), weights());
    assert!((adapted - before).abs() > 1e-3);
    model.merge_adapter().unwrap();
    assert!((loss() - adapted).abs() < 1e-5 && weights() != plain);
    assert!(model.use_adapter(None).unwrap_err().to_string().contains("is merged"));
    model.unmerge_adapter().unwrap();
    assert_eq!(loss().to_bits(), adapted.to_bits());
    assert_eq!(weights(), plain);
    model.use_adapter(None).unwrap();
    assert_eq!(loss().to_bits(), before.to_bits());
    model.remove_adapter("one").unwrap();
    assert!(model.use_adapter(Some("one")).unwrap_err().to_string().contains("one of: none"));
}

#[test]
fn additions_learn_on_weights_of_any_precision_which_stay() {
    let config = r#"{"class_name": "adam", "beta_1": 0.9, "beta_2": 0.999, "epsilon": 1e-7,
        "amsgrad": false}"#;
    let both = in_way(|| {
        for precision in Precision::ALL {
            let model = adapted(precision, false);
            let examples = examples(&model);
            let config = crate::training::optimizer::OptimizerConfig::from_json(config).unwrap();
            let mut optimizer = Optimizer::new(config);
            let values =
                || -> Vec<_> { model.parameters().iter().map(|p| p.values().unwrap()).collect() };
            let (before, weights) = (evaluate(&model, &examples).unwrap().loss, values());
            for step in 0..80 {
                assert!(train(&model, &mut optimizer, &examples, 0.02, step).unwrap().applied);
            }
            let after = evaluate(&model, &examples).unwrap().loss;
            assert!(after < 0.7 * before, "{}: {before} to {after}", precision.name());
            assert_eq!(values(), weights, "{}", precision.name());
        }
    });
    let ((), ()) = (both.kernel, both.portable);
}
