//! Cached keys and values of one attention block, and attention to them.

use candle_core::{Result, Tensor};

use super::attention::{self, Heads, NoKey, OnCard, Rounding, Spans};
use super::hidden::Hidden;
use super::place::Place;
use super::step_inputs::StepInputs;
use super::weight::HalfFormat;
use super::{Way, round, way};
#[cfg(feature = "cuda")]
use crate::kernels::cuda::{Card, CardCache, CardNumbers, Numbers, pairs};
use crate::kernels::kv_cache::{KvCache, Step};

pub use crate::kernels::kv_cache::CachedRow;

/// Keys and values by slot.
#[derive(Debug)]
pub struct KvStore {
    heads: Heads,
    format: Option<HalfFormat>,
    entries: Entries,
}

#[derive(Debug)]
enum Entries {
    /// In the layout that the CPU kernel reads.
    Kernel(KvCache),
    /// `[length, width]` keys and values of each slot.
    Portable(Vec<Option<(Tensor, Tensor)>>),
    /// In the layout that kernels of a card read.
    #[cfg(feature = "cuda")]
    Card(Box<CardCache>),
}

impl KvStore {
    /// Empty histories at a place that will hold up to the given numbers of entries, rounded to `format`
    /// (`None`: as they come). Of stores that steps read together none has more than `most`: a card keeps all of
    /// them, or none.
    ///
    /// # Errors
    /// What a card reports, memory that runs out among it.
    pub fn new(
        place: &Place,
        heads: Heads,
        format: Option<HalfFormat>,
        capacities: &[usize],
        most: usize,
    ) -> Result<Self> {
        #[cfg(feature = "cuda")]
        if let Some(entries) = on_card(place, heads, format, (capacities, most))? {
            return Ok(KvStore { heads, format, entries: Entries::Card(Box::new(entries)) });
        }
        let _ = most;
        let entries = match way() {
            Way::Kernel if place.has_kernels() => {
                Entries::Kernel(KvCache::new(heads.count, heads.width, format, capacities))
            }
            _ => Entries::Portable(vec![None; capacities.len()]),
        };
        Ok(KvStore { heads, format, entries })
    }

    /// Stores the rows of `k` and `v` `[rows, width]` as the last entry of what each row sees.
    pub fn append(&mut self, k: &Hidden, v: &Hidden, rows: &[CachedRow]) -> Result<()> {
        match &mut self.entries {
            Entries::Kernel(cache) => k.read(|k| v.read(|v| cache.append(k, v, rows)))?,
            Entries::Portable(slots) => {
                let kept = |x: &Hidden| match self.format {
                    Some(format) => round::rounded_tensor(&x.tensor()?, format),
                    None => x.tensor(),
                };
                append(slots, &kept(k)?, &kept(v)?, rows)
            }
            #[cfg(feature = "cuda")]
            Entries::Card(cache) => {
                let places = CardNumbers::new(cache.card(), &pairs(rows), 0)?;
                append_on_card(cache, k, v, (places.all(), None))
            }
        }
    }

    /// Attention of each row of `q [rows, width]` to what it sees: of sources, where a card has `inputs`.
    pub fn attend(&self, q: &Hidden, rows: &[CachedRow], _inputs: &StepInputs) -> Result<Hidden> {
        match &self.entries {
            #[cfg(feature = "cuda")]
            Entries::Card(cache) => match _inputs.on_card() {
                Some(inputs) => attend_on_card(cache, self.heads, q, (inputs.source(), None)),
                None => {
                    let places = CardNumbers::new(cache.card(), &pairs(rows), 0)?;
                    attend_on_card(cache, self.heads, q, (places.all(), None))
                }
            },
            Entries::Kernel(cache) => q.read(|floats| {
                Hidden::computed(q.rows(), q.width(), |out| {
                    cache.attend(floats, self.heads.scale(), rows, out);
                })
            }),
            Entries::Portable(slots) => attend(slots, self.heads, q, rows),
        }
    }

