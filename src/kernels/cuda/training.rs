//! What training computes on a card beside products: norms, GELU, dropout, selected rows and sums over rows, and
//! the way back through each. The sources beside this file say what each kernel computes.
//!
//! Inputs are contiguous and float32; results are fresh arrays of candle's.

use std::sync::Arc;

use candle_core::cuda_backend::cudarc::driver::sys::CUdeviceptr;
use candle_core::cuda_backend::cudarc::driver::{CudaSlice, DevicePtr};
use candle_core::{CudaStorage, Result};

use super::super::dropout::Dropout;
use super::launch::{Argument, ROW_THREADS, WARP};
use super::{Card, CardNumbers, Weight};

/// Rows of a block whose warps have one each.
pub(super) const WARPS: usize = ROW_THREADS / WARP;

/// Floats that a kernel is to write.
pub(super) struct Fresh {
    pub start: CUdeviceptr,
    floats: CudaSlice<f32>,
}

/// What a norm leaves.
pub struct Normed {
    /// `[rows, width]`
    pub out: CudaStorage,
    /// The sums that were normed; none without a residual.
    pub sums: Option<CudaStorage>,
    /// Mean and scale of each row, `[rows, 2]`.
    pub statistics: CudaStorage,
}

impl Card {
    pub(super) fn fresh(&self, count: usize) -> Result<Fresh> {
        let floats = self.floats(count)?;
        let start = floats.device_ptr(&self.stream).0;
        Ok(Fresh { start, floats })
    }

    pub(super) fn storage_of(&self, fresh: Fresh) -> CudaStorage {
        CudaStorage::wrap_cuda_slice(fresh.floats, self.device.clone())
    }

    /// `LN(x + residual) * gamma + beta`, these two being `affine [2, width]`.
    ///
    /// # Errors
    /// What the driver reports.
    pub fn norm_forward(
        &self,
        x: Weight,
        residual: Option<Weight>,
        affine: Weight,
    ) -> Result<Normed> {
        let (width, len) = (affine.len / 2, x.len);
        assert!(len.is_multiple_of(width) && residual.is_none_or(|other| other.len == len));
        let rows = len / width;
        let (out, statistics) = (self.fresh(len)?, self.fresh(2 * rows)?);
        let sums = residual.map(|_| self.fresh(len)).transpose()?;
        let arguments = [
            Argument::Pointer(x.floats()),
            Argument::Pointer(residual.map_or(0, Weight::floats)),
            Argument::count(rows)?,
            Argument::count(width)?,
            Argument::Pointer(affine.floats()),
            Argument::Pointer(out.start),
            Argument::Pointer(sums.as_ref().map_or(0, |sums| sums.start)),
            Argument::Pointer(statistics.start),
        ];
        let grid = (rows.div_ceil(WARPS), 1, 1);
        self.launch("norm_forward", grid, ROW_THREADS, 0, &arguments)?;
        Ok(Normed {
            out: self.storage_of(out),
            sums: sums.map(|sums| self.storage_of(sums)),
            statistics: self.storage_of(statistics),
        })
    }

    /// The slopes of the sums `[rows, width]` and of `affine [2, width]`, from those of the results.
    ///
    /// # Errors
    /// What the driver reports.
    pub fn norm_backward(
        &self,
        dout: Weight,
        (sums, statistics): (Weight, Weight),
        affine: Weight,
    ) -> Result<(CudaStorage, CudaStorage)> {
        let (width, rows) = (affine.len / 2, statistics.len / 2);
        assert!(dout.len == rows * width && sums.len == dout.len, "rows of unlike sizes");
        let dsums = self.fresh(dout.len)?;
        let arguments = [
            Argument::Pointer(dout.floats()),
            Argument::Pointer(sums.floats()),
            Argument::Pointer(statistics.floats()),
            Argument::count(rows)?,
            Argument::count(width)?,
            Argument::Pointer(affine.floats()),
            Argument::Pointer(dsums.start),
        ];
        let grid = (rows.div_ceil(WARPS), 1, 1);
        self.launch("norm_backward", grid, ROW_THREADS, 0, &arguments)?;
        let daffine = self.column_sums(dout, Some((sums, statistics)), width)?;
        Ok((self.storage_of(dsums), daffine))
    }

    /// The sums of the columns of `x [rows, width]`.
    ///
    /// # Errors
    /// What the driver reports.
    pub fn sum_columns(&self, x: Weight, width: usize) -> Result<CudaStorage> {
        assert!(x.len.is_multiple_of(width.max(1)), "whole rows");
        self.column_sums(x, None, width)
    }

    fn column_sums(
        &self,
        dout: Weight,
        normed: Option<(Weight, Weight)>,
        width: usize,
    ) -> Result<CudaStorage> {
        /// Rows that a block sums.
        const PART: usize = 256;
        let rows = dout.len / width.max(1);
        let (parts, size) =
            (rows.div_ceil(PART).max(1), if normed.is_some() { 2 * width } else { width });
        let partial = self.fresh(parts * size)?;
        let arguments = [
            Argument::Pointer(dout.floats()),
            Argument::Pointer(normed.map_or(0, |(sums, _)| sums.floats())),
            Argument::Pointer(normed.map_or(0, |(_, statistics)| statistics.floats())),
            Argument::count(rows)?,
            Argument::count(width)?,
            Argument::count(PART)?,
            Argument::Pointer(partial.start),
        ];
        let grid = (width.div_ceil(WARP), parts, 1);
        self.launch("sum_columns", grid, ROW_THREADS, 0, &arguments)?;
        if parts == 1 {
            return Ok(self.storage_of(partial));
        }
        let sums = self.fresh(size)?;
        let arguments = [
            Argument::Pointer(partial.start),
            Argument::count(parts)?,
            Argument::count(size)?,
            Argument::Pointer(sums.start),
        ];
        let grid = (size.div_ceil(ROW_THREADS), 1, 1);
        self.launch("sum_parts", grid, ROW_THREADS, 0, &arguments)?;
        Ok(self.storage_of(sums))
    }

