//! What becomes of the sums of a tile: divided by the scales, with the bias and the activation, they are
//! results.

use std::ops::Range;

use super::super::best::Gatherer;
use super::super::gelu;
use super::super::gemm::Epilogue;
use super::super::int8_tile::MOST_ROWS;
use super::super::isa::Simd;
use super::super::pack::PANEL;
use super::{Out, Part, Product};

/// Floats of a cache line.
const LINE: usize = 16;

/// Results of a tile that are gathered.
pub(super) type Results = [[f32; PANEL]; MOST_ROWS];

impl Part<'_> {
    /// Asks memory for what makes results of a panel's sums: it is there when the first tile is done.
    #[inline(always)]
    pub(super) fn ask_ahead<S: Simd>(&self, s: S, panel: usize) {
        let Product { w, bias, out, .. } = self.product;
        let ask = |values: &[f32]| {
            for line in (0..PANEL).step_by(LINE) {
                s.prefetch(values.as_ptr().wrapping_add(panel * PANEL + line));
            }
        };
        ask(w.scales);
        if let Some(bias) = bias {
            ask(bias);
        }
        if let Out::Gathered(_, Some(bounds)) = out {
            bounds.of_columns().into_iter().for_each(ask);
        }
    }

    /// Makes results of the sums of a tile, and writes or gathers them.
    #[inline(always)]
    pub(super) fn finish<S: Simd>(
        &self,
        s: S,
        rows: Range<usize>,
        panel: usize,
        sums: &[i32],
        gathered: Option<&mut (Gatherer<'_>, Results)>,
    ) {
        let Product { n, bias, out, .. } = self.product;
        let width = PANEL.min(n - panel * PANEL);
        match (out, gathered) {
            (Out::Written(out), _) => {
                let start = out.get().wrapping_add(rows.start * n + panel * PANEL);
                // SAFETY: `out` has rows of `n`, of which `width` are left from the panel's first on.
                unsafe { self.write(s, rows, panel, width, sums, Place { start, stride: *n }) };
            }
            (Out::Gathered(_, bounds), Some((gatherer, results))) => {
                if width < PANEL {
                    // What was there is no result, and might count as one that is not finite.
                    *results = [[0.0; PANEL]; MOST_ROWS];
                }
                let to = Place { start: results.as_mut_ptr().cast(), stride: PANEL };
                // SAFETY: there are as many results as the tallest tile has rows.
                unsafe { self.write(s, rows.clone(), panel, width, sums, to) };
                for (row, results) in rows.zip(results) {
                    let Some(bounds) = bounds else {
                        // SAFETY: `results` is a whole panel.
                        unsafe { gatherer.take(s, row, panel, results.as_ptr()) };
                        continue;
                    };
                    let place = (row, panel, width);
                    let upper = bounds.apply(s, place, *bias, results, gatherer.doubt());
                    gatherer.take_bounds(s, place, results, upper);
                }
            }
            (Out::Gathered(..), None) => {}
        }
    }

    /// Writes the results of a panel's first `width` columns.
    ///
    /// # Safety
    /// - `sums` are those of `rows`, and there is room for `width` results of each of them.
    #[inline(always)]
    unsafe fn write<S: Simd>(
        &self,
        s: S,
        rows: Range<usize>,
        panel: usize,
        width: usize,
        sums: &[i32],
        to: Place,
    ) {
        // SAFETY: the caller's promise.
        unsafe {
            match self.product.epilogue {
                Epilogue::Gelu => self.scale::<S, true>(s, rows, panel, width, sums, to),
                Epilogue::None => self.scale::<S, false>(s, rows, panel, width, sums, to),
            }
        }
    }

    /// [`Self::write`], one vector of columns after the other: what a column's rows share stays in registers.
    ///
    /// # Safety
    /// As for [`Self::write`].
    #[inline(always)]
    unsafe fn scale<S: Simd, const GELU: bool>(
        &self,
        s: S,
        rows: Range<usize>,
        panel: usize,
        width: usize,
        sums: &[i32],
        to: Place,
    ) {
        let Product { w, bias, .. } = self.product;
        let first = panel * PANEL;
        let scales = &w.scales[first..first + width];
        let bias = bias.map(|bias| &bias[first..first + width]);
        for column in (0..width).step_by(S::LANES) {
            let count = S::LANES.min(width - column);
            let sums = &sums[column..];
            let to = Place { start: to.start.wrapping_add(column), ..to };
            // SAFETY: `count` columns from this one on are in the scales, in the bias and in the results.
            unsafe {
                let scales = s.load_part(scales.as_ptr().add(column), count);
                let bias = bias.map(|bias| bias.as_ptr().add(column));
                #[allow(clippy::manual_map)]
                // A closure would not be compiled for the instruction set.
                let bias = match bias {
                    Some(bias) => Some(s.load_part(bias, count)),
                    None => None,
                };
                if count == S::LANES {
                    self.column::<S, GELU, false>(s, rows.clone(), count, (scales, bias), sums, to);
                } else {
                    self.column::<S, GELU, true>(s, rows.clone(), count, (scales, bias), sums, to);
                }
            }
        }
    }

    /// The results of one vector of columns, or (`PART`) of its first `count`.
    ///
    /// # Safety
    /// As for [`Self::scale`].
    #[inline(always)]
    unsafe fn column<S: Simd, const GELU: bool, const PART: bool>(
        &self,
        s: S,
        rows: Range<usize>,
        count: usize,
        (scales, bias): (S::V, Option<S::V>),
        sums: &[i32],
        to: Place,
    ) {
        assert!(rows.is_empty() || sums.len() >= (rows.len() - 1) * PANEL + S::LANES);
        let (sums, first) =
            (sums.as_ptr(), self.product.inputs.scales.get().wrapping_add(rows.start));
        for i in 0..rows.len() {
            // SAFETY: there is a scale for every row, and sums by the line above; the caller vouches for
            // the results.
            unsafe {
                let row_scale = s.splat(*first.add(i));
                let mut y = s.div(s.load_i32(sums.add(i * PANEL)), s.mul(row_scale, scales));
                if let Some(bias) = bias {
                    y = s.add(y, bias);
                }
                if GELU {
                    y = gelu::gelu(s, y);
                }
                let to = to.start.add(i * to.stride);
                if PART { s.store_part(to, y, count) } else { s.store(to, y) }
            }
        }
    }
}

/// Where the results of a panel go.
#[derive(Clone, Copy)]
struct Place {
    start: *mut f32,
    /// From one row to the next.
    stride: usize,
}