    /// [`Self::append`] and then [`Self::attend`]: of targets, where a card has `inputs`.
    pub fn step(
        &mut self,
        q: &Hidden,
        k: &Hidden,
        v: &Hidden,
        rows: &[CachedRow],
        inputs: &StepInputs,
    ) -> Result<Hidden> {
        #[cfg(feature = "cuda")]
        if let (Entries::Card(cache), Some(inputs)) = (&mut self.entries, inputs.on_card()) {
            let places = (inputs.target(), Some(inputs.origins()));
            append_on_card(cache, k, v, places)?;
            return attend_on_card(cache, self.heads, q, places);
        }
        let Entries::Kernel(cache) = &mut self.entries else {
            self.append(k, v, rows)?;
            return self.attend(q, rows, inputs);
        };
        let scale = self.heads.scale();
        q.read(|q| {
            k.read(|k| {
                v.read(|v| {
                    let (count, width) = (rows.len(), self.heads.count * self.heads.width);
                    Hidden::computed(count, width, |out| {
                        cache.step(Step { q, k, v }, scale, rows, out);
                    })
                })
            })
        })??
    }

    /// For each (destination, origin): the destination continues the origin's history, of which
    /// `lengths[origin]` entries count; all at once. Not where [`Origins`](super::step_inputs::Origins) say
    /// whose they are.
    pub fn reorder(&mut self, moves: &[(usize, usize)], lengths: &[usize]) {
        match &mut self.entries {
            #[cfg(feature = "cuda")]
            Entries::Card(_) => unreachable!("entries on a card stay where they are"),
            Entries::Kernel(cache) => cache.reorder(moves, lengths),
            Entries::Portable(slots) => {
                let origins: Vec<_> =
                    moves.iter().map(|&(_, origin)| slots[origin].clone()).collect();
                for (&(destination, _), history) in moves.iter().zip(origins) {
                    slots[destination] = history;
                }
            }
        }
    }

    /// Whether entries stay where they are when slots continue each other's histories.
    pub fn entries_stay(&self) -> bool {
        match &self.entries {
            #[cfg(feature = "cuda")]
            Entries::Card(_) => true,
            Entries::Kernel(_) | Entries::Portable(_) => false,
        }
    }
}

/// A cache on a card, if the place is one whose kernels take it.
#[cfg(feature = "cuda")]
fn on_card(
    place: &Place,
    heads: Heads,
    format: Option<HalfFormat>,
    (capacities, most): (&[usize], usize),
) -> Result<Option<CardCache>> {
    let capacity = capacities.iter().copied().max().unwrap_or(0);
    let takes = place.device().is_cuda() && CardCache::takes(heads.width, most);
    if !takes || way() == Way::Portable {
        return Ok(None);
    }
    let card = Card::of(place.device())?;
    let sizes = (heads.count, heads.width);
    CardCache::new(&card, sizes, format, (capacities.len(), capacity)).map(Some)
}

#[cfg(feature = "cuda")]
fn append_on_card(
    cache: &mut CardCache,
    k: &Hidden,
    v: &Hidden,
    (places, origins): (Numbers, Option<Numbers>),
) -> Result<()> {
    let (Some(k), Some(v)) = (k.on_card()?, v.on_card()?) else {
        candle_core::bail!("keys and values are not on the card of their cache");
    };
    cache.append(&k, &v, places, origins)
}

#[cfg(feature = "cuda")]
fn attend_on_card(
    cache: &CardCache,
    heads: Heads,
    q: &Hidden,
    (places, origins): (Numbers, Option<Numbers>),
) -> Result<Hidden> {
    let Some(q) = q.on_card()? else {
        candle_core::bail!("queries are not on the card of their cache");
    };
    let mut out = q.card().rows(q.rows(), q.width())?;
    cache.attend(&q, heads.scale(), places, origins, &mut out)?;
    Ok(Hidden::of_card(out))
}

/// Keys or values as a cache of this format gives them back.
pub fn kept(x: Hidden, format: Option<HalfFormat>) -> Result<Hidden> {
    match format {
        Some(format) if !x.is_of(format) => round::rounded(&x, format),
        _ => Ok(x),
    }
}

