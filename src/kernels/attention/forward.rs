//! The forward pass: packing keys, attending with a few queries at a time, and the parts of a
//! ragged batch.

use super::super::disjoint::Disjoint;
use super::super::dropout::{DRAWN, Dropout};
use super::super::element::{Element, narrow};
use super::super::gemm_operands::pack_rows;
use super::super::isa::{Isa, Kernel, Simd, with_isa};
use super::super::lanes::{self, row_sum};
use super::super::memory::{Slot, scratch};
use super::super::pairs::{Pair, narrow_row};
use super::paired;
use super::tile::{Left, Output, Right, product};
use super::{Inputs, NO_KEY, NoKey, PANEL, Part, Ragged, dropout_index};

/// Queries attended together at most: twelve rows of two vectors leave 32 registers room for their
/// operands, six do so in 16.
pub(super) const MOST_ROWS: usize = 12;

/// Queries attended together at most where keys and values come from memory: taller tiles, which take
/// longer to build, have nothing to gain there.
pub(in super::super) const FEW_ROWS: usize = 6;

/// How many of `left` queries to attend together: the largest row count compiled.
#[inline(always)]
pub(super) fn most_rows<S: Simd>(_: S, left: usize) -> usize {
    if left >= MOST_ROWS && S::TILE_ROWS >= MOST_ROWS { MOST_ROWS } else { few_rows(left) }
}

/// The same up to [`FEW_ROWS`].
#[inline(always)]
pub(in super::super) fn few_rows(left: usize) -> usize {
    match left {
        0..=1 => left,
        2..=3 => 2,
        4..=5 => 4,
        _ => FEW_ROWS,
    }
}

/// Packs `keys` rows of `head_dim` values, row j at `from[j * stride]`, as positions from `first`
/// on of panels `[panel][head_dim][PANEL]`. Other positions stay as they are.
#[inline(always)]
pub(in super::super) fn pack_keys<S: Simd, E: Element>(
    s: S,
    from: &[f32],
    stride: usize,
    keys: usize,
    head_dim: usize,
    first: usize,
    panels: &mut [E],
) {
    assert!(keys == 0 || from.len() >= (keys - 1) * stride + head_dim);
    assert!(panels.len() >= (first + keys).next_multiple_of(PANEL) * head_dim);
    let mut key = 0;
    while key < keys {
        let (panel, lane) = ((first + key) / PANEL, (first + key) % PANEL);
        let start = panel * PANEL * head_dim + lane;
        let eight = lane.is_multiple_of(8) && keys - key >= 8;
        let squares = if eight { head_dim / 8 * 8 } else { 0 };
        for d in (0..squares).step_by(8) {
            let mut rows = [from.as_ptr(); 8];
            for (i, row) in rows.iter_mut().enumerate() {
                *row = from[(key + i) * stride + d..][..8].as_ptr();
            }
            let to = panels[start + d * PANEL..][..7 * PANEL + 8].as_mut_ptr();
            // SAFETY: both slices above hold what is read and written here.
            unsafe { E::transpose8(s, rows, to, PANEL) };
        }
        let group = if eight { 8 } else { 1 };
        for i in 0..group {
            let row = &from[(key + i) * stride..][squares..head_dim];
            let mut stored = [E::ZERO; PANEL];
            for (part, row) in row.chunks(PANEL).enumerate() {
                let stored = &mut stored[..row.len()];
                narrow(s, row, stored);
                let first = start + (squares + part * PANEL) * PANEL + i;
                let places = panels[first..].iter_mut().step_by(PANEL);
                places.zip(stored).for_each(|(to, from)| *to = *from);
            }
        }
        key += group;
    }
}

/// Keys and values of one head of one sequence; where elements are pairs, as [`paired`] packs them.
#[derive(Clone, Copy)]
pub(in super::super) struct Head<'a, E> {
    /// Panels `[panel][head_dim][PANEL]`.
    pub keys: &'a [E],
    /// Row j of the values begins at `values[j * value_stride]`.
    pub values: &'a [E],
    pub value_stride: usize,
    pub head_dim: usize,
    /// Factor of the scores.
    pub scale: f32,
    /// Added to the scores of each key: 0, or negative infinity for a key nobody sees.
    pub hidden: Option<&'a [f32]>,
    /// What is read after them, if they are far away; any address.
    pub next: *const [E],
}

/// `R` queries of one head.
pub(in super::super) struct Tile<'a, const R: usize> {
    /// Row r begins at `queries[r * query_stride]`.
    pub queries: &'a [f32],
    pub query_stride: usize,
    /// How many keys, from the first, each row may see.
    pub visible: [usize; R],
    /// Dropout of the weights, and the element that decides about each row's first key.
    pub dropout: Option<(Dropout, [u64; R])>,
}

