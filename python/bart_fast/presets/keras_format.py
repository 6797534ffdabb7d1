"""Keras preset directories: what keras-hub 0.32 writes and reads, file by file.

Some things that keras-hub does not keep are added where it leaves them alone: the sequence lengths
as arguments of the preprocessor (which keras-hub then honours too), the sampler as an entry of
`task.json`, and as an entry of `config.json` rates of dropout that Keras has no field for and the
generation settings of a checkpoint of Hugging Face.
"""

from __future__ import annotations

import datetime
import json
from pathlib import Path

from bart_fast import _dtypes

from . import classifier, keras_weights
from .files import read_json, write_json, write_merges
from .keras_names import Dimensions, Group, count_parameters, groups, int8_layers
from .preset import Preset, default_lengths, missing_file
from .transformers_format import DEFAULT_IDS, special_ids

# The versions whose layout this is.
KERAS_VERSION, KERAS_HUB_VERSION = "3.15.1", "0.32.0"

ASSETS = "assets/tokenizer"
_OWN_ENTRY = "bart_fast"
_GENERATION = "generation_config"
_LOADS_IN = "loads_in"
_SIZES = {
    "vocabulary_size": "vocab_size",
    "num_layers": "encoder_layers",
    "num_heads": "encoder_attention_heads",
    "hidden_dim": "d_model",
    "intermediate_dim": "encoder_ffn_dim",
    "max_sequence_length": "max_position_embeddings",
}
# What Keras implies where `dropout` is the one rate it knows: attention probabilities are dropped
# at the same rate, and nothing else is. Other rates are kept in an entry of our own.
_RATES = {
    "attention_dropout": None,
    "activation_dropout": 0.0,
    "encoder_layerdrop": 0.0,
    "decoder_layerdrop": 0.0,
}
# What Keras' BART does not have.
_SWITCHES = (
    "scale_embedding",
    "final_logits_bias",
    "normalize_before",
    "add_final_layer_norm",
    "separate_embeddings",
)
_UNKNOWN_IDS = dict.fromkeys(DEFAULT_IDS)


def read(directory: Path) -> Preset:
    """Read the Keras preset in `directory`; its weights stay on the disk.

    Raises:
        FileNotFoundError: a file that the others call for is missing.
        ValueError: a file is damaged, or describes something else than a BART.
    """
    config, dtype, loads_in, generation = None, "float32", None, {}
    path = directory / "config.json"
    if path.is_file():
        config, dtype, loads_in, generation = _read_backbone(path)
    task = _read_optional(directory / "task.json", "BartSeq2SeqLM", classifier.CLASS_NAME)
    preprocessor = _read_optional(
        directory / "preprocessor.json",
        "BartSeq2SeqLMPreprocessor",
        classifier.PREPROCESSOR_CLASS_NAME,
    )
    preprocessor = preprocessor or _inner(task, "preprocessor")
    packs = bool(preprocessor) and preprocessor["class_name"] == classifier.PREPROCESSOR_CLASS_NAME
    lengths = _lengths(None if packs else preprocessor, config, directory)
    tokenizer = _read_optional(directory / "tokenizer.json", "BartTokenizer")
    tokenizer = tokenizer or _inner(preprocessor, "tokenizer")
    assets = [directory / ASSETS / name for name in ("vocabulary.json", "merges.txt")]
    vocabulary, merges = (path if path.is_file() else None for path in assets)
    return Preset(
        path=directory,
        format="keras",
        dtype=dtype,
        loads_in=loads_in,
        preprocessor_config=lengths,
        classifier=_classifier(task, directory / "task.json"),
        packing=_packing(preprocessor if packs else None, lengths, directory),
        _tokenizer_options=_tokenizer_options(tokenizer, directory / "tokenizer.json"),
        sampler=_sampler(task, directory / "task.json"),
        vocabulary_file=vocabulary,
        merges_file=merges,
        generation_config=generation,
        _backbone_config=config,
        # Keras goes by the vocabulary; a checkpoint that came from elsewhere by its settings.
        _special_ids=special_ids(_UNKNOWN_IDS, generation, path) if generation else None,
    )


