"""The kernels for CUDA beside plain numpy: products, norms, caches, and the choice of the best."""

import ctypes
import math

import numpy as np
import pytest
from cuda_kernels import (
    MIXED,
    TYPES,
    Layer,
    Layers,
    gelu,
    kept,
    layer_norm,
    normal,
    rounded,
    widened,
)

# How many rows there are, and of them and of the outputs in a tile.
TILES = [(1, 1, 1), (2, 2, 2), (3, 4, 4), (11, 8, 4)]
COUNTS = (37, 5, 64)


def check_products(run, kind, seen):
    """Three layers beside numpy: `run(layers, with GELU)` multiplies what `seen` means."""
    rows, inputs = seen.shape
    weights = [kept(normal(2 + n, n, inputs), kind) for n in COUNTS]
    biases = [normal(3, COUNTS[0]), None, normal(4, COUNTS[2])]
    for with_gelu in (0, 1):
        answers = [np.full((rows, n), 7, np.float32) for n in COUNTS]
        layers = Layers()
        for i, n in enumerate(COUNTS):
            bias = None if biases[i] is None else biases[i].ctypes.data
            layers.each[i] = Layer(weights[i][0].ctypes.data, None, bias, answers[i].ctypes.data, n)
        run(layers, with_gelu)
        for answer, (_, weight), bias in zip(answers, weights, biases, strict=True):
            expected = seen.astype(np.float64) @ weight.T.astype(np.float64)
            expected = expected if bias is None else expected + bias
            expected = gelu(expected) if with_gelu else expected
            np.testing.assert_allclose(answer, expected, rtol=0, atol=2e-4)


@pytest.mark.parametrize("kind", TYPES + MIXED)
@pytest.mark.parametrize(("rows", "tile", "outputs"), TILES)
def test_products_of_few_rows(launch, kind, rows, tile, outputs):
    x = normal(1, rows, 776)
    grid = (math.ceil(max(COUNTS) / (4 * outputs)), 3, math.ceil(rows / tile))

    def run(layers, with_gelu):
        launch(f"linear_{kind}_{tile}", grid, 128, 0, x, *x.shape, layers, with_gelu)

    check_products(run, kind, rounded(x)[1] if kind.endswith("bfloat16") else x)


@pytest.mark.parametrize("kind", TYPES[1:])
@pytest.mark.parametrize(("rows", "inputs"), [(5, 32), (64, 288), (75, 800)])
def test_products_of_dozens_of_rows(launch, kind, rows, inputs):
    x = normal(1, rows, inputs)
    grid = (math.ceil(max(COUNTS) / 16), 3, math.ceil(rows / 64))

    def run(layers, with_gelu):
        launch(f"linear_tile_{kind}", grid, 256, 8 * 1024, x, *x.shape, layers, with_gelu)

    check_products(run, kind, kept(x, kind)[1])


def quantized(x):
    scales = 127 / (np.abs(x).max(axis=-1, keepdims=True) + np.float32(1e-7))
    return np.round(x * scales).astype(np.int8), scales.astype(np.float32)


@pytest.mark.parametrize(("rows", "tile", "outputs"), TILES)
def test_products_in_int8(launch, rows, tile, outputs):
    inputs = 784
    x = normal(1, rows, inputs)
    values, scales = np.full((rows, inputs), 7, np.int8), np.full((rows, 1), 7, np.float32)
    launch("quantize_rows", (rows,), 256, 0, x, inputs, values, scales)
    np.testing.assert_allclose(scales, quantized(x)[1], rtol=2e-7)
    assert np.abs(values.astype(int) - quantized(x)[0]).max() <= 1
    weights = [quantized(normal(2 + n, n, inputs)) for n in COUNTS]
    stored = [(q.astype(np.int16) + 128).astype(np.uint8) for q, _ in weights]
    biases, answers = (
        [normal(3, n) for n in COUNTS],
        [np.empty((rows, n), np.float32) for n in COUNTS],
    )
    layers = Layers()
    for i, n in enumerate(COUNTS):
        parts = (stored[i], weights[i][1], biases[i], answers[i])
        layers.each[i] = Layer(*(part.ctypes.data for part in parts), n)
    for with_gelu in (0, 1):
        grid = (math.ceil(max(COUNTS) / (4 * outputs)), 3, math.ceil(rows / tile))
        launch(f"linear_int8_{tile}", grid, 128, 0, values, scales, rows, inputs, layers, with_gelu)
        for answer, (q, divisor), bias in zip(answers, weights, biases, strict=True):
            sums = values.astype(np.int64) @ q.T.astype(np.int64)
            expected = sums / (scales.astype(np.float64) * divisor[:, 0]) + bias
            expected = gelu(expected) if with_gelu else expected
            np.testing.assert_allclose(answer, expected, rtol=0, atol=2e-5)
    x[0, 5] = np.nan
    launch("quantize_rows", (rows,), 256, 0, x, inputs, values, scales)
    assert np.isnan(scales[0]) and np.isfinite(scales[1:]).all()
    x[0, 5] = np.inf
    launch("quantize_rows", (rows,), 256, 0, x, inputs, values, scales)
    assert np.isnan(scales[0])


