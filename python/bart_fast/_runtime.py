"""Loads the compiled core, with the tensor library's own threads kept out of the way."""

import os
import sys
from pathlib import Path

__all__ = ["core"]


def _load():
    # The tensor library reads these once, when the core is imported: its own thread pools would
    # fight ours for the cores and hang in a forked child. Other libraries in the process and
    # child processes must not inherit the setting, so it is taken back at once. By the portable
    # way its matrix products run too, which read their variable again at every call.
    portable = os.environ.get("BART_FAST_WAY") == "portable"
    held = {name: os.environ.get(name) for name in ("CANDLE_NUM_THREADS", "RAYON_NUM_THREADS")}
    os.environ.update(dict.fromkeys(held, "1"))
    try:
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
