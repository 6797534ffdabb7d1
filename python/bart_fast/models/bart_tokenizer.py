"""The byte-level BPE tokenizer of BART."""

import json
import os
from collections.abc import Callable, Iterable, Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from bart_fast import _core
from bart_fast._texts import as_texts
from bart_fast._validation import (
    argument_error,
    check_flag,
    check_int,
    check_path,
    check_positive_int,
    check_text,
)
from bart_fast.models.tokenizer import Tokenizer
from bart_fast.presets.files import read_merges, read_vocabulary

VOCABULARY_FILE = "vocabulary.json"
MERGES_FILE = "merges.txt"
_DTYPES = ("int32", "int64", "string")


class BartTokenizer(Tokenizer):
    """Turns text into token ids and back, by BART's byte-level BPE.

    Text is cut into words by GPT-2's rule, a word's bytes are merged into the pieces of the
    vocabulary. Nothing is added at the start or the end; `BartSeq2SeqLMPreprocessor` does that.
    Any text comes back byte for byte if the vocabulary has a piece for each byte, as BART's has.

    Text may name the special tokens: `"</s>"` is one token, not four characters. `<mask>` and
    `<unk>` stay whole too where the vocabulary has them; `<mask>` takes the white space before it,
    as in Hugging Face's checkpoints of BART. A piece that merges lead to and the vocabulary lacks
    becomes `<unk>`, or is dropped where there is no `<unk>`.

    Args:
        vocabulary: dict from token to id, or the name of a JSON file that holds one. Ids may have
            gaps. `"<s>"`, `"<pad>"` and `"</s>"` must be in it. Defaults to `None`: none yet, see
            `load_assets()`.
        merges: list of merge rules, two tokens with a space between, the most important first; or
            the name of a file with one a line. Tokens may be outside the vocabulary. Defaults to
            `None`.
        sequence_length: int. Token ids are cut or padded to this length. Defaults to `None`: they
            are as long as the text makes them.
        add_prefix_space: bool. Treat text that does not begin with a space as if it did, so that
            its first word is tokenized like the others. Defaults to `False`.
        unsplittable_tokens: list of tokens of the vocabulary that stay whole in text. Defaults to
            `None`: the three special tokens.
        dtype: `"int32"`, `"int64"`, or `"string"` for tokens instead of ids. Defaults to `"int32"`.
        name: str. Defaults to `"bart_tokenizer"`.
        trainable: bool. Kept for Keras' configs. Defaults to `True`.
        config_file: str. Name of its file in a preset. Defaults to `"tokenizer.json"`.

    Call arguments:
        inputs: a string, or a list or array of strings. UTF-8 bytes count as strings.

    Raises:
        ValueError: a special token is missing, two tokens share an id, or a merge is malformed.
        FileNotFoundError: a file does not exist.

    Examples:

    ```python
    vocabulary = {"<s>": 0, "<pad>": 1, "</s>": 2, "a": 4, "Ġquick": 5, "Ġfox": 6}
    merges = ["Ġ q", "u i", "c k", "ui ck", "Ġq uick", "Ġ f", "o x", "Ġf ox"]
    tokenizer = bart_fast.models.BartTokenizer(vocabulary, merges)

    tokenizer("a quick fox")                    # array([4, 5, 6], dtype=int32)
    tokenizer(["a fox", "a quick quick fox"])   # [[4, 6], [4, 5, 5, 6]]
    tokenizer.detokenize([4, 5, 6])             # "a quick fox"
    ```

    Reference:
        Sennrich et al., 2016, "Neural Machine Translation of Rare Words with Subword Units";
        Radford et al., 2019, "Language Models are Unsupervised Multitask Learners" (bytes).
    """

    start_token = "<s>"
    end_token = "</s>"
    pad_token = "<pad>"

    def __init__(
        self,
        vocabulary: Mapping[str, int] | str | os.PathLike | None = None,
        merges: Iterable[str] | str | os.PathLike | None = None,
        sequence_length: int | None = None,
        add_prefix_space: bool = False,
        unsplittable_tokens: Iterable[str] | None = None,
        dtype: str = "int32",
        *,
        name: str = "bart_tokenizer",
        trainable: bool = True,
        config_file: str = "tokenizer.json",
    ):
        self.sequence_length = sequence_length
        if sequence_length is not None:
            self.sequence_length = check_positive_int("sequence_length", sequence_length)
        self.add_prefix_space = check_flag("add_prefix_space", add_prefix_space)
        self.unsplittable_tokens = _check_tokens(unsplittable_tokens, self.special_tokens)
        self.dtype = check_dtype(dtype)
        self.name = check_text("name", name)
        self.trainable = check_flag("trainable", trainable)
        self.config_file = check_text("config_file", config_file)
        self.set_vocabulary_and_merges(vocabulary, merges)

    def set_vocabulary_and_merges(
        self,
        vocabulary: Mapping[str, int] | str | os.PathLike | None,
        merges: Iterable[str] | str | os.PathLike | None,
    ) -> None:
        """Replaces vocabulary and merges; the constructor says what they may be."""
        if (vocabulary is None) != (merges is None):
            missing, given = (
                ("vocabulary", "merges") if merges is not None else ("merges", "vocabulary")
            )
            raise argument_error(missing, f"must be given together with `{given}`", None)
        if vocabulary is None:
            self._take(None, vocabulary=None, merges=None)
            return
        core = self._core_of_files(vocabulary, merges)
        if core is not None:
            # It has all that is needed; Python's own copies are made when they are asked for.
            self._check_special(core.token_to_id)
            self._take(core)
            return
        vocabulary = _read_vocabulary(vocabulary)
        merges = _read_merges(merges)
        self._check_special(vocabulary.get)
        core = _core.Tokenizer(vocabulary, merges, self.unsplittable_tokens, self.add_prefix_space)
        # Plain ints, whatever integers came, so that the vocabulary can be saved as JSON.
        ids = {token: int(id) for token, id in vocabulary.items()}
        self._take(core, vocabulary=ids, merges=merges)

    def _take(self, core: _core.Tokenizer | None, **copies: Any) -> None:
        """Replaces the core, and what was made of the old one."""
        self._core = core
        for name in ("vocabulary", "merges", "_ids"):
            self.__dict__.pop(name, None)
        self.__dict__.update(copies)

    def _core_of_files(self, vocabulary: Any, merges: Any) -> _core.Tokenizer | None:
        """The core's tokenizer of two files; `None` of anything else, or if something is wrong: the
        way over Python's dict and list says what."""
        if not all(isinstance(each, str | os.PathLike) for each in (vocabulary, merges)):
            return None
        try:
            return _core.read_tokenizer(
                os.fspath(vocabulary),
                os.fspath(merges),
                self.unsplittable_tokens,
                self.add_prefix_space,
            )
        except (ValueError, OSError):
            return None

    def _check_special(self, find: Callable[[str], int | None]) -> None:
        """Refuses a vocabulary without the tokens that it must have."""
        tokens = dict.fromkeys((*self.special_tokens, *self.unsplittable_tokens))
        lacking = [token for token in tokens if find(token) is None]
        if lacking:
            raise ValueError(
                f"`vocabulary` must have the special tokens of `{type(self).__name__}`. "
                f"Missing: {', '.join(map(repr, lacking))}."
            )

    @cached_property
    def vocabulary(self) -> dict[str, int] | None:
        """The vocabulary, from token to id; `None` if there is none yet."""
        return self._core.vocabulary()

    @cached_property
    def merges(self) -> list[str] | None:
        """The merge rules, the most important first; `None` if there are none yet."""
        return self._core.merges()

    @cached_property
    def _ids(self) -> np.ndarray:
        """The ids of the vocabulary, ascending."""
        return self._core.sorted_ids()

    # Text to ids.

    def __call__(self, inputs: Any) -> Any:
        """`tokenize(inputs)`."""
        return self.tokenize(inputs)

    call = __call__

    def tokenize(self, inputs: Any) -> Any:
        """Token ids of strings.

        Args:
            inputs: a string, or a list or array of strings. UTF-8 bytes count as strings.

        Returns:
            For one string an array [length]; for many a list with a list of ids for each, or with
            `sequence_length` an array [batch, sequence_length]. Lists of tokens if `dtype` is
            `"string"`.

        Raises:
            ValueError: `inputs` are not strings, are bytes that are not UTF-8, or hold half a
                surrogate pair; or there is no vocabulary yet.
        """
        texts, batched = as_texts("inputs", inputs)
        rows = self._ragged_ids(texts)
        if self.sequence_length is not None:
            rows = [self._fit_length(row) for row in rows]
        if self.dtype == "string":
            rows = [[self._core.id_to_token(id) for id in row] for row in rows]
            return rows if batched else rows[0]
        if not batched:
            return np.array(rows[0], dtype=self.dtype)
        if self.sequence_length is None:
            return rows
        return np.array(rows, dtype=self.dtype).reshape(len(rows), self.sequence_length)

    def _ragged_ids(self, texts: list[str]) -> list[list[int]]:
        """Token ids of each text, not cut and not padded."""
        return self._checked_core().encode_batch(texts)

    def offsets(self, inputs: Any) -> Any:
        """Where in the strings their tokens stand.

        Args:
            inputs: a string, or a list or array of strings. UTF-8 bytes count as strings.

        Returns:
            For one string an int32 array [length, 2]: first character of each token of `tokenize`,
            and the one behind its last; the space before a word is left out, as Hugging Face's
            tokenizers do. For many a list of such arrays.

        Raises:
            ValueError: as `tokenize()`.
        """
        texts, batched = as_texts("inputs", inputs)
        core = self._checked_core()
        rows = [[span for _, span in core.encode_with_spans(text)] for text in texts]
        arrays = [np.array(row, dtype=np.int32).reshape(-1, 2) for row in rows]
        return arrays if batched else arrays[0]

    def _fit_length(self, row: list[int]) -> list[int]:
        padding = [self.pad_token_id] * (self.sequence_length - len(row))
        return row[: self.sequence_length] + padding

    # Ids to text.

    def detokenize(self, inputs: Any) -> str | list[str]:
        """The text of token ids.

        Args:
            inputs: one sequence of ids (list or array [length]), or many (list of such, or array
                [batch, length]). A single id counts as a sequence of one.

        Returns:
            A string, or a list of strings. Special tokens appear by name. Bytes that are not
            UTF-8, such as half a character at the end, become U+FFFD.

        Raises:
            ValueError: `inputs` are not integers, or an id is not in the vocabulary.
        """
        self._checked_core()
        rows, batched = _id_rows(inputs)
        for index, row in enumerate(rows):
            unknown = ~self._has_token(row)
            if unknown.any():
                position = int(unknown.argmax())
                raise ValueError(
                    f"`inputs` must hold ids of the vocabulary, which go from {self._ids[0]} to "
                    f"{self._ids[-1]}. Received: {row[position]} at row {index}, position "
                    f"{position}."
                )
        texts = self._texts(rows)
        return texts if batched else texts[0]

    def _texts(self, rows: list[np.ndarray]) -> list[str]:
        """The text of each row of ids, which must be in the vocabulary."""
        return self._checked_core().decode_batch([row.tolist() for row in rows])

    def _has_token(self, ids: np.ndarray) -> np.ndarray:
        """Which of `ids` the vocabulary has."""
        self._checked_core()
        places = np.searchsorted(self._ids, ids)
        return self._ids[np.minimum(places, len(self._ids) - 1)] == ids

    # The vocabulary.

    def get_vocabulary(self) -> list[str]:
        """The tokens of the vocabulary, in its order."""
        self._checked_core()
        return list(self.vocabulary)

    def vocabulary_size(self) -> int:
        """The number of tokens in the vocabulary."""
        return self._checked_core().vocabulary_size()

    def token_to_id(self, token: str) -> int:
        """The id of a token as the vocabulary spells it. ValueError if it is not in there."""
        self._checked_core()
        id = self._special_id(token) if isinstance(token, str) else None
        if id is None:
            raise argument_error("token", "must be in the vocabulary", token)
        return id

    def id_to_token(self, id: int) -> str:
        """The token of an id as the vocabulary spells it. ValueError if it is not in there."""
        core = self._checked_core()
        number = check_int("id", id, 0)
        token = core.id_to_token(number) if number <= self._ids[-1] else None
        if token is None:
            raise argument_error("id", "must be in the vocabulary", id)
        return token

    @property
    def special_tokens(self) -> list[str]:
        """The tokens every BART vocabulary must have."""
        return [self.start_token, self.end_token, self.pad_token]

    @property
    def special_token_ids(self) -> list[int]:
        """The ids of `special_tokens`."""
        return [self.start_token_id, self.end_token_id, self.pad_token_id]

    @property
    def start_token_id(self) -> int | None:
        """Id of `<s>`, or `None` without a vocabulary."""
        return self._special_id(self.start_token)

    @property
    def end_token_id(self) -> int | None:
        """Id of `</s>`, or `None` without a vocabulary."""
        return self._special_id(self.end_token)

    @property
    def pad_token_id(self) -> int | None:
        """Id of `<pad>`, or `None` without a vocabulary."""
        return self._special_id(self.pad_token)

    @property
    def _source_affixes(self) -> tuple[list[int], list[int]]:
        """Ids before and after a source."""
        return [self.start_token_id], [self.end_token_id]

    @property
    def _target_affixes(self) -> tuple[list[int], list[int]]:
        """Ids before and after a target, as the decoder should say it."""
        return [self.start_token_id], [self.end_token_id]

    @property
    def _opening(self) -> list[int]:
        """What answers start with before their text."""
        return self._shifted(*self._target_affixes)

    def _shifted(self, before: list[int], after: list[int]) -> list[int]:
        """What the decoder reads before a target's text: the target's last token, as in the
        training of BART and its relatives, and those before the text."""
        last = after or before or [self.end_token_id]
        return [last[-1], *before]

    def _special_id(self, token: str) -> int | None:
        return None if self._core is None else self._core.token_to_id(token)

    def _checked_core(self) -> _core.Tokenizer:
        if self._core is None:
            raise ValueError(
                f"`{type(self).__name__}` has no vocabulary yet.\n"
                "hint: pass `vocabulary` and `merges` to the constructor, or call `load_assets()`"
            )
        return self._core

    # Saving and loading.

    def get_config(self) -> dict[str, Any]:
        """The constructor's arguments as plain values, without vocabulary and merges."""
        return {
            "name": self.name,
            "trainable": self.trainable,
            "dtype": self.dtype,
            "config_file": self.config_file,
            "sequence_length": self.sequence_length,
            "add_prefix_space": self.add_prefix_space,
            "unsplittable_tokens": list(self.unsplittable_tokens),
        }

    def save_assets(self, dir_path: str | os.PathLike) -> None:
        """Writes `vocabulary.json` and `merges.txt` into a directory that exists."""
        self._checked_core()
        folder = Path(check_path("dir_path", dir_path))
        (folder / VOCABULARY_FILE).write_text(json.dumps(self.vocabulary), encoding="utf-8")
        merges = "".join(f"{merge}\n" for merge in self.merges)
        (folder / MERGES_FILE).write_bytes(merges.encode("utf-8"))

    def load_assets(self, dir_path: str | os.PathLike) -> None:
        """Takes vocabulary and merges from a directory that `save_assets()` wrote."""
        folder = Path(check_path("dir_path", dir_path))
        self.set_vocabulary_and_merges(folder / VOCABULARY_FILE, folder / MERGES_FILE)

    def __getstate__(self) -> dict[str, Any]:
        # The Rust object is rebuilt from the vocabulary on the other side.
        state = {"vocabulary": self.vocabulary, "merges": self.merges} | self.__dict__
        return {key: value for key, value in state.items() if key not in ("_core", "_ids")}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self.set_vocabulary_and_merges(self.vocabulary, self.merges)

    def __repr__(self) -> str:
        size = "none" if self._core is None else f"{self._core.vocabulary_size():,}"
        return f"<{type(self).__name__} name={self.name} vocabulary={size}>"