@pytest.mark.parametrize("kind", TYPES)
def test_embeddings_and_norms(launch, kind):
    width = 40
    shared = width + 32
    table, meant = kept(normal(1, 9, width), kind)
    positions, gamma, beta = normal(2, 7, width), normal(3, width), normal(4, width)
    tokens, places = np.array([3, 8, 0], np.uint32), np.array([1, 6, 2], np.uint32)
    out = np.empty((3, width), np.float32)
    launch(f"embed_{kind}", (3,), 64, 0, table, positions, tokens, places, 2.0, width, out)
    expected = meant[tokens] * 2 + positions[places]
    np.testing.assert_allclose(out, expected, rtol=0, atol=1e-6)
    values, scales = quantized(normal(1, 9, width))
    stored = (values.astype(np.int16) + 128).astype(np.uint8)
    arguments = (stored, scales, positions, tokens, places, 2.0, width, out)
    launch("embed_int8", (3,), 64, 0, *arguments)
    expected = (values / scales)[tokens] * 2 + positions[places]
    np.testing.assert_allclose(out, expected, rtol=0, atol=1e-6)
    x, residual = normal(5, 3, width), normal(6, 3, width)
    for other, total in ((residual, x + residual), (None, x)):
        launch("add_norm", (3,), 256, shared, x, other, width, gamma, beta, out)
        np.testing.assert_allclose(out, layer_norm(total, gamma, beta), rtol=0, atol=5e-6)


@pytest.mark.parametrize("width", [8, 320, 1024])
def test_norms_of_many_rows(launch, width):
    rows = 11
    gamma, beta = normal(3, width), normal(4, width)
    for kind, other_kind in (TYPES[::-2], TYPES[:1] * 2, TYPES[2:] * 2):
        x, meant = kept(normal(5, rows, width), kind)
        residual, other = kept(normal(6, rows, width), other_kind)
        out = np.zeros_like(x)
        for given, total in ((residual, meant + other), (None, meant)):
            arguments = (x, given, rows, width, gamma, beta, out)
            launch(f"add_norm_many_{kind}_{other_kind}", (2,), 256, 0, *arguments)
            expected, found = layer_norm(total, gamma, beta), widened(out, kind)
            allowed = 5e-6 if kind == "float32" else 2**-8 * np.abs(expected).max()
            np.testing.assert_allclose(found, expected, rtol=0, atol=allowed)


@pytest.mark.parametrize("kind", TYPES)
def test_caches(launch, kind):
    heads, head_width, capacity, slots = 3, 16, 50, 4
    width = heads * head_width
    rows = [(2, length) for length in range(1, 38)] + [(0, 1), (0, 2), (3, 1)]
    k, v = normal(1, len(rows), width), normal(2, len(rows), width)
    keys, values = (np.zeros_like(kept(np.zeros((slots, capacity, width), np.float32), kind)[0])
                    for _ in range(2))  # fmt: skip
    places = np.array(rows, np.uint32)
    origins = np.full((capacity, slots), 9, np.uint32)
    arguments = (k, v, places, capacity, width, keys, values, origins, slots)
    launch(f"store_{kind}", (len(rows),), 64, 0, *arguments)
    assert (origins[:37, 2] == 2).all() and (origins[:2, 0] == 0).all() and origins[0, 3] == 3
    assert (origins == 9).sum() == origins.size - len(rows)
    meant = np.zeros((2, slots, capacity, width), np.float32)
    for i, (slot, length) in enumerate(rows):
        meant[:, slot, length - 1] = kept(k[i], kind)[1], kept(v[i], kind)[1]

    seen = [(2, 37), (0, 2), (3, 1), (2, 5), (1, 0)]
    q, out = normal(3, len(seen), width), np.full((len(seen), width), 7, np.float32)
    shared = head_width + capacity + 32 + 128
    seen_rows = np.array(seen, np.uint32)
    # The second entry of slot 2 is that of slot 0; all others are where their slots are.
    mixed = np.tile(np.arange(slots, dtype=np.uint32), (capacity, 1))
    mixed[1, 2] = 0
    for table in (None, mixed):
        arguments = (q, keys, values, seen_rows, capacity, heads, head_width, 0.25, table, slots)
        launch(f"attend_{kind}", (len(seen), heads), 128, shared, *arguments, out)
        for i, (slot, length) in enumerate(seen):
            of = np.full(length, slot) if table is None else table[:length, slot]
            entries = np.arange(length)
            for head in range(heads):
                part = slice(head * head_width, (head + 1) * head_width)
                key, value = meant[:, of, entries, part]
                weights = np.exp(key @ q[i, part] * 0.25)
                expected = weights @ value / max(weights.sum(), 1e-30)
                np.testing.assert_allclose(out[i, part], expected, rtol=0, atol=5e-6)


