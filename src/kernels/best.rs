//! What a choice among the results of a product needs of them, gathered while they are in the cache: the
//! best of each row and the logarithm of its summed exponentials. The results themselves, a row of a
//! whole vocabulary each, are never written.
//!
//! A product hands over its results panel by panel, as they come; each part keeps a list of its best for
//! every row, and the lists are merged at the end. Values order them, and among equals the lower index
//! comes first, so the outcome does not depend on how the work was split. The sum of exponentials is made
//! of one term for each panel, relative to the panel's own highest, and the terms are joined in one
//! order: [`log_sum_exp`](super::softmax::log_sum_exp) of the whole row has the same bits.

use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering::Relaxed;

use super::isa::{self, Kernel, Simd};
use super::lanes::{self, row_sum};
use super::pack::PANEL;
use super::parallel;
use super::team::SharedMut;

/// The results of a row and a panel.
type Results = [f32; PANEL];
/// The most vectors of a panel.
const MOST_VECTORS: usize = 8;
/// Rows from which on the sums are joined on all threads.
const ROWS_TO_SHARE: usize = 8;

/// What is asked of every row of results.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Ask {
    /// How many of the best.
    pub count: usize,
    /// Whether ln(sum(exp(x))) is asked too.
    pub log_sum: bool,
}

/// The answer, and memory that is kept from one to the next.
#[derive(Debug, Default)]
pub struct Best {
    rows: usize,
    count: usize,
    /// `[rows, count]`
    entries: Vec<(u32, f32)>,
    /// `[rows]` where they were asked for.
    log_sums: Vec<f32>,
    /// Lists of the parts, `[parts, rows, count]`, and how long each is.
    lists: Vec<(u32, f32)>,
    lengths: Vec<u32>,
    /// `[rows, panels, filled up to whole vectors]`: of each panel its highest value and the sum of the
    /// exponentials relative to it.
    highest: Vec<f32>,
    sums: Vec<f32>,
    parts: usize,
    /// Whether a result was no number or infinite.
    doubt: AtomicBool,
}

impl Best {
    /// How many rows were asked for.
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// The best of a row as (index, value): by value descending, of equals the lower index first.
    pub fn row(&self, row: usize) -> &[(u32, f32)] {
        &self.entries[row * self.count..][..self.count]
    }

    /// The logarithm of the summed exponentials of a row; NaN if it was not asked for.
    pub fn log_sum(&self, row: usize) -> f32 {
        self.log_sums.get(row).copied().unwrap_or(f32::NAN)
    }

    /// Takes an answer that was found elsewhere: entries of whole rows, and the logarithms if they were
    /// asked for.
    #[cfg(feature = "cuda")]
    pub fn set(
        &mut self,
        rows: usize,
        entries: impl IntoIterator<Item = (u32, f32)>,
        log_sums: Vec<f32>,
    ) {
        self.entries.clear();
        self.entries.extend(entries);
        (self.rows, self.count) = (rows, self.entries.len() / rows.max(1));
        self.log_sums = log_sums;
    }

    /// Test only: answers from whole rows `[rows, width]`, none of which holds NaN or infinity.
    #[cfg(test)]
    pub fn of_rows(&mut self, values: &[f32], width: usize, ask: Ask) {
        let (rows, count) = (values.len() / width.max(1), ask.count.min(width));
        (self.rows, self.count) = (rows, count);
        self.entries.clear();
        self.log_sums.clear();
        for row in values.chunks_exact(width.max(1)) {
            self.entries.extend(super::softmax::top_k(row, count));
            if ask.log_sum {
                self.log_sums.push(super::softmax::log_sum_exp(row));
            }
        }
    }

