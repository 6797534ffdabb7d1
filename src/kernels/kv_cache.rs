//! Cached keys and values of one attention block, by slot, and attention of new rows to them.
//!
//! A slot is one history: the keys of a head as panels of 32 positions, `[panel][head_dim][32]`,
//! the values as `[position][head_dim]`, head after head. Both are what the tiles of
//! [`super::attention`] read, so a cached step has the bits of the whole pass over the same keys.
//! Both are floats, or rounded to 16 bits and widened in registers as they are read: then the whole
//! pass is that over keys and values rounded likewise. Nothing is allocated after construction but what the
//! first reordering of beams needs; it copies a history only where two slots go on from it.
//!
//! Limit: reading the cache once from wherever it lies. Rows that follow each other with one slot
//! (beams on their source, several new tokens) share one read, six at a time; memory is asked for the
//! next head, or the next row's first, while one is computed; and a new key, whose values lie in as many cache
//! lines as a head is wide, is stored when these are about to be read ([`KvCache::step`]).

mod slot;

use std::marker::PhantomData;
use std::ops::Range;
use std::{mem, ptr};

use super::attention::{FEW_ROWS, Head, PANEL, Tile, attend, few_rows, pack_keys};
use super::disjoint::Disjoint;
use super::element::{Bfloat16, Element, Float16, narrow};
use super::half_float::HalfFormat;
use super::isa::{Kernel, Simd, with_isa};
use super::memory::{self, AlignedBuffer};
use super::parallel::{self, share};
use slot::{Slot, piece};

/// Multiply-adds from which on attention is shared with other threads.
const ENOUGH_WORK: usize = 50_000;
/// Values below which another part of storing costs more than it saves.
const VALUES_OF_A_PART: usize = 4_096;
/// Parts for each thread, so that one that comes late leaves its share to the others.
const PARTS_PER_THREAD: usize = 4;

/// A row's place: it is (when stored) or sees (when attending) the first `length` positions of
/// `slot`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CachedRow {
    /// Which history.
    pub slot: usize,
    /// How many of its positions, the row's own included.
    pub length: usize,
}

/// Inputs of a step, `[rows, heads * head_dim]` each.
#[derive(Clone, Copy, Debug)]
pub struct Step<'a> {
    /// Queries.
    pub q: &'a [f32],
    /// New keys.
    pub k: &'a [f32],
    /// New values.
    pub v: &'a [f32],
}

/// Keys and values by slot.
#[derive(Debug)]
pub struct KvCache {
    heads: usize,
    head_dim: usize,
    /// What keys and values are rounded to; `None`: they are floats.
    format: Option<HalfFormat>,
    slots: Vec<Slot>,
    capacities: Vec<usize>,
    /// Slots that a reordering replaced, kept for the next one.
    spare: Vec<Slot>,
    /// Room for a reordering: what moves, and the histories on their way.
    moved: Vec<(usize, usize)>,
    histories: Vec<Slot>,
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
        let mut cache = Self {
            heads,
            head_dim,
            format,
            slots: Vec::new(),
            capacities: capacities.to_vec(),
            spare: Vec::new(),
            moved: Vec::new(),
            histories: Vec::new(),
        };
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

