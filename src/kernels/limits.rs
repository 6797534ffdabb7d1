//! What this machine can do at best, measured the moment it is asked, for the benches: processors
//! differ, and so do neighbours, so a time means little without the limit beside it.

use std::hint::black_box;
use std::time::Instant;

use super::int8_tile::{GROUP, Int8Tile, MOST_ROWS};
use super::isa::{self, Kernel, Simd};
use super::pack::PANEL;
use super::team;

/// Floats of the buffer that is read: 256 MiB, far more than any cache it could stay in.
const BUFFER_LEN: usize = 64 << 20;
/// Floats that are asked for in advance, as products do with weights.
const AHEAD: usize = 2 << 10;
/// Parts a thread reads or computes: one that is interrupted leaves the rest to the others.
const PARTS_PER_THREAD: usize = 8;
/// Independent chains: two units of latency four need eight, and they fit sixteen registers.
const CHAINS: usize = 12;

/// Reads memory with all threads of the team and returns bytes per second: the best of `rounds`.
pub fn memory_read_bandwidth(rounds: usize) -> f64 {
    // Not zeros: untouched zero pages are one page to the system.
    let data = vec![1.0_f32; BUFFER_LEN];
    let isa = isa::current();
    let parts = team::num_threads() * PARTS_PER_THREAD;
    let len = BUFFER_LEN / parts;
    let best = best_seconds(rounds, || {
        team::run(parts, &|part| {
            black_box(isa::with_isa(isa, Sum(&data[part * len..][..len])));
        });
    });
    (parts * len * size_of::<f32>()) as f64 / best
}

/// Multiplies and adds in registers with all threads of the team and returns floating point
/// operations per second (two a multiply-add): the best of `rounds`.
pub fn multiply_add_peak(rounds: usize) -> f64 {
    const STEPS: usize = 1 << 17;
    let isa = isa::current();
    let parts = team::num_threads() * PARTS_PER_THREAD;
    let mut lanes = 0;
    let best = best_seconds(rounds, || {
        lanes = isa::with_isa(isa, Lanes);
        team::run(parts, &|_| {
            black_box(isa::with_isa(isa, Chains { steps: STEPS, factor: black_box(0.5) }));
        });
    });
    (parts * STEPS * CHAINS * lanes * 2) as f64 / best
}

/// Multiplies and adds bytes with all threads of the team and returns operations per second (two a
/// multiply-add): the best of `rounds`. The tiles are tall, and so shallow that all they read stays in
/// the first-level cache.
pub fn int8_multiply_add_peak(rounds: usize) -> f64 {
    const STEPS: usize = 1 << 12;
    let isa = isa::current();
    let parts = team::num_threads() * PARTS_PER_THREAD;
    let mut rows = 0;
    let best = best_seconds(rounds, || {
        rows = isa::with_isa(isa, Int8Tiles { steps: 1 });
        team::run(parts, &|_| {
            black_box(isa::with_isa(isa, Int8Tiles { steps: STEPS }));
        });
    });
    (parts * STEPS * rows * SHALLOW * GROUP * PANEL * 2) as f64 / best
}

/// The shortest of `rounds` runs (one at least), in seconds. The workers are awake meanwhile.
pub fn best_seconds(rounds: usize, mut work: impl FnMut()) -> f64 {
    let _session = team::session();
    let mut best = f64::INFINITY;
    for _ in 0..rounds.max(1) {
        let started = Instant::now();
        work();
        best = best.min(started.elapsed().as_secs_f64());
    }
    best
}

/// Sums a slice, as fast as it can be read.
struct Sum<'a>(&'a [f32]);

impl Kernel for Sum<'_> {
    type Output = f32;

    #[inline(always)]
    fn run<S: Simd>(self, s: S) -> f32 {
        let mut sums = [s.zero(); 8];
        for block in self.0.chunks_exact(8 * S::LANES) {
            for line in (0..8 * S::LANES).step_by(16) {
                s.prefetch(block.as_ptr().wrapping_add(AHEAD + line));
            }
            for (i, sum) in sums.iter_mut().enumerate() {
                // SAFETY: the block holds eight vectors.
                *sum = s.add(*sum, unsafe { s.load(block.as_ptr().add(i * S::LANES)) });
            }
        }
        let mut total = 0.0;
        for sum in sums {
            total += s.reduce_add(sum);
        }
        total
    }
}

/// Multiply-adds on nothing but registers.
struct Chains {
    steps: usize,
    factor: f32,
}

impl Kernel for Chains {
    type Output = f32;

    #[inline(always)]
    fn run<S: Simd>(self, s: S) -> f32 {
        let factor = s.splat(self.factor);
        let mut chains = [s.splat(1.0); CHAINS];
        for _ in 0..self.steps {
            for chain in &mut chains {
                *chain = s.fma(*chain, factor, factor);
            }
        }
        let mut total = 0.0;
        for chain in chains {
            total += s.reduce_add(chain);
        }
        total
    }
}

/// Groups of inputs in a tile that stays in the first-level cache.
const SHALLOW: usize = 32;

/// Tall, shallow tiles of bytes; gives their height.
struct Int8Tiles {
    steps: usize,
}

impl Kernel for Int8Tiles {
    type Output = usize;

    #[inline(always)]
    fn run<S: Simd>(self, s: S) -> usize {
        let inputs = black_box([0x0102_0304_u32; SHALLOW * MOST_ROWS]);
        let weights = black_box([130_u8; SHALLOW * PANEL * GROUP]);
        let start = [0_i32; MOST_ROWS];
        let mut sums = [0_i32; MOST_ROWS * PANEL];
        for _ in 0..self.steps {
            let tile = Int8Tile {
                a: inputs.as_ptr(),
                b: weights.as_ptr(),
                groups: SHALLOW,
                start: start.as_ptr(),
                sums: sums.as_mut_ptr(),
                ahead: weights.as_ptr(),
            };
            // SAFETY: the arrays hold the tallest tile; these heights are what `int8_rows` gives.
            unsafe {
                match s.int8_rows() {
                    4 => s.int8_tile::<4>(tile),
                    6 => s.int8_tile::<6>(tile),
                    8 => s.int8_tile::<8>(tile),
                    _ => s.int8_tile::<12>(tile),
                }
            }
        }
        black_box(&sums);
        s.int8_rows()
    }
}

/// Floats in a vector.
struct Lanes;

impl Kernel for Lanes {
    type Output = usize;

    #[inline(always)]
    fn run<S: Simd>(self, _: S) -> usize {
        S::LANES
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernels::testing::on_every_isa;

    #[test]
    fn the_measured_work_is_done() {
        on_every_isa(|isa| {
            let data: Vec<f32> = (0..1024).map(|i| (i % 7) as f32).collect();
            assert_eq!(isa::with_isa(isa, Sum(&data)), data.iter().sum::<f32>());
            // x -> x / 2 + 1 / 2 stays at 1.
            let lanes = isa::with_isa(isa, Lanes);
            let total = isa::with_isa(isa, Chains { steps: 100, factor: 0.5 });
            assert_eq!(total, (CHAINS * lanes) as f32);
        });
    }

    #[test]
    fn the_best_of_several_runs_counts() {
        let mut runs = 0;
        let best = best_seconds(3, || runs += 1);
        assert!(runs == 3 && (0.0..1.0).contains(&best));
    }
}
