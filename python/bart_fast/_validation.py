"""Checks of what users pass in: each failure names the argument, what came, and the way out."""

import math
import operator
import os
import warnings
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

ENCODER_IDS, ENCODER_MASK = "encoder_token_ids", "encoder_padding_mask"
DECODER_IDS, DECODER_MASK = "decoder_token_ids", "decoder_padding_mask"
TOKEN_ARRAYS = (ENCODER_IDS, ENCODER_MASK, DECODER_IDS, DECODER_MASK)


def argument_error(name: str, rule: str, received: Any, hint: str | None = None) -> ValueError:
    """A `ValueError` in the form all of ours have."""
    message = f"`{name}` {rule}. Received: {_shorten(received)}."
    return ValueError(message if hint is None else f"{message}\nhint: {hint}")


def _shorten(value: Any) -> str:
    text = repr(value)
    if len(text) > 120:
        text = f"{text[:100]}... ({type(value).__name__})"
    return text


def check_int(name: str, value: Any, at_least: int, hint: str | None = None) -> int:
    """`value` as an int if it is a whole number (not a bool) of at least `at_least`."""
    try:
        if isinstance(value, (bool, np.bool_)):
            raise TypeError
        number = operator.index(value)
    except TypeError:
        number = None
    if number is None or number < at_least:
        raise argument_error(name, f"must be a whole number of at least {at_least}", value, hint)
    return number


def check_positive_int(name: str, value: Any, hint: str | None = None) -> int:
    return check_int(name, value, 1, hint)


def check_seed(name: str, value: Any) -> int:
    seed = check_int(name, value, 0)
    if seed >= 2**63:
        raise argument_error(name, "must be below 2**63", value)
    return seed


def check_finite_float(name: str, value: Any) -> float:
    number = _float(value)
    if number is None or not math.isfinite(number):
        raise argument_error(name, "must be a finite number", value)
    return number


def check_positive_float(name: str, value: Any, hint: str | None = None) -> float:
    number = _float(value)
    if number is None or not (0.0 < number < math.inf):
        raise argument_error(name, "must be a finite number above 0", value, hint)
    return number


def check_probability(name: str, value: Any) -> float:
    number = _float(value)
    if number is None or not (0.0 <= number <= 1.0):
        raise argument_error(name, "must be a number from 0 to 1", value)
    return number


def _float(value: Any) -> float | None:
    if isinstance(value, (bool, np.bool_, str, bytes)):
        return None
    try:
        return float(value)
    except (TypeError, ValueError, OverflowError):
        return None


def check_flag(name: str, value: Any) -> bool:
    if not isinstance(value, (bool, np.bool_)):
        raise argument_error(name, "must be `True` or `False`", value)
    return bool(value)


def check_verbosity(value: Any) -> int:
    """How much a callback prints: a flag or a small number."""
    if isinstance(value, (bool, np.bool_)):
        return int(value)
    return check_int("verbose", value, 0)


def check_text(name: str, value: Any) -> str:
    if not isinstance(value, str):
        raise argument_error(name, "must be a string", value)
    return value


def check_path(name: str, value: Any) -> Any:
    if not isinstance(value, str | os.PathLike):
        raise argument_error(name, "must be a path: a string or an `os.PathLike`", value)
    return value


def check_function(name: str, value: Any) -> Any:
    if not callable(value):
        raise argument_error(name, "must be a function", value)
    return value


def check_config(name: str, value: Any) -> dict[str, Any]:
    if not isinstance(value, Mapping):
        raise argument_error(name, "must be a dict, as `get_config()` returns it", value)
    return dict(value)


def check_numbers(name: str, value: Any) -> np.ndarray:
    """`value` as a float32 array."""
    try:
        array = np.asarray(value)
        if array.dtype.kind not in "biuf":
            raise TypeError
    except (TypeError, ValueError):
        raise argument_error(name, "must be numbers, in an array or list", value) from None
    return array.astype(np.float32)


