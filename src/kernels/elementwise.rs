//! Element-by-element passes over arrays of one length. Limit: memory bandwidth.

use super::isa::{Kernel, Simd, with_isa};
use super::{lanes, parallel};

/// Elements a worker should have before another is woken.
const GRAIN: usize = 32 * 1024;
/// Elements of one partial sum of [`sum_of_squares`]; fixed, so that the sum is.
const BLOCK: usize = 4096;

/// `out[i] = a[i] + b[i]`
pub fn add(a: &[f32], b: &[f32], out: &mut [f32]) {
    assert_eq!((a.len(), b.len()), (out.len(), out.len()), "add: lengths");
    parallel::map(out, GRAIN, |isa, range, out| {
        out.copy_from_slice(&a[range.clone()]);
        // One rounding: the product with 1 is exact.
        with_isa(isa, Axpy { a: 1.0, x: &b[range], y: out });
    });
}

/// `y[i] += x[i]`
pub fn add_assign(y: &mut [f32], x: &[f32]) {
    axpy(1.0, x, y);
}

/// `y[i] += a * x[i]`, one rounding.
pub fn axpy(a: f32, x: &[f32], y: &mut [f32]) {
    assert_eq!(x.len(), y.len(), "axpy: lengths");
    parallel::map(y, GRAIN, |isa, range, y| with_isa(isa, Axpy { a, x: &x[range], y }));
}

/// `x[i] *= a`
pub fn scale(x: &mut [f32], a: f32) {
    parallel::map(x, GRAIN, |isa, _, x| with_isa(isa, Scale { a, x }));
}

/// `x[i] /= a`
pub fn divide(x: &mut [f32], a: f32) {
    parallel::map(x, GRAIN, |isa, _, x| with_isa(isa, Divide { a, x }));
}

/// The sum of squares in f64: element i of a block of 4096 goes to sum i mod 16, these are added
/// from the first to the last, then the blocks, so the result depends on the values alone. Not
/// finite if an element is not.
pub fn sum_of_squares(x: &[f32]) -> f64 {
    let mut partial = vec![0.0_f64; x.len().div_ceil(BLOCK)];
    parallel::map(&mut partial, (GRAIN / BLOCK).max(1), |isa, range, partial| {
        for (block, sum) in range.zip(partial) {
            let block = &x[block * BLOCK..x.len().min((block + 1) * BLOCK)];
            *sum = with_isa(isa, SquareSum(block));
        }
    });
    partial.iter().fold(0.0, |total, sum| total + sum)
}

struct Axpy<'a> {
    a: f32,
    x: &'a [f32],
    y: &'a mut [f32],
}

impl Kernel for Axpy<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let a = s.splat(self.a);
        for (x, y) in self.x.chunks(S::LANES).zip(self.y.chunks_mut(S::LANES)) {
            lanes::store(s, y, s.fma(a, lanes::load(s, x), lanes::load(s, y)));
        }
    }
}

struct Scale<'a> {
    a: f32,
    x: &'a mut [f32],
}

impl Kernel for Scale<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        for x in self.x.chunks_mut(S::LANES) {
            lanes::store(s, x, s.mul(lanes::load(s, x), s.splat(self.a)));
        }
    }
}

struct Divide<'a> {
    a: f32,
    x: &'a mut [f32],
}

impl Kernel for Divide<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        for x in self.x.chunks_mut(S::LANES) {
            lanes::store(s, x, s.div(lanes::load(s, x), s.splat(self.a)));
        }
    }
}

struct SquareSum<'a>(&'a [f32]);

impl Kernel for SquareSum<'_> {
    type Output = f64;

    /// In plain Rust: the vectors of `Simd` hold f32. The compiler makes vectors of the set in use.
    #[inline(always)]
    fn run<S: Simd>(self, _: S) -> f64 {
        let mut sums = [0.0_f64; 16];
        let (blocks, rest) = self.0.as_chunks::<16>();
        for block in blocks {
            for (sum, &x) in sums.iter_mut().zip(block) {
                *sum += f64::from(x) * f64::from(x);
            }
        }
        for (sum, &x) in sums.iter_mut().zip(rest) {
            *sum += f64::from(x) * f64::from(x);
        }
        let mut total = 0.0;
        for sum in sums {
            total += sum;
        }
        total
    }
}

#[cfg(test)]
mod tests {
    use super::super::parallel::with_threads;
    use super::super::testing::{assert_same_bits, noise, on_every_isa};
    use super::*;

    fn lengths() -> impl Iterator<Item = usize> {
        (0..70).chain([GRAIN * 4 + 3])
    }

    #[test]
    fn passes_equal_their_formula_to_the_bit() {
        on_every_isa(|isa| {
            for len in lengths() {
                let (a, b) = (noise(len, 1), noise(len, 2));
                let sums: Vec<f32> = a.iter().zip(&b).map(|(a, b)| a + b).collect();
                let mut out = vec![7.0; len];
                add(&a, &b, &mut out);
                assert_same_bits(&out, &sums, isa.name());
                let mut assigned = a.clone();
                add_assign(&mut assigned, &b);
                assert_same_bits(&assigned, &sums, isa.name());

                let mut scaled = a.clone();
                scale(&mut scaled, 0.3);
                assert_same_bits(&scaled, &a.iter().map(|a| a * 0.3).collect::<Vec<_>>(), "scale");
                divide(&mut scaled, 0.3);
                let back: Vec<f32> = a.iter().map(|a| a * 0.3 / 0.3).collect();
                assert_same_bits(&scaled, &back, "divide");
                // A power of two, so that one rounding and two are the same.
                let mut moved = a.clone();
                axpy(-0.25, &b, &mut moved);
                let exact: Vec<f32> = a.iter().zip(&b).map(|(a, b)| a - 0.25 * b).collect();
                assert_same_bits(&moved, &exact, isa.name());
            }
        });
    }

    #[test]
    fn sum_of_squares_is_close_and_the_same_for_any_team() {
        on_every_isa(|isa| {
            for len in lengths().chain([BLOCK - 1, BLOCK, BLOCK + 1]) {
                let x = noise(len, 3);
                let exact: f64 = x.iter().map(|&x| f64::from(x).powi(2)).sum();
                let once = with_threads(1, || sum_of_squares(&x));
                assert!((once - exact).abs() <= 1e-12 * exact, "{} {len}", isa.name());
                for threads in [2, 4] {
                    let more = with_threads(threads, || sum_of_squares(&x));
                    assert_eq!(once.to_bits(), more.to_bits());
                }
            }
            assert!(sum_of_squares(&[1.0, f32::NAN]).is_nan());
            assert_eq!(sum_of_squares(&[]).to_bits(), 0);
        });
    }
}
