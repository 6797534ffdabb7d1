"""Reading and writing `model.weights.h5`, whole or in shards, as Keras 3 does."""

from __future__ import annotations

import contextlib
import json
import math
from pathlib import Path

import numpy as np

from . import hdf5
from .files import shards
from .keras_names import Group, Variable

WEIGHTS_FILE = "model.weights.h5"
SHARDS_FILE = "model.weights.json"
SHARD_PATTERN = "model_*.weights.h5"

_SHOWN = 20


def weight_files(directory: Path) -> list[Path]:
    """The files that hold the weights of a Keras preset; empty where it has none.

    Raises:
        FileNotFoundError: `model.weights.json` names a shard that is not there.
        ValueError: `model.weights.json` is damaged, or names a file outside the preset.
    """
    if (directory / WEIGHTS_FILE).is_file():
        return [directory / WEIGHTS_FILE]
    index = directory / SHARDS_FILE
    if not index.is_file():
        return []
    return shards(index)


def has_group(path: Path, name: str) -> bool:
    """Whether a file has a group of this path."""
    with hdf5.opened([path]) as (file,):
        return file.has_group(name)


def load(
    files: list[Path], groups: list[Group], core_model, *, passed_over: tuple[str, ...] = ()
) -> None:
    """Set every parameter of `core_model` from the weight files.

    Datasets below one of the paths `passed_over` may be there and are not read.

    All names, shapes and kinds are checked before the first parameter changes; all values take the
    precision of the model. A few values at a time are in memory beside the model, or a layer where
    h5py reads the files.

    Raises:
        ValueError: a file is truncated or damaged, or datasets are missing, left over or
            misshapen; all of them are listed, with Keras' names.
    """
    with hdf5.opened(files) as opened:
        found = _check(opened, groups, passed_over)
        if isinstance(opened[0], hdf5.PlainFile):
            plan = [entry for group in groups for entry in _plan(group, found[group.path])]
            core_model.fill([file.core for file in opened], plan)
            return
        shapes = dict(core_model.parameters())
        for group in groups:
            _fill(core_model, group, [dataset for _, dataset in found[group.path]], shapes)


def _plan(group: Group, places: list[tuple[int, str]]) -> list[tuple]:
    """How the core is told to fill the parameters of a group."""
    scales = [p for v, p in zip(group.variables, places, strict=True) if v.kind == "scale"]
    return [
        (v.parameter, place, v.kernel, scales[0] if v.kind == "int8" else None)
        for v, place in zip(group.variables, places, strict=True)
        if v.kind != "scale"
    ]


def _fill(core_model, group: Group, datasets: list, shapes: dict) -> None:
    """Set the parameters of a group, in the precision of the model, whatever that of the file."""
    floats = {}
    variables = list(zip(group.variables, datasets, strict=True))
    scales = next((_read_scales(d) for v, d in variables if v.kind == "scale"), None)
    for variable, dataset in variables:
        name = variable.parameter
        if variable.kind == "scale":
            continue
        values = variable.to_parameter(_read(dataset), tuple(shapes[name]))
        if variable.kind != "int8":
            floats[name] = values
        elif core_model.dtype == "int8":
            core_model.set_int8(name, values, scales)
        else:
            floats[name] = values.astype(np.float32) / scales[:, np.newaxis]
    if floats:
        core_model.set_parameters(floats)


def _read(dataset) -> np.ndarray:
    values = hdf5.read(dataset)
    if values.dtype == np.int8 and values.size and values.min() < -127:
        raise ValueError(
            f"`{dataset.file.filename}`: {dataset.name} holds -128; quantised values are from "
            "-127 to 127."
        )
    return values


def _read_scales(dataset) -> np.ndarray:
    """The scales of a quantised parameter, one a row of ours."""
    scales = np.ascontiguousarray(_read(dataset).reshape(-1))
    if not (np.isfinite(scales).all() and (scales > 0).all()):
        raise ValueError(
            f"`{dataset.file.filename}`: {dataset.name} holds scales that are not above 0 and "
            "finite; it is damaged.\nhint: save or download it again."
        )
    return scales


def holds_int8(file: Path, groups: list[Group]) -> bool:
    """Whether a file holds the token table in int8: then it is of a quantised model."""
    table = next(g for g in groups if any(v.parameter == "shared.weight" for v in g.variables))
    with hdf5.opened([file]) as (opened,):
        return opened.dtype(f"{table.vars_path}/0") == "int8"


def save(
    directory: Path,
    groups: list[Group],
    core_model,
    *,
    name: str = "bart_backbone",
    dtype: str = "float32",
    max_shard_size: float | None = 10,
) -> None:
    """Write the parameters of `core_model` into `directory`, in shards where they are larger
    than `max_shard_size` gibibytes. `dtype` is that of floats; the groups say what is in int8.

    Raises:
        ValueError: one array is larger than a shard may be, or float16 cannot hold a value.
    """
    widths = {"int8": 1, "scale": 4, "float32": 4, "float": 4 if dtype == "float32" else 2}
    sizes = [math.prod(v.shape) * widths[v.kind] for group in groups for v in group.variables]
    limit = math.inf if max_shard_size is None else max_shard_size * 1024**3
    if max(sizes) > limit:
        raise ValueError(
            f"`max_shard_size` must hold the largest array, {max(sizes) / 1024**3:.6g} GB. "
            f"Received: {max_shard_size}.\nhint: leave it at 10."
        )
    sharded = sum(sizes) > limit
    writer = _Writer(directory, limit, sharded)
    with contextlib.closing(writer):
        for group in groups:
            writer.group(group, name if not group.path else group.name)
            for index, variable in enumerate(group.variables):
                writer.dataset(group, str(index), _stored(core_model, variable, dtype))
    if sharded:
        config = {"metadata": {"total_size": float(sum(sizes))}, "weight_map": writer.weight_map}
        (directory / SHARDS_FILE).write_text(json.dumps(config, indent=4), encoding="utf-8")