fn append(
    slots: &mut [Option<(Tensor, Tensor)>],
    k: &Tensor,
    v: &Tensor,
    rows: &[CachedRow],
) -> Result<()> {
    let mut start = 0;
    for run in rows.chunk_by(|a, b| a.slot == b.slot) {
        let new = (k.narrow(0, start, run.len())?, v.narrow(0, start, run.len())?);
        let slot = &mut slots[run[0].slot];
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

fn attend(
    slots: &[Option<(Tensor, Tensor)>],
    heads: Heads,
    q: &Hidden,
    rows: &[CachedRow],
) -> Result<Hidden> {
    let (mut keys, mut values, mut offsets) = (Vec::new(), Vec::new(), vec![0]);
    for row in rows {
        if let Some((k, v)) = &slots[row.slot] {
            keys.push(k.narrow(0, 0, row.length)?);
            values.push(v.narrow(0, 0, row.length)?);
        }
        offsets.push(offsets[offsets.len() - 1] + row.length);
    }
    if keys.is_empty() {
        return q.by_candle(Tensor::zeros_like);
    }
    let spans = Spans {
        queries: (0..=rows.len()).collect::<Vec<_>>().into(),
        keys: offsets.into(),
        visible: None,
        causal: false,
        no_key: NoKey::Zeros,
        on_card: OnCard::default(),
    };
    let (k, v) = (Tensor::cat(&keys, 0)?.try_into()?, Tensor::cat(&values, 0)?.try_into()?);
    attention::attention(q, &k, &v, &spans, heads, None, Rounding::default())
}

#[cfg(test)]
mod tests {
    use super::super::testing::in_way;
    use super::*;
    use crate::kernels::testing::noise;

    const HEADS: Heads = Heads { count: 2, width: 5 };

    fn rows_of(count: usize, seed: u64) -> Hidden {
        Hidden::new(count, 10, |out| out.copy_from_slice(&noise(count * 10, seed))).unwrap()
    }

    /// Fills two slots, then thrice stores a row in each, attends and swaps them: every output.
    fn decode(format: Option<HalfFormat>) -> Vec<f32> {
        let mut store = KvStore::new(&Place::Kernels, HEADS, format, &[40, 40], 40).unwrap();
        let inputs = StepInputs::default();
        let read = |x: Hidden| x.read(<[f32]>::to_vec).unwrap();
        let mut outputs = read(
            store.attend(&rows_of(1, 1), &[CachedRow { slot: 0, length: 0 }], &inputs).unwrap(),
        );
        let mut lengths = [35, 2];
        for (slot, &count) in lengths.iter().enumerate() {
            let rows: Vec<CachedRow> =
                (1..=count).map(|length| CachedRow { slot, length }).collect();
            let seed = 20 + slot as u64;
            store.append(&rows_of(count, seed), &rows_of(count, seed + 5), &rows).unwrap();
        }
        for seed in [30, 40, 50] {
            lengths = lengths.map(|length| length + 1);
            let rows = [1, 0].map(|slot| CachedRow { slot, length: lengths[slot] });
            let [k, v, q] = [0, 1, 2].map(|i| rows_of(2, seed + i));
            outputs.extend(read(store.step(&q, &k, &v, &rows, &inputs).unwrap()));
            store.reorder(&[(0, 1), (1, 0)], &lengths);
            lengths.swap(0, 1);
        }
        outputs
    }

    #[test]
    fn both_ways_remember_the_same() {
        let exact = in_way(|| decode(None)).kernel;
        for format in [None, Some(HalfFormat::Float16), Some(HalfFormat::Bfloat16)] {
            let both = in_way(|| decode(format));
            assert_eq!(both.kernel.len(), 70);
            for (i, (kernel, portable)) in both.kernel.iter().zip(&both.portable).enumerate() {
                assert!((kernel - portable).abs() < 1e-6, "{format:?} [{i}]: {kernel}, {portable}");
            }
            assert_eq!(both.kernel == exact, format.is_none(), "{format:?}");
        }
    }
}
