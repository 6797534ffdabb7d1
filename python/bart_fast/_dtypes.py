"""Precisions: the names that `dtype` takes, and Keras' dtype policies in its files."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from bart_fast._validation import argument_error

FLOATS = ("float32", "float16", "bfloat16", "mixed_float16", "mixed_bfloat16")
PRECISIONS = (*FLOATS, "int8")
# What Keras quantises to besides; none is implemented.
_OTHER_QUANTIZATIONS = ("int4", "float8", "gptq", "awq")
_NAMES = ", ".join(f'"{name}"' for name in FLOATS)
_ALLOWED = f'`None`, {_NAMES} or "int8"'


def check_dtype(dtype: Any) -> str | None:
    """The precision that an argument `dtype` names; `None` stays.

    Args:
        dtype: a name; a dtype policy of Keras, serialised or not; or a dtype of numpy or torch.

    Raises:
        ValueError: it is none of those, or one that we do not have.
    """
    if dtype is None:
        return None
    name = policy_name(dtype)
    if name in PRECISIONS:
        return name
    if name is not None and name.startswith(_OTHER_QUANTIZATIONS):
        rule = f"{name!r} is not implemented; it must be {_ALLOWED}"
        raise argument_error("dtype", rule, dtype, 'the nearest is dtype="int8"')
    raise argument_error("dtype", f"must be {_ALLOWED}", dtype)


def check_quantization_mode(mode: Any) -> str:
    """`"int8"`, the one mode of `quantize()` that is implemented."""
    if mode == "int8":
        return mode
    if isinstance(mode, str) and mode.startswith(_OTHER_QUANTIZATIONS):
        raise argument_error("mode", f'{mode!r} is not implemented; it must be "int8"', mode)
    raise argument_error("mode", 'must be "int8"', mode)


def policy_name(dtype: Any) -> str | None:
    """The name of a dtype: "float32", "mixed_bfloat16", "int8", "int4/128", ...

    Several quantisations in a policy map are joined by "+". `None` for what is no dtype.
    """
    if isinstance(dtype, Mapping):
        return _mapping_name(dtype)
    if isinstance(dtype, type) and dtype is not type(None):
        try:
            dtype = np.dtype(dtype)
        except TypeError:
            return None
    name = getattr(dtype, "name", dtype if isinstance(dtype, str) else str(dtype))
    if not isinstance(name, str) or not name:
        return None
    # torch's dtypes are written "torch.float16".
    name = name.removeprefix("torch.")
    mode, quantized, source = name.partition("_from_")
    return mode if quantized and source == "float32" else name


def _mapping_name(dtype: Mapping) -> str | None:
    """The same of a serialised policy, or of a policy map, serialised or not."""
    config = dtype.get("config") if "class_name" in dtype or "config" in dtype else None
    policies = dtype if config is None else config
    if not isinstance(policies, Mapping) or not policies:
        return None
    if config is not None:
        policies = config.get("policy_map")
        if not isinstance(policies, Mapping):
            # A quantised policy has a mode; what it was made from does not change the weights.
            name = config.get("mode") or config.get("name")
            return policy_name(name) if isinstance(name, str) else None
    names = {policy_name(policy) for policy in policies.values()}
    if None in names:
        return None
    return "+".join(sorted(names - set(FLOATS))) or "float32"


def policy(name: str) -> dict[str, Any]:
    """A policy as Keras serialises it."""
    config = {"name": name}
    return _serialised("keras", "DTypePolicy", config)


def int8_policy_map(layers: list[str]) -> dict[str, Any]:
    """The policy map of a model whose `layers` are in int8, as Keras serialises it."""
    module = "keras.dtype_policies"
    config = {"mode": "int8", "source_name": None}
    policies = {path: _serialised(module, "QuantizedDTypePolicy", dict(config)) for path in layers}
    return _serialised(module, "DTypePolicyMap", {"default_policy": None, "policy_map": policies})


def _serialised(module: str, class_name: str, config: dict[str, Any]) -> dict[str, Any]:
    return {"module": module, "class_name": class_name, "config": config, "registered_name": None}


def stored_dtype(precision: str) -> str:
    """How the floats of a model are stored in files."""
    return precision if precision in ("float16", "bfloat16") else "float32"
