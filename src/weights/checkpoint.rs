//! A checkpoint, in one file or several, and how it fills a model.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{BufReader, Read, Seek};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use ::safetensors::Dtype;

use super::stored::{StoredTensor, Values, no_floats};
use super::{names, safetensors, tables, torch};
use crate::config::BartConfig;
use crate::error::{Error, Result};
use crate::model::classification_head::ClassificationHead;
use crate::model::parameter::Source;
use crate::model::{BartModel, Parameter};

/// Fills the model's parameters from the files of one checkpoint: safetensors, or what `torch.save`
/// wrote, which is read as data; and those of a classifier's `head`. Returns whether the checkpoint
/// has such a head and none was asked for.
///
/// # Errors
/// `Io` if a file cannot be read, `Format` if one is truncated or damaged or holds something else
/// than tensors, `Weights` listing every missing, extra and misshapen tensor; the parameters are
/// untouched then.
pub fn load(
    model: &BartModel,
    head: Option<&ClassificationHead>,
    paths: &[PathBuf],
) -> Result<bool> {
    let checkpoint = Checkpoint::open(paths)?;
    let plan = checkpoint.plan(model, head)?;
    checkpoint.check_copies(model.config())?;
    for (parameter, name) in plan {
        let scales = checkpoint.scales(&parameter, &name)?;
        fill(&parameter, &checkpoint.values(&name)?, scales.as_deref(), false)?;
    }
    Ok(head.is_none() && checkpoint.names.keys().any(|name| names::is_of_head(name)))
}

/// Sets a parameter from the values of a tensor, which are divided by the `scales` of their rows if they are
/// quantised. Of a tensor that is longer the last values count: position tables have offset rows in front.
///
/// # Errors
/// `Io` if the file cannot be read, `Weights` if the values do not fit.
pub fn fill(
    parameter: &Parameter,
    values: &Values<'_>,
    scales: Option<&[f32]>,
    transposed: bool,
) -> Result<()> {
    let Some(skipped) = values.count().checked_sub(parameter.count()) else {
        let (name, shape, got) = (parameter.name(), parameter.shape(), values.count());
        return Err(Error::Weights(format!("`{name}` has shape {shape:?}, received {got} values")));
    };
    if let Some(scales) = scales {
        let read = |first: usize, run: &mut [i8]| values.read_int8(skipped + first, run);
        return parameter.assign_from(Source::Int8 { read: &read, scales, transposed });
    }
    let read = |first: usize, run: &mut [f32]| values.read(skipped + first, run);
    parameter.assign_from(Source::Floats { read: &read, transposed })
}

/// Whether encoder and decoder of an untied checkpoint read different token tables.
///
/// # Errors
/// `Io` and `Format` as for [`load`].
pub fn has_separate_embeddings(paths: &[PathBuf]) -> Result<bool> {
    let checkpoint = Checkpoint::open(paths)?;
    match tables::stacks(|name| checkpoint.names.contains_key(name)) {
        Some((encoder, decoder)) => Ok(!checkpoint.hold_the_same(encoder, decoder)?),
        None => Ok(false),
    }
}

/// Whether a checkpoint has the head of a sequence classifier.
///
/// # Errors
/// `Io` and `Format` as for [`load`].
pub fn has_classification_head(paths: &[PathBuf]) -> Result<bool> {
    Ok(Checkpoint::open(paths)?.names.keys().any(|name| names::is_of_head(name)))
}

/// The tensors of one file, of the format that its first bytes tell.
///
/// # Errors
/// `Io`, or `Format` for a damaged file and for one of another format.
pub fn read_tensors(
    path: &Path,
    file: &mut (impl Read + Seek),
) -> Result<Vec<(String, StoredTensor)>> {
    let mut start = Vec::new();
    file.take(9).read_to_end(&mut start).map_err(|e| Error::io(path, e))?;
    file.rewind().map_err(|e| Error::io(path, e))?;
    let named_safetensors = path.extension().is_some_and(|extension| extension == "safetensors");
    if named_safetensors || start.get(8) == Some(&b'{') {
        safetensors::read(path, file)
    } else if start.starts_with(b"PK") {
        torch::read_archive(path, file)
    } else if start.starts_with(&torch::STREAM_START) {
        torch::read_stream(path, file)
    } else {
        let message = "is truncated, or neither a safetensors file nor what `torch.save` writes";
        Err(Error::format(path, message))
    }
}

/// Open files, and in which of them each tensor is.
struct Checkpoint {
    files: Vec<(PathBuf, File)>,
    tensors: BTreeMap<String, (usize, StoredTensor)>,
    /// The names of the tensors by those that we give them.
    names: BTreeMap<String, String>,
}

/// Values compared at a time.
const COMPARED_AT_ONCE: usize = 1 << 16;

