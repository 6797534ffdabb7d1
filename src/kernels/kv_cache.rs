//! Cached keys and values of one attention block, by slot, and attention of new rows to them.
//!
//! A slot is one history: the keys of a head as panels of 32 positions, `[panel][head_dim][32]`,
//! the values as `[position][head_dim]`, head after head. Both are what the tiles of
//! [`super::attention`] read, so a cached step has the bits of the whole pass over the same keys.
//! Both are floats, or rounded to 16 bits and widened in registers as they are read: then the whole
//! pass is that over keys and values rounded likewise. Nothing is allocated after construction but what the first reordering of beams needs; it copies
//! a history only where two slots go on from it.
//!
//! Limit: reading the cache once from wherever it lies; rows that follow each other with one slot
//! (beams on their source, several new tokens) share one read, six at a time.

use std::mem;

use super::attention::{Head, PANEL, Tile, attend, most_rows, pack_keys};
use super::disjoint::Disjoint;
use super::element::{Bfloat16, Element, Float16, narrow};
use super::half_float::HalfFormat;
use super::isa::{Kernel, Simd, with_isa};
use super::memory::{self, AlignedBuffer};
use super::parallel;

/// Multiply-adds from which on the work is shared with other threads.
const ENOUGH_WORK: usize = 50_000;

/// A row's place: it is (when stored) or sees (when attending) the first `length` positions of
/// `slot`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CachedRow {
    /// Which history.
    pub slot: usize,
    /// How many of its positions, the row's own included.
    pub length: usize,
}

/// Keys and values by slot.
#[derive(Debug)]
pub struct KvCache {
    heads: usize,
    head_dim: usize,
    /// What keys and values are rounded to; `None`: they are floats.
    format: Option<HalfFormat>,
    slots: Vec<Slot>,
    /// Slots that a reordering replaced, kept for the next one.
    spare: Vec<Slot>,
}

impl KvCache {
    /// Slots for `capacities[slot]` positions each, of `heads` heads of `head_dim` values, which are
    /// kept in `format` (`None`: as floats).
    pub fn new(
        heads: usize,
        head_dim: usize,
        format: Option<HalfFormat>,
        capacities: &[usize],
    ) -> Self {
        let mut cache = Self { heads, head_dim, format, slots: Vec::new(), spare: Vec::new() };
        cache.slots = capacities.iter().map(|&capacity| cache.slot(capacity)).collect();
        cache
    }

    /// An empty slot.
    fn slot(&self, capacity: usize) -> Slot {
        let padded = capacity.next_multiple_of(PANEL);
        let floats_of = |positions: usize| {
            let elements = self.heads * self.head_dim * positions;
            if self.format.is_some() { elements.div_ceil(2) } else { elements }
        };
        Slot {
            keys: AlignedBuffer::zeroed(floats_of(padded)),
            values: AlignedBuffer::zeroed(floats_of(capacity)),
            capacity,
        }
    }

    /// Number of slots.
    pub fn slots(&self) -> usize {
        self.slots.len()
    }

    /// Positions that `slot` can hold.
    pub fn capacity(&self, slot: usize) -> usize {
        self.slots[slot].capacity
    }

    /// Stores row i of `k` and `v` [rows, heads * head_dim] at position `rows[i].length - 1` of its
    /// slot. Panics if a position is beyond the slot's capacity.
    pub fn append(&mut self, k: &[f32], v: &[f32], rows: &[CachedRow]) {
        match self.format {
            None => self.append_as::<f32>(k, v, rows),
            Some(HalfFormat::Float16) => self.append_as::<Float16>(k, v, rows),
            Some(HalfFormat::Bfloat16) => self.append_as::<Bfloat16>(k, v, rows),
        }
    }

    fn append_as<E: Element>(&mut self, k: &[f32], v: &[f32], rows: &[CachedRow]) {
        let (heads, head_dim) = (self.heads, self.head_dim);
        let width = heads * head_dim;
        assert_eq!((k.len(), v.len()), (rows.len() * width, rows.len() * width), "append: k, v");
        let mut start = 0;
        for run in rows.chunk_by(|a, b| a.slot == b.slot && a.length + 1 == b.length) {
            let slot = &mut self.slots[run[0].slot];
            let first = run[0].length.checked_sub(1).expect("append: a stored row has a position");
            assert!(first + run.len() <= slot.capacity, "append: beyond the slot's capacity");
            let (key_len, value_len) = (slot.padded() * head_dim, slot.capacity * head_dim);
            let keys = Disjoint::new(elements_mut::<E>(&mut slot.keys));
            let values = Disjoint::new(elements_mut::<E>(&mut slot.values));
            let rows = start * width..(start + run.len()) * width;
            let (k, v) = (&k[rows.clone()], &v[rows]);
            parallel::items(heads, k.len() >= ENOUGH_WORK, |isa, head| {
                // SAFETY: each head has its own stretch of both.
                let (keys, values) = unsafe {
                    (keys.slice(head * key_len, key_len), values.slice(head * value_len, value_len))
                };
                let column = head * head_dim;
                with_isa(isa, Append { k, v, width, column, head_dim, first, keys, values });
            });
            start += run.len();
        }
    }

