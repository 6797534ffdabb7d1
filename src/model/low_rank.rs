//! Low-rank adaptation (LoRA; Hu et al. 2021, arXiv:2106.09685): beside a matrix `W` that stays as it
//! is, `scale * (x A^T) B^T` with few trained values is added to `x W^T`.
//!
//! Keras adds to the projections of an attention head by head, with an `A` for each head and one `B` for
//! all: its kernels have an axis of heads, and it factors them at the last axis
//! (`keras.layers.EinsumDense.enable_lora`, Keras 3.15).

use std::sync::Arc;

use super::parameter::{Initialisation, Parameter, Parameters};
use super::pass::Pass;
use super::precision::Precision;
use crate::error::{Error, Result};
use crate::ops;
use crate::ops::hidden::Hidden;
use crate::ops::place::Place;
use crate::random;

/// What is added to one matrix `[outputs, inputs]`: float32, whatever the matrix is kept in.
#[derive(Debug)]
pub struct LowRank {
    /// `A [heads * rank, inputs]`
    down: Arc<Parameter>,
    /// `B [outputs / heads, rank]`, at first zero: nothing is added then.
    up: Arc<Parameter>,
    scale: f32,
}

/// Sizes of an addition.
#[derive(Debug, Clone, Copy)]
pub struct RankOptions {
    /// Columns of `B`.
    pub rank: usize,
    /// `scale` times the rank.
    pub alpha: f64,
    /// Parts of the outputs that share a `B`.
    pub heads: usize,
}

impl LowRank {
    /// An addition to `matrix`, `A` drawn as Keras does (He et al. 2015, arXiv:1502.01852: uniform within
    /// `sqrt(6 / n)` of its `n` values a rank).
    ///
    /// # Errors
    /// `Argument` for a rank that is 0 or larger than the matrix.
    pub fn beside(
        matrix: &Parameter,
        options: RankOptions,
        (seed, stream): (u64, u64),
    ) -> Result<Self> {
        let (outputs, inputs) = (matrix.shape()[0], matrix.shape()[1]);
        let RankOptions { rank, alpha, heads } = options;
        if rank == 0 || rank > outputs.min(inputs) {
            let most = outputs.min(inputs);
            let name = matrix.name();
            let message = format!("must be 1 to {most} for `{name}`, received {rank}");
            return Err(Error::argument("rank", message));
        }
        let name = matrix.name().trim_end_matches(".weight");
        let place = matrix.place().clone();
        let mut parameters = Parameters::new(Initialisation::Zeros, Precision::Float32, place);
        let down = parameters.matrix(&format!("{name}.lora_A.weight"), heads * rank, inputs)?;
        let up = parameters.matrix(&format!("{name}.lora_B.weight"), outputs / heads, rank)?;
        let limit = (6.0 / (heads * inputs) as f32).sqrt();
        let draw = |i| random::unit_f32(random::uniform_u32(seed, stream, i)) * 2.0 - 1.0;
        let values: Vec<f32> = (0..down.count() as u64).map(|i| draw(i) * limit).collect();
        down.assign(&values)?;
        Ok(LowRank { down, up, scale: (alpha / rank as f64) as f32 })
    }

    /// The same at a place: itself where it is there.
    ///
    /// # Errors
    /// What the device there reports.
    pub(super) fn at(self: &Arc<Self>, place: &Place) -> Result<Arc<Self>> {
        if self.down.place().name() == place.name() {
            return Ok(self.clone());
        }
        let mut parameters =
            Parameters::new(Initialisation::Zeros, Precision::Float32, place.clone());
        let mut copy = |of: &Parameter| -> Result<_> {
            let copy = parameters.matrix(of.name(), of.shape()[0], of.shape()[1])?;
            copy.assign(&of.values()?)?;
            copy.set_trainable(of.is_trainable());
            Ok(copy)
        };
        let [down, up] = [copy(&self.down)?, copy(&self.up)?];
        Ok(Arc::new(LowRank { down, up, scale: self.scale }))
    }

    /// `scale * (x A^T) B^T`, for `x [rows, inputs]`; `A` and `B` of each head.
    pub fn forward(&self, x: &Hidden, pass: &Pass) -> Result<Hidden> {
        let (rank, width) = (self.up.shape()[1], self.up.shape()[0]);
        let inner = ops::linear::linear(x, &self.down.weight(pass), None)?;
        let heads = inner.width() / rank;
        // A head's row of the inner values is a row of its own for `B`.
        let inner = ops::scale::scale(inner.with_width(rank)?, self.scale)?;
        let y = ops::linear::linear(&inner, &self.up.weight(pass), None)?;
        Ok(y.with_width(heads * width)?)
    }

    /// `alpha` over the rank.
    pub fn scale(&self) -> f32 {
        self.scale
    }

    /// `A` and `B`.
    pub fn parameters(&self) -> [&Arc<Parameter>; 2] {
        [&self.down, &self.up]
    }

    /// The matrix with the addition, row-major, for the `values` of the matrix without.
    ///
    /// # Errors
    /// Only what the tensor library reports.
    pub fn merged(&self, values: &[f32]) -> Result<Vec<f32>> {
        let (inputs, rank) = (self.down.shape()[1], self.up.shape()[1]);
        let (down, up) = (self.down.values()?, self.up.values()?);
        let mut merged = values.to_vec();
        for (head, down) in down.chunks_exact(rank * inputs).enumerate() {
            let rows = merged.chunks_exact_mut(inputs).skip(head * self.up.shape()[0]);
            for (row, factors) in rows.zip(up.chunks_exact(rank)) {
                for (&factor, down) in factors.iter().zip(down.chunks_exact(inputs)) {
                    let factor = factor * self.scale;
                    row.iter_mut().zip(down).for_each(|(w, d)| *w += factor * d);
                }
            }
        }
        Ok(merged)
    }
}
