//! Cached keys and values of one attention block, and attention to them.

use candle_core::{Result, Tensor};

use super::attention::{self, Heads, Spans};

/// A row's place in a store: the row is (or sees) the first `length` entries of `slot`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct KvRow {
    /// Which history.
    pub slot: usize,
    /// How many of its entries, the row's own included.
    pub length: usize,
}

/// Keys and values by slot.
#[derive(Debug)]
pub struct KvStore {
    heads: Heads,
    slots: Vec<Option<(Tensor, Tensor)>>,
}

impl KvStore {
    /// Empty histories that will hold up to the given numbers of entries.
    pub fn new(heads: Heads, capacities: &[usize]) -> Self {
        KvStore { heads, slots: vec![None; capacities.len()] }
    }

    /// Stores the rows of `k` and `v` `[rows, width]` as the last entry of what each row sees.
    pub fn append(&mut self, k: &Tensor, v: &Tensor, rows: &[KvRow]) -> Result<()> {
        let mut start = 0;
        for run in rows.chunk_by(|a, b| a.slot == b.slot) {
            let new = (k.narrow(0, start, run.len())?, v.narrow(0, start, run.len())?);
            let slot = &mut self.slots[run[0].slot];
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

    /// Attention of each row of `q [rows, width]` to what it sees.
    pub fn attend(&self, q: &Tensor, rows: &[KvRow]) -> Result<Tensor> {
        let (mut keys, mut values, mut offsets) = (Vec::new(), Vec::new(), vec![0]);
        for row in rows {
            if let Some((k, v)) = &self.slots[row.slot] {
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
        attention::attention(q, &k, &v, &spans, self.heads, None)
    }

    /// For each (destination, origin): the destination continues the origin's history.
    pub fn reorder(&mut self, moves: &[(usize, usize)], _lengths: &[usize]) -> Result<()> {
        let origins: Vec<_> = moves.iter().map(|&(_, origin)| self.slots[origin].clone()).collect();
        for (&(destination, _), history) in moves.iter().zip(origins) {
            self.slots[destination] = history;
        }
        Ok(())
    }
}
