//! The matrix of a linear layer or an embedding table, in the one layout it is stored in.

use candle_core::{Result, Tensor};

use super::gradient::GradientBuffer;
use crate::kernels::pack::{self, PANEL};

/// A matrix `[rows, columns]` (`[out, in]` of a linear layer, `[vocabulary, width]` of a table).
///
/// On the CPU it is stored as panels `[ceil(rows / 32), columns, 32]`, the order in which products
/// read it (see [`crate::kernels::pack`]); elsewhere as it is. Gradients and optimizer state have
/// the layout of the weight, so that nothing is ever held twice.
#[derive(Debug, Clone)]
pub struct Weight {
    stored: Tensor,
    rows: usize,
    columns: usize,
    gradient: Option<GradientBuffer>,
}

impl Weight {
    /// Wraps a stored tensor: `[rows, columns]`, or its panels.
    pub fn new(stored: Tensor, rows: usize, columns: usize) -> Self {
        debug_assert!(
            stored.dims() == [rows, columns]
                || stored.dims() == [rows.div_ceil(PANEL), columns, PANEL]
        );
        Weight { stored, rows, columns, gradient: None }
    }

    /// The same weight, whose gradient gathers in `buffer` where our kernels compute it.
    pub fn gathering_in(self, buffer: GradientBuffer) -> Self {
        Weight { gradient: Some(buffer), ..self }
    }

    /// Where the gradient gathers; `None`: in candle's store.
    pub fn gradient(&self) -> Option<&GradientBuffer> {
        self.gradient.as_ref()
    }

    /// The shape in which panels are stored.
    pub fn panel_shape(rows: usize, columns: usize) -> (usize, usize, usize) {
        (rows.div_ceil(PANEL), columns, PANEL)
    }

    /// Packs row-major floats `[rows, columns]` for storage on the CPU.
    pub fn pack(values: &[f32], rows: usize, columns: usize) -> Vec<f32> {
        let mut panels = vec![0.0; pack::packed_len(rows, columns)];
        pack::from_rows(values, rows, columns, &mut panels);
        panels
    }

    /// The stored tensor.
    pub fn stored(&self) -> &Tensor {
        &self.stored
    }

    /// Number of rows (outputs, or entries of a table).
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// Number of columns (inputs, or width of a table).
    pub fn columns(&self) -> usize {
        self.columns
    }

    /// Whether the matrix is stored as panels.
    pub fn is_packed(&self) -> bool {
        self.stored.rank() == 3
    }

    /// The matrix as `[rows, columns]`, by candle's own operations (gradients flow through).
    pub fn dense(&self) -> Result<Tensor> {
        if !self.is_packed() {
            return Ok(self.stored.clone());
        }
        let (panels, columns, width) = self.stored.dims3()?;
        self.stored.transpose(1, 2)?.reshape((panels * width, columns))?.narrow(0, 0, self.rows)
    }
}
