//! Instruction sets: what a vector can do ([`Simd`]), who may use which ([`Isa`]), and how a kernel
//! gets compiled for one ([`dispatch`]).
//!
//! A kernel is a struct of borrowed inputs with a generic `run`, marked `#[inline(always)]` like
//! everything it calls, so that it melts into the one function that turns the processor's features
//! on. **A closure does not melt**: it is a function of its own, compiled without those features, and
//! vectors inside it are slow. Hence the shape of every parallel kernel: read [`current`] once on the
//! calling thread, and inside each part of `team::run` call [`with_isa`] with a kernel struct.
//!
//! | name | needs | floats in a vector |
//! |---|---|---|
//! | `avx512` | AVX-512 F, BW, DQ, VL and FMA | 16 |
//! | `avx2` | AVX2, FMA and F16C | 8 |
//! | `neon` | aarch64 (always present) | 4 |
//! | `scalar` | nothing | 8, as an array |
//!
//! The best one present is chosen once. `BART_FAST_ISA` forces a lower one; with `-plain` behind its name
//! (`avx2-plain`) without what some processors add to it, 8-bit products above all (VNNI, `dotprod`) and
//! those of bfloat16.

use std::sync::OnceLock;

use super::arch::scalar::Scalar;
use super::int8_tile::{self, Int8Tile};
use super::pairs;
use crate::error::{Error, Result};

#[cfg(target_arch = "aarch64")]
use super::arch::neon::Neon;
#[cfg(target_arch = "x86_64")]
use super::arch::{avx2::Avx2, avx512::Avx512};

