"""Hugging Face directories: `config.json`, weights (`preset.py` lists their names), and either
`tokenizer.json` or `vocab.json` and `merges.txt`. Read is what transformers 3 to 5 wrote.

The arithmetic part of the configuration is read by the core, which refuses what it cannot honour.
"""

from __future__ import annotations

import json
from pathlib import Path

from . import classifier
from .files import (
    parse_json,
    read_json,
    read_text,
    read_vocabulary,
    write_json,
    write_merges,
)
from .hugging_face import SENTENCEPIECE
from .preset import SAFETENSORS_FILE, Preset, default_lengths, missing_file

# What `config.json` of older checkpoints says about generation; newer ones have a file for it.
_GENERATION_FIELDS = (
    "bad_words_ids",
    "begin_suppress_tokens",
    "bos_token_id",
    "constraints",
    "decoder_start_token_id",
    "diversity_penalty",
    "do_sample",
    "early_stopping",
    "encoder_no_repeat_ngram_size",
    "encoder_repetition_penalty",
    "eos_token_id",
    "epsilon_cutoff",
    "eta_cutoff",
    "exponential_decay_length_penalty",
    "force_words_ids",
    "forced_bos_token_id",
    "forced_decoder_ids",
    "forced_eos_token_id",
    "guidance_scale",
    "length_penalty",
    "max_length",
    "max_new_tokens",
    "min_length",
    "min_new_tokens",
    "min_p",
    "no_repeat_ngram_size",
    "num_beam_groups",
    "num_beams",
    "num_return_sequences",
    "output_scores",
    "pad_token_id",
    "penalty_alpha",
    "remove_invalid_values",
    "renormalize_logits",
    "repetition_penalty",
    "return_dict_in_generate",
    "sequence_bias",
    "suppress_tokens",
    "temperature",
    "top_k",
    "top_p",
    "typical_p",
)
# The defaults of Hugging Face's configurations, which apply where `config.json` is silent. Only
# BART's has one for the start of answers; for the other families it is then `bos_token_id`.
DEFAULT_IDS = {
    "bos_token_id": 0,
    "pad_token_id": 1,
    "eos_token_id": 2,
    "decoder_start_token_id": 2,
}
# The classes of Hugging Face that compute as these families do.
_ARCHITECTURES = {
    "bart": "BartForConditionalGeneration",
    "mbart": "MBartForConditionalGeneration",
    "plbart": "PLBartForConditionalGeneration",
}
# Another such default: the last token that a full answer is given.
_DEFAULT_FORCED_EOS = 2
# Earlier files that Hugging Face would prefer to the ones written here, or mix with them.
_STALE_WEIGHTS = (
    "model.safetensors.index.json",
    "model-*-of-*.safetensors",
    "pytorch_model.bin",
    "pytorch_model.bin.index.json",
    "pytorch_model-*-of-*.bin",
    "model.pt",
)
_STALE_TOKENIZER = ("tokenizer.json", "special_tokens_map.json", "added_tokens.json")
# Where we keep what Hugging Face has no field for.
_OWN_ENTRY = "bart_fast"
_TOKENIZER_DEFAULTS = {"sequence_length": None, "unsplittable_tokens": None, "dtype": "int32"}
_UNIGRAM_DEFAULTS = {"sequence_length": None, "dtype": "int32"}


def read(directory: Path) -> Preset:
    """Read the Hugging Face directory; its weights stay on the disk.

    Raises:
        ValueError: the configuration describes something the core cannot compute, or is damaged.
    """
    path = directory / "config.json"
    text = read_text(path)
    fields = parse_json(text, path)
    config = _core_config(text, path)
    generation = _generation(directory, fields)
    lengths = default_lengths(config)
    own = _read_own_entry(fields, {**lengths, **classifier.OWN_DEFAULTS}, path)
    described = classifier.from_transformers(fields, path)
    described["activation"] = own["activation"]
    packing = {"sequence_length": own["encoder_sequence_length"], "truncate": own["truncate"]}
    return Preset(
        path=directory,
        format="transformers",
        dtype=str(fields.get("dtype") or fields.get("torch_dtype") or "float32"),
        preprocessor_config={name: own[name] for name in lengths},
        generation_config=generation,
        classifier=described,
        packing=packing,
        _backbone_config=config,
        _special_ids=special_ids(fields, generation, path),
        **_tokenizer(directory),
    )


