"""What `fit` and `evaluate` are given: examples in memory, or batches that come one by one."""

import math
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from bart_fast._texts import as_texts
from bart_fast._validation import argument_error, check_finite_array
from bart_fast.training.tensors import as_numpy

DEFAULT_BATCH_SIZE = 32

RawBatch = tuple[Any, Any, Any]


class Examples:
    """Data held in memory: columns of one length.

    Args:
        x: dict of str to array or list, with one entry per example.
        y: array, or None.
        sample_weight: array, or None.

    Raises:
        ValueError: columns have different lengths, or no batch axis.
    """

    def __init__(self, x: Mapping[str, Any], y: Any = None, sample_weight: Any = None):
        self.x = {key: _column(f"x[{key!r}]", value) for key, value in x.items()}
        self.y = None if y is None else _column("y", y)
        self.sample_weight = (
            None if sample_weight is None else _column("sample_weight", sample_weight)
        )
        if isinstance(self.sample_weight, np.ndarray):
            check_finite_array("sample_weight", self.sample_weight)
        lengths = {f"x[{key!r}]": len(value) for key, value in self.x.items()}
        for name, value in (("y", self.y), ("sample_weight", self.sample_weight)):
            if value is not None:
                lengths[name] = len(value)
        if len(set(lengths.values())) > 1:
            found = ", ".join(f"`{name}`: {length}" for name, length in lengths.items())
            raise ValueError(
                f"`x`, `y` and `sample_weight` must have one length. Received: {found}."
            )
        self.length = next(iter(lengths.values()), 0)
        if self.length == 0:
            raise argument_error("x", "must hold at least one example", "none")

    def __len__(self) -> int:
        return self.length

    def take(self, indices: Any) -> RawBatch:
        """The examples at `indices` (int array or slice), as `(x, y, sample_weight)`."""
        x = {key: _take(value, indices) for key, value in self.x.items()}
        return x, _take(self.y, indices), _take(self.sample_weight, indices)

    def check_texts(self) -> None:
        """Refuses columns of texts in which something else is, before anything is trained."""
        for name, column in self.x.items():
            if isinstance(column, list | tuple) or column.dtype.kind in "OUST":
                self.x[name] = as_texts(name, column)[0]

    def check_ids(self, name: str, bound: int, weights: Any = None) -> None:
        """Refuses ids that are not below `bound`, before anything is trained. Other kinds of data
        are left to be refused with their batch, and ids without weight are not looked at.

        Raises:
            ValueError: an id is out of range.
        """
        ids = self.y if name == "y" else self.x.get(name)
        if not isinstance(ids, np.ndarray) or ids.dtype.kind not in "iu":
            return
        wrong = (ids < 0) | (ids >= bound)
        if isinstance(weights, np.ndarray) and weights.shape == ids.shape:
            wrong &= weights != 0
        if wrong.any():
            place = tuple(int(each) for each in np.argwhere(wrong)[0])
            raise argument_error(
                name, f"must hold ids from 0 to {bound - 1}", f"{ids[place]} at position {place}"
            )

    def split(self, fraction: float) -> tuple["Examples", "Examples"]:
        """The first examples, and the last `fraction` of them, as Keras splits."""
        at = math.floor(self.length * (1.0 - fraction))
        if not 0 < at < self.length:
            raise argument_error(
                "validation_split",
                f"must leave examples on both sides of the split; there are {self.length}",
                fraction,
            )
        return Examples(*self.take(slice(0, at))), Examples(*self.take(slice(at, None)))


def open_data(
    x: Any, y: Any = None, sample_weight: Any = None, name: str = "x"
) -> "Examples | Iterable":
    """What `fit` was given, as `Examples` or as an iterable of batches.

    Raises:
        ValueError: `x` is neither, or `y` or `sample_weight` come with an iterable.
    """
    if isinstance(x, Mapping):
        return Examples(x, y, sample_weight)
    if isinstance(x, list | tuple):
        is_stream = bool(x) and all(isinstance(each, Mapping | tuple) for each in x)
    else:
        indexed = hasattr(x, "__getitem__") and hasattr(x, "__len__")
        is_stream = not isinstance(x, str | bytes | np.ndarray) and (
            hasattr(x, "__iter__") or indexed
        )
    if not is_stream:
        raise argument_error(
            name,
            "must be a dict of texts (`encoder_text`, `decoder_text`), a dict of token arrays, or "
            "an iterable of batches",
            type(x).__name__,
        )
    for other, value in (("y", y), ("sample_weight", sample_weight)):
        if value is not None:
            raise argument_error(
                other,
                "must be None when `x` is an iterable of batches, which yields "
                "(x, y, sample_weight)",
                type(value).__name__,
            )
    return x


def unpack_batch(batch: Any) -> RawBatch:
    """`(x, y, sample_weight)` from `x`, `(x,)`, `(x, y)` or all three.

    Raises:
        ValueError: another form.
    """
    if isinstance(batch, Mapping):
        return as_numpy(batch), None, None
    if isinstance(batch, list) and batch and isinstance(batch[0], str | bytes):
        return batch, None, None  # Texts alone, to be classified.
    if isinstance(batch, list | tuple) and 1 <= len(batch) <= 3:
        return as_numpy((*batch, None, None)[:3])
    raise argument_error("x", "must yield `x`, `(x, y)` or `(x, y, sample_weight)`", batch)


def is_packed(data: Any) -> bool:
    """Whether `data` is `(x,)`, `(x, y)` or `(x, y, sample_weight)`, and not a list of batches."""
    if isinstance(data, list):
        if len(data) == 1:
            return not isinstance(data[0], tuple)
        return bool(data) and not any(isinstance(each, Mapping | tuple) for each in data[1:])
    return isinstance(data, tuple)


def _column(name: str, value: Any) -> Any:
    """Something with a length whose elements are examples."""
    if isinstance(value, str | bytes):
        raise argument_error(
            name, "must have one entry per example", value, "put a single text into a list"
        )
    # Not by numpy, which would make strings of what stands beside strings.
    if isinstance(value, list | tuple) and any(isinstance(each, str) for each in value):
        return value
    try:
        array = np.asarray(as_numpy(value))
    except ValueError:
        raise argument_error(name, "must have rows of one length", "ragged rows") from None
    if array.ndim == 0:
        raise argument_error(name, "must have one entry per example", value)
    return array


def _take(column: Any, indices: Any) -> Any:
    if column is None or isinstance(column, np.ndarray):
        return None if column is None else column[indices]
    if isinstance(indices, slice):
        return column[indices]
    return [column[index] for index in indices.tolist()]
