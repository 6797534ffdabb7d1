//! The head of a sequence classifier, and the way of a text to it: the decoder reads the source
//! again, shifted by one, and its state at the end of the text is what is classified
//! (Lewis et al. 2019, arXiv:1910.13461, section 3.1).

use std::sync::Arc;

use super::backbone::BartModel;
use super::batch::Batch;
use super::layers::Linear;
use super::parameter::{Initialisation, Parameter, Parameters};
use super::pass::Pass;
use super::precision::Precision;
use crate::config::Activation;
use crate::error::{Error, Result};
use crate::ops::hidden::Hidden;
use crate::ops::place::Place;

/// Largest size of the head: far above any number of classes.
const MAX_SIZE: usize = 1 << 24;

/// `W2 tanh(W1 x)`, with dropout before each product; float32, whatever the model is.
#[derive(Debug)]
pub struct ClassificationHead {
    dense: Linear,
    out_proj: Linear,
    dropout: f64,
    parameters: Vec<Arc<Parameter>>,
}

impl ClassificationHead {
    /// A head from hidden states of `width` features over `inner` ones to `classes` scores.
    ///
    /// # Errors
    /// `Argument` if a size is 0 or far too large, `Memory` if there is no room for it.
    pub fn new(
        width: usize,
        inner: usize,
        classes: usize,
        dropout: f64,
        initialisation: Initialisation,
    ) -> Result<Self> {
        for (name, size) in [("width", width), ("hidden_dim", inner), ("num_classes", classes)] {
            if size == 0 || size > MAX_SIZE {
                let message = format!("must be 1 to {MAX_SIZE}, received {size}");
                return Err(Error::argument(name, message));
            }
        }
        let count = (width as u64 + 1) * inner as u64 + (inner as u64 + 1) * classes as u64;
        Error::check_room("a head of these sizes", count)?;
        let mut parameters = Parameters::new(initialisation, Precision::Float32, Place::Kernels);
        let dense = Linear::new(&mut parameters, "classification_head.dense", width, inner)?;
        let out_proj =
            Linear::new(&mut parameters, "classification_head.out_proj", inner, classes)?;
        Ok(ClassificationHead { dense, out_proj, dropout, parameters: parameters.into_list() })
    }

    /// Its parameters, in the order of the checkpoint.
    pub fn parameters(&self) -> &[Arc<Parameter>] {
        &self.parameters
    }

    /// Scores `[rows, classes]` of hidden states `[rows, width]`.
    pub fn forward(&self, x: Hidden, pass: &Pass) -> Result<Hidden> {
        let x = pass.dropout(x, self.dropout)?;
        let x = self.dense.forward_activated(&x, Activation::Tanh, pass)?;
        let x = pass.dropout(x, self.dropout)?;
        self.out_proj.forward(&x, pass)
    }

    /// Scores `[sequences, classes]` of texts: `target` is what the decoder reads of each `source`,
    /// up to the row whose state is classified.
    ///
    /// # Errors
    /// `Argument` for ids or positions outside the model's tables, for a target without rows and
    /// for another number of targets than of sources; and what the pass's check returns.
    pub fn classify(
        &self,
        model: &BartModel,
        source: &Batch,
        target: &Batch,
        pass: &Pass,
    ) -> Result<Hidden> {
        source.check("token_ids", model.config())?;
        target.check("token_ids", model.config())?;
        let empty = target.offsets().windows(2).any(|ends| ends[0] == ends[1]);
        if empty || source.sequences() != target.sequences() {
            return Err(Error::argument("token_ids", "each row needs a token"));
        }
        let memory = model.encode(source, pass)?;
        let hidden = model.decode(target, &memory, source, pass)?;
        let last: Vec<u32> = target.offsets()[1..].iter().map(|&end| end as u32 - 1).collect();
        let last = model.place().alone(|| hidden.select(&last)?.at(&Place::Kernels))?;
        self.forward(last, pass)
    }
}