def read_tokenizer(directory: Path) -> Preset:
    """Read a Hugging Face directory that holds a tokenizer alone."""
    return Preset(
        path=directory,
        format="transformers",
        preprocessor_config=default_lengths(None),
        **_tokenizer(directory),
    )


def load_weights(preset: Preset, core_model, core_head=None) -> bool:
    """Set the parameters of `core_model` from the directory. See `presets.load_weights`."""
    files = preset.weight_files()
    if not files:
        raise missing_file(preset.path, SAFETENSORS_FILE, "transformers")
    return core_model.load_checkpoint([str(file) for file in files], core_head)


def save(
    directory,
    *,
    core_model=None,
    tokenizer: dict | None = None,
    lengths: dict | None = None,
    generation: dict | None = None,
    classification: dict | None = None,
    core_head=None,
    dtype: str = "float32",
) -> None:
    """Write the directory, or a part of it, from plain values; `presets.export_transformers` takes
    objects.

    Args:
        tokenizer: `vocabulary`, `merges`, `sequence_length`, `add_prefix_space`,
            `unsplittable_tokens`, `dtype`, and the ids `start_token_id`, `end_token_id` and
            `pad_token_id`; or of sentencepiece `tokenizer_json`, the text of that file and the
            fields of `tokenizer_config.json`, `sequence_length`, `dtype` and the ids.
        lengths: `encoder_sequence_length` and `decoder_sequence_length`.
        generation: generation settings and special ids, as in `Preset.generation_config`.
        classification: a classifier, see `classifier.py`, whose weights `core_head` holds; its
            texts are packed as `sequence_length` and `truncate` in it say.
    """
    from . import atomic  # Its imports are for saving.

    config, stale = None, ()
    if core_model is not None:
        generation = _generation_settings(tokenizer, generation)
        core_config = json.loads(core_model.config)
        config = _config_json(core_config, generation, dtype)
        own = _own_values(lengths, classification, default_lengths(core_config))
        config |= own
        if classification is not None:
            config |= classifier.to_transformers(classification)
        stale += _STALE_WEIGHTS
    is_unigram = tokenizer is not None and "tokenizer_json" in tokenizer
    if is_unigram:
        stale += ("vocab.json", "merges.txt", "added_tokens.json", "special_tokens_map.json")
    elif tokenizer is not None:
        stale += _STALE_TOKENIZER
    with atomic.staged_directory(directory, marker="config.json", stale=stale) as folder:
        if config is not None:
            write_json(folder / "config.json", config, indent=2)
            write_json(folder / "generation_config.json", generation, indent=2)
            head = () if core_head is None else (core_head,)
            core_model.save_safetensors(str(folder / SAFETENSORS_FILE), dtype, *head)
        if is_unigram:
            _write_unigram(folder, tokenizer)
        elif tokenizer is not None:
            write_json(folder / "vocab.json", tokenizer["vocabulary"], indent=None)
            header = "#version: 0.2\n"
            write_merges(folder / "merges.txt", tokenizer["merges"], header=header)
            write_json(folder / "tokenizer_config.json", _tokenizer_json(tokenizer, config))


def _own_values(lengths: dict | None, classification: dict | None, defaults: dict) -> dict:
    """Our entry of a `config.json`."""
    if classification is None:
        return _own_entry(lengths, defaults)
    length = classification["sequence_length"] or defaults["encoder_sequence_length"]
    values = {**defaults, "encoder_sequence_length": length}
    values |= {name: classification[name] for name in classifier.OWN_DEFAULTS}
    return _own_entry(values, {**defaults, **classifier.OWN_DEFAULTS})