    /// `x` and a row of `width` floats, the bias, added to each of its rows.
    ///
    /// # Errors
    /// What the driver reports.
    pub fn add_bias(&self, x: Weight, bias: Weight) -> Result<CudaStorage> {
        assert!(x.len.is_multiple_of(bias.len.max(1)), "whole rows");
        let out = self.fresh(x.len)?;
        let arguments = [
            Argument::Pointer(x.floats()),
            Argument::Pointer(bias.floats()),
            Argument::Pointer(out.start),
            Argument::count(bias.len)?,
        ];
        let grid = (x.len / bias.len.max(1), 1, 1);
        self.launch("add_row", grid, ROW_THREADS, 0, &arguments)?;
        Ok(self.storage_of(out))
    }

    /// GELU of each number.
    ///
    /// # Errors
    /// What the driver reports.
    pub fn gelu_forward(&self, x: Weight) -> Result<CudaStorage> {
        let out = self.fresh(x.len)?;
        let arguments = [
            Argument::Pointer(x.floats()),
            Argument::Pointer(out.start),
            Argument::Long(x.len as u64),
        ];
        self.launch("gelu_forward", blocks_of(x.len), ROW_THREADS, 0, &arguments)?;
        Ok(self.storage_of(out))
    }

    /// The slopes of `x` from those of its GELU.
    ///
    /// # Errors
    /// What the driver reports.
    pub fn gelu_backward(&self, x: Weight, dout: Weight) -> Result<CudaStorage> {
        assert_eq!(x.len, dout.len, "slopes");
        let dx = self.fresh(x.len)?;
        let arguments = [
            Argument::Pointer(x.floats()),
            Argument::Pointer(dout.floats()),
            Argument::Pointer(dx.start),
            Argument::Long(x.len as u64),
        ];
        self.launch("gelu_backward", blocks_of(x.len), ROW_THREADS, 0, &arguments)?;
        Ok(self.storage_of(dx))
    }

    /// What dropout leaves of `x`: the same as the CPU's.
    ///
    /// # Errors
    /// What the driver reports.
    pub fn dropout(&self, x: Weight, dropout: Dropout) -> Result<CudaStorage> {
        /// Numbers of a thread.
        const EACH: usize = 4;
        let out = self.fresh(x.len)?;
        let arguments = [
            Argument::Pointer(x.floats()),
            Argument::Pointer(out.start),
            Argument::Long(x.len as u64),
            Argument::Draw(dropout.into()),
        ];
        let grid = blocks_of(x.len.div_ceil(EACH));
        self.launch("dropout", grid, ROW_THREADS, 0, &arguments)?;
        Ok(self.storage_of(out))
    }

    /// The rows `ids` of `table [rows, width]`: zeros for those that it has not.
    ///
    /// # Errors
    /// What the driver reports.
    pub fn select_rows(
        self: &Arc<Self>,
        table: Weight,
        ids: &[u32],
        width: usize,
    ) -> Result<CudaStorage> {
        let out = self.fresh(ids.len() * width)?;
        let ids_there = CardNumbers::new(self, ids, 0)?;
        let arguments = [
            Argument::Pointer(table.floats()),
            Argument::Pointer(ids_there.all().start),
            Argument::count(table.len / width)?,
            Argument::count(width)?,
            Argument::Pointer(out.start),
        ];
        self.launch("select_rows", (ids.len(), 1, 1), ROW_THREADS, 0, &arguments)?;
        Ok(self.storage_of(out))
    }

    /// The sums, for each row of a table `[rows, width]`, of those rows of `dout` for which it was selected.
    ///
    /// # Errors
    /// What the driver reports.
    pub fn add_rows(
        self: &Arc<Self>,
        dout: Weight,
        ids: &[u32],
        (rows, width): (usize, usize),
    ) -> Result<CudaStorage> {
        assert_eq!(dout.len, ids.len() * width, "one row for each id");
        let mut ends = vec![0_u32; rows];
        let there = |id: u32| (id as usize) < rows;
        ids.iter().filter(|&&id| there(id)).for_each(|&id| ends[id as usize] += 1);
        let mut sum = 0;
        for end in &mut ends {
            // First where each begins; then, as its rows come, where it ends.
            sum += std::mem::replace(end, sum);
        }
        let mut order = vec![0_u32; sum as usize];
        for (row, &id) in (0..).zip(ids).filter(|(_, id)| there(**id)) {
            order[ends[id as usize] as usize] = row;
            ends[id as usize] += 1;
        }
        let dtable = self.fresh(rows * width)?;
        let (ends, order) = (CardNumbers::new(self, &ends, 0)?, CardNumbers::new(self, &order, 0)?);
        let arguments = [
            Argument::Pointer(dout.floats()),
            Argument::Pointer(ends.all().start),
            Argument::Pointer(order.all().start),
            Argument::count(width)?,
            Argument::Pointer(dtable.start),
        ];
        self.launch("add_rows", (rows, 1, 1), ROW_THREADS, 0, &arguments)?;
        Ok(self.storage_of(dtable))
    }
}

/// Blocks in which each number has a thread.
fn blocks_of(count: usize) -> (usize, usize, usize) {
    (count.div_ceil(ROW_THREADS), 1, 1)
}
