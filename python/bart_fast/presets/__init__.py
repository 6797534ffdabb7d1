"""Presets: find one by name, read it, load its weights, and write one.

A preset is a directory in the format of keras-hub or of Hugging Face. `load_preset` tells them
apart by `config.json` and says what either holds in the same words.
"""

from __future__ import annotations

import math
import os

from bart_fast._dtypes import PRECISIONS, stored_dtype
from bart_fast._validation import argument_error

from .preset import Preset, missing_file
from .resolve import built_in_presets, resolve

__all__ = [
    "Preset",
    "built_in_presets",
    "export_transformers",
    "load_preset",
    "load_weights",
    "resolve",
    "save_keras_preset",
]

_DTYPES = ("float32", "float16", "bfloat16")
# Keras' `tokenizer.json` holds a few arguments, Hugging Face's a vocabulary, so it may be longer.
_KERAS_TOKENIZER_SIZE = 1 << 20


def load_preset(preset: str | os.PathLike, *, weights: bool = True) -> Preset:
    """Read everything of a preset but its weights.

    Args:
        preset: str or path. A directory, a built-in name such as `"bart_tidy_en"`,
            `"hf://user/repository"`, `"user/repository"` or `"kaggle://user/bart/keras/name"`.
        weights: bool. Whether the weights will be loaded too: else they are not fetched from a hub.

    Returns:
        Preset. A directory with a tokenizer alone is one too: see `Preset.has_backbone`.

    Raises:
        FileNotFoundError: a file of the preset is missing.
        ValueError: the name is unknown, a file is damaged, or it is no BART that we can compute.
        ConnectionError: the preset has to be fetched and no hub that has it can be reached.
        ImportError: the package of the hub is not installed.
    """
    from . import keras_format, transformers_format
    from .files import read_json

    directory = resolve(preset, weights=weights)
    path = directory / "config.json"
    if not path.is_file():
        return _load_tokenizer(directory)
    config = read_json(path)
    if "registered_name" in config:
        return keras_format.read(directory)
    if "model_type" in config:
        return transformers_format.read(directory)
    raise ValueError(
        f"`{path}` is of no format that can be read: a Keras preset has `registered_name` in it, "
        f"a Hugging Face model `model_type`. Received: {', '.join(sorted(config)[:10]) or '{}'}."
    )


def _load_tokenizer(directory) -> Preset:
    """A directory without `config.json`, which may still hold a tokenizer."""
    from . import keras_format, transformers_format
    from .files import read_json

    path = directory / "tokenizer.json"
    whole = path.is_file()
    if whole and path.stat().st_size < _KERAS_TOKENIZER_SIZE and "class_name" in read_json(path):
        return keras_format.read(directory)
    if whole or all((directory / name).is_file() for name in ("vocab.json", "merges.txt")):
        return transformers_format.read_tokenizer(directory)
    raise missing_file(directory, "config.json", None)


def load_weights(preset: Preset, core_model, core_head=None) -> bool:
    """Set every parameter of a model from a preset, in the precision of the model.

    Args:
        preset: Preset. What `load_preset` returned.
        core_model: bart_fast._core.Model, built from `preset.backbone_config`.
        core_head: bart_fast._core.ClassificationHead or None, built from `preset.classifier`.

    Returns:
        bool. Whether the preset has the head of a sequence classifier, and none was to be loaded.

    Raises:
        FileNotFoundError: the preset has no weights.
        ValueError: the weight file is truncated or damaged, is quantised to less than 8 bits, or
            has missing, extra or misshapen tensors, all of which are listed. If the damage shows
            only when the values are read, some parameters are set already: throw the model away.
    """
    from . import keras_format, transformers_format

    read = keras_format if preset.format == "keras" else transformers_format
    return bool(read.load_weights(preset, core_model, core_head))


