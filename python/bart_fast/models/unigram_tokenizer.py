"""The tokenizer of sentencepiece vocabularies, as mBART and its like have them."""

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from bart_fast import _core
from bart_fast._validation import (
    argument_error,
    check_config,
    check_flag,
    check_positive_int,
    check_text,
)
from bart_fast.models.bart_tokenizer import BartTokenizer, check_dtype
from bart_fast.presets.files import naming

TOKENIZER_FILE = "tokenizer.json"
# Special tokens that are no languages.
_NO_LANGUAGES = ("<s>", "<pad>", "</s>", "<unk>", "<mask>", "<cls>", "<sep>")


class UnigramTokenizer(BartTokenizer):
    """Turns text into token ids and back, as Hugging Face's fast tokenizers of sentencepiece do.

    Everything is read from a `tokenizer.json` whose model is `Unigram`. Multilingual models mark
    a text's language by a token: sources are written as the file's template says, with
    `source_language` in it; targets with `target_language`, which answers to strings start with.

    Args:
        tokenizer_json: the name of a `tokenizer.json`, or its text. Defaults to `None`: none yet,
            see `load_assets()`.
        source_language: str, such as `"en_XX"`. Can be set later. Defaults to `None`: the one in
            the file's template.
        target_language: str. Can be set later. Defaults to `None`: answers start as the checkpoint
            says (`decoder_start_token_id` alone), and `fit()` needs one. A checkpoint of one target
            language sets it when it is loaded.
        sequence_length: int. Token ids are cut or padded to this length. Defaults to `None`.
        dtype: `"int32"`, `"int64"`, or `"string"` for tokens instead of ids. Defaults to `"int32"`.
        name: str. Defaults to `"unigram_tokenizer"`.
        trainable: bool. Kept for Keras' configs. Defaults to `True`.
        config_file: str. Kept for Keras' configs. Defaults to `"tokenizer.json"`.
        tokenizer_config: dict. Fields of a `tokenizer_config.json` that are kept for
            `export_to_transformers`; `src_lang` and `tgt_lang` are languages where none is given,
            the latter for `fit()` alone. Defaults to `None`.

    Raises:
        ValueError: the file describes another tokenizer, or the language is none of it.
        FileNotFoundError: the file does not exist.

    Reference:
        Kudo, 2018, "Subword Regularization"; Liu et al., 2020, "Multilingual Denoising Pre-training
        for Neural Machine Translation" (languages); transformers' `MBartTokenizerFast`.
    """

    def __init__(
        self,
        tokenizer_json: str | os.PathLike | None = None,
        source_language: str | None = None,
        target_language: str | None = None,
        sequence_length: int | None = None,
        dtype: str = "int32",
        *,
        name: str = "unigram_tokenizer",
        trainable: bool = True,
        config_file: str = TOKENIZER_FILE,
        tokenizer_config: Mapping[str, Any] | None = None,
    ):
        self.sequence_length = sequence_length
        if sequence_length is not None:
            self.sequence_length = check_positive_int("sequence_length", sequence_length)
        self.dtype = check_dtype(dtype)
        self.name = check_text("name", name)
        self.trainable = check_flag("trainable", trainable)
        self.config_file = check_text("config_file", config_file)
        self.tokenizer_config = {}
        if tokenizer_config is not None:
            self.tokenizer_config = check_config("tokenizer_config", tokenizer_config)
        # What the base class has, and sentencepiece has not.
        self.merges, self.add_prefix_space, self.unsplittable_tokens = None, False, []
        self._source_language = self._target_language = None
        text = None if tokenizer_json is None else _read(tokenizer_json)
        with naming("tokenizer_json" if text is tokenizer_json else tokenizer_json):
            self._set_json(text)
        saved = self.tokenizer_config.get("src_lang")
        if source_language is None and self.vocabulary is not None and saved in self.languages:
            source_language = saved
        if source_language is not None:
            self.source_language = source_language
        self.target_language = target_language

    def _set_json(self, text: str | None) -> None:
        """Takes the content of a `tokenizer.json`, or none."""
        self.tokenizer_json, self.vocabulary, self._core = text, None, None
        if text is None:
            return
        core = _core.SentencePiece(text)
        vocabulary = dict(core.vocabulary())
        lacking = [token for token in self.special_tokens if token not in vocabulary]
        if lacking:
            raise ValueError(
                f"must have the special tokens of BART. Missing: {', '.join(map(repr, lacking))}."
            )
        self._core, self.vocabulary = core, vocabulary
        self._ids = np.arange(len(vocabulary))
        self._special = dict(core.special_tokens())
        self.unsplittable_tokens = list(self._special)
        self._template = core.template()
        marks = [id for part in self._template for id in part if id in self._language_ids()]
        self._source_language = self.id_to_token(marks[0]) if len(marks) == 1 else None
        self._mark = marks[0] if len(marks) == 1 else None

    def set_vocabulary_and_merges(self, vocabulary: Any, merges: Any) -> None:
        """Not of this class: its vocabulary is that of its `tokenizer.json`.

        Raises:
            ValueError: always.
        """
        raise argument_error(
            "vocabulary",
            "is that of `tokenizer.json`",
            vocabulary,
            "make another `UnigramTokenizer`",
        )

    # Languages.

    @property
    def languages(self) -> list[str]:
        """The tokens that mark languages; empty where the template has none."""
        self._checked_core()
        return [] if self._mark is None else [self.id_to_token(id) for id in self._language_ids()]

    def _language_ids(self) -> list[int]:
        return [id for token, id in self._special.items() if token not in _NO_LANGUAGES]

    @property
    def source_language(self) -> str | None:
        """The language that sources are marked with; `None` where the template has none."""
        return self._source_language

    @source_language.setter
    def source_language(self, value: str) -> None:
        self._source_language = self._checked_language("source_language", value)

    @property
    def target_language(self) -> str | None:
        """The language that targets are marked with and answers start with, if one is set."""
        return self._target_language

    @target_language.setter
    def target_language(self, value: str | None) -> None:
        if value is not None:
            value = self._checked_language("target_language", value)
        self._target_language = value

    def _checked_language(self, name: str, value: Any) -> str:
        known = self.languages
        if value not in known:
            shown = ", ".join(known[:60]) or "none"
            raise argument_error(name, f"must be a language of the tokenizer ({shown})", value)
        return value

    def adopt_settings(self, settings: Mapping[str, Any]) -> None:
        """Takes the target language that a checkpoint's generation settings name, if they do:
        as `decoder_start_token_id`, or as `forced_bos_token_id`."""
        name = (
            "decoder_start_token_id" if self._mark in self._template[1] else "forced_bos_token_id"
        )
        if self._mark is not None and settings.get(name) in self._language_ids():
            self._target_language = self.id_to_token(settings[name])

    @property
    def _source_affixes(self) -> tuple[list[int], list[int]]:
        return self._marked(self._source_language)

    @property
    def _target_affixes(self) -> tuple[list[int], list[int]]:
        """Those of labels; a ValueError where their language is not known."""
        language = self._target_language or self.tokenizer_config.get("tgt_lang")
        if self._mark is not None and language is None:
            raise argument_error(
                "target_language",
                "must be set for targets: the tokenizer marks their language",
                None,
                f"`tokenizer.target_language = {self.languages[0]!r}`, or another of `languages`",
            )
        return self._marked(language)

    @property
    def _opening(self) -> list[int]:
        """What answers start with: as labels do where a language is set, else the end token, which
        stands for what the checkpoint says."""
        return [self.end_token_id] if self._target_language is None else super()._opening

    def _marked(self, language: str | None) -> tuple[list[int], list[int]]:
        """The template's tokens before and after a text in `language`."""
        self._checked_core()
        mark = self._mark if language is None else self.vocabulary.get(language)
        before, after = ([mark if id == self._mark else id for id in p] for p in self._template)
        return before, after

    # The vocabulary.

    @property
    def special_token_ids(self) -> list[int]:
        """The ids of all special tokens, languages among them: answers leave them out."""
        self._checked_core()
        return list(self._special.values())

    def _special_id(self, token: str) -> int | None:
        return None if self.vocabulary is None else self.vocabulary.get(token)

    # Saving and loading.

    def get_config(self) -> dict[str, Any]:
        """The constructor's arguments as plain values, without the vocabulary."""
        return {
            "name": self.name,
            "trainable": self.trainable,
            "dtype": self.dtype,
            "config_file": self.config_file,
            "sequence_length": self.sequence_length,
        }

    def transformers_json(self) -> tuple[str, dict[str, Any]]:
        """The text of `tokenizer.json` and the fields of `tokenizer_config.json`, with the
        languages of now."""
        self._checked_core()
        text, fields = self.tokenizer_json, dict(self.tokenizer_config)
        fields.setdefault("tokenizer_class", "PreTrainedTokenizerFast")
        if self._mark is None:
            return text, fields
        fields["src_lang"] = self.source_language
        if self.target_language is not None:
            fields["tgt_lang"] = self.target_language
        before = self.id_to_token(self._mark)
        if before == self.source_language:
            return text, fields
        file = json.loads(text)
        template = file["post_processor"]
        for place in [*template["single"], *template.get("pair", [])]:
            token = place.get("SpecialToken")
            if token is not None and token["id"] == before:
                token["id"] = self.source_language
        template.get("special_tokens", {}).pop(before, None)
        template.setdefault("special_tokens", {})[self.source_language] = {
            "id": self.source_language,
            "ids": [self.vocabulary[self.source_language]],
            "tokens": [self.source_language],
        }
        return json.dumps(file, ensure_ascii=False), fields

    def save_assets(self, dir_path: str | os.PathLike) -> None:
        """Writes `tokenizer.json` into a directory that exists."""
        text, _ = self.transformers_json()
        (Path(dir_path) / TOKENIZER_FILE).write_text(text, encoding="utf-8")

    def load_assets(self, dir_path: str | os.PathLike) -> None:
        """Takes the `tokenizer.json` of a directory."""
        self._set_json(_read(Path(dir_path) / TOKENIZER_FILE))

    def __getstate__(self) -> dict[str, Any]:
        made = ("_core", "_ids", "_special", "_template", "_mark", "vocabulary")
        return {key: value for key, value in self.__dict__.items() if key not in made}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        source = self._source_language
        self._set_json(self.tokenizer_json)
        self._source_language = source


def _read(tokenizer_json: Any) -> str:
    """The text of a file, or of a string that is one."""
    if isinstance(tokenizer_json, str) and tokenizer_json.lstrip().startswith("{"):
        return tokenizer_json
    if not isinstance(tokenizer_json, str | os.PathLike):
        raise argument_error(
            "tokenizer_json", "must be the name or the text of a tokenizer.json", tokenizer_json
        )
    kind, text = _core.read_tokenizer_kind(os.fspath(tokenizer_json))
    if kind != "Unigram":
        raise ValueError(
            f"`tokenizer_json` must have a model `Unigram`. Received: {kind!r}.\n"
            "hint: byte-level BPE is for `BartTokenizer`"
        )
    return text
