//! The head by its three ways: all scores, the best alone, and the best by a coarse copy.

use crate::config::BartConfig;
use crate::kernels::softmax;
use crate::kernels::testing::noise;
use crate::model::{BartModel, Initialisation, Precision};
use crate::ops::head::{Ask, Best, Screening};
use crate::ops::hidden::Hidden;

fn model(precision: Precision) -> BartModel {
    let config = BartConfig {
        vocab_size: 1501,
        d_model: 24,
        encoder_layers: 1,
        decoder_layers: 1,
        encoder_attention_heads: 3,
        decoder_attention_heads: 3,
        encoder_ffn_dim: 16,
        decoder_ffn_dim: 16,
        max_position_embeddings: 9,
        final_logits_bias: true,
        ..BartConfig::default()
    };
    let drawn = Initialisation::Random { seed: 5, deviation: 0.3 };
    BartModel::with_precision(config, drawn, precision).unwrap()
}

/// Compares the ways over many passes, in which a coarse copy is made.
fn compare(model: &BartModel, what: &str) {
    let (mut all, mut best, mut screening) = (Vec::new(), Best::default(), Screening::default());
    for pass in 0..40_u64 {
        let rows = 1 + pass as usize % 3;
        let hidden = Hidden::new(rows, 24, |out| {
            out.copy_from_slice(&noise(24 * rows, pass));
        });
        let (hidden, ask) = (hidden.unwrap(), Ask { count: 3, log_sum: pass % 5 == 0 });
        model.scores(&hidden, &mut all).unwrap();
        assert!(model.best_scores(&hidden, (1499, ask), &mut screening, &mut best).unwrap());
        for (row, all) in all.chunks(1501).enumerate() {
            let all = &all[..1499];
            assert_eq!(best.row(row), softmax::top_k(all, 3), "{what} {pass}");
            if ask.log_sum {
                let sum = softmax::log_sum_exp(all);
                assert_eq!(best.log_sum(row).to_bits(), sum.to_bits(), "{what} {pass}");
            }
        }
    }
}

#[test]
fn the_best_scores_are_the_best_of_all_also_after_the_weights_change() {
    for precision in Precision::ALL {
        let model = model(precision);
        compare(&model, precision.name());
        let table = model.parameters().iter().find(|p| p.name() == "shared.weight").unwrap();
        let mut values = table.values().unwrap();
        values.reverse();
        table.assign(&values).unwrap();
        compare(&model, precision.name());
        if precision.check_trainable().is_ok() {
            table.update(|values| values.iter_mut().for_each(|x| *x = -*x)).unwrap();
            compare(&model, precision.name());
        }
    }
}

#[test]
fn scores_that_are_no_numbers_and_the_portable_way_have_no_best() {
    let model = model(Precision::Float32);
    let ask = Ask { count: 1, log_sum: false };
    let best = |value: f32| {
        let hidden = Hidden::new(1, 24, |out| out.fill(value)).unwrap();
        let (mut best, mut screening) = (Best::default(), Screening::default());
        model.best_scores(&hidden, (1501, ask), &mut screening, &mut best).unwrap()
    };
    let both = crate::ops::testing::in_way(|| (best(1.0), best(f32::NAN), best(f32::INFINITY)));
    assert_eq!(both.kernel, (true, false, false));
    assert_eq!(both.portable, (false, false, false));
}
