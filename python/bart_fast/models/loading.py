"""Models from presets and back: puts together what `bart_fast.presets` reads and writes."""

from typing import Any

from bart_fast import presets
from bart_fast._validation import argument_error
from bart_fast.models.backbone import Backbone
from bart_fast.models.bart_backbone import BartBackbone
from bart_fast.models.bart_seq_2_seq_lm import BartSeq2SeqLM
from bart_fast.models.bart_seq_2_seq_lm_preprocessor import BartSeq2SeqLMPreprocessor
from bart_fast.models.bart_tokenizer import BartTokenizer
from bart_fast.models.generation import SpecialTokens
from bart_fast.models.seq_2_seq_lm import Seq2SeqLM
from bart_fast.models.seq_2_seq_lm_preprocessor import Seq2SeqLMPreprocessor
from bart_fast.models.task import Task
from bart_fast.models.tokenizer import Tokenizer
from bart_fast.models.vocabulary import check_special_ids
from bart_fast.samplers import Sampler, TopKSampler, get, serialize

_TASK_ARGUMENTS = ("preprocessor", "compile", "name")

# A base class stands for the one class there is.
_STANDS_FOR = {
    Backbone: BartBackbone,
    Tokenizer: BartTokenizer,
    Seq2SeqLMPreprocessor: BartSeq2SeqLMPreprocessor,
    Seq2SeqLM: BartSeq2SeqLM,
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
    """A backbone of class `cls` that knows the special ids its preset names."""
    _check_device(device)
    cls = _STANDS_FOR.get(cls, cls)
    # Also where another precision is asked for: weights that cannot be read are refused first.
    own = preset.precision
    backbone = cls._from_core_config(
        preset.backbone_config, _zeros=load_weights, dtype=own if dtype is None else dtype, **kwargs
    )
    if load_weights:
        presets.load_weights(preset, backbone._model)
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
    return cls(preset.vocabulary, preset.merges, **{**preset.tokenizer_config, **kwargs})


def load_preprocessor(
    cls: type[Seq2SeqLMPreprocessor], preset: presets.Preset, **kwargs: Any
) -> BartSeq2SeqLMPreprocessor:
    """`Seq2SeqLMPreprocessor.from_preset()`."""
    cls = _STANDS_FOR.get(cls, cls)
    if "tokenizer" not in kwargs:
        kwargs["tokenizer"] = load_tokenizer(BartTokenizer, preset)
    return cls(**{**preset.preprocessor_config, **kwargs})


def load_task(
    cls: type[Task], preset: str, load_weights: bool, dtype: Any, device: Any, **kwargs: Any
) -> Task:
    """`Task.from_preset()`."""
    cls = _STANDS_FOR.get(cls, cls)
    read = presets.load_preset(preset, weights=load_weights)
    arguments = {name: kwargs.pop(name) for name in _TASK_ARGUMENTS if name in kwargs}
    wants_compile = arguments.pop("compile", True)
    if "preprocessor" not in arguments:
        # A model without a vocabulary works with token arrays.
        arguments["preprocessor"] = (
            load_preprocessor(BartSeq2SeqLMPreprocessor, read) if read.mentions_tokenizer else None
        )
    backbone = load_backbone(BartBackbone, read, load_weights, dtype, device, **kwargs)
    model = cls(backbone, **arguments, compile=False)
    if wants_compile:
        model.compile(sampler="top_k" if read.sampler is None else get(read.sampler))
    return model


def save_task(model: Task, directory: str, max_shard_size: float | None) -> None:
    """`Task.save_to_preset()`. A sampler other than the default goes into the preset."""
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
    presets.export_transformers(
        directory,
        backbone=model.backbone,
        preprocessor=model.preprocessor,
        generation=model.backbone._generation_config,
    )


def _check_device(device: Any) -> None:
    name = getattr(device, "type", device)  # A torch.device has its kind there.
    if name not in (None, "cpu"):
        raise argument_error(
            "device", 'must be `None` or "cpu"; others are not implemented', device
        )