    /// Makes room for the results `[rows, width]` of `parts` parts.
    pub(super) fn begin(
        &mut self,
        (rows, width): (usize, usize),
        parts: usize,
        ask: Ask,
    ) -> Gathering<'_> {
        let count = ask.count.min(width);
        (self.rows, self.count, self.parts) = (rows, count, parts);
        *self.doubt.get_mut() = false;
        let stride = if ask.log_sum { terms_of(width) } else { 0 };
        self.entries.resize(rows * count, (0, 0.0));
        self.lists.resize(parts * rows * count, (0, 0.0));
        self.lengths.clear();
        self.lengths.resize(parts * rows, 0);
        self.log_sums.resize(if ask.log_sum { rows } else { 0 }, 0.0);
        self.highest.resize(rows * stride, 0.0);
        self.sums.resize(rows * stride, 0.0);
        if ask.log_sum {
            let panels = width.div_ceil(PANEL);
            for row in 0..rows {
                self.highest[row * stride + panels..(row + 1) * stride].fill(f32::MIN);
                self.sums[row * stride + panels..(row + 1) * stride].fill(0.0);
            }
        }
        Gathering {
            lists: SharedMut(self.lists.as_mut_ptr()),
            lengths: SharedMut(self.lengths.as_mut_ptr()),
            highest: SharedMut(self.highest.as_mut_ptr()),
            sums: SharedMut(self.sums.as_mut_ptr()),
            doubt: &self.doubt,
            width,
            rows,
            parts,
            count,
            stride,
        }
    }

    /// The highest value of each panel of a row, where log sums were asked for too.
    pub(super) fn highest(&self, row: usize, panels: usize) -> &[f32] {
        &self.highest[row * self.highest.len() / self.rows..][..panels]
    }

    /// Begins an answer of values that are offered one after the other.
    pub(super) fn start(&mut self, rows: usize, count: usize) {
        (self.rows, self.count, self.parts) = (rows, count, 1);
        self.entries.resize(rows * count, (0, 0.0));
        self.lengths.clear();
        self.lengths.resize(rows, 0);
        self.log_sums.clear();
    }

    /// Offers values of a row, whose indices follow `first`; `false` if one is not a finite number. At
    /// least as many as asked for are to be offered.
    pub(super) fn offer(&mut self, row: usize, first: usize, values: &[f32]) -> bool {
        let entries = &mut self.entries[row * self.count..][..self.count];
        for (id, &value) in (first as u32..).zip(values) {
            self.lengths[row] = insert(entries, self.lengths[row] as usize, (id, value)) as u32;
        }
        values.iter().all(|value| value.is_finite())
    }

    /// Merges what the parts have left. `false` if a result was not a finite number: then there is no
    /// answer.
    pub(super) fn finish(&mut self, width: usize) -> bool {
        if !self.merge() {
            return false;
        }
        let rows = self.rows;
        let stride = if self.log_sums.is_empty() { 0 } else { terms_of(width) };
        let sums = SharedMut(self.log_sums.as_mut_ptr());
        parallel::items(self.log_sums.len(), rows >= ROWS_TO_SHARE, |isa, row| {
            let terms = row * stride..(row + 1) * stride;
            let (highest, terms) = (&self.highest[terms.clone()], &self.sums[terms]);
            // SAFETY: there is a place for every row, and each row comes once.
            unsafe { *sums.get().add(row) = isa::with_isa(isa, Join { highest, terms }) };
        });
        true
    }

    /// [`Best::finish`] for the lists alone.
    pub(super) fn merge(&mut self) -> bool {
        if *self.doubt.get_mut() {
            return false;
        }
        let (rows, count) = (self.rows, self.count);
        for (row, merged) in self.entries.chunks_exact_mut(count.max(1)).enumerate() {
            let mut length = 0;
            for part in 0..self.parts {
                let place = part * rows + row;
                let list = &self.lists[place * count..][..self.lengths[place] as usize];
                for &entry in list {
                    length = insert(merged, length, entry);
                }
            }
        }
        true
    }
}

/// Places for the terms of a row of results, filled up to whole vectors.
fn terms_of(width: usize) -> usize {
    width.div_ceil(PANEL).next_multiple_of(lanes::MOST)
}

/// Puts an entry into a sorted list of `length` of its places, if it belongs there; gives the new length.
#[inline(always)]
pub(super) fn insert(list: &mut [(u32, f32)], length: usize, entry: (u32, f32)) -> usize {
    let mut place = length;
    while place > 0 {
        let (id, value) = list[place - 1];
        if value > entry.1 || value == entry.1 && id < entry.0 {
            break;
        }
        place -= 1;
    }
    if place == list.len() {
        return length;
    }
    let end = length.min(list.len() - 1);
    list.copy_within(place..end, place + 1);
    list[place] = entry;
    end + 1
}

