"""`generate()` for inputs that come as batches, one after the other, and answers joined again.

Nothing of tf.data or torch is imported: their datasets and loaders are iterables whose items numpy
can read.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from itertools import chain
from typing import Any

import numpy as np

from bart_fast._validation import DECODER_MASK, argument_error

# Strings that come one by one are answered so many at a time.
_STRINGS_AT_ONCE = 32


def is_batches(inputs: Any) -> bool:
    """Whether `inputs` yields batches: an iterable that is neither texts nor arrays itself."""
    if isinstance(inputs, str | bytes | Mapping) or hasattr(inputs, "__array__"):
        return False
    if isinstance(inputs, list | tuple):
        return any(isinstance(each, Mapping) for each in inputs)
    return isinstance(inputs, Iterable)


def generate_batches(
    generate: Callable[..., Any], inputs: Iterable[Any], seed: int | None, pad_id: int | None
) -> Any:
    """The answers to all batches, as to one.

    Args:
        generate: answers one batch; takes it and `seed`.
        inputs: batches as `generate()` takes them; strings; or tuples of which the first item is
            such a batch, as datasets for training yield them.
        seed: that of the first batch; later ones add the number of rows before them, so that
            no two rows draw the same.
        pad_id: fills short rows where batches of arrays differ in width.

    Returns:
        list, or dict of arrays; an empty list if there are no batches.

    Raises:
        ValueError: batches of strings and of arrays are mixed, or the pad id is needed and unknown.
    """
    answers, rows = [], 0
    for batch in _batches(inputs):
        answer = generate(batch, None if seed is None else (seed + rows) % 2**63)
        rows += len(answer[DECODER_MASK]) if isinstance(answer, Mapping) else len(answer)
        answers.append(answer)
    if all(isinstance(answer, list) for answer in answers):
        return list(chain.from_iterable(answers))
    if not all(isinstance(answer, Mapping) for answer in answers):
        raise argument_error("inputs", "must yield strings or token arrays, not both", inputs)
    return {name: _stack([answer[name] for answer in answers], name, pad_id) for name in answers[0]}


def _batches(inputs: Iterable[Any]) -> Iterator[Any]:
    """Batches that `generate()` takes; strings that come alone are put together."""
    strings: list[Any] = []
    for item in inputs:
        if isinstance(item, str | bytes):
            strings.append(item)
            if len(strings) == _STRINGS_AT_ONCE:
                yield strings
                strings = []
            continue
        if strings:
            yield strings
            strings = []
        yield item[0] if _is_labelled(item) else item
    if strings:
        yield strings


def _is_labelled(item: Any) -> bool:
    """Whether `item` is `(x,)`, `(x, y)` or `(x, y, sample_weight)` and not a list of strings."""
    return (
        isinstance(item, list | tuple)
        and 1 <= len(item) <= 3
        and not isinstance(item[0], str | bytes)
    )


def _stack(arrays: list[np.ndarray], name: str, pad_id: int | None) -> np.ndarray:
    """Arrays [rows, ..., width] joined along the rows, short ones filled at the right."""
    width = max(each.shape[-1] for each in arrays)
    if name == "scores" or all(each.shape[-1] == width for each in arrays):
        return np.concatenate(arrays)
    filling = False if name == DECODER_MASK else pad_id
    if filling is None:
        raise ValueError(
            "`inputs` has batches of different widths, and the pad id is not known.\n"
            "hint: give all batches the same width of decoder arrays"
        )
    padded = [
        np.pad(
            each,
            [(0, 0)] * (each.ndim - 1) + [(0, width - each.shape[-1])],
            constant_values=filling,
        )
        for each in arrays
    ]
    return np.concatenate(padded)
