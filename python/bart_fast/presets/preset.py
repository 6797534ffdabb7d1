"""What a preset directory says, in the words of this package, whichever format it has."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Literal

from bart_fast import _core, _dtypes

from . import keras_weights
from .files import (
    naming,
    read_merges,
    read_tokenizer_json,
    read_tokenizer_kind,
    read_vocabulary,
    shards,
)

SAFETENSORS_FILE = "model.safetensors"
# Where a Hugging Face directory keeps its weights, in the order in which transformers looks; an
# index names several files. The last is fairseq's name, beside a configuration of Hugging Face.
_TRANSFORMERS_WEIGHTS = (
    SAFETENSORS_FILE,
    f"{SAFETENSORS_FILE}.index.json",
    "pytorch_model.bin",
    "pytorch_model.bin.index.json",
    "model.pt",
)

# What stays whole in text where a preset does not say.
_SPECIAL_TOKENS = ("<s>", "</s>", "<pad>")

# What each format consists of; quoted by the errors about missing files.
NEEDED = {
    "keras": (
        "A Keras preset has `config.json` and `model.weights.h5` (or `model.weights.json` with "
        "its shards), and for text `tokenizer.json`, `assets/tokenizer/vocabulary.json` and "
        "`assets/tokenizer/merges.txt`."
    ),
    "transformers": (
        "A Hugging Face directory has `config.json` and `model.safetensors` or `pytorch_model.bin` "
        "(or the index of several), and for text `tokenizer.json`, or `vocab.json` and "
        "`merges.txt`."
    ),
}


@dataclass
class Preset:
    """A preset as it was read. Weights are not in it: see `load_weights`.

    Attributes:
        path: pathlib.Path. The directory.
        format: "keras" or "transformers".
        preprocessor_config: dict. `encoder_sequence_length` and `decoder_sequence_length`, as
            saved; by default 1024, or as many positions as the model has if those are fewer.
        sampler: str, dict or None. What `save_keras_preset` was given: the name of a sampler
            or its serialised form.
        generation_config: dict. Hugging Face's generation settings (`num_beams`, ...), empty
            for Keras presets.
        dtype: str. The dtype the weights were saved in, such as "float32" or "int8".
        loads_in: str or None. The precision of a model that is loaded from it where nobody says.
        vocabulary_file: pathlib.Path or None. Where the vocabulary is, if there is one.
        merges_file: pathlib.Path or None. Where the merges are, if there are any.
        tokenizer_file: pathlib.Path or None. Hugging Face's `tokenizer.json`, where it stands for
            vocabulary and merges.
        classifier: dict or None. The sequence classifier that it describes, see `classifier.py`.
        packing: dict. How a classifier's texts are packed: `sequence_length` and, where the preset
            says so, `truncate`.
    """

    path: Path
    format: Literal["keras", "transformers"]
    preprocessor_config: dict
    # `tokenizer_config` as far as it stands apart from the vocabulary.
    _tokenizer_options: dict
    sampler: str | dict | None = None
    generation_config: dict = field(default_factory=dict)
    dtype: str = "float32"
    loads_in: str | None = None
    vocabulary_file: Path | None = None
    merges_file: Path | None = None
    tokenizer_file: Path | None = None
    # Sentencepiece's own file, where nothing else describes the tokenizer.
    sentencepiece_file: Path | None = None
    # Fields of Hugging Face's `tokenizer_config.json`.
    _tokenizer_fields: dict = field(default_factory=dict)
    classifier: dict | None = None
    packing: dict = field(default_factory=dict)
    # Tokens that were added to the vocabulary in the file.
    _added_tokens: dict[str, int] = field(default_factory=dict)
    # None where there is no `config.json`: a directory with a tokenizer alone.
    _backbone_config: dict | None = None
    # Hugging Face keeps ids in its configuration; Keras goes by the names in the vocabulary.
    _special_ids: dict[str, int | None] | None = None
    # See `adopt_tokenizer`.
    _tokenizer: object = None

    @property
    def has_backbone(self) -> bool:
        """Is there a model, and not only a tokenizer?"""
        return self._backbone_config is not None

    @property
    def has_tokenizer(self) -> bool:
        """Are there a vocabulary and merges?"""
        both = self.vocabulary_file is not None and self.merges_file is not None
        return both or self.tokenizer_file is not None

    @property
    def mentions_tokenizer(self) -> bool:
        """Is there at least one file of a tokenizer?"""
        files = (self.vocabulary_file, self.merges_file, self.tokenizer_file)
        return any(file is not None for file in (*files, self.sentencepiece_file))

    @cached_property
    def unigram_json(self) -> str | None:
        """The text of a `tokenizer.json` whose model is sentencepiece's; `None` for another.

        Raises:
            ValueError: there is a sentencepiece file alone, or the file is damaged.
        """
        if self.sentencepiece_file is not None:
            raise ValueError(
                f"`{self.sentencepiece_file}`: a sentencepiece model is read from a "
                "`tokenizer.json`, and there is none beside it.\n"
                "hint: transformers writes one: `AutoTokenizer.from_pretrained(directory)"
                ".save_pretrained(directory)`; or load the model with `preprocessor=None`"
            )
        if self.tokenizer_file is None:
            return None
        kind, text = read_tokenizer_kind(self.tokenizer_file)
        return text if kind == "Unigram" else None

    @property
    def backbone_config(self) -> dict:
        """The fields of the core's BartConfig, ready for JSON: `vocab_size`, `d_model`, ...

        Raises:
            FileNotFoundError: the preset holds no model, or a shard of its weights is missing.
            ValueError: it describes far more weights than its files could hold.
        """
        if self._backbone_config is None:
            raise missing_file(self.path, "config.json", self.format)
        # Whoever asks is about to build the model. A tokenizer does not, and needs no weights.
        config, files = self._backbone_config, self.weight_files()
        _check_room(self.path, config, files)
        if self.format == "transformers" and not config["tie_word_embeddings"] and files:
            # Hugging Face's configuration does not say it.
            separate = _core.has_separate_embeddings([str(file) for file in files])
            config = {**config, "separate_embeddings": separate}
        return config

    def check_quantization(self) -> None:
        """Refuses weights that are quantised in a way that we do not have.

        Raises:
            ValueError: the message names the way out.
        """
        if self.dtype not in (*_dtypes.PRECISIONS, "float64"):
            raise ValueError(
                f"`{self.path}` holds weights quantised to {self.dtype}, which cannot be read yet; "
                f"allowed: {', '.join(_dtypes.PRECISIONS)}.\n"
                'hint: save it from keras-hub before `quantize()`, or after `quantize("int8")`.'
            )

    @property
    def precision(self) -> str:
        """What a model is loaded in where nobody says: float32, as in keras-hub, but a quantised
        preset stays so, if it does not say otherwise itself. ValueError for a quantisation that
        we do not have."""
        if self.format == "transformers":
            # Its floats may have any width; quantised checkpoints are refused with their config.
            return "float32"
        self.check_quantization()
        return self.loads_in or ("int8" if self.dtype == "int8" else "float32")

    def weight_files(self) -> list[Path]:
        """The files with the weights; empty where there are none."""
        if self.format == "keras":
            return keras_weights.weight_files(self.path)
        paths = (self.path / name for name in _TRANSFORMERS_WEIGHTS)
        path = next((path for path in paths if path.is_file()), None)
        if path is None:
            return []
        return shards(path) if path.suffix == ".json" else [path]

    @property
    def has_classification_head(self) -> bool:
        """Do its weights have the head of a sequence classifier? Where there are none, is one
        described?"""
        if self.format == "keras":
            return self.classifier is not None
        files = [str(file) for file in self.weight_files()]
        return _core.has_classification_head(files) if files else self.classifier is not None

    @cached_property
    def vocabulary(self) -> dict[str, int]:
        """The vocabulary, from token to id. FileNotFoundError where the preset has none."""
        if self.unigram_json is not None:
            with naming(self.tokenizer_file):
                return dict(_core.SentencePiece(self.unigram_json).vocabulary())
        if self.tokenizer_file is not None:
            return self._tokenizer_json[0]
        if self.vocabulary_file is None:
            raise missing_file(self.path, self._names[0], self.format)
        return read_vocabulary(self.vocabulary_file) | self._added_tokens

    @cached_property
    def merges(self) -> list[str]:
        """The merge rules, best first; sentencepiece has none. FileNotFoundError where the preset
        has none either way."""
        if self.unigram_json is not None:
            return []
        if self.tokenizer_file is not None:
            return self._tokenizer_json[1]
        if self.merges_file is None:
            raise missing_file(self.path, self._names[1], self.format)
        return read_merges(self.merges_file)

    @property
    def tokenizer_sources(self) -> tuple:
        """What a tokenizer of byte-level BPE is made of: vocabulary and merges, or their files if
        they hold all of it. Errors as for `vocabulary` and `merges`."""
        files = (self.vocabulary_file, self.merges_file)
        whole = all(files) and self.tokenizer_file is None and not self._added_tokens
        return files if whole else (self.vocabulary, self.merges)

    def adopt_tokenizer(self, tokenizer) -> None:
        """Ask this tokenizer, which was made of the preset, for ids, not the vocabulary's file."""
        self._tokenizer = tokenizer

    @cached_property
    def tokenizer_config(self) -> dict:
        """`sequence_length` (int or None), `add_prefix_space` (bool), `unsplittable_tokens` (list
        of str, or None where the preset does not say) and `dtype`. Errors as for `vocabulary`."""
        config = dict(self._tokenizer_options)
        added, space = list(self._added_tokens), False
        if self.tokenizer_file is not None and self.unigram_json is None:
            _, _, added, space = self._tokenizer_json
        if config["add_prefix_space"] is None:
            config["add_prefix_space"] = space
        if config["unsplittable_tokens"] is None and added:
            config["unsplittable_tokens"] = list(dict.fromkeys([*_SPECIAL_TOKENS, *added]))
        return config

    @cached_property
    def _tokenizer_json(self) -> tuple[dict[str, int], list[str], list[str], bool]:
        return read_tokenizer_json(self.tokenizer_file)

    @property
    def decoder_start_token_ids(self) -> list[int] | None:
        """What the decoder begins with when it is given nothing; None where it is not known.

        `[</s>, <s>]` for a Keras preset, `[decoder_start_token_id]` for Hugging Face.
        """
        if self._special_ids is not None:
            start = self._special_ids["decoder_start_token_id"]
            return None if start is None else [start]
        ids = [self.end_token_id, self.start_token_id]
        return None if None in ids else ids

    @property
    def start_token_id(self) -> int | None:
        """The id of `<s>`; None where it is not known."""
        return self._special("bos_token_id", "<s>")

    @property
    def end_token_id(self) -> int | None:
        """The id of `</s>`; None where it is not known."""
        return self._special("eos_token_id", "</s>")

    @property
    def pad_token_id(self) -> int | None:
        """The id of `<pad>`; None where it is not known."""
        return self._special("pad_token_id", "<pad>")

    def _special(self, field: str, token: str) -> int | None:
        if self._special_ids is not None:
            return self._special_ids[field]
        if self._tokenizer is not None:
            return self._tokenizer._special_id(token)
        known = self.vocabulary_file is not None or self.tokenizer_file is not None
        return self.vocabulary.get(token) if known else None

    @property
    def _names(self) -> tuple[str, str]:
        if self.format == "keras":
            return "assets/tokenizer/vocabulary.json", "assets/tokenizer/merges.txt"
        return "vocab.json", "merges.txt"


