//! The one layout of a weight.
//!
//! A linear layer computes `y = x W^T + b`, with `W` of shape `[n = out, k = in]` as checkpoints have
//! it. In memory `W` is a row of *panels*, each holding [`PANEL`] output columns for every input:
//! panel `p` is `[k][32]`, so element `(n, k)` lies at `(n / 32) * k_total * 32 + k * 32 + n % 32`.
//! The columns that fill up the last panel are zero and stay zero. Products read a panel as one
//! stream; gradients and optimizer state have the same layout, and no other copy is kept.

use super::disjoint::Disjoint;
use super::isa::{self, Isa, Kernel, Simd};
use super::memory::{Slot, scratch};
use super::parallel;
use super::team;

/// Where a matrix comes from while it is packed: fills a run of its values, from the given one on, in the
/// order in which the source has them. Several threads ask, in any order, each value once.
pub type Read<'a, T, E> = dyn Fn(usize, &mut [T]) -> Result<(), E> + Sync + 'a;

/// Output columns in a panel: two AVX-512 vectors, one 128-byte line pair.
pub const PANEL: usize = 32;

/// Floats in the packed form of a weight `[n, k]`.
pub const fn packed_len(n: usize, k: usize) -> usize {
    n.div_ceil(PANEL) * PANEL * k
}

/// Where element `(n, k)` of a weight with `k_total` inputs lies.
#[inline]
pub const fn index(n: usize, k: usize, k_total: usize) -> usize {
    (n / PANEL) * PANEL * k_total + k * PANEL + n % PANEL
}

/// Packs `source [n, k]`, row-major.
///
/// # Panics
/// If a length does not fit `n` and `k` (so do all functions here).
pub fn from_rows(source: &[f32], n: usize, k: usize, packed: &mut [f32]) {
    check(source.len(), n, k, packed.len());
    for_each_panel(packed, k, &|isa, p, panel| {
        let first = p * PANEL;
        let rows = &source[first * k..(first + PANEL).min(n) * k];
        pack_panel(isa, rows, rows.len() / k, k, panel);
    });
}

/// Packs the row-major `[n, k]` that `read` hands out.
///
/// # Errors
/// What `read` returns; `packed` is then of no use.
pub fn read_rows<E: Send>(
    n: usize,
    k: usize,
    packed: &mut [f32],
    read: &Read<'_, f32, E>,
) -> Result<(), E> {
    check(n * k, n, k, packed.len());
    let isa = isa::current();
    let panels = Disjoint::new(packed);
    parallel::try_run(panel_count(n, k), &|p| {
        let rows = PANEL.min(n - p * PANEL);
        let mut run = scratch(Slot::Work, rows * k);
        read(p * PANEL * k, &mut run)?;
        // SAFETY: each panel is a part of its own.
        let panel = unsafe { panels.slice(p * PANEL * k, PANEL * k) };
        pack_panel(isa, &run, rows, k, panel);
        Ok(())
    })
}

/// The panels of a matrix that has values.
pub(super) const fn panel_count(n: usize, k: usize) -> usize {
    if k == 0 { 0 } else { n.div_ceil(PANEL) }
}

/// Packs the rows of one panel.
pub(super) fn pack_panel(isa: Isa, rows: &[f32], count: usize, k: usize, panel: &mut [f32]) {
    if count < PANEL {
        panel.fill(0.0);
    }
    transpose(isa, rows, count, k, k, panel, PANEL);
}

/// Packs the row-major `[k, n]` that `read` hands out (a weight stored the other way round).
///
/// # Errors
/// As for [`read_rows`].
pub fn read_columns<E: Send>(
    n: usize,
    k: usize,
    packed: &mut [f32],
    read: &Read<'_, f32, E>,
) -> Result<(), E> {
    check(n * k, n, k, packed.len());
    for_each_line(n, k, packed, read, &|from, to: &mut [f32]| to.copy_from_slice(from))
}

