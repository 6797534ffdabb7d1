"""All of a training run in one file, so that a run that goes on from it ends with the same bits.

It holds weights, additions of LoRA, the optimizer with its schedule's step, the place in the data,
what metrics and callbacks have gathered, and the states of random numbers.
"""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from bart_fast import _core, _random
from bart_fast._lora import Lora
from bart_fast._portable import from_portable, to_portable
from bart_fast.presets.atomic import staged_file

_VERSION = 1
_STATE = "state"  # The JSON among the arrays.


@dataclass(frozen=True)
class Place:
    """Where a run stands.

    Attributes:
        epoch: int. The epoch that goes on or begins, counted from 0.
        step: int. Its batches that were trained on.
        drawn: int. Batches that were taken from the data in all epochs.
    """

    epoch: int = 0
    step: int = 0
    drawn: int = 0


@dataclass(frozen=True)
class Run:
    """What a checkpoint is of, so that another run does not go on with it by mistake.

    Attributes:
        examples: int or None. Examples in memory; None for batches that come one by one.
        batch_size: int or None.
        steps: int or None. Batches of an epoch, where it is known.
        shuffle: bool.
    """

    examples: int | None
    batch_size: int | None
    steps: int | None
    shuffle: bool


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint that was read.

    Attributes:
        place: where the run goes on.
        arrays: dict of str to array.
        state: dict. All else.
    """

    place: Place
    arrays: dict[str, np.ndarray]
    state: dict[str, Any]


def save(
    path: Path, model: Any, callbacks: list, place: Place, run: Run, metrics: list | None = None
) -> None:
    """Writes a checkpoint; the file appears whole or not at all. `metrics` are the states of the
    model's, where they count something else at the moment.

    Raises:
        OSError: the disk is full or cannot be written to. An earlier file is as it was.
    """
    arrays: dict[str, np.ndarray] = {}
    core = model.backbone._model
    for index, part in enumerate(_parts(model)):
        for name, _ in part.parameters():
            _keep_weight(arrays, f"weights/{index}/{name}", part, name)
    for name in _core.Adapters(core).names()[0]:
        for each, values in Lora.of(core, name).values.items():
            arrays[f"lora/{name}/{each}"] = values
    for name, values in model.optimizer.state().items():
        arrays[f"optimizer/{name}"] = np.asarray(values)
    state = {
        "version": _VERSION,
        "place": asdict(place),
        "run": asdict(run),
        "seed": model._seed,
        "source": _random.state(),
        "learning_rate": _constant_rate(model.optimizer),
        "lora": _core.Adapters(core).names()[1],
        "metrics": to_portable(
            [vars(each) for each in model.metrics] if metrics is None else metrics,
            arrays,
            "metrics",
        ),
        "callbacks": [
            [type(callback).__name__, to_portable(callback.get_state(), arrays, f"callbacks/{i}")]
            for i, callback in enumerate(callbacks)
        ],
    }
    arrays[_STATE] = np.frombuffer(json.dumps(state).encode(), np.uint8)
    with staged_file(path) as file, file.open("wb") as stream:
        np.savez(stream, **arrays)


def load(path: Path) -> Checkpoint:
    """Reads a checkpoint.

    Raises:
        ValueError: the file is damaged, or of another version.
        OSError: it cannot be read.
    """
    from zipfile import BadZipFile  # What numpy's files are; imported by it as well.

    try:
        with path.open("rb") as stream, np.load(stream, allow_pickle=False) as file:
            arrays = {name: file[name] for name in file.files}
        state = json.loads(arrays.pop(_STATE).tobytes())
        version, place = state["version"], Place(**state["place"])
    except (ValueError, KeyError, TypeError, EOFError, BadZipFile) as error:
        raise ValueError(f"{path} is no checkpoint, or a damaged one: {error}") from None
    if version != _VERSION:
        raise ValueError(f"{path} is a checkpoint of version {version}, expected {_VERSION}")
    return Checkpoint(place, arrays, state)


def check_run(path: Path, checkpoint: Checkpoint, run: Run) -> None:
    """Refuses a checkpoint of a run on other data.

    Raises:
        ValueError: the message says in what they differ.
    """
    for name, value in asdict(run).items():
        was = checkpoint.state["run"].get(name)
        if was != value:
            raise ValueError(
                f"`{path.parent}`: its checkpoint is of another run, in which `{name}` was {was}; "
                f"here it is {value}\nhint: call `fit()` as before, or give another directory"
            )


def restore(path: Path, checkpoint: Checkpoint, model: Any) -> None:
    """Puts weights, optimizer and random numbers back; if they do not fit, nothing is changed.

    Raises:
        ValueError: the checkpoint is of another model.
    """
    arrays, state = checkpoint.arrays, checkpoint.state
    core = model.backbone._model
    parts = _parts(model)
    for index, part in enumerate(parts):
        for name, shape in part.parameters():
            found = arrays.get(f"weights/{index}/{name}")
            if found is None or list(found.shape) != list(shape):
                raise ValueError(
                    f"`{path.parent}`: its checkpoint is of another model: `{name}` has the shape "
                    f"{None if found is None else found.shape}, expected {tuple(shape)}"
                )
    loras = {key.split("/")[1] for key in arrays if key.startswith("lora/")}
    known = set(_core.Adapters(core).names()[0])
    if loras - known:
        raise ValueError(
            f"`{path.parent}`: its checkpoint has additions of LoRA: {sorted(loras - known)}\n"
            "hint: call `enable_lora()` before `fit()`, as before"
        )
    model.optimizer.set_state(_below(arrays, "optimizer/"))
    for index, part in enumerate(parts):
        for name, _ in part.parameters():
            _put_weight(arrays, f"weights/{index}/{name}", part, name)
    adapters = _core.Adapters(core)
    for name in sorted(loras):
        adapters.set(name, _below(arrays, f"lora/{name}/"))
    adapters.choose(state["lora"])
    restore_rate(checkpoint, model.optimizer)
    model._seed = state["seed"]
    _random.set_state(state["source"])


def restore_rate(checkpoint: Checkpoint, optimizer: Any) -> None:
    """Sets the learning rate, if it is none that follows from the number of steps."""
    if checkpoint.state["learning_rate"] is not None:
        optimizer.learning_rate = checkpoint.state["learning_rate"]


def restore_callbacks(checkpoint: Checkpoint, callbacks: list) -> None:
    """Gives callbacks back what those of the same class and place had gathered."""
    kept = checkpoint.state["callbacks"]
    for callback, (kind, state) in zip(callbacks, kept, strict=False):
        if type(callback).__name__ == kind:
            callback.set_state(from_portable(state, checkpoint.arrays))


def restore_metrics(checkpoint: Checkpoint, metrics: list) -> None:
    """Gives metrics back what they had gathered of the epoch."""
    for metric, state in zip(metrics, checkpoint.state["metrics"], strict=False):
        metric.set_state(from_portable(state, checkpoint.arrays))


def _parts(model: Any) -> list:
    """What holds weights: the core's model, and a classifier's head."""
    head = getattr(model, "_core_head", None)
    return [model.backbone._model] + ([] if head is None else [head])


def _keep_weight(arrays: dict, key: str, part: Any, name: str) -> None:
    quantized = part.get_int8(name, True) if hasattr(part, "get_int8") else None
    if quantized is not None:
        arrays[key], arrays[f"{key}/scale"] = quantized
    elif hasattr(part, "get_int8"):
        arrays[key] = part.get_parameter(name, True)
    else:
        arrays[key] = part.get_parameter(name)


def _put_weight(arrays: dict, key: str, part: Any, name: str) -> None:
    if f"{key}/scale" in arrays:
        part.set_int8(name, arrays[key], arrays[f"{key}/scale"])
    else:
        part.set_parameters({name: arrays[key]})


def _below(arrays: Mapping[str, np.ndarray], prefix: str) -> dict[str, np.ndarray]:
    return {k.removeprefix(prefix): v for k, v in arrays.items() if k.startswith(prefix)}


def _constant_rate(optimizer: Any) -> float | None:
    """A learning rate that callbacks may have changed; schedules follow from the steps."""
    rate = optimizer._learning_rate
    return rate if isinstance(rate, float) else None
