"""The kernels for CUDA beside plain numpy: attention of whole sequences."""

import math

import numpy as np
import pytest
from cuda_kernels import TYPES, kept, normal, widened

RAGGED = [(1, 1), (3, 17), (70, 130), (0, 4), (5, 0), (64, 64), (33, 50), (17, 79), (17, 200)]
NARROWEST, WIDEST = 32, 128
# What is multiplied, and what the rows are in.
ATTENTION_KINDS = [
    ("float32", "float32"),
    *((kind, rows) for kind in TYPES[1:] for rows in ("float32", kind)),
]


def attended(q, k, v, seen, scale, mean):
    """`softmax(q k^T * scale) v` of one head over the keys that are `seen [queries, keys]`."""
    q, k, v = (x.astype(np.float64) for x in (q, k, v))
    scores = np.where(seen, q @ k.T * scale, -np.inf)
    if scores.shape[1] == 0:
        return np.zeros((len(q), v.shape[1]))
    largest = scores.max(axis=1, keepdims=True)
    weights = np.exp(scores - np.where(np.isfinite(largest), largest, 0))
    blind = np.full_like(v[:1], 0) if not mean else v.mean(axis=0, keepdims=True)
    total = weights.sum(axis=1, keepdims=True)
    return np.where(total > 0, weights @ v / np.maximum(total, 1e-300), blind)


def tiles_of(lengths, causal):
    """Of each tile: first query and how many, keys likewise, the last key the first query sees."""
    tiles, first_query, first_key = [], 0, 0
    for queries, keys in lengths:
        for i in range(0, queries, 64):
            last_key = i + keys - queries if causal else keys
            tiles.append((first_query + i, min(64, queries - i), first_key, keys, last_key))
        first_query, first_key = first_query + queries, first_key + keys
    return np.array(tiles, np.int32)


# The width of heads, their number, whether attention is causal, which keys are hidden, and whether
# a query that sees none gets the mean of the values.
ATTENTIONS = [
    (8, 2, False, None, False),
    (16, 1, True, None, False),
    (24, 2, False, "some", True),
    (32, 1, True, "a sequence", True),
    (64, 2, True, "some", False),
    (64, 1, False, "a sequence", True),
    (96, 1, True, None, True),
    (128, 2, False, "a sequence", False),
    (128, 1, True, "some", True),
]


@pytest.mark.parametrize(("kind", "rows_kind"), ATTENTION_KINDS)
@pytest.mark.parametrize(("width", "heads", "causal", "hidden", "mean"), ATTENTIONS)
def test_attention_of_sequences(launch, kind, rows_kind, width, heads, causal, hidden, mean):
    query_rows, key_rows = np.sum(RAGGED, axis=0)
    shapes = ((query_rows, heads * width), (key_rows, heads * width), (key_rows, heads * width))
    (q, _), (k, _), (v, _) = stored = [
        kept(normal(i, *shape), rows_kind) for i, shape in enumerate(shapes)
    ]
    meant = [kept(x, kind)[1].reshape(len(x), heads, width) for _, x in stored]
    visible = np.ones(key_rows, bool)
    if hidden == "some":
        visible[::3] = visible[20:60] = False
    elif hidden == "a sequence":
        visible[18:148] = False
    # Bits, and words beyond them.
    bits = np.packbits(np.append(visible, np.zeros(-key_rows % 32 + 96, bool)), bitorder="little")
    tiles = tiles_of(RAGGED, causal)
    out = kept(np.full((query_rows, heads * width), 7, np.float32), rows_kind)[0]
    padded = max(NARROWEST, 1 << (width - 1).bit_length())
    if kind == "float32":
        queries = 64 if padded < WIDEST else 32
        shared = (queries + 32) * (padded + 4) + queries * 36
    else:
        queries, shared = 64, 64 * (padded + 8)
    scale = 1 / math.sqrt(width)
    name, grid = f"attention_{kind}_{rows_kind}_{padded}", (len(tiles), heads, 64 // queries)
    mask = None if hidden is None else bits.view(np.uint32)
    launch(name, grid, 128, shared, q, k, v, out, tiles, mask, heads, width, scale, int(mean))
    got = widened(out, rows_kind).reshape(query_rows, heads, width)
    steps = {"float32": 1e-5, "float16": 1e-3, "bfloat16": 1e-2}
    allowed = max(steps[kind], steps[rows_kind])
    first_query = first_key = 0
    for queries, keys in RAGGED:
        of, over = (
            slice(first_query, first_query + queries),
            slice(first_key, first_key + keys),
        )
        first_query, first_key = of.stop, over.stop
        seen = np.tile(visible[over], (queries, 1))
        if causal:
            seen &= np.arange(keys) <= np.arange(queries)[:, None] + keys - queries
        for head in range(heads):
            q, k, v = (x[rows, head] for x, rows in zip(meant, (of, over, over), strict=True))
            expected = attended(q, k, v, seen, scale, mean)
            np.testing.assert_allclose(got[of, head], expected, rtol=0, atol=allowed)