def load_weights(preset: Preset, core_model, core_head=None) -> bool:
    """Set the parameters of `core_model` from the preset. See `presets.load_weights`."""
    preset.check_quantization()
    quantized = preset.dtype == "int8"
    files = preset.weight_files()
    if not files:
        raise missing_file(preset.path, keras_weights.WEIGHTS_FILE, "keras")
    if core_head is not None:
        file = preset.path / classifier.WEIGHTS_FILE
        if not file.is_file():
            raise missing_file(preset.path, classifier.WEIGHTS_FILE, "keras")
        keras_weights.load([file], classifier.groups_of(core_head), core_head)
    # The sizes of the model and not of the preset: they differ where `from_preset` was given some.
    sizes = dimensions(json.loads(core_model.config))
    keras_weights.load(files, groups(sizes, quantized=quantized), core_model)
    return core_head is None and preset.classifier is not None


def dimensions(config: dict) -> Dimensions:
    """Keras' sizes of a core configuration. ValueError where Keras has no way to say it."""
    unlike = [
        (name, config[f"encoder_{name}"], config[f"decoder_{name}"])
        for name in ("layers", "attention_heads", "ffn_dim")
        if config[f"encoder_{name}"] != config[f"decoder_{name}"]
    ]
    problems = [
        f"`encoder_{name}` {left} differs from `decoder_{name}` {right}"
        for name, left, right in unlike
    ]
    problems += [f"`{name}` is on" for name in _SWITCHES if config.get(name)]
    if not config.get("tie_word_embeddings", True):
        problems.append("`tie_word_embeddings` is off")
    if (family := config.get("model_type", "bart")) != "bart":
        problems.append(f"`model_type` is {family}")
    if (activation := config.get("activation_function", "gelu")) != "gelu":
        problems.append(f"`activation_function` is {activation}")
    if problems:
        raise ValueError(
            f"a Keras preset cannot describe this model: {'; '.join(problems)}.\n"
            "hint: save it with `export_to_transformers(directory)`."
        )
    return Dimensions(**{keras: config[ours] for keras, ours in _SIZES.items()})


def save(
    directory,
    *,
    core_model=None,
    names: dict[str, str],
    tokenizer: dict | None = None,
    preprocessor: dict | None = None,
    task: bool = False,
    classification: dict | None = None,
    core_head=None,
    sampler: str | dict | None = None,
    generation: dict | None = None,
    max_shard_size: float | None = 10,
    dtype: str | None = None,
    loads_in: str | None = None,
) -> None:
    """Write a preset from plain values; `presets.save_keras_preset` takes them from objects.

    Args:
        names: `name` of the parts "backbone", "tokenizer", "preprocessor" and "task".
        tokenizer: `vocabulary`, `merges`, `sequence_length`, `add_prefix_space`,
            `unsplittable_tokens` and `dtype`.
        preprocessor: `encoder_sequence_length` and `decoder_sequence_length`; of a classifier
            `sequence_length` and `truncate`.
        task: write `task.json`?
        classification: that of a classifier, see `classifier.py`, whose weights `core_head` holds.
        generation: settings and special ids, as in `Preset.generation_config`, where they are not
            those of any Keras model.
        dtype: how floats are stored; `None`: all as the model keeps it.
        loads_in: the precision in which the preset is loaded where nobody says; `None`: the usual.
    """
    from . import atomic  # Its imports are for saving.

    parts: dict[str, dict] = {}
    stale: tuple[str, ...] = ()
    if core_model is not None:
        config = json.loads(core_model.config)
        # Published checkpoints carry a bias of zeros, which leaving out does not change.
        if config.get("final_logits_bias"):
            config["final_logits_bias"] = bool(core_model.get_parameter("final_logits_bias").any())
        sizes = dimensions(config)
        precision = dtype or core_model.dtype
        table = groups(sizes, quantized=precision == "int8")
        policy = dtype_policy(precision, config)
        own = {_GENERATION: generation, _LOADS_IN: loads_in}
        parts["config.json"] = _backbone_json(config, sizes, names["backbone"], policy, own)
        stale = (keras_weights.WEIGHTS_FILE, keras_weights.SHARDS_FILE, keras_weights.SHARD_PATTERN)
    if tokenizer is not None and "tokenizer_json" in tokenizer:
        raise ValueError(
            "a Keras preset of BART cannot hold a sentencepiece tokenizer.\n"
            "hint: save it with `export_to_transformers(directory)`."
        )
    if tokenizer is not None:
        parts["tokenizer.json"] = _tokenizer_json(tokenizer, names["tokenizer"])
    if preprocessor is not None:
        parts["preprocessor.json"] = _preprocessor_json(
            preprocessor, parts.get("tokenizer.json"), names["preprocessor"]
        )
    if task:
        parts["task.json"] = _task_json(parts, names["task"], sampler, classification)
        stale += (classifier.WEIGHTS_FILE,)
    with atomic.staged_directory(directory, marker="config.json", stale=stale) as folder:
        for name, value in parts.items():
            write_json(folder / name, value)
        if tokenizer is not None:
            write_json(folder / ASSETS / "vocabulary.json", tokenizer["vocabulary"], indent=None)
            write_merges(folder / ASSETS / "merges.txt", tokenizer["merges"])
        if core_model is not None:
            write_json(folder / "metadata.json", _metadata(table, classification))
            keras_weights.save(
                folder,
                table,
                core_model,
                name=names["backbone"],
                dtype=_dtypes.stored_dtype(precision),
                max_shard_size=max_shard_size,
            )
        if core_head is not None:
            _save_head(folder, core_head, names["task"])


