//! Rows of a table by their numbers.

use candle_core::{Result, Tensor};

/// The rows `ids` of `table [rows, width]`, and zeros for ids beyond it; gradients go back to the rows.
pub fn select(table: &Tensor, ids: &[u32]) -> Result<Tensor> {
    #[cfg(feature = "cuda")]
    if super::card_training::takes(table) {
        return table.contiguous()?.apply_op1(on_card::Select { ids: ids.to_vec() });
    }
    let (rows, width) = table.dims2()?;
    let numbers = |ids: &[u32]| Tensor::new(ids, table.device());
    if ids.iter().all(|&id| (id as usize) < rows) {
        return table.index_select(&numbers(ids)?, 0);
    }
    let zeros = Tensor::zeros((1, width), table.dtype(), table.device())?;
    let ids: Vec<u32> = ids.iter().map(|&id| id.min(rows as u32)).collect();
    Tensor::cat(&[table, &zeros], 0)?.index_select(&numbers(&ids)?, 0)
}

#[cfg(feature = "cuda")]
mod on_card {
    use candle_core::{CpuStorage, CudaStorage, CustomOp1, Layout, Result, Shape, Tensor};

    use super::super::card_training::{floats, stored};
    use crate::kernels::cuda::tensor_of;

    pub(super) struct Select {
        pub ids: Vec<u32>,
    }

    impl CustomOp1 for Select {
        fn name(&self) -> &'static str {
            "select rows"
        }

        fn cpu_fwd(&self, _table: &CpuStorage, _layout: &Layout) -> Result<(CpuStorage, Shape)> {
            candle_core::bail!("rows on a card were asked of the CPU")
        }

        fn cuda_fwd(&self, table: &CudaStorage, layout: &Layout) -> Result<(CudaStorage, Shape)> {
            let width = layout.shape().dims2()?.1;
            let (card, table) = stored(table, layout)?;
            let rows = card.select_rows(table, &self.ids, width)?;
            Ok((rows, Shape::from((self.ids.len(), width))))
        }

        fn bwd(&self, table: &Tensor, _out: &Tensor, dout: &Tensor) -> Result<Option<Tensor>> {
            let dout = dout.contiguous()?;
            let (card, slopes) = floats(&dout)?;
            let dtable = card.add_rows(slopes, &self.ids, table.dims2()?)?;
            Ok(Some(tensor_of(dtable, table.shape().clone())))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use candle_core::{Device, Var};

    #[test]
    fn rows_that_are_not_there_are_zeros_and_gradients_are_summed() {
        let rows = [[1.0f32, 2.0], [3.0, 4.0], [5.0, 6.0]];
        let table = Var::new(&rows, &Device::Cpu).unwrap();
        let selected = select(&table, &[2, 0, 9, 2]).unwrap();
        let expected = [[5.0, 6.0], [1.0, 2.0], [0.0, 0.0], [5.0, 6.0]];
        assert_eq!(selected.to_vec2::<f32>().unwrap(), expected);
        let gradients = selected.sqr().unwrap().sum_all().unwrap().backward().unwrap();
        let slopes = gradients.get(&table).unwrap().to_vec2::<f32>().unwrap();
        assert_eq!(slopes, [[2.0, 4.0], [0.0, 0.0], [20.0, 24.0]]);
    }
}
