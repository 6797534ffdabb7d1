//! Token plus position embeddings: rows of two tables, added.

use candle_core::{CpuStorage, CustomOp2, Layout, Result, Shape, Tensor};

use super::gradient::GradientBuffer;
use super::weight::{Weight, panels};
use super::{floats, int8, tensor, use_kernels, with_floats};
use crate::kernels::gemm::Panels;
use crate::kernels::pack;

/// `scale * table[token] + positions[position]` for each row; `table` is a [`Weight`]
/// `[vocabulary, width]`, `positions` a plain tensor `[positions, width]`.
///
/// The caller has checked that all ids are within their tables.
pub fn embed(
    table: &Weight,
    tokens: &[u32],
    scale: f32,
    positions: &Tensor,
    places: &[u32],
) -> Result<Tensor> {
    if use_kernels(positions) && table.is_packed() {
        if let Some(scales) = table.scales() {
            let mut out = int8::gather(table, scales, tokens)?;
            out.iter_mut().for_each(|x| *x *= scale);
            with_floats([positions], |[positions]| add_rows(positions, places, &mut out))?;
            return tensor(out, (tokens.len(), table.columns()));
        }
        let op = Embed {
            rows: table.rows(),
            tokens: tokens.to_vec(),
            scale,
            places: places.to_vec(),
            gradient: table.gradient().cloned(),
        };
        return table.stored().apply_op2(positions, op);
    }
    let device = positions.device();
    let tokens = Tensor::new(tokens, device)?;
    let places = Tensor::new(places, device)?;
    let mut embedded = table.dense()?.index_select(&tokens, 0)?;
    if let Some(scales) = table.scales() {
        embedded = embedded.broadcast_div(&scales.index_select(&tokens, 0)?.unsqueeze(1)?)?;
    }
    (embedded * f64::from(scale))? + positions.index_select(&places, 0)?
}

/// Adds row `places[i]` of `table` to row `i` of `out`.
fn add_rows(table: &[f32], places: &[u32], out: &mut [f32]) {
    let width = out.len() / places.len().max(1);
    for (row, &place) in out.chunks_exact_mut(width.max(1)).zip(places) {
        let from = &table[place as usize * width..][..width];
        row.iter_mut().zip(from).for_each(|(x, p)| *x += p);
    }
}

struct Embed {
    rows: usize,
    tokens: Vec<u32>,
    scale: f32,
    places: Vec<u32>,
    gradient: Option<GradientBuffer>,
}

impl CustomOp2 for Embed {
    fn name(&self) -> &'static str {
        "embed"
    }

    fn cpu_fwd(
        &self,
        table: &CpuStorage,
        table_layout: &Layout,
        positions: &CpuStorage,
        positions_layout: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let width = positions_layout.shape().dims2()?.1;
        let positions = floats(positions, positions_layout)?;
        let (tokens, mut out) = (&self.tokens, vec![0.0; self.tokens.len() * width]);
        match panels(table, table_layout, None)? {
            Panels::Half(format, table) => {
                format.gather_rows(table, self.rows, width, tokens, &mut out);
                out.iter_mut().for_each(|x| *x *= self.scale);
            }
            Panels::Float(table) | Panels::Rounded(_, table) => {
                pack::gather_rows(table, self.rows, width, tokens, self.scale, &mut out);
            }
        }
        add_rows(positions, &self.places, &mut out);
        Ok((CpuStorage::F32(out), Shape::from((self.tokens.len(), width))))
    }

    fn bwd(
        &self,
        table: &Tensor,
        positions: &Tensor,
        _out: &Tensor,
        dout: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>)> {
        let dout = dout.contiguous()?;
        let (dtable, dpositions) = with_floats([&dout], |[dout]| {
            let width = dout.len() / self.tokens.len().max(1);
            let add = |dtable: &mut [f32]| {
                pack::scatter_add_rows(dout, &self.tokens, self.scale, self.rows, width, dtable);
            };
            let dtable = match &self.gradient {
                Some(buffer) => {
                    buffer.add_sparse(table.elem_count(), add);
                    None
                }
                None => {
                    let mut dtable = vec![0.0; table.elem_count()];
                    add(&mut dtable);
                    Some(dtable)
                }
            };
            let mut dpositions = vec![0.0; positions.elem_count()];
            for (row, &place) in dout.chunks_exact(width.max(1)).zip(&self.places) {
                let position = &mut dpositions[place as usize * width..][..width];
                position.iter_mut().zip(row).for_each(|(p, x)| *p += x);
            }
            (dtable, dpositions)
        })?;
        Ok((
            dtable.map(|dtable| tensor(dtable, table.shape().clone())).transpose()?,
            Some(tensor(dpositions, positions.shape().clone())?),
        ))
    }
}
