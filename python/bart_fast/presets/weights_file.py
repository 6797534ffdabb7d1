"""One file with the weights of a model and nothing else, as `save_weights()` writes it."""

from __future__ import annotations

import dataclasses
import json
import os
import tempfile
from pathlib import Path

import numpy as np

from bart_fast import _dtypes

from . import classifier, keras_weights
from .atomic import staged_file
from .keras_format import dimensions
from .keras_names import Group, groups

_KERAS, _SAFETENSORS = ".weights.h5", ".safetensors"

# Where keras-hub's model keeps its backbone, and what else is in its files: the state of the
# optimizer, a few numbers for its metrics.
_BACKBONE = "layers/bart_backbone"
_PASSED_OVER = ("optimizer/", "metrics/", "seed_generators/")

# The inputs are layers of the model as well as of the backbone; Keras writes them once, in the
# order of their names.
_INPUTS = (
    "decoder_padding_mask",
    "decoder_token_ids",
    "encoder_padding_mask",
    "encoder_token_ids",
)


def save(
    path: str | os.PathLike,
    core_model,
    *,
    backbone_name: str,
    task_name: str | None = None,
    core_head=None,
    overwrite: bool = True,
) -> None:
    """Write every parameter of `core_model` to `path`; the file appears whole or not at all.

    Args:
        path: str or path that ends in `.weights.h5` or `.safetensors`.
        core_model: bart_fast._core.Model.
        backbone_name: str. What the file calls the backbone.
        task_name: str. What it calls the model around it; `None` for a backbone by itself.
        core_head: bart_fast._core.ClassificationHead. The head of a classifier.
        overwrite: bool. Whether a file that is there may be replaced.

    Raises:
        ValueError: another ending, or Keras cannot describe the model.
        FileExistsError: there is a file, and it is not to be replaced.
        OSError: the file cannot be written.
    """
    ending = _ending(path)
    if not overwrite and Path(path).expanduser().exists():
        raise FileExistsError(f"`filepath` exists, and `overwrite` is False: {os.fspath(path)}.")
    dtype = _dtypes.stored_dtype(core_model.dtype)
    if ending == _SAFETENSORS:
        with staged_file(path) as file:
            stored = "int8" if core_model.dtype == "int8" else dtype
            core_model.save_safetensors(str(file), stored, *_given(core_head))
        return
    quantized = core_model.dtype == "int8"
    table = _keras_groups(_keras_sizes(core_model), quantized, task_name, backbone_name)
    if core_head is not None:
        table += classifier.groups_of(core_head)
        core_model = _Joined(core_model, core_head)
    with staged_file(path) as file, tempfile.TemporaryDirectory(dir=file.parent) as folder:
        root = task_name or backbone_name
        keras_weights.save(
            Path(folder), table, core_model, name=root, dtype=dtype, max_shard_size=None
        )
        (Path(folder) / keras_weights.WEIGHTS_FILE).rename(file)


def load(path: str | os.PathLike, core_model, core_head=None) -> None:
    """Set every parameter of `core_model`, and of `core_head` if it is given, from a file that
    `save` or keras-hub wrote, of a backbone or of a model.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: another ending, a damaged file, or one of another model.
    """
    ending, file = _ending(path), Path(path).expanduser()
    if not file.is_file():
        raise FileNotFoundError(f"`filepath`: there is no file {file}.")
    if ending == _SAFETENSORS:
        core_model.load_checkpoint([str(file)], *_given(core_head))
        return
    config = json.loads(core_model.config)
    # Keras' layout has no bias of the logits: that means zeros.
    sizes = dimensions({**config, "final_logits_bias": False})
    inside = keras_weights.has_group(file, _BACKBONE)

    def place(group: Group) -> Group:
        return _moved(group, _BACKBONE) if inside else group

    quantized = keras_weights.holds_int8(file, [place(group) for group in groups(sizes)])
    table = [place(group) for group in groups(sizes, quantized=quantized)]
    joined = core_model
    if core_head is not None:
        table += classifier.groups_of(core_head)
        joined = _Joined(core_model, core_head)
    keras_weights.load([file], table, joined, passed_over=_PASSED_OVER)
    if config.get("final_logits_bias"):
        zeros = np.zeros(config["vocab_size"], np.float32)
        core_model.set_parameters({"final_logits_bias": zeros})


class _Joined:
    """A model and its head as one holder of parameters."""

    def __init__(self, core_model, core_head):
        self._parts = (core_model, core_head)
        # Only the model can be quantised.
        self.dtype = core_model.dtype
        self.get_int8, self.set_int8 = core_model.get_int8, core_model.set_int8

    def parameters(self) -> list:
        return [each for part in self._parts for each in part.parameters()]

    def get_parameter(self, name: str) -> np.ndarray:
        return self._of(name).get_parameter(name)

    def set_parameters(self, values: dict) -> None:
        for name, value in values.items():
            self._of(name).set_parameters({name: value})

    def fill(self, files: list, plan: list) -> None:
        for part in self._parts:
            part.fill(files, [entry for entry in plan if self._of(entry[0]) is part])

    def _of(self, name: str):
        return self._parts[name.startswith("classification_head.")]


def _given(core_head) -> tuple:
    return () if core_head is None else (core_head,)


def _ending(path: str | os.PathLike) -> str:
    name = os.fspath(path)
    for ending in (_KERAS, _SAFETENSORS):
        if isinstance(name, str) and name.endswith(ending):
            return ending
    raise ValueError(
        f"`filepath` must end in `{_KERAS}` or `{_SAFETENSORS}`. Received: {name!r}.\n"
        "hint: `save_to_preset(directory)` writes everything that makes a model"
    )


def _keras_sizes(core_model):
    config = json.loads(core_model.config)
    if config.get("final_logits_bias"):
        config["final_logits_bias"] = bool(core_model.get_parameter("final_logits_bias").any())
    try:
        return dimensions(config)
    except ValueError as error:
        problem = str(error).partition("\nhint:")[0]
        raise ValueError(
            f"{problem}\nhint: save to a file that ends in `{_SAFETENSORS}`."
        ) from None


def _keras_groups(sizes, quantized: bool, task_name: str | None, backbone_name: str) -> list[Group]:
    """What the file has, in Keras' order."""
    table = groups(sizes, quantized=quantized)
    if task_name is None:
        return table
    inner = [group for group in table if "input_layer" not in group.path]
    numbered = [("" if i == 0 else f"_{i}", name) for i, name in enumerate(_INPUTS)]
    return [
        Group("", task_name),
        *(Group(f"layers/input_layer{suffix}", name) for suffix, name in numbered),
        *(
            dataclasses.replace(_moved(g, _BACKBONE), name=g.name if g.path else backbone_name)
            for g in inner
        ),
    ]


def _moved(group: Group, folder: str) -> Group:
    """The same group, inside another."""
    older = group.older_path and f"{folder}/{group.older_path}"
    return dataclasses.replace(group, path=f"{folder}/{group.path}".rstrip("/"), older_path=older)
