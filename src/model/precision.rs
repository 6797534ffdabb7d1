//! In which numbers a model's weights are kept and multiplied. `docs/numerics.md` says what each
//! precision means.

use crate::error::{Error, Result};
use crate::ops::weight::HalfFormat;

/// A precision, by Keras' name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Precision {
    /// Everything in float32.
    #[default]
    Float32,
    /// Weights in float16.
    Float16,
    /// Weights in bfloat16, and the inputs of products too.
    Bfloat16,
    /// Weights in float32, rounded to float16 for products.
    MixedFloat16,
    /// Weights in float32, rounded to bfloat16 for products, as their inputs are.
    MixedBfloat16,
    /// Matrices in int8 with a scale a row, and inputs of products too; all else in float32.
    Int8,
}

impl Precision {
    /// All precisions.
    pub const ALL: [Precision; 6] = [
        Precision::Float32,
        Precision::Float16,
        Precision::Bfloat16,
        Precision::MixedFloat16,
        Precision::MixedBfloat16,
        Precision::Int8,
    ];

    /// The precision of this name.
    ///
    /// # Errors
    /// `Argument` for another name.
    pub fn from_name(name: &str) -> Result<Self> {
        let found = Self::ALL.into_iter().find(|precision| precision.name() == name);
        found.ok_or_else(|| {
            let known = Self::ALL.map(Self::name).join(", ");
            Error::argument("dtype", format!("must be one of {known}, received {name:?}"))
        })
    }

