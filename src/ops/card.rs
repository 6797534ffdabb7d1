//! What operations do on NVIDIA's cards, in passes without gradients: each function here is the arm of one
//! operation. It answers `None` where the operation is better left to candle's own: elsewhere, and for sizes
//! that the kernels do not take.

use std::ops::Deref;

use candle_core::{Result, Tensor};

use super::attention::{Heads, Spans, ragged};
use super::head::{Arrived, Arriving, Ask, Best, Found, MOST_FOUND};
use super::hidden::Hidden;
use super::linear::Affine;
use super::step_inputs::StepInputs;
use super::weight::{HalfFormat, Weight};
use crate::kernels::cuda::{self, Card, CardRows, CardSpans, Numbers};

/// Rows on a card: those of a [`Hidden`], or a copy of a tensor's.
pub(super) enum Held<'a> {
    /// Where they are.
    Borrowed(&'a CardRows),
    /// A copy.
    Owned(CardRows),
}

impl Deref for Held<'_> {
    type Target = CardRows;

    fn deref(&self) -> &CardRows {
        match self {
            Held::Borrowed(rows) => rows,
            Held::Owned(rows) => rows,
        }
    }
}

/// What a weight holds, and how products take it.
fn matrix(card: &Card, weight: &Weight) -> Result<Option<cuda::Weight>> {
    let Some(scales) = weight.scales() else {
        let plain = cuda::Weight::of_tensor(card, weight.stored())?;
        return Ok(match (plain, weight.rounded()) {
            (Some(plain), Some(format)) => Some(plain.rounded_to(format)),
            (plain, _) => plain,
        });
    };
    let Some(scales) = cuda::Weight::of_tensor(card, scales)? else { return Ok(None) };
    let (storage, layout) = weight.stored().storage_and_layout();
    cuda::Weight::int8(card, (cuda::storage(&storage)?, layout), scales).map(Some)
}

/// Whether no gradient is wanted.
fn is_at_rest((weight, bias): &Affine<'_>) -> bool {
    !weight.is_packed() && !weight.stored().track_op() && !bias.is_some_and(Tensor::track_op)
}

