//! Hugging Face's `.safetensors`: the header read, and files written whole or not at all.

use std::borrow::Cow;
use std::io::{Read, Seek, SeekFrom};
use std::path::Path;

use half::{bf16, f16};
use safetensors::tensor::{Metadata, TensorInfo};
use safetensors::{Dtype, SafeTensorError, View};

use super::stored::StoredTensor;
use super::{names, tables};
use crate::error::{Error, Result};
use crate::model::classification_head::ClassificationHead;
use crate::model::{BartModel, Parameter};

/// The longest header that is read. A BART's has some 60 kB; a hostile one takes twenty times its
/// length in memory.
const MAX_HEADER: u64 = 8 << 20;

/// How floats are stored in a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FloatFormat {
    /// 32 bits.
    Float32,
    /// IEEE half precision.
    Float16,
    /// The upper half of a float32.
    Bfloat16,
    /// 32 bits, but matrices in int8 as the model keeps them, their scales beside.
    Int8,
}

impl FloatFormat {
    /// Reads "float32", "float16", "bfloat16" or "int8".
    ///
    /// # Errors
    /// `Argument` for another name.
    pub fn from_name(name: &str) -> Result<Self> {
        match name {
            "float32" => Ok(FloatFormat::Float32),
            "float16" => Ok(FloatFormat::Float16),
            "bfloat16" => Ok(FloatFormat::Bfloat16),
            "int8" => Ok(FloatFormat::Int8),
            other => Err(Error::argument(
                "dtype",
                format!("must be float32, float16, bfloat16 or int8, received {other:?}"),
            )),
        }
    }

    fn dtype(self) -> Dtype {
        match self {
            FloatFormat::Float32 | FloatFormat::Int8 => Dtype::F32,
            FloatFormat::Float16 => Dtype::F16,
            FloatFormat::Bfloat16 => Dtype::BF16,
        }
    }

    fn encode(self, values: &[f32]) -> Vec<u8> {
        match self {
            FloatFormat::Float32 | FloatFormat::Int8 => {
                values.iter().flat_map(|x| x.to_le_bytes()).collect()
            }
            FloatFormat::Float16 => {
                values.iter().flat_map(|x| f16::from_f32(*x).to_le_bytes()).collect()
            }
            FloatFormat::Bfloat16 => {
                values.iter().flat_map(|x| bf16::from_f32(*x).to_le_bytes()).collect()
            }
        }
    }
}

/// Where a file keeps its tensors. The header has been checked against the file's length.
///
/// # Errors
/// `Io` if the file cannot be read, `Format` if it is truncated or damaged.
pub fn read(path: &Path, file: &mut (impl Read + Seek)) -> Result<Vec<(String, StoredTensor)>> {
    let io = |source| Error::io(path, source);
    let damaged = |what: String| Error::format(path, what);
    let length = file.seek(SeekFrom::End(0)).map_err(io)?;
    file.rewind().map_err(io)?;
    let mut size = [0; 8];
    file.read_exact(&mut size).map_err(|_| damaged("is truncated: no header".to_string()))?;
    let header_size = u64::from_le_bytes(size);
    if header_size > MAX_HEADER || header_size > length - 8 {
        return Err(damaged(format!(
            "is truncated or not a safetensors file: it declares a header of {header_size} bytes"
        )));
    }
    let mut header = vec![0; header_size as usize];
    file.read_exact(&mut header).map_err(io)?;
    let metadata: Metadata = serde_json::from_slice(&header)
        .map_err(|error| damaged(format!("is not a safetensors file: {error}")))?;
    let data_start = 8 + header_size;
    let expected = data_start.saturating_add(metadata.data_len() as u64);
    if expected != length {
        return Err(damaged(format!(
            "is truncated: {length} bytes, its header asks for {expected}"
        )));
    }
    let stored = |info: &TensorInfo| StoredTensor {
        shape: info.shape.clone(),
        dtype: info.dtype,
        start: data_start + info.data_offsets.0 as u64,
        strides: None,
    };
    Ok(metadata.tensors().into_iter().map(|(name, info)| (name, stored(info))).collect())
}

