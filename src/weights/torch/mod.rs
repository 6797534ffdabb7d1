//! What `torch.save` writes, read without running anything: since torch 1.6 a zip archive that
//! holds a pickle and a file for each storage ([`read_archive`]), before that a stream of pickles
//! with the storages behind them ([`read_stream`]). The formats are those of
//! `torch/serialization.py`; fairseq's checkpoints are such files too.

mod globals;
mod state_dict;

use std::collections::HashMap;
use std::io::{Read, Seek, SeekFrom};
use std::path::Path;

use super::pickle::{self, Pickle, Value};
use super::stored::StoredTensor;
use super::zip;
use crate::error::{Error, Result};
use state_dict::Storage;

pub use globals::is_known;

/// How a stream begins: the pickle of torch's magic number, by protocol 2.
pub const STREAM_START: [u8; 9] = [0x80, 0x02, 0x8a, 0x0a, 0x6c, 0xfc, 0x9c, 0x46, 0xf9];
/// The one version of the stream there is.
const STREAM_VERSION: i64 = 1001;

/// What is wrong with the file.
type Outcome<T> = std::result::Result<T, String>;

/// Where an archive keeps the tensors of its state dict.
///
/// # Errors
/// `Format` if it is truncated, damaged or compressed, or names what no weights need.
pub fn read_archive(
    path: &Path,
    file: &mut (impl Read + Seek),
) -> Result<Vec<(String, StoredTensor)>> {
    archive(file).map_err(|message| Error::format(path, message))
}

/// Where a stream keeps the tensors of its state dict.
///
/// # Errors
/// As for [`read_archive`].
pub fn read_stream(
    path: &Path,
    file: &mut (impl Read + Seek),
) -> Result<Vec<(String, StoredTensor)>> {
    stream(file).map_err(|message| Error::format(path, message))
}

fn archive(file: &mut (impl Read + Seek)) -> Outcome<Vec<(String, StoredTensor)>> {
    let entries = zip::entries(file)?;
    // The folder in the archive has the name that the file had when it was written.
    let folder = entries.keys().find_map(|name| name.strip_suffix("data.pkl"));
    // At most one folder deep: what lies deeper is another archive's.
    let folder = folder.filter(|folder| folder.find('/') == folder.len().checked_sub(1));
    let folder = folder.ok_or("is a zip archive, but not one that `torch.save` wrote")?;
    if entries.contains_key(&format!("{folder}constants.pkl")) {
        return Err("is a TorchScript program; only state dicts are read\n\
                    hint: torch.save(module.state_dict(), path)"
            .to_string());
    }
    if let Some(entry) = entries.get(&format!("{folder}byteorder")) {
        let start = zip::data_start(file, entry)?;
        file.seek(SeekFrom::Start(start)).map_err(|e| e.to_string())?;
        let mut order = String::new();
        file.take(entry.size.min(16)).read_to_string(&mut order).map_err(|e| e.to_string())?;
        if order.trim() != "little" {
            return Err(format!("has byte order {order:?}; only \"little\" is read"));
        }
    }
    let program = entries[&format!("{folder}data.pkl")];
    let start = zip::data_start(file, &program)?;
    file.seek(SeekFrom::Start(start)).map_err(|e| e.to_string())?;
    let pickle = pickle::read(&mut file.take(program.size), is_known)?;
    state_dict::tensors(&pickle, |storage| {
        let name = format!("{folder}data/{}", storage.key);
        let entry = entries.get(&name).ok_or_else(|| format!("lacks {name:?}"))?;
        if storage.bytes().is_none_or(|bytes| bytes > entry.size) {
            return Err(format!("has {} bytes in {name:?}, too few for its values", entry.size));
        }
        zip::data_start(file, entry)
    })
}

fn stream(file: &mut (impl Read + Seek)) -> Outcome<Vec<(String, StoredTensor)>> {
    let length = file.seek(SeekFrom::End(0)).map_err(|e| e.to_string())?;
    file.rewind().map_err(|e| e.to_string())?;
    let _magic_number = pickle::read(file, is_known)?;
    let version = pickle::read(file, is_known)?;
    if version.root != Value::Int(STREAM_VERSION) {
        return Err("is of another version than torch's stream format has".to_string());
    }
    check_system(&pickle::read(file, is_known)?)?;
    let pickle = pickle::read(file, is_known)?;
    let keys = pickle::read(file, is_known)?;
    let storages = storages_by_key(&pickle)?;
    let mut places = HashMap::new();
    for &key in keys.sequence(keys.root).ok_or("is damaged: it has no list of storages")? {
        let key = keys.text(key).ok_or("is damaged: the name of a storage is no text")?;
        let storage = storages.get(key).ok_or_else(|| format!("has no use for storage {key}"))?;
        let mut count = [0; 8];
        file.read_exact(&mut count).map_err(|_| "is truncated between its storages")?;
        if u64::from_le_bytes(count) != storage.count {
            return Err(format!("is damaged: storage {key} has two lengths"));
        }
        let start = file.stream_position().map_err(|e| e.to_string())?;
        let end = storage.bytes().and_then(|bytes| start.checked_add(bytes));
        let end = end.filter(|end| *end <= length);
        let end = end.ok_or_else(|| format!("is truncated: storage {key} ends behind it"))?;
        file.seek(SeekFrom::Start(end)).map_err(|e| e.to_string())?;
        places.insert(key.to_string(), start);
    }
    state_dict::tensors(&pickle, |storage| {
        places.get(storage.key).copied().ok_or_else(|| format!("lacks storage {}", storage.key))
    })
}

/// A stream says how the machine that wrote it stored numbers.
fn check_system(system: &Pickle) -> Outcome<()> {
    let entries = system.entries(system.root).unwrap_or_default();
    let order = entries.iter().find(|(key, _)| system.text(*key) == Some("little_endian"));
    match order {
        Some((_, Value::Bool(true))) => Ok(()),
        _ => Err("was not written by a little-endian machine; others are not read".to_string()),
    }
}

/// All storages that the pickle names: those of skipped objects lie in the stream too.
fn storages_by_key(pickle: &Pickle) -> Outcome<HashMap<&str, Storage<'_>>> {
    let mut storages: HashMap<&str, Storage<'_>> = HashMap::new();
    for &persistent in pickle.persistents() {
        let storage = Storage::read(pickle, persistent)?;
        let known = storages.entry(storage.key).or_insert(storage);
        if *known != storage {
            return Err(format!("is damaged: storage {} has two types", storage.key));
        }
    }
    Ok(storages)
}