def check_token_ids(name: str, value: Any, vocabulary_size: int) -> np.ndarray:
    """Token ids as an int64 array [batch, length], each below `vocabulary_size`.

    Raises:
        ValueError: not integers, not two axes, ragged, or an id out of range.
    """
    array = _array(name, value)
    if array.dtype.kind not in "iu":
        raise argument_error(
            name,
            "must hold integers",
            _Description(array),
            "convert with `.astype(np.int32)`, or attach a preprocessor to pass strings",
        )
    _check_two_axes(name, array)
    if array.shape[1] == 0:
        raise argument_error(name, "must have one position at least", _Description(array))
    # Compared before the conversion, which would wrap large unsigned numbers.
    wrong = (array < 0) | (array >= vocabulary_size)
    if wrong.any():
        row, column = np.argwhere(wrong)[0]
        raise ValueError(
            f"`{name}` must hold ids from 0 to {vocabulary_size - 1} (`vocabulary_size` is "
            f"{vocabulary_size}). Received: {array[row, column]} at row {row}, position {column}."
            "\nhint: the tokenizer must be the one that the model was made with"
        )
    return array.astype(np.int64)


def check_text_ids(preprocessor: Any, vocabulary_size: int, *arrays: np.ndarray) -> None:
    """Refuses texts with a token that the tokenizer knows and the model has no row for.

    Facebook's BARTs are of 50264 and of 50265 tokens, the last of which is `<mask>`.
    """
    for array in arrays:
        wrong = array[np.asarray(array) >= vocabulary_size]
        if not wrong.size:
            continue
        tokenizer = getattr(preprocessor, "tokenizer", None)
        if tokenizer is None:
            return  # Ids of a preprocessor of the user's: their range is checked with the arrays.
        token, rows = tokenizer.id_to_token(int(wrong[0])), max(tokenizer.vocabulary.values()) + 1
        raise ValueError(
            f"a text has the token {token!r}, whose id is {wrong[0]}, but the token table of the "
            f"model has {vocabulary_size} rows (`vocabulary_size`).\n"
            f"hint: `resize_token_embeddings({rows})` of the model adds rows"
        )


def check_mask(
    name: str, value: Any, ids_name: str, shape: tuple[int, int], allow_short: bool = False
) -> np.ndarray:
    """A padding mask as a bool array of `shape` [batch, length]; numbers other than 0 are `True`.

    With `allow_short`, a mask with fewer columns than its ids counts as `False` beyond its end,
    with a warning.
    """
    array = _array(name, value)
    if array.dtype.kind not in "biuf":
        raise argument_error(name, "must hold booleans, or zeros and ones", _Description(array))
    _check_two_axes(name, array)
    array = array.astype(bool)
    if allow_short and array.shape[0] == shape[0] and array.shape[1] < shape[1]:
        warnings.warn(
            f"`{name}` has {array.shape[1]} columns and `{ids_name}` has {shape[1]}: "
            "positions beyond the end of the mask count as `False`.",
            UserWarning,
            stacklevel=caller_level(),
        )
        array = np.pad(array, ((0, 0), (0, shape[1] - array.shape[1])))
    if array.shape != shape:
        raise argument_error(
            name, f"must have the shape of `{ids_name}`, {shape}", f"shape {array.shape}"
        )
    return array


def caller_level() -> int:
    """`stacklevel` with which a warning points at the first line outside this package."""
    import sys

    level, frame = 1, sys._getframe(1)
    while frame is not None and frame.f_globals.get("__name__", "").startswith("bart_fast"):
        frame = frame.f_back
        level += 1
    return level


