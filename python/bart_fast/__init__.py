"""Fast BART sequence-to-sequence models, with the names of keras-hub."""

from bart_fast._core import __version__

__all__ = ["__version__"]