/// See [`linear_each`](super::linear::linear_each).
pub(super) fn linear_each<const N: usize>(
    x: &Hidden,
    layers: &[Affine<'_>; N],
    with_gelu: bool,
) -> Result<Option<[Hidden; N]>> {
    if N > 3 || !layers.iter().all(is_at_rest) {
        return Ok(None);
    }
    let Some(x) = x.on_card()? else { return Ok(None) };
    let card = x.card();
    let rows = layers.iter().map(|(weight, _)| card.rows(x.rows(), weight.rows()));
    let mut outs = rows.collect::<Result<Vec<_>>>()?;
    let mut parts = Vec::with_capacity(N);
    for ((weight, bias), out) in layers.iter().zip(&mut outs) {
        let bias = bias.map(|bias| cuda::Weight::of_tensor(card, bias)).transpose()?.flatten();
        let Some(weight) = matrix(card, weight)? else { return Ok(None) };
        if !weight.takes(x.rows(), x.width()) {
            return Ok(None);
        }
        parts.push(cuda::Layer { weight, bias, out });
    }
    card.linear(&x, &mut parts, with_gelu)?;
    let mut outs = outs.into_iter().map(Hidden::of_card);
    Ok(Some(std::array::from_fn(|_| outs.next().expect("there are N"))))
}

/// See [`add_layer_norm`](super::add_layer_norm::add_layer_norm).
pub(super) fn add_layer_norm(
    x: &Hidden,
    residual: Option<&Hidden>,
    gamma: &Tensor,
    beta: &Tensor,
) -> Result<Option<Hidden>> {
    if gamma.track_op() || beta.track_op() || x.width() > cuda::WIDEST {
        return Ok(None);
    }
    let Some(x) = x.on_card()? else { return Ok(None) };
    let residual = match residual.map(Hidden::on_card).transpose()? {
        Some(None) => return Ok(None),
        other => other.flatten(),
    };
    let card = x.card();
    let (Some(gamma), Some(beta)) =
        (cuda::Weight::of_tensor(card, gamma)?, cuda::Weight::of_tensor(card, beta)?)
    else {
        return Ok(None);
    };
    let mut out = card.rows(x.rows(), x.width())?;
    card.add_norm(&x, residual.as_deref(), [gamma, beta], &mut out)?;
    Ok(Some(Hidden::of_card(out)))
}

/// See [`attention`](super::attention::attention): without dropout, all that is multiplied rounded to `format`.
pub(super) fn attention(
    [q, k, v]: [&Hidden; 3],
    spans: &Spans,
    heads: Heads,
    format: Option<HalfFormat>,
) -> Result<Option<Hidden>> {
    if !CardSpans::takes(heads.width) {
        return Ok(None);
    }
    let (Some(q), Some(k), Some(v)) = (q.on_card()?, k.on_card()?, v.on_card()?) else {
        return Ok(None);
    };
    let (card, ragged) = (q.card(), ragged(spans, heads, None));
    let mut out = card.rows(q.rows(), q.width())?;
    spans.on_card.get(card, &ragged)?.attend(&ragged, format, [&q, &k, &v], &mut out)?;
    Ok(Some(Hidden::of_card(out)))
}

/// See [`rounded`](super::round::rounded).
pub(super) fn rounded(x: &Hidden, format: HalfFormat) -> Result<Option<Hidden>> {
    let Some(x) = x.on_card()? else { return Ok(None) };
    let mut out = x.card().rows(x.rows(), x.width())?;
    x.card().round(&x, format, &mut out)?;
    Ok(Some(Hidden::of_card(out)))
}

/// See [`embed`](super::embed::embed): for the rows of a decoding step.
pub(super) fn embed(
    table: &Weight,
    inputs: &StepInputs,
    scale: f32,
    positions: &Tensor,
) -> Result<Option<Hidden>> {
    let Some(inputs) = inputs.on_card() else { return Ok(None) };
    if !is_at_rest(&(table, Some(positions))) {
        return Ok(None);
    }
    let card = inputs.card();
    // Of numbers that products round the embeddings are as they are.
    let stored = match table.scales() {
        Some(_) => matrix(card, table)?,
        None => cuda::Weight::of_tensor(card, table.stored())?,
    };
    let (Some(stored), Some(positions)) = (stored, cuda::Weight::of_tensor(card, positions)?)
    else {
        return Ok(None);
    };
    let mut out = card.rows(inputs.tokens().count, table.columns())?;
    let ids = [inputs.tokens(), inputs.positions()];
    card.embed([stored, positions], ids, scale, &mut out)?;
    Ok(Some(Hidden::of_card(out)))
}

/// See [`find`](super::head::find).
pub(super) fn find(
    x: &Hidden,
    weight: &Weight,
    bias: Option<&Tensor>,
    (limit, count): (usize, usize),
    tokens: Option<Numbers>,
) -> Result<Option<Found>> {
    let limit = limit.min(weight.rows());
    let count = count.min(limit);
    if count == 0 || count > MOST_FOUND || x.rows() == 0 {
        return Ok(None);
    }
    let Some([scores]) = linear_each(x, &[(weight, bias)], false)? else { return Ok(None) };
    let Some(scores) = scores.on_card()? else { return Ok(None) };
    let best = scores.card().best(&scores, limit, count, tokens)?;
    Ok(Some(Found { best }))
}

/// See [`best`](super::head::best); whether the answer is there.
pub(super) fn best(
    x: &Hidden,
    weight: &Weight,
    bias: Option<&Tensor>,
    (limit, ask): (usize, Ask),
    best: &mut Best,
) -> Result<bool> {
    let Some(found) = find(x, weight, bias, (limit, ask.count), None)? else { return Ok(false) };
    let all: Vec<u32> = (0..x.rows() as u32).collect();
    Ok(found.fetch()?.wait(&all, &[], ask, best)? == Arrived::Best)
}

/// See [`Arriving::wait`].
pub(super) fn wait(
    arriving: Arriving,
    from: &[u32],
    tokens: &[u32],
    ask: Ask,
    best: &mut Best,
) -> Result<Arrived> {
    let rows = arriving.rows;
    let there = arriving.words.wait(|words| cuda::Best::of_words(words, rows))?;
    let of_row = |row: u32| &there.found[row as usize * there.count..][..there.count];
    let mut fed = from.iter().filter_map(|&row| there.tokens.get(row as usize));
    if !tokens.is_empty() && !fed.by_ref().eq(tokens) {
        return Ok(Arrived::OtherTokens);
    }
    let is_whole = |&row: &u32| {
        let wanted = of_row(row).iter().take(ask.count);
        !there.log_sums[row as usize].is_nan() && wanted.clone().all(|&(_, id)| id != u32::MAX)
    };
    if !from.iter().all(is_whole) {
        return Ok(Arrived::NotAll);
    }
    let wanted = from.iter().flat_map(|&row| of_row(row).iter().take(ask.count));
    let log_sums = from.iter().filter(|_| ask.log_sum).map(|&row| there.log_sums[row as usize]);
    best.set(from.len(), wanted.map(|&(score, id)| (id, score)), log_sums.collect());
    Ok(Arrived::Best)
}