impl<const R: usize> Tile<'_, R> {
    /// How many keys, from the first, some row sees.
    #[inline(always)]
    pub(super) fn keys(&self) -> usize {
        let mut keys = 0;
        for &visible in &self.visible {
            keys = keys.max(visible);
        }
        keys
    }
}

/// What a row's exponentials add up to.
#[derive(Clone, Copy)]
pub(in super::super) struct RowSums {
    pub highest: f32,
    pub sum: f32,
}

impl RowSums {
    /// A row that sees no key.
    const NONE: Self = RowSums { highest: 0.0, sum: 0.0 };

    fn lse(self) -> f32 {
        if self.sum == 0.0 { NO_KEY } else { self.highest + self.sum.ln() }
    }

    /// What makes weights of exponentials; 0 for a row that sees no key.
    pub(super) fn factor(self) -> f32 {
        if self.sum == 0.0 { 0.0 } else { 1.0 / self.sum }
    }
}

/// Attends with `R` queries: row r of the output, `out[r * out_stride..][..head_dim]`, becomes the
/// weighted mean of the values it sees (zeros if it sees none). `scores` is scratch space for `R`
/// rows of the visible keys, rounded up to whole panels, and behind them for the queries, which as pairs
/// are there twice. `FAR`: keys and values come from memory, and are asked for in advance.
///
/// # Safety
/// - `out` is writable for `R` such rows, and nothing else refers to them.
#[inline(always)]
pub(in super::super) unsafe fn attend<S: Simd, E: Element, const R: usize, const FAR: bool>(
    s: S,
    head: &Head<E>,
    tile: &Tile<R>,
    scores: &mut [f32],
    out: *mut f32,
    out_stride: usize,
) -> [RowSums; R] {
    let head_dim = head.head_dim;
    let keys = tile.keys();
    let padded = keys.next_multiple_of(PANEL);
    let sums = weigh::<S, E, R, FAR>(s, head, tile, scores);
    let steps = keys.div_ceil(E::STEPS);
    assert!(scores.len() >= R * padded);
    assert!(steps == 0 || head.values.len() >= (steps - 1) * head.value_stride + head_dim);
    if let Some((dropout, first)) = &tile.dropout {
        for (row, &first) in scores.chunks_exact_mut(padded.max(1)).take(R).zip(first) {
            drop_weights(s, dropout, first, row);
        }
    }
    let factors = sums.map(RowSums::factor);
    let weights = Left { start: scores.as_ptr(), row_stride: padded, step_stride: 1 };
    let start = head.values.as_ptr();
    let values = Right::rows(start, head.value_stride).then(head.next);
    let to = Output { start: out, row_stride: out_stride, accumulate: false };
    // SAFETY: the assertions above cover weights and values, the caller the output; `weigh` has checked pairs.
    unsafe {
        product::<S, E, R, FAR>(s, weights, values, steps, head_dim, to, Some(factors));
    }
    sums
}

/// The first half of [`attend`]: row r of `scores` becomes `exp(scale * score - highest)` for the
/// keys it sees and 0 for the others, or pairs of these. Times [`RowSums::factor`] these are its weights.
#[inline(always)]
pub(super) fn weigh<S: Simd, E: Element, const R: usize, const FAR: bool>(
    s: S,
    head: &Head<E>,
    tile: &Tile<R>,
    scores: &mut [f32],
) -> [RowSums; R] {
    let steps = head.head_dim.div_ceil(E::STEPS);
    let padded = tile.keys().next_multiple_of(PANEL);
    assert!(head.keys.len() >= padded * steps);
    let (scores, rest) = scores.split_at_mut(R * padded);
    let (packed, narrow) = rest.split_at_mut(R * steps);
    let (queries, stride) = if E::STEPS == 1 {
        (tile.queries, tile.query_stride)
    } else {
        for (r, to) in narrow.chunks_exact_mut(steps).take(R).enumerate() {
            narrow_row(s, &tile.queries[r * tile.query_stride..][..head.head_dim], to);
        }
        (&*narrow, steps)
    };
    assert!(queries.len() >= (R - 1) * stride + steps);
    let queries = if R == 1 {
        Left { start: queries.as_ptr(), row_stride: 0, step_stride: 1 }
    } else {
        // Side by side, one element of each: no addresses to compute in the product's loop.
        // SAFETY: the assertion above covers the queries, and `packed` has room for them.
        unsafe {
            let to = packed.as_mut_ptr();
            pack_rows(s, queries.as_ptr(), stride, R, steps, to);
            Left { start: to, row_stride: 1, step_stride: R }
        }
    };
    let start = head.keys.as_ptr();
    let rows = tile.keys().div_ceil(E::STEPS);
    let values = &head.values[..head.values.len().min(rows * head.value_stride)];
    let panels = Right::panels(start, steps).then(values);
    let to = Output { start: scores.as_mut_ptr(), row_stride: padded, accumulate: false };
    // SAFETY: the assertions above cover the queries, whole panels, and the scores; `narrow_row` has checked
    // pairs.
    unsafe {
        product::<S, E, R, FAR>(s, queries, panels, steps, padded, to, None);
    }
    let mut sums = [RowSums::NONE; R];
    for (r, row) in scores.chunks_exact_mut(padded.max(1)).take(R).enumerate() {
        if tile.visible[r] == 0 {
            row.fill(0.0);
            continue;
        }
        // The scale is positive: the highest score is that of the highest product, to the bit, and what
        // is negative infinity stays so.
        row[tile.visible[r]..].fill(f32::NEG_INFINITY);
        if let Some(hidden) = head.hidden {
            for (part, hidden) in row.chunks_exact_mut(S::LANES).zip(hidden.chunks(S::LANES)) {
                lanes::store(s, part, s.add(lanes::load(s, part), lanes::load(s, hidden)));
            }
        }
        sums[r] = if E::STEPS == 1 {
            exponentials(s, row, head.scale)
        } else {
            paired::exponentials(s, row, head.scale)
        };
    }
    sums
}

