"""The engines that are compared: each file here but `base` and `loops` has one, a class `Engine`.

To add an engine, add a file: `base.Engine` says what it must do, `ctranslate2.py` is the pattern.
"""

import importlib
import pkgutil

from comparison.engines.base import BaseEngine

OURS = "bart_fast"
_HELPERS = {"base", "loops"}


def names() -> list[str]:
    """All engines, ours first."""
    found = {module.name for module in pkgutil.iter_modules(__path__)} - _HELPERS
    return [OURS, *sorted(found - {OURS})]


def engine(name: str) -> type[BaseEngine]:
    """The class of that name. The engine's packages need not be installed."""
    return importlib.import_module(f"comparison.engines.{name}").Engine
