//! A checkpoint, in one file or several, and how it fills a model.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{BufReader, Read, Seek};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::names::{self, Role};
use super::stored::{StoredTensor, Values};
use super::{safetensors, torch};
use crate::error::{Error, Result};
use crate::model::{BartModel, Parameter};

/// Fills the model's parameters from the files of one checkpoint: safetensors, or what `torch.save`
/// wrote, which is read as data.
///
/// # Errors
/// `Io` if a file cannot be read, `Format` if one is truncated or damaged or holds something else
/// than tensors, `Weights` listing every missing, extra and misshapen tensor; the parameters are
/// untouched then.
pub fn load(model: &BartModel, paths: &[PathBuf]) -> Result<()> {
    let checkpoint = Checkpoint::open(paths)?;
    for (parameter, name) in checkpoint.plan(model)? {
        let mut values = checkpoint.values(&name)?;
        // Only position tables are longer than the parameter: their offset rows come first.
        values.skip(values.remaining() - parameter.count())?;
        parameter.assign_from(|run| values.read(run))?;
    }
    Ok(())
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
}

impl Checkpoint {
    fn open(paths: &[PathBuf]) -> Result<Self> {
        let mut checkpoint = Checkpoint { files: Vec::new(), tensors: BTreeMap::new() };
        for (index, path) in paths.iter().enumerate() {
            let file = File::open(path).map_err(|source| Error::io(path, source))?;
            for (name, tensor) in read_tensors(path, &mut BufReader::new(&file))? {
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
    fn plan(&self, model: &BartModel) -> Result<Vec<(Arc<Parameter>, String)>> {
        let mut found: BTreeMap<String, &String> = BTreeMap::new();
        let mut tied = None;
        for name in self.tensors.keys() {
            match names::role(name) {
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
            let shape = &self.tensors[name].1.shape;
            if *shape != expected {
                problems.misshapen.push(format!("{name} is {shape:?}, expected {expected:?}"));
            }
            plan.push((parameter.clone(), name.clone()));
        }
        problems.extra.extend(found.into_values().cloned());
        let file = self.files.first().map(|(path, _)| path.display().to_string());
        problems.into_result(&file.unwrap_or_default())?;
        Ok(plan)
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