class _Writer:
    """Writes groups one after the other, and begins a new shard where one is full."""

    def __init__(self, directory: Path, limit: float, sharded: bool) -> None:
        self.directory = directory
        self.limit = limit
        self.sharded = sharded
        self.weight_map: dict[str, str | list[str]] = {}
        self.shards = 0
        self.file = None
        self._begin_file()

    def group(self, group: Group, name: str) -> None:
        self.file.create_group(group.vars_path).attrs["name"] = name

    def dataset(self, group: Group, key: str, values: np.ndarray) -> None:
        if self.written + values.nbytes > self.limit:
            self._begin_file()
        self.written += values.nbytes
        dataset = self.file.require_group(group.vars_path).create_dataset(key, data=values)
        if values.dtype.kind == "V":
            dataset.attrs["dtype"] = "bfloat16"
        self._map(f"/{group.vars_path}")

    def close(self) -> None:
        self.file.close()

    def _begin_file(self) -> None:
        import h5py

        if self.file is not None:
            self.file.close()
        self.name = f"model_{self.shards:05}.weights.h5" if self.sharded else WEIGHTS_FILE
        self.shards += 1
        self.written = 0
        self.file = h5py.File(self.directory / self.name, "w")

    def _map(self, path: str) -> None:
        # A layer with one array maps to a name, one with more to a list, even of one name.
        if path not in self.weight_map:
            self.weight_map[path] = self.name
            return
        names = self.weight_map[path]
        names = names if isinstance(names, list) else [names]
        self.weight_map[path] = names if self.name in names else [*names, self.name]


def _stored(core_model, variable: Variable, dtype: str) -> np.ndarray:
    """A dataset of the file."""
    if variable.kind in ("float", "float32"):
        values = variable.from_parameter(core_model.get_parameter(variable.parameter))
        return values if variable.kind == "float32" else _encode(values, dtype, variable)
    values, scales = core_model.get_int8(variable.parameter)
    if variable.kind == "scale":
        return scales.reshape(variable.shape)
    return variable.from_parameter(values)


def _encode(values: np.ndarray, dtype: str, variable: Variable) -> np.ndarray:
    """float32 values in the precision they are stored in; bfloat16 as two opaque bytes."""
    if dtype == "float32":
        return values
    if dtype == "float16":
        with np.errstate(over="ignore"):
            narrow = values.astype(np.float16)
        if np.any(np.isinf(narrow) & np.isfinite(values)):
            raise ValueError(
                f"`dtype` float16 cannot hold the values of `{variable.parameter}`, which reach "
                f"{np.abs(values).max():.6g}.\nhint: save with dtype bfloat16 or float32."
            )
        return narrow
    return to_bfloat16(values).view("V2")


def to_bfloat16(values: np.ndarray) -> np.ndarray:
    """The upper 16 bits of float32 values, rounded to nearest, ties to even, as uint16."""
    bits = np.ascontiguousarray(values, dtype=np.float32).view(np.uint32)
    rounded = (bits + (0x7FFF + ((bits >> 16) & 1))) >> 16
    # Rounding could carry a NaN into an infinity; a NaN stays one.
    quiet = (bits >> 16) | 0x0040
    return np.where(np.isnan(values), quiet, rounded).astype(np.uint16)


def _check(
    files: list, groups: list[Group], passed_over: tuple[str, ...]
) -> dict[str, list[tuple]]:
    """Of each group its datasets, in order: the index of the file, and what that found. ValueError
    with everything that does not fit."""
    problems: list[str] = []
    found: dict[str, list[tuple]] = {}
    expected: set[str] = set()
    for group in groups:
        found[group.path] = []
        for index, variable in enumerate(group.variables):
            paths = [f"{p}/vars/{index}" for p in (group.path, group.older_path) if p]
            expected.update(paths)
            items = ((i, file.find(path)) for path in paths for i, file in enumerate(files))
            place = next((item for item in items if item[1] is not None), None)
            if place is None:
                problems.append(f"missing: {paths[0]} {list(variable.shape)}")
                continue
            problem = files[place[0]].difference(place[1], variable)
            if problem:
                problems.append(problem)
            found[group.path].append(place)
    left_over = set().union(*(file.names() for file in files)) - expected
    problems += [f"not expected: {n}" for n in left_over if not n.startswith(passed_over)]
    if problems:
        problems.sort(key=lambda text: not text.startswith("missing"))
        more = len(problems) - _SHOWN
        shown = problems[:_SHOWN] + ([f"and {more} more"] if more > 0 else [])
        raise ValueError(
            f"`{files[0].filename}` does not fit the model that `config.json` describes "
            f"({len(problems)} differences):\n  " + "\n  ".join(shown)
        )
    return found
