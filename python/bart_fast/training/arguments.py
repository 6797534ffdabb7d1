"""Checks of what `fit`, `evaluate` and `predict` are told."""

import math
import numbers
from collections.abc import Callable, Collection, Mapping
from typing import Any

from bart_fast._validation import argument_error, check_finite_float, check_positive_int
from bart_fast.training.data import Examples, is_packed, unpack_batch


def check_verbose(verbose: Any) -> int:
    """0, 1 or 2; `"auto"` is 1."""
    if isinstance(verbose, str) and verbose == "auto":
        return 1
    if verbose not in (0, 1, 2):
        raise argument_error("verbose", "must be 'auto', 0, 1 or 2", verbose)
    return int(verbose)


def check_counts(**counts: Any) -> None:
    """Each is `None` or a whole number of at least 1."""
    for name, count in counts.items():
        if count is not None:
            check_positive_int(name, count)


def check_class_weight(class_weight: Any, sample_weight: Any = None) -> dict[int, float] | None:
    """Weights by class, as whole numbers and floats.

    Raises:
        ValueError: not such a dict; or there are sample weights as well, as in Keras.
    """
    if class_weight is None:
        return None
    rule = "must be a dict from class (or token id) to its weight, a finite number"
    if not isinstance(class_weight, Mapping):
        raise argument_error("class_weight", rule, class_weight)
    if sample_weight is not None:
        raise argument_error(
            "class_weight", "must be None when there is `sample_weight`", class_weight
        )
    checked = {}
    for key, weight in class_weight.items():
        is_class = isinstance(key, numbers.Integral) and not isinstance(key, bool) and key >= 0
        is_weight = isinstance(weight, numbers.Real) and not isinstance(weight, bool)
        if not is_class or not is_weight or not math.isfinite(weight):
            raise argument_error("class_weight", rule, class_weight)
        checked[int(key)] = float(weight)
    return checked


def split_validation(
    data: Any, split: float, validation_data: Any, open_: Callable[..., Any]
) -> tuple[Any, Any]:
    """Training data, and validation data or None; `open_` opens the latter."""
    if validation_data is not None:
        if is_packed(validation_data):
            x, y, sample_weight = unpack_batch(validation_data)
            return data, open_(x, y, sample_weight, "validation_data")
        return data, open_(validation_data, name="validation_data")
    share = check_finite_float("validation_split", split)
    if share == 0:
        return data, None
    if not isinstance(data, Examples) or not 0 < share < 1:
        raise argument_error(
            "validation_split",
            "must be at least 0 and below 1, and 0 when `x` is an iterable of batches",
            split,
        )
    return data.split(share)


def check_validation_freq(frequency: Any) -> None:
    """A whole number, or a collection of epochs."""
    rule = "must be a whole number of at least 1, or a list of epochs, from 1"
    epochs = frequency if isinstance(frequency, Collection) else [frequency]
    if isinstance(frequency, str | bytes | Mapping):
        raise argument_error("validation_freq", rule, frequency)
    for epoch in epochs:
        if isinstance(epoch, bool) or not isinstance(epoch, numbers.Integral) or epoch < 1:
            raise argument_error("validation_freq", rule, frequency)


def is_validated(epoch: int, frequency: Any) -> bool:
    """Whether an epoch (counted from 0) is followed by a validation."""
    if isinstance(frequency, numbers.Integral):
        return (epoch + 1) % frequency == 0
    return epoch + 1 in frequency
