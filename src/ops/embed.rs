//! Token plus position embeddings: rows of two tables, added.

use candle_core::{CpuStorage, CustomOp2, DType, Layout, Result, Shape, Tensor};

use super::gradient::GradientBuffer;
use super::hidden::Hidden;
use super::step_inputs::StepInputs;
use super::weight::{Weight, panels};
use super::{floats, int8, on_cpu, rows, tensor, use_kernels, wants_gradient, with_floats};
use crate::kernels::gemm::Panels;
use crate::kernels::pack;

/// [`embed`] of the rows of a decoding step, which a card may have already.
pub fn embed_step(
    table: &Weight,
    rows: (&[u32], &[u32], &StepInputs),
    scale: f32,
    positions: &Tensor,
) -> Result<Hidden> {
    let (tokens, places, _inputs) = rows;
    #[cfg(feature = "cuda")]
    if let Some(x) = super::card::embed(table, _inputs, scale, positions)? {
        return Ok(x);
    }
    embed(table, tokens, scale, positions, places)
}

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
) -> Result<Hidden> {
    let kernels = use_kernels(positions) && table.is_packed();
    if kernels && !wants_gradient(&[table.stored(), positions]) {
        let mut outcome = Ok(());
        let x = Hidden::computed(tokens.len(), table.columns(), |out| {
            outcome = gather(table, tokens, scale, out).and_then(|()| {
                with_floats([positions], |[positions]| add_rows(positions, places, out))
            });
        });
        return outcome.map(|()| x);
    }
    if kernels {
        let op = Embed {
            rows: table.rows(),
            tokens: tokens.to_vec(),
            scale,
            places: places.to_vec(),
            gradient: table.gradient().cloned(),
        };
        return table.stored().apply_op2(positions, op)?.try_into();
    }
    let mut embedded = rows::select(&table.dense()?, tokens)?.to_dtype(DType::F32)?;
    if let Some(scales) = table.scales() {
        embedded = embedded.broadcast_div(&rows::select(&scales.unsqueeze(1)?, tokens)?)?;
    }
    let sum = ((embedded * f64::from(scale))? + rows::select(positions, places)?)?;
    sum.to_dtype(table.row_dtype())?.try_into()
}

/// `scale * table[token]` for each token, by our kernels.
fn gather(table: &Weight, tokens: &[u32], scale: f32, out: &mut [f32]) -> Result<()> {
    if let Some(scales) = table.scales() {
        int8::gather(table, scales, tokens, out)?;
        out.iter_mut().for_each(|x| *x *= scale);
        return Ok(());
    }
    let (storage, layout) = table.stored().storage_and_layout();
    let panels = panels(on_cpu(&storage)?, layout, None)?;
    gather_panels(panels, (table.rows(), table.columns()), tokens, scale, out);
    Ok(())
}

/// The same of a table `[rows, width]` of floats.
fn gather_panels(
    table: Panels<'_>,
    (rows, width): (usize, usize),
    tokens: &[u32],
    scale: f32,
    out: &mut [f32],
) {
    match table {
        Panels::Half(format, table) => {
            format.gather_rows(table, rows, width, tokens, out);
            out.iter_mut().for_each(|x| *x *= scale);
        }
        Panels::Float(table) | Panels::Rounded(_, table) => {
            pack::gather_rows(table, rows, width, tokens, scale, out);
        }
    }
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
        let mut out = vec![0.0; self.tokens.len() * width];
        let table = panels(table, table_layout, None)?;
        gather_panels(table, (self.rows, width), &self.tokens, self.scale, &mut out);
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