def _check_tokens(tokens: Iterable[str] | None, default: list[str]) -> list[str]:
    if tokens is None:
        return default
    rule = "must be a list of strings"
    if not isinstance(tokens, Iterable):
        raise argument_error("unsplittable_tokens", rule, tokens)
    tokens = [tokens] if isinstance(tokens, str) else list(tokens)
    if not all(isinstance(token, str) and token for token in tokens):
        raise argument_error("unsplittable_tokens", rule, tokens)
    return tokens


def check_dtype(dtype: Any) -> str:
    """The name of a dtype, also from the dict that Keras writes into its configs."""
    name = dtype
    if isinstance(dtype, Mapping):
        name = (dtype.get("config") or {}).get("name")
    elif not isinstance(dtype, str):
        try:
            name = np.dtype(dtype).name
        except TypeError:
            name = None
    if name not in _DTYPES:
        raise argument_error("dtype", f"must be one of {', '.join(map(repr, _DTYPES))}", dtype)
    return name


def _read_vocabulary(vocabulary: Any) -> dict[str, int]:
    if isinstance(vocabulary, Mapping):
        return dict(vocabulary)
    if not isinstance(vocabulary, str | os.PathLike):
        raise argument_error(
            "vocabulary", "must be a dict from token to id or the name of a JSON file", vocabulary
        )
    return read_vocabulary(Path(vocabulary))


