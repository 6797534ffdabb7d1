"""Data of `fit` and `evaluate`: examples that can be shuffled, or a stream of batches."""

import math
import warnings
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import numpy as np

from bart_fast._validation import argument_error, check_finite_array, check_positive_int

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


class Batches:
    """Raw batches, epoch by epoch.

    Args:
        data: `Examples`, or an iterable of batches `x`, `(x,)`, `(x, y)` or
            `(x, y, sample_weight)`.
        batch_size: int. Examples of a batch; None for an iterable of batches.
        shuffle: bool. Whether each pass over `Examples` has an order of its own.
        seed: int. What the orders depend on, with the number of the pass.
        steps: int or None. Batches of an epoch. With it epochs go on where the last one stopped,
            starting over at the end of the data. Defaults to one pass.
    """

    def __init__(
        self,
        data: "Examples | Iterable",
        batch_size: int | None,
        shuffle: bool = False,
        seed: int = 0,
        steps: int | None = None,
    ):
        self.data = data
        self.is_stream = not isinstance(data, Examples)
        if self.is_stream and batch_size is not None:
            raise argument_error(
                "batch_size", "must be None when `x` is an iterable of batches", batch_size
            )
        if batch_size is None:
            batch_size = DEFAULT_BATCH_SIZE
        self.batch_size = check_positive_int("batch_size", batch_size)
        self.steps_given = steps if steps is None else check_positive_int("steps", steps)
        self.shuffle = shuffle
        self.seed = seed
        self._order: tuple[int, np.ndarray | None] = (-1, None)
        self._iterator: Iterator | None = None

    @property
    def steps(self) -> int | None:
        """Batches of an epoch, None if not known."""
        if self.steps_given is not None:
            return self.steps_given
        if not self.is_stream:
            return self._batches_per_pass
        return len(self.data) if hasattr(self.data, "__len__") else None

    def epoch(self, epoch: int) -> Iterator[RawBatch]:
        """The batches of an epoch (counted from 0)."""
        return self._stream_epoch() if self.is_stream else self._examples_epoch(epoch)

    @property
    def _batches_per_pass(self) -> int:
        return -(-len(self.data) // self.batch_size)

    def _examples_epoch(self, epoch: int) -> Iterator[RawBatch]:
        first = epoch * self.steps
        for number in range(first, first + self.steps):
            # The batch depends on its number only, so that a run can go on at any epoch.
            pass_number, index = divmod(number, self._batches_per_pass)
            chosen = slice(index * self.batch_size, (index + 1) * self.batch_size)
            if self.shuffle:
                chosen = self._order_of(pass_number)[chosen]
            yield self.data.take(chosen)

    def _order_of(self, pass_number: int) -> np.ndarray:
        known, order = self._order
        if known != pass_number:
            generator = np.random.default_rng([self.seed, pass_number])
            order = generator.permutation(len(self.data))
            self._order = (pass_number, order)
        return order

    def _stream_epoch(self) -> Iterator[RawBatch]:
        if self.steps_given is None:
            for batch in self._restarted():
                yield unpack_batch(batch)
            return
        for _ in range(self.steps_given):
            batch = self._next()
            if batch is None:
                warnings.warn(
                    "the data ran out before the last epoch had all its steps: training stops",
                    stacklevel=2,
                )
                return
            yield unpack_batch(batch)

    def _restarted(self) -> Iterator:
        self._iterator = _iterate(self.data)
        return self._iterator

    def _next(self) -> Any:
        """The next batch, from the beginning again where possible; None if there is none."""
        iterator = self._iterator or self._restarted()
        batch = next(iterator, None)
        return next(self._restarted(), None) if batch is None else batch


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
        return batch, None, None
    if isinstance(batch, list | tuple) and 1 <= len(batch) <= 3:
        return (*batch, None, None)[:3]
    raise argument_error("x", "must yield `x`, `(x, y)` or `(x, y, sample_weight)`", batch)


def is_packed(data: Any) -> bool:
    """Whether `data` is `(x,)`, `(x, y)` or `(x, y, sample_weight)`, and not a list of batches."""
    if isinstance(data, list):
        return not any(isinstance(each, Mapping | tuple) for each in data[1:])
    return isinstance(data, tuple)


def _column(name: str, value: Any) -> Any:
    """Something with a length whose elements are examples."""
    if isinstance(value, str | bytes):
        raise argument_error(
            name, "must have one entry per example", value, "put a single text into a list"
        )
    if isinstance(value, list | tuple) and value and isinstance(value[0], str):
        return value
    try:
        array = np.asarray(value)
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


def _iterate(data: Any) -> Iterator:
    if hasattr(data, "__iter__"):
        return iter(data)
    return (data[index] for index in range(len(data)))