def _save_head(folder: Path, core_head, name: str) -> None:
    """`task.weights.h5`, always float32."""
    import tempfile

    table = [Group("", name), *classifier.groups_of(core_head)]
    with tempfile.TemporaryDirectory(dir=folder) as inner:
        keras_weights.save(Path(inner), table, core_head, name=name, max_shard_size=None)
        (Path(inner) / keras_weights.WEIGHTS_FILE).rename(folder / classifier.WEIGHTS_FILE)


# Reading.


def _read_backbone(path: Path) -> tuple[dict, str, str | None, dict]:
    """What a `config.json` says: the core configuration, the stored dtype, the one to load in if
    it is another than usual, and generation settings."""
    saved = _read_optional(path, "BartBackbone")
    fields = dict(saved["config"])
    dtype = _dtype(fields.pop("dtype", None), path)
    for name in ("name", "trainable"):
        fields.pop(name, None)
    fields = {"dropout": 0.1, "max_sequence_length": 1024, **fields}
    unknown = sorted(fields.keys() - _SIZES.keys() - {"dropout"})
    missing = sorted(_SIZES.keys() - fields.keys())
    if unknown or missing:
        raise ValueError(
            f"`{path}`: the config of a BartBackbone has `{'`, `'.join(_SIZES)}` and `dropout`. "
            f"Missing: {missing or 'none'}; not known: {unknown or 'none'}."
        )
    for name in _SIZES:
        if type(fields[name]) is not int or fields[name] < 1:
            raise ValueError(
                f"`{path}`: `{name}` must be a positive integer. Received: {fields[name]!r}."
            )
    if fields["hidden_dim"] % fields["num_heads"]:
        raise ValueError(
            f"`{path}`: `hidden_dim` must be a multiple of `num_heads`. "
            f"Received: {fields['hidden_dim']} and {fields['num_heads']}."
        )
    rates = {"dropout": fields["dropout"]} | _implied_rates(fields["dropout"])
    own = _own_entry(saved, path)
    generation, loads_in = own.pop(_GENERATION, {}), own.pop(_LOADS_IN, None)
    rates |= own
    for name, rate in rates.items():
        if type(rate) not in (int, float) or not 0 <= rate < 1:
            raise ValueError(f"`{path}`: `{name}` must be in [0, 1). Received: {rate!r}.")
    config = {ours: fields[keras] for keras, ours in _SIZES.items()}
    for name in ("layers", "attention_heads", "ffn_dim"):
        config[f"decoder_{name}"] = config[f"encoder_{name}"]
    config |= {name: float(rate) for name, rate in rates.items()}
    config |= dict.fromkeys(_SWITCHES, False) | {"model_type": "bart", "init_std": 0.02}
    config |= {"tie_word_embeddings": True, "activation_function": "gelu"}
    return config, dtype, loads_in, generation


def _implied_rates(dropout: float) -> dict[str, float]:
    return {name: dropout if rate is None else rate for name, rate in _RATES.items()}