/// Vectors of `f32` on one instruction set. A value of an implementing type is the proof that the
/// processor has it: the types have private fields and constructors that look first.
///
/// `min`, `max` and `select_gt` are what the comparison says and no more: `max(a, b)` is `a > b ? a
/// : b`, so a NaN in either gives `b`.
///
/// # Safety of the pointer methods
/// - `load`, `store`, `load_i32`, `store_i8`, `load_bf16`, `load_f16`, `store_bf16`, `store_f16`: the pointer is
///   valid for `LANES` numbers.
/// - `load_part`, `store_part`: the pointer is valid for `count` floats, `count <= LANES`.
/// - `transpose8`: each of the eight source pointers is valid for 8 floats, and so is
///   `destination + j * stride` for `j` in 0..8.
/// - `dot_pairs`, `narrow_pairs`, `join_pairs`, which have no pointers: [`Simd::pairs`] is not `Missing`.
///
/// No alignment is asked for.
#[allow(clippy::missing_safety_doc)] // Stated once, above, for all of them.
pub trait Simd: Copy + Send + Sync + 'static {
    /// A vector of `LANES` floats.
    type V: Copy;
    /// Floats in a vector.
    const LANES: usize;
    /// The name that `BART_FAST_ISA` takes.
    const NAME: &'static str;
    /// Rows of the product tile that keeps the registers full (see `gemm_microkernel`).
    const TILE_ROWS: usize;
    /// Vectors in a row of that tile.
    const TILE_VECTORS: usize;

    /// The instruction set's name.
    #[inline(always)]
    fn name(self) -> &'static str {
        Self::NAME
    }

    /// `x` in every lane.
    fn splat(self, x: f32) -> Self::V;
    /// Zero in every lane.
    #[inline(always)]
    fn zero(self) -> Self::V {
        self.splat(0.0)
    }
    /// The `LANES` floats at `from`.
    unsafe fn load(self, from: *const f32) -> Self::V;
    /// Writes all lanes to `to`.
    unsafe fn store(self, to: *mut f32, v: Self::V);
    /// The first `count` floats at `from`, zero in the other lanes.
    unsafe fn load_part(self, from: *const f32, count: usize) -> Self::V;
    /// Writes the first `count` lanes to `to`.
    unsafe fn store_part(self, to: *mut f32, v: Self::V, count: usize);

    /// Asks for the cache line at `at` to be brought into the second-level cache; any address will
    /// do, and nothing happens where the processor is not asked that way.
    #[inline(always)]
    fn prefetch(self, at: *const f32) {
        #[cfg(target_arch = "x86_64")]
        // SAFETY: SSE belongs to the x86-64 baseline, and a prefetch of any address is allowed.
        unsafe {
            std::arch::x86_64::_mm_prefetch::<{ std::arch::x86_64::_MM_HINT_T1 }>(at.cast());
        }
        #[cfg(not(target_arch = "x86_64"))]
        let _ = at;
    }

    /// `a + b`
    fn add(self, a: Self::V, b: Self::V) -> Self::V;
    /// `a - b`
    fn sub(self, a: Self::V, b: Self::V) -> Self::V;
    /// `a * b`
    fn mul(self, a: Self::V, b: Self::V) -> Self::V;
    /// `a / b`
    fn div(self, a: Self::V, b: Self::V) -> Self::V;
    /// `a > b ? a : b`
    fn max(self, a: Self::V, b: Self::V) -> Self::V;
    /// `a < b ? a : b`
    fn min(self, a: Self::V, b: Self::V) -> Self::V;
    /// `a * b + c`, rounded once (twice on `scalar` where the processor has no such instruction).
    fn fma(self, a: Self::V, b: Self::V, c: Self::V) -> Self::V;
    /// `-a`
    fn neg(self, a: Self::V) -> Self::V;
    /// `|a|`
    fn abs(self, a: Self::V) -> Self::V;
    /// Square root, correctly rounded.
    fn sqrt(self, a: Self::V) -> Self::V;
    /// The nearest whole number, ties to even.
    fn round(self, a: Self::V) -> Self::V;
    /// The largest whole number not above `a`.
    fn floor(self, a: Self::V) -> Self::V;
    /// `2^n` for whole `n` in -126..=127. Other values give an unspecified number.
    fn pow2i(self, n: Self::V) -> Self::V;
    /// `y * 2^n`, rounded once, for `y` near 1 and whole `n` in -200..=200: two steps reach subnormal
    /// results and infinity, and only the second can round.
    #[inline(always)]
    fn times_pow2(self, y: Self::V, n: Self::V) -> Self::V {
        let half = self.floor(self.mul(n, self.splat(0.5)));
        let rest = self.sub(n, half);
        self.mul(self.mul(y, self.pow2i(half)), self.pow2i(rest))
    }
    /// `a > b ? x : y`
    fn select_gt(self, a: Self::V, b: Self::V, x: Self::V, y: Self::V) -> Self::V;
    /// Sum of the lanes: the upper half is added to the lower until one is left.
    fn reduce_add(self, a: Self::V) -> f32;
    /// Largest lane (unspecified if one is NaN).
    fn reduce_max(self, a: Self::V) -> f32;

    /// `LANES` whole numbers at `from` as floats, rounded to the nearest.
    unsafe fn load_i32(self, from: *const i32) -> Self::V;

    /// Writes all lanes, whole numbers from -127 to 127, as bytes. Of other numbers something is
    /// written.
    unsafe fn store_i8(self, to: *mut i8, v: Self::V);

    /// `LANES` bfloat16 numbers at `from`, widened, which is exact.
    unsafe fn load_bf16(self, from: *const u16) -> Self::V;
    /// `LANES` float16 numbers at `from`, widened, which is exact.
    unsafe fn load_f16(self, from: *const u16) -> Self::V;
    /// Writes all lanes as bfloat16, rounded to the nearest, ties to even; NaN stays NaN.
    unsafe fn store_bf16(self, to: *mut u16, v: Self::V);
    /// Writes all lanes as float16, rounded likewise.
    unsafe fn store_f16(self, to: *mut u16, v: Self::V);

    /// How it computes with pairs of bfloat16 numbers.
    #[inline(always)]
    fn pairs(self) -> Pairs {
        Pairs::Plain
    }

    /// `sum + a.second * b.second`, rounded, and then `+ a.first * b.first`, rounded, for the pairs in the
    /// lanes of `a` and `b` (see [`pairs`]).
    #[inline(always)]
    unsafe fn dot_pairs(self, a: Self::V, b: Self::V, sum: Self::V) -> Self::V {
        pairs::dot(self, a, b, sum)
    }

    /// The lanes of `first` and then those of `second`, narrowed, as pairs of neighbours.
    #[inline(always)]
    unsafe fn narrow_pairs(self, first: Self::V, second: Self::V) -> Self::V {
        pairs::narrow(self, first, second)
    }

    /// Pairs of a lane of `first` and the same lane of `second`, narrowed.
    #[inline(always)]
    unsafe fn join_pairs(self, first: Self::V, second: Self::V) -> Self::V {
        pairs::join(self, first, second)
    }

    /// Rows of the 8-bit tile that keeps the registers full, at most
    /// [`int8_tile::MOST_ROWS`].
    #[inline(always)]
    fn int8_rows(self) -> usize {
        4
    }

    /// Computes a tile of `R` rows, at most [`Self::int8_rows`], in 8-bit integers.
    ///
    /// # Safety
    /// - `tile.a` is valid for `groups * R` groups of inputs, each from -127 to 127; `b` for
    ///   `groups * PANEL` groups of weights.
    /// - `start` is valid for `R` numbers and `sums` for `R * PANEL`; these overlap nothing.
    #[inline(always)]
    unsafe fn int8_tile<const R: usize>(self, tile: Int8Tile) {
        // SAFETY: the caller's duties are passed on.
        unsafe { int8_tile::plain::<R>(tile) }
    }

    /// Writes eight rows of eight floats as columns: `destination[j * stride + i] = rows[i][j]`.
    /// Rows of the destination are written whole and in ascending `j`, so that `stride` may be less
    /// than 8 where a later row is to overwrite the end of an earlier one.
    #[inline(always)]
    unsafe fn transpose8(self, rows: [*const f32; 8], destination: *mut f32, stride: usize) {
        for j in 0..8 {
            for (i, row) in rows.iter().enumerate() {
                // SAFETY: both indices are below 8, which the caller vouches for.
                unsafe { *destination.add(j * stride + i) = *row.add(j) };
            }
        }
    }

    /// `e^x` within 1.01 ULP (measured over every `f32`: 1.0095 with a fused multiply-add, 0.982
    /// without), infinite above 88.7228, subnormal and then zero below -87.34; NaN stays NaN.
    ///
    /// Method: `x = n ln 2 + r` with `|r| <= ln 2 / 2`, where ln 2 is split into a part short enough
    /// that `n` times it is exact and the rest (Cody and Waite, *Software Manual for the Elementary
    /// Functions*, 1980); `e^r = 1 + r + r^2 q(r)` with `q` of degree 4 fitted for the least largest
    /// relative error (2^-28.3); then [`Self::times_pow2`].
    #[inline(always)]
    fn exp(self, x: Self::V) -> Self::V {
        // In this operand order a NaN in `x` passes through both.
        let x = self.max(self.splat(EXP_LOWEST), x);
        let x = self.min(self.splat(EXP_HIGHEST), x);
        let n = self.round(self.mul(x, self.splat(std::f32::consts::LOG2_E)));
        let r = self.fma(n, self.splat(-LN2_HIGH), x);
        let r = self.fma(n, self.splat(-LN2_LOW), r);
        let mut q = self.splat(EXP_Q[4]);
        for c in EXP_Q[..4].iter().rev() {
            q = self.fma(q, r, self.splat(*c));
        }
        let y = self.add(self.fma(self.mul(r, r), q, r), self.splat(1.0));
        self.times_pow2(y, n)
    }
}

