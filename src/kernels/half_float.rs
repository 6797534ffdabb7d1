//! Floats of 16 bits: conversion of slices, and weights stored in them.
//!
//! A matrix of 16-bit floats has the layout of [`pack`](super::pack), two bytes an element. Products
//! widen it a block of a panel at a time ([`gemm`](super::gemm)), so that nothing of the size of the
//! matrix is made beside it.

use std::marker::PhantomData;

use half::{bf16, f16};

use super::disjoint::Disjoint;
use super::element::{Bfloat16, Element, Float16, elements, elements_mut, narrow, round, widen};
use super::isa::{self, Kernel, Simd, with_isa};
use super::memory::{Slot, scratch};
use super::pack::{self, PANEL, Read};
use super::parallel;
use super::team;

/// A format of 16 bits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HalfFormat {
    /// IEEE 754 binary16: 5 bits of exponent, 10 of fraction; at most 65504.
    Float16,
    /// The upper half of a float32: 8 bits of exponent, 7 of fraction.
    Bfloat16,
}

impl HalfFormat {
    /// `to[i]` is `from[i]` rounded to nearest, ties to even; both of one length.
    pub fn narrow(self, from: &[f32], to: &mut [u16]) {
        match self {
            Self::Float16 => isa::dispatch(Narrow { from, to: elements_mut::<Float16>(to) }),
            Self::Bfloat16 => isa::dispatch(Narrow { from, to: elements_mut::<Bfloat16>(to) }),
        }
    }

    /// `to[i]` is `from[i]`, exactly; both of one length.
    pub fn widen(self, from: &[u16], to: &mut [f32]) {
        match self {
            Self::Float16 => isa::dispatch(Widen { from: elements::<Float16>(from), to }),
            Self::Bfloat16 => isa::dispatch(Widen { from: elements::<Bfloat16>(from), to }),
        }
    }

    /// `to[i]` is `from[i]` after a round trip through the format; both of one length. Shared by the
    /// team where there is much of it.
    pub fn round(self, from: &[f32], to: &mut [f32]) {
        /// Values that are worth a part of their own.
        const GRAIN: usize = 1 << 15;
        assert_eq!(from.len(), to.len(), "round: lengths");
        parallel::map(to, GRAIN, |isa, range, to| {
            let from = &from[range];
            match self {
                Self::Float16 => with_isa(isa, Round::<Float16> { from, to, format: PhantomData }),
                Self::Bfloat16 => {
                    with_isa(isa, Round::<Bfloat16> { from, to, format: PhantomData });
                }
            }
        });
    }

    /// Whether `value` is finite and would be no longer.
    pub fn overflows(self, value: f32) -> bool {
        let rounded = match self {
            Self::Float16 => f16::from_f32(value).to_f32(),
            Self::Bfloat16 => bf16::from_f32(value).to_f32(),
        };
        value.is_finite() && !rounded.is_finite()
    }

    /// Packs the row-major `[n, k]` that `read` hands out, or with `columns` the `[k, n]`, as
    /// [`pack::read_rows`] and [`pack::read_columns`] do.
    ///
    /// # Errors
    /// What `read` returns; `packed` is then of no use.
    pub fn read<E: Send>(
        self,
        (n, k): (usize, usize),
        packed: &mut [u16],
        columns: bool,
        read: &Read<'_, f32, E>,
    ) -> Result<(), E> {
        assert_eq!(packed.len(), pack::packed_len(n, k), "the packed weight does not fit n and k");
        if columns {
            return pack::for_each_line(n, k, packed, read, &|from, to| self.narrow(from, to));
        }
        let isa = isa::current();
        let packed = Disjoint::new(packed);
        parallel::try_run(pack::panel_count(n, k), &|p| {
            let rows = PANEL.min(n - p * PANEL);
            let mut run = scratch(Slot::Work, rows * k);
            read(p * PANEL * k, &mut run)?;
            let mut panel = scratch(Slot::Left, PANEL * k);
            pack::pack_panel(isa, &run, rows, k, &mut panel);
            // SAFETY: each panel is a part of its own.
            self.narrow(&panel, unsafe { packed.slice(p * PANEL * k, PANEL * k) });
            Ok(())
        })
    }

    /// Unpacks to `rows [n, k]`, row-major.
    pub fn to_rows(self, packed: &[u16], n: usize, k: usize, rows: &mut [f32]) {
        assert_eq!(packed.len(), pack::packed_len(n, k), "the packed weight does not fit n and k");
        assert_eq!(rows.len(), n * k, "`rows` is not [n, k]");
        if k == 0 {
            return;
        }
        team::run_chunks(rows, PANEL * k, &|p, chunk| {
            let mut panel = vec![0.0; PANEL * k];
            self.widen(&packed[p * PANEL * k..][..PANEL * k], &mut panel);
            for (r, row) in chunk.chunks_exact_mut(k).enumerate() {
                row.iter_mut().zip(panel[r..].iter().step_by(PANEL)).for_each(|(to, x)| *to = *x);
            }
        });
    }

