//! What decoding remembers: keys and values of every token fed so far, by slot and layer, and of
//! every source. Owns layout, growth and reordering.

use super::batch::Batch;
use crate::config::BartConfig;
use crate::error::Result;
use crate::ops::attention::Heads;
use crate::ops::for_each;
use crate::ops::hidden::Hidden;
use crate::ops::kv_store::{CachedRow, KvStore};
use crate::ops::likely::Likely;
use crate::ops::place::Place;
use crate::ops::step_inputs::{Origins, StepInputs, StepRows};
use crate::ops::weight::HalfFormat;

/// Caches of one generation. A slot holds the history of one live sequence; several slots (beams)
/// may share a source.
#[derive(Debug)]
pub struct DecoderCache {
    layers: Vec<LayerCache>,
    lengths: Vec<usize>,
    /// Those before a reordering, while it goes on.
    lengths_before: Vec<usize>,
    slot_sources: Vec<usize>,
    source_lengths: Vec<usize>,
    /// Entries that a slot on a card has room for.
    capacity: usize,
    /// Where the entries of targets are, on a card.
    origins: Option<Origins>,
}

/// The caches of one layer.
#[derive(Debug)]
pub struct LayerCache {
    target: KvStore,
    source: KvStore,
}

/// Where the rows of one step stand: their slots and sources, and how much each row sees of them.
#[derive(Debug, Default)]
pub struct CachedRows {
    target: Vec<CachedRow>,
    source: Vec<CachedRow>,
    /// Of every slot, with these rows.
    lengths: Vec<usize>,
    inputs: StepInputs,
}

impl CachedRows {
    /// Has what a card needs of these rows and their tokens at its place; whether it lies elsewhere since. With
    /// `fill_up` a step has more rows than these (see [`StepInputs::set`]).
    ///
    /// # Errors
    /// What the device reports.
    pub fn bring_to(
        &mut self,
        place: &Place,
        rows: &Batch,
        cache: &DecoderCache,
        fill_up: bool,
    ) -> Result<bool> {
        let CachedRows { target, source, inputs, .. } = self;
        match step_rows(rows, target, source, cache) {
            Some(rows) => Ok(inputs.set(place, rows, fill_up)?),
            None => Ok(false),
        }
    }

    /// Has a card know of these rows, all but their tokens, while it is at the step before them: see
    /// [`StepInputs::set_likely`]. Whether it knows.
    ///
    /// # Errors
    /// What the device reports.
    pub fn bring_likely(
        &mut self,
        rows: &Batch,
        cache: &DecoderCache,
        from: &[u32],
        likely: &Likely,
    ) -> Result<bool> {
        let CachedRows { target, source, inputs, .. } = self;
        let has_room = target.iter().all(|row| row.length <= cache.capacity);
        match step_rows(rows, target, source, cache).filter(|_| has_room) {
            Some(rows) => Ok(inputs.set_likely(rows, from, likely)?),
            None => Ok(false),
        }
    }

    /// What was brought.
    pub fn inputs(&self) -> &StepInputs {
        &self.inputs
    }
}

/// What a card knows of rows, where it keeps their histories.
fn step_rows<'a>(
    rows: &'a Batch,
    target: &'a [CachedRow],
    source: &'a [CachedRow],
    cache: &'a DecoderCache,
) -> Option<StepRows<'a>> {
    let origins = cache.origins.as_ref()?;
    let (tokens, positions) = (rows.tokens(), rows.positions());
    Some(StepRows { tokens, positions, target, source, origins })
}

