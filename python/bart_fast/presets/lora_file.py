"""Files of LoRA: keras-hub's, which count layers; ours, which name them; and those of PEFT."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path

import numpy as np

from bart_fast import _core
from bart_fast._lora import Lora

from .atomic import staged_file
from .hdf5 import LibraryFile, damage, opened_by_library, read

_KERAS, _SAFETENSORS = ".lora.h5", ".safetensors"
_PEFT = ("adapter_config.json", "adapter_model.safetensors")
_KIND = "bart_fast.lora"
_LARGEST = 1 << 16  # of any axis

# Layers with weights that keras-hub counts: those before the encoder on its two kinds of backends
# (the other embeddings follow behind the encoder), and those of a layer of encoder and decoder.
_BEFORE = {"torch": 5, "tensorflow": 3}
_EMBEDDINGS, _ENCODER, _DECODER = 5, 10, 16
# Places of the adapted layers within a layer.
_IN_ENCODER = {7: "self_attn.v_proj", 9: "self_attn.q_proj"}
_IN_DECODER = {
    7: "encoder_attn.v_proj",
    9: "encoder_attn.q_proj",
    13: "self_attn.v_proj",
    15: "self_attn.q_proj",
}

_NAME = re.compile(r"(?:.*\.)?((?:en|de)coder\.layers\.\d+\..+?)\.lora_([AB])(?:\.\w+)?\.weight")


def save(path: str | os.PathLike, core: _core.Model, adapter: str) -> None:
    """Write the set of additions `adapter` of `core`; the file appears whole or not at all.

    Raises:
        ValueError: another ending, or keras-hub's file cannot hold the set.
        OSError: the file cannot be written.
    """
    lora = Lora.of(core, adapter)
    name = os.fspath(path)
    if name.endswith(_KERAS):
        _save_keras(path, core, lora)
    elif name.endswith(_SAFETENSORS):
        settings = {
            "format": "pt",
            "kind": _KIND,
            "rank": str(lora.rank),
            "alpha": repr(lora.alpha),
            "by_head": json.dumps(lora.by_head),
        }
        with staged_file(path) as file:
            _core.Adapters(core).save(adapter, settings, str(file))
    else:
        raise _wrong_ending(path)


def load(path: str | os.PathLike, core: _core.Model) -> Lora:
    """Read a set of additions that fits `core`.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: another ending, a damaged file, or one of another model.
    """
    file = Path(path).expanduser()
    if not file.is_dir() and not file.name.endswith((_KERAS, _SAFETENSORS)):
        raise _wrong_ending(path)
    if not file.exists():
        raise FileNotFoundError(f"`filepath`: there is no file {file}.")
    if file.is_dir():
        lora = _load_peft(file)
    elif file.name.endswith(_KERAS):
        lora = _load_keras(file, core)
    else:
        lora = _load_named(file)
    _check(file, lora, core)
    return lora


def _wrong_ending(path: str | os.PathLike) -> ValueError:
    return ValueError(
        f"`filepath` must end in `{_KERAS}` or `{_SAFETENSORS}`. Received: {os.fspath(path)!r}."
    )


# keras-hub ---------------------------------------------------------------------------------------


def _save_keras(path: str | os.PathLike, core: _core.Model, lora: Lora) -> None:
    import h5py

    places = _places(core, "torch")
    if sorted(lora.matrices) != sorted(places.values()) or not lora.by_head:
        raise ValueError(
            f"`filepath`: a file that ends in `{_KERAS}` holds additions to all queries and "
            f"values, as `enable_lora(rank)` makes them\nhint: `{_SAFETENSORS}` holds any"
        )
    if lora.alpha != lora.rank:
        raise ValueError(
            f"`filepath`: keras-hub takes `alpha` for `rank`, {lora.rank}, but it is "
            f"{lora.alpha:g}\nhint: `{_SAFETENSORS}` keeps it"
        )
    with staged_file(path) as file, h5py.File(file, "w") as store:
        store["lora/vars/rank"] = np.int64(lora.rank)
        for index, matrix in places.items():
            down, up = (lora.values[name] for name in _pair(matrix))
            heads = len(down) // lora.rank
            kernel = down.reshape(heads, lora.rank, -1).transpose(2, 0, 1)
            store[f"lora/{index}/vars/lora_kernel_a"] = np.ascontiguousarray(kernel)
            store[f"lora/{index}/vars/lora_kernel_b"] = np.ascontiguousarray(up.T)


def _load_keras(path: Path, core: _core.Model) -> Lora:
    with opened_by_library(path) as file:
        rank = _rank(file)
        kernel_a = re.compile(r"lora/(\d+)/vars/lora_kernel_a")
        indices = {int(match[1]) for match in map(kernel_a.fullmatch, file.names()) if match}
        places = _places_of(indices, core)
        if places is None:
            raise ValueError(
                f"{path}: is of another model: it has additions to layers {sorted(indices)}, this "
                f"one has queries and values at {sorted(_places(core, 'torch'))}"
            )
        values = {}
        for index, matrix in places.items():
            down, up = _pair(matrix)
            kernel = _kernel(file, f"lora/{index}/vars/lora_kernel_a", 3)
            values[down] = kernel.transpose(1, 2, 0).reshape(-1, len(kernel))
            values[up] = _kernel(file, f"lora/{index}/vars/lora_kernel_b", 2).T
    values = {name: np.ascontiguousarray(array) for name, array in values.items()}
    return Lora(list(places.values()), rank, float(rank), True, values)


def _rank(file: LibraryFile) -> int:
    dataset = file.find("lora/vars/rank")
    with damage(file.filename):
        rank = np.asarray(0 if dataset is None else dataset[()])
    if rank.shape != () or rank.dtype.kind not in "iu" or not 0 < rank <= _LARGEST:
        raise ValueError(f"{file.filename}: has no rank of LoRA at `lora/vars/rank`")
    return int(rank)


def _kernel(file: LibraryFile, name: str, axes: int) -> np.ndarray:
    dataset = file.find(name)
    shape = getattr(dataset, "shape", None)
    if shape is None or len(shape) != axes or max(shape) > _LARGEST:
        raise ValueError(f"{file.filename}: `{name}` must have {axes} axes, has the shape {shape}")
    return read(dataset)


def _places(core: _core.Model, backend: str) -> dict[int, str]:
    """What keras-hub counts each query and value as: index to the name of our matrix."""
    config = json.loads(core.config)
    before, layers = _BEFORE[backend], config["encoder_layers"]
    places = {}
    for layer in range(layers):
        for place, name in _IN_ENCODER.items():
            index = before + _ENCODER * layer + place
            places[index] = f"encoder.layers.{layer}.{name}.weight"
    for layer in range(config["decoder_layers"]):
        for place, name in _IN_DECODER.items():
            index = _EMBEDDINGS + _ENCODER * layers + _DECODER * layer + place
            places[index] = f"decoder.layers.{layer}.{name}.weight"
    return places


def _places_of(indices: set[int], core: _core.Model) -> dict[int, str] | None:
    """The order in which a file of these indices counts, whatever backend wrote it."""
    for backend in _BEFORE:
        places = _places(core, backend)
        if set(places) == indices:
            return places
    return None


# By name -----------------------------------------------------------------------------------------


def _load_named(path: Path) -> Lora:
    settings, tensors = _core.read_adapter(str(path))
    values, rank = _named(path, tensors)
    try:
        alpha = float(settings.get("alpha", rank))
        by_head = bool(json.loads(settings.get("by_head", "false")))
    except ValueError:
        raise ValueError(f"{path}: has unreadable settings: {settings}") from None
    return Lora(_matrices(values), rank, alpha, by_head, values)


def _load_peft(folder: Path) -> Lora:
    config_file, weights = (folder / name for name in _PEFT)
    for file in (config_file, weights):
        if not file.is_file():
            raise FileNotFoundError(f"`filepath`: there is no {file.name} in {folder}.")
    try:
        config = json.loads(config_file.read_text(encoding="utf-8"))
        rank, alpha = int(config["r"]), float(config.get("lora_alpha", config["r"]))
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{config_file}: cannot be read: {error!r}") from None
    for name, plain in (
        ("peft_type", "LORA"), ("use_dora", False), ("bias", "none"),
        ("rank_pattern", {}), ("alpha_pattern", {}), ("modules_to_save", None),
    ):  # fmt: skip
        if config.get(name, plain) not in (plain, None):
            raise ValueError(f"{config_file}: `{name}` {config[name]!r} is not supported")
    if config.get("use_rslora"):
        alpha *= rank**0.5  # alpha / sqrt(rank) = (alpha * sqrt(rank)) / rank
    _, tensors = _core.read_adapter(str(weights))
    values, found = _named(weights, tensors)
    if found != rank:
        raise ValueError(f"{weights}: has the rank {found}, {config_file.name} says {rank}")
    return Lora(_matrices(values), rank, alpha, False, values)


def _named(path: Path, tensors: dict[str, np.ndarray]) -> tuple[dict[str, np.ndarray], int]:
    """The tensors under our names, and their rank."""
    values = {}
    for name, array in tensors.items():
        match = _NAME.fullmatch(name)
        if match is None or array.ndim != 2:
            raise ValueError(f"{path}: `{name}` is no part of an addition to a layer's matrix")
        values[f"{match[1]}.lora_{match[2]}.weight"] = array
    ranks = {array.shape[1] for name, array in values.items() if ".lora_B." in name}
    if len(ranks) != 1:
        raise ValueError(f"{path}: must have additions of one rank, has {sorted(ranks)}")
    return values, ranks.pop()


def _matrices(values: dict[str, np.ndarray]) -> list[str]:
    return [
        name.replace(".lora_A.weight", ".weight") for name in values if name.endswith("A.weight")
    ]


def _pair(matrix: str) -> tuple[str, str]:
    """What the additions to a matrix are called."""
    stem = matrix.removesuffix(".weight")
    return f"{stem}.lora_A.weight", f"{stem}.lora_B.weight"


def _check(path: Path, lora: Lora, core: _core.Model) -> None:
    """Refuses additions that do not fit the model, before it is changed."""
    shapes = dict(core.parameters())
    adaptable = set(_core.Adapters(core).matrices())
    config = json.loads(core.config)
    expected: dict[str, tuple[int, int]] = {}
    for matrix in lora.matrices:
        if matrix not in adaptable:
            raise ValueError(f"{path}: is of another model: this one has no `{matrix}`")
        outputs, inputs = shapes[matrix]
        heads = 1
        if lora.by_head and re.search(r"\.[qkv]_proj\.", matrix):
            heads = config[f"{matrix.partition('.')[0]}_attention_heads"]
        down, up = _pair(matrix)
        expected[down] = (heads * lora.rank, inputs)
        expected[up] = (outputs // heads, lora.rank)
    for name in sorted(expected.keys() | lora.values.keys()):
        found = lora.values[name].shape if name in lora.values else None
        if found != expected.get(name):
            raise ValueError(
                f"{path}: does not fit the model: `{name}` has the shape {found}, expected "
                f"{expected.get(name)}"
            )
    if not all(np.isfinite(array).all() for array in lora.values.values()):
        raise ValueError(f"{path}: holds values that are not finite")
