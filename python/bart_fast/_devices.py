"""Where models can be, by name."""

import os
import re
from typing import Any

from bart_fast import _runtime
from bart_fast._validation import argument_error

_NAME = re.compile(r"cpu|portable|(cuda|metal)(:[0-9]+)?")
_VARIABLE = "BART_FAST_DEVICE"


def check_device(device: Any) -> str:
    """The name of a device as the core takes it; `None` is what `BART_FAST_DEVICE` says, else the
    CPU.

    Args:
        device: `None`, a name such as "cpu", "cuda" or "cuda:1", or a `torch.device`.

    Raises:
        ValueError: something else. Whether a card is there shows when a model goes to it.
    """
    if device is None:
        name = os.environ.get(_VARIABLE) or "cpu"
        return _checked(name, _VARIABLE, name)
    kind, index = getattr(device, "type", None), getattr(device, "index", None)
    if isinstance(kind, str):  # A torch.device.
        return _checked(kind if index is None else f"{kind}:{index}", "device", device)
    return _checked(device, "device", device)


def _checked(name: Any, argument: str, received: Any) -> str:
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        wanted = 'must be `None`, "cpu", "cuda" or "metal", or such as "cuda:1"'
        raise argument_error(argument, wanted, received)
    if name == "portable":
        # Threads of the tensor library's own would be missing in a child that is forked.
        os.environ["RAYON_NUM_THREADS"] = "1"
    return name


def moved(core: Any, device: str) -> Any:
    """A model of the core on a device: the same one if it is there."""
    if core.device == device:
        return core
    if device.startswith("cuda") and _runtime.cuda_problem is not None:
        raise ValueError(
            f"`device`: {device!r} cannot be used: {_runtime.cuda_problem}\n"
            'hint: device="cpu" is always there'
        )
    return core.to_device(device)