def _own_entry(saved: dict, path: Path) -> dict:
    """The rates of dropout and the settings that `_backbone_json` added, if it did."""
    own, known = saved.get(_OWN_ENTRY, {}), (*_RATES, _GENERATION, _LOADS_IN)
    if not isinstance(own, dict) or not own.keys() <= set(known):
        raise ValueError(
            f"`{path}`: `{_OWN_ENTRY}` may hold `{'`, `'.join(known)}`. Received: {own!r}."
        )
    if not isinstance(own.get(_GENERATION, {}), dict):
        raise ValueError(
            f"`{path}`: `{_GENERATION}` must be an object. Received: {own[_GENERATION]!r}."
        )
    if own.get(_LOADS_IN) not in (None, *_dtypes.PRECISIONS):
        allowed = ", ".join(_dtypes.PRECISIONS)
        raise ValueError(
            f"`{path}`: `{_LOADS_IN}` must be one of {allowed}. Received: {own[_LOADS_IN]!r}."
        )
    return dict(own)


def _dtype(saved, path: Path) -> str:
    """The name of a dtype policy: "float32", "mixed_bfloat16", "int8", ..."""
    if saved is None:
        return "float32"
    name = _dtypes.policy_name(saved) if isinstance(saved, (str, dict)) else None
    if name is not None:
        return name
    raise ValueError(f"`{path}`: `dtype` must be a name or a dtype policy. Received: {saved!r}.")


def _read_optional(path: Path, *class_names: str) -> dict | None:
    """A serialised object of one of the given classes; None where the file is absent."""
    if not path.is_file():
        return None
    saved = read_json(path)
    if saved.get("class_name") not in class_names or not isinstance(saved.get("config"), dict):
        raise ValueError(
            f"`{path}` must describe a {' or a '.join(class_names)}, with its `config`. "
            f"Received: class_name={saved.get('class_name')!r}."
        )
    return saved


def _inner(saved: dict | None, name: str) -> dict | None:
    """The object serialised inside another, such as the tokenizer of a preprocessor."""
    inner = saved["config"].get(name) if saved else None
    return inner if isinstance(inner, dict) and isinstance(inner.get("config"), dict) else None


def _lengths(saved: dict | None, config: dict | None, directory: Path) -> dict[str, int]:
    lengths = default_lengths(config)
    for name in lengths:
        value = saved["config"].get(name, lengths[name]) if saved else lengths[name]
        if type(value) is not int or value < 1:
            path = directory / "preprocessor.json"
            raise ValueError(f"`{path}`: `{name}` must be a positive integer. Received: {value!r}.")
        lengths[name] = value
    return lengths


def _classifier(task: dict | None, path: Path) -> dict | None:
    """The classifier that `task.json` describes."""
    if task is None or task["class_name"] != classifier.CLASS_NAME:
        return None
    own = task.get(_OWN_ENTRY, {})
    if not isinstance(own, dict):
        raise ValueError(f"`{path}`: `{_OWN_ENTRY}` must be an object. Received: {own!r}.")
    return classifier.from_keras(task, own, path)


def _packing(saved: dict | None, lengths: dict, directory: Path) -> dict:
    """How a classifier's texts are packed: as its preprocessor says, or one of another kind."""
    if saved is None:
        return {"sequence_length": lengths["encoder_sequence_length"]}
    config, path = saved["config"], directory / "preprocessor.json"
    length = config.get("sequence_length", lengths["encoder_sequence_length"])
    if type(length) is not int or length < 1:
        raise ValueError(
            f"`{path}`: `sequence_length` must be a positive integer. Received: {length!r}."
        )
    truncate = config.get("truncate")
    return {"sequence_length": length, **({} if truncate is None else {"truncate": truncate})}


def _tokenizer_options(saved: dict | None, path: Path) -> dict:
    config = saved["config"] if saved else {}
    options = {
        "sequence_length": config.get("sequence_length"),
        "add_prefix_space": config.get("add_prefix_space", False),
        "unsplittable_tokens": config.get("unsplittable_tokens"),
    }
    length, space, tokens = options.values()
    dtype = _dtype(config.get("dtype", "int32"), path)
    if length is not None and (type(length) is not int or length < 1):
        raise ValueError(
            f"`{path}`: `sequence_length` must be a positive integer or null. Received: {length!r}."
        )
    if not isinstance(space, bool):
        raise ValueError(
            f"`{path}`: `add_prefix_space` must be true or false. Received: {space!r}."
        )
    named = isinstance(tokens, list) and all(isinstance(token, str) for token in tokens)
    if tokens is not None and not named:
        raise ValueError(
            f"`{path}`: `unsplittable_tokens` must be a list of strings or null. "
            f"Received: {tokens!r}."
        )
    return {**options, "dtype": dtype}


