//! The tensors of a Hugging Face or fairseq BART checkpoint, and which parameter each one fills.

/// Rows that Hugging Face's position tables carry in front, left over from padding ids in fairseq.
pub const POSITION_OFFSET: usize = 2;

/// What a tensor of a checkpoint is to us.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Role {
    /// The parameter of this name, if the model has it.
    Parameter(String),
    /// Another copy of the shared token table.
    TiedCopy,
    /// Bookkeeping without influence on the numbers.
    Ignored,
}

/// The role of the tensor called `name`; checkpoints of the bare backbone lack the prefix `model.`.
pub fn role(name: &str) -> Role {
    let name = name.strip_prefix("model.").unwrap_or(name);
    match name {
        "encoder.embed_tokens.weight" | "decoder.embed_tokens.weight" | "lm_head.weight" => {
            Role::TiedCopy
        }
        // The head's name in fairseq, which has the other names in common with Hugging Face, and
        // the offset of positions too.
        "decoder.output_projection.weight" => Role::TiedCopy,
        "encoder.version" | "decoder.version" => Role::Ignored,
        _ => Role::Parameter(name.to_string()),
    }
}

/// The name under which Hugging Face stores a parameter.
pub fn stored_name(parameter: &str) -> String {
    match parameter {
        "final_logits_bias" => parameter.to_string(),
        _ => format!("model.{parameter}"),
    }
}

/// The shape in which Hugging Face stores a parameter of our `shape`.
pub fn stored_shape(parameter: &str, shape: &[usize]) -> Vec<usize> {
    match parameter {
        "final_logits_bias" => vec![1, shape[0]],
        _ if is_position_table(parameter) => vec![shape[0] + POSITION_OFFSET, shape[1]],
        _ => shape.to_vec(),
    }
}

/// Whether a parameter is a table of learned positions.
pub fn is_position_table(parameter: &str) -> bool {
    parameter.ends_with("embed_positions.weight")
}

/// Whether a checkpoint may lack a parameter, which is then zero.
pub fn is_optional(parameter: &str) -> bool {
    parameter == "final_logits_bias"
}
