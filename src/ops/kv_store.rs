//! Cached keys and values of one attention block, and attention to them.

use candle_core::{Result, Tensor, bail};

use super::attention::{self, Heads, Spans};
use super::{tensor, use_kernels, with_floats};
/// A row's place in a store: the row is (or sees) the first `length` entries of `slot`.
pub use crate::kernels::kv_cache::CachedRow as KvRow;
use crate::kernels::kv_cache::KvCache;

/// Keys and values by slot.
#[derive(Debug)]
pub struct KvStore {
    heads: Heads,
    capacities: Vec<usize>,
    storage: Storage,
}

/// Which way holds the histories: settled by the first tensors stored.
#[derive(Debug)]
enum Storage {
    Empty,
    Kernel(KvCache),
    Portable(Histories),
}

impl KvStore {
    /// Empty histories that will hold up to the given numbers of entries.
    pub fn new(heads: Heads, capacities: &[usize]) -> Self {
        KvStore { heads, capacities: capacities.to_vec(), storage: Storage::Empty }
    }

    /// Stores the rows of `k` and `v` `[rows, width]` as the last entry of what each row sees.
    ///
    /// # Errors
    /// A row beyond its slot's capacity, and what the tensor library reports.
    pub fn append(&mut self, k: &Tensor, v: &Tensor, rows: &[KvRow]) -> Result<()> {
        let lacks_room = |row: &&KvRow| row.length == 0 || row.length > self.capacities[row.slot];
        if let Some(row) = rows.iter().find(lacks_room) {
            bail!(
                "slot {} holds {} entries: got {}",
                row.slot,
                self.capacities[row.slot],
                row.length
            );
        }
        if let Storage::Empty = self.storage {
            self.storage = if use_kernels(k) {
                let Heads { count, width } = self.heads;
                Storage::Kernel(KvCache::new(count, width, &self.capacities))
            } else {
                Storage::Portable(Histories(vec![None; self.capacities.len()]))
            };
        }
        match &mut self.storage {
            Storage::Empty => unreachable!("settled above"),
            Storage::Kernel(cache) => {
                let (k, v) = (k.contiguous()?, v.contiguous()?);
                with_floats([&k, &v], |[k, v]| cache.append(k, v, rows))
            }
            Storage::Portable(histories) => histories.append(k, v, rows),
        }
    }

    /// Attention of each row of `q [rows, width]` to what it sees.
    ///
    /// # Errors
    /// What the tensor library reports.
    pub fn attend(&self, q: &Tensor, rows: &[KvRow]) -> Result<Tensor> {
        match &self.storage {
            Storage::Empty => q.zeros_like(),
            Storage::Kernel(cache) => {
                let q = q.contiguous()?;
                let out = with_floats([&q], |[q]| {
                    let mut out = vec![0.0; q.len()];
                    cache.attend(q, self.heads.scale(), rows, &mut out);
                    out
                })?;
                tensor(out, q.shape().clone())
            }
            Storage::Portable(histories) => histories.attend(q, rows, self.heads),
        }
    }

    /// For each (destination, origin): the destination continues the origin's history of
    /// `lengths[origin]` entries, all at once.
    ///
    /// # Errors
    /// A history beyond its new slot's capacity.
    pub fn reorder(&mut self, moves: &[(usize, usize)], lengths: &[usize]) -> Result<()> {
        for &(destination, origin) in moves {
            if lengths[origin] > self.capacities[destination] {
                let capacity = self.capacities[destination];
                bail!("slot {destination} holds {capacity} entries: got {}", lengths[origin]);
            }
        }
        match &mut self.storage {
            Storage::Empty => {}
            Storage::Kernel(cache) => cache.reorder(moves, lengths),
            Storage::Portable(histories) => histories.reorder(moves),
        }
        Ok(())
    }
}

/// The portable way: a tensor of keys and one of values for each slot.
#[derive(Debug)]
struct Histories(Vec<Option<(Tensor, Tensor)>>);

