//! Dropout by a counter-based generator: whether element i is kept is a pure function of
//! (seed, stream, i), so the backward pass draws again instead of remembering, and any device and
//! thread count draws the same (Srivastava et al., "Dropout", 2014, in its inverted form).

use super::isa::{Kernel, Simd, with_isa};
use super::{lanes, parallel};
use crate::random;

/// Elements a worker should have before another is woken: drawing costs some 2 ns an element.
const GRAIN: usize = 4 * 1024;
/// Factors drawn at a time: 16 generator blocks of 4 words, enough to fill vectors.
pub(crate) const DRAWN: usize = 64;

/// Which elements of one array are dropped.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Dropout {
    /// Share of elements set to 0, in [0, 1). The others are divided by 1 - `probability`.
    pub probability: f32,
    /// Seed of the run.
    pub seed: u64,
    /// Tells the uses of one seed apart: every (step, place in the model) needs its own.
    pub stream: u64,
}

impl Dropout {
    /// Whether element `index` is kept: word `index` of the stream is at least
    /// `probability` * 2^32.
    #[inline]
    pub fn keeps(&self, index: u64) -> bool {
        random::uniform_u32(self.seed, self.stream, index) >= self.threshold()
    }

    /// What element `index` is multiplied by: 0, or 1 / (1 - `probability`).
    #[inline]
    pub fn factor(&self, index: u64) -> f32 {
        if self.keeps(index) { self.kept_factor() } else { 0.0 }
    }

    pub(super) fn kept_factor(&self) -> f32 {
        1.0 / (1.0 - self.probability)
    }

    pub(super) fn threshold(&self) -> u32 {
        // A cast to u32 saturates, so 1 - 2^-33 and more drop all but one word in 2^32.
        (f64::from(self.probability) * 4_294_967_296.0) as u32
    }

    /// Factors of the [`DRAWN`] elements from `first`, a multiple of 4. Written over whole arrays,
    /// so that the compiler runs the generator's blocks side by side.
    #[inline(always)]
    pub(crate) fn draw(&self, first: u64, factors: &mut [f32; DRAWN]) {
        debug_assert!(first.is_multiple_of(4));
        let (threshold, kept) = (self.threshold(), self.kept_factor());
        for (block, factors) in factors.as_chunks_mut::<4>().0.iter_mut().enumerate() {
            let words = random::uniform_block(self.seed, self.stream, first / 4 + block as u64);
            *factors = words.map(|word| if word >= threshold { kept } else { 0.0 });
        }
    }
}

/// `out[i] = x[i] * dropout.factor(i)`. The backward pass is the same function of the gradient.
pub fn apply(dropout: &Dropout, x: &[f32], out: &mut [f32]) {
    assert_eq!(x.len(), out.len(), "dropout: x and out");
    parallel::map(out, GRAIN, |isa, range, out| {
        let first = range.start as u64;
        with_isa(isa, Apply { dropout, first, x: &x[range], out });
    });
}

/// Elements from `first` on (a multiple of [`parallel`]'s alignment).
struct Apply<'a> {
    dropout: &'a Dropout,
    first: u64,
    x: &'a [f32],
    out: &'a mut [f32],
}

impl Kernel for Apply<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let mut factors = [0.0; DRAWN];
        let blocks = self.x.chunks(DRAWN).zip(self.out.chunks_mut(DRAWN));
        for (block, (x, out)) in blocks.enumerate() {
            self.dropout.draw(self.first + (block * DRAWN) as u64, &mut factors);
            let inputs = x.chunks(S::LANES).zip(factors.chunks(S::LANES));
            for (out, (x, factor)) in out.chunks_mut(S::LANES).zip(inputs) {
                lanes::store(s, out, s.mul(lanes::load(s, x), lanes::load(s, factor)));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::parallel::with_threads;
    use super::super::testing::{assert_same_bits, noise, on_every_isa};
    use super::*;

    const DROPOUT: Dropout = Dropout { probability: 0.1, seed: 5, stream: 3 };

    #[test]
    fn every_element_follows_its_own_word() {
        on_every_isa(|isa| {
            for len in (0..140).chain([GRAIN * 3 + 7]) {
                let x = noise(len, 1);
                let naive: Vec<f32> = (0..).zip(&x).map(|(i, x)| x * DROPOUT.factor(i)).collect();
                for threads in [1, 2, 4] {
                    let mut out = vec![7.0; len];
                    with_threads(threads, || apply(&DROPOUT, &x, &mut out));
                    assert_same_bits(&out, &naive, isa.name());
                }
            }
        });
    }

    #[test]
    fn the_share_dropped_is_the_probability() {
        for probability in [0.0, 0.1, 0.5, 0.9] {
            let dropout = Dropout { probability, ..DROPOUT };
            let dropped = (0..100_000).filter(|&i| !dropout.keeps(i)).count() as f64;
            let (p, n) = (f64::from(probability), 100_000.0);
            let deviation = (p * (1.0 - p) * n).sqrt();
            assert!((dropped - p * n).abs() <= 4.0 * deviation, "{probability}: {dropped}");
            assert_eq!(dropout.kept_factor(), 1.0 / (1.0 - probability));
        }
    }

    /// `cargo test --release bench_dropout -- --ignored --nocapture`
    #[test]
    #[ignore = "a measurement"]
    fn bench_dropout() {
        let (x, mut out) = (noise(1 << 20, 1), vec![0.0; 1 << 20]);
        on_every_isa(|isa| {
            let mut best = f64::INFINITY;
            with_threads(1, || {
                for _ in 0..20 {
                    let start = std::time::Instant::now();
                    apply(&DROPOUT, std::hint::black_box(&x), &mut out);
                    best = best.min(start.elapsed().as_secs_f64());
                }
            });
            println!(
                "{:7} {:.2} ns an element, one thread",
                isa.name(),
                best * 1e9 / x.len() as f64
            );
        });
    }
}
