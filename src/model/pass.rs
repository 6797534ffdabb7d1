//! What a pass through the model is for: inference, or training with its random draws.

use std::cell::Cell;
use std::fmt;

use crate::error::Result;
use crate::ops::dropout::{self, Dropout};
use crate::ops::hidden::Hidden;
use crate::random;

/// Called now and then during long work; an error of it ends the work.
pub type StopCheck<'a> = dyn Fn() -> Result<()> + 'a;

/// One pass through the model. Numbers its dropouts in the order in which the model meets them, so
/// that the same seed gives the same masks on every device.
pub struct Pass<'a> {
    seed: Option<u64>,
    next_stream: Cell<u64>,
    recomputes: bool,
    stop: Option<&'a StopCheck<'a>>,
}

/// Where the random draws of a pass stand.
#[derive(Debug, Clone, Copy)]
pub struct Draws {
    seed: Option<u64>,
    /// Number of the next draw.
    pub next: u64,
}

impl Draws {
    /// A pass that goes on from here.
    pub fn pass(self) -> Pass<'static> {
        Pass { seed: self.seed, next_stream: Cell::new(self.next), ..Pass::inference() }
    }
}

impl<'a> Pass<'a> {
    /// No gradients, no dropout.
    pub fn inference() -> Self {
        Pass { seed: None, next_stream: Cell::new(0), recomputes: false, stop: None }
    }

    /// Gradients, and dropout drawn from `seed` (a new seed for every step).
    pub fn training(seed: u64) -> Self {
        Pass { seed: Some(seed), ..Pass::inference() }
    }

    /// The same pass; if `recomputes`, the inner values of layers are computed again in the backward pass.
    pub fn recomputing(self, recomputes: bool) -> Self {
        Pass { recomputes: recomputes && self.is_training(), ..self }
    }

    /// Whether the inner values of layers are computed again in the backward pass.
    pub fn recomputes(&self) -> bool {
        self.recomputes
    }

    /// Where its random draws stand.
    pub fn draws(&self) -> Draws {
        Draws { seed: self.seed, next: self.next_stream.get() }
    }

    /// Goes on with draw `next`, after another pass made those before.
    pub fn go_on_from(&self, next: u64) {
        self.next_stream.set(next);
    }

    /// The same pass, which `stop` can end between two layers.
    pub fn stopped_by(self, stop: &'a StopCheck<'a>) -> Self {
        Pass { stop: Some(stop), ..self }
    }

    /// Asks whether to go on; both stacks do so before each layer.
    ///
    /// # Errors
    /// That of the check given to [`Pass::stopped_by`].
    pub fn check_stop(&self) -> Result<()> {
        self.stop.map_or(Ok(()), |stop| stop())
    }

    /// Whether gradients are wanted.
    pub fn is_training(&self) -> bool {
        self.seed.is_some()
    }

    /// Applies dropout in training; otherwise gives `x` back.
    pub fn dropout(&self, x: Hidden, probability: f64) -> Result<Hidden> {
        match self.draw(probability) {
            Some(draw) => Ok(dropout::dropout(x, draw)?),
            None => Ok(x),
        }
    }

    /// The next draw of dropout, for an operation that applies it itself.
    pub fn draw(&self, probability: f64) -> Option<Dropout> {
        let seed = self.seed.filter(|_| probability > 0.0)?;
        Some(Dropout { probability: probability as f32, seed, stream: self.number() })
    }

    /// Whether training skips a layer this time (LayerDrop, Fan et al. 2019, arXiv:1909.11556).
    pub fn skips_layer(&self, probability: f64) -> bool {
        let Some(seed) = self.seed.filter(|_| probability > 0.0) else { return false };
        let draw = random::uniform_u32(seed, self.number(), 0);
        f64::from(draw) < probability * 4_294_967_296.0
    }

    fn number(&self) -> u64 {
        let stream = self.next_stream.get();
        self.next_stream.set(stream + 1);
        stream
    }
}

impl fmt::Debug for Pass<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pass").field("seed", &self.seed).field("stream", &self.next_stream).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::BartConfig;
    use crate::error::Error;
    use crate::model::{BartModel, Batch, Initialisation};

    #[test]
    fn a_pass_ends_before_the_layer_that_its_check_refuses() {
        let config = BartConfig {
            vocab_size: 11,
            d_model: 8,
            encoder_layers: 3,
            decoder_layers: 3,
            encoder_attention_heads: 2,
            decoder_attention_heads: 2,
            ..BartConfig::default()
        };
        let model = BartModel::new(config, Initialisation::Zeros).unwrap();
        let batch = Batch::from_sequences([(&[1, 2, 3][..], None)]);
        let memory = model.encode(&batch, &Pass::inference()).unwrap();
        let calls = Cell::new(0);
        let second = || {
            calls.set(calls.get() + 1);
            if calls.get() % 2 == 0 { Err(Error::Interrupted) } else { Ok(()) }
        };
        let pass = Pass::inference().stopped_by(&second);
        assert!(matches!(model.encode(&batch, &pass), Err(Error::Interrupted)));
        assert_eq!(calls.get(), 2);
        let decoded = model.decode(&batch, &memory, &batch, &pass);
        assert!(matches!(decoded, Err(Error::Interrupted)));
        assert_eq!(calls.get(), 4);
    }
}