    /// Attends with row i of `q` [rows, heads * head_dim] to the first `rows[i].length` positions of
    /// its slot; `out` has q's shape. `scale` is the factor of the scores. Rows of length 0 give
    /// zeros.
    pub fn attend(&self, q: &[f32], scale: f32, rows: &[CachedRow], out: &mut [f32]) {
        let width = self.heads * self.head_dim;
        assert_eq!(
            (q.len(), out.len()),
            (rows.len() * width, rows.len() * width),
            "attend: q, out"
        );
        let (mut tiles, mut work) = (Vec::with_capacity(rows.len()), 0);
        let mut start = 0;
        for run in rows.chunk_by(|a, b| a.slot == b.slot) {
            let longest = run.iter().map(|row| row.length).max().unwrap_or(0);
            assert!(longest <= self.slots[run[0].slot].capacity, "attend: beyond the slot");
            work += 2 * run.len() * longest * width;
            let end = start + run.len();
            while start < end {
                let count = most_rows(end - start);
                tiles.push(start..start + count);
                start += count;
            }
        }
        let out = Disjoint::new(out);
        parallel::items(tiles.len() * self.heads, work >= ENOUGH_WORK, |isa, index| {
            let (tile, head) = (tiles[index / self.heads].clone(), index % self.heads);
            let longest = rows[tile.clone()].iter().map(|row| row.length).max().unwrap_or(0);
            let len = tile.len() * longest.next_multiple_of(PANEL);
            let scores = &mut memory::scratch(memory::Slot::Work, len);
            let (rows, first) = (&rows[tile.clone()], tile.start);
            let attend = Attend { cache: self, q, scale, rows, first, head, scores, out: &out };
            with_isa(isa, attend);
        });
    }

    /// For each (destination, origin): the destination becomes a copy of what the origin held
    /// before, in its first `lengths[origin]` positions; all at once, so origins may be
    /// destinations too. Panics if the origin's history is longer than the destination's capacity.
    pub fn reorder(&mut self, moves: &[(usize, usize)], lengths: &[usize]) {
        let moved: Vec<_> =
            moves.iter().copied().filter(|(destination, origin)| destination != origin).collect();
        let is_destination =
            |slot: usize| moved.iter().any(|&(destination, _)| destination == slot);
        let capacities: Vec<usize> = self.slots.iter().map(|slot| slot.capacity).collect();
        let mut histories = Vec::with_capacity(moved.len());
        for (place, &(destination, origin)) in moved.iter().enumerate() {
            let capacity = capacities[destination];
            assert!(lengths[origin] <= capacity, "reorder: beyond the slot's capacity");
            // The last destination of an origin that is replaced itself takes its memory; the
            // others, and those whose origin stays, need copies.
            let is_last = moved[place + 1..].iter().all(|&(_, other)| other != origin);
            let takes_over = is_last && is_destination(origin) && capacities[origin] == capacity;
            histories.push(if takes_over {
                mem::take(&mut self.slots[origin])
            } else {
                self.copy_of(origin, capacity, lengths[origin])
            });
        }
        for (&(destination, _), history) in moved.iter().zip(histories) {
            let replaced = mem::replace(&mut self.slots[destination], history);
            if replaced.capacity > 0 {
                self.spare.push(replaced);
            }
        }
    }

    /// A slot of `capacity` positions, the first `length` as in slot `origin`.
    fn copy_of(&mut self, origin: usize, capacity: usize, length: usize) -> Slot {
        let fits = |spare: &Slot| spare.capacity == capacity;
        let mut copy = match self.spare.iter().position(fits) {
            Some(index) => self.spare.swap_remove(index),
            None => self.slot(capacity),
        };
        let (origin, sizes) = (&self.slots[origin], (self.heads, self.head_dim));
        match self.format {
            None => copy.copy_from::<f32>(origin, sizes, length),
            Some(HalfFormat::Float16) => copy.copy_from::<Float16>(origin, sizes, length),
            Some(HalfFormat::Bfloat16) => copy.copy_from::<Bfloat16>(origin, sizes, length),
        }
        copy
    }
}

/// One history.
#[derive(Debug, Default)]
struct Slot {
    /// `[head][panel][head_dim][PANEL]` elements
    keys: AlignedBuffer,
    /// `[head][position][head_dim]` elements
    values: AlignedBuffer,
    capacity: usize,
}

impl Slot {
    fn padded(&self) -> usize {
        self.capacity.next_multiple_of(PANEL)
    }

