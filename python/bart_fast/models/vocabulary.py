"""The size of a model's vocabulary: changing it, and special ids that it does not reach."""

from __future__ import annotations  # Naming `np.random` would load it at import.

from collections.abc import Mapping
from typing import Any

import numpy as np

from bart_fast import _core
from bart_fast._random import draw_seed
from bart_fast._validation import check_positive_int

# Covariance of new rows, as a share of that of the old ones: transformers'.
_SPREAD = 1e-9
# Settings of a checkpoint that are token ids.
_ID_SETTINGS = (
    "bos_token_id",
    "eos_token_id",
    "pad_token_id",
    "decoder_start_token_id",
    "forced_bos_token_id",
    "forced_eos_token_id",
)


def resized(core: _core.Model, size: int, mean_resizing: bool, deviation: float) -> _core.Model:
    """A model with `size` token ids: the first rows of the token tables, and new ones.

    As in transformers, new rows are drawn around the mean of the old ones, or, without
    `mean_resizing`, like those of a new model; a stored bias of the logits grows by zeros.
    """
    model = core.with_vocabulary(size)
    old = dict(core.parameters())
    random = np.random.default_rng(draw_seed())
    for name, shape in model.parameters():
        if shape == old[name]:
            continue
        values = core.get_parameter(name)[:size]
        more = size - len(values)
        if len(shape) == 1:
            rows = np.zeros(more, np.float32)
        elif mean_resizing:
            rows = _around_mean(values, more, random)
        else:
            rows = random.normal(0.0, deviation, (more, shape[1])).astype(np.float32)
        model.set_parameters({name: np.concatenate([values, rows])})
        _keep_int8(core, model, name)
    return model


def _keep_int8(core: _core.Model, model: _core.Model, name: str) -> None:
    """Gives rows that both models have the very values in int8, and not those of their floats."""
    if (quantised := core.get_int8(name)) is None:
        return
    values, scales = model.get_int8(name)
    kept = min(len(scales), len(quantised[1]))
    values[:kept], scales[:kept] = quantised[0][:kept], quantised[1][:kept]
    model.set_int8(name, values, scales)


def _around_mean(values: np.ndarray, count: int, random: np.random.Generator) -> np.ndarray:
    """Rows with the mean of `values` [rows, width] and a small share of their covariance.

    Hewitt, 2021, "Initializing New Word Embeddings for Pretrained Language Models".
    """
    mean = values.mean(axis=0, dtype=np.float64)
    centred = (values - mean).astype(np.float32)
    variances, axes = np.linalg.eigh(centred.T @ centred / len(values))
    deviations = np.sqrt(_SPREAD * np.maximum(variances, 0.0))
    draws = random.standard_normal((count, len(mean)), dtype=np.float32) * deviations
    return (mean + draws @ axes.T).astype(np.float32)


def new_size(current: int, new_num_tokens: Any, pad_to_multiple_of: Any) -> int:
    """The size that `resize_token_embeddings` is asked for."""
    size = current
    if new_num_tokens is not None:
        size = check_positive_int("new_num_tokens", new_num_tokens)
    if pad_to_multiple_of is not None:
        multiple = check_positive_int("pad_to_multiple_of", pad_to_multiple_of)
        size = -(-size // multiple) * multiple
    return size


def check_special_ids(where: str, ids: Mapping[str, Any], vocabulary_size: int, hint: str) -> None:
    """Refuses special ids, by the names of their settings, that the model has no row for."""
    for name in _ID_SETTINGS:
        value = ids.get(name)
        for each in value if isinstance(value, list | tuple) else [value]:
            if isinstance(each, int) and each >= vocabulary_size:
                raise ValueError(
                    f"{where}: `{name}` is {each}, but the model has the ids 0 to "
                    f"{vocabulary_size - 1} (`vocabulary_size` is {vocabulary_size}).\nhint: {hint}"
                )