def _read_merges(merges: Any) -> list[str]:
    """Merge rules, two tokens with a space between; without Hugging Face's `#version` header."""
    if isinstance(merges, str | os.PathLike):
        return read_merges(Path(merges))
    if not isinstance(merges, Iterable) or isinstance(merges, Mapping | bytes):
        raise argument_error("merges", "must be a list of merges or the name of a file", merges)
    rules = list(merges)
    for index, rule in enumerate(rules):
        if isinstance(rule, list | tuple) and len(rule) == 2:
            rules[index] = " ".join(map(str, rule))
        elif not isinstance(rule, str):
            raise argument_error("merges", f"must hold strings; item {index} is not", rule)
        else:
            rules[index] = rule.rstrip("\r\n")  # as `file.readlines()` leaves them
    return [rule for rule in rules if not rule.startswith("#version")]


def _id_rows(inputs: Any) -> tuple[list[np.ndarray], bool]:
    """Sequences of ids as integer arrays, and whether they came as a batch."""
    if isinstance(inputs, list | tuple) and any(map(_has_axis, inputs)):
        return [_id_row(row) for row in inputs], True
    array = np.asarray(inputs)
    if array.ndim == 2:
        return [_id_row(row) for row in array], True
    return [_id_row(array.reshape(-1) if array.ndim == 0 else array)], False


def _has_axis(value: Any) -> bool:
    return isinstance(value, list | tuple) or getattr(value, "ndim", 0) > 0


def _id_row(row: Any) -> np.ndarray:
    try:
        array = np.asarray(row)
    except ValueError:  # Rows of rows, of different lengths.
        array = np.empty((0, 0))
    if array.size == 0 and array.ndim == 1:
        return array.astype(np.int64)
    if array.ndim != 1 or array.dtype.kind not in "iu":
        raise argument_error("inputs", "must be token ids: integers, with one or two axes", row)
    return array
