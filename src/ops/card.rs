//! What operations do on NVIDIA's cards, in passes without gradients: each function here is the arm of one
//! operation. It answers `None` where the operation is better left to candle's own: elsewhere, and for sizes
//! that the kernels do not take.

use std::ops::Deref;
use std::sync::Arc;

use candle_core::{Result, Tensor};

use super::attention::{Heads, Spans, ragged};
use super::choices::{Beams, Choices, Chooser, Choosing, Chosen, Continued};
use super::head::{Arriving, Ask, Best, Found, most_found};
use super::hidden::Hidden;
use super::linear::Affine;
use super::step_inputs::{OnCard, StepInputs};
use super::weight::{HalfFormat, Weight};
use crate::kernels::cuda::{self, Card, CardChooser, CardRows, CardSpans};

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

/// In which numbers a layer's results are wanted.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Results {
    /// In float32.
    Float32,
    /// In bfloat16 where that is what the weights are kept in and there are many rows: then the speed of memory
    /// counts.
    AsKept,
}

/// See [`linear_each`](super::linear::linear_each).
pub(super) fn linear_each<const N: usize>(
    x: &Hidden,
    layers: &[Affine<'_>; N],
    with_gelu: bool,
    results: Results,
) -> Result<Option<[Hidden; N]>> {
    /// Rows from which on they are many.
    const MANY: usize = 512;
    if N > 3 || !layers.iter().all(is_at_rest) {
        return Ok(None);
    }
    let Some(mut x) = x.on_card_as_they_are()? else { return Ok(None) };
    let card = x.card().clone();
    let mut weights = Vec::with_capacity(N);
    for (weight, bias) in layers {
        let bias = bias.map(|bias| cuda::Weight::of_tensor(&card, bias)).transpose()?.flatten();
        match matrix(&card, weight)? {
            Some(weight) if weight.takes(x.rows(), x.width()) => weights.push((weight, bias)),
            _ => return Ok(None),
        }
    }
    let in_bfloat16 = weights.iter().all(|(weight, _)| weight.is_bfloat16());
    if !in_bfloat16 && !x.is_float32() {
        x = Held::Owned(x.widened()?);
    }
    let eights = layers.iter().all(|(weight, _)| weight.rows().is_multiple_of(8));
    let as_kept = results == Results::AsKept && in_bfloat16 && eights && x.rows() >= MANY;
    let rows = layers.iter().map(|(weight, _)| match as_kept {
        true => card.rows_bfloat16(x.rows(), weight.rows()),
        false => card.rows(x.rows(), weight.rows()),
    });
    let mut outs = rows.collect::<Result<Vec<_>>>()?;
    let parts = weights.into_iter().zip(&mut outs);
    let mut parts: Vec<_> =
        parts.map(|((weight, bias), out)| cuda::Layer { weight, bias, out }).collect();
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
    let Some(mut rows) = x.on_card_as_they_are()? else { return Ok(None) };
    let mut other = match residual.map(Hidden::on_card_as_they_are).transpose()? {
        Some(None) => return Ok(None),
        other => other.flatten(),
    };
    if !Card::norms(&rows, other.as_deref()) {
        let (Some(wide), other_wide) = (x.on_card()?, residual.map(Hidden::on_card).transpose()?)
        else {
            return Ok(None);
        };
        (rows, other) = (wide, other_wide.flatten());
    }
    let card = rows.card();
    let (Some(gamma), Some(beta)) =
        (cuda::Weight::of_tensor(card, gamma)?, cuda::Weight::of_tensor(card, beta)?)
    else {
        return Ok(None);
    };
    let mut out = alike(&rows)?;
    card.add_norm(&rows, other.as_deref(), [gamma, beta], &mut out)?;
    Ok(Some(Hidden::of_card(out)))
}

/// Rows of the size and the numbers of others.
fn alike(rows: &CardRows) -> Result<CardRows> {
    match rows.is_float32() {
        true => rows.card().rows(rows.rows(), rows.width()),
        false => rows.card().rows_bfloat16(rows.rows(), rows.width()),
    }
}

/// See [`attention`](super::attention::attention): without dropout, all that is multiplied rounded to `format`.
pub(super) fn attention<'a>(
    [q, k, v]: [&'a Hidden; 3],
    spans: &Spans,
    heads: Heads,
    format: Option<HalfFormat>,
) -> Result<Option<Hidden>> {
    if !CardSpans::takes(heads.width) {
        return Ok(None);
    }
    let in_bfloat16 = format == Some(HalfFormat::Bfloat16)
        && [q, k, v].iter().all(|rows| rows.is_of(HalfFormat::Bfloat16));
    let held = |rows: &'a Hidden| match in_bfloat16 {
        true => rows.on_card_as_they_are(),
        false => rows.on_card(),
    };
    let (Some(q), Some(k), Some(v)) = (held(q)?, held(k)?, held(v)?) else { return Ok(None) };
    let (card, ragged) = (q.card(), ragged(spans, heads, None));
    let mut out = alike(&q)?;
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

/// See [`scores_on_card`](super::head::scores_on_card).
pub(super) fn scores(x: &Hidden, weight: &Weight, bias: Option<&Tensor>) -> Result<Option<Hidden>> {
    let scores = linear_each(x, &[(weight, bias)], false, Results::Float32)?;
    Ok(scores.map(|[scores]| scores))
}

/// See [`find`](super::head::find).
pub(super) fn find(
    x: &Hidden,
    weight: &Weight,
    bias: Option<&Tensor>,
    (limit, count): (usize, usize),
) -> Result<Option<Found>> {
    let limit = limit.min(weight.rows());
    let count = count.min(limit);
    if count == 0 || count > most_found(limit) || x.rows() == 0 {
        return Ok(None);
    }
    let Some(scores) = scores(x, weight, bias)? else { return Ok(None) };
    let Some(scores) = scores.on_card()? else { return Ok(None) };
    let best = scores.card().best(&scores, limit, count)?;
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
    let Some(found) = find(x, weight, bias, (limit, ask.count))? else { return Ok(false) };
    let all: Vec<u32> = (0..x.rows() as u32).collect();
    Ok(found.fetch(false)?.wait(&all, ask, best)?.is_some())
}

/// See [`Arriving::wait`].
pub(super) fn found(
    arriving: Arriving,
    from: &[u32],
    ask: Ask,
    best: &mut Best,
) -> Result<Option<Vec<Continued>>> {
    let (rows, count) = arriving.sizes;
    let there = arriving.words.wait(|words| cuda::Best::of_words(words, rows, count))?;
    let of_row = |row: u32| &there.found[row as usize * count..][..count];
    let is_whole = |&row: &u32| {
        let mut wanted = of_row(row).iter().take(ask.count);
        !there.log_sums[row as usize].is_nan() && wanted.all(|&(_, id)| id != u32::MAX)
    };
    if !from.iter().all(is_whole) {
        return Ok(None);
    }
    let wanted = from.iter().flat_map(|&row| of_row(row).iter().take(ask.count));
    let log_sums = from.iter().filter(|_| ask.log_sum).map(|&row| there.log_sums[row as usize]);
    best.set(from.len(), wanted.map(|&(score, id)| (id, score)), log_sums.collect());
    Ok(Some(there.continued))
}

/// See [`Chooser::continue_beams`].
pub(super) fn continue_beams(
    chooser: &mut Chooser,
    found: &Found,
    from: &[u32],
    beams: &Beams,
    next: &mut StepInputs,
) -> Result<()> {
    let Some(next) = next.on_card_mut() else { return Ok(()) };
    let chooser = chooser.of(next.card())?;
    let Beams { count, scores, ruled_out, ends, stops } = beams;
    let beams = cuda::Beams { from, scores, ends, ruled_out, stops, count: *count };
    chooser.continue_beams(&found.best, &beams, next.continued())
}

impl Chooser {
    /// What a card needs of it.
    fn of(&mut self, card: &Arc<Card>) -> Result<&mut CardChooser> {
        Ok(match &mut self.on_card {
            Some(chooser) => chooser,
            none => none.insert(CardChooser::new(card)?),
        })
    }
}

/// See [`Chooser::choose`].
pub(super) fn choose(
    chooser: &mut Chooser,
    scores: &Hidden,
    from: &[u32],
    choices: &Choices,
    next: Option<&StepInputs>,
) -> Result<Option<Choosing>> {
    let Some(scores) = scores.on_card()? else { return Ok(None) };
    let chooser = chooser.of(scores.card())?;
    let tokens = next.and_then(StepInputs::on_card).map(OnCard::tokens);
    let words = chooser.choose(&scores, &choices.on_card(from), tokens)?;
    Ok(Some(Choosing { words, log_probabilities: choices.log_probabilities }))
}

/// See [`Choosing::wait`].
pub(super) fn chosen(choosing: Choosing, chosen: &mut Vec<Chosen>) -> Result<()> {
    let Choosing { words, log_probabilities } = choosing;
    let of_card = |it: cuda::Chosen| Chosen {
        broken: it.broken,
        best: it.best,
        token: it.token,
        log_probability: log_probabilities.then_some(it.log_probability),
    };
    chosen.clear();
    words.wait(|words| chosen.extend(cuda::Chosen::of_words(words).map(of_card)))
}
