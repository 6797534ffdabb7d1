"""The kernels for CUDA beside plain numpy: what training computes, and the way back."""

import ctypes
import math

import numpy as np
import pytest
from cuda_kernels import gelu, layer_norm, normal, philox


class Draw(ctypes.Structure):
    _fields_ = [
        ("seed", ctypes.c_uint * 2),
        ("stream", ctypes.c_uint * 2),
        ("threshold", ctypes.c_uint),
        ("kept", ctypes.c_float),
    ]


def drawn(draw, elements):
    """The factors of elements of a stream."""
    blocks = np.asarray(elements, np.uint64) // np.uint64(4)
    low = blocks & np.uint64(0xFFFFFFFF)
    stream = [np.full_like(low, word) for word in draw.stream]
    words = philox(draw.seed, np.stack([low, blocks >> np.uint64(32), *stream], axis=1))
    words = words[np.arange(len(words)), np.asarray(elements) % 4]
    return np.where(words >= draw.threshold, np.float32(draw.kept), np.float32(0))


DRAW = Draw((7, 1), (3, 2), int(0.3 * 2**32), 1 / 0.7)


def slopes(function, x, dout):
    """The slopes of `sum(dout * function(x))`, by differences, in float64."""
    x = x.astype(np.float64)
    found = np.zeros_like(x)
    for place in np.ndindex(x.shape):
        values = []
        for step in (1e-5, -1e-5):
            moved = x.copy()
            moved[place] += step
            values.append((dout * function(moved)).sum())
        found[place] = (values[0] - values[1]) / 2e-5
    return found


