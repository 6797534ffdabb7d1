//! The tensors of a Hugging Face or fairseq BART checkpoint, and which parameter each one fills.

/// Rows that Hugging Face's position tables carry in front, left over from padding ids in fairseq.
pub const POSITION_OFFSET: usize = 2;

/// The name of a checkpoint's tensor among our parameters, if it is no bookkeeping. Checkpoints of
/// the bare backbone lack the prefix `model.`; fairseq, which has the other names in common with
/// Hugging Face and the offset of positions too, has two of its own for the head.
pub fn canonical(name: &str) -> Option<&str> {
    match name.strip_prefix("model.").unwrap_or(name) {
        "encoder.version" | "decoder.version" => None,
        "decoder.output_projection.weight" | "decoder.embed_out" => Some("lm_head.weight"),
        other => Some(head_of_fairseq(other).unwrap_or(other)),
    }
}

/// fairseq gives each of its classification heads a name of its own.
fn head_of_fairseq(name: &str) -> Option<&'static str> {
    let (_, parameter) = name.strip_prefix("classification_heads.")?.split_once('.')?;
    HEAD.into_iter().find(|ours| ours.strip_prefix(HEAD_PREFIX) == Some(parameter))
}

const HEAD_PREFIX: &str = "classification_head.";
/// The parameters of the head of a sequence classifier.
const HEAD: [&str; 4] = [
    "classification_head.dense.weight",
    "classification_head.dense.bias",
    "classification_head.out_proj.weight",
    "classification_head.out_proj.bias",
];

/// Whether a parameter belongs to the head of a sequence classifier.
pub fn is_of_head(parameter: &str) -> bool {
    HEAD.contains(&parameter)
}

/// The name under which Hugging Face stores a parameter.
pub fn stored_name(parameter: &str) -> String {
    match parameter {
        "final_logits_bias" | "lm_head.weight" => parameter.to_string(),
        _ if is_of_head(parameter) => parameter.to_string(),
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

/// What the name of a matrix in int8 is followed by in that of its scales, by which its rows are
/// divided, as in Keras. Others' `weight_scale` is what rows are multiplied by.
pub const SCALES: &str = ".keras_scale";

/// Whether a parameter is a table of learned positions.
pub fn is_position_table(parameter: &str) -> bool {
    parameter.ends_with("embed_positions.weight")
}

/// Whether a checkpoint may lack a parameter, which is then zero.
pub fn is_optional(parameter: &str) -> bool {
    parameter == "final_logits_bias"
}