/// Below this `e^x` rounds to zero; the clamp keeps `2^n` in range.
const EXP_LOWEST: f32 = -104.0;
/// Above this `e^x` is infinite, and the clamp still is.
const EXP_HIGHEST: f32 = 89.0;
/// ln 2 to 10 bits: times a whole number below 2^14 it is exact.
const LN2_HIGH: f32 = 0.693_359_4;
/// ln 2 - [`LN2_HIGH`].
const LN2_LOW: f32 = -2.121_944_4e-4;
/// Coefficients of `q` in [`Simd::exp`], constant first: iteratively reweighted least squares on
/// the relative error over |r| <= ln 2 / 2, rounded to `f32`.
const EXP_Q: [f32; 5] = [0.499_999_94, 0.166_665_21, 0.041_668_39, 0.008_368_745, 0.001_381_454];

/// Work written once for all instruction sets: a struct of borrowed inputs.
pub trait Kernel {
    /// What it returns.
    type Output;
    /// The work. Mark it `#[inline(always)]`, and everything it calls with vectors.
    fn run<S: Simd>(self, simd: S) -> Self::Output;
}

/// An instruction set this machine has; to hold one is the permission to use it.
#[derive(Clone, Copy, Debug)]
pub enum Isa {
    /// Plain Rust.
    Scalar(Scalar),
    /// AVX2 with FMA.
    #[cfg(target_arch = "x86_64")]
    Avx2(Avx2),
    /// AVX-512 F, BW, DQ and VL.
    #[cfg(target_arch = "x86_64")]
    Avx512(Avx512),
    /// Advanced SIMD of aarch64.
    #[cfg(target_arch = "aarch64")]
    Neon(Neon),
}