@pytest.mark.parametrize("count", [1003, 4])
def test_single_numbers(launch, count):
    x, dout, out = normal(1, count), normal(2, count), np.full(count, 7, np.float32)
    size, grid = ctypes.c_ulonglong(count), (math.ceil(count / 256),)
    launch("dropout", (1,), 256, 0, x, out, size, DRAW)
    factors = drawn(DRAW, range(count))
    np.testing.assert_array_equal(out, x * factors)
    assert count < 10 or 0.6 < (factors > 0).mean() < 0.8
    launch("gelu_forward", grid, 256, 0, x, out, size)
    np.testing.assert_allclose(out, gelu(x.astype(np.float64)), rtol=0, atol=1e-6)
    launch("gelu_backward", grid, 256, 0, x, dout, out, size)
    steps = [gelu(x.astype(np.float64) + step) for step in (1e-5, -1e-5)]
    np.testing.assert_allclose(out, dout * (steps[0] - steps[1]) / 2e-5, rtol=0, atol=1e-5)
    bias = normal(3, 1003 if count == 1003 else 2)
    launch("add_row", (count // len(bias),), 256, 0, x, bias, out, len(bias))
    np.testing.assert_array_equal(out, x + np.tile(bias, count // len(bias)))


@pytest.mark.parametrize("residual", [True, False])
def test_norms(launch, residual):
    rows, width, part = 11, 37, 4
    x, other, dout = (normal(seed, rows, width) for seed in (1, 2, 3))
    affine = normal(4, 2, width)
    summed = x + other if residual else x
    out, sums, statistics, dsums = (
        np.full(shape, 7, np.float32)
        for shape in ((rows, width), (rows, width), (rows, 2), (rows, width))
    )
    arguments = (x, other if residual else None, rows, width, affine, out)
    launch("norm_forward", (2,), 256, 0, *arguments, sums if residual else None, statistics)
    np.testing.assert_allclose(out, layer_norm(summed, *affine), rtol=0, atol=1e-5)
    if residual:
        np.testing.assert_array_equal(sums, summed)
    arguments = (dout, summed, statistics, rows, width, affine, dsums)
    launch("norm_backward", (2,), 256, 0, *arguments)
    expected = slopes(lambda x: layer_norm(x, *affine), summed, dout)
    np.testing.assert_allclose(dsums, expected, rtol=0, atol=1e-4)
    normed = layer_norm(summed, np.ones(width), np.zeros(width))
    for statistic, expected in (
        (statistics, np.stack([(dout * normed).sum(0), dout.sum(0)])),
        (None, dout.sum(0)),
    ):
        size, parts = expected.size, math.ceil(rows / part)
        partial, found = np.zeros((parts, size), np.float32), np.zeros(size, np.float32)
        arguments = (dout, summed, statistic, rows, width, part, partial)
        launch("sum_columns", (2, parts), 256, 0, *arguments)
        launch("sum_parts", (1,), 256, 0, partial, parts, size, found)
        np.testing.assert_allclose(found, expected.ravel(), rtol=0, atol=1e-5)


class Weights(ctypes.Structure):
    _fields_ = [
        ("sequences", ctypes.c_void_p),
        ("visible", ctypes.c_void_p),
        ("draw", Draw),
        *((name, ctypes.c_int) for name in ("heads", "queries", "keys")),
        ("scale", ctypes.c_float),
        *((name, ctypes.c_uint) for name in ("causal", "mean_of_all")),
    ]


@pytest.mark.parametrize("causal", [0, 1])
@pytest.mark.parametrize("hides", [False, True])
@pytest.mark.parametrize("drops", [False, True])
@pytest.mark.parametrize("mean_of_all", [0, 1])
def test_weights_of_attention(launch, causal, hides, drops, mean_of_all):
    """Sequences of unlike lengths, filled up; of one no key may be seen, and of one row the scores
    are no numbers."""
    heads, queries, keys, scale = 2, 4, 133, 0.3
    sequences = np.array([[5, 4, 133], [9, 2, 3], [11, 3, 0], [14, 1, 7]], np.uint32)
    visible = np.array(normal(5, 4, keys) > 0, np.uint32) if hides else None
    if hides:
        visible[3] = 0
    shape = (4, heads, queries, keys)
    scores, dweights = normal(1, *shape), normal(2, *shape)
    scores[0, 1, 3] = np.nan
    weights, dscores = np.full(shape, 7, np.float32), np.full(shape, 7, np.float32)
    log_sums = np.zeros(shape[:3], np.float32)
    draw = DRAW if drops else Draw((0, 0), (0, 0), 0, 1.0)
    pointer = None if visible is None else visible.ctypes.data
    everything = Weights(
        sequences.ctypes.data, pointer, draw, heads, queries, keys, scale, causal, mean_of_all
    )
    rows = 4 * heads * queries
    launch("weights_forward", (4,), 256, 0, scores, everything, rows, weights, log_sums)
    arguments = (scores, everything, rows, log_sums, dweights, dscores)
    launch("weights_backward", (4,), 256, 0, *arguments)
    for s, (start, own, seen) in enumerate(sequences.tolist()):
        for head, i in np.ndindex(heads, queries):
            sees = np.arange(keys) < seen
            sees &= not causal or np.arange(keys) <= i + seen - own
            sees &= True if visible is None else visible[s] > 0
            sees &= i < own
            first = ((start + i) * heads + head) << 32
            factors = drawn(draw, [first + j for j in range(keys)]) if drops else np.ones(keys)
            exact = scale * scores[s, head, i].astype(np.float64)
            exponentials = np.where(sees, np.exp(exact), 0)
            if sees.any():
                share = np.where(sees, exponentials / exponentials.sum(), 0)
                expected = share * factors
                along = factors * dweights[s, head, i]
                slope = scale * share * (along - (share * along).sum())
            else:
                expected = (np.arange(keys) < seen) * (mean_of_all and i < own) / max(seen, 1)
                slope = np.zeros(keys)
            np.testing.assert_allclose(weights[s, head, i], expected, rtol=0, atol=1e-6)
            np.testing.assert_allclose(dscores[s, head, i], slope, rtol=0, atol=1e-6)


def test_rows(launch):
    table, dout = normal(1, 5, 300), normal(2, 7, 300)
    ids = np.array([4, 0, 5, 4, 1, 99, 4], np.uint32)
    out, dtable = np.full((7, 300), 7, np.float32), np.full((5, 300), 7, np.float32)
    launch("select_rows", (7,), 256, 0, table, ids, 5, 300, out)
    np.testing.assert_array_equal(out, np.concatenate([table, np.zeros((1, 300))])[ids.clip(0, 5)])
    there = np.arange(7)[ids < 5]
    order = there[np.argsort(ids[there], kind="stable")].astype(np.uint32)
    ends = np.cumsum(np.bincount(ids[there], minlength=5)).astype(np.uint32)
    launch("add_rows", (5,), 256, 0, dout, ends, order, 300, dtable)
    expected = np.zeros((5, 300))
    np.add.at(expected, ids[there], dout[there])
    np.testing.assert_allclose(dtable, expected, rtol=0, atol=1e-6)


LOSS = np.dtype([("nll", "f4"), ("log_sum", "f4"), ("spread", "f4"), ("correct", np.uint32)])


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_cross_entropy(launch, smoothing):
    rows, classes = 4, 700
    logits = np.round(normal(1, rows, classes) * 4) / 4
    targets = np.array([3, 699, 0, 5], np.uint32)
    # The first of the largest, another of them, one that is nearly certain, and any.
    logits[0, [3, 8]], logits[1, [600, 699]], logits[2, 0] = 9, 9, 40
    scales, dloss = np.array([0.5, 2.0, 1.0, 0.0], np.float32), np.array([3.0], np.float32)
    losses, found = np.zeros(rows, LOSS), np.full((rows, classes), 7, np.float32)
    launch("cross_entropy_forward", (rows,), 256, 0, logits, classes, targets, losses)
    arguments = (logits, classes, targets, scales, smoothing, losses, dloss, found)
    launch("cross_entropy_backward", (rows,), 256, 0, *arguments)
    exact = logits.astype(np.float64)
    log_sums = np.log(np.exp(exact).sum(1))
    expected = {
        "nll": log_sums - exact[range(rows), targets],
        "log_sum": log_sums,
        "spread": log_sums - exact.mean(1),
    }
    for name, values in expected.items():
        np.testing.assert_allclose(losses[name], values, rtol=1e-6, atol=1e-5)
    assert losses["correct"].tolist() == [1, 0, 1, 0]
    share = np.exp(exact - log_sums[:, None])
    share[range(rows), targets] = np.expm1(exact[range(rows), targets] - log_sums) + smoothing
    share -= smoothing / classes
    np.testing.assert_allclose(found, 3 * scales[:, None] * share, rtol=1e-4, atol=1e-7)
