//! Tests of the cache against the whole pass of [`attention`](super::super::attention), whose own
//! tests compare it with the definition.

use super::super::attention::{NoKey, Ragged, forward};
use super::super::parallel::with_threads;
use super::super::testing::{assert_same_bits, noise, on_every_isa};
use super::*;

const HEADS: usize = 3;
const FORMATS: [Option<HalfFormat>; 3] =
    [None, Some(HalfFormat::Float16), Some(HalfFormat::Bfloat16)];

/// k, v and q of one history.
struct History {
    head_dim: usize,
    k: Vec<f32>,
    v: Vec<f32>,
    q: Vec<f32>,
}

impl History {
    fn new(length: usize, head_dim: usize, seed: u64) -> Self {
        let rows = |seed| noise(length * HEADS * head_dim, seed);
        Self { head_dim, k: rows(3 * seed), v: rows(3 * seed + 1), q: rows(3 * seed + 2) }
    }

    fn width(&self) -> usize {
        HEADS * self.head_dim
    }

    /// The causal pass over the first `length` rows at once, over keys and values as they are kept.
    fn whole(&self, format: Option<HalfFormat>, length: usize) -> Vec<f32> {
        let (offsets, len) = ([0, length], length * self.width());
        let ragged = Ragged {
            q_offsets: &offsets,
            k_offsets: &offsets,
            key_visible: None,
            causal: true,
            heads: HEADS,
            head_dim: self.head_dim,
            scale: 0.3,
            q_stride: self.width(),
            kv_stride: self.width(),
            no_key: NoKey::Zeros,
            dropout: None,
        };
        let mut out = vec![7.0; len];
        let (mut k, mut v) = (self.k[..len].to_vec(), self.v[..len].to_vec());
        if let Some(format) = format {
            format.round(&self.k[..len], &mut k);
            format.round(&self.v[..len], &mut v);
        }
        forward(&ragged, &self.q[..len], &k, &v, &mut out);
        out
    }

    /// Stores the rows from `start` to `end` and attends with them.
    fn step(&self, cache: &mut KvCache, slot: usize, start: usize, end: usize) -> Vec<f32> {
        let rows: Vec<_> = (start..end).map(|i| CachedRow { slot, length: i + 1 }).collect();
        let at = start * self.width()..end * self.width();
        let mut out = vec![7.0; at.len()];
        let [q, k, v] = [&self.q, &self.k, &self.v].map(|x| &x[at.clone()]);
        cache.step(Step { q, k, v }, 0.3, &rows, &mut out);
        out
    }
}

#[test]
fn steps_of_any_size_have_the_bits_of_the_whole_pass() {
    on_every_isa(|isa| {
        for head_dim in [5, 16, 64] {
            let length = 77;
            let history = History::new(length, head_dim, 1);
            let wholes = FORMATS.map(|format| history.whole(format, length));
            assert!(wholes[0] != wholes[1] && wholes[0] != wholes[2]);
            for threads in [1, 2, 4] {
                let check = |format, whole: &[f32], step| {
                    let mut cache = KvCache::new(HEADS, head_dim, format, &[3, length]);
                    let mut out = Vec::new();
                    for start in (0..length).step_by(step) {
                        let end = length.min(start + step);
                        out.extend(history.step(&mut cache, 1, start, end));
                    }
                    assert_same_bits(&out, whole, &format!("{} step {step}", isa.name()));
                };
                with_threads(threads, || {
                    for (format, whole) in FORMATS.into_iter().zip(&wholes) {
                        [1, 2, 3, 5, 6, 8, 13, 40, length]
                            .into_iter()
                            .for_each(|step| check(format, whole, step));
                    }
                });
            }
        }
    });
}

#[test]
fn rows_of_other_slots_change_nothing() {
    on_every_isa(|isa| {
        FORMATS.into_iter().for_each(|format| {
            let lengths = [40, 1, 33, 64];
            let histories: Vec<_> = (0..4).map(|s| History::new(lengths[s], 8, s as u64)).collect();
            let width = histories[0].width();
            let mut cache = KvCache::new(HEADS, 8, format, &lengths);
            for (slot, history) in histories.iter().enumerate() {
                history.step(&mut cache, slot, 0, lengths[slot]);
            }
            // Slot 0 twice in a row, then apart, and a row that sees nothing.
            let slots = [0, 0, 3, 1, 2, 0];
            let mut rows: Vec<_> =
                slots.iter().map(|&slot| CachedRow { slot, length: lengths[slot] }).collect();
            rows.push(CachedRow { slot: 2, length: 0 });
            let q: Vec<f32> = rows
                .iter()
                .flat_map(|row| &histories[row.slot].q[(row.length.max(1) - 1) * width..][..width])
                .copied()
                .collect();
            let mut out = vec![7.0; q.len()];
            cache.attend(&q, 0.3, &rows, &mut out);
            for (row, out) in rows.iter().zip(out.chunks(width)) {
                let whole = histories[row.slot].whole(format, lengths[row.slot]);
                match row.length {
                    0 => assert_same_bits(out, &vec![0.0; width], "a row that sees nothing"),
                    length => assert_same_bits(out, &whole[(length - 1) * width..], isa.name()),
                }
            }
        })
    });
}

