//! Keys and values of an attention block on a card.

use std::sync::Arc;

use candle_core::Result;

use super::super::half_float::HalfFormat;
use super::super::kv_cache::CachedRow;
use super::launch::{Argument, Kind, ROW_THREADS, SHARED_FLOATS, WARP};
use super::{Card, CardNumbers, CardRows};

/// The places of a step's rows as its kernels read them: pairs of slot and length.
pub fn pairs(rows: &[CachedRow]) -> Vec<u32> {
    rows.iter().flat_map(|row| [row.slot as u32, row.length as u32]).collect()
}

/// Keys and values `[slots, capacity, heads * width]`.
#[derive(Debug)]
pub struct CardCache {
    card: Arc<Card>,
    kind: Kind,
    heads: usize,
    head_width: usize,
    slots: usize,
    capacity: usize,
    /// Keys and values, and a second place for both, into which slots are moved.
    entries: [CardRows; 2],
    other: Option<[CardRows; 2]>,
}

impl CardCache {
    /// Room for `slots` histories of `capacity` entries, kept in `format` (`None`: float32).
    ///
    /// # Errors
    /// What the driver reports, memory that runs out among it.
    pub fn new(
        card: &Arc<Card>,
        (heads, head_width): (usize, usize),
        format: Option<HalfFormat>,
        (slots, capacity): (usize, usize),
    ) -> Result<Self> {
        let kind = match format {
            None => Kind::Float32,
            Some(HalfFormat::Float16) => Kind::Float16,
            Some(HalfFormat::Bfloat16) => Kind::Bfloat16,
        };
        let entries = Self::entries(card, kind, slots * capacity * heads * head_width)?;
        let (card, other) = (card.clone(), None);
        Ok(CardCache { card, kind, heads, head_width, slots, capacity, entries, other })
    }

    fn entries(card: &Arc<Card>, kind: Kind, numbers: usize) -> Result<[CardRows; 2]> {
        let floats = if kind == Kind::Float32 { numbers } else { numbers.div_ceil(2) };
        Ok([card.rows(floats, 1)?, card.rows(floats, 1)?])
    }

    /// Whether the kernels take heads of this width and histories of this length.
    pub fn takes(head_width: usize, capacity: usize) -> bool {
        let fits = Self::shared(head_width, capacity) <= SHARED_FLOATS;
        head_width.is_multiple_of(8) && head_width <= ROW_THREADS && fits
    }

    /// Floats of shared memory that attention takes.
    fn shared(head_width: usize, capacity: usize) -> usize {
        head_width + capacity + WARP + ROW_THREADS
    }

    /// The card that has it.
    pub fn card(&self) -> &Arc<Card> {
        &self.card
    }

    /// Stores the rows' keys and values as the last entry of what each row sees.
    ///
    /// # Errors
    /// What the driver reports.
    pub fn append(&mut self, k: &CardRows, v: &CardRows, places: &CardNumbers) -> Result<()> {
        let width = self.heads * self.head_width;
        assert!(k.width() == width && v.width() == width, "`k` and `v` are not [rows, width]");
        assert!(2 * k.rows() == places.count() && v.rows() == k.rows(), "another number of rows");
        let arguments = [
            Argument::Pointer(k.pointer()),
            Argument::Pointer(v.pointer()),
            Argument::Pointer(places.pointer(&self.card)),
            Argument::Int(self.capacity as i32),
            Argument::Int(width as i32),
            Argument::Pointer(self.entries[0].pointer()),
            Argument::Pointer(self.entries[1].pointer()),
        ];
        let name = format!("store_{}", self.kind.name());
        self.card.launch(&name, (k.rows(), 1, 1), ROW_THREADS, 0, &arguments)
    }

    /// Attention of each row of `q` to what it sees.
    ///
    /// # Errors
    /// What the driver reports.
    pub fn attend(
        &self,
        q: &CardRows,
        scale: f32,
        places: &CardNumbers,
        out: &mut CardRows,
    ) -> Result<()> {
        let width = self.heads * self.head_width;
        assert!(q.width() == width && out.width() == width, "`q` is not [rows, width]");
        assert!(2 * q.rows() == places.count() && out.rows() == q.rows(), "another number of rows");
        let arguments = [
            Argument::Pointer(q.pointer()),
            Argument::Pointer(self.entries[0].pointer()),
            Argument::Pointer(self.entries[1].pointer()),
            Argument::Pointer(places.pointer(&self.card)),
            Argument::Int(self.capacity as i32),
            Argument::Int(self.heads as i32),
            Argument::Int(self.head_width as i32),
            Argument::Float(scale),
            Argument::Pointer(out.pointer()),
        ];
        let shared = Self::shared(self.head_width, self.capacity);
        let name = format!("attend_{}", self.kind.name());
        self.card.launch(&name, (q.rows(), self.heads, 1), ROW_THREADS, shared, &arguments)
    }

    /// For each (destination, origin): the destination continues the origin's history, of which
    /// `lengths[origin]` entries count; all at once.
    ///
    /// # Errors
    /// What the driver reports.
    pub fn reorder(&mut self, moves: &[(usize, usize)], lengths: &[usize]) -> Result<()> {
        let width = self.heads * self.head_width;
        let inside = |slot: usize| slot < self.slots;
        assert!(moves.iter().all(|&(to, from)| inside(to) && inside(from)), "no such slot");
        // Slots that are not named stay where they are, so they move to the other place as well.
        let named: std::collections::BTreeMap<usize, usize> = moves.iter().copied().collect();
        let all = (0..self.slots).map(|slot| (slot, *named.get(&slot).unwrap_or(&slot)));
        let (to, from): (Vec<u32>, Vec<u32>) =
            all.map(|(to, from)| (to as u32, from as u32)).unzip();
        let lengths: Vec<u32> = lengths.iter().map(|&length| length as u32).collect();
        let longest = lengths.iter().copied().max().unwrap_or(0) as usize;
        let numbers = self.slots * self.capacity * width;
        let other = match self.other.take() {
            Some(other) => other,
            None => Self::entries(&self.card, self.kind, numbers)?,
        };
        let upload = |values: &[u32]| CardNumbers::new(&self.card, values);
        let (to, from, lengths) = (upload(&to)?, upload(&from)?, upload(&lengths)?);
        for (old, new) in self.entries.iter().zip(&other) {
            let arguments = [
                Argument::Pointer(old.pointer()),
                Argument::Pointer(new.pointer()),
                Argument::Pointer(to.pointer(&self.card)),
                Argument::Pointer(from.pointer(&self.card)),
                Argument::Pointer(lengths.pointer(&self.card)),
                Argument::Int(self.capacity as i32),
                Argument::Int(width as i32),
            ];
            let name = format!("reorder_{}", self.kind.name());
            let grid = (self.slots, longest.clamp(1, 1 << 15), 1);
            self.card.launch(&name, grid, ROW_THREADS, 0, &arguments)?;
        }
        self.other = Some(std::mem::replace(&mut self.entries, other));
        Ok(())
    }
}
