//! Counter-based random numbers: a draw is a pure function of (seed, stream, index), so it is the
//! same on every device, for any number of threads, and in whatever order the draws are made.
//!
//! The generator is Philox4x32 with ten rounds (Salmon, Moraes, Dror and Shaw, "Parallel random
//! numbers: as easy as 1, 2, 3", SC 2011): it passes BigCrush and costs about twenty
//! multiplications for four words. Imports nothing of ours.

use std::f64::consts::TAU;

/// Multipliers and key increments of Philox4x32, as published.
const MULTIPLIERS: [u32; 2] = [0xD251_1F53, 0xCD9E_8D57];
const KEY_INCREMENTS: [u32; 2] = [0x9E37_79B9, 0xBB67_AE85];
const ROUNDS: usize = 10;

/// Words that keep the counters of [`Stream`] and of the normal draws apart from those of
/// [`uniform_u32`] under the same seed.
const SAMPLING_DOMAIN: u32 = 0x7361_6D70;
const NORMAL_DOMAIN: u32 = 0x6E6F_726D;

/// The Philox4x32-10 block function: four random words of a key and a counter.
#[inline]
pub fn philox(mut key: [u32; 2], mut counter: [u32; 4]) -> [u32; 4] {
    for _ in 0..ROUNDS {
        let first = u64::from(MULTIPLIERS[0]) * u64::from(counter[0]);
        let second = u64::from(MULTIPLIERS[1]) * u64::from(counter[2]);
        counter = [
            high(second) ^ counter[1] ^ key[0],
            low(second),
            high(first) ^ counter[3] ^ key[1],
            low(first),
        ];
        key = [key[0].wrapping_add(KEY_INCREMENTS[0]), key[1].wrapping_add(KEY_INCREMENTS[1])];
    }
    counter
}

/// The four words `4 * block .. 4 * block + 4` of a stream: what [`uniform_u32`] gives for those
/// indices, at the cost of one of them.
#[inline]
pub fn uniform_block(seed: u64, stream: u64, block: u64) -> [u32; 4] {
    philox(words(seed), [low(block), high(block), low(stream), high(stream)])
}

/// Word `index` of a stream, uniform over all `u32`.
#[inline]
pub fn uniform_u32(seed: u64, stream: u64, index: u64) -> u32 {
    uniform_block(seed, stream, index / 4)[(index % 4) as usize]
}

/// A word as a number in [0, 1): its upper 24 bits, so that every value is exact in f32.
#[inline]
pub fn unit_f32(word: u32) -> f32 {
    (word >> 8) as f32 * (1.0 / 16_777_216.0)
}

/// The random numbers of one step of one sequence.
#[derive(Clone, Debug)]
pub struct Stream {
    key: [u32; 2],
    step: u64,
    next_block: u64,
    words: [u32; 4],
    used: usize,
}

impl Stream {
    /// The numbers of step `step` of sequence `sequence` under `seed`.
    pub fn new(seed: u64, sequence: u64, step: u64) -> Self {
        Self { key: Self::key(seed, sequence), step, next_block: 0, words: [0; 4], used: 4 }
    }

    /// The key of the numbers of a sequence, whatever the step.
    pub fn key(seed: u64, sequence: u64) -> [u32; 2] {
        derived_key(seed, sequence, SAMPLING_DOMAIN)
    }

    /// The next word, uniform over all `u32`.
    pub fn next_u32(&mut self) -> u32 {
        if self.used == self.words.len() {
            let (block, step) = (self.next_block, self.step);
            self.words = philox(self.key, [low(block), high(block), low(step), high(step)]);
            self.next_block += 1;
            self.used = 0;
        }
        self.used += 1;
        self.words[self.used - 1]
    }

    /// The next number in [0, 1), a multiple of 2^-24.
    pub fn next_f32(&mut self) -> f32 {
        unit_f32(self.next_u32())
    }

    /// The next number in [0, 1), a multiple of 2^-53; takes two words.
    pub fn next_f64(&mut self) -> f64 {
        let (upper, lower) = (u64::from(self.next_u32()), u64::from(self.next_u32()));
        ((upper << 21) | (lower >> 11)) as f64 * (1.0 / 9_007_199_254_740_992.0)
    }
}

/// Fills `out` with normal draws of mean 0 and the given standard deviation; element `i` depends
/// on (`seed`, `stream`, `i`) only.
pub fn fill_normal(seed: u64, stream: u64, deviation: f32, out: &mut [f32]) {
    let key = derived_key(seed, stream, NORMAL_DOMAIN);
    for (index, value) in out.iter_mut().enumerate() {
        *value = (normals(key, index as u64, 0)[0] * f64::from(deviation)) as f32;
    }
}

/// Elements `first..first + out.len()` of an array like that of [`fill_normal`], where what lies
/// more than two deviations from 0 is drawn again (the truncated normal of Keras' initialisers;
/// `deviation` is that of the normal before the cut). Parts may be filled in any order.
pub fn fill_truncated_normal(seed: u64, stream: u64, first: u64, deviation: f32, out: &mut [f32]) {
    let key = derived_key(seed, stream, NORMAL_DOMAIN);
    let mut block = (u64::MAX, [0.0; 4]);
    for (index, value) in (first..).zip(out) {
        // Four elements share a block of draws; one that lies outside takes the next block's.
        if block.0 != index / 4 {
            block = (index / 4, normals(key, index / 4, 0));
        }
        let place = (index % 4) as usize;
        let mut draw = block.1[place];
        let mut attempt = 1;
        while draw.abs() >= 2.0 {
            draw = normals(key, index / 4, attempt)[place];
            attempt += 1;
        }
        *value = (draw * f64::from(deviation)) as f32;
    }
}