/// Replaces a row of q k^T by exp(scale * score - highest), 0 where it is negative infinity. The row's
/// length is a multiple of [`PANEL`].
#[inline(always)]
fn exponentials<S: Simd>(s: S, row: &mut [f32], scale: f32) -> RowSums {
    let highest = lanes::max(s, row) * scale;
    let (factor, shift) = (s.splat(scale), s.splat(-highest));
    let sum = row_sum!(s, row.len(), |c| {
        let weight = s.exp(s.fma(lanes::load(s, &row[c.clone()]), factor, shift));
        lanes::store(s, &mut row[c], weight);
        weight
    });
    RowSums { highest, sum }
}

/// Multiplies a row of weights by the dropout factors of the elements from `first` on.
#[inline(always)]
fn drop_weights<S: Simd>(s: S, dropout: &Dropout, first: u64, row: &mut [f32]) {
    let mut factors = [0.0; DRAWN];
    for (block, weights) in row.chunks_mut(DRAWN).enumerate() {
        dropout.draw(first + (block * DRAWN) as u64, &mut factors);
        for (weights, factor) in weights.chunks_mut(S::LANES).zip(factors.chunks(S::LANES)) {
            lanes::store(s, weights, s.mul(lanes::load(s, weights), lanes::load(s, factor)));
        }
    }
}

/// One part of the forward pass and where its results go.
pub(super) struct ForwardPart<'a> {
    pub ragged: &'a Ragged<'a>,
    pub inputs: &'a Inputs<'a>,
    pub part: &'a Part,
    pub out: &'a Disjoint<'a, f32>,
    pub lse: Option<&'a Disjoint<'a, f32>>,
    /// Whether numbers are multiplied as [`Pair`]s.
    pub paired: bool,
}

/// Runs a part; no two parts have the same rows of the same head.
pub(super) fn run(isa: Isa, part: ForwardPart) {
    let sequence = &part.part.sequence;
    let padded = sequence.keys.next_multiple_of(PANEL);
    let hidden = part.ragged.hidden(sequence);
    let head_dim = part.ragged.head_dim;
    let steps = if part.paired { Pair::STEPS } else { 1 };
    // Whole pairs of each of both.
    let matrix = padded * head_dim.next_multiple_of(steps) / steps;
    // Values are copied where enough queries read them: rows far apart are slow to find.
    let copies = part.paired || part.part.queries.len() > LEAST_QUERIES_TO_COPY;
    let copied = if copies { matrix } else { 0 };
    let queries = steps * head_dim.div_ceil(steps);
    let mut scratch = scratch(Slot::Work, matrix + copied + (padded + queries) * MOST_ROWS);
    let (panels, rest) = scratch.split_at_mut(matrix);
    let (values, scores) = rest.split_at_mut(copied);
    with_isa(isa, Run { part, hidden: hidden.as_deref(), panels, values, scores });
}

/// Up to so many queries of a part read values where they are.
const LEAST_QUERIES_TO_COPY: usize = 2 * MOST_ROWS;

/// A [`ForwardPart`] with its scratch space.
struct Run<'a> {
    part: ForwardPart<'a>,
    hidden: Option<&'a [f32]>,
    panels: &'a mut [f32],
    /// Room for the values side by side, if they are to be copied.
    values: &'a mut [f32],
    scores: &'a mut [f32],
}

