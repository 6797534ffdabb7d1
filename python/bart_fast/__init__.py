"""Fast BART sequence-to-sequence models, with the names of keras-hub.

Every public name can be taken from here (`bart_fast.BartSeq2SeqLM`) or from the submodule where
keras-hub has it (`bart_fast.models.BartSeq2SeqLM`). Names are imported when they are first used,
so that `import bart_fast` costs little more than numpy.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from bart_fast._core import __version__, get_num_threads, set_num_threads

if TYPE_CHECKING:
    from bart_fast import callbacks, losses, metrics, models, optimizers, samplers, tokenizers
    from bart_fast._random import set_random_seed
    from bart_fast.models import (
        BartBackbone,
        BartSeq2SeqLM,
        BartSeq2SeqLMPreprocessor,
        BartTokenizer,
        Seq2SeqLM,
    )
    from bart_fast.samplers import (
        BeamSampler,
        GreedySampler,
        RandomSampler,
        Sampler,
        TopKSampler,
        TopPSampler,
    )

__all__ = [
    "BartBackbone",
    "BartSeq2SeqLM",
    "BartSeq2SeqLMPreprocessor",
    "BartTokenizer",
    "BeamSampler",
    "GreedySampler",
    "RandomSampler",
    "Sampler",
    "Seq2SeqLM",
    "TopKSampler",
    "TopPSampler",
    "__version__",
    "callbacks",
    "get_num_threads",
    "losses",
    "metrics",
    "models",
    "optimizers",
    "samplers",
    "set_num_threads",
    "set_random_seed",
    "tokenizers",
]

# Where a name may be. Classes of optimizers, losses, metrics and callbacks, which are not in
# `__all__`, can be had from here too.
_SUBMODULES = (
    "models",
    "samplers",
    "optimizers",
    "losses",
    "metrics",
    "callbacks",
    "tokenizers",
)


def __getattr__(name: str) -> Any:
    if name in _SUBMODULES:
        return import_module(f"bart_fast.{name}")
    if name == "set_random_seed":
        return import_module("bart_fast._random").set_random_seed
    if not name.startswith("_"):
        for submodule in _SUBMODULES:
            module = import_module(f"bart_fast.{submodule}")
            # Classes only: `get`, `serialize` and the like exist in several submodules.
            if name[0].isupper() and name in module.__all__:
                return getattr(module, name)
    raise AttributeError(f"module 'bart_fast' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