#[test]
fn a_step_stores_and_attends_for_each_slot() {
    on_every_isa(|isa| {
        for (threads, format) in [1, 2, 4].into_iter().flat_map(|n| FORMATS.map(|f| (n, f))) {
            let length = 41;
            let histories: Vec<_> = (0..12).map(|s| History::new(length, 64, s)).collect();
            let mut cache = KvCache::new(HEADS, 64, format, &[length; 12]);
            // Slots take from 1 to 6 rows, in order and, last, out of order.
            let (mut lengths, mut outs) = ([0; 12], vec![Vec::new(); 12]);
            for count in (1..=6).chain([7, 2, 4, 5]) {
                let count_of = |slot: usize| if count > 6 { count } else { (slot + count) % 6 + 1 };
                let mut slots: Vec<_> = (0..12).collect();
                if count == 4 {
                    slots.reverse();
                }
                let (mut rows, mut inputs) = (Vec::new(), [(); 3].map(|()| Vec::new()));
                for &slot in &slots {
                    let end = length.min(lengths[slot] + count_of(slot));
                    let History { q, k, v, .. } = &histories[slot];
                    let at = lengths[slot] * HEADS * 64..end * HEADS * 64;
                    for (all, new) in inputs.iter_mut().zip([q, k, v]) {
                        all.extend_from_slice(&new[at.clone()]);
                    }
                    rows.extend((lengths[slot]..end).map(|i| CachedRow { slot, length: i + 1 }));
                    lengths[slot] = end;
                }
                let [q, k, v] = &inputs;
                let mut out = vec![7.0; q.len()];
                with_threads(threads, || cache.step(Step { q, k, v }, 0.3, &rows, &mut out));
                for (row, out) in rows.iter().zip(out.chunks_exact(HEADS * 64)) {
                    outs[row.slot].extend_from_slice(out);
                }
            }
            for ((history, out), length) in histories.iter().zip(&outs).zip(lengths) {
                assert_same_bits(out, &history.whole(format, length), isa.name());
            }
        }
    });
}

#[test]
fn reordering_copies_histories_all_at_once() {
    on_every_isa(|isa| {
        FORMATS.into_iter().for_each(|format| {
            let length = 35;
            let histories: Vec<_> = (0..4).map(|s| History::new(length + 1, 8, s)).collect();
            let mut cache = KvCache::new(HEADS, 8, format, &[length + 1; 4]);
            for (slot, history) in histories.iter().enumerate() {
                history.step(&mut cache, slot, 0, length);
            }
            // A swap, a copy, and one that stays; then back through the spare slots.
            let mut owners = [0, 1, 2, 3];
            for moves in [[(0, 1), (1, 0), (2, 0), (3, 3)], [(0, 2), (1, 3), (2, 2), (3, 1)]] {
                cache.reorder(&moves, &[length; 4]);
                let before = owners;
                for (destination, origin) in moves {
                    owners[destination] = before[origin];
                }
                for (slot, &owner) in owners.iter().enumerate() {
                    let history: &History = &histories[owner];
                    let out = history.step(&mut cache, slot, length, length + 1);
                    let whole = history.whole(format, length + 1);
                    assert_same_bits(&out, &whole[length * history.width()..], isa.name());
                }
            }
            assert_eq!(cache.slots(), 4);
            assert_eq!(cache.capacity(2), length + 1);
        })
    });
}

#[test]
#[should_panic(expected = "capacity")]
fn a_full_slot_takes_no_more() {
    let history = History::new(5, 4, 0);
    history.step(&mut KvCache::new(HEADS, 4, None, &[4]), 0, 0, 5);
}

/// `cargo test --release bench_cached_steps -- --ignored --nocapture`
#[test]
#[ignore = "a measurement"]
fn bench_cached_steps() {
    let cases = [(64, 1), (512, 1), (512, 4)];
    for ((length, beams), format) in cases.into_iter().flat_map(|case| FORMATS.map(|f| (case, f))) {
        on_every_isa(|isa| {
            let width = 12 * 64;
            let mut cache = KvCache::new(12, 64, format, &[length]);
            let rows: Vec<_> = (1..=length).map(|length| CachedRow { slot: 0, length }).collect();
            cache.append(&noise(length * width, 1), &noise(length * width, 2), &rows);
            let (q, mut out) = (noise(beams * width, 3), vec![0.0; beams * width]);
            let rows = vec![CachedRow { slot: 0, length }; beams];
            let mut best = f64::INFINITY;
            for _ in 0..200 {
                let start = std::time::Instant::now();
                cache.attend(std::hint::black_box(&q), 0.125, &rows, &mut out);
                best = best.min(start.elapsed().as_secs_f64());
            }
            let size = if format.is_some() { 4 } else { 8 };
            let bytes = (size * length * width) as f64;
            println!(
                "{:7} {format:?} {beams} rows, {length} positions: {:.1} us, {:.0} GB/s",
                isa.name(),
                best * 1e6,
                bytes / best / 1e9,
            );
        });
    }
}
