//! A block of the model whose inner values are not kept for the backward pass but computed again there
//! (Chen et al. 2016, arXiv:1604.06174): memory for one block at a time, for a second forward pass.

use candle_core::{
    CpuStorage, CudaStorage, CustomOp1, CustomOp2, Layout, MetalStorage, Result, Shape, Storage,
    Tensor, Var,
};

use super::gradient::GradientBuffer;
use super::place::with_values;

/// What a block makes of its inputs, with the same bits each time.
pub type Block = Box<dyn Fn(&[Tensor]) -> Result<Tensor> + Send + Sync>;

/// A trained tensor of a block, and where its gradient gathers.
pub type Gathered = (Tensor, GradientBuffer);

/// `block` of one or two tensors; `trained` is what it trains. Their gradients gather in the buffers, and
/// not in candle's store: the backward pass within the backward pass has one of its own.
///
/// The gradients are those of the block itself, up to the order in which some are added.
pub fn recompute(inputs: &[Tensor], block: Block, trained: Vec<Gathered>) -> Result<Tensor> {
    let detached: Vec<Tensor> = inputs.iter().map(Tensor::detach).collect();
    let y = block(&detached)?.detach();
    if trained.is_empty() && !inputs.iter().any(Tensor::track_op) {
        return Ok(y);
    }
    let op = Recompute { y, block, trained };
    // The backward pass comes only through what is tracked.
    let first = match inputs.iter().any(Tensor::track_op) {
        true => inputs[0].clone(),
        false => Var::from_tensor(&inputs[0])?.into_inner(),
    };
    match inputs {
        [_] => first.apply_op1(op),
        [_, second] => first.apply_op2(second, op),
        _ => candle_core::bail!("a block has one or two inputs, not {}", inputs.len()),
    }
}

struct Recompute {
    /// The result, without what led to it.
    y: Tensor,
    block: Block,
    trained: Vec<Gathered>,
}

impl Recompute {
    /// A copy of the result, which `of_device` finds where the inputs are.
    fn forward<S>(&self, of_device: impl FnOnce(Storage) -> Option<S>) -> Result<(S, Shape)> {
        let y = self.y.contiguous()?;
        let (storage, layout) = y.storage_and_layout();
        match of_device(storage.try_clone(layout)?) {
            Some(storage) => Ok((storage, layout.shape().clone())),
            None => candle_core::bail!("a result on another device than its inputs"),
        }
    }

    /// Gradients of the inputs, for that of the result.
    fn backward(&self, inputs: &[&Tensor], dy: &Tensor) -> Result<Vec<Option<Tensor>>> {
        let fresh: Vec<Tensor> = inputs
            .iter()
            .map(|input| Ok(Var::from_tensor(&input.detach())?.into_inner()))
            .collect::<Result<_>>()?;
        let y = (self.block)(&fresh)?;
        // A scalar whose gradient with respect to `y` is `dy`.
        let gradients = (y * dy)?.sum_all()?.backward()?;
        for (tensor, buffer) in &self.trained {
            let Some(gradient) = gradients.get(tensor) else { continue };
            if gradient.device().is_cuda() {
                buffer.add_tensor(gradient)?;
                continue;
            }
            with_values(gradient, |values| {
                buffer.add_dense(values.len(), |to| to.copy_from_slice(values));
            })?;
        }
        let wanted = |(input, fresh): (&&Tensor, &Tensor)| {
            gradients.get(fresh).filter(|_| input.track_op()).cloned()
        };
        Ok(inputs.iter().zip(&fresh).map(wanted).collect())
    }
}

fn of_cpu(storage: Storage) -> Option<CpuStorage> {
    if let Storage::Cpu(storage) = storage { Some(storage) } else { None }
}

fn of_cuda(storage: Storage) -> Option<CudaStorage> {
    if let Storage::Cuda(storage) = storage { Some(storage) } else { None }
}

fn of_metal(storage: Storage) -> Option<MetalStorage> {
    if let Storage::Metal(storage) = storage { Some(storage) } else { None }
}

impl CustomOp1 for Recompute {
    fn name(&self) -> &'static str {
        "recompute"
    }

    fn cpu_fwd(&self, _: &CpuStorage, _: &Layout) -> Result<(CpuStorage, Shape)> {
        self.forward(of_cpu)
    }

    fn cuda_fwd(&self, _: &CudaStorage, _: &Layout) -> Result<(CudaStorage, Shape)> {
        self.forward(of_cuda)
    }

    fn metal_fwd(&self, _: &MetalStorage, _: &Layout) -> Result<(MetalStorage, Shape)> {
        self.forward(of_metal)
    }

    fn bwd(&self, x: &Tensor, _y: &Tensor, dy: &Tensor) -> Result<Option<Tensor>> {
        Ok(self.backward(&[x], dy)?.pop().flatten())
    }
}

impl CustomOp2 for Recompute {
    fn name(&self) -> &'static str {
        "recompute"
    }

    fn cpu_fwd(
        &self,
        _: &CpuStorage,
        _: &Layout,
        _: &CpuStorage,
        _: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        self.forward(of_cpu)
    }

    fn cuda_fwd(
        &self,
        _: &CudaStorage,
        _: &Layout,
        _: &CudaStorage,
        _: &Layout,
    ) -> Result<(CudaStorage, Shape)> {
        self.forward(of_cuda)
    }

    fn metal_fwd(
        &self,
        _: &MetalStorage,
        _: &Layout,
        _: &MetalStorage,
        _: &Layout,
    ) -> Result<(MetalStorage, Shape)> {
        self.forward(of_metal)
    }

    fn bwd(
        &self,
        a: &Tensor,
        b: &Tensor,
        _y: &Tensor,
        dy: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>)> {
        let mut gradients = self.backward(&[a, b], dy)?;
        let second = gradients.pop().flatten();
        Ok((gradients.pop().flatten(), second))
    }
}