    /// Keras' name of it.
    pub fn name(self) -> &'static str {
        match self {
            Precision::Float32 => "float32",
            Precision::Float16 => "float16",
            Precision::Bfloat16 => "bfloat16",
            Precision::MixedFloat16 => "mixed_float16",
            Precision::MixedBfloat16 => "mixed_bfloat16",
            Precision::Int8 => "int8",
        }
    }

    /// The 16 bits that weights are kept in, if they are.
    pub fn stored(self) -> Option<HalfFormat> {
        match self {
            Precision::Float16 => Some(HalfFormat::Float16),
            Precision::Bfloat16 => Some(HalfFormat::Bfloat16),
            _ => None,
        }
    }

    /// The 16 bits that products round float32 weights to, if they do.
    pub fn rounded(self) -> Option<HalfFormat> {
        match self {
            Precision::MixedFloat16 => Some(HalfFormat::Float16),
            Precision::MixedBfloat16 => Some(HalfFormat::Bfloat16),
            _ => None,
        }
    }

    /// The 16 bits to which the decoder rounds keys and values, if it does: its caches keep them so,
    /// and a whole pass, which has no cache, must agree with them.
    pub fn cached(self) -> Option<HalfFormat> {
        match self {
            Precision::Float16 => Some(HalfFormat::Float16),
            Precision::Bfloat16 | Precision::Int8 => Some(HalfFormat::Bfloat16),
            _ => None,
        }
    }

    /// Whether the encoder's attention may round what it multiplies to bfloat16, as processors with such
    /// products do: where inputs of other products are rounded to that or further.
    pub fn attends_in_bfloat16(self) -> bool {
        matches!(self, Precision::Bfloat16 | Precision::Int8)
    }

    /// Whether it keeps matrices in float32.
    pub fn keeps_float32(self) -> bool {
        self.stored().is_none() && self != Precision::Int8
    }

    /// Whether it keeps weights that steps as small as training's can change.
    ///
    /// # Errors
    /// `Argument` naming the way out if it does not.
    pub fn check_trainable(self) -> Result<()> {
        if self.keeps_float32() {
            return Ok(());
        }
        Err(Error::argument(
            "dtype",
            format!(
                "a model in {} cannot be trained: its weights are too coarse for small steps\n\
                 hint: load it with dtype=\"float32\" or \"mixed_bfloat16\", or train additions to \
                 its weights: `model.backbone.enable_lora(rank)`",
                self.name()
            ),
        ))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::BartConfig;
    use crate::model::{BartModel, Batch, CachedRows, Initialisation, Pass};
    use crate::ops::place::Place;
    use crate::ops::testing::in_way;
    use candle_core::Device;

    fn tiny(precision: Precision) -> BartModel {
        let config = BartConfig {
            vocab_size: 37,
            d_model: 24,
            encoder_layers: 1,
            decoder_layers: 2,
            encoder_attention_heads: 3,
            decoder_attention_heads: 2,
            encoder_ffn_dim: 40,
            decoder_ffn_dim: 33,
            max_position_embeddings: 11,
            scale_embedding: true,
            final_logits_bias: true,
            ..BartConfig::default()
        };
        let drawn = Initialisation::Random { seed: 5, deviation: 0.3 };
        BartModel::with_precision(config, drawn, precision).unwrap()
    }

    fn logits(model: &BartModel, source: &[u32], target: &[u32]) -> Vec<f32> {
        let pass = Pass::inference();
        let batch = |ids| Batch::from_sequences([(ids, None)]);
        let memory = model.encode(&batch(source), &pass).unwrap();
        let hidden = model.decode(&batch(target), &memory, &batch(source), &pass).unwrap();
        let logits = model.logits(&hidden, &pass).unwrap();
        logits.read(<[f32]>::to_vec).unwrap()
    }

    fn largest_difference(a: &[f32], b: &[f32]) -> f32 {
        assert_eq!(a.len(), b.len());
        a.iter().zip(b).fold(0.0, |largest, (a, b)| largest.max((a - b).abs()))
    }

    #[test]
    fn names_are_read_as_they_are_written() {
        for precision in Precision::ALL {
            assert_eq!(Precision::from_name(precision.name()).unwrap(), precision);
        }
        let error = Precision::from_name("int4").unwrap_err().to_string();
        assert!(error.contains("`dtype`") && error.contains("mixed_bfloat16, int8"), "{error}");
    }

    #[test]
    fn every_precision_answers_nearly_as_float32_and_alike_by_both_ways() {
        let exact = logits(&tiny(Precision::Float32), &[1, 5, 9, 30], &[2, 7, 36]);
        let scale = exact.iter().fold(0.0_f32, |largest, x| largest.max(x.abs()));
        // From float32, and between the ways, in parts of the largest logit. Values that lie on the edge
        // between two of a coarser format fall to either side by the way, and by some processors' kernels
        // the encoder's attention rounds.
        let allowed = [
            (Precision::Float32, 0.0, 1e-5),
            (Precision::Float16, 2e-3, 1e-4),
            (Precision::MixedFloat16, 2e-3, 1e-5),
            (Precision::Bfloat16, 2e-2, 2e-2),
            (Precision::MixedBfloat16, 2e-2, 1e-2),
            (Precision::Int8, 5e-2, 5e-2),
        ];
        for (precision, from_exact, between_ways) in allowed {
            let model = tiny(precision);
            let both = in_way(|| logits(&model, &[1, 5, 9, 30], &[2, 7, 36]));
            let distance = largest_difference(&both.kernel, &exact) / scale;
            assert!(distance <= from_exact, "{}: {distance}", precision.name());
            let distance = largest_difference(&both.kernel, &both.portable) / scale;
            assert!(distance <= between_ways, "{} by both ways: {distance}", precision.name());
        }
    }

    #[test]
    fn a_copy_in_another_precision_is_the_model_that_is_drawn_in_it() {
        let exact = tiny(Precision::Float32);
        for precision in Precision::ALL {
            let (copy, drawn) = (exact.to_precision(precision).unwrap(), tiny(precision));
            for (a, b) in copy.parameters().iter().zip(drawn.parameters()) {
                assert_eq!(a.values().unwrap(), b.values().unwrap(), "{}", a.name());
                assert_eq!(a.int8_values().unwrap(), b.int8_values().unwrap(), "{}", a.name());
            }
            let again = copy.to_precision(precision).unwrap();
            let target = (&[1, 5, 9][..], &[2, 7][..]);
            assert_eq!(logits(&again, target.0, target.1), logits(&drawn, target.0, target.1));
        }
    }

    /// The model as a graphics card has it, but on the CPU.
    fn portable(model: &BartModel) -> BartModel {
        model.to_place(Place::Portable(Device::Cpu)).unwrap()
    }

    /// Logits of a target that is fed to a cache token by token.
    fn cached_logits(model: &BartModel, source: &[u32], target: &[u32]) -> Vec<f32> {
        let source = Batch::from_sequences([(source, None)]);
        let memory = model.encode(&source, &Pass::inference()).unwrap();
        let steps = model.start_decoding(&memory, &source, &[target.len()], vec![0]).unwrap();
        let mut cache = steps.cache;
        let (mut rows, mut all) = (CachedRows::default(), Vec::new());
        for (place, &token) in target.iter().enumerate() {
            cache.place([0], &mut rows);
            let row = Batch::single_rows([(token, place as u32)]);
            let hidden = model.decode_step(&row, &rows, &mut cache).unwrap();
            cache.advance(&rows);
            let logits = model.logits(&hidden, &Pass::inference()).unwrap();
            logits.read(|logits| all.extend_from_slice(logits)).unwrap();
        }
        all
    }

    #[test]
    fn a_card_has_the_same_weights_and_nearly_the_same_answers() {
        // In parts of the largest logit: from our kernels, and whole passes from cached ones.
        let allowed = [
            (Precision::Float32, 1e-5, 1e-5),
            (Precision::Float16, 5e-3, 2e-3),
            (Precision::MixedFloat16, 1e-5, 1e-5),
            (Precision::Bfloat16, 4e-2, 2e-2),
            (Precision::MixedBfloat16, 2e-2, 1e-2),
            (Precision::Int8, 5e-2, 5e-2),
        ];
        let (source, target) = (&[1, 5, 9, 30][..], &[2, 7, 36][..]);
        for (precision, from_kernels, from_cached) in allowed {
            let model = tiny(precision);
            let card = portable(&model);
            let again = card.to_place(Place::Kernels).unwrap();
            for ((a, b), c) in
                model.parameters().iter().zip(card.parameters()).zip(again.parameters())
            {
                assert_eq!(a.values().unwrap(), b.values().unwrap(), "{}", a.name());
                assert_eq!(a.int8_values().unwrap(), b.int8_values().unwrap(), "{}", a.name());
                assert_eq!(a.values().unwrap(), c.values().unwrap(), "{}", a.name());
            }
            let expected = logits(&model, source, target);
            assert_eq!(logits(&again, source, target), expected);
            let scale = expected.iter().fold(0.0_f32, |largest, x| largest.max(x.abs()));
            for way in
                in_way(|| [logits(&card, source, target), cached_logits(&card, source, target)])
                    .all()
            {
                let [whole, cached] = way;
                let distance = largest_difference(&whole, &expected) / scale;
                assert!(distance <= from_kernels, "{}: {distance}", precision.name());
                let distance = largest_difference(&whole, &cached) / scale;
                assert!(distance <= from_cached, "{} cached: {distance}", precision.name());
            }
        }
    }

    #[test]
    fn values_that_a_precision_cannot_hold_are_refused() {
        let check = |precision: Precision, name: &str, value: f32, fits: bool| {
            let model = tiny(precision);
            let parameter = model.parameters().iter().find(|p| p.name() == name).unwrap();
            let mut values = parameter.values().unwrap();
            values[3] = value;
            let outcome = parameter.assign(&values);
            assert_eq!(outcome.is_ok(), fits, "{} {name} {value}", precision.name());
            let Err(error) = outcome else { return };
            assert!(error.to_string().contains(&format!("`{name}`")), "{error}");
        };
        for name in ["shared.weight", "encoder.layers.0.fc1.bias"] {
            check(Precision::Float16, name, 1e5, false);
            check(Precision::Float16, name, 6e4, true);
            check(Precision::Bfloat16, name, 1e5, true);
            check(Precision::MixedFloat16, name, 1e5, true);
        }
        check(Precision::Int8, "shared.weight", f32::NAN, false);
        check(Precision::Int8, "shared.weight", f32::INFINITY, false);
        check(Precision::Int8, "shared.weight", 1e30, true);
    }

    #[test]
    fn int8_is_set_only_where_it_belongs_and_whole() {
        let model = tiny(Precision::Int8);
        let parameter = |name| model.parameters().iter().find(|p| p.name() == name).unwrap();
        let table = parameter("shared.weight");
        let (values, scales) = table.int8_values().unwrap().unwrap();
        table.assign_int8(&values, &scales).unwrap();
        assert_eq!(table.int8_values().unwrap().unwrap(), (values.clone(), scales.clone()));
        for wrong in [0.0, -1.0, f32::NAN, f32::INFINITY] {
            let mut scales = scales.clone();
            scales[2] = wrong;
            assert!(table.assign_int8(&values, &scales).is_err(), "{wrong}");
        }
        let mut lowest = values.clone();
        lowest[5] = -128;
        assert!(table.assign_int8(&lowest, &scales).is_err());
        assert!(table.assign_int8(&values[1..], &scales).is_err());
        assert!(parameter("encoder.layers.0.fc1.bias").assign_int8(&[1], &[1.0]).is_err());
    }

    #[test]
    fn coarse_weights_are_not_trained() {
        let trained: Vec<&str> = Precision::ALL
            .into_iter()
            .filter(|precision| precision.check_trainable().is_ok())
            .map(Precision::name)
            .collect();
        assert_eq!(trained, ["float32", "mixed_float16", "mixed_bfloat16"]);
    }
}
