"""Models from presets and back: puts together what `bart_fast.presets` reads and writes."""

import warnings
from typing import Any

from bart_fast import presets
from bart_fast._validation import argument_error, caller_level
from bart_fast.models.backbone import Backbone
from bart_fast.models.bart_backbone import BartBackbone
from bart_fast.models.bart_seq_2_seq_lm import BartSeq2SeqLM
from bart_fast.models.bart_seq_2_seq_lm_preprocessor import BartSeq2SeqLMPreprocessor
from bart_fast.models.bart_text_classifier import BartTextClassifier
from bart_fast.models.bart_text_classifier_preprocessor import BartTextClassifierPreprocessor
from bart_fast.models.bart_tokenizer import BartTokenizer
from bart_fast.models.generation import SpecialTokens
from bart_fast.models.seq_2_seq_lm import Seq2SeqLM
from bart_fast.models.seq_2_seq_lm_preprocessor import Seq2SeqLMPreprocessor
from bart_fast.models.task import Task
from bart_fast.models.text_classifier import TextClassifier
from bart_fast.models.text_classifier_preprocessor import TextClassifierPreprocessor
from bart_fast.models.tokenizer import Tokenizer
from bart_fast.models.unigram_tokenizer import UnigramTokenizer
from bart_fast.models.vocabulary import check_special_ids
from bart_fast.samplers import Sampler, TopKSampler, get, serialize

_TASK_ARGUMENTS = ("preprocessor", "compile", "name")

_CLASSIFIER_ARGUMENTS = (
    "preprocessor",
    "name",
    "num_classes",
    "activation",
    "hidden_dim",
    "dropout",
    "id2label",
    "label2id",
    "problem_type",
)

# A base class stands for the one class there is.
_STANDS_FOR = {
    Backbone: BartBackbone,
    Tokenizer: BartTokenizer,
    Seq2SeqLMPreprocessor: BartSeq2SeqLMPreprocessor,
    Seq2SeqLM: BartSeq2SeqLM,
    TextClassifier: BartTextClassifier,
    TextClassifierPreprocessor: BartTextClassifierPreprocessor,
    Task: BartSeq2SeqLM,
}


def load_backbone(
    cls: type[Backbone],
    preset: presets.Preset,
    load_weights: bool,
    dtype: Any = None,
    device: Any = None,
    **kwargs: Any,
) -> BartBackbone:
    """`Backbone.from_preset()`."""
    backbone = _new_backbone(cls, preset, load_weights, dtype, device, **kwargs)
    if load_weights:
        presets.load_weights(preset, backbone._model)
    return backbone


def _new_backbone(
    cls: type[Backbone],
    preset: presets.Preset,
    zeros: bool,
    dtype: Any,
    device: Any,
    **kwargs: Any,
) -> BartBackbone:
    """A backbone of class `cls` that knows the special ids its preset names, with random weights,
    or with `zeros` where those of the preset come next."""
    cls = _STANDS_FOR.get(cls, cls)
    # Also where another precision is asked for: weights that cannot be read are refused first.
    own = preset.precision
    dtype = own if dtype is None else dtype
    arguments = {"dtype": dtype, "device": device, **kwargs}
    backbone = cls._from_core_config(preset.backbone_config, _zeros=zeros, **arguments)
    end = preset.end_token_id
    # Hugging Face allows several, of which the first ends targets and all end answers.
    ends = preset.generation_config.get("eos_token_id", end)
    backbone._special_tokens = SpecialTokens(
        start_ids=tuple(preset.decoder_start_token_ids or ()),
        end_ids=tuple(ends) if isinstance(ends, list) else () if end is None else (end,),
        pad_id=preset.pad_token_id,
    )
    backbone._generation_config = dict(preset.generation_config)
    settings = {**backbone._special_tokens.settings(), **preset.generation_config}
    settings |= {"bos_token_id": preset.start_token_id}
    hint = "correct the id in the files of the preset, or resize the model that they are of"
    check_special_ids(f"`{preset.path}`", settings, backbone.vocabulary_size, hint)
    return backbone


def load_tokenizer(cls: type[Tokenizer], preset: presets.Preset, **kwargs: Any) -> BartTokenizer:
    """`Tokenizer.from_preset()`."""
    cls = _STANDS_FOR.get(cls, cls)
    if preset.unigram_json is not None and cls in (BartTokenizer, UnigramTokenizer):
        return _load_unigram(preset, **kwargs)
    tokenizer = cls(*preset.tokenizer_sources, **{**preset.tokenizer_config, **kwargs})
    preset.adopt_tokenizer(tokenizer)
    return tokenizer


def _load_unigram(preset: presets.Preset, **kwargs: Any) -> UnigramTokenizer:
    names = ("sequence_length", "dtype")
    saved = {name: preset.tokenizer_config[name] for name in names}
    saved["tokenizer_config"] = preset._tokenizer_fields
    tokenizer = UnigramTokenizer(preset.tokenizer_file, **{**saved, **kwargs})
    if kwargs.get("target_language") is None:
        start = {"decoder_start_token_id": next(iter(preset.decoder_start_token_ids or ()), None)}
        tokenizer.adopt_settings({**preset.generation_config, **start})
    return tokenizer


