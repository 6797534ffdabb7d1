"""Strings as users pass them in: one or many, as `str`, UTF-8 `bytes` or numpy arrays of either."""

from typing import Any

import numpy as np

from bart_fast._validation import argument_error

_RULE = "must be a string, or a list or one-dimensional array of strings"


def as_texts(name: str, inputs: Any) -> tuple[list[str], bool]:
    """The strings in `inputs`, and whether they came as a batch.

    Args:
        name: the argument's name, for errors.
        inputs: a string, a list or tuple of strings, or an array of strings with at most one axis.
            `bytes` count as strings if they are UTF-8.

    Raises:
        ValueError: anything else.
    """
    if isinstance(inputs, str | bytes):
        return [_as_text(name, inputs, 0)], False
    if hasattr(inputs, "__array__"):
        array = np.asarray(inputs)
        if array.ndim > 1 or (array.size and array.dtype.kind not in "USOT"):
            raise argument_error(name, _RULE, inputs)
        if array.ndim == 0:
            return [_as_text(name, array.item(), 0)], False
        inputs = array.tolist()
    if not isinstance(inputs, list | tuple):
        raise argument_error(name, _RULE, inputs)
    return [_as_text(name, text, index) for index, text in enumerate(inputs)], True


def _as_text(name: str, text: Any, index: int) -> str:
    if isinstance(text, bytes):
        try:
            return text.decode("utf-8")
        except UnicodeDecodeError as error:
            raise argument_error(
                name,
                f"must be UTF-8 where it holds bytes ({error.reason} at byte {error.start} of "
                f"item {index})",
                text,
                'decode it first, as in `data.decode("latin-1")`',
            ) from None
    if not isinstance(text, str):
        raise argument_error(name, f"{_RULE}; item {index} is not", text)
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise argument_error(
            name,
            f"must be valid Unicode (lone surrogate at character {error.start} of item {index})",
            text,
            'drop such characters, as in `text.encode("utf-8", "ignore").decode()`',
        ) from None
    return text
