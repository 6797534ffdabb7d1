//! A set of low-rank additions in a safetensors file: `A` and `B` under the names of their matrices, as
//! Hugging Face's PEFT calls them, and their settings in the header.

use std::collections::HashMap;
use std::path::Path;

use half::{bf16, f16};
use safetensors::tensor::{Dtype, TensorView};
use safetensors::{SafeTensorError, SafeTensors};

use crate::error::{Error, Result};
use crate::model::BartModel;

/// A tensor of a file: its name, shape and values.
pub type Named = (String, Vec<usize>, Vec<f32>);

/// Writes a set of `model`. The file appears whole or not at all only if `path` is one that is renamed
/// afterwards.
///
/// # Errors
/// `Argument` if there is no such set, `Io` if it cannot be written.
pub fn save(
    model: &BartModel,
    adapter: &str,
    settings: HashMap<String, String>,
    path: &Path,
) -> Result<()> {
    let mut tensors = Vec::new();
    for parameter in model.adapter_parameters(adapter)? {
        let bytes: Vec<u8> = parameter.values()?.iter().flat_map(|x| x.to_le_bytes()).collect();
        tensors.push((parameter.name().to_owned(), parameter.shape().to_vec(), bytes));
    }
    let views = tensors.iter().map(|(name, shape, bytes)| {
        let view = TensorView::new(Dtype::F32, shape.clone(), bytes);
        (name.clone(), view.expect("as many bytes as the shape says"))
    });
    safetensors::serialize_to_file(views, Some(settings), path).map_err(|error| match error {
        SafeTensorError::IoError(source) => Error::io(path, source),
        other => Error::format(path, other.to_string()),
    })
}

/// All tensors of a small file, as float32, and its settings.
///
/// # Errors
/// `Io` if it cannot be read, `Format` if it is damaged or holds other numbers than floats.
pub fn read(path: &Path) -> Result<(HashMap<String, String>, Vec<Named>)> {
    let bytes = std::fs::read(path).map_err(|source| Error::io(path, source))?;
    let damaged = |error: SafeTensorError| Error::format(path, error.to_string());
    let (_, header) = SafeTensors::read_metadata(&bytes).map_err(damaged)?;
    let file = SafeTensors::deserialize(&bytes).map_err(damaged)?;
    let mut tensors = Vec::new();
    for (name, view) in file.iter() {
        let Some(values) = floats(view.dtype(), view.data()) else {
            let message = format!("`{name}` is {:?}, not a float", view.dtype());
            return Err(Error::format(path, message));
        };
        tensors.push((name.to_owned(), view.shape().to_vec(), values));
    }
    tensors.sort_by(|(a, ..), (b, ..)| a.cmp(b));
    Ok((header.metadata().clone().unwrap_or_default(), tensors))
}

fn floats(dtype: Dtype, bytes: &[u8]) -> Option<Vec<f32>> {
    let halves = || bytes.chunks_exact(2).map(|two| [two[0], two[1]]);
    match dtype {
        Dtype::F32 => {
            let four = |four: &[u8]| f32::from_le_bytes([four[0], four[1], four[2], four[3]]);
            Some(bytes.chunks_exact(4).map(four).collect())
        }
        Dtype::F16 => Some(halves().map(|two| f16::from_le_bytes(two).to_f32()).collect()),
        Dtype::BF16 => Some(halves().map(|two| bf16::from_le_bytes(two).to_f32()).collect()),
        _ => None,
    }
}