def load_preprocessor(cls: type[Any], preset: presets.Preset, **kwargs: Any) -> Any:
    """`from_preset()` of the preprocessors."""
    cls = _STANDS_FOR.get(cls, cls)
    classifies = issubclass(cls, TextClassifierPreprocessor)
    config = preset.packing if classifies else preset.preprocessor_config
    if "tokenizer" not in kwargs:
        kwargs["tokenizer"] = load_tokenizer(BartTokenizer, preset)
    return cls(**{**config, **kwargs})


def load_task(
    cls: type[Task], preset: str, load_weights: bool, dtype: Any, device: Any, **kwargs: Any
) -> Task:
    """`Task.from_preset()`."""
    cls = _STANDS_FOR.get(cls, cls)
    read = presets.load_preset(preset, weights=load_weights)
    if issubclass(cls, TextClassifier):
        return _load_classifier(cls, read, load_weights, dtype, device, **kwargs)
    arguments = {name: kwargs.pop(name) for name in _TASK_ARGUMENTS if name in kwargs}
    wants_compile = arguments.pop("compile", True)
    if "preprocessor" not in arguments:
        # A model without a vocabulary works with token arrays.
        arguments["preprocessor"] = (
            load_preprocessor(BartSeq2SeqLMPreprocessor, read) if read.mentions_tokenizer else None
        )
    backbone = _new_backbone(BartBackbone, read, load_weights, dtype, device, **kwargs)
    if load_weights and presets.load_weights(read, backbone._model):
        warnings.warn(
            f"the classification head of `{read.path}` is left out: a language model has none.\n"
            "hint: `BartTextClassifier.from_preset()` loads it",
            UserWarning,
            stacklevel=caller_level(),
        )
    model = cls(backbone, **arguments, compile=False)
    if wants_compile:
        model.compile(sampler="top_k" if read.sampler is None else get(read.sampler))
    return model


def _load_classifier(
    cls: type[BartTextClassifier],
    preset: presets.Preset,
    load_weights: bool,
    dtype: Any,
    device: Any,
    **kwargs: Any,
) -> BartTextClassifier:
    """A classifier: with the head of its preset, or as in keras-hub a new one for `num_classes`."""
    arguments = {name: kwargs.pop(name) for name in _CLASSIFIER_ARGUMENTS if name in kwargs}
    wants_compile = kwargs.pop("compile", True)
    restores = arguments.get("num_classes") is None
    described = preset.classifier or {}
    if restores and not preset.has_classification_head:
        raise argument_error(
            "num_classes",
            "must be given, since the preset has no classification head",
            None,
            "the head is then a new one, with random weights",
        )
    if restores:
        arguments = {**described, **{k: v for k, v in arguments.items() if k != "num_classes"}}
    if "preprocessor" not in arguments:
        arguments["preprocessor"] = (
            load_preprocessor(BartTextClassifierPreprocessor, preset)
            if preset.mentions_tokenizer
            else None
        )
    backbone = _new_backbone(BartBackbone, preset, load_weights, dtype, device, **kwargs)
    zeros = load_weights and restores
    model = cls(backbone, **arguments, compile=wants_compile, _zeros=zeros)
    if load_weights:
        head = model._core_head if restores else None
        presets.load_weights(preset, backbone._model, head)
    return model


def save_task(model: Task, directory: str, max_shard_size: float | None) -> None:
    """`Task.save_to_preset()`. A sampler other than the default goes into the preset."""
    if isinstance(model, TextClassifier):
        presets.save_keras_preset(
            directory,
            task=model,
            classification=_classification(model, "save_to_preset"),
            core_head=model._core_head,
            max_shard_size=max_shard_size,
        )
        return
    presets.save_keras_preset(
        directory, task=model, sampler=_saved_sampler(model.sampler), max_shard_size=max_shard_size
    )


def _saved_sampler(sampler: Any) -> dict[str, Any] | None:
    """What `task.json` says; `None` for the default, and for classes that we could not load."""
    if not isinstance(sampler, Sampler) or not type(sampler).__module__.startswith("bart_fast."):
        return None
    if type(sampler) is TopKSampler and sampler.get_config() == TopKSampler().get_config():
        return None
    return serialize(sampler)


def export_task(model: Task, directory: str) -> None:
    """`Task.export_to_transformers()`."""
    classification = None
    if isinstance(model, TextClassifier):
        classification = _classification(model, "export_to_transformers")
        if model.hidden_dim != model.backbone.hidden_dim:
            raise argument_error(
                "hidden_dim",
                "must be the backbone's, since transformers has no other",
                model.hidden_dim,
                "`save_to_preset(directory)` writes all of it",
            )
    presets.export_transformers(
        directory,
        backbone=model.backbone,
        preprocessor=model.preprocessor,
        generation=model.backbone._generation_config,
        classification=classification,
        core_head=model._core_head,
    )


def _classification(model: TextClassifier, method: str) -> dict[str, Any]:
    """What a preset says of a classifier; see `presets.classifier`."""
    if callable(model.activation):
        raise argument_error(
            "activation", f"must be a name for `{method}()`, or `None`", model.activation
        )
    packing = model.preprocessor
    return {
        "num_classes": model.num_classes,
        "hidden_dim": model.hidden_dim,
        "dropout": model.dropout,
        "activation": model.activation,
        "id2label": list(model.id2label.values()),
        "label2id": dict(model.label2id),
        "problem_type": model.problem_type,
        "sequence_length": getattr(packing, "sequence_length", None),
        "truncate": getattr(packing, "truncate", "longest_first"),
    }