    /// [`Self::append`] and then [`Self::attend`]: most often at once, so that what is stored and what is
    /// read beside it pass through the caches together.
    pub fn step(&mut self, inputs: Step<'_>, scale: f32, rows: &[CachedRow], out: &mut [f32]) {
        let Step { q, k, v } = inputs;
        // Parts are cut where slots change: each of these slots is then one part's alone.
        let few = rows.chunk_by(|a, b| a.slot == b.slot).all(|run| run.len() <= FEW_ROWS);
        if few && rows.is_sorted_by_key(|row| row.slot) {
            self.check_new(k, v, rows);
            self.attend_after(Some((k, v)), q, scale, rows, out);
        } else {
            self.append(k, v, rows);
            self.attend(q, scale, rows, out);
        }
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

    /// Panics unless the rows can be stored.
    fn check_new(&self, k: &[f32], v: &[f32], rows: &[CachedRow]) {
        let width = self.heads * self.head_dim;
        assert_eq!((k.len(), v.len()), (rows.len() * width, rows.len() * width), "append: k, v");
        for row in rows {
            assert!(row.length > 0, "append: a stored row has a position");
            assert!(
                row.length <= self.slots[row.slot].capacity,
                "append: beyond the slot's capacity"
            );
        }
    }

    fn append_as<E: Element>(&mut self, k: &[f32], v: &[f32], rows: &[CachedRow]) {
        self.check_new(k, v, rows);
        let most = PARTS_PER_THREAD * super::team::num_threads();
        let parts = (k.len() / VALUES_OF_A_PART).min(most).clamp(1, self.heads.max(1));
        let cache = &*self;
        parallel::items(parts, parts > 1, |isa, part| {
            let heads = share(cache.heads, parts, part);
            let new = New { k, v, rows };
            with_isa(isa, Append::<E> { cache, new, heads, element: PhantomData });
        });
    }

    /// Attends with row i of `q` [rows, heads * head_dim] to the first `rows[i].length` positions of
    /// its slot; `out` has q's shape. `scale`, above 0, is the factor of the scores. Rows of length 0
    /// give zeros.
    pub fn attend(&self, q: &[f32], scale: f32, rows: &[CachedRow], out: &mut [f32]) {
        self.attend_after(None, q, scale, rows, out);
    }

    /// [`Self::attend`], before which `new` keys and values are stored: then nobody else uses this cache,
    /// and rows of one slot are neighbours, [`FEW_ROWS`] at most.
    fn attend_after(
        &self,
        new: Option<(&[f32], &[f32])>,
        q: &[f32],
        scale: f32,
        rows: &[CachedRow],
        out: &mut [f32],
    ) {
        let new = new.map(|(k, v)| New { k, v, rows });
        let width = self.heads * self.head_dim;
        assert!(scale > 0.0, "attend: the scale is not positive");
        assert_eq!(
            (q.len(), out.len()),
            (rows.len() * width, rows.len() * width),
            "attend: q, out"
        );
        let mut work = 0;
        for row in rows {
            assert!(row.length <= self.slots[row.slot].capacity, "attend: beyond the slot");
            work += 2 * row.length * width;
        }
        let most = PARTS_PER_THREAD * super::team::num_threads();
        let parallel = work >= ENOUGH_WORK;
        let row_parts = if parallel { most.min(rows.len()) } else { 1 };
        // Few rows: each head is a part, as equal as parts can be.
        let head_parts = if parallel && row_parts < most { self.heads } else { 1 };
        let out = Disjoint::new(out);
        parallel::items(row_parts * head_parts, parallel, |isa, index| {
            let heads = share(self.heads, head_parts, index % head_parts);
            let wanted = share(rows.len(), row_parts, index / head_parts);
            let part = tile_start(rows, wanted.start)..tile_start(rows, wanted.end);
            let longest = rows[part.clone()].iter().map(|row| row.length).max().unwrap_or(0);
            let len = FEW_ROWS * (longest.next_multiple_of(PANEL) + self.head_dim);
            let scores = &mut memory::scratch(memory::Slot::Work, len);
            with_isa(
                isa,
                Attend { cache: self, new, q, scale, rows, part, heads, scores, out: &out },
            );
        });
    }

    /// For each (destination, origin): the destination becomes a copy of what the origin held
    /// before, in its first `lengths[origin]` positions; all at once, so origins may be
    /// destinations too. Panics if the origin's history is longer than the destination's capacity.
    pub fn reorder(&mut self, moves: &[(usize, usize)], lengths: &[usize]) {
        let mut moved = mem::take(&mut self.moved);
        moved.extend(moves.iter().filter(|(destination, origin)| destination != origin));
        let is_destination =
            |slot: usize| moved.iter().any(|&(destination, _)| destination == slot);
        for (place, &(destination, origin)) in moved.iter().enumerate() {
            let capacity = self.capacities[destination];
            assert!(lengths[origin] <= capacity, "reorder: beyond the slot's capacity");
            // The last destination of an origin that is replaced itself takes its memory; the
            // others, and those whose origin stays, need copies.
            let is_last = moved[place + 1..].iter().all(|&(_, other)| other != origin);
            let takes_over =
                is_last && is_destination(origin) && self.capacities[origin] == capacity;
            let history = if takes_over {
                mem::take(&mut self.slots[origin])
            } else {
                self.copy_of(origin, capacity, lengths[origin])
            };
            self.histories.push(history);
        }
        for (&(destination, _), history) in moved.iter().zip(self.histories.drain(..)) {
            let replaced = mem::replace(&mut self.slots[destination], history);
            if replaced.capacity > 0 {
                self.spare.push(replaced);
            }
        }
        moved.clear();
        self.moved = moved;
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

/// The first row of the tile that `row` belongs to, where a run of rows of one slot is cut every
/// [`FEW_ROWS`]: parts begin there, so that rows that could share a read do.
fn tile_start(rows: &[CachedRow], row: usize) -> usize {
    let Some(slot) = rows.get(row).map(|row| row.slot) else { return row };
    let run = rows[..row].iter().rposition(|row| row.slot != slot).map_or(0, |last| last + 1);
    run + (row - run) / FEW_ROWS * FEW_ROWS
}

/// Rows to be stored.
#[derive(Clone, Copy)]
struct New<'a> {
    k: &'a [f32],
    v: &'a [f32],
    rows: &'a [CachedRow],
}

impl New<'_> {
    /// Stores the keys and values of one head for the rows of `range`, which follow each other in one slot.
    ///
    /// # Safety
    /// - Nobody else refers to the slot's keys and values of this head, or to the whole buffers.
    #[inline(always)]
    unsafe fn store<S: Simd, E: Element>(
        self,
        s: S,
        cache: &KvCache,
        range: Range<usize>,
        head: usize,
    ) {
        let KvCache { heads, head_dim, slots, .. } = cache;
        let (head_dim, width) = (*head_dim, heads * head_dim);
        let CachedRow { slot, length } = self.rows[range.start];
        let at = range.start * width..range.end * width;
        let (k, v) = (&self.k[at.clone()], &self.v[at]);
        // SAFETY: the caller's promise.
        let (keys, values) = unsafe { slots[slot].head_mut::<E>(head, head_dim) };
        let column = head * head_dim;
        pack_keys(s, &k[column..], width, range.len(), head_dim, length - 1, keys);
        let values = values[(length - 1) * head_dim..].chunks_exact_mut(head_dim);
        for (to, from) in values.zip(v.chunks_exact(width)) {
            narrow(s, &from[column..column + head_dim], to);
        }
    }
}

/// Whether a row's position follows that of the row before it.
#[inline(always)]
fn follows(before: &CachedRow, row: &CachedRow) -> bool {
    before.slot == row.slot && before.length + 1 == row.length
}

/// Stores the rows of some heads. The cache is borrowed exclusively by the caller, who hands out each
/// head once; positions and slots are inside.
struct Append<'a, E> {
    cache: &'a KvCache,
    new: New<'a>,
    heads: Range<usize>,
    element: PhantomData<E>,
}

