"""Values as JSON has them, with arrays put aside, and back."""

from collections.abc import Mapping
from typing import Any

import numpy as np

_ARRAY = "__array__"


def to_portable(value: Any, arrays: dict[str, np.ndarray], key: str) -> Any:
    """`value` for JSON. Arrays go into `arrays` under names that begin with `key`; entries of dicts
    that cannot be kept are left out."""
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, np.ndarray):
        arrays[key] = value
        return {_ARRAY: key}
    if isinstance(value, list | tuple):
        return [to_portable(each, arrays, f"{key}/{i}") for i, each in enumerate(value)]
    if isinstance(value, Mapping):
        kept = {name: each for name, each in value.items() if is_portable({name: each})}
        return {name: to_portable(each, arrays, f"{key}/{name}") for name, each in kept.items()}
    return value


def from_portable(value: Any, arrays: Mapping[str, np.ndarray]) -> Any:
    """The inverse of `to_portable`, with lists for tuples."""
    if isinstance(value, list):
        return [from_portable(each, arrays) for each in value]
    if isinstance(value, dict):
        if set(value) == {_ARRAY}:
            return arrays[value[_ARRAY]]
        return {name: from_portable(each, arrays) for name, each in value.items()}
    return value


def is_portable(value: Any) -> bool:
    """Whether a value is a number, a string, None, an array of them, or a list or dict of such."""
    if isinstance(value, list | tuple):
        return all(map(is_portable, value))
    if isinstance(value, Mapping):
        return all(isinstance(name, str) and is_portable(each) for name, each in value.items())
    if isinstance(value, np.ndarray):
        return not value.dtype.hasobject
    return value is None or isinstance(value, bool | int | float | str | np.generic)
