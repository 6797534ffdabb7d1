//! Layers whose inner values may be computed again in the backward pass: see [`crate::ops::recompute`].

use std::ops::Deref;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use candle_core::Tensor;

use super::parameter::{Parameter, Parameters};
use super::pass::Pass;
use crate::error::Result;
use crate::ops::hidden::Hidden;
use crate::ops::recompute::{Block, Gathered, recompute};

/// A layer and what it can train.
#[derive(Debug)]
pub struct Recomputed<L> {
    layer: Arc<L>,
    parameters: Vec<Arc<Parameter>>,
}

impl<L: Send + Sync + 'static> Recomputed<L> {
    /// What `make` makes.
    pub fn new(
        parameters: &mut Parameters,
        make: impl FnOnce(&mut Parameters) -> Result<L>,
    ) -> Result<Self> {
        let before = parameters.list().len();
        let layer = Arc::new(make(parameters)?);
        Ok(Recomputed { layer, parameters: parameters.list()[before..].to_vec() })
    }

    /// `forward` of the layer and one or two inputs; of what lies between, nothing is kept if `pass`
    /// [computes it again](Pass::recomputes).
    pub fn forward<const N: usize>(
        &self,
        inputs: [&Hidden; N],
        pass: &Pass,
        forward: impl Fn(&L, [&Hidden; N], &Pass) -> Result<Hidden> + Send + Sync + 'static,
    ) -> Result<Hidden> {
        if !pass.recomputes() {
            return forward(&self.layer, inputs, pass);
        }
        let (layer, begun) = (self.layer.clone(), pass.draws());
        let ended = Arc::new(AtomicU64::new(0));
        let end = ended.clone();
        let run = move |tensors: &[Tensor]| -> Result<Tensor> {
            let kind = |tensor: &Tensor| Hidden::try_from(tensor.clone());
            let inputs = tensors.iter().map(kind).collect::<candle_core::Result<Vec<_>>>()?;
            let pass = begun.pass();
            let y = forward(&layer, std::array::from_fn(|i| &inputs[i]), &pass)?;
            end.store(pass.draws().next, Ordering::Relaxed);
            Ok(y.tensor()?)
        };
        let block: Block = Box::new(move |tensors| run(tensors).map_err(candle_core::Error::wrap));
        let tensors =
            inputs.map(Hidden::tensor).into_iter().collect::<candle_core::Result<Vec<_>>>()?;
        let y = recompute(&tensors, block, self.trained())?;
        pass.go_on_from(ended.load(Ordering::Relaxed));
        Ok(y.try_into()?)
    }

    /// What is trained of the layer and of what is added to it.
    fn trained(&self) -> Vec<Gathered> {
        let mut all = self.parameters.clone();
        for low_rank in self.parameters.iter().filter_map(|parameter| parameter.low_rank()) {
            all.extend(low_rank.parameters().map(Arc::clone));
        }
        let trained = all.iter().filter(|parameter| parameter.is_trainable());
        trained.map(|p| (p.var().as_tensor().clone(), p.gradient().clone())).collect()
    }
}

impl<L> Deref for Recomputed<L> {
    type Target = L;

    fn deref(&self) -> &L {
        &self.layer
    }
}