impl<E: Element> Kernel for Append<'_, E> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let mut start = 0;
        for run in self.new.rows.chunk_by(follows) {
            for head in self.heads.clone() {
                // SAFETY: nobody else has this head's keys and values, as the type demands.
                unsafe { self.new.store::<S, E>(s, self.cache, start..start + run.len(), head) };
            }
            start += run.len();
        }
    }
}

/// Attends with the rows of `part` for some heads. If `new` is to be stored before, nobody else has these
/// heads of these rows' slots.
struct Attend<'a> {
    cache: &'a KvCache,
    new: Option<New<'a>>,
    q: &'a [f32],
    scale: f32,
    rows: &'a [CachedRow],
    part: Range<usize>,
    heads: Range<usize>,
    scores: &'a mut [f32],
    out: &'a Disjoint<'a, f32>,
}

impl Kernel for Attend<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        match self.cache.format {
            None => self.part::<S, f32>(s),
            Some(HalfFormat::Float16) => self.part::<S, Float16>(s),
            Some(HalfFormat::Bfloat16) => self.part::<S, Bfloat16>(s),
        }
    }
}

impl Attend<'_> {
    #[inline(always)]
    fn part<S: Simd, E: Element>(mut self, s: S) {
        let mut first = self.part.start;
        for run in self.rows[self.part.clone()].chunk_by(|a, b| a.slot == b.slot) {
            let (start, end) = (first, first + run.len());
            while first < end {
                let count = few_rows(end - first);
                for head in self.heads.clone() {
                    if first == start {
                        self.store::<S, E>(s, start..end, head);
                    }
                    let next = self.next(first, first + count, head);
                    match count {
                        FEW_ROWS => self.tile::<S, E, FEW_ROWS>(s, first, head, next),
                        4 => self.tile::<S, E, 4>(s, first, head, next),
                        2 => self.tile::<S, E, 2>(s, first, head, next),
                        _ => self.tile::<S, E, 1>(s, first, head, next),
                    }
                }
                first += count;
            }
        }
    }

    /// Stores what is new of the rows of `range`, all of one slot, for one head.
    #[inline(always)]
    fn store<S: Simd, E: Element>(&self, s: S, range: Range<usize>, head: usize) {
        let Some(new) = self.new else { return };
        let mut start = range.start;
        for run in self.rows[range].chunk_by(follows) {
            // SAFETY: nobody else has this head's keys and values, as the type demands.
            unsafe { new.store::<S, E>(s, self.cache, start..start + run.len(), head) };
            start += run.len();
        }
    }

    /// The keys that are read after those of `head` for the rows from `first` to `end`, at any address.
    #[inline(always)]
    fn next<E: Element>(&self, first: usize, end: usize, head: usize) -> *const [E] {
        let (row, head) = if head + 1 < self.heads.end {
            (first, head + 1)
        } else {
            (end.min(self.part.end - 1), self.heads.start)
        };
        let KvCache { head_dim, slots, .. } = self.cache;
        let CachedRow { slot, length } = self.rows[row];
        let slot = &slots[slot];
        let start = piece::<E>(&slot.keys, head, slot.padded() * head_dim);
        ptr::slice_from_raw_parts(start, length.next_multiple_of(PANEL) * head_dim)
    }

    /// Attends with the `R` rows from `first` on, all of one slot, for one head, before `next` is read.
    #[inline(always)]
    fn tile<S: Simd, E: Element, const R: usize>(
        &mut self,
        s: S,
        first: usize,
        head: usize,
        next: *const [E],
    ) {
        let KvCache { heads, head_dim, slots, .. } = self.cache;
        let (head_dim, width) = (*head_dim, heads * head_dim);
        let start = first * width + head * head_dim;
        let mut tile =
            Tile { queries: &self.q[start..], query_stride: width, visible: [0; R], dropout: None };
        let rows = &self.rows[first..first + R];
        for (visible, row) in tile.visible.iter_mut().zip(rows) {
            *visible = row.length;
        }
        let (keys, values) = slots[rows[0].slot].head::<E>(head, head_dim);
        let (value_stride, scale) = (head_dim, self.scale);
        let head = Head { keys, values, value_stride, head_dim, scale, hidden: None, next };
        // SAFETY: these rows and columns of the output belong to this tile and head alone.
        unsafe {
            let to = self.out.pointer(start, (R - 1) * width + head_dim);
            attend::<S, E, R, true>(s, &head, &tile, self.scores, to, width);
        }
    }
}

#[cfg(test)]
#[path = "kv_cache_tests.rs"]
mod tests;
