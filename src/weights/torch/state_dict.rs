//! The tensors that a pickle of torch describes.

use safetensors::Dtype;

use super::Outcome;
use super::globals::{REBUILD_PARAMETER, REBUILD_TENSOR, storage_dtype};
use crate::weights::pickle::{Pickle, Value};
use crate::weights::stored::{StoredTensor, byte_width};

/// The most dimensions a tensor may have.
const MAX_RANK: usize = 8;

/// A run of values that tensors look at; several may look at the same.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Storage<'a> {
    /// Its name in the file.
    pub key: &'a str,
    /// How it keeps its values.
    pub dtype: Dtype,
    /// How many values it has.
    pub count: u64,
}

impl<'a> Storage<'a> {
    /// The storage that a persistent id `("storage", type, key, device, count, ...)` stands for.
    pub fn read(pickle: &'a Pickle, persistent: Value) -> Outcome<Self> {
        let damaged =
            || "is damaged: its pickle refers to something else than storages".to_string();
        let fields = pickle.sequence(persistent).ok_or_else(damaged)?;
        let &[kind, class, key, _device, count, ref rest @ ..] = fields else {
            return Err(damaged());
        };
        let (module, name) = pickle.global(class).ok_or_else(damaged)?;
        let dtype = storage_dtype(module, name)
            .ok_or_else(|| format!("has values in a `{module}.{name}`, which is not read"))?;
        let (Some("storage"), Some(key), Value::Int(count)) =
            (pickle.text(kind), pickle.text(key), count)
        else {
            return Err(damaged());
        };
        // Streams of before torch 1.0 could say here that one storage is part of another.
        if rest.iter().any(|field| *field != Value::None) {
            return Err("has storages that are parts of others, which are not read".to_string());
        }
        let count = u64::try_from(count).map_err(|_| damaged())?;
        Ok(Storage { key, dtype, count })
    }

    /// Its length in the file.
    pub fn bytes(&self) -> Option<u64> {
        self.count.checked_mul(byte_width(self.dtype) as u64)
    }
}

/// The tensors of a state dict, or of the one that fairseq keeps under "model". `place` says where
/// in the file a storage begins.
pub fn tensors(
    pickle: &Pickle,
    mut place: impl FnMut(&Storage<'_>) -> Outcome<u64>,
) -> Outcome<Vec<(String, StoredTensor)>> {
    let root = pickle.entries(pickle.root).ok_or("holds no dict of tensors")?;
    let inner = root.iter().find(|(key, _)| pickle.text(*key) == Some("model"));
    let state = inner.and_then(|(_, value)| pickle.entries(*value)).unwrap_or(root);
    let mut tensors = Vec::new();
    for &(key, value) in state {
        let (Some(name), Some(arguments)) = (pickle.text(key), tensor_arguments(pickle, value))
        else {
            continue; // A number or a note; a tensor that it should have been is missed later.
        };
        let tensor = tensor(pickle, arguments, &mut place)
            .map_err(|problem| format!("tensor {name}: {problem}"))?;
        tensors.push((name.to_string(), tensor));
    }
    Ok(tensors)
}

/// What the call that makes a tensor is given, or none if `value` is none.
fn tensor_arguments(pickle: &Pickle, value: Value) -> Option<&[Value]> {
    let ((module, name), arguments) = pickle.call(value)?;
    if (module, name) == ("torch._utils", REBUILD_PARAMETER) {
        let ((_, name), arguments) = pickle.call(*arguments.first()?)?;
        return REBUILD_TENSOR.contains(&name).then_some(arguments);
    }
    (module == "torch._utils" && REBUILD_TENSOR.contains(&name)).then_some(arguments)
}

/// The tensor that is made of `(storage, offset, sizes, strides, ...)`.
fn tensor(
    pickle: &Pickle,
    arguments: &[Value],
    place: &mut impl FnMut(&Storage<'_>) -> Outcome<u64>,
) -> Outcome<StoredTensor> {
    let damaged = || "is not described as torch does".to_string();
    let &[storage, offset, shape, strides, ..] = arguments else { return Err(damaged()) };
    let persistent = pickle.persistent(storage).ok_or_else(damaged)?;
    let storage = Storage::read(pickle, persistent)?;
    let Value::Int(offset) = offset else { return Err(damaged()) };
    let offset = u64::try_from(offset).map_err(|_| damaged())?;
    let shape = sizes(pickle, shape).ok_or_else(damaged)?;
    let strides = sizes(pickle, strides).ok_or_else(damaged)?;
    let start = place(&storage)?;
    StoredTensor::view(storage.dtype, (start, storage.count), offset, shape, strides)
}

fn sizes(pickle: &Pickle, value: Value) -> Option<Vec<usize>> {
    let items = pickle.sequence(value).filter(|items| items.len() <= MAX_RANK)?;
    let size =
        |item: &Value| if let Value::Int(n) = item { usize::try_from(*n).ok() } else { None };
    items.iter().map(size).collect()
}
