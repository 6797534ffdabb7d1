//! Multi-head attention: four projections around `softmax(q k^T / sqrt(d)) v`.

use super::layers::Linear;
use super::parameter::Parameters;
use super::pass::Pass;
use crate::error::Result;
use crate::ops;
use crate::ops::attention::{Heads, Rounding, Spans};
use crate::ops::hidden::Hidden;
use crate::ops::kv_store::kept;
use crate::ops::weight::HalfFormat;

/// The projections and head sizes of one attention block.
#[derive(Debug)]
pub struct MultiHeadAttention {
    q_proj: Linear,
    k_proj: Linear,
    v_proj: Linear,
    out_proj: Linear,
    heads: Heads,
    /// What keys and values are rounded to, if they are.
    kept: Option<HalfFormat>,
    /// What it may round all that it multiplies to.
    rounding: Rounding,
    dropout: f64,
}

impl MultiHeadAttention {
    /// A block named `name` with `heads` heads over `width` features.
    pub fn new(
        parameters: &mut Parameters,
        name: &str,
        width: usize,
        heads: usize,
        dropout: f64,
    ) -> Result<Self> {
        // A card multiplies in the numbers of the weights.
        let precision = parameters.precision();
        let rounding = Rounding {
            on_cpu: false,
            on_card: precision.stored(),
            in_training: precision.rounded() == Some(HalfFormat::Bfloat16),
        };
        let mut projection =
            |part: &str| Linear::new(parameters, &format!("{name}.{part}_proj"), width, width);
        Ok(MultiHeadAttention {
            k_proj: projection("k")?,
            v_proj: projection("v")?,
            q_proj: projection("q")?,
            out_proj: projection("out")?,
            heads: Heads { count: heads, width: width / heads },
            kept: None,
            rounding,
            dropout,
        })
    }

    /// The same block with keys and values rounded to `format`, as a cache keeps them.
    pub fn keeping(self, format: Option<HalfFormat>) -> Self {
        MultiHeadAttention { kept: format, ..self }
    }

    /// The same block, which multiplies in bfloat16 if it may and the processor does so faster. Cached steps
    /// do not: it is for blocks without a cache.
    pub fn in_bfloat16(self, allowed: bool) -> Self {
        match allowed {
            true => {
                let on_card = Some(HalfFormat::Bfloat16);
                let rounding = Rounding { on_cpu: true, on_card, ..self.rounding };
                MultiHeadAttention { rounding, ..self }
            }
            false => self,
        }
    }

    /// Attention of `x [rows, width]` to itself.
    pub fn self_attention(&self, x: &Hidden, spans: &Spans, pass: &Pass) -> Result<Hidden> {
        let [q, k, v] = self.queries_keys_values(x, pass)?;
        self.attend(&q, k, v, spans, pass)
    }

    /// Attention of `x [query rows, width]` to `memory [key rows, width]`.
    pub fn cross_attention(
        &self,
        x: &Hidden,
        memory: &Hidden,
        spans: &Spans,
        pass: &Pass,
    ) -> Result<Hidden> {
        let q = self.queries(x, pass)?;
        let [k, v] = self.keys_values(memory, pass)?;
        self.attend(&q, k, v, spans, pass)
    }

    fn attend(
        &self,
        q: &Hidden,
        k: Hidden,
        v: Hidden,
        spans: &Spans,
        pass: &Pass,
    ) -> Result<Hidden> {
        let (k, v) = (kept(k, self.kept)?, kept(v, self.kept)?);
        let draw = pass.draw(self.dropout);
        let context = ops::attention::attention(q, &k, &v, spans, self.heads, draw, self.rounding)?;
        self.output(&context, pass)
    }

    /// The weights of [`Self::cross_attention`]: see [`ops::attention::weights`].
    pub fn weights(
        &self,
        x: &Hidden,
        memory: &Hidden,
        spans: &Spans,
        pass: &Pass,
    ) -> Result<Vec<f32>> {
        let (q, k) = (self.queries(x, pass)?, self.k_proj.forward(memory, pass)?);
        Ok(ops::attention::weights(&q, &kept(k, self.kept)?, spans, self.heads)?)
    }

    /// Queries of `x`, `[rows, width]`.
    pub fn queries(&self, x: &Hidden, pass: &Pass) -> Result<Hidden> {
        self.q_proj.forward(x, pass)
    }

    /// Keys and values of `memory`, each `[rows, width]`, not rounded yet.
    pub fn keys_values(&self, memory: &Hidden, pass: &Pass) -> Result<[Hidden; 2]> {
        Linear::forward_each([&self.k_proj, &self.v_proj], memory, pass)
    }

    /// Queries, keys and values of `x`, each `[rows, width]`, not rounded yet.
    pub fn queries_keys_values(&self, x: &Hidden, pass: &Pass) -> Result<[Hidden; 3]> {
        Linear::forward_each([&self.q_proj, &self.k_proj, &self.v_proj], x, pass)
    }

    /// The output projection of attended values.
    pub fn output(&self, context: &Hidden, pass: &Pass) -> Result<Hidden> {
        self.out_proj.forward(context, pass)
    }

    /// Sizes of the heads.
    pub fn heads(&self) -> Heads {
        self.heads
    }
}