impl Isa {
    /// The name that `BART_FAST_ISA` takes.
    pub fn name(self) -> &'static str {
        match self {
            Isa::Scalar(s) => s.name(),
            #[cfg(target_arch = "x86_64")]
            Isa::Avx2(s) => s.name(),
            #[cfg(target_arch = "x86_64")]
            Isa::Avx512(s) => s.name(),
            #[cfg(target_arch = "aarch64")]
            Isa::Neon(s) => s.name(),
        }
    }
}

/// How an instruction set computes with pairs of bfloat16 numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pairs {
    /// By instructions for them: twice as fast as with floats.
    Fast,
    /// As [`pairs`] defines it, which is slow.
    Plain,
    /// Not at all: kernels are compiled for relatives that have the instructions.
    Missing,
}

/// How `isa` computes with pairs of bfloat16 numbers.
pub fn pairs_of(isa: Isa) -> Pairs {
    struct Of;
    impl Kernel for Of {
        type Output = Pairs;

        #[inline(always)]
        fn run<S: Simd>(self, s: S) -> Pairs {
            s.pairs()
        }
    }
    with_isa(isa, Of)
}

/// The same instruction set without what some processors add to it, and its name; `None` if this one
/// adds nothing.
pub fn plain(isa: Isa) -> Option<(Isa, &'static str)> {
    match isa {
        #[cfg(target_arch = "x86_64")]
        Isa::Avx2(s) => s.plain().map(|s| (Isa::Avx2(s), "avx2-plain")),
        #[cfg(target_arch = "x86_64")]
        Isa::Avx512(s) => s.plain().map(|s| (Isa::Avx512(s), "avx512-plain")),
        #[cfg(target_arch = "aarch64")]
        Isa::Neon(s) => s.plain().map(|s| (Isa::Neon(s), "neon-plain")),
        Isa::Scalar(_) => None,
    }
}

/// Every instruction set this machine has, best first; `scalar` is always the last.
pub fn available() -> Vec<Isa> {
    let mut found = Vec::new();
    #[cfg(target_arch = "x86_64")]
    {
        found.extend(Avx512::new().map(Isa::Avx512));
        found.extend(Avx2::new().map(Isa::Avx2));
    }
    #[cfg(target_arch = "aarch64")]
    found.push(Isa::Neon(Neon::new()));
    found.push(Isa::Scalar(Scalar::new()));
    found
}