def save_keras_preset(
    directory: str | os.PathLike,
    *,
    backbone=None,
    tokenizer=None,
    preprocessor=None,
    task=None,
    classification: dict | None = None,
    core_head=None,
    sampler: str | dict | None = None,
    max_shard_size: float | None = 10,
    dtype: str | None = None,
    loads_in: str | None = None,
) -> None:
    """Write a Keras preset, or a part of one, that keras-hub and this package can load.

    Nothing half-written appears: see `atomic.staged_directory`. In a directory that exists, the
    files of the given parts are replaced and all others stay, so that a tokenizer and a backbone
    can be saved one after the other.

    Args:
        directory: str or path.
        backbone: BartBackbone, or a bart_fast._core.Model.
        tokenizer: BartTokenizer. Its `vocabulary` (dict), `merges` (list), `sequence_length`,
            `add_prefix_space`, `unsplittable_tokens` and `dtype` are saved.
        preprocessor: BartSeq2SeqLMPreprocessor. Its sequence lengths are saved, and its
            `tokenizer` where that argument is left out.
        task: BartSeq2SeqLM or BartTextClassifier. Its `backbone` and `preprocessor` are saved
            where those arguments are left out, and `task.json` is written.
        classification: dict. That of a classifier, see `classifier.py`; None for others.
        core_head: bart_fast._core.ClassificationHead. Its weights go into `task.weights.h5`.
        sampler: str or dict. Name or serialised form of the sampler that `task.json` names; kept
            where keras-hub ignores it.
        max_shard_size: int or float. Weights larger than this many GB are split. None: never.
        dtype: str. "float32", "float16" or "bfloat16": how the weights are stored. Defaults to
            `None`: as the model keeps them, int8 too.
        loads_in: str. The precision that `from_preset` takes where it is given none, such as
            "float32" for weights in int8 that are to be trained. Defaults to `None`: the usual.

    Raises:
        ValueError: Keras cannot describe the model (encoder and decoder of different depth, heads
            or width, `scale_embedding`, `final_logits_bias`), or an argument is not allowed.
        OSError: the directory cannot be written.
    """
    from . import keras_format

    _check_dtype(dtype)
    if loads_in not in (None, *PRECISIONS):
        raise argument_error("loads_in", f"must be one of {', '.join(PRECISIONS)}", loads_in)
    if max_shard_size is not None and (
        isinstance(max_shard_size, bool)
        or not isinstance(max_shard_size, (int, float))
        or math.isnan(max_shard_size)
    ):
        raise ValueError(
            f"`max_shard_size` must be a number of GB or None. Received: {max_shard_size!r}."
        )
    if task is not None:
        backbone = task.backbone if backbone is None else backbone
        preprocessor = task.preprocessor if preprocessor is None else preprocessor
    if preprocessor is not None and tokenizer is None:
        tokenizer = preprocessor.tokenizer
    if backbone is None and tokenizer is None and preprocessor is None:
        raise ValueError("nothing to save: give `task`, `backbone`, `preprocessor` or `tokenizer`.")
    names = {
        "backbone": getattr(backbone, "name", None) or "bart_backbone",
        "tokenizer": getattr(tokenizer, "name", None) or "bart_tokenizer",
        "preprocessor": getattr(preprocessor, "name", None) or "bart_seq2_seq_lm_preprocessor",
        "task": getattr(task, "name", None) or "bart_seq2_seq_lm",
    }
    keras_format.save(
        directory,
        core_model=_core_of(backbone),
        names=names,
        tokenizer=_tokenizer_values(tokenizer),
        preprocessor=_packing(preprocessor) or _lengths(preprocessor),
        task=task is not None,
        classification=classification,
        core_head=core_head,
        sampler=sampler,
        generation=_foreign_settings(backbone),
        max_shard_size=max_shard_size,
        dtype=dtype,
        loads_in=loads_in,
    )