def _write_unigram(folder: Path, tokenizer: dict) -> None:
    text, fields = tokenizer["tokenizer_json"]
    (folder / "tokenizer.json").write_text(text, encoding="utf-8")
    fields = {key: value for key, value in fields.items() if key != _OWN_ENTRY}
    write_json(folder / "tokenizer_config.json", fields | _own_entry(tokenizer, _UNIGRAM_DEFAULTS))


def _own_entry(values: dict | None, defaults: dict) -> dict:
    """What Hugging Face has no field for, in an entry that it keeps and does not use."""
    other = {key: values[key] for key, value in defaults.items() if values and values[key] != value}
    return {_OWN_ENTRY: other} if other else {}


def _read_own_entry(fields: dict, defaults: dict, path: Path) -> dict:
    """`defaults` with what `_own_entry` added."""
    own = fields.get(_OWN_ENTRY, {})
    if not isinstance(own, dict) or not own.keys() <= defaults.keys():
        raise ValueError(
            f"`{path}`: `{_OWN_ENTRY}` may hold `{'`, `'.join(defaults)}`. Received: {own!r}."
        )
    for name, value in own.items():
        if name in classifier.OWN_DEFAULTS and not isinstance(value, str):
            raise ValueError(f"`{path}`: `{name}` must be a name. Received: {value!r}.")
        if name.endswith("_length") and (type(value) is not int or value < 1):
            raise ValueError(f"`{path}`: `{name}` must be a positive integer. Received: {value!r}.")
    return {**defaults, **own}


def _core_config(text: str, path: Path) -> dict:
    from bart_fast import _core

    try:
        return json.loads(_core.parse_hf_config(text))
    except ValueError as error:
        raise ValueError(f"`{path}`: {error}") from error


def special_ids(fields: dict, generation: dict, path: Path) -> dict[str, int | None]:
    """The special ids; generation settings win over the configuration, as in Hugging Face."""
    ids = {}
    for name, default in DEFAULT_IDS.items():
        if name == "decoder_start_token_id" and fields.get("model_type", "bart") != "bart":
            default = None
        value = generation.get(name)
        value = fields.get(name, default) if value is None else value
        # Several end ids are allowed; the first is the one that ends a target.
        first = value[0] if isinstance(value, list) and value else value
        if first is not None and (type(first) is not int or first < 0):
            raise ValueError(f"`{path}`: `{name}` must be a token id or null. Received: {value!r}.")
        ids[name] = first
    if ids["decoder_start_token_id"] is None:
        ids["decoder_start_token_id"] = ids["bos_token_id"]
    return ids


def _generation(directory: Path, fields: dict) -> dict:
    """Generation settings: the file's if there is one, else those in the configuration, as in
    `GenerationConfig.from_model_config` of transformers 4."""
    path = directory / "generation_config.json"
    if path.is_file():
        return read_json(path)
    fields = {"forced_eos_token_id": _DEFAULT_FORCED_EOS, **fields}
    # What transformers 3 called it.
    if fields.get("force_bos_token_to_be_generated") and fields.get("forced_bos_token_id") is None:
        start = fields.get("bos_token_id", DEFAULT_IDS["bos_token_id"])
        fields["forced_bos_token_id"] = start
    return {key: fields[key] for key in _GENERATION_FIELDS if fields.get(key) is not None}


def _tokenizer(directory: Path) -> dict:
    """The fields of a `Preset` that concern text."""
    names = ("vocab.json", "merges.txt", "tokenizer.json")
    vocabulary, merges, whole = (
        path if path.is_file() else None for path in (directory / name for name in names)
    )
    files = {"vocabulary_file": vocabulary, "merges_file": merges}
    if whole is not None and (vocabulary is None or merges is None):
        files = {"tokenizer_file": whole}
    elif vocabulary is None and merges is None:
        spm = (path for name in SENTENCEPIECE for path in directory.glob(name))
        files["sentencepiece_file"] = next(spm, None)
    added = directory / "added_tokens.json"
    if "tokenizer_file" not in files and added.is_file():
        files["_added_tokens"] = read_vocabulary(added)
    path = directory / "tokenizer_config.json"
    fields = read_json(path) if path.is_file() else {}
    options = _tokenizer_options(fields, path)
    return {**files, "_tokenizer_options": options, "_tokenizer_fields": fields}