def _sampler(task: dict | None, path: Path) -> str | dict | None:
    sampler = task.get("sampler") if task else None
    if sampler is not None and not isinstance(sampler, (str, dict)):
        raise ValueError(
            f"`{path}`: `sampler` must be a name or a serialised sampler. Received: {sampler!r}."
        )
    return sampler


# Writing: the JSON files.


def dtype_policy(precision: str, config: dict) -> dict:
    """What Keras writes for the dtype of a backbone of this core configuration."""
    if precision != "int8":
        return _dtypes.policy(precision)
    return _dtypes.int8_policy_map(int8_layers(config["encoder_layers"], config["decoder_layers"]))


def _serialised(
    module: str, class_name: str, name: str, config: dict, dtype: str | dict | None
) -> dict:
    """An object in the form of `keras.saving.serialize_keras_object`."""
    head = {"name": name, "trainable": True}
    if dtype is not None:
        head["dtype"] = _dtypes.policy(dtype) if isinstance(dtype, str) else dtype
    return {
        "module": f"keras_hub.src.models.bart.{module}",
        "class_name": class_name,
        "config": {**head, **config},
        "registered_name": f"keras_hub>{class_name}",
    }


def _backbone_json(config: dict, sizes: Dimensions, name: str, dtype: dict, settings: dict) -> dict:
    fields = {
        "vocabulary_size": sizes.vocabulary_size,
        "num_layers": sizes.num_layers,
        "num_heads": sizes.num_heads,
        "hidden_dim": sizes.hidden_dim,
        "intermediate_dim": sizes.intermediate_dim,
        "dropout": config["dropout"],
        "max_sequence_length": sizes.max_sequence_length,
    }
    saved = _serialised("bart_backbone", "BartBackbone", name, fields, dtype)
    implied = _implied_rates(config["dropout"])
    rates = {key: config[key] for key, rate in implied.items() if config.get(key, rate) != rate}
    own = {**rates, **{key: value for key, value in settings.items() if value}}
    return {**saved, _OWN_ENTRY: own} if own else saved


def _tokenizer_json(tokenizer: dict, name: str) -> dict:
    fields = {"config_file": "tokenizer.json"}
    fields |= {
        key: tokenizer[key]
        for key in ("sequence_length", "add_prefix_space", "unsplittable_tokens")
    }
    return _serialised("bart_tokenizer", "BartTokenizer", name, fields, tokenizer["dtype"])


def _preprocessor_json(lengths: dict, tokenizer: dict | None, name: str) -> dict:
    fields: dict = {"tokenizer": tokenizer} if tokenizer else {}
    fields["config_file"] = "preprocessor.json"
    if "truncate" in lengths:
        module = "bart_text_classifier_preprocessor"
        fields |= lengths
        return _serialised(module, classifier.PREPROCESSOR_CLASS_NAME, name, fields, "float32")
    # keras-hub takes them as arguments, but writes none; so those of its default are left out.
    fields |= {key: length for key, length in lengths.items() if length != 1024}
    module, class_name = "bart_seq_2_seq_lm_preprocessor", "BartSeq2SeqLMPreprocessor"
    return _serialised(module, class_name, name, fields, "float32")


def _task_json(
    parts: dict, name: str, sampler: str | dict | None, classification: dict | None
) -> dict:
    module, class_name = "bart_seq_2_seq_lm", "BartSeq2SeqLM"
    if classification is not None:
        module, class_name = "bart_text_classifier", classifier.CLASS_NAME
    saved = _serialised(module, class_name, name, {}, None)
    # The order and the missing `trainable` are Keras'.
    saved["config"] = {
        "backbone": parts["config.json"],
        "preprocessor": parts.get("preprocessor.json"),
        "name": name,
    }
    if classification is not None:
        config, own = classifier.to_keras(classification)
        saved["config"] |= config
        saved[_OWN_ENTRY] = own
    return saved if sampler is None else {**saved, "sampler": sampler}


def _metadata(table: list[Group], classification: dict | None) -> dict:
    from bart_fast import __version__

    return {
        "keras_version": KERAS_VERSION,
        "keras_hub_version": KERAS_HUB_VERSION,
        "parameter_count": count_parameters(table),
        "date_saved": datetime.datetime.now().strftime("%Y-%m-%d@%H:%M:%S"),
        "tasks": ["Seq2SeqLM" if classification is None else "TextClassifier"],
        "bart_fast_version": __version__,
    }