/// The variable that forces a lower instruction set.
const VARIABLE: &str = "BART_FAST_ISA";

/// The choice, made once.
static CHOICE: OnceLock<(Isa, &'static str)> = OnceLock::new();

/// Makes the choice now and says whether `BART_FAST_ISA` can be honoured.
///
/// # Errors
/// `Argument` if the variable holds a name this machine does not have.
pub fn configure() -> Result<()> {
    choose().map(|choice| {
        CHOICE.get_or_init(|| choice);
    })
}

/// The instruction set in use.
#[inline]
pub fn current() -> Isa {
    #[cfg(test)]
    if let Some(isa) = forced::get() {
        return isa;
    }
    choice().0
}

/// Its name: `avx512`, `avx2`, `neon` or `scalar`, or one of these with `-plain`.
pub fn current_name() -> &'static str {
    choice().1
}

fn choice() -> (Isa, &'static str) {
    // An unusable variable was reported by `configure`; without that call the default is taken.
    *CHOICE.get_or_init(|| choose().unwrap_or_else(|_| named()[0]))
}

/// Best one present, or the one that the environment names.
fn choose() -> Result<(Isa, &'static str)> {
    match std::env::var_os(VARIABLE) {
        Some(name) if !name.is_empty() => by_name(&name.to_string_lossy()),
        _ => Ok(named()[0]),
    }
}

/// All that can be chosen, with their names, best first.
fn named() -> Vec<(Isa, &'static str)> {
    available()
        .into_iter()
        .flat_map(|isa| [Some((isa, isa.name())), plain(isa)])
        .flatten()
        .collect()
}

/// The instruction set called `name`, if the machine has it.
fn by_name(name: &str) -> Result<(Isa, &'static str)> {
    let found = named();
    found.iter().copied().find(|(_, known)| *known == name).ok_or_else(|| {
        let names: Vec<String> = found.iter().map(|(_, name)| format!("`{name}`")).collect();
        Error::argument(
            VARIABLE,
            format!(
                "received `{name}`; this machine has {}\nhint: unset {VARIABLE} to use the best one",
                names.join(", ")
            ),
        )
    })
}

/// Runs the kernel on the instruction set in use.
#[inline]
pub fn dispatch<K: Kernel>(kernel: K) -> K::Output {
    with_isa(current(), kernel)
}

/// Runs the kernel on `isa`.
#[inline]
pub fn with_isa<K: Kernel>(isa: Isa, kernel: K) -> K::Output {
    match isa {
        Isa::Scalar(s) => kernel.run(s),
        #[cfg(target_arch = "x86_64")]
        Isa::Avx2(s) => s.run(kernel),
        #[cfg(target_arch = "x86_64")]
        Isa::Avx512(s) => s.run(kernel),
        #[cfg(target_arch = "aarch64")]
        Isa::Neon(s) => kernel.run(s),
    }
}

/// Test only: the instruction set that [`current`] returns on this thread.
#[cfg(test)]
pub mod forced {
    use super::Isa;
    use std::cell::Cell;

    thread_local!(static FORCED: Cell<Option<Isa>> = const { Cell::new(None) });

    pub(super) fn get() -> Option<Isa> {
        FORCED.get()
    }

    /// Runs `work` with `isa` in use on this thread (and in the team regions it starts).
    pub fn with<R>(isa: Isa, work: impl FnOnce() -> R) -> R {
        /// Restores the former choice, also when `work` panics.
        struct Restore(Option<Isa>);
        impl Drop for Restore {
            fn drop(&mut self) {
                FORCED.set(self.0);
            }
        }
        let _restore = Restore(FORCED.replace(Some(isa)));
        work()
    }
}

#[cfg(test)]
#[path = "isa_tests.rs"]
mod tests;