    /// Keys and values of one head.
    #[inline(always)]
    fn head<E: Element>(&self, head: usize, head_dim: usize) -> (&[E], &[E]) {
        let (keys, values) = (self.padded() * head_dim, self.capacity * head_dim);
        (
            &elements(&self.keys)[head * keys..(head + 1) * keys],
            &elements(&self.values)[head * values..(head + 1) * values],
        )
    }

    /// Copies the first `length` positions of `origin`.
    fn copy_from<E: Element>(
        &mut self,
        origin: &Slot,
        (heads, head_dim): (usize, usize),
        length: usize,
    ) {
        let key_len = length.next_multiple_of(PANEL) * head_dim;
        let value_len = length * head_dim;
        for head in 0..heads {
            let (keys, values) = origin.head::<E>(head, head_dim);
            let to = head * self.padded() * head_dim;
            elements_mut(&mut self.keys)[to..to + key_len].copy_from_slice(&keys[..key_len]);
            let to = head * self.capacity * head_dim;
            let to = &mut elements_mut(&mut self.values)[to..to + value_len];
            to.copy_from_slice(&values[..value_len]);
        }
    }
}

/// A buffer as elements.
#[inline(always)]
fn elements<E: Element>(buffer: &AlignedBuffer) -> &[E] {
    // SAFETY: elements are numbers of 16 or 32 bits, of which any bits are one; the buffer is aligned
    // for floats, and the borrow goes on.
    unsafe {
        std::slice::from_raw_parts(buffer.as_ptr().cast(), size_of_val(&**buffer) / size_of::<E>())
    }
}

/// A buffer as elements to be written.
#[inline(always)]
fn elements_mut<E: Element>(buffer: &mut AlignedBuffer) -> &mut [E] {
    let len = size_of_val(&**buffer) / size_of::<E>();
    // SAFETY: as for `elements`.
    unsafe { std::slice::from_raw_parts_mut(buffer.as_mut_ptr().cast(), len) }
}

/// Stores consecutive rows of one head from position `first` on.
struct Append<'a, E> {
    k: &'a [f32],
    v: &'a [f32],
    width: usize,
    column: usize,
    head_dim: usize,
    first: usize,
    keys: &'a mut [E],
    values: &'a mut [E],
}

impl<E: Element> Kernel for Append<'_, E> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let Self { k, v, width, column, head_dim, first, keys, values } = self;
        let rows = k.len() / width;
        pack_keys(s, &k[column..], width, rows, head_dim, first, keys);
        let values = values[first * head_dim..].chunks_exact_mut(head_dim);
        for (to, from) in values.zip(v.chunks_exact(width)) {
            narrow(s, &from[column..column + head_dim], to);
        }
    }
}

/// Attends with the rows from `first` on, all of one slot and at most a tile's, for one head.
struct Attend<'a> {
    cache: &'a KvCache,
    q: &'a [f32],
    scale: f32,
    rows: &'a [CachedRow],
    first: usize,
    head: usize,
    scores: &'a mut [f32],
    out: &'a Disjoint<'a, f32>,
}

impl Kernel for Attend<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        match self.cache.format {
            None => self.rows::<S, f32>(s),
            Some(HalfFormat::Float16) => self.rows::<S, Float16>(s),
            Some(HalfFormat::Bfloat16) => self.rows::<S, Bfloat16>(s),
        }
    }
}

impl Attend<'_> {
    #[inline(always)]
    fn rows<S: Simd, E: Element>(self, s: S) {
        match self.rows.len() {
            6 => self.tile::<S, E, 6>(s),
            4 => self.tile::<S, E, 4>(s),
            2 => self.tile::<S, E, 2>(s),
            _ => self.tile::<S, E, 1>(s),
        }
    }

    #[inline(always)]
    fn tile<S: Simd, E: Element, const R: usize>(self, s: S) {
        let KvCache { heads, head_dim, slots, .. } = self.cache;
        let (head_dim, width) = (*head_dim, heads * head_dim);
        let start = self.first * width + self.head * head_dim;
        let mut tile =
            Tile { queries: &self.q[start..], query_stride: width, visible: [0; R], dropout: None };
        for (visible, row) in tile.visible.iter_mut().zip(self.rows) {
            *visible = row.length;
        }
        let (keys, values) = slots[self.rows[0].slot].head::<E>(self.head, head_dim);
        let value_stride = head_dim;
        let head = Head { keys, values, value_stride, head_dim, scale: self.scale, hidden: None };
        // SAFETY: these rows and columns of the output belong to this tile and head alone.
        unsafe {
            let to = self.out.pointer(start, (R - 1) * width + head_dim);
            attend::<S, E, R>(s, &head, &tile, self.scores, to, width);
        }
    }
}

#[cfg(test)]
#[path = "kv_cache_tests.rs"]
mod tests;
