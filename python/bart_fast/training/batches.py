"""Raw batches, epoch by epoch, from data of any kind."""

import itertools
import warnings
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import numpy as np

from bart_fast._validation import argument_error, check_positive_int
from bart_fast.training.data import DEFAULT_BATCH_SIZE, Examples, RawBatch, unpack_batch
from bart_fast.training.tensors import is_endless, length_of


class Batches:
    """Raw batches, epoch by epoch.

    Args:
        data: `Examples`; an indexed set of batches, as Keras' `PyDataset` is; or an iterable of
            batches `x`, `(x,)`, `(x, y)` or `(x, y, sample_weight)`.
        batch_size: int. Examples of a batch; None for batches that are made already.
        shuffle: bool. Whether each pass has an order of its own: over `Examples`, and over a set of
            batches that has `on_epoch_end`, as in Keras.
        seed: int. What the orders depend on, with the number of the pass.
        steps: int or None. Batches of an epoch. With it epochs go on where the last one stopped,
            starting over at the end of the data. Defaults to one pass.
        steps_name: str. The argument that `steps` came from, for messages.
    """

    def __init__(
        self,
        data: "Examples | Iterable",
        batch_size: int | None,
        shuffle: bool = False,
        seed: int = 0,
        steps: int | None = None,
        steps_name: str = "steps",
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
        self.steps_given = steps if steps is None else check_positive_int(steps_name, steps)
        if self.is_stream and steps is None and is_endless(data):
            raise argument_error(
                steps_name, "must say how many batches, for data without an end", None
            )
        self.shuffle = shuffle
        self.seed = seed
        self._order: tuple[int, np.ndarray | None] = (-1, None)
        self._iterator: Iterator | None = None

    @property
    def steps(self) -> int | None:
        """Batches of an epoch, None if not known."""
        return self._batches_per_pass if self.steps_given is None else self.steps_given

    def epoch(self, epoch: int, first_step: int = 0) -> Iterator[RawBatch]:
        """The batches of an epoch (counted from 0), from one of them on.

        A batch of `Examples` or of an indexed set depends on its number only, so that a run can go
        on at any of them; what comes as a stream is read up to there.
        """
        if self._is_numbered:
            batch = self._indexed if self.is_stream else self._examples
            return self._numbered_epoch(epoch, first_step, batch)
        return itertools.islice(self._stream_epoch(), first_step, None)

    def skip(self, drawn: int, step: int) -> None:
        """Brings the data to where a run left it after `drawn` batches, `step` of them in its last
        epoch: an indexed set is told of the passes that began and ended, a stream that goes on from
        epoch to epoch is read again."""
        if not self.is_stream:
            return
        if self._is_numbered:
            passes, rest = divmod(drawn, self._batches_per_pass)
            for _ in range(passes):
                _call(self.data, "on_epoch_begin")
                _call(self.data, "on_epoch_end")
            if rest:
                _call(self.data, "on_epoch_begin")
        elif self.steps_given is not None:
            for _ in range(drawn - step):
                self._next()

    @property
    def _is_numbered(self) -> bool:
        """Whether batches are asked for by their number."""
        return not self.is_stream or bool(_is_indexed(self.data) and self._batches_per_pass)

    @property
    def _batches_per_pass(self) -> int | None:
        if not self.is_stream:
            return -(-len(self.data) // self.batch_size)
        return length_of(self.data)

    def _numbered_epoch(
        self, epoch: int, first_step: int, batch: Callable[[int, int], RawBatch]
    ) -> Iterator[RawBatch]:
        a_pass = self._batches_per_pass
        first = epoch * self.steps
        for number in range(first + first_step, first + self.steps):
            pass_number, index = divmod(number, a_pass)
            if index == 0:
                _call(self.data, "on_epoch_begin")
            yield batch(pass_number, index)
            if index == a_pass - 1:
                _call(self.data, "on_epoch_end")

    def _examples(self, pass_number: int, index: int) -> RawBatch:
        chosen = slice(index * self.batch_size, (index + 1) * self.batch_size)
        if self.shuffle:
            chosen = self._order_of(pass_number, len(self.data))[chosen]
        return self.data.take(chosen)

    def _indexed(self, pass_number: int, index: int) -> RawBatch:
        if self.shuffle and hasattr(self.data, "on_epoch_end"):
            index = int(self._order_of(pass_number, self._batches_per_pass)[index])
        return unpack_batch(self.data[index])

    def _order_of(self, pass_number: int, count: int) -> np.ndarray:
        known, order = self._order
        if known != pass_number:
            order = np.random.default_rng([self.seed, pass_number]).permutation(count)
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


def _is_indexed(data: Any) -> bool:
    """Whether batches are asked for by their number: lists, and what Keras calls a `PyDataset`."""
    return hasattr(data, "__getitem__") and (
        isinstance(data, list | tuple)
        or hasattr(data, "on_epoch_end")
        or not hasattr(data, "__iter__")
    )


def _iterate(data: Any) -> Iterator:
    if hasattr(data, "__iter__"):
        return iter(data)
    return (data[index] for index in itertools.count())


def _call(data: Any, method: str) -> None:
    if hasattr(data, method):
        getattr(data, method)()
