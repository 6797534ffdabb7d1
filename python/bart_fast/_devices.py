"""Where models can be, by name."""

import os
import re
import warnings
from pathlib import Path
from typing import Any, NamedTuple

from bart_fast import _core, _runtime
from bart_fast._validation import argument_error

_NAME = re.compile(r"cpu|portable|(cuda|metal)(:[0-9]+)?")
_VARIABLE = "BART_FAST_DEVICE"
# A card with less memory free than this share of it is in somebody's use.
_FREE = 0.5


class Device(NamedTuple):
    """A device that models can be on.

    Attributes:
        device: str. What `from_preset(device=...)` and `to()` take: "cpu", "cuda:0", ...
        name: str. What its maker calls it.
        memory: int. Its memory, in bytes.
        free: int. What is free of it now, in bytes.
    """

    device: str
    name: str
    memory: int
    free: int


def devices() -> list[Device]:
    """The devices of this machine that models can be on, the CPU first.

    Cards of NVIDIA's are among them where the package `bart-fast-cuda` is installed and a driver
    answers. `docs/devices.md` says more.
    """
    return [_cpu(), *(Device(*card) for card in _core.cards())]


def _cpu() -> Device:
    facts = {}
    for path in ("/proc/cpuinfo", "/proc/meminfo"):
        try:
            text = Path(path).read_text(encoding="utf-8")
        except OSError:
            continue
        parts = (line.partition(":") for line in text.splitlines())
        facts.update({key.strip(): value.strip() for key, _, value in parts})

    def memory(key: str) -> int:
        return 1024 * int(facts.get(key, "0 kB").split()[0])

    name = facts.get("model name") or os.uname().machine
    return Device("cpu", name, memory("MemTotal"), memory("MemAvailable"))


def check_device(device: Any) -> str:
    """The name of a device as the core takes it. `None` is what `BART_FAST_DEVICE` says, else a
    card that is there and free, else the CPU.

    Args:
        device: `None`, a name such as "cpu", "cuda" or "cuda:1", or a `torch.device`.

    Raises:
        ValueError: something else. Whether a card is there shows when a model goes to it.
    """
    if device is None:
        name = os.environ.get(_VARIABLE)
        return _checked(name, _VARIABLE, name) if name else _free_card() or "cpu"
    kind, index = getattr(device, "type", None), getattr(device, "index", None)
    if isinstance(kind, str):  # A torch.device.
        return _checked(kind if index is None else f"{kind}:{index}", "device", device)
    return _checked(device, "device", device)


def _free_card() -> str | None:
    cards = (Device(*card) for card in _core.cards())
    return next((card.device for card in cards if card.free >= _FREE * card.memory), None)


def _checked(name: Any, argument: str, received: Any) -> str:
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        wanted = 'must be `None`, "cpu", "cuda" or "metal", or such as "cuda:1"'
        raise argument_error(argument, wanted, received)
    if name == "portable":
        # Threads of the tensor library's own would be missing in a child that is forked.
        os.environ["RAYON_NUM_THREADS"] = "1"
    return name


def placed(core: Any, device: Any) -> Any:
    """A new model of the core on the device that was asked for. Where none was, and the free card
    cannot be used, it is on the CPU, and a warning says why.

    Raises:
        ValueError: the device that was asked for cannot be used.
        MemoryError: it has no room for the model.
    """
    name = check_device(device)
    asked = device is not None or os.environ.get(_VARIABLE)
    try:
        return moved(core, name)
    except (ValueError, MemoryError) as error:
        if asked:
            raise
        why = str(error).split("\n", 1)[0]
        hint = 'hint: device="cpu", or BART_FAST_DEVICE=cpu, does not try'
        warnings.warn(f"the model is on the CPU: {why}\n{hint}", RuntimeWarning, stacklevel=4)
        return core


def moved(core: Any, device: str) -> Any:
    """A model of the core on a device: the same one if it is there."""
    if device in (core.device, core.device.removesuffix(":0")):
        return core
    if device.startswith("cuda") and _runtime.cuda_problem is not None:
        raise ValueError(
            f"`device`: {device!r} cannot be used: {_runtime.cuda_problem}\n"
            'hint: device="cpu" is always there'
        )
    return core.to_device(device)
