"""Loads the compiled core, with the tensor library's own threads kept out of the way."""

import os
import sys
from importlib import metadata
from pathlib import Path

__all__ = ["core", "cuda_problem"]

# Why `bart-fast-cuda` is not used, where it is installed.
cuda_problem: str | None = None


def _load():
    # The tensor library reads these once, when the core is imported: its own thread pools would
    # fight ours for the cores and hang in a forked child. Other libraries in the process and
    # child processes must not inherit the setting, so it is taken back at once. By the portable
    # way its matrix products run too, which read their variable again at every call.
    portable = os.environ.get("BART_FAST_WAY") == "portable"
    held = {name: os.environ.get(name) for name in ("CANDLE_NUM_THREADS", "RAYON_NUM_THREADS")}
    os.environ.update(dict.fromkeys(held, "1"))
    try:
        _core = _for_cuda()
        if _core is None:
            from bart_fast import _core
    finally:
        for name, value in held.items():
            if name == "RAYON_NUM_THREADS" and portable:
                continue
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value
    return _core


def _for_cuda():
    """The core of `bart-fast-cuda`, if that is installed, of this version, and finds a driver; else
    `None`, and `cuda_problem` says why."""
    global cuda_problem
    try:
        from bart_fast_cuda import load_core

        found = load_core()
    except ModuleNotFoundError as error:
        if error.name == "bart_fast_cuda":
            return None
        cuda_problem = str(error)
        return None
    except (ImportError, OSError) as error:
        cuda_problem = str(error)
        return None
    wanted = metadata.version("bart-fast")
    if found.__version__ != wanted:
        cuda_problem = f"bart-fast-cuda {found.__version__} does not fit bart-fast {wanted}"
        return None
    # All modules import the core by this name.
    sys.modules["bart_fast._core"] = found
    sys.modules["bart_fast"]._core = found
    return found


def _is_command() -> bool:
    """Whether this process is the command `bart-fast`, which shows nobody a traceback."""
    if sys.argv[:1] == ["-m"]:
        return "bart_fast.cli" in sys.orig_argv
    return bool(sys.argv) and Path(sys.argv[0]).stem == "bart-fast"


try:
    core = _load()
except ValueError as error:  # a variable of the environment that cannot be used
    if _is_command():
        sys.exit(f"bart-fast: error: {error}")
    raise
