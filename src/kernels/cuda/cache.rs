//! Keys and values of an attention block on a card.

use std::sync::Arc;

use candle_core::Result;

use super::super::half_float::HalfFormat;
use super::super::kv_cache::CachedRow;
use super::launch::{Argument, ROW_THREADS, SHARED_FLOATS, WARP};
use super::weight::Kind;
use super::{Card, CardRows, Numbers};

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
    /// Keys and values.
    entries: [CardRows; 2],
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
        let kind = format.map_or(Kind::Float32, Kind::from);
        let numbers = slots * capacity * heads * head_width;
        let floats = if kind == Kind::Float32 { numbers } else { numbers.div_ceil(2) };
        let entries = [card.rows(floats, 1)?, card.rows(floats, 1)?];
        Ok(CardCache { card: card.clone(), kind, heads, head_width, slots, capacity, entries })
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

    /// Stores the rows' keys and values as the last entry of what each row sees. `origins [capacity, slots]`
    /// learns that they are where they are.
    ///
    /// # Errors
    /// What the driver reports.
    pub fn append(
        &mut self,
        k: &CardRows,
        v: &CardRows,
        places: Numbers,
        origins: Option<Numbers>,
    ) -> Result<()> {
        let width = self.heads * self.head_width;
        assert!(k.width() == width && v.width() == width, "`k` and `v` are not [rows, width]");
        assert!(2 * k.rows() == places.count && v.rows() == k.rows(), "another number of rows");
        let arguments = [
            Argument::Pointer(k.pointer()),
            Argument::Pointer(v.pointer()),
            Argument::Pointer(places.start),
            Argument::Int(self.capacity as i32),
            Argument::Int(width as i32),
            Argument::Pointer(self.entries[0].pointer()),
            Argument::Pointer(self.entries[1].pointer()),
            self.origins(origins),
            Argument::Int(self.slots as i32),
        ];
        let name = format!("store_{}", self.kind.name());
        self.card.launch(&name, (k.rows(), 1, 1), ROW_THREADS, 0, &arguments)
    }

    /// Attention of each row of `q` to what it sees, which is where `origins [capacity, slots]` says.
    ///
    /// # Errors
    /// What the driver reports.
    pub fn attend(
        &self,
        q: &CardRows,
        scale: f32,
        places: Numbers,
        origins: Option<Numbers>,
        out: &mut CardRows,
    ) -> Result<()> {
        let width = self.heads * self.head_width;
        assert!(q.width() == width && out.width() == width, "`q` is not [rows, width]");
        assert!(2 * q.rows() == places.count && out.rows() == q.rows(), "another number of rows");
        let arguments = [
            Argument::Pointer(q.pointer()),
            Argument::Pointer(self.entries[0].pointer()),
            Argument::Pointer(self.entries[1].pointer()),
            Argument::Pointer(places.start),
            Argument::Int(self.capacity as i32),
            Argument::Int(self.heads as i32),
            Argument::Int(self.head_width as i32),
            Argument::Float(scale),
            self.origins(origins),
            Argument::Int(self.slots as i32),
            Argument::Pointer(out.pointer()),
        ];
        let shared = Self::shared(self.head_width, self.capacity);
        let name = format!("attend_{}", self.kind.name());
        self.card.launch(&name, (q.rows(), self.heads, 1), ROW_THREADS, shared, &arguments)
    }

    fn origins(&self, origins: Option<Numbers>) -> Argument {
        let size = self.slots * self.capacity;
        assert!(origins.is_none_or(|origins| origins.count == size), "not [capacity, slots]");
        Argument::Pointer(origins.map_or(0, |origins| origins.start))
    }
}
