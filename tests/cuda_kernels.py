"""Kernels for CUDA without a card: their sources are compiled for the CPU, where
`emulated_card/emulate.h` lets the threads of a block take turns."""

import ctypes
import math
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest

sys.path.append(str(Path(__file__).parent / "emulated_card"))
import build

TYPES = ("float32", "float16", "bfloat16")
MIXED = ("mixed_float16", "mixed_bfloat16")


class Size(ctypes.Structure):
    _fields_ = [(name, ctypes.c_uint) for name in "xyz"]


class Layer(ctypes.Structure):
    _fields_ = [
        *((name, ctypes.c_void_p) for name in ("weight", "scales", "bias", "out")),
        ("outputs", ctypes.c_int),
    ]


class Layers(ctypes.Structure):
    _fields_ = [("each", Layer * 3)]


@pytest.fixture(scope="session")
def launch(tmp_path_factory):
    """A function that runs a kernel: `launch(name, grid, threads, shared floats, arguments...)`."""
    if shutil.which("c++") is None:
        pytest.skip("there is no C++ compiler")
    folder = tmp_path_factory.mktemp("kernels")
    kernels = build.compile_kernels(build.our_kernels(folder), folder)
    library = ctypes.CDLL(str(build.link_driver([kernels], folder)))

    def argument(value):
        match value:
            case np.ndarray():
                return ctypes.c_void_p(value.ctypes.data)
            case None:
                return ctypes.c_void_p(None)
            case int():
                return ctypes.c_int(value)
            case float():
                return ctypes.c_float(value)
        return value

    def run(name, grid, threads, shared, *arguments):
        values = [argument(each) for each in arguments]
        pointers = (ctypes.c_void_p * len(values))(*map(ctypes.addressof, values))
        blocks = (ctypes.c_uint * 3)(*(*grid, 1, 1)[:3])
        size = ctypes.c_size_t(4 * shared)
        library.emulated_launch(name.encode(), blocks, threads, size, pointers)

    return run


def normal(seed, *shape):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def rounded(x):
    """The bits of the nearest bfloat16, ties to even, and what they mean."""
    bits = x.view(np.uint32)
    bits = (bits + 0x7FFF + ((bits >> 16) & 1)) >> 16
    return bits.astype(np.uint16), (bits << 16).view(np.float32)


def kept(x, kind):
    """Numbers as a weight or a cache keeps them, and what they mean."""
    if kind.startswith("mixed"):
        return x, kept(x, kind.removeprefix("mixed_"))[1]
    if kind == "bfloat16":
        return rounded(x)
    narrow = x.astype(kind)
    return narrow, narrow.astype(np.float32)


def widened(x, kind):
    """What numbers that are kept mean."""
    bits = kind == "bfloat16"
    return (x.astype(np.uint32) << 16).view(np.float32) if bits else x.astype(np.float32)


def layer_norm(x, gamma, beta):
    x = x.astype(np.float64)
    centred = x - x.mean(axis=-1, keepdims=True)
    return centred / np.sqrt(x.var(axis=-1, keepdims=True) + 1e-5) * gamma + beta


def gelu(x):
    return x * 0.5 * (1 + np.vectorize(math.erf)(x / math.sqrt(2)))


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
