"""Token ids for the engines: seeded, and the same for all of them."""

from dataclasses import dataclass
from typing import Any

import numpy as np

Rows = list[np.ndarray]
# Ids below are special.
FIRST_ID = 4


@dataclass(frozen=True)
class Pairs:
    """A training step.

    Attributes:
        batch: the arrays [rows, length], by keras-hub's names.
        labels: [rows, target], what the decoder should say.
        weights: [rows, target], 0 where a target is padding; `None` where none is.
    """

    batch: dict[str, np.ndarray]
    labels: np.ndarray
    weights: np.ndarray | None = None


def make_rows(vocabulary: int, lengths: tuple[int, ...]) -> Rows:
    """One source of each length: int64 [length]."""
    rng = np.random.default_rng(20)
    return [rng.integers(FIRST_ID, vocabulary, length) for length in lengths]


def make_pairs(vocabulary: int, rows: int, source: int, target: int) -> Pairs:
    """Pairs whose tokens are all real."""
    rng = np.random.default_rng(21)
    sources = rng.integers(FIRST_ID, vocabulary, (rows, source))
    targets = rng.integers(FIRST_ID, vocabulary, (rows, target + 1))
    batch = {**masked("encoder", sources), **masked("decoder", targets[:, :-1])}
    return Pairs(batch, targets[:, 1:])


def make_ragged_pairs(vocabulary: int, lengths: tuple[int, ...]) -> Pairs:
    """Pairs with so many real tokens in source and in target, padded to the longest."""
    pairs = make_pairs(vocabulary, len(lengths), max(lengths), max(lengths))
    real = np.arange(max(lengths)) < np.array(lengths)[:, None]
    masks = {f"{stack}_padding_mask": real for stack in ("encoder", "decoder")}
    return Pairs({**pairs.batch, **masks}, pairs.labels, real.astype(np.float32))


def masked(stack: str, ids: np.ndarray) -> dict[str, Any]:
    """Ids with the mask that makes all of them real, by keras-hub's names."""
    return {f"{stack}_token_ids": ids, f"{stack}_padding_mask": np.ones(ids.shape, bool)}


def padded(rows: Rows, padding: int) -> tuple[np.ndarray, np.ndarray]:
    """The rectangle that engines without ragged rows need: ids, and a mask, 1 on real ones."""
    longest = max(len(row) for row in rows)
    ids = np.full((len(rows), longest), padding, np.int64)
    mask = np.zeros((len(rows), longest), np.int64)
    for i, row in enumerate(rows):
        ids[i, : len(row)], mask[i, : len(row)] = row, 1
    return ids, mask
