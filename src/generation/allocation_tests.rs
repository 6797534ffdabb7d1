//! Once its memory is warm, a step of decoding allocates nothing.

use std::sync::Arc;

use serde_json::{Value, json};

use super::bart::BartDecoder;
use super::testing::options;
use super::{Generation, Input};
use crate::config::BartConfig;
use crate::kernels::counting_allocator::allocations;
use crate::kernels::team;
use crate::model::{BartModel, Batch, Initialisation, Precision};

/// Steps before counting: by then the coarse copy of the head is made, where there is one.
const WARM: usize = 24;
/// Steps while counting.
const COUNTED: usize = 40;

fn model(precision: Precision) -> Arc<BartModel> {
    let config = BartConfig {
        vocab_size: 300,
        d_model: 32,
        encoder_layers: 1,
        decoder_layers: 2,
        encoder_attention_heads: 2,
        decoder_attention_heads: 2,
        encoder_ffn_dim: 64,
        decoder_ffn_dim: 64,
        max_position_embeddings: 128,
        ..BartConfig::default()
    };
    let drawn = Initialisation::Random { seed: 7, deviation: 0.4 };
    Arc::new(BartModel::with_precision(config, drawn, precision).unwrap())
}

/// Allocations of some steps of a generation over three sources.
fn count(precision: Precision, settings: Value) -> usize {
    let sources: [&[u32]; 3] = [&[5, 6, 7, 8], &[9, 10], &[11, 12, 13, 14, 15, 16]];
    let batch = Batch::from_sequences(sources.map(|ids| (ids, None)));
    let mut decoder = BartDecoder::new(model(precision), batch, &|| Ok(())).unwrap();
    let inputs = (0..3)
        .map(|i| Input::new(vec![2], 100, i).unwrap().with_source(sources[i as usize].to_vec()));
    let mut generation = Generation::new(inputs.collect(), options(settings));
    let mut step = || generation.step(&mut decoder, &mut || Ok(())).unwrap();
    (0..WARM).for_each(|_| step());
    let count = allocations(|| (0..COUNTED).for_each(|_| step()));
    assert!(!generation.is_over());
    count
}

#[test]
fn warm_steps_allocate_nothing() {
    // What depends on the numbers may still grow now and then: the candidates that a coarse head leaves,
    // a beam that ends and is kept, the rows with guesses. One allocation in each step is far more.
    let methods = [
        ("greedy", json!({"sampler": "greedy", "speculative": null}), COUNTED / 10),
        ("with guesses", json!({"sampler": "greedy", "speculative": "source"}), COUNTED / 2),
        ("beams", json!({"sampler": "beam", "num_beams": 4}), COUNTED / 10),
    ];
    team::with_threads(1, || {
        for precision in [Precision::Float32, Precision::Bfloat16, Precision::Int8] {
            for (name, settings, most) in &methods {
                let count = count(precision, settings.clone());
                assert!(count <= *most, "{name}, {precision:?}: {count} in {COUNTED} steps");
            }
        }
    });
}