impl DecoderCache {
    /// Room for `slot_capacities.len()` slots; slot `i` holds up to `slot_capacities[i]` tokens and
    /// reads source `slot_sources[i]`, which has `source_lengths[slot_sources[i]]` rows.
    /// Keys and values are rounded to `format` (`None`: they are as they come).
    ///
    /// # Errors
    /// What a card reports, memory that runs out among it.
    pub fn new(
        place: &Place,
        config: &BartConfig,
        format: Option<HalfFormat>,
        slot_capacities: &[usize],
        slot_sources: Vec<usize>,
        source_lengths: Vec<usize>,
    ) -> Result<Self> {
        let count = config.decoder_attention_heads;
        let heads = Heads { count, width: config.d_model / count };
        let longest = |lengths: &[usize]| lengths.iter().copied().max().unwrap_or(0);
        let capacity = longest(slot_capacities);
        let most = capacity.max(longest(&source_lengths));
        let layer = |_| -> Result<_> {
            Ok(LayerCache {
                target: KvStore::new(place, heads, format, slot_capacities, most)?,
                source: KvStore::new(place, heads, format, &source_lengths, most)?,
            })
        };
        let layers = (0..config.decoder_layers).map(layer).collect::<Result<Vec<_>>>()?;
        let stay = layers.iter().any(|layer: &LayerCache| layer.target.entries_stay());
        Ok(DecoderCache {
            layers,
            capacity,
            lengths: vec![0; slot_capacities.len()],
            lengths_before: Vec::new(),
            origins: stay.then(|| Origins::new(slot_capacities.len(), capacity)),
            slot_sources,
            source_lengths,
        })
    }

    /// Whether a card keeps it.
    pub fn is_on_card(&self) -> bool {
        self.origins.is_some()
    }

    /// Leaves in `places` those of new rows, given the slot of each (in order; a slot may take several).
    pub fn place(&self, slots: impl IntoIterator<Item = usize>, places: &mut CachedRows) {
        let CachedRows { target, source, lengths, .. } = places;
        target.clear();
        source.clear();
        lengths.clone_from(&self.lengths);
        for slot in slots {
            lengths[slot] += 1;
            target.push(CachedRow { slot, length: lengths[slot] });
            let slot = self.slot_sources[slot];
            source.push(CachedRow { slot, length: self.source_lengths[slot] });
        }
    }

    /// Counts rows that every layer has now stored.
    pub fn advance(&mut self, rows: &CachedRows) {
        for row in &rows.target {
            self.lengths[row.slot] = row.length;
        }
        if let Some(origins) = &mut self.origins {
            origins.store(&rows.target);
        }
    }

    pub(super) fn layers_mut(&mut self) -> impl Iterator<Item = &mut LayerCache> {
        self.layers.iter_mut()
    }

    /// Forgets what a slot holds beyond its first `length` tokens: the next ones take their places.
    pub fn rewind(&mut self, slot: usize, length: usize) {
        self.lengths[slot] = self.lengths[slot].min(length);
    }

    /// For each (destination, origin): the destination continues the origin's history, all at once.
    pub fn reorder(&mut self, moves: &[(usize, usize)]) {
        let DecoderCache { layers, lengths, lengths_before: before, origins, .. } = self;
        before.clone_from(lengths);
        if moves.iter().any(|(destination, origin)| destination != origin) {
            match origins {
                Some(origins) => origins.reorder(moves),
                None => for_each(layers, |layer| layer.target.reorder(moves, before)),
            }
        }
        for &(destination, origin) in moves {
            lengths[destination] = before[origin];
        }
    }
}

impl LayerCache {
    /// Stores the sources' keys and values `[rows, width]`, cut at `offsets`.
    pub(super) fn store_sources(
        &mut self,
        k: &Hidden,
        v: &Hidden,
        offsets: &[usize],
    ) -> Result<()> {
        let rows: Vec<CachedRow> = offsets
            .windows(2)
            .enumerate()
            .flat_map(|(slot, ends)| {
                (1..=ends[1] - ends[0]).map(move |length| CachedRow { slot, length })
            })
            .collect();
        Ok(self.source.append(k, v, &rows)?)
    }

    /// Stores the rows' keys and values, then attends to what each row sees of its own sequence.
    pub(super) fn attend_to_target(
        &mut self,
        q: &Hidden,
        k: &Hidden,
        v: &Hidden,
        rows: &CachedRows,
    ) -> Result<Hidden> {
        Ok(self.target.step(q, k, v, &rows.target, &rows.inputs)?)
    }

    /// Attends to each row's source.
    pub(super) fn attend_to_source(&self, q: &Hidden, rows: &CachedRows) -> Result<Hidden> {
        Ok(self.source.attend(q, &rows.source, &rows.inputs)?)
    }
}