def missing_file(directory: Path, name: str, format: str | None) -> FileNotFoundError:
    """The error for a preset that lacks a file, with what it would need."""
    from .atomic import unfinished

    needs = [NEEDED[format]] if format else list(NEEDED.values())
    message = f"`{name}` is missing from the preset directory `{directory}`. {' '.join(needs)}"
    left = unfinished(directory)
    if left is not None:
        message += f"\nhint: a save was interrupted here; its files are in `{left}`."
    return FileNotFoundError(message)


def default_lengths(backbone_config: dict | None) -> dict[str, int]:
    """The sequence lengths of a preset that does not say: 1024, as in keras-hub, or as many
    positions as the model has if those are fewer."""
    length = min(1024, (backbone_config or {}).get("max_position_embeddings", 1024))
    return {"encoder_sequence_length": length, "decoder_sequence_length": length}


def _check_room(directory: Path, config: dict, files: list[Path]) -> None:
    """Refuse a configuration that describes far more weights than the files could hold.

    The model is allocated before its weights are read, so a damaged or hostile number in a small
    file must not ask for all memory. Half a byte a weight is the least that any format uses.
    """
    stored = sum(file.stat().st_size for file in files)
    try:
        count = _core.count_parameters(json.dumps(config))
    except ValueError as error:
        raise ValueError(f"`{directory / 'config.json'}`: {error}") from error
    if files and count / 2 > stored:
        raise ValueError(
            f"`config.json` describes a model of {count} weights, but `{files[0]}` has only "
            f"{stored} bytes; it is truncated or belongs to another model."
        )
