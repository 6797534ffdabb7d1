"""The rules of optimizers on a card beside plain numpy."""

import ctypes

import numpy as np
import pytest
from cuda_kernels import normal


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
