"""Tensors of other libraries as numpy arrays. None of the libraries is imported."""

from collections.abc import Mapping
from typing import Any

import numpy as np


def as_numpy(value: Any) -> Any:
    """`value` with all tensors in it replaced by arrays; dicts, tuples and lists of texts stay.

    A tensor is what has `numpy()` or `__array__`; it may hang on a gradient or be elsewhere
    (`detach()`, `cpu()`).
    """
    if isinstance(value, Mapping):
        return {key: as_numpy(each) for key, each in value.items()}
    if isinstance(value, tuple):
        return tuple(as_numpy(each) for each in value)
    if isinstance(value, str | bytes | list | np.ndarray) or value is None:
        return value
    # PyTorch's. TensorFlow's have a `cpu` as well, which warns that it is deprecated.
    if callable(getattr(value, "detach", None)):
        value = value.detach().cpu()
    if callable(getattr(value, "numpy", None)):
        try:
            return np.asarray(value.numpy())
        except TypeError:
            # A dtype that numpy has not, such as bfloat16.
            return np.asarray(value.float().numpy()) if hasattr(value, "float") else value
    return np.asarray(value) if hasattr(value, "__array__") else value


def length_of(data: Any) -> int | None:
    """How many batches an iterable has; `None` if it does not know."""
    if hasattr(data, "num_batches"):
        return data.num_batches
    try:
        return len(data)
    except (TypeError, NotImplementedError):
        return None


def is_endless(data: Any) -> bool:
    """Whether an iterable says of itself that it has no end, as datasets of tf.data can."""
    if hasattr(data, "num_batches"):
        return data.num_batches is None
    cardinality = getattr(data, "cardinality", None)
    return callable(cardinality) and int(cardinality()) == -1
