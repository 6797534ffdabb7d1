//! The functions and classes that a checkpoint may name. None is ever run: the first table has a
//! meaning here, the second stands beside the weights and is passed over.

use safetensors::Dtype;

/// Functions that make a tensor of a storage.
pub const REBUILD_TENSOR: [&str; 2] = ["_rebuild_tensor_v2", "_rebuild_tensor"];
/// The function that makes a parameter of a tensor.
pub const REBUILD_PARAMETER: &str = "_rebuild_parameter";

/// Types of storages in the module `torch`.
const STORAGES: [(&str, Dtype); 10] = [
    ("FloatStorage", Dtype::F32),
    ("HalfStorage", Dtype::F16),
    ("BFloat16Storage", Dtype::BF16),
    ("DoubleStorage", Dtype::F64),
    ("LongStorage", Dtype::I64),
    ("IntStorage", Dtype::I32),
    ("ShortStorage", Dtype::I16),
    ("CharStorage", Dtype::I8),
    ("ByteStorage", Dtype::U8),
    ("BoolStorage", Dtype::BOOL),
];

/// What settings, meters and optimizers consist of that fairseq and trainers save beside weights.
const PASSED_OVER: [(&str, &[&str]); 12] = [
    ("argparse", &["Namespace"]),
    ("builtins", PLAIN_CLASSES),
    ("__builtin__", PLAIN_CLASSES),
    ("collections", &["defaultdict", "Counter", "deque"]),
    ("typing", &["Any"]),
    ("_codecs", &["encode"]),
    ("pathlib", &["PosixPath", "PurePosixPath", "Path"]),
    ("numpy", &["dtype", "ndarray"]),
    ("numpy.core.multiarray", NUMPY_VALUES),
    ("numpy._core.multiarray", NUMPY_VALUES),
    ("torch", &["Size", "device", "float16", "bfloat16", "float32", "float64", "int64"]),
    ("torch.serialization", &["_get_layout"]),
];
const PLAIN_CLASSES: &[&str] =
    &["set", "frozenset", "list", "dict", "tuple", "int", "float", "bool", "str", "bytes"];
const NUMPY_VALUES: &[&str] = &["scalar", "_reconstruct"];

/// Packages whose classes describe settings and progress.
const PASSED_OVER_PACKAGES: [&str; 2] = ["omegaconf", "fairseq"];

/// Whether a checkpoint may name this.
pub fn is_known(module: &str, name: &str) -> bool {
    let package = module.split('.').next().unwrap_or(module);
    (module, name) == ("collections", "OrderedDict")
        || module == "torch._utils" && (REBUILD_TENSOR.contains(&name) || name == REBUILD_PARAMETER)
        || storage_dtype(module, name).is_some()
        || PASSED_OVER.iter().any(|(known, names)| *known == module && names.contains(&name))
        || PASSED_OVER_PACKAGES.contains(&package)
}

/// How a storage of this type keeps its values.
pub fn storage_dtype(module: &str, name: &str) -> Option<Dtype> {
    let found = STORAGES.iter().find(|(storage, _)| module == "torch" && *storage == name);
    found.map(|(_, dtype)| *dtype)
}