/// Reads a row-major `[k, n]` and has `place` write the lines of the panels, of 16 or 32 bits.
pub(super) fn for_each_line<T: Copy + Default + Send, E: Send>(
    n: usize,
    k: usize,
    packed: &mut [T],
    read: &Read<'_, f32, E>,
    place: &(dyn Fn(&[f32], &mut [T]) + Sync),
) -> Result<(), E> {
    let lines = (VALUES_READ_AT_ONCE / n.max(1)).max(1);
    let packed = Disjoint::new(packed);
    parallel::try_run(if n == 0 { 0 } else { k.div_ceil(lines) }, &|part| {
        let first = part * lines;
        let mut run = scratch(Slot::Work, lines.min(k - first) * n);
        read(first * n, &mut run)?;
        for (i, line) in run.chunks_exact(n).enumerate() {
            for (p, values) in line.chunks(PANEL).enumerate() {
                // SAFETY: line `first + i` of every panel belongs to this part alone.
                let to = unsafe { packed.slice(index(p * PANEL, first + i, k), PANEL) };
                place(values, &mut to[..values.len()]);
                to[values.len()..].fill(T::default());
            }
        }
        Ok(())
    })
}

/// Unpacks to `rows [n, k]`, row-major.
pub fn to_rows(packed: &[f32], n: usize, k: usize, rows: &mut [f32]) {
    check(rows.len(), n, k, packed.len());
    if k == 0 {
        return;
    }
    let isa = isa::current();
    team::run_chunks(rows, PANEL * k, &|p, chunk| {
        let panel = &packed[p * PANEL * k..][..PANEL * k];
        transpose(isa, panel, k, chunk.len() / k, PANEL, chunk, k);
    });
}

/// Packs `source [k, n]`, row-major (a weight stored the other way round).
pub fn from_columns(source: &[f32], n: usize, k: usize, packed: &mut [f32]) {
    check(source.len(), n, k, packed.len());
    for_each_panel(packed, k, &|_, p, panel| {
        let first = p * PANEL;
        let width = PANEL.min(n - first);
        for (row, line) in panel.chunks_exact_mut(PANEL).enumerate() {
            line[..width].copy_from_slice(&source[row * n + first..][..width]);
            line[width..].fill(0.0);
        }
    });
}

/// Unpacks to `columns [k, n]`, row-major.
pub fn to_columns(packed: &[f32], n: usize, k: usize, columns: &mut [f32]) {
    check(columns.len(), n, k, packed.len());
    if n == 0 {
        return;
    }
    team::run_chunks(columns, n, &|row, line| {
        for (p, part) in line.chunks_mut(PANEL).enumerate() {
            let start = index(p * PANEL, row, k);
            part.copy_from_slice(&packed[start..][..part.len()]);
        }
    });
}

/// Rows `ids` of the weight, times `scale`: `out[t] = scale * W[ids[t]]`, `out [t, k]`. This is an
/// embedding's lookup.
///
/// # Panics
/// If an id is not below `n`, or a length does not fit.
pub fn gather_rows(packed: &[f32], n: usize, k: usize, ids: &[u32], scale: f32, out: &mut [f32]) {
    check(n * k, n, k, packed.len());
    assert_eq!(out.len(), ids.len() * k, "`out` is not [ids, k]");
    check_ids(ids, n);
    if k == 0 {
        return;
    }
    team::run_chunks(out, ROWS_PER_PART * k, &|part, chunk| {
        let ids = &ids[part * ROWS_PER_PART..];
        for (row, id) in chunk.chunks_exact_mut(k).zip(ids) {
            let column = packed[index(*id as usize, 0, k)..].iter().step_by(PANEL);
            row.iter_mut().zip(column).for_each(|(to, from)| *to = from * scale);
        }
    });
}

/// Adds rows to rows `ids` of a packed gradient: `packed[ids[t]] += scale * dy[t]`, `dy [t, k]`, for
/// `t` ascending, whatever the number of threads.
///
/// # Panics
/// If an id is not below `n`, or a length does not fit.
pub fn scatter_add_rows(
    dy: &[f32],
    ids: &[u32],
    scale: f32,
    n: usize,
    k: usize,
    packed: &mut [f32],
) {
    check(n * k, n, k, packed.len());
    assert_eq!(dy.len(), ids.len() * k, "`dy` is not [ids, k]");
    check_ids(ids, n);
    let target = team::SharedMut(packed.as_mut_ptr());
    // Each part owns a range of inputs: rows may repeat, inputs do not.
    team::run(k.div_ceil(INPUTS_PER_PART), &|part| {
        let first = part * INPUTS_PER_PART;
        let last = (first + INPUTS_PER_PART).min(k);
        for (row, id) in dy.chunks_exact(k).zip(ids) {
            for (j, gradient) in row.iter().enumerate().take(last).skip(first) {
                // SAFETY: `id < n` and `j < k` were checked, so the index is inside `packed`, and
                // no other part has this `j`.
                unsafe { *target.get().add(index(*id as usize, j, k)) += gradient * scale };
            }
        }
    });
}

