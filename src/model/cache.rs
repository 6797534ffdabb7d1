//! What decoding remembers: keys and values of every token fed so far, by slot and layer, and of
//! every source. Owns layout, growth and reordering.

use super::batch::Batch;
use crate::config::BartConfig;
use crate::error::Result;
use crate::ops::attention::Heads;
use crate::ops::for_each;
use crate::ops::hidden::Hidden;
use crate::ops::kv_store::{CachedRow, KvStore};
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
    room: Room,
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

    /// What was brought.
    pub fn inputs(&self) -> &StepInputs {
        &self.inputs
    }

    /// The same, for a card to change it.
    pub fn inputs_mut(&mut self) -> &mut StepInputs {
        &mut self.inputs
    }

    /// Says that a card has continued histories as the cache has since.
    pub fn have_continued(&mut self, cache: &DecoderCache) {
        if let Some(origins) = &cache.origins {
            self.inputs.know(origins);
        }
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

/// What a cache has room for: tokens of each slot, and rows of each source.
#[derive(Debug)]
pub struct Room {
    slots: Vec<usize>,
    sources: Vec<usize>,
}

impl Room {
    /// Room at a place for slots of these capacities and sources of these lengths. On a card, where all have the
    /// same, it is rather `more`, so that other generations fit in as well.
    pub fn of(
        slot_capacities: &[usize],
        source_lengths: &[usize],
        place: &Place,
        more: bool,
    ) -> Self {
        /// Where there are more, little is gained by a few more.
        const FEW: usize = 64;
        let room = |lengths: &[usize]| match lengths.len() {
            _ if place.has_kernels() || !more => lengths.to_vec(),
            count if count < FEW => {
                vec![longest(lengths).next_multiple_of(FEW); count.next_power_of_two()]
            }
            count => vec![longest(lengths).next_multiple_of(FEW); count],
        };
        Room { slots: room(slot_capacities), sources: room(source_lengths) }
    }

    /// Bytes that keys and values of so much take on a card.
    pub fn bytes(&self, config: &BartConfig, format: Option<HalfFormat>) -> usize {
        let entries = |lengths: &[usize]| lengths.len() * longest(lengths);
        let each = 2 * config.d_model * if format.is_some() { 2 } else { 4 };
        config.decoder_layers * each * (entries(&self.slots) + entries(&self.sources))
    }

    fn holds(&self, other: &Self) -> bool {
        let holds = |a: &[usize], b: &[usize]| a.len() >= b.len() && longest(a) >= longest(b);
        holds(&self.slots, &other.slots) && holds(&self.sources, &other.sources)
    }
}

fn longest(lengths: &[usize]) -> usize {
    lengths.iter().copied().max().unwrap_or(0)
}

impl DecoderCache {
    /// A cache of which nothing is used: [`Self::begin`] comes next. Keys and values are rounded to `format`
    /// (`None`: they are as they come).
    ///
    /// # Errors
    /// What a card reports, memory that runs out among it.
    pub fn new(
        place: &Place,
        config: &BartConfig,
        format: Option<HalfFormat>,
        room: Room,
    ) -> Result<Self> {
        let count = config.decoder_attention_heads;
        let heads = Heads { count, width: config.d_model / count };
        let most = longest(&room.slots).max(longest(&room.sources));
        let store = |capacities: &[usize]| KvStore::new(place, heads, format, capacities, most);
        let layer = |_| -> Result<_> {
            Ok(LayerCache { target: store(&room.slots)?, source: store(&room.sources)? })
        };
        let layers = (0..config.decoder_layers).map(layer).collect::<Result<Vec<_>>>()?;
        let stay = layers.iter().any(|layer: &LayerCache| layer.target.entries_stay());
        Ok(DecoderCache {
            layers,
            room,
            lengths: Vec::new(),
            lengths_before: Vec::new(),
            origins: stay.then(Origins::default),
            slot_sources: Vec::new(),
            source_lengths: Vec::new(),
        })
    }

    /// Begins a generation: slot `i` reads source `slot_sources[i]`, which has `source_lengths[slot_sources[i]]`
    /// rows. There must be room for them.
    pub fn begin(&mut self, slot_sources: Vec<usize>, source_lengths: Vec<usize>) {
        self.lengths.clear();
        self.lengths.resize(slot_sources.len(), 0);
        if let Some(origins) = &mut self.origins {
            *origins = Origins::new(self.room.slots.len(), longest(&self.room.slots));
        }
        self.slot_sources = slot_sources;
        self.source_lengths = source_lengths;
    }

    /// Whether there is room for so much on a card.
    pub fn has(&self, room: &Room) -> bool {
        self.is_on_card() && self.room.holds(room)
    }

    /// What there is room for.
    pub fn room(&self) -> &Room {
        &self.room
    }

    /// Whether there is room for these rows.
    pub fn takes(&self, rows: &CachedRows) -> bool {
        let most = longest(&self.room.slots);
        rows.target.iter().all(|row| row.length <= most)
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
