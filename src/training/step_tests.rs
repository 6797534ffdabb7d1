//! Gradients of the whole model: against finite differences, and kernels against the portable way.

use std::sync::Arc;

use super::*;
use crate::config::BartConfig;
use crate::model::{Initialisation, Parameter};
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
    examples.loss(model, &Pass::training(77)).unwrap().1.loss
}

/// The gradient of every trainable parameter, row-major.
fn gradients_of(model: &BartModel, examples: &Examples) -> Vec<Vec<f32>> {
    let (loss, _) = examples.loss(model, &Pass::training(77)).unwrap();
    let parameters: Vec<&Parameter> = model.trainable().map(Arc::as_ref).collect();
    let gradients = Gradients::of(&parameters, loss.as_ref()).unwrap();
    let rows = |p: &Arc<Parameter>| gradients.with(p, |gradient| p.rows_of(gradient)).unwrap();
    model.trainable().map(rows).collect()
}

#[test]
fn every_gradient_is_the_slope_of_the_loss() {
    let models = [(tiny(0.0), 0.0), (tiny(0.2), 0.3), (tiny_mbart(0.2), 0.0)];
    for (model, smoothing) in models {
        let examples = smoothed(&model, smoothing);
        let gradients = gradients_of(&model, &examples);
        for (i, (parameter, gradient)) in model.trainable().zip(&gradients).enumerate() {
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
    for (model, smoothing) in [(tiny(0.0), 0.0), (tiny(0.3), 0.2), (tiny_mbart(0.3), 0.0)] {
        let examples = smoothed(&model, smoothing);
        let run = || (loss_of(&model, &examples), gradients_of(&model, &examples));
        let Both { kernel, portable } = in_way(run);
        assert!((kernel.0 - portable.0).abs() < 1e-6, "{} {}", kernel.0, portable.0);
        for ((parameter, a), b) in model.trainable().zip(&kernel.1).zip(&portable.1) {
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