/// Values that are read at a time: they stay in the cache between reading and packing.
pub(super) const VALUES_READ_AT_ONCE: usize = 1 << 15;
/// Rows of an embedding that one part looks up.
const ROWS_PER_PART: usize = 16;
/// Inputs of a gradient row that one part adds.
const INPUTS_PER_PART: usize = 64;

fn check(plain: usize, n: usize, k: usize, packed: usize) {
    assert_eq!(plain, n * k, "the plain weight is not [n, k]");
    assert_eq!(packed, packed_len(n, k), "the packed weight does not fit n and k");
}

fn check_ids(ids: &[u32], n: usize) {
    if let Some(id) = ids.iter().find(|id| **id as usize >= n) {
        panic!("row {id} of a weight with {n} rows");
    }
}

/// Calls `work(isa, p, panel)` for every panel, in parallel.
fn for_each_panel(packed: &mut [f32], k: usize, work: &(dyn Fn(Isa, usize, &mut [f32]) + Sync)) {
    if k == 0 {
        return;
    }
    let isa = isa::current();
    team::run_chunks(packed, PANEL * k, &|p, panel| work(isa, p, panel));
}

/// `destination[c * to_stride + r] = source[r * from_stride + c]` for `r < rows`, `c < columns`.
fn transpose(
    isa: Isa,
    source: &[f32],
    rows: usize,
    columns: usize,
    from_stride: usize,
    destination: &mut [f32],
    to_stride: usize,
) {
    if rows == 0 || columns == 0 {
        return;
    }
    assert!(rows <= to_stride && columns <= from_stride);
    assert!((rows - 1) * from_stride + columns <= source.len());
    assert!((columns - 1) * to_stride + rows <= destination.len());
    isa::with_isa(isa, Transpose { source, rows, columns, from_stride, destination, to_stride });
}

/// The kernel of [`transpose`], which has checked the sizes.
struct Transpose<'a> {
    source: &'a [f32],
    rows: usize,
    columns: usize,
    from_stride: usize,
    destination: &'a mut [f32],
    to_stride: usize,
}

impl Kernel for Transpose<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        let (from, to) = (self.source.as_ptr(), self.destination.as_mut_ptr());
        // SAFETY: `transpose` checked that both slices reach the last row and column.
        unsafe {
            transpose_block(
                simd,
                from,
                self.rows,
                self.columns,
                self.from_stride,
                to,
                self.to_stride,
            );
        }
    }
}