def check_token_arrays(
    arrays: Any,
    vocabulary_size: int,
    max_sequence_length: int,
    *,
    what: str = "x",
) -> dict[str, np.ndarray]:
    """The four arrays of a forward pass: ids int64 and masks bool, [batch, length] each.

    Raises:
        ValueError: a key is missing or unknown, shapes disagree, an id is out of range, or a
            sequence is longer than the position table.
    """
    check_keys(what, arrays, required=TOKEN_ARRAYS)
    checked: dict[str, np.ndarray] = {}
    for ids_name, mask_name in ((ENCODER_IDS, ENCODER_MASK), (DECODER_IDS, DECODER_MASK)):
        ids = check_token_ids(ids_name, arrays[ids_name], vocabulary_size)
        check_length(ids_name, ids.shape[1], max_sequence_length)
        checked[ids_name] = ids
        checked[mask_name] = check_mask(mask_name, arrays[mask_name], ids_name, ids.shape)
    check_same_rows(checked[ENCODER_IDS], checked[DECODER_IDS])
    return checked


def check_same_rows(encoder_ids: np.ndarray, decoder_ids: np.ndarray) -> None:
    if encoder_ids.shape[0] != decoder_ids.shape[0]:
        raise ValueError(
            f"`{DECODER_IDS}` must have as many rows as `{ENCODER_IDS}`, {encoder_ids.shape[0]}. "
            f"Received: {decoder_ids.shape[0]}."
        )


def check_length(name: str, length: int, max_sequence_length: int) -> None:
    if length > max_sequence_length:
        raise ValueError(
            f"`{name}` must not be longer than the position table of the model, "
            f"{max_sequence_length} (`max_sequence_length`). Received: length {length}.\n"
            "hint: shorten the sequences, or build the backbone with a larger "
            "`max_sequence_length`"
        )


def check_keys(
    what: str, arrays: Any, required: Iterable[str], optional: Iterable[str] = ()
) -> None:
    """`arrays` is a dict with all of `required` and nothing beyond `optional`."""
    required, optional = tuple(required), tuple(optional)
    wanted = ", ".join(f"`{key}`" for key in required)
    if not isinstance(arrays, Mapping):
        raise argument_error(
            what,
            f"must be a dict of token arrays with the keys {wanted}",
            type(arrays).__name__,
            "strings need a preprocessor: `BartSeq2SeqLM(backbone, preprocessor)`",
        )
    missing = [f"`{key}`" for key in required if key not in arrays]
    unknown = [repr(key) for key in arrays if key not in required + optional]
    if missing or unknown:
        parts = []
        if missing:
            parts.append("missing: " + ", ".join(missing))
        if unknown:
            parts.append("unknown: " + ", ".join(unknown))
        also = ", ".join(f"`{key}`" for key in optional)
        raise ValueError(
            f"`{what}` must have the keys {wanted}"
            + (f" and may have {also}" if also else "")
            + f". Received a dict with {'; '.join(parts)}."
        )


def check_finite_array(name: str, array: np.ndarray) -> None:
    """Numbers of `array`, if it has any, are neither NaN nor infinite."""
    if array.dtype.kind == "f" and not np.isfinite(array).all():
        wrong = np.argwhere(~np.isfinite(array))[0].tolist()
        raise argument_error(
            name, "must hold finite numbers", f"{array[tuple(wrong)]} at position {wrong}"
        )


def _array(name: str, value: Any) -> np.ndarray:
    try:
        array = np.asarray(value)
    except (ValueError, TypeError) as error:
        raise ValueError(
            f"`{name}` must be a rectangular array [batch, length]. Received rows of different "
            f"lengths, or values that are not numbers ({error}).\n"
            "hint: pad the rows to one length and mark the padding in the mask"
        ) from None
    return array


def _check_two_axes(name: str, array: np.ndarray) -> None:
    if array.ndim != 2:
        hint = "add a batch axis, as in `ids[np.newaxis]`" if array.ndim == 1 else None
        raise argument_error(name, "must have two axes [batch, length]", _Description(array), hint)


class _Description:
    """Prints as what an array is, not what is in it."""

    def __init__(self, array: np.ndarray):
        self.text = f"dtype {array.dtype}, shape {array.shape}"

    def __repr__(self) -> str:
        return self.text