    /// Rows `ids` of the weight: `out[t] = W[ids[t]]`, `out [t, k]`.
    ///
    /// # Panics
    /// If an id is not below `n`, or a length does not fit.
    pub fn gather_rows(self, packed: &[u16], n: usize, k: usize, ids: &[u32], out: &mut [f32]) {
        assert_eq!(packed.len(), pack::packed_len(n, k), "the packed weight does not fit n and k");
        assert_eq!(out.len(), ids.len() * k, "`out` is not [ids, k]");
        assert!(ids.iter().all(|id| (*id as usize) < n), "an id is not below {n}");
        let mut gathered = [0; 128];
        for (row, id) in out.chunks_exact_mut(k.max(1)).zip(ids) {
            let mut from = packed[pack::index(*id as usize, 0, k)..].iter().step_by(PANEL);
            for part in row.chunks_mut(gathered.len()) {
                let gathered = &mut gathered[..part.len()];
                gathered.iter_mut().zip(&mut from).for_each(|(to, from)| *to = *from);
                self.widen(gathered, part);
            }
        }
    }
}

struct Narrow<'a, E> {
    from: &'a [f32],
    to: &'a mut [E],
}

impl<E: Element> Kernel for Narrow<'_, E> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        narrow(s, self.from, self.to);
    }
}

struct Widen<'a, E> {
    from: &'a [E],
    to: &'a mut [f32],
}

impl<E: Element> Kernel for Widen<'_, E> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        widen(s, self.from, self.to);
    }
}

struct Round<'a, E> {
    from: &'a [f32],
    to: &'a mut [f32],
    format: PhantomData<E>,
}

impl<E: Element> Kernel for Round<'_, E> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        round::<S, E>(s, self.from, self.to);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernels::testing::noise;

    const BOTH: [HalfFormat; 2] = [HalfFormat::Float16, HalfFormat::Bfloat16];

    #[test]
    fn rounding_goes_to_the_nearest_and_ties_to_even() {
        let ulp = [2.0_f32.powi(-10), 2.0_f32.powi(-7)];
        for (format, ulp) in BOTH.into_iter().zip(ulp) {
            let values = [1.0 + ulp / 2.0, 1.0 + 1.5 * ulp, 1.0 + 0.51 * ulp, -0.0, f32::INFINITY];
            let mut rounded = [0.0; 5];
            format.round(&values, &mut rounded);
            assert_eq!(rounded, [1.0, 1.0 + 2.0 * ulp, 1.0 + ulp, 0.0, f32::INFINITY]);
            assert!(rounded[3].is_sign_negative());
            let mut nan = [0.0];
            format.round(&[f32::NAN], &mut nan);
            assert!(nan[0].is_nan());
        }
        assert!(HalfFormat::Float16.overflows(65520.0) && !HalfFormat::Float16.overflows(65519.0));
        assert!(
            !HalfFormat::Bfloat16.overflows(65520.0) && HalfFormat::Bfloat16.overflows(f32::MAX)
        );
        assert!(!HalfFormat::Float16.overflows(f32::NAN));
    }

    /// A source of values in memory.
    fn from(values: &[f32]) -> impl Fn(usize, &mut [f32]) -> Result<(), ()> {
        |first, run| {
            run.copy_from_slice(&values[first..][..run.len()]);
            Ok(())
        }
    }

    #[test]
    fn matrices_go_in_and_come_out_rounded() {
        for format in BOTH {
            for (n, k) in [(1, 1), (31, 7), (33, 9), (64, 16), (300, 3), (0, 4), (4, 0)] {
                let rows = noise(n * k, 5);
                let mut expected = vec![0.0; n * k];
                format.round(&rows, &mut expected);
                let columns: Vec<f32> = (0..n * k).map(|i| rows[(i % n) * k + i / n]).collect();
                let mut packed = vec![7; pack::packed_len(n, k)];
                format.read((n, k), &mut packed, true, &from(&columns)).unwrap();
                let from_columns = std::mem::replace(&mut packed, vec![7; pack::packed_len(n, k)]);
                format.read((n, k), &mut packed, false, &from(&rows)).unwrap();
                assert_eq!(packed, from_columns, "{format:?} [{n}, {k}]");
                let mut unpacked = vec![f32::NAN; n * k];
                format.to_rows(&packed, n, k, &mut unpacked);
                assert_eq!(unpacked, expected, "{format:?} [{n}, {k}]");
                let ids: Vec<u32> = (0..20 * n.min(1)).map(|t| (t * t * 7 % n) as u32).collect();
                let mut out = vec![f32::NAN; ids.len() * k];
                format.gather_rows(&packed, n, k, &ids, &mut out);
                for (row, id) in out.chunks_exact(k.max(1)).zip(&ids) {
                    assert_eq!(row, &expected[*id as usize * k..][..k]);
                }
            }
        }
    }
}