def export_transformers(
    directory: str | os.PathLike,
    *,
    backbone=None,
    tokenizer=None,
    preprocessor=None,
    generation: dict | None = None,
    classification: dict | None = None,
    core_head=None,
    dtype: str | None = None,
) -> None:
    """Write a directory that Hugging Face's BartForConditionalGeneration (of a classifier
    BartForSequenceClassification) and BartTokenizer load, or the part of one that is given; in a
    directory that exists the rest stays.

    Args:
        directory: str or path. As for `save_keras_preset`.
        backbone: BartBackbone, or a bart_fast._core.Model.
        tokenizer: BartTokenizer or None.
        preprocessor: BartSeq2SeqLMPreprocessor or None. Its `tokenizer` is written where that
            argument is left out, and its sequence lengths where transformers passes them over.
        generation: dict. Settings for `generation_config.json`, such as
            `Preset.generation_config`. The special ids come from here, else from the backbone's
            preset, else from the tokenizer; without any they are written as null.
        classification: dict. That of a classifier, see `classifier.py`; None for others.
        core_head: bart_fast._core.ClassificationHead. Its weights are written too.
        dtype: str. "float32", "float16" or "bfloat16": how the weights are stored. Defaults to
            `None`: in the 16 bits that the model keeps, else float32.

    Raises:
        ValueError: an argument is not allowed.
        OSError: the directory cannot be written.
    """
    from . import transformers_format

    _check_dtype(dtype)
    if tokenizer is None:
        tokenizer = getattr(preprocessor, "tokenizer", None)
    values = _tokenizer_values(tokenizer)
    if values is not None:
        values |= _values(tokenizer, "start_token_id", "end_token_id", "pad_token_id")
    if backbone is None and values is None:
        raise ValueError("nothing to export: give `backbone`, `preprocessor` or `tokenizer`.")
    special = getattr(backbone, "_special_tokens", None)
    transformers_format.save(
        directory,
        core_model=_core_of(backbone),
        tokenizer=values,
        lengths=_lengths(preprocessor),
        generation={**_generation_ids(special), **(generation or {})},
        classification=classification,
        core_head=core_head,
        dtype=dtype or stored_dtype(getattr(_core_of(backbone), "dtype", "float32")),
    )


def _generation_ids(special) -> dict:
    """The special ids of a backbone's preset as Hugging Face's settings name them.

    Keras' models begin with `</s> <s>`: Hugging Face begins with the first and is told the second.
    """
    if special is None:
        return {}
    first, second = (*special.start_ids, None, None)[:2]
    ids = {
        "bos_token_id": second,
        "eos_token_id": next(iter(special.end_ids), None),
        "pad_token_id": special.pad_id,
        "decoder_start_token_id": first,
        "forced_bos_token_id": second,
    }
    return {name: id for name, id in ids.items() if id is not None}


def _foreign_settings(backbone) -> dict | None:
    """The generation settings and special ids of a backbone's preset; `None` where they are what
    is true of every Keras model."""
    ids = _generation_ids(getattr(backbone, "_special_tokens", None))
    settings = {**ids, **getattr(backbone, "_generation_config", {})}
    end, start = settings.get("eos_token_id"), settings.get("bos_token_id")
    keras = {"decoder_start_token_id": end, "forced_bos_token_id": start}
    keras |= {name: settings.get(name) for name in ("bos_token_id", "eos_token_id", "pad_token_id")}
    return None if not settings or settings == keras else settings


def _lengths(preprocessor) -> dict | None:
    names = ("encoder_sequence_length", "decoder_sequence_length")
    # Any callable can stand for a preprocessor; only ours have lengths.
    return _values(preprocessor, *names) if hasattr(preprocessor, names[0]) else None


def _packing(preprocessor) -> dict | None:
    """How a classifier's preprocessor packs texts; None for others."""
    names = ("sequence_length", "truncate")
    return _values(preprocessor, *names) if hasattr(preprocessor, "truncate") else None


def _core_of(backbone):
    """The core model of a backbone, or what was given if it is one."""
    return getattr(backbone, "_model", backbone)


def _values(source, *names: str) -> dict | None:
    """The named attributes of an object; None for None."""
    return None if source is None else {name: getattr(source, name) for name in names}


def _tokenizer_values(tokenizer) -> dict | None:
    if tokenizer is None:
        return None
    if hasattr(tokenizer, "transformers_json"):
        values = _values(tokenizer, "sequence_length", "dtype")
        return {**values, "tokenizer_json": tokenizer.transformers_json()}
    values = _values(
        tokenizer, "sequence_length", "add_prefix_space", "unsplittable_tokens", "dtype"
    )
    tokens = values["unsplittable_tokens"]
    return {
        **values,
        "unsplittable_tokens": ["<s>", "</s>", "<pad>"] if tokens is None else list(tokens),
        "vocabulary": dict(tokenizer.vocabulary),
        "merges": list(tokenizer.merges),
    }


def _check_dtype(dtype: str | None) -> None:
    if dtype is not None and dtype not in _DTYPES:
        raise ValueError(f"`dtype` must be one of {', '.join(_DTYPES)}. Received: {dtype!r}.")
