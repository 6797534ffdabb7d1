"""The kernels for CUDA beside plain numpy: dropout and the rules of optimizers."""

import ctypes

import numpy as np
import pytest
from cuda_kernels import normal


class Draw(ctypes.Structure):
    _fields_ = [
        ("seed", ctypes.c_uint * 2),
        ("stream", ctypes.c_uint * 2),
        ("threshold", ctypes.c_uint),
        ("kept", ctypes.c_float),
    ]


def philox(key, counters):
    """Philox4x32-10 of `counters [n, 4]`: four words each (Salmon et al. 2011)."""
    counters = [counters[:, i].astype(np.uint64) for i in range(4)]
    key = [np.uint64(word) for word in key]
    low = np.uint64(0xFFFFFFFF)
    for _ in range(10):
        first, second = (
            np.uint64(0xD2511F53) * counters[0],
            np.uint64(0xCD9E8D57) * counters[2],
        )
        counters = [
            (second >> np.uint64(32)) ^ counters[1] ^ key[0],
            second & low,
            (first >> np.uint64(32)) ^ counters[3] ^ key[1],
            first & low,
        ]
        key = [(key[0] + np.uint64(0x9E3779B9)) & low, (key[1] + np.uint64(0xBB67AE85)) & low]
    return np.stack(counters, axis=1)


def drawn(draw, elements):
    """The factors of elements of a stream."""
    blocks = np.asarray(elements, np.uint64) // np.uint64(4)
    low = blocks & np.uint64(0xFFFFFFFF)
    stream = [np.full_like(low, word) for word in draw.stream]
    words = philox(draw.seed, np.stack([low, blocks >> np.uint64(32), *stream], axis=1))
    words = words[np.arange(len(words)), np.asarray(elements) % 4]
    return np.where(words >= draw.threshold, np.float32(draw.kept), np.float32(0))


def test_dropout(launch):
    draw = Draw((7, 1), (3, 2), int(0.3 * 2**32), 1 / 0.7)
    factors = np.full(1003, 7, np.float32)
    launch("dropout_factors", (1,), 256, 0, factors, ctypes.c_ulonglong(1003), draw)
    np.testing.assert_array_equal(factors, drawn(draw, range(1003)))
    assert 0.6 < (factors > 0).mean() < 0.8
    starts, heads, queries, keys = np.array([4, 90], np.uint32), 3, 2, 7
    factors = np.full((2, heads, queries, keys), 7, np.float32)
    grid = (queries, heads, 2)
    arguments = (factors, starts, heads, queries, keys, draw)
    launch("attention_dropout_factors", grid, 256, 0, *arguments)
    for s, start in enumerate(starts):
        for head in range(heads):
            for i in range(queries):
                first = (int(start + i) * heads + head) << 32
                expected = drawn(draw, [first + j for j in range(keys)])
                np.testing.assert_array_equal(factors[s, head, i], expected)


class Four(ctypes.Structure):
    _fields_ = [("each", ctypes.c_float * 4)]


RATE, DECAY, SCALE, LIMIT = 0.1, 0.01, 0.5, 0.75
# Constants of each rule, which of three arrays it keeps, and its formula in float64.
RULES = {
    "adam": ((0.2, 0.1, 0.01, 1e-3), (1, 1, 1)),
    "sgd": ((0.9, 1.0, 0.0, 0.0), (1, 0, 0)),
    "rmsprop": ((0.9, 0.1, 1e-3, 0.5), (1, 1, 1)),
    "lion": ((0.9, 0.99, 0.0, 0.0), (1, 0, 0)),
}


def step_of(name, w, g, a, b, c, constants):
    """The rule in plain numpy: the new value and state."""
    p, q, r, s = constants
    g = np.clip(g * SCALE, -LIMIT, LIMIT)
    w = w - w * DECAY
    if name == "adam":
        a, b = a + (g - a) * q, b + (g * g - b) * r
        c = np.maximum(c, b)
        return w - a * p / (np.sqrt(c) + s), a, b, c
    if name == "sgd":
        a = a * p - g * RATE
        return w + a * p - g * RATE, a, b, c
    if name == "rmsprop":
        c = p * c + q * g
        a = p * a + q * g * g
        b = s * b + RATE * g / np.sqrt(a - c * c + r)
        return w - b, a, b, c
    pull = a * p + g * (1 - p)
    return w - RATE * np.sign(pull), a * q + g * (1 - q), b, c


@pytest.mark.parametrize("name", RULES)
def test_rules_of_optimizers(launch, name):
    constants, kept = RULES[name]
    w, g = normal(1, 300), normal(2, 300)
    state = [np.abs(normal(3 + i, 300)) + 1 for i in range(3)]
    # So that variances stay positive.
    state[2] = state[2] * np.float32(0.1) if name == "rmsprop" else state[2]
    expected = step_of(name, *(x.astype(np.float64) for x in (w, g, *state)), constants)
    arrays = [array if wanted else None for array, wanted in zip(state, kept, strict=True)]
    common = Four((RATE, DECAY, SCALE, LIMIT))
    launch(name, (2,), 256, 0, w, g, *arrays, ctypes.c_ulonglong(300), common, Four(constants))
    for got, wanted in zip((w, *state), expected, strict=True):
        np.testing.assert_allclose(got, wanted, rtol=0, atol=1e-6)