/// The shared side of a gathering in progress.
pub(super) struct Gathering<'a> {
    lists: SharedMut<(u32, f32)>,
    lengths: SharedMut<u32>,
    highest: SharedMut<f32>,
    sums: SharedMut<f32>,
    doubt: &'a AtomicBool,
    width: usize,
    rows: usize,
    parts: usize,
    count: usize,
    stride: usize,
}

impl Gathering<'_> {
    /// What takes the results of one part.
    ///
    /// # Safety
    /// - Each part is asked for once at a time, and different parts take different panels or rows.
    #[inline(always)]
    pub(super) unsafe fn part(&self, part: usize) -> Gatherer<'_> {
        assert!(part < self.parts);
        Gatherer { all: self, part, doubt: [0.0; lanes::MOST] }
    }
}

/// Who takes the results of one part.
pub(super) struct Gatherer<'a> {
    all: &'a Gathering<'a>,
    part: usize,
    doubt: [f32; lanes::MOST],
}

impl Gatherer<'_> {
    /// Takes the results of a row and a panel.
    ///
    /// # Safety
    /// - `values` is valid for [`PANEL`] floats, whatever those beyond the width.
    #[inline(always)]
    pub(super) unsafe fn take<S: Simd>(
        &mut self,
        s: S,
        row: usize,
        panel: usize,
        values: *const f32,
    ) {
        let all = self.all;
        let width = PANEL.min(all.width - panel * PANEL);
        assert!(row < all.rows);
        // SAFETY: the caller vouches for a whole panel.
        let values = unsafe { &*values.cast::<Results>() };
        let mut filled = [f32::NEG_INFINITY; PANEL];
        let values = if width == PANEL {
            let mut doubt = lanes::load(s, &self.doubt);
            for part in values.chunks_exact(S::LANES) {
                doubt = s.fma(lanes::load(s, part), s.zero(), doubt);
            }
            lanes::store(s, &mut self.doubt, doubt);
            values
        } else {
            for (to, from) in filled.iter_mut().zip(&values[..width]) {
                *to = *from;
                self.doubt[0] += from * 0.0;
            }
            &filled
        };
        let v = vectors(s, values);
        let best = highest(s, v);
        // SAFETY: part, row and panel are below their numbers, and nobody else has these places now.
        unsafe {
            if all.stride > 0 {
                let place = row * all.stride + panel;
                let (highest, sum) = term(s, v, best);
                *all.highest.get().add(place) = highest;
                *all.sums.get().add(place) = sum;
            }
            let (entries, length) = self.list(row);
            keep(entries, length, best, &values[..width], panel * PANEL);
        }
    }

    /// Takes lower bounds of the results of a row and a panel, and the highest of their upper bounds.
    #[inline(always)]
    pub(super) fn take_bounds<S: Simd>(
        &mut self,
        s: S,
        (row, panel, width): (usize, usize, usize),
        lower: &Results,
        upper: f32,
    ) {
        let all = self.all;
        assert!(row < all.rows && panel < all.stride && width <= PANEL);
        let mut best = upper;
        if width == PANEL {
            best = highest(s, vectors(s, lower));
        }
        // SAFETY: as in `take`.
        unsafe {
            *all.highest.get().add(row * all.stride + panel) = upper;
            let (entries, length) = self.list(row);
            keep(entries, length, best, &lower[..width], panel * PANEL);
        }
    }

    /// The list of a row.
    ///
    /// # Safety
    /// - The row is one of this part's, and below their number.
    #[inline(always)]
    unsafe fn list(&mut self, row: usize) -> (&mut [(u32, f32)], &mut u32) {
        let all = self.all;
        let list = self.part * all.rows + row;
        // SAFETY: there is a list for each part and row, and nobody else has this one now.
        unsafe {
            let entries = all.lists.get().add(list * all.count);
            (std::slice::from_raw_parts_mut(entries, all.count), &mut *all.lengths.get().add(list))
        }
    }

    /// What is NaN if a result was none or infinite.
    #[inline(always)]
    pub(super) fn doubt(&mut self) -> &mut [f32; lanes::MOST] {
        &mut self.doubt
    }

    /// Ends the part.
    pub(super) fn finish(self) {
        if self.doubt.iter().any(|doubt| doubt.is_nan()) {
            self.all.doubt.store(true, Relaxed);
        }
    }
}

