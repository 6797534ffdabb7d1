"""Texts and pairs of texts to the token arrays of BART's classifier."""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from bart_fast._texts import as_texts
from bart_fast._validation import argument_error, check_config, check_flag, check_int, check_text
from bart_fast.models.bart_tokenizer import BartTokenizer
from bart_fast.models.text_classifier_preprocessor import TextClassifierPreprocessor
from bart_fast.models.unigram_tokenizer import UnigramTokenizer

TOKEN_IDS, PADDING_MASK = "token_ids", "padding_mask"

# A pair needs room for `<s> </s></s> </s>`.
_SHORTEST = 4

Rows = list[list[int]]
Cut = Callable[[int, int, int], tuple[int, int]]


def _longest_first(first: int, second: int, room: int) -> tuple[int, int]:
    """How much two texts of these lengths keep: tokens go from the longer one, as in Hugging Face's
    fast tokenizers. Where one is left over it is the longer one's, of equals the second's."""
    if first + second <= room:
        return first, second
    short, long = min(first, second), max(first, second)
    long = max(short, room - short)
    if short + long > room:
        short, long = room // 2, room - room // 2
    return (long, short) if first > second else (short, long)


def _round_robin(first: int, second: int, room: int) -> tuple[int, int]:
    """keras-hub's: one token at a time, the first text before the second."""
    kept = min(second, max(room - first, room // 2))
    return min(first, room - kept), kept


def _waterfall(first: int, second: int, room: int) -> tuple[int, int]:
    """keras-hub's: the second text gets what the first leaves."""
    kept = min(first, room)
    return kept, min(second, room - kept)


def _only_first(first: int, second: int, room: int) -> tuple[int, int]:
    """Hugging Face's: the second text stays whole."""
    return min(first, max(room - second, 0)), second


TRUNCATIONS: dict[str, Cut] = {
    "longest_first": _longest_first,
    "only_first": _only_first,
    "round_robin": _round_robin,
    "waterfall": _waterfall,
}


class BartTextClassifierPreprocessor(TextClassifierPreprocessor):
    """Tokenizes, marks, pads and cuts texts for `BartTextClassifier`.

    A text becomes `<s> text </s>`, a pair `<s> first </s></s> second </s>`, as Hugging Face's
    tokenizer of BART writes it. What is too long is cut at the ends of its texts, never its
    markers; what is too short is padded with `<pad>`, masked `False`.

    Args:
        tokenizer: a `BartTokenizer`.
        sequence_length: int, at least 4. Length of the arrays. Can be set later. Defaults to 1024.
        truncate: str. What is cut of a pair that is too long: `"longest_first"` takes from the
            longer text, `"only_first"` from the first one, both as in Hugging Face;
            `"round_robin"` and `"waterfall"` are keras-hub's. Defaults to `"longest_first"`.
        name: str. Defaults to `"bart_text_classifier_preprocessor"`.
        trainable: bool. Kept for Keras' configs. Defaults to `True`.
        dtype: kept for Keras' configs; ids are int32 and masks bool. Defaults to `"float32"`.
        config_file: str. Name of its file in a preset. Defaults to `"preprocessor.json"`.

    Call arguments:
        x: a string; a list or array of strings; or a pair of either as a tuple `(first, second)`.
            Also a list of pairs. One string, or a tuple of two, gives arrays without a batch axis.
        y: labels, passed on.
        sample_weight: weights of the labels, passed on.

    Examples:

    ```python
    vocabulary = {"<s>": 0, "<pad>": 1, "</s>": 2, "Ġafter": 5, "noon": 6, "Ġsun": 7}
    merges = ["Ġ a", "Ġ s", "n o", "o n", "Ġs u", "Ġa f", "no on", "Ġsu n", "Ġaf t", "e r"]
    merges += ["Ġaft er"]
    preprocessor = bart_fast.models.BartTextClassifierPreprocessor(
        bart_fast.models.BartTokenizer(vocabulary, merges), sequence_length=8
    )
    preprocessor(" afternoon")["token_ids"]  # array([0, 5, 6, 2, 1, 1, 1, 1], dtype=int32)
    preprocessor((["noon"], [" sun"]))["token_ids"]  # array([[0, 6, 2, 2, 7, 2, 1, 1]], ...)
    ```
    """

    def __init__(
        self,
        tokenizer: BartTokenizer,
        sequence_length: int = 1024,
        truncate: str = "longest_first",
        *,
        name: str = "bart_text_classifier_preprocessor",
        trainable: bool = True,
        dtype: Any = "float32",
        config_file: str = "preprocessor.json",
    ):
        if not isinstance(tokenizer, BartTokenizer) or isinstance(tokenizer, UnigramTokenizer):
            raise argument_error("tokenizer", "must be a `BartTokenizer`", tokenizer)
        if truncate not in TRUNCATIONS:
            names = ", ".join(map(repr, TRUNCATIONS))
            raise argument_error("truncate", f"must be one of {names}", truncate)
        self.tokenizer = tokenizer
        self.sequence_length = sequence_length
        self.truncate = truncate
        self.name = check_text("name", name)
        self.trainable = check_flag("trainable", trainable)
        self.dtype = dtype
        self.config_file = check_text("config_file", config_file)

    @property
    def sequence_length(self) -> int:
        """The padded length."""
        return self._sequence_length

    @sequence_length.setter
    def sequence_length(self, value: int) -> None:
        self._sequence_length = check_int("sequence_length", value, _SHORTEST)

    def __call__(self, x: Any, y: Any = None, sample_weight: Any = None) -> Any:
        """`call()`."""
        return self.call(x, y, sample_weight)

    def call(self, x: Any, y: Any = None, sample_weight: Any = None) -> Any:
        """Token arrays of texts, with labels and weights where they were passed.

        Returns:
            dict of `token_ids` int32 and `padding_mask` bool, [batch, sequence_length] each; or
            `(x, y)`, or `(x, y, sample_weight)`.

        Raises:
            ValueError: `x` holds no texts, or pairs of unlike lengths.
        """
        segments, batched = text_segments("x", x)
        rows = self._packed(segments, self.sequence_length)[0]
        arrays = self._rectangle(rows, self.sequence_length)
        if not batched:
            arrays = {name: array[0] for name, array in arrays.items()}
        if y is None and sample_weight is None:
            return arrays
        return (arrays, y) if sample_weight is None else (arrays, y, sample_weight)

    def _packed(
        self, segments: list[list[str]], width: int, truncate: str | None = None
    ) -> tuple[Rows, int, int]:
        """Texts, or pairs of them, as ragged rows with markers, at most `width` long; and how many
        rows were cut, and of how many tokens in all."""
        return self._joined(
            [self.tokenizer._ragged_ids(texts) for texts in segments], width, truncate
        )

    def _joined(
        self, segments: list[Rows], width: int, truncate: str | None = None
    ) -> tuple[Rows, int, int]:
        """The same of token ids."""
        start, end = self.tokenizer.start_token_id, self.tokenizer.end_token_id
        rows: Rows = []
        cut_rows = cut_tokens = 0
        cut = TRUNCATIONS[truncate or self.truncate]
        for parts in zip(*segments, strict=True):
            total = sum(map(len, parts))
            if len(parts) == 1:
                kept = [parts[0][: width - 2]]
            else:
                first, second = parts
                lengths = cut(len(first), len(second), width - _SHORTEST)
                kept = [first[: lengths[0]], second[: lengths[1]]]
            lost = total - sum(map(len, kept))
            cut_rows, cut_tokens = cut_rows + (lost > 0), cut_tokens + lost
            between = [end, end]
            row = [start, *kept[0]]
            for part in kept[1:]:
                row += [*between, *part]
            rows.append([*row, end])
        return rows, cut_rows, cut_tokens

    def _rectangle(self, rows: Rows, width: int) -> dict[str, np.ndarray]:
        ids = np.full((len(rows), width), self.tokenizer.pad_token_id, dtype=np.int32)
        mask = np.zeros(ids.shape, dtype=bool)
        for index, row in enumerate(rows):
            ids[index, : len(row)] = row
            mask[index, : len(row)] = True
        return {TOKEN_IDS: ids, PADDING_MASK: mask}

    def get_config(self) -> dict[str, Any]:
        """The constructor's arguments as plain values; the tokenizer without its vocabulary."""
        return {
            "name": self.name,
            "trainable": self.trainable,
            "dtype": self.dtype,
            "tokenizer": {
                "class_name": type(self.tokenizer).__name__,
                "config": self.tokenizer.get_config(),
            },
            "config_file": self.config_file,
            "sequence_length": self.sequence_length,
            "truncate": self.truncate,
        }

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> "BartTextClassifierPreprocessor":
        """A preprocessor from what `get_config()` returned; `tokenizer` may also be an object."""
        parts = check_config("config", config)
        if isinstance(parts.get("tokenizer"), Mapping):
            parts["tokenizer"] = BartTokenizer.from_config(parts["tokenizer"]["config"])
        return cls(**parts)

    def __repr__(self) -> str:
        return f"<{type(self).__name__} name={self.name} sequence_length={self.sequence_length}>"


def text_segments(name: str, inputs: Any) -> tuple[list[list[str]], bool]:
    """One list of texts, or two for pairs, and whether they came as a batch.

    Args:
        name: the argument's name, for errors.
        inputs: a string, a list or array of strings, a tuple `(first, second)` of either, or a list
            of pairs.
    """
    if isinstance(inputs, list) and inputs and all(map(_is_pair, inputs)):
        inputs = tuple([pair[side] for pair in inputs] for side in (0, 1))
    if not isinstance(inputs, tuple):
        texts, batched = as_texts(name, inputs)
        return [texts], batched
    if len(inputs) not in (1, 2):
        raise argument_error(name, "must be texts, or a tuple of one or two of them", inputs)
    found = [as_texts(name, each) for each in inputs]
    if len({(len(texts), batched) for texts, batched in found}) > 1:
        counts = " and ".join(str(len(texts)) for texts, _ in found)
        raise argument_error(name, "must have a second text for each first one", f"{counts} texts")
    return [texts for texts, _ in found], found[0][1]


def _is_pair(item: Any) -> bool:
    return (
        isinstance(item, list | tuple)
        and len(item) == 2
        and all(isinstance(text, str | bytes) for text in item)
    )