# Queries and keys of sequences laid end to end: around tiles of 64 queries and of 32 and 64 keys.
@pytest.mark.parametrize(
    ("stride", "limit", "count"), [(1000, 1000, 5), (1003, 777, 1), (50, 50, 16), (5000, 4999, 8)]
)
def test_best_scores(launch, stride, limit, count):
    # Eighths, so that there are equals; and a row in which most are ruled out.
    scores = np.round(normal(1, 3, stride) * 8) / 8
    scores[1, 1:] = np.where(np.arange(1, stride) % 40 == 0, scores[1, 1:], -np.inf)
    part = max(64, math.ceil(limit / 16))
    parts = math.ceil(limit / part)
    candidates = np.zeros((3, parts, count, 2), np.float32)
    sums = np.zeros((3, parts, 2), np.float32)
    best, log_sums = np.zeros((3, count, 2), np.float32), np.zeros(3, np.float32)

    def run():
        arguments = (scores, stride, limit, part, count, candidates, sums)
        launch("best_of_part", (parts, 3), 128, part + 64, *arguments)
        shared = 2 * parts * count + 64
        arguments = (candidates, sums, parts, count, best, log_sums)
        launch("best_of_row", (3,), 128, shared, *arguments)

    run()
    for row in range(3):
        real = scores[row, :limit]
        order = np.lexsort((np.arange(limit), -real))[:count]
        there = np.isfinite(real[order])
        np.testing.assert_array_equal(best[row, there, 1].view(np.uint32), order[there])
        np.testing.assert_array_equal(best[row, there, 0], real[order[there]])
        expected = np.log(np.exp(real.astype(np.float64)).sum())
        np.testing.assert_allclose(log_sums[row], expected, rtol=0, atol=1e-5)
    scores[0, :limit] = -np.inf
    for value in (np.nan, np.inf):
        scores[2, 3] = value
        run()
        assert np.isnan(log_sums[2]) and log_sums[0] == -np.inf and np.isfinite(log_sums[1])


def test_passes_over_single_numbers(launch):
    x = normal(1, 1000)
    to, count = normal(2, 1000), ctypes.c_ulonglong(1000)
    expected = 0.25 * to + 0.5 * x
    launch("blend", (4,), 256, 0, to, x, count, 0.25, 0.5)
    np.testing.assert_allclose(to, expected, rtol=0, atol=1e-6)
    sums = np.zeros(3)
    launch("sum_of_squares", (3,), 256, 0, x, count, sums)
    np.testing.assert_allclose(sums.sum(), (x.astype(np.float64) ** 2).sum(), rtol=1e-12)
    for kind in ("float16", "bfloat16"):
        narrow = np.zeros_like(kept(x, kind)[0])
        launch(f"narrow_{kind}", (4,), 256, 0, x, narrow, 1000)
        np.testing.assert_array_equal(narrow, kept(x, kind)[0])
        y = np.zeros_like(x)
        launch(f"round_{kind}", (4,), 256, 0, x, y, 1000)
        np.testing.assert_array_equal(y, kept(x, kind)[1])
    rows, bias = x.reshape(10, 100), normal(3, 100)
    for with_gelu in (0, 1):
        y = rows.copy()
        launch("add_bias", (10,), 64, 0, y, bias, 100, with_gelu)
        expected = gelu(rows + bias) if with_gelu else rows + bias
        np.testing.assert_allclose(y, expected, rtol=0, atol=1e-6)
    # Of numbers of 16 bits, eight at a time.
    rows, meant = kept(3 * normal(4, 12, 80), "bfloat16")
    wide, bias = np.zeros((12, 80), np.float32), normal(5, 80)
    launch("widen_bfloat16", (4,), 256, 0, rows, wide, 960)
    np.testing.assert_array_equal(wide, meant)
    for with_gelu in (0, 1):
        y = rows.copy()
        launch("add_bias_bfloat16", (1,), 256, 0, y, bias, 80, 120, with_gelu)
        expected = gelu(meant + bias) if with_gelu else meant + bias
        np.testing.assert_allclose(widened(y, "bfloat16"), expected, rtol=2**-8, atol=1e-6)
