//! Hugging Face's `model.safetensors`: read tensor by tensor into the parameters, written whole or
//! not at all.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::path::Path;
use std::sync::Arc;

use half::{bf16, f16};
use safetensors::tensor::{Metadata, TensorInfo};
use safetensors::{Dtype, SafeTensorError, View};

use super::names::{self, Role};
use crate::error::{Error, Result};
use crate::model::{BartModel, Parameter};

/// The longest header that is read, as in the safetensors crate.
const MAX_HEADER: u64 = 100_000_000;

/// How floats are stored in a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FloatFormat {
    /// 32 bits.
    Float32,
    /// IEEE half precision.
    Float16,
    /// The upper half of a float32.
    Bfloat16,
}

impl FloatFormat {
    /// Reads "float32", "float16" or "bfloat16".
    ///
    /// # Errors
    /// `Argument` for another name.
    pub fn from_name(name: &str) -> Result<Self> {
        match name {
            "float32" => Ok(FloatFormat::Float32),
            "float16" => Ok(FloatFormat::Float16),
            "bfloat16" => Ok(FloatFormat::Bfloat16),
            other => Err(Error::argument(
                "dtype",
                format!("must be \"float32\", \"float16\" or \"bfloat16\", received {other:?}"),
            )),
        }
    }

    fn dtype(self) -> Dtype {
        match self {
            FloatFormat::Float32 => Dtype::F32,
            FloatFormat::Float16 => Dtype::F16,
            FloatFormat::Bfloat16 => Dtype::BF16,
        }
    }

    fn encode(self, values: &[f32]) -> Vec<u8> {
        match self {
            FloatFormat::Float32 => values.iter().flat_map(|x| x.to_le_bytes()).collect(),
            FloatFormat::Float16 => {
                values.iter().flat_map(|x| f16::from_f32(*x).to_le_bytes()).collect()
            }
            FloatFormat::Bfloat16 => {
                values.iter().flat_map(|x| bf16::from_f32(*x).to_le_bytes()).collect()
            }
        }
    }
}

/// Fills the model's parameters from a Hugging Face file.
///
/// # Errors
/// `Io` if the file cannot be read, `Format` if it is truncated or damaged, `Weights` listing every
/// missing, extra and misshapen tensor; the parameters are untouched then.
pub fn load(model: &BartModel, path: &Path) -> Result<()> {
    let mut reader = Reader::open(path)?;
    let plan = plan(model, &reader)?;
    for (parameter, name) in plan {
        let mut values = reader.floats(&name)?;
        // Only position tables are longer than the parameter: their offset rows come first.
        values.skip(values.remaining() - parameter.count())?;
        parameter.assign_from(|run| values.read(run))?;
    }
    Ok(())
}

/// Which tensor fills which parameter.
fn plan(model: &BartModel, reader: &Reader) -> Result<Vec<(Arc<Parameter>, String)>> {
    let mut found: BTreeMap<String, String> = BTreeMap::new();
    let mut tied = None;
    for name in reader.names() {
        match names::role(&name) {
            Role::Parameter(parameter) => drop(found.insert(parameter, name)),
            Role::TiedCopy => tied = Some(name),
            Role::Ignored => {}
        }
    }
    if let Some(copy) = tied {
        found.entry("shared.weight".to_string()).or_insert(copy);
    }
    let mut problems = Problems::default();
    let mut plan = Vec::new();
    for parameter in model.parameters() {
        let Some(name) = found.remove(parameter.name()) else {
            if !names::is_optional(parameter.name()) {
                problems.missing.push(names::stored_name(parameter.name()));
            }
            continue;
        };
        let expected = names::stored_shape(parameter.name(), parameter.shape());
        let shape = reader.shape(&name);
        if shape != expected {
            problems.misshapen.push(format!("{name} is {shape:?}, expected {expected:?}"));
        }
        plan.push((parameter.clone(), name));
    }
    problems.extra.extend(found.into_values());
    problems.into_result(&reader.path.display().to_string())?;
    Ok(plan)
}

/// What keeps a checkpoint from fitting a model.
#[derive(Debug, Default)]
struct Problems {
    missing: Vec<String>,
    extra: Vec<String>,
    misshapen: Vec<String>,
}

impl Problems {
    fn into_result(self, file: &str) -> Result<()> {
        let groups = [
            ("missing", self.missing),
            ("not part of the model", self.extra),
            ("of another shape", self.misshapen),
        ];
        let lines: Vec<String> = groups
            .into_iter()
            .filter(|(_, names)| !names.is_empty())
            .map(|(what, names)| format!("{} {what}: {}", names.len(), names.join(", ")))
            .collect();
        if lines.is_empty() {
            return Ok(());
        }
        let lines = lines.join("\n");
        Err(Error::Weights(format!("{file}: the tensors do not fit the config\n{lines}")))
    }
}

/// A safetensors file whose header has been checked against its length.
struct Reader {
    path: std::path::PathBuf,
    file: File,
    data_start: u64,
    metadata: Metadata,
}