/// Puts those of `values`, whose indices follow `first`, into the list that belong there; `best` is the
/// highest of them.
#[inline(always)]
fn keep(entries: &mut [(u32, f32)], length: &mut u32, best: f32, values: &[f32], first: usize) {
    let full = *length as usize == entries.len();
    // Equal to the worst is no better: its index is higher.
    let Some(&(_, worst)) = entries.last() else { return };
    if full && best <= worst {
        return;
    }
    for (id, &value) in (first as u32..).zip(values) {
        let full = *length as usize == entries.len();
        if !full || value > entries[entries.len() - 1].1 {
            *length = insert(entries, *length as usize, (id, value)) as u32;
        }
    }
}

/// A panel's vectors; there are `PANEL / LANES`.
#[inline(always)]
pub(super) fn vectors<S: Simd>(s: S, values: &Results) -> [S::V; MOST_VECTORS] {
    let mut v = [s.zero(); MOST_VECTORS];
    for (v, part) in v.iter_mut().zip(values.chunks_exact(S::LANES)) {
        *v = lanes::load(s, part);
    }
    v
}

/// The highest of a panel.
#[inline(always)]
pub(super) fn highest<S: Simd>(s: S, v: [S::V; MOST_VECTORS]) -> f32 {
    let mut best = v[0];
    for &v in &v[1..PANEL / S::LANES] {
        best = s.max(best, v);
    }
    s.reduce_max(best)
}

/// A panel's highest value, no less than the least finite number, and the sum of the exponentials
/// relative to it; `best` is the highest.
#[inline(always)]
fn term<S: Simd>(s: S, v: [S::V; MOST_VECTORS], best: f32) -> (f32, f32) {
    let highest = if best < f32::MIN { f32::MIN } else { best };
    let mut terms = v;
    for v in &mut terms[..PANEL / S::LANES] {
        *v = s.exp(s.sub(*v, s.splat(highest)));
    }
    let mut count = PANEL / S::LANES;
    while count > 1 {
        count /= 2;
        for i in 0..count {
            terms[i] = s.add(terms[2 * i], terms[2 * i + 1]);
        }
    }
    (highest, s.reduce_add(terms[0]))
}

/// The terms of `row`, as [`Gatherer::take`] would leave them, in `highest` and `terms`, which have
/// [`terms_of`] places.
#[inline(always)]
fn terms<S: Simd>(s: S, row: &[f32], highest: &mut [f32], terms: &mut [f32]) {
    let panels = row.chunks(PANEL);
    for ((panel, highest), sum) in panels.zip(&mut *highest).zip(&mut *terms) {
        let v = match <&Results>::try_from(panel) {
            Ok(whole) => vectors(s, whole),
            Err(_) => {
                let mut filled = [f32::NEG_INFINITY; PANEL];
                filled[..panel.len()].copy_from_slice(panel);
                vectors(s, &filled)
            }
        };
        (*highest, *sum) = term(s, v, self::highest(s, v));
    }
    let panels = row.len().div_ceil(PANEL);
    highest[panels..].fill(f32::MIN);
    terms[panels..].fill(0.0);
}

/// ln(sum(exp(x))) of a row, from the terms of its panels.
#[inline(always)]
pub(super) fn log_sum_exp<S: Simd>(s: S, row: &[f32]) -> f32 {
    let places = terms_of(row.len());
    let mut scratch = super::memory::scratch(super::memory::Slot::Work, 2 * places);
    let (highest, sums) = scratch.split_at_mut(places);
    terms(s, row, highest, sums);
    join(s, highest, sums)
}

/// Joins terms, whose number is a multiple of all vectors' lanes.
#[inline(always)]
fn join<S: Simd>(s: S, highest: &[f32], terms: &[f32]) -> f32 {
    let best = lanes::max(s, highest);
    let relative = s.splat(best);
    let sum = row_sum!(s, terms.len(), |c| {
        let scale = s.exp(s.sub(lanes::load(s, &highest[c.clone()]), relative));
        s.mul(lanes::load(s, &terms[c]), scale)
    });
    best + sum.ln()
}

struct Join<'a> {
    highest: &'a [f32],
    terms: &'a [f32],
}

impl Kernel for Join<'_> {
    type Output = f32;

    #[inline(always)]
    fn run<S: Simd>(self, s: S) -> f32 {
        join(s, self.highest, self.terms)
    }
}

#[cfg(test)]
#[path = "best_tests.rs"]
mod tests;