impl Kernel for Run<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(mut self, s: S) {
        let ForwardPart { ragged, inputs, part, .. } = self.part;
        let queries = part.queries.clone();
        let keys = part.sequence.visible(queries.end - 1);
        let (head_dim, stride) = (ragged.head_dim, ragged.kv_stride);
        let (k, v) = (self.rows_of(inputs.k), self.rows_of(inputs.v));
        if self.part.paired {
            paired::pack(s, (k, v), (keys, stride), head_dim, self.panels, self.values);
        } else {
            pack_keys(s, k, stride, keys, head_dim, 0, self.panels);
            for (to, row) in self.values.chunks_exact_mut(head_dim).zip(v.chunks(stride).take(keys))
            {
                to.copy_from_slice(&row[..head_dim]);
            }
        }
        let mut i = queries.start;
        while i < queries.end {
            match most_rows(s, queries.end - i) {
                MOST_ROWS => self.attend::<S, MOST_ROWS>(s, i),
                6 => self.attend::<S, 6>(s, i),
                4 => self.attend::<S, 4>(s, i),
                2 => self.attend::<S, 2>(s, i),
                _ => self.attend::<S, 1>(s, i),
            }
            i += most_rows(s, queries.end - i);
        }
    }
}

impl Run<'_> {
    /// The rows of keys or values of the part's head, up to the last row's end or further.
    #[inline(always)]
    fn rows_of<'a>(&self, all: &'a [f32]) -> &'a [f32] {
        let ForwardPart { ragged, part, .. } = self.part;
        let first = part.sequence.first_key * ragged.kv_stride + part.head * ragged.head_dim;
        &all[first.min(all.len())..]
    }

    /// Attends with the `R` queries from the sequence's `i`-th on.
    #[inline(always)]
    fn attend<S: Simd, const R: usize>(&mut self, s: S, i: usize) {
        let ForwardPart { ragged, inputs, part, out, lse, paired } = self.part;
        let (sequence, head_dim, width) = (&part.sequence, ragged.head_dim, ragged.width());
        let (query, column) = (sequence.first_query + i, part.head * head_dim);
        let mut tile = Tile {
            queries: &inputs.q[query * ragged.q_stride + column..],
            query_stride: ragged.q_stride,
            visible: [0; R],
            dropout: ragged.dropout.map(|dropout| (dropout, [0; R])),
        };
        for r in 0..R {
            tile.visible[r] = sequence.visible(i + r);
            if let Some((_, first)) = &mut tile.dropout {
                first[r] = dropout_index(query + r, ragged.heads, part.head, 0);
            }
        }
        let (values, value_stride) = if self.values.is_empty() {
            (self.rows_of(inputs.v), ragged.kv_stride)
        } else {
            (&*self.values, head_dim)
        };
        let (keys, scale, hidden) = (&*self.panels, ragged.scale, self.hidden);
        let head = Head { keys, values, value_stride, head_dim, scale, hidden, next: &[] };
        // SAFETY: these are the part's own rows and columns of the output: no other part has them.
        let sums = unsafe {
            let to = out.pointer(query * width + column, (R - 1) * width + head_dim);
            if paired {
                let (keys, values) = (Pair::of(keys), Pair::of(values));
                let head = Head { keys, values, value_stride, head_dim, scale, hidden, next: &[] };
                attend::<S, Pair, R, false>(s, &head, &tile, self.scores, to, width)
            } else {
                attend::<S, f32, R, false>(s, &head, &tile, self.scores, to, width)
            }
        };
        for (r, sums) in sums.iter().enumerate() {
            if let Some(lse) = lse {
                // SAFETY: as above.
                unsafe { lse.slice((query + r) * ragged.heads + part.head, 1)[0] = sums.lse() };
            }
            if tile.visible[r] == 0 && ragged.no_key == NoKey::MeanOfValues {
                // SAFETY: as above.
                let out = unsafe { out.slice((query + r) * width + column, head_dim) };
                mean_of_values(s, self.rows_of(inputs.v), ragged.kv_stride, sequence.keys, out);
            }
        }
    }
}

/// The mean of the first `keys` rows of `values`, `stride` apart.
#[inline(always)]
fn mean_of_values<S: Simd>(s: S, values: &[f32], stride: usize, keys: usize, out: &mut [f32]) {
    let ones = Left { start: &1.0, row_stride: 0, step_stride: 0 };
    let rows = Right::rows(values.as_ptr(), stride);
    let to = Output { start: out.as_mut_ptr(), row_stride: 0, accumulate: false };
    let share = if keys == 0 { 0.0 } else { 1.0 / keys as f32 };
    assert!(keys == 0 || values.len() >= (keys - 1) * stride + out.len());
    // SAFETY: the values are there by the line above; strides of 0 read one element again.
    unsafe { product::<S, f32, 1, false>(s, ones, rows, keys, out.len(), to, Some([share])) };
}