impl Reader {
    fn open(path: &Path) -> Result<Self> {
        let io = |source| Error::io(path, source);
        let damaged = |what: String| Error::format(path, what);
        let mut file = File::open(path).map_err(io)?;
        let length = file.metadata().map_err(io)?.len();
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
        let expected = data_start + metadata.data_len() as u64;
        if expected != length {
            return Err(damaged(format!(
                "is truncated: {length} bytes, its header asks for {expected}"
            )));
        }
        Ok(Reader { path: path.to_path_buf(), file, data_start, metadata })
    }

    fn names(&self) -> Vec<String> {
        let mut names = self.metadata.offset_keys();
        names.sort();
        names
    }

    fn info(&self, name: &str) -> Option<&TensorInfo> {
        self.metadata.info(name)
    }

    fn shape(&self, name: &str) -> &[usize] {
        self.info(name).map_or(&[], |info| &info.shape)
    }

    /// The values of a tensor, to be read in order.
    fn floats(&mut self, name: &str) -> Result<Floats<'_>> {
        let info = self.info(name).ok_or_else(|| Error::Weights(format!("`{name}` is missing")))?;
        let (dtype, (start, end)) = (info.dtype, info.data_offsets);
        if !matches!(dtype, Dtype::F32 | Dtype::F64 | Dtype::F16 | Dtype::BF16) {
            let message = format!("tensor {name} has dtype {dtype:?}, expected floats");
            return Err(Error::format(&self.path, message));
        }
        let at = SeekFrom::Start(self.data_start + start as u64);
        self.file.seek(at).map_err(|e| Error::io(&self.path, e))?;
        let remaining = (end - start) / dtype_size(dtype);
        Ok(Floats { path: &self.path, file: &mut self.file, dtype, remaining, bytes: Vec::new() })
    }
}

fn dtype_size(dtype: Dtype) -> usize {
    dtype.bitsize() / 8
}

/// The values of one tensor on their way from the file, widened to f32.
struct Floats<'a> {
    path: &'a Path,
    file: &'a mut File,
    dtype: Dtype,
    remaining: usize,
    bytes: Vec<u8>,
}

impl Floats<'_> {
    /// How many values have not been read yet.
    fn remaining(&self) -> usize {
        self.remaining
    }

    /// Leaves out the next `count` values.
    fn skip(&mut self, count: usize) -> Result<()> {
        let bytes = (count * dtype_size(self.dtype)) as i64;
        self.file.seek_relative(bytes).map_err(|e| Error::io(self.path, e))?;
        self.remaining -= count;
        Ok(())
    }

    /// Fills `out` with the next values.
    fn read(&mut self, out: &mut [f32]) -> Result<()> {
        self.bytes.resize(out.len() * dtype_size(self.dtype), 0);
        self.file.read_exact(&mut self.bytes).map_err(|e| Error::io(self.path, e))?;
        self.remaining -= out.len();
        match self.dtype {
            Dtype::F32 => decode(&self.bytes, out, f32::from_le_bytes),
            Dtype::F64 => decode(&self.bytes, out, |x| f64::from_le_bytes(x) as f32),
            Dtype::F16 => decode(&self.bytes, out, |x| f16::from_le_bytes(x).to_f32()),
            _ => decode(&self.bytes, out, |x| bf16::from_le_bytes(x).to_f32()),
        }
        Ok(())
    }
}

fn decode<const N: usize>(bytes: &[u8], out: &mut [f32], widen: impl Fn([u8; N]) -> f32) {
    let (chunks, _) = bytes.as_chunks::<N>();
    out.iter_mut().zip(chunks).for_each(|(out, chunk)| *out = widen(*chunk));
}

/// Writes the model under Hugging Face's names. The file appears whole or not at all.
///
/// # Errors
/// `Io` if it cannot be written.
pub fn save(model: &BartModel, path: &Path, format: FloatFormat) -> Result<()> {
    let tensors = model.parameters().iter().map(|parameter| {
        let shape = names::stored_shape(parameter.name(), parameter.shape());
        (names::stored_name(parameter.name()), Stored { parameter, shape, format })
    });
    let metadata = [("format".to_string(), "pt".to_string())].into();
    safetensors::serialize_to_file(tensors, Some(metadata), path).map_err(|error| match error {
        SafeTensorError::IoError(source) => Error::io(path, source),
        other => Error::format(path, other.to_string()),
    })
}

/// A parameter on its way into a file, converted only when its turn comes.
struct Stored<'a> {
    parameter: &'a Parameter,
    shape: Vec<usize>,
    format: FloatFormat,
}

impl View for Stored<'_> {
    fn dtype(&self) -> Dtype {
        self.format.dtype()
    }

    fn shape(&self) -> &[usize] {
        &self.shape
    }

    fn data(&self) -> Cow<'_, [u8]> {
        // A parameter is always a readable CPU tensor of floats.
        let values = self.parameter.values().expect("parameters are readable");
        let mut stored = vec![0.0; self.shape.iter().product::<usize>() - values.len()];
        stored.extend(values);
        self.format.encode(&stored).into()
    }

    fn data_len(&self) -> usize {
        self.shape.iter().product::<usize>() * self.format.dtype().bitsize() / 8
    }
}
