"""Writes what `torch.save` writes, without torch: for tests of the reader."""

import io
import json
import pickle
import struct
import zipfile
from pathlib import Path
from typing import ClassVar

import numpy as np

_MAGIC = 0x1950A86A20F9469CFC6C
_KINDS = {"f2": "HalfStorage", "f4": "FloatStorage", "f8": "DoubleStorage", "i8": "LongStorage"}


class Named:
    """A function or class that the pickle names; nothing of that name need exist."""

    def __init__(self, module: str, name: str):
        self.module, self.name = module, name

    def __call__(self):
        raise AssertionError("only pickled")


class Call:
    """An object that the pickle makes by a call."""

    def __init__(self, function: Named, *arguments, state=None):
        self.reduced = (function, arguments) if state is None else (function, arguments, state)

    def __reduce__(self):
        return self.reduced


class Storage:
    """Values that tensors look at."""

    def __init__(self, values: np.ndarray, kind: str | None = None):
        self.values = np.ascontiguousarray(values).ravel()
        self.kind = kind or _KINDS[self.values.dtype.str[1:]]


def tensor(values: np.ndarray, storage: Storage | None = None, offset: int = 0, strides=None):
    """A tensor as torch pickles it: by a call with a storage, sizes and strides."""
    storage = storage or Storage(values)
    if strides is None:
        strides = tuple(step // values.itemsize for step in values.strides)
    return Call(
        Named("torch._utils", "_rebuild_tensor_v2"),
        storage,
        offset,
        values.shape,
        tuple(strides),
        False,
        Call(Named("collections", "OrderedDict")),
    )


def bfloat16(values: np.ndarray):
    """A tensor of bfloat16, which numpy has not: the upper halves of the values."""
    halves = (values.astype(np.float32).view(np.uint32) >> 16).astype(np.uint16)
    return tensor(halves, Storage(halves, "BFloat16Storage"))


class _Pickler(pickle._Pickler):
    """Protocol 2, storages by reference. The Python one, since its table can be added to."""

    dispatch: ClassVar[dict] = dict(pickle._Pickler.dispatch)

    def __init__(self, file, storages: dict, legacy: bool):
        super().__init__(file, protocol=2)
        self.storages, self.legacy = storages, legacy
        self.keys: dict[int, str] = {}

    def save_named(self, named: Named):
        self.write(pickle.GLOBAL + f"{named.module}\n{named.name}\n".encode())
        self.memoize(named)

    dispatch[Named] = save_named

    def persistent_id(self, value):
        if not isinstance(value, Storage):
            return None
        key = self.keys.setdefault(id(value), str(len(self.keys)))
        self.storages[key] = value
        reference = ("storage", Named("torch", value.kind), key, "cpu", len(value.values))
        return (*reference, None) if self.legacy else reference


def _pickled(value, storages: dict, legacy: bool) -> bytes:
    file = io.BytesIO()
    _Pickler(file, storages, legacy).dump(value)
    return file.getvalue()


def save_archive(path: Path, value) -> None:
    """What torch has written since 1.6: a zip archive without compression."""
    storages: dict[str, Storage] = {}
    program = _pickled(value, storages, legacy=False)
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:
        archive.writestr("archive/data.pkl", program)
        archive.writestr("archive/byteorder", "little")
        for key, storage in storages.items():
            archive.writestr(f"archive/data/{key}", storage.values.tobytes())
        archive.writestr("archive/version", "3\n")


def save_stream(path: Path, value) -> None:
    """What torch wrote before 1.6: pickles one after the other, then the storages."""
    storages: dict[str, Storage] = {}
    program = _pickled(value, storages, legacy=True)
    keys = sorted(storages)
    with path.open("wb") as file:
        for head in (_MAGIC, 1001, {"protocol_version": 1001, "little_endian": True}):
            pickle.dump(head, file, protocol=2)
        file.write(program)
        pickle.dump(keys, file, protocol=2)
        for key in keys:
            values = storages[key].values
            file.write(struct.pack("<q", len(values)) + values.tobytes())


def save_safetensors(path: Path, tensors: dict[str, np.ndarray]) -> None:
    """A safetensors file of float32."""
    header, data = {}, b""
    for name, values in tensors.items():
        place = [len(data), len(data) + values.nbytes]
        header[name] = {"dtype": "F32", "shape": list(values.shape), "data_offsets": place}
        data += values.astype(np.float32).tobytes()
    text = json.dumps(header).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + data)


def save_shards(directory: Path, stem: str, suffix: str, tensors: dict, write, parts=3) -> Path:
    """A checkpoint in several files with their index, as transformers splits it."""
    names = list(tensors)
    weight_map = {}
    for part in range(parts):
        file = f"{stem}-{part + 1:05}-of-{parts:05}.{suffix}"
        here = names[part::parts]
        write(directory / file, {name: tensors[name] for name in here})
        weight_map |= dict.fromkeys(here, file)
    index = directory / f"{stem}.{suffix}.index.json"
    index.write_text(json.dumps({"metadata": {"total_size": 1}, "weight_map": weight_map}))
    return index


def stored_tensors(path: Path) -> dict[str, np.ndarray]:
    """The float32 tensors of a safetensors file under the names in it."""
    data = path.read_bytes()
    start = 8 + int.from_bytes(data[:8], "little")
    header = json.loads(data[8:start])
    header.pop("__metadata__", None)
    tensors = {}
    for name, entry in header.items():
        assert entry["dtype"] == "F32"
        first, last = entry["data_offsets"]
        values = np.frombuffer(data[start + first : start + last], np.float32)
        tensors[name] = values.reshape(entry["shape"])
    return tensors