impl Checkpoint {
    fn open(paths: &[PathBuf]) -> Result<Self> {
        let mut checkpoint =
            Checkpoint { files: Vec::new(), tensors: BTreeMap::new(), names: BTreeMap::new() };
        for (index, path) in paths.iter().enumerate() {
            let file = File::open(path).map_err(|source| Error::io(path, source))?;
            for (name, tensor) in read_tensors(path, &mut BufReader::new(&file))? {
                if let Some(ours) = names::canonical(&name) {
                    checkpoint.names.insert(ours.to_string(), name.clone());
                }
                if let Some((other, _)) = checkpoint.tensors.insert(name.clone(), (index, tensor)) {
                    let other = paths[other].display();
                    let message = format!("has tensor {name}, which {other} has too");
                    return Err(Error::format(path, message));
                }
            }
            checkpoint.files.push((path.clone(), file));
        }
        Ok(checkpoint)
    }

    /// Which tensor fills which parameter.
    fn plan(
        &self,
        model: &BartModel,
        head: Option<&ClassificationHead>,
    ) -> Result<Vec<(Arc<Parameter>, String)>> {
        let (config, mut left) = (model.config(), self.names.clone());
        let mut problems = Problems::default();
        let mut plan = Vec::new();
        let of_head = head.map_or(&[][..], ClassificationHead::parameters);
        for parameter in model.parameters().iter().chain(of_head) {
            let has = |name: &str| self.names.contains_key(name);
            let Some(source) = tables::source(parameter.name(), config, has) else {
                if !names::is_optional(parameter.name()) {
                    problems.missing.push(names::stored_name(parameter.name()));
                }
                continue;
            };
            left.remove(source);
            let name = &self.names[source];
            let expected = names::stored_shape(parameter.name(), parameter.shape());
            let shape = &self.tensors[name].1.shape;
            if *shape != expected {
                problems.misshapen.push(format!("{name} is {shape:?}, expected {expected:?}"));
            }
            if self.tensors[name].1.dtype == Dtype::I8 {
                left.remove(&format!("{source}{}", names::SCALES));
            }
            plan.push((parameter.clone(), name.clone()));
        }
        left.retain(|name, _| {
            !tables::is_spare(name.strip_suffix(names::SCALES).unwrap_or(name), config)
        });
        if head.is_none() {
            left.retain(|name, _| !names::is_of_head(name));
        }
        problems.extra.extend(left.into_values());
        problems.into_result(&self.first_file())?;
        Ok(plan)
    }

    /// Refuses tensors that stand for one token table and hold different values.
    fn check_copies(&self, config: &BartConfig) -> Result<()> {
        for (left, right) in tables::agreeing(config, |name| self.names.contains_key(name)) {
            if self.hold_the_same(left, right)? {
                continue;
            }
            let (file, tied) = (self.first_file(), config.tie_word_embeddings);
            let (left, right) = (&self.names[left], &self.names[right]);
            return Err(Error::Weights(format!(
                "{file}: {left} and {right} differ, but the model has one table for both: \
                 `tie_word_embeddings` is {tied}, `separate_embeddings` is false\n\
                 hint: for tables of their own, `\"tie_word_embeddings\": false` in config.json"
            )));
        }
        Ok(())
    }

    /// Whether two tensors, by our names, have the same values.
    fn hold_the_same(&self, left: &str, right: &str) -> Result<bool> {
        let (left, right) = (&self.names[left], &self.names[right]);
        // Copies in torch's files are often one run of values.
        if self.tensors[left] == self.tensors[right] {
            return Ok(true);
        }
        if self.tensors[left].1.shape != self.tensors[right].1.shape {
            return Ok(false);
        }
        let (left, right) = (self.values(left)?, self.values(right)?);
        for first in (0..left.count()).step_by(COMPARED_AT_ONCE) {
            let count = COMPARED_AT_ONCE.min(left.count() - first);
            let (mut ours, mut theirs) = (vec![0.0; count], vec![0.0; count]);
            left.read(first, &mut ours)?;
            right.read(first, &mut theirs)?;
            if ours.iter().zip(&theirs).any(|(x, y)| x.to_bits() != y.to_bits()) {
                return Ok(false);
            }
        }
        Ok(true)
    }

    fn first_file(&self) -> String {
        self.files.first().map(|(path, _)| path.display().to_string()).unwrap_or_default()
    }

    /// The scales of a matrix in int8; `None` for floats.
    fn scales(&self, parameter: &Parameter, name: &str) -> Result<Option<Vec<f32>>> {
        let (file, tensor) = &self.tensors[name];
        if tensor.dtype != Dtype::I8 {
            return Ok(None);
        }
        let scales_name = format!("{name}{}", names::SCALES);
        let scales = self.tensors.get(&scales_name);
        let fits = |scales: &StoredTensor| scales.shape == [parameter.shape()[0]];
        let is_matrix = parameter.shape().len() == 2 && !names::is_position_table(parameter.name());
        if !is_matrix || !scales.is_some_and(|(_, scales)| fits(scales)) {
            return Err(no_floats(&self.files[*file].0, name, tensor.dtype));
        }
        Ok(Some(self.values(&scales_name)?.to_floats()?))
    }

    /// The values of a tensor, to be read in order.
    fn values(&self, name: &str) -> Result<Values<'_>> {
        let (file, tensor) = &self.tensors[name];
        let (path, file) = &self.files[*file];
        Values::new(path, file, name, tensor)
    }
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
