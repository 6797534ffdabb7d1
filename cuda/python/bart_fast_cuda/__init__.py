"""The core of bart-fast for NVIDIA cards. `bart_fast` uses it by itself where a driver answers."""

import ctypes
from importlib.util import find_spec
from pathlib import Path

# In the order in which one needs the other.
_LIBRARIES = ("libcudart.so.13", "libcublasLt.so.13", "libcublas.so.13", "libcurand.so.10")


def load_core():
    """The extension module, with the libraries that it needs.

    Raises:
        ImportError: there is no driver, no card, or a library is missing.
    """
    _check_driver()
    for name in _LIBRARIES:
        _open(name)
    from bart_fast_cuda import _core

    return _core


def _check_driver() -> None:
    try:
        # The core calls the driver without naming its library.
        driver = ctypes.CDLL("libcuda.so.1", mode=ctypes.RTLD_GLOBAL)
    except OSError as error:
        raise ImportError(f"there is no driver of NVIDIA's: {error}") from None
    count = ctypes.c_int(0)
    if driver.cuInit(0) != 0 or driver.cuDeviceGetCount(ctypes.byref(count)) != 0:
        raise ImportError("the driver of NVIDIA's does not answer")
    if count.value == 0:
        raise ImportError("there is no card that the driver of NVIDIA's knows")


def _open(name: str) -> None:
    """Opens a library of PyPI's packages, or the system's."""
    places = find_spec("nvidia")
    for root in places.submodule_search_locations if places else ():
        for path in Path(root).glob(f"*/lib/{name}"):
            ctypes.CDLL(str(path), mode=ctypes.RTLD_GLOBAL)
            return
    try:
        ctypes.CDLL(name, mode=ctypes.RTLD_GLOBAL)
    except OSError as error:
        raise ImportError(f"{name} is missing: {error}") from None