/// Writes the model under Hugging Face's names, or with a `head` the classifier, which has no
/// language-model head. The head keeps its float32. The file appears whole or not at all.
///
/// # Errors
/// `Io` if it cannot be written.
pub fn save(
    model: &BartModel,
    head: Option<&ClassificationHead>,
    path: &Path,
    format: FloatFormat,
) -> Result<()> {
    let of_language_model = ["final_logits_bias", tables::HEAD];
    let of_head = head.map_or(&[][..], ClassificationHead::parameters);
    let kept = model
        .parameters()
        .iter()
        .filter(|parameter| head.is_none() || !of_language_model.contains(&parameter.name()));
    let of_head = of_head.iter().map(|parameter| (parameter, FloatFormat::Float32));
    let kept = kept.map(|parameter| (parameter, format));
    let tensors = kept.chain(of_head).flat_map(|(parameter, format)| {
        let copies = tables::stored_copies(parameter.name(), model.config());
        let names = [parameter.name()].into_iter().chain(copies.iter().copied());
        names.flat_map(move |name| tensors_of(parameter, &names::stored_name(name), format))
    });
    let metadata = [("format".to_string(), "pt".to_string())].into();
    safetensors::serialize_to_file(tensors, Some(metadata), path).map_err(|error| match error {
        SafeTensorError::IoError(source) => Error::io(path, source),
        other => Error::format(path, other.to_string()),
    })
}

/// The tensors of a parameter under the name `name`: one, or of a matrix in int8 two.
fn tensors_of<'a>(
    parameter: &'a Parameter,
    name: &str,
    format: FloatFormat,
) -> Vec<(String, Stored<'a>)> {
    let shape = names::stored_shape(parameter.name(), parameter.shape());
    if format != FloatFormat::Int8 || !parameter.is_int8() {
        return vec![(name.to_string(), Stored { parameter, shape, part: Part::Floats(format) })];
    }
    let scales = Stored { parameter, shape: vec![shape[0]], part: Part::Scales };
    let values = Stored { parameter, shape, part: Part::Int8 };
    vec![(name.to_string(), values), (format!("{name}{}", names::SCALES), scales)]
}

/// A parameter on its way into a file, converted only when its turn comes.
struct Stored<'a> {
    parameter: &'a Parameter,
    shape: Vec<usize>,
    part: Part,
}

/// What of a parameter is stored.
#[derive(Clone, Copy)]
enum Part {
    Floats(FloatFormat),
    Int8,
    Scales,
}

impl View for Stored<'_> {
    fn dtype(&self) -> Dtype {
        match self.part {
            Part::Floats(format) => format.dtype(),
            Part::Int8 => Dtype::I8,
            Part::Scales => Dtype::F32,
        }
    }

    fn shape(&self) -> &[usize] {
        &self.shape
    }

    fn data(&self) -> Cow<'_, [u8]> {
        // A parameter is always a readable CPU tensor.
        const READABLE: &str = "parameters are readable";
        let format = match self.part {
            Part::Floats(format) => format,
            Part::Int8 | Part::Scales => {
                let (values, scales) =
                    self.parameter.merged_int8_values().expect(READABLE).expect("it is in int8");
                return match self.part {
                    Part::Scales => FloatFormat::Float32.encode(&scales).into(),
                    _ => values.iter().map(|value| value.cast_unsigned()).collect(),
                };
            }
        };
        let values = self.parameter.merged_values().expect(READABLE);
        let mut stored = vec![0.0; self.shape.iter().product::<usize>() - values.len()];
        stored.extend(values);
        format.encode(&stored).into()
    }

    fn data_len(&self) -> usize {
        self.shape.iter().product::<usize>() * self.dtype().bitsize() / 8
    }
}
