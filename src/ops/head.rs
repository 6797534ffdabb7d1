//! The language-model head over rows of floats: all scores, or only what a choice among them needs.
//!
//! What a generation calls for every token. So it takes slices, and writes into memory that is kept.

use candle_core::{Result, Tensor};

use super::choices::Continued;
use super::hidden::Hidden;
use super::linear;
use super::weight::{Weight, panels};
use super::{floats, on_cpu};
pub use crate::kernels::best::{Ask, Best};
use crate::kernels::gemm::{self, Epilogue};
use crate::kernels::int8;
pub use crate::kernels::screen::Screening;

/// All scores `[rows, outputs]` of `x [rows, inputs]`, in `out`: those of [`linear::linear`].
pub fn scores(
    x: &Hidden,
    weight: &Weight,
    bias: Option<&Tensor>,
    out: &mut Vec<f32>,
) -> Result<()> {
    let (rows, inputs, outputs) = (x.rows(), weight.columns(), weight.rows());
    let Some(x) = x.floats().filter(|_| weight.is_packed()) else {
        out.clear();
        return linear::linear(x, weight, bias)?.read(|y| out.extend_from_slice(y));
    };
    out.resize(rows * outputs, 0.0);
    with_bias(bias, |bias| {
        if let Some(scales) = weight.scales() {
            return weight.with_int8(scales, |w| {
                int8::linear(x, rows, inputs, w, outputs, bias, Epilogue::None, out);
            });
        }
        let rounded = linear::rounded(x, weight);
        let (stored, layout) = weight.stored().storage_and_layout();
        let w = panels(on_cpu(&stored)?, layout, weight.rounded())?;
        let x = rounded.as_deref().unwrap_or(x);
        gemm::linear(x, rows, inputs, w, outputs, bias, Epilogue::None, out);
        Ok(())
    })?
}

/// What `ask` asks of the first `limit` scores of each row, with the bits of [`scores`]. `false` if it is
/// not to be had this way: there is no kernel, or a score is not a finite number.
pub fn best(
    x: &Hidden,
    weight: &Weight,
    bias: Option<&Tensor>,
    (limit, ask): (usize, Ask),
    screening: &mut Screening,
    best: &mut Best,
) -> Result<bool> {
    #[cfg(feature = "cuda")]
    if super::card::best(x, weight, bias, (limit, ask), best)? {
        return Ok(true);
    }
    let (rows, inputs, outputs) = (x.rows(), weight.columns(), weight.rows());
    let Some(x) = x.floats().filter(|_| weight.is_packed()) else { return Ok(false) };
    let limit = limit.min(outputs);
    with_bias(bias, |bias| {
        if let Some(scales) = weight.scales() {
            return weight.with_int8(scales, |w| {
                int8::linear_best(x, rows, inputs, w, limit, bias, ask, best)
            });
        }
        let rounded = linear::rounded(x, weight);
        let (stored, layout) = weight.stored().storage_and_layout();
        let w = panels(on_cpu(&stored)?, layout, weight.rounded())?;
        let x = rounded.as_deref().unwrap_or(x);
        // The coarse copy tells nothing of the sum over all.
        if let Some(screen) = weight.screen().filter(|_| !ask.log_sum)
            && screen.with(w, (outputs, inputs), |screen| {
                screen.linear_best(x, w, limit, bias, ask.count, screening, best)
            })
        {
            return Ok(true);
        }
        Ok(gemm::linear_best(x, rows, inputs, w, limit, bias, ask, best))
    })?
}

/// How many of the best of so many scores a card finds, at most: of more the host is faster.
pub fn most_found(limit: usize) -> usize {
    const MOST: usize = 64;
    #[cfg(feature = "cuda")]
    return MOST.min(crate::kernels::cuda::CardBest::most(limit));
    #[cfg(not(feature = "cuda"))]
    {
        let _ = limit;
        MOST
    }
}

/// What [`best`] gives, where a card has found it: it is fetched later, so that finding it can be recorded.
#[derive(Debug)]
pub struct Found {
    #[cfg(feature = "cuda")]
    pub(super) best: crate::kernels::cuda::CardBest,
    #[cfg(not(feature = "cuda"))]
    never: std::convert::Infallible,
}

/// Has a card find the `count` best of the first `limit` scores of each row of a step, without waiting for it;
/// `None` where [`best`] is the way.
///
/// # Errors
/// What the card reports.
pub fn find(
    x: &Hidden,
    weight: &Weight,
    bias: Option<&Tensor>,
    (limit, count): (usize, usize),
) -> Result<Option<Found>> {
    #[cfg(feature = "cuda")]
    return super::card::find(x, weight, bias, (limit, count));
    #[cfg(not(feature = "cuda"))]
    {
        let (_, _, _, _) = (x, weight, bias, (limit, count));
        Ok(None)
    }
}

/// All [`scores`] where a card has them, for it to choose by; `None` where no kernel of it computes them.
///
/// # Errors
/// What the card reports.
pub fn scores_on_card(
    x: &Hidden,
    weight: &Weight,
    bias: Option<&Tensor>,
) -> Result<Option<Hidden>> {
    #[cfg(feature = "cuda")]
    return super::card::scores(x, weight, bias);
    #[cfg(not(feature = "cuda"))]
    {
        let (_, _, _) = (x, weight, bias);
        Ok(None)
    }
}

/// What is on its way to the host.
#[derive(Debug)]
pub struct Arriving {
    #[cfg(feature = "cuda")]
    pub(super) words: crate::kernels::cuda::Arriving,
    #[cfg(feature = "cuda")]
    pub(super) sizes: (usize, usize),
    #[cfg(not(feature = "cuda"))]
    never: std::convert::Infallible,
}

impl Found {
    /// Has it copied to the host, which goes on meanwhile; with how beams go on, if that was asked for.
    ///
    /// # Errors
    /// What the card reports.
    pub fn fetch(&self, with_beams: bool) -> Result<Arriving> {
        #[cfg(feature = "cuda")]
        return Ok(Arriving {
            words: self.best.fetch(with_beams)?,
            sizes: (self.best.rows(), self.best.count()),
        });
        #[cfg(not(feature = "cuda"))]
        {
            let _ = with_beams;
            match self.never {}
        }
    }
}

impl Arriving {
    /// Waits for what `ask` asks for of the rows `from`, and how their beams go on, if that comes too; `None` if a
    /// score is not a finite number, or there are fewer than were asked for.
    ///
    /// # Errors
    /// What the card reports of this and of the work before.
    pub fn wait(self, from: &[u32], ask: Ask, best: &mut Best) -> Result<Option<Vec<Continued>>> {
        #[cfg(feature = "cuda")]
        return super::card::found(self, from, ask, best);
        #[cfg(not(feature = "cuda"))]
        {
            let (_, _, _) = (from, ask, best);
            match self.never {}
        }
    }
}

/// Calls `work` with the floats of a bias, if there is one.
fn with_bias<R>(bias: Option<&Tensor>, work: impl FnOnce(Option<&[f32]>) -> R) -> Result<R> {
    match bias {
        None => Ok(work(None)),
        Some(bias) => {
            let (storage, layout) = bias.storage_and_layout();
            Ok(work(Some(floats(on_cpu(&storage)?, layout)?)))
        }
    }
}