impl Histories {
    fn append(&mut self, k: &Tensor, v: &Tensor, rows: &[KvRow]) -> Result<()> {
        let mut start = 0;
        for run in rows.chunk_by(|a, b| a.slot == b.slot) {
            let new = (k.narrow(0, start, run.len())?, v.narrow(0, start, run.len())?);
            let slot = &mut self.0[run[0].slot];
            let kept = run[0].length - 1;
            *slot = Some(match slot.take() {
                Some((k, v)) if kept > 0 => (
                    Tensor::cat(&[&k.narrow(0, 0, kept)?, &new.0], 0)?,
                    Tensor::cat(&[&v.narrow(0, 0, kept)?, &new.1], 0)?,
                ),
                _ => new,
            });
            start += run.len();
        }
        Ok(())
    }

    fn attend(&self, q: &Tensor, rows: &[KvRow], heads: Heads) -> Result<Tensor> {
        let (mut keys, mut values, mut offsets) = (Vec::new(), Vec::new(), vec![0]);
        for row in rows {
            if let Some((k, v)) = &self.0[row.slot] {
                keys.push(k.narrow(0, 0, row.length)?);
                values.push(v.narrow(0, 0, row.length)?);
            }
            offsets.push(offsets[offsets.len() - 1] + row.length);
        }
        if keys.is_empty() {
            return q.zeros_like();
        }
        let spans = Spans {
            queries: (0..=rows.len()).collect::<Vec<_>>().into(),
            keys: offsets.into(),
            visible: None,
            causal: false,
        };
        let (k, v) = (Tensor::cat(&keys, 0)?, Tensor::cat(&values, 0)?);
        attention::attention(q, &k, &v, &spans, heads, None)
    }

    fn reorder(&mut self, moves: &[(usize, usize)]) {
        let origins: Vec<_> = moves.iter().map(|&(_, origin)| self.0[origin].clone()).collect();
        for (&(destination, _), history) in moves.iter().zip(origins) {
            self.0[destination] = history;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::in_way;
    use super::*;
    use crate::kernels::testing::noise;

    const HEADS: Heads = Heads { count: 2, width: 5 };

    fn rows_of(count: usize, seed: u64) -> Tensor {
        tensor(noise(count * 10, seed), (count, 10)).unwrap()
    }

    /// Fills two slots, then thrice stores a row in each, attends and swaps them: every output.
    fn decode() -> Vec<f32> {
        let mut store = KvStore::new(HEADS, &[40, 40]);
        let mut outputs = store.attend(&rows_of(1, 1), &[KvRow { slot: 0, length: 0 }]).unwrap();
        let mut lengths = [35, 2];
        for (slot, &count) in lengths.iter().enumerate() {
            let rows: Vec<KvRow> = (1..=count).map(|length| KvRow { slot, length }).collect();
            let seed = 20 + slot as u64;
            store.append(&rows_of(count, seed), &rows_of(count, seed + 5), &rows).unwrap();
        }
        for seed in [30, 40, 50] {
            lengths = lengths.map(|length| length + 1);
            let rows = [1, 0].map(|slot| KvRow { slot, length: lengths[slot] });
            store.append(&rows_of(2, seed), &rows_of(2, seed + 1), &rows).unwrap();
            let out = store.attend(&rows_of(2, seed + 2), &rows).unwrap();
            outputs = Tensor::cat(&[&outputs, &out], 0).unwrap();
            store.reorder(&[(0, 1), (1, 0)], &lengths).unwrap();
            lengths.swap(0, 1);
        }
        outputs.flatten_all().unwrap().to_vec1().unwrap()
    }

    #[test]
    fn both_ways_remember_the_same() {
        let both = in_way(decode);
        assert_eq!(both.kernel.len(), 70);
        for (i, (kernel, portable)) in both.kernel.iter().zip(&both.portable).enumerate() {
            assert!((kernel - portable).abs() < 1e-6, "[{i}]: {kernel} and {portable}");
        }
    }

    #[test]
    fn a_full_slot_is_an_error() {
        let overfill = || {
            let mut store = KvStore::new(HEADS, &[1, 5]);
            let rows = [KvRow { slot: 0, length: 1 }, KvRow { slot: 0, length: 2 }];
            let appended = store.append(&rows_of(2, 1), &rows_of(2, 2), &rows);
            let moved = store.reorder(&[(0, 1)], &[0, 2]);
            [appended, moved].map(|result| result.unwrap_err().to_string())
        };
        let both = in_way(overfill);
        for error in both.kernel.into_iter().chain(both.portable) {
            assert!(error.starts_with("slot 0 holds 1 entries: got 2"), "{error}");
        }
    }
}
