//! Attention of whole sequences, by `attention.cu` and `attention_half.cu`.

use std::sync::Arc;

use candle_core::Result;

use super::super::attention::{NoKey, Ragged};
use super::super::half_float::HalfFormat;
use super::launch::{Argument, WARP};
use super::weight::Kind;
use super::{Card, CardNumbers, CardRows};

/// Threads of a block.
const THREADS: usize = 4 * WARP;
/// Queries of a tile, at most.
const TILE: usize = 64;
/// What `QueryTile` of `attention.h` has.
const TILE_NUMBERS: usize = 5;
/// Widths of heads that there are kernels for; those between them are padded.
const WIDTHS: [usize; 3] = [32, 64, 128];

/// Which rows attend to which, as the kernels read it.
#[derive(Debug)]
pub struct CardSpans {
    card: Arc<Card>,
    /// Tiles of queries; then, if keys are hidden, a bit for each key row that is not.
    numbers: CardNumbers,
    tiles: usize,
    hides: bool,
    /// Query rows and key rows.
    rows: (usize, usize),
}

impl CardSpans {
    /// Brings `ragged`'s sequences, and what they see, to a card.
    ///
    /// # Errors
    /// What the driver reports.
    ///
    /// # Panics
    /// If the description is none.
    pub fn new(card: &Arc<Card>, ragged: &Ragged<'_>) -> Result<Self> {
        card.check_not_recording()?;
        let Ragged { q_offsets, k_offsets, key_visible, .. } = ragged;
        assert_eq!(q_offsets.len(), k_offsets.len(), "another number of sequences");
        for offsets in [q_offsets, k_offsets] {
            assert!(offsets.is_sorted() && offsets.first() == Some(&0), "borders of sequences");
        }
        let rows = (q_offsets[q_offsets.len() - 1], k_offsets[k_offsets.len() - 1]);
        assert!(key_visible.is_none_or(|visible| visible.len() == rows.1), "keys that are seen");
        let mut numbers = query_tiles(ragged);
        let tiles = numbers.len() / TILE_NUMBERS;
        let hides = key_visible.is_some_and(|visible| visible.contains(&false));
        if let Some(visible) = key_visible.filter(|_| hides) {
            numbers.extend(bits(visible));
        }
        let numbers = CardNumbers::new(card, &numbers, 0)?;
        Ok(CardSpans { card: card.clone(), numbers, tiles, hides, rows })
    }

    /// Whether the kernels take heads of this width.
    pub fn takes(head_width: usize) -> bool {
        head_width > 0 && head_width.is_multiple_of(8) && padded(head_width).is_some()
    }

    /// `out = softmax(q k^T * scale) v`, for each sequence and head of `ragged`, of which this was made. All that is
    /// multiplied is rounded to `format`, if there is one. Without dropout. All rows are float32, or all bfloat16.
    ///
    /// # Errors
    /// What the driver reports.
    pub fn attend(
        &self,
        ragged: &Ragged<'_>,
        format: Option<HalfFormat>,
        [q, k, v]: [&CardRows; 3],
        out: &mut CardRows,
    ) -> Result<()> {
        let (queries, keys) = self.rows;
        let fits = |x: &CardRows, rows| {
            let here = Arc::ptr_eq(x.card(), &self.card);
            here && x.rows() == rows && x.width() == ragged.heads * ragged.head_dim
        };
        assert!(fits(q, queries) && fits(k, keys) && fits(v, keys), "rows of another size");
        assert!(fits(out, queries), "`out` is not as `q`");
        assert!(ragged.scale > 0.0 && ragged.dropout.is_none(), "a scale, and no dropout");
        assert!(Self::takes(ragged.head_dim), "heads of a width that no kernel takes");
        let padded = padded(ragged.head_dim).expect("there is a kernel");
        let alike = [k, v, &*out].iter().all(|rows| rows.kind() == q.kind());
        let rounds = q.is_float32() || format == Some(HalfFormat::Bfloat16);
        assert!(alike && rounds, "rows of another kind");
        let visible = self.numbers.part(TILE_NUMBERS * self.tiles, 0).start;
        let arguments = [
            Argument::Pointer(q.start()),
            Argument::Pointer(k.start()),
            Argument::Pointer(v.start()),
            Argument::Pointer(out.start()),
            Argument::Pointer(self.numbers.all().start),
            Argument::Pointer(if self.hides { visible } else { 0 }),
            Argument::Int(ragged.heads as i32),
            Argument::Int(ragged.head_dim as i32),
            Argument::Float(ragged.scale),
            Argument::Int(i32::from(ragged.no_key == NoKey::MeanOfValues)),
        ];
        let (queries, shared) = block(padded, format);
        let kind = format.map_or(Kind::Float32, Kind::from);
        let (kind, rows) = (kind.name(), q.kind().name());
        let name = format!("attention_{kind}_{rows}_{padded}");
        let grid = (self.tiles, ragged.heads, TILE / queries);
        self.card.launch(&name, grid, THREADS, shared, &arguments)
    }
}

/// The tiles, of [`TILE_NUMBERS`] each: a tile's first query row and how many it has, the first key row and how many,
/// and the last key that the first query may see.
fn query_tiles(ragged: &Ragged<'_>) -> Vec<u32> {
    let mut numbers = Vec::new();
    for (q, k) in ragged.q_offsets.windows(2).zip(ragged.k_offsets.windows(2)) {
        let (queries, keys) = (q[1] - q[0], k[1] - k[0]);
        for first in (0..queries).step_by(TILE) {
            let last_key = match ragged.causal {
                true => (first + keys) as i32 - queries as i32,
                false => keys as i32,
            };
            let here = TILE.min(queries - first);
            numbers.extend([q[0] + first, here, k[0], keys].map(|number| number as u32));
            numbers.push(last_key.cast_unsigned());
        }
    }
    numbers
}

/// A bit for each, the first in the lowest of a word, and words beyond, since kernels read 64 of any row on.
fn bits(visible: &[bool]) -> impl Iterator<Item = u32> {
    let word = |some: &[bool]| some.iter().rev().fold(0, |word, &bit| word << 1 | u32::from(bit));
    visible.chunks(32).map(word).chain([0; 3])
}

/// The narrowest kernel for heads of a width.
fn padded(head_width: usize) -> Option<usize> {
    WIDTHS.into_iter().find(|&width| head_width <= width)
}

/// What a block has: how many queries, and floats of shared memory.
fn block(padded: usize, format: Option<HalfFormat>) -> (usize, usize) {
    /// Keys that a block has at a time.
    const FLOAT_KEYS: usize = 32;
    const HALF_KEYS: usize = 64;
    match format {
        // Keys and their values, two numbers in a float's place; rows lie 16 bytes apart.
        Some(_) => (TILE, HALF_KEYS * (padded + 8)),
        None => {
            let queries = if padded > 64 { TILE / 2 } else { TILE };
            // Queries, keys or their values, and weights.
            (queries, (queries + FLOAT_KEYS) * (padded + 4) + queries * (FLOAT_KEYS + 4))
        }
    }
}
