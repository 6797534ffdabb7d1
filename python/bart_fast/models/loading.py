"""Models from presets and back: puts together what `bart_fast.presets` reads and writes."""

from typing import Any

from bart_fast import presets
from bart_fast.models.bart_backbone import BartBackbone
from bart_fast.models.bart_seq_2_seq_lm import BartSeq2SeqLM
from bart_fast.models.bart_seq_2_seq_lm_preprocessor import BartSeq2SeqLMPreprocessor
from bart_fast.models.bart_tokenizer import BartTokenizer
from bart_fast.models.generation import SpecialTokens
from bart_fast.models.seq_2_seq_lm import Seq2SeqLM
from bart_fast.samplers import Sampler, TopKSampler, get, serialize

_TASK_ARGUMENTS = ("preprocessor", "compile", "name")


def load_backbone(
    cls: type[BartBackbone], preset: presets.Preset, load_weights: bool, **kwargs: Any
) -> BartBackbone:
    """A backbone of class `cls` that knows the special ids its preset names."""
    backbone = cls._from_core_config(preset.backbone_config, _zeros=load_weights, **kwargs)
    if load_weights:
        presets.load_weights(preset, backbone._model)
    end = preset.end_token_id
    backbone._special_tokens = SpecialTokens(
        start_ids=tuple(preset.decoder_start_token_ids or ()),
        end_ids=() if end is None else (end,),
        pad_id=preset.pad_token_id,
    )
    backbone._generation_config = dict(preset.generation_config)
    return backbone


def load_preprocessor(preset: presets.Preset) -> BartSeq2SeqLMPreprocessor | None:
    """The preprocessor of a preset; `None` if there are neither vocabulary nor merges."""
    if not preset.mentions_tokenizer:
        return None
    tokenizer = BartTokenizer(preset.vocabulary, preset.merges, **preset.tokenizer_config)
    return BartSeq2SeqLMPreprocessor(tokenizer, **preset.preprocessor_config)


def load_task(cls: type[Seq2SeqLM], preset: str, load_weights: bool, **kwargs: Any) -> Seq2SeqLM:
    """`Seq2SeqLM.from_preset()`."""
    # The base class stands for the one class there is.
    cls = BartSeq2SeqLM if cls is Seq2SeqLM else cls
    read = presets.load_preset(preset)
    arguments = {name: kwargs.pop(name) for name in _TASK_ARGUMENTS if name in kwargs}
    wants_compile = arguments.pop("compile", True)
    if "preprocessor" not in arguments:
        arguments["preprocessor"] = load_preprocessor(read)
    backbone = load_backbone(BartBackbone, read, load_weights, **kwargs)
    model = cls(backbone, **arguments, compile=False)
    if wants_compile:
        model.compile(sampler="top_k" if read.sampler is None else get(read.sampler))
    return model


def save_task(model: Seq2SeqLM, directory: str, max_shard_size: float | None) -> None:
    """`Seq2SeqLM.save_to_preset()`. A sampler other than the default goes into the preset."""
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


def export_task(model: Seq2SeqLM, directory: str) -> None:
    """`Seq2SeqLM.export_to_transformers()`."""
    presets.export_transformers(
        directory,
        backbone=model.backbone,
        tokenizer=getattr(model.preprocessor, "tokenizer", None),
        generation=model.backbone._generation_config or None,
    )
