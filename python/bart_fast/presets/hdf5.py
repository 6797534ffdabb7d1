"""HDF5 files of weights, opened for reading: by the core where they are as plain as Keras' are,
else by h5py.

Files are taken as hostile: links out of the file, storage outside it and datasets of another
shape or kind than the configuration asks for are refused before anything is read.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from bart_fast import _core

from .keras_names import Variable

DTYPES = ("float32", "float16", "bfloat16")


@contextlib.contextmanager
def opened(paths: list[Path]) -> Iterator[list[PlainFile] | list[LibraryFile]]:
    """The files, all of one kind. Whatever the library says of a damaged one is a ValueError."""
    with contextlib.ExitStack() as stack:
        try:
            files = [PlainFile(_core.WeightFile(str(path))) for path in paths]
        except ValueError:
            files = [LibraryFile(stack.enter_context(_open(path))) for path in paths]
        yield files


@contextlib.contextmanager
def opened_by_library(path: Path) -> Iterator[LibraryFile]:
    """A file that h5py reads, whatever it is like."""
    with _open(path) as file:
        yield LibraryFile(file)


class PlainFile:
    """A file that the core reads."""

    def __init__(self, core: _core.WeightFile) -> None:
        self.filename = str(core.path)
        self.core = core
        self._datasets = {name: (dtype, shape) for name, dtype, shape in core.datasets()}

    def names(self) -> set[str]:
        """The names of all datasets."""
        return set(self._datasets)

    def find(self, path: str) -> str | None:
        """The dataset at `path`: its name; None where there is none."""
        return path if path in self._datasets else None

    def dtype(self, path: str) -> str | None:
        """The dtype of a dataset; None where there is none."""
        return self._datasets.get(path, (None,))[0]

    def has_group(self, path: str) -> bool:
        """Whether datasets lie below `path`."""
        return any(name.startswith(f"{path}/") for name in self._datasets)

    def difference(self, name: str, variable: Variable) -> str | None:
        """Why a dataset cannot be read as that variable; None where it can."""
        dtype, shape = self._datasets[name]
        return _misshapen(name, tuple(shape), variable) or _of_wrong_type(name, dtype, variable)


class LibraryFile:
    """A file that h5py reads."""

    def __init__(self, file) -> None:
        self.filename = file.filename
        self._file = file

    def names(self) -> set[str]:
        """The names of all datasets. Links are not followed, and nothing is visited twice."""
        import h5py

        names: set[str] = set()

        def visit(name: str, item) -> None:
            if isinstance(item, h5py.Dataset):
                names.add(name)

        with damage(self.filename):
            self._file.visititems(visit)
        return names

    def find(self, path: str):
        """The object at `path`, reached through plain groups only; None where there is none."""
        import h5py

        current = self._file
        for part in path.split("/"):
            with damage(self.filename):
                if not isinstance(current, h5py.Group):
                    return None
                # A soft or external link could lead to another path, or another file.
                if current.get(part, getclass=True, getlink=True) is not h5py.HardLink:
                    return None
                current = current[part]
        return current

    def dtype(self, path: str) -> str | None:
        """The dtype of a dataset; None where there is none."""
        dataset = self.find(path)
        with damage(self.filename):
            dtype = getattr(dataset, "dtype", None)
        return None if dtype is None else str(dtype)

    def has_group(self, path: str) -> bool:
        """Whether there is an object at `path`."""
        return self.find(path) is not None

    def difference(self, dataset, variable: Variable) -> str | None:
        """Why an object cannot be read as that variable; None where it can."""
        import h5py

        name = dataset.name.lstrip("/")
        with damage(self.filename):
            if not isinstance(dataset, h5py.Dataset):
                return f"misshapen: {name} is a group, expected values {list(variable.shape)}"
            problem = _misshapen(name, dataset.shape, variable)
            if problem:
                return problem
            if dataset.external or dataset.is_virtual:
                return f"not allowed: {name} keeps its values in another file"
            dtype = "bfloat16" if _is_bfloat16(dataset) else str(dataset.dtype.newbyteorder("="))
            return _of_wrong_type(name, dtype, variable)


def _misshapen(name: str, shape: tuple[int, ...] | None, variable: Variable) -> str | None:
    if shape == variable.shape:
        return None
    found = None if shape is None else list(shape)
    return f"misshapen: {name} is {found}, expected {list(variable.shape)}"


def _of_wrong_type(name: str, dtype: str, variable: Variable) -> str | None:
    allowed = ("int8",) if variable.kind == "int8" else (*DTYPES, "float64")
    if dtype in allowed:
        return None
    expected = "int8" if variable.kind == "int8" else ", ".join(DTYPES)
    return f"not supported: {name} has dtype {dtype}, expected {expected}"


def read(dataset) -> np.ndarray:
    """The values of a dataset of h5py as float32, or as the int8 they are."""
    with damage(dataset.file.filename):
        values = dataset[()]
    if dataset.dtype == np.int8:
        return values
    if _is_bfloat16(dataset):
        return from_bfloat16(values.view(np.uint16))
    return np.asarray(values, dtype=np.float32)


def _is_bfloat16(dataset) -> bool:
    # numpy has no bfloat16: Keras writes two opaque bytes and says so beside them.
    return dataset.dtype == np.dtype("V2") and dataset.attrs.get("dtype") == "bfloat16"


def from_bfloat16(bits: np.ndarray) -> np.ndarray:
    """float32 values from their upper 16 bits."""
    return (bits.astype(np.uint32) << 16).view(np.float32)


@contextlib.contextmanager
def _open(path: Path) -> Iterator:
    import h5py

    with damage(path):
        # Locks would keep a file on a read-only or network disk from being read.
        file = h5py.File(path, "r", locking=False)
    with file:
        yield file


@contextlib.contextmanager
def damage(path: Path | str) -> Iterator[None]:
    """Around calls into the HDF5 library: what it says of a damaged file becomes a ValueError."""
    try:
        yield
    except PermissionError:
        raise
    except (OSError, RuntimeError, KeyError, TypeError, ValueError) as error:
        raise ValueError(
            f"`{path}` cannot be read as HDF5; it is truncated or damaged: {error}.\n"
            "hint: save or download it again."
        ) from error