/// Four standard normal draws by the Box-Muller transform, in f64 so that rounding to f32 hides
/// the last-bit differences between mathematics libraries.
fn normals(key: [u32; 2], index: u64, attempt: u32) -> [f64; 4] {
    let [a, b, c, d] = philox(key, [low(index), high(index), attempt, 0]);
    let [first, second] = box_muller(a, b);
    let [third, fourth] = box_muller(c, d);
    [first, second, third, fourth]
}

fn box_muller(radius: u32, angle: u32) -> [f64; 2] {
    // (word + 0.5) / 2^32 lies strictly between 0 and 1, so the logarithm is finite.
    let unit = |word: u32| (f64::from(word) + 0.5) / 4_294_967_296.0;
    let radius = (-2.0 * unit(radius).ln()).sqrt();
    let (sine, cosine) = (TAU * unit(angle)).sin_cos();
    [radius * cosine, radius * sine]
}

/// A key of its own for each (seed, stream, use).
fn derived_key(seed: u64, stream: u64, domain: u32) -> [u32; 2] {
    let [first, second, ..] = philox(words(seed), [low(stream), high(stream), domain, domain]);
    [first, second]
}

fn words(value: u64) -> [u32; 2] {
    [low(value), high(value)]
}

fn low(value: u64) -> u32 {
    value as u32
}

fn high(value: u64) -> u32 {
    (value >> 32) as u32
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Known answers published with the generator (Random123, `kat_vectors`).
    #[test]
    fn philox_gives_the_published_words() {
        assert_eq!(philox([0; 2], [0; 4]), [0x6627_e8d5, 0xe169_c58d, 0xbc57_ac4c, 0x9b00_dbd8]);
        assert_eq!(
            philox([u32::MAX; 2], [u32::MAX; 4]),
            [0x408f_276d, 0x41c8_3b0e, 0xa20b_c7c6, 0x6d54_51fd]
        );
        assert_eq!(
            philox(
                [0xa409_3822, 0x299f_31d0],
                [0x243f_6a88, 0x85a3_08d3, 0x1319_8a2e, 0x0370_7344]
            ),
            [0xd16c_fe09, 0x94fd_cceb, 0x5001_e420, 0x2412_6ea1]
        );
    }

    #[test]
    fn blocks_and_single_words_agree() {
        for index in 0..16 {
            assert_eq!(
                uniform_u32(7, 3, index),
                uniform_block(7, 3, index / 4)[(index % 4) as usize]
            );
        }
        assert_ne!(uniform_u32(7, 3, 0), uniform_u32(7, 4, 0));
        assert_ne!(uniform_u32(7, 3, 0), uniform_u32(8, 3, 0));
        assert_ne!(uniform_u32(7, 3, 0), uniform_u32(7, 3 << 32, 0));
        assert_ne!(uniform_u32(7, 3, 0), uniform_u32(7 << 32, 3, 0));
    }

    #[test]
    fn streams_repeat_and_differ() {
        let draw = |seed, sequence, step| {
            let mut stream = Stream::new(seed, sequence, step);
            [(); 9].map(|()| stream.next_u32())
        };
        assert_eq!(draw(1, 2, 3), draw(1, 2, 3));
        for other in [draw(2, 2, 3), draw(1, 3, 3), draw(1, 2, 4), draw(1, 2 << 32, 3)] {
            assert_ne!(draw(1, 2, 3), other);
        }
    }

    #[test]
    fn units_stay_below_one_and_are_uniform() {
        assert_eq!(unit_f32(0), 0.0);
        assert_eq!(unit_f32(u32::MAX), 1.0 - 2.0f32.powi(-24));
        let mut counts = [0u32; 16];
        let mut stream = Stream::new(11, 0, 0);
        for _ in 0..16_000 {
            counts[(stream.next_f32() * 16.0) as usize] += 1;
            let wide = stream.next_f64();
            assert!((0.0..1.0).contains(&wide));
        }
        let chi_square: f64 =
            counts.iter().map(|&count| (f64::from(count) - 1000.0).powi(2) / 1000.0).sum();
        // 37.7 is exceeded once in a thousand seeds at 15 degrees of freedom.
        assert!(chi_square < 37.7, "chi-square {chi_square}");
    }

    #[test]
    fn normal_draws_have_the_moments_asked_for() {
        let mut draws = vec![0.0f32; 20_000];
        fill_normal(5, 0, 0.5, &mut draws);
        let moment = |power| {
            draws.iter().map(|&x| f64::from(x).powi(power)).sum::<f64>() / draws.len() as f64
        };
        assert!(moment(1).abs() < 0.015, "mean {}", moment(1));
        assert!((moment(2) - 0.25).abs() < 0.01, "variance {}", moment(2));
        assert!((moment(4) / moment(2).powi(2) - 3.0).abs() < 0.2, "kurtosis {}", moment(4));

        let mut prefix = vec![0.0f32; 10];
        fill_normal(5, 0, 0.5, &mut prefix);
        assert_eq!(prefix, draws[..10]);
    }

    #[test]
    fn truncated_draws_stay_within_two_deviations() {
        let mut draws = vec![0.0f32; 20_000];
        fill_truncated_normal(5, 0, 0, 0.02, &mut draws);
        let mut part = vec![0.0; 10];
        fill_truncated_normal(5, 0, 7, 0.02, &mut part);
        assert_eq!(part, draws[7..17]);
        assert!(draws.iter().all(|x| x.abs() < 0.04));
        let variance =
            draws.iter().map(|&x| f64::from(x).powi(2)).sum::<f64>() / draws.len() as f64;
        // Cutting a standard normal at 2 leaves variance 0.7737.
        assert!((variance / 0.0004 - 0.7737).abs() < 0.02, "variance {variance}");
    }
}