def _tokenizer_options(fields: dict, path: Path) -> dict:
    space = fields.get("add_prefix_space")
    if space is not None and not isinstance(space, bool):
        raise ValueError(
            f"`{path}`: `add_prefix_space` must be true or false. Received: {space!r}."
        )
    return {**_read_own_entry(fields, _TOKENIZER_DEFAULTS, path), "add_prefix_space": space}


def _generation_settings(tokenizer: dict | None, generation: dict | None) -> dict:
    """What `generation_config.json` says: what is given, and the special ids of the tokenizer."""
    settings = dict(generation or {})
    if tokenizer is None:
        return settings
    start, end, pad = (tokenizer[f"{name}_token_id"] for name in ("start", "end", "pad"))
    ids = {"bos_token_id": start, "eos_token_id": end, "pad_token_id": pad}
    if "decoder_start_token_id" not in settings:
        # Keras' models are taught to begin with `</s> <s>`: Hugging Face begins with the first
        # and is told the second.
        ids |= {"decoder_start_token_id": end, "forced_bos_token_id": start}
    return {**ids, **settings}


def _config_json(config: dict, generation: dict, dtype: str) -> dict:
    ids = {name: generation.get(name) for name in DEFAULT_IDS}
    family = _family(config)
    return {
        "architectures": [_ARCHITECTURES[family]],
        "model_type": family,
        "vocab_size": config["vocab_size"],
        "d_model": config["d_model"],
        "encoder_layers": config["encoder_layers"],
        "decoder_layers": config["decoder_layers"],
        "num_hidden_layers": config["encoder_layers"],
        "encoder_attention_heads": config["encoder_attention_heads"],
        "decoder_attention_heads": config["decoder_attention_heads"],
        "encoder_ffn_dim": config["encoder_ffn_dim"],
        "decoder_ffn_dim": config["decoder_ffn_dim"],
        "max_position_embeddings": config["max_position_embeddings"],
        "activation_function": config.get("activation_function", "gelu"),
        "dropout": config["dropout"],
        "attention_dropout": config["attention_dropout"],
        "activation_dropout": config["activation_dropout"],
        "encoder_layerdrop": config.get("encoder_layerdrop", 0.0),
        "decoder_layerdrop": config.get("decoder_layerdrop", 0.0),
        "init_std": config["init_std"],
        "scale_embedding": config["scale_embedding"],
        "is_encoder_decoder": True,
        "tie_word_embeddings": config.get("tie_word_embeddings", True),
        **ids,
        "torch_dtype": dtype,
        "use_cache": True,
    }


def _family(config: dict) -> str:
    """The `model_type` whose arithmetic the core configuration has in transformers 4 and 5.

    Raises:
        ValueError: it is that of BARTs of transformers 3 that no later version computes.
    """
    family = config.get("model_type", "bart")
    norms = [config.get(name, False) for name in ("normalize_before", "add_final_layer_norm")]
    if family != "bart" or not any(norms):
        return family
    if all(norms):
        # mBARTs of version 2 called themselves BARTs.
        return "mbart"
    raise ValueError(
        "transformers computes no BART with `normalize_before` "
        f"{norms[0]} and `add_final_layer_norm` {norms[1]}; both must be true or both false.\n"
        "hint: `save_weights` with a name that ends in `.safetensors` keeps the weights"
    )


def _tokenizer_json(tokenizer: dict, config: dict | None) -> dict:
    special = {
        "bos_token": "<s>",
        "eos_token": "</s>",
        "cls_token": "<s>",
        "sep_token": "</s>",
        "pad_token": "<pad>",
        "mask_token": "<mask>",
        "unk_token": "<unk>",
    }
    known = {name: token for name, token in special.items() if token in tokenizer["vocabulary"]}
    return {
        "tokenizer_class": "BartTokenizer",
        "add_prefix_space": tokenizer["add_prefix_space"],
        **({"model_max_length": config["max_position_embeddings"]} if config else {}),
        **known,
        **_own_entry(tokenizer, _TOKENIZER_DEFAULTS),
    }