/// [`transpose`] on pointers, for kernels.
///
/// # Safety
/// - `from` is valid for `columns` floats at each of `rows` strides of `from_stride`.
/// - `to` is valid for `rows` floats at each of `columns` strides of `to_stride`.
/// - They do not overlap; `rows <= to_stride`.
#[inline(always)]
pub(super) unsafe fn transpose_block<S: Simd>(
    simd: S,
    from: *const f32,
    rows: usize,
    columns: usize,
    from_stride: usize,
    to: *mut f32,
    to_stride: usize,
) {
    let (even_rows, even_columns) = (rows & !7, columns & !7);
    // SAFETY: all indices are below `rows` and `columns`, for which the caller vouches.
    unsafe {
        for r in (0..even_rows).step_by(8) {
            for c in (0..even_columns).step_by(8) {
                let start = from.add(r * from_stride + c);
                let rows = [
                    start,
                    start.add(from_stride),
                    start.add(2 * from_stride),
                    start.add(3 * from_stride),
                    start.add(4 * from_stride),
                    start.add(5 * from_stride),
                    start.add(6 * from_stride),
                    start.add(7 * from_stride),
                ];
                simd.transpose8(rows, to.add(c * to_stride + r), to_stride);
            }
            for c in even_columns..columns {
                for i in r..r + 8 {
                    *to.add(c * to_stride + i) = *from.add(i * from_stride + c);
                }
            }
        }
        for r in even_rows..rows {
            for c in 0..columns {
                *to.add(c * to_stride + r) = *from.add(r * from_stride + c);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernels::testing::{noise, on_every_isa};

    const SIZES: [(usize, usize); 9] =
        [(1, 1), (31, 7), (32, 8), (33, 9), (64, 16), (65, 33), (100, 1), (47, 257), (300, 3)];

    /// A source of values in memory.
    fn from(values: &[f32]) -> impl Fn(usize, &mut [f32]) -> Result<(), ()> {
        |first, run| {
            run.copy_from_slice(&values[first..][..run.len()]);
            Ok(())
        }
    }

    fn packed_by_definition(rows: &[f32], n: usize, k: usize) -> Vec<f32> {
        let mut packed = vec![0.0; packed_len(n, k)];
        for i in 0..n {
            for j in 0..k {
                packed[(i / 32) * k * 32 + j * 32 + i % 32] = rows[i * k + j];
            }
        }
        packed
    }

    #[test]
    fn rows_and_columns_go_in_and_come_out() {
        on_every_isa(|isa| {
            for (n, k) in SIZES {
                let rows = noise(n * k, 5);
                let columns: Vec<f32> = (0..n * k).map(|i| rows[(i % n) * k + i / n]).collect();
                let expected = packed_by_definition(&rows, n, k);
                let what = format!("{} [{n}, {k}]", isa.name());

                let mut packed = vec![f32::NAN; packed_len(n, k)];
                from_rows(&rows, n, k, &mut packed);
                assert_eq!(packed, expected, "{what} from rows");
                packed.fill(f32::NAN);
                read_rows(n, k, &mut packed, &from(&rows)).unwrap();
                assert_eq!(packed, expected, "{what} from rows that are read");
                packed.fill(f32::NAN);
                read_columns(n, k, &mut packed, &from(&columns)).unwrap();
                assert_eq!(packed, expected, "{what} from columns that are read");
                packed.fill(f32::NAN);
                from_columns(&columns, n, k, &mut packed);
                assert_eq!(packed, expected, "{what} from columns");

                let mut plain = vec![f32::NAN; n * k];
                to_rows(&packed, n, k, &mut plain);
                assert_eq!(plain, rows, "{what} to rows");
                plain.fill(f32::NAN);
                to_columns(&packed, n, k, &mut plain);
                assert_eq!(plain, columns, "{what} to columns");
            }
        });
    }

    #[test]
    fn rows_are_gathered_and_added_in_order() {
        for (n, k) in SIZES {
            let rows = noise(n * k, 6);
            let packed = packed_by_definition(&rows, n, k);
            let ids: Vec<u32> = (0..70).map(|t| (t * t * 7 % n) as u32).collect();
            let mut out = vec![f32::NAN; ids.len() * k];
            gather_rows(&packed, n, k, &ids, 0.5, &mut out);
            for (t, id) in ids.iter().enumerate() {
                let row = &rows[*id as usize * k..][..k];
                assert!(out[t * k..][..k].iter().zip(row).all(|(a, b)| *a == b * 0.5));
            }
            let dy = noise(ids.len() * k, 7);
            let mut sum = rows.clone();
            for (t, id) in ids.iter().enumerate() {
                (0..k).for_each(|j| sum[*id as usize * k + j] += dy[t * k + j] * 3.0);
            }
            let mut gradient = packed.clone();
            scatter_add_rows(&dy, &ids, 3.0, n, k, &mut gradient);
            assert_eq!(gradient, packed_by_definition(&sum, n, k), "[{n}, {k}]");
        }
    }

    #[test]
    fn nothing_is_packed_for_empty_sizes() {
        from_rows(&[], 0, 5, &mut []);
        from_rows(&[], 5, 0, &mut []);
        to_rows(&[], 5, 0, &mut []);
        to_columns(&[], 0, 5, &mut []);
        gather_rows(&[], 0, 4, &[], 1.0, &mut []);
        assert_eq!(packed_len(33, 3), 192);
    }

    #[test]
    #[should_panic(expected = "row 3 of a weight with 3 rows")]
    fn an_unknown_row_is_refused() {
        gather_rows(&vec![0.0; packed_len(3, 2)], 3, 2, &[3], 1.0, &mut [0.0; 2]);
    }
}
