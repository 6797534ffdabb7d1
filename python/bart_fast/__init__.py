"""Fast BART sequence-to-sequence models, with the names of keras-hub.

Every public name can be taken from here (`bart_fast.BartSeq2SeqLM`) or from the submodule where
keras-hub has it (`bart_fast.models.BartSeq2SeqLM`). Names are imported when they are first used,
so that `import bart_fast` costs little more than numpy.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from bart_fast._runtime import core as _loaded  # Before anything else imports the core.

__version__ = _loaded.__version__

if TYPE_CHECKING:
    from bart_fast import (
        callbacks,
        losses,
        metrics,
        models,
        optimizers,
        pretraining,
        samplers,
        tokenizers,
    )
    from bart_fast._devices import Device, devices
    from bart_fast._random import set_random_seed
    from bart_fast._threads import get_num_threads, set_num_threads
    from bart_fast.models import (
        Backbone,
        BartBackbone,
        BartSeq2SeqLM,
        BartSeq2SeqLMPreprocessor,
        BartTextClassifier,
        BartTextClassifierPreprocessor,
        BartTokenizer,
        CrossAttentionOutput,
        GenerateOutput,
        ScoreOutput,
        Seq2SeqLM,
        Seq2SeqLMPreprocessor,
        TextClassifier,
        TextClassifierPreprocessor,
        Tokenizer,
        UnigramTokenizer,
    )
    from bart_fast.samplers import (
        BeamSampler,
        ContrastiveSampler,
        GreedySampler,
        PresetSampler,
        RandomSampler,
        Sampler,
        TopKSampler,
        TopPSampler,
    )

__all__ = [
    "Backbone",
    "BartBackbone",
    "BartSeq2SeqLM",
    "BartSeq2SeqLMPreprocessor",
    "BartTextClassifier",
    "BartTextClassifierPreprocessor",
    "BartTokenizer",
    "BeamSampler",
    "ContrastiveSampler",
    "CrossAttentionOutput",
    "Device",
    "GenerateOutput",
    "GreedySampler",
    "PresetSampler",
    "RandomSampler",
    "Sampler",
    "ScoreOutput",
    "Seq2SeqLM",
    "Seq2SeqLMPreprocessor",
    "TextClassifier",
    "TextClassifierPreprocessor",
    "Tokenizer",
    "TopKSampler",
    "TopPSampler",
    "UnigramTokenizer",
    "__version__",
    "callbacks",
    "devices",
    "get_num_threads",
    "losses",
    "metrics",
    "models",
    "optimizers",
    "pretraining",
    "samplers",
    "set_num_threads",
    "set_random_seed",
    "tokenizers",
]

# Submodule -> names of `__all__` that it defines.
_HOMES = {
    "models": (
        "Backbone",
        "BartBackbone",
        "BartSeq2SeqLM",
        "BartSeq2SeqLMPreprocessor",
        "BartTextClassifier",
        "BartTextClassifierPreprocessor",
        "BartTokenizer",
        "CrossAttentionOutput",
        "GenerateOutput",
        "ScoreOutput",
        "Seq2SeqLM",
        "Seq2SeqLMPreprocessor",
        "TextClassifier",
        "TextClassifierPreprocessor",
        "Tokenizer",
        "UnigramTokenizer",
    ),
    "samplers": (
        "BeamSampler",
        "ContrastiveSampler",
        "GreedySampler",
        "PresetSampler",
        "RandomSampler",
        "Sampler",
        "TopKSampler",
        "TopPSampler",
    ),
    "_devices": ("Device", "devices"),
    "_random": ("set_random_seed",),
    "_threads": ("get_num_threads", "set_num_threads"),
}

# Their classes can be had from here too, though they are not in `__all__`.
_KERAS_SUBMODULES = ("optimizers", "losses", "metrics", "callbacks")


def __getattr__(name: str) -> Any:
    if name in ("models", "pretraining", "samplers", "tokenizers", *_KERAS_SUBMODULES):
        return import_module(f"bart_fast.{name}")
    for submodule, names in _HOMES.items():
        if name in names:
            return getattr(import_module(f"bart_fast.{submodule}"), name)
    # Classes only: `get`, `serialize` and the like are in several submodules.
    if name[:1].isupper():
        for submodule in _KERAS_SUBMODULES:
            module = import_module(f"bart_fast.{submodule}")
            if name in module.__all__:
                return getattr(module, name)
    raise AttributeError(f"module 'bart_fast' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
