"""Text to the token arrays of BART, and back."""

import warnings
from collections.abc import Mapping
from typing import Any

import numpy as np

from bart_fast._texts import as_texts
from bart_fast._validation import (
    DECODER_IDS,
    DECODER_MASK,
    ENCODER_IDS,
    ENCODER_MASK,
    argument_error,
    caller_level,
    check_config,
    check_flag,
    check_int,
    check_text,
)
from bart_fast.models.bart_tokenizer import BartTokenizer
from bart_fast.models.seq_2_seq_lm_preprocessor import Seq2SeqLMPreprocessor
from bart_fast.models.unigram_tokenizer import UnigramTokenizer

ENCODER_TEXT, DECODER_TEXT = "encoder_text", "decoder_text"

# Sources need room for `<s>` and `</s>`, targets for the `</s> <s>` they start with.
_SHORTEST = 2

Rows = list[list[int]]


class BartSeq2SeqLMPreprocessor(Seq2SeqLMPreprocessor):
    """Tokenizes, marks, pads and cuts texts for `BartSeq2SeqLM`.

    Sources become `<s> text </s>`, targets `</s> <s> text </s>`. What is too long loses the end of
    its text, never its markers; what is too short is padded with `<pad>`, masked `False`.

    Calling it gives the arrays of `fit()`: the decoder's input, and the same sequence one step
    ahead as its labels. `generate_preprocess()` gives those of `generate()`, where the target is
    an open prompt without `</s>`; `generate_postprocess()` is the way back.

    Args:
        tokenizer: a `BartTokenizer`, or a `UnigramTokenizer`, whose template says how texts are
            marked instead.
        encoder_sequence_length: int, at least 2. Length of the sources. Can be set later. Defaults
            to 1024.
        decoder_sequence_length: int, at least 2. Length of the targets. Can be set later; also as
            `sequence_length`. Defaults to 1024.
        name: str. Defaults to `"bart_seq2_seq_lm_preprocessor"`.
        trainable: bool. Kept for Keras' configs. Defaults to `True`.
        dtype: kept for Keras' configs; ids are int32 and masks bool. Defaults to `"float32"`.
        config_file: str. Name of its file in a preset. Defaults to `"preprocessor.json"`.

    Call arguments:
        x: dict with `encoder_text` and `decoder_text`: each a string, or a list or array of
            strings. One string gives arrays without a batch axis.
        y: ignored; the labels come from `decoder_text`.
        sample_weight: ignored; the weights come from the padding.
        encoder_sequence_length: int. Overrides the attribute for this call.
        decoder_sequence_length: int. Overrides the attribute for this call.
        sequence_length: int. Another name of `decoder_sequence_length`.

    Examples:

    ```python
    vocabulary = {"<s>": 0, "<pad>": 1, "</s>": 2, "Ġafter": 5, "noon": 6, "Ġsun": 7}
    merges = ["Ġ a", "Ġ s", "n o", "o n", "Ġs u", "Ġa f", "no on", "Ġsu n", "Ġaf t", "e r"]
    merges += ["Ġaft er"]
    preprocessor = bart_fast.models.BartSeq2SeqLMPreprocessor(
        bart_fast.models.BartTokenizer(vocabulary, merges),
        encoder_sequence_length=6,
        decoder_sequence_length=5,
    )
    x, y, sample_weight = preprocessor(
        {"encoder_text": " afternoon sun", "decoder_text": "noon sun"}
    )
    x["encoder_token_ids"]  # array([0, 5, 6, 7, 2, 1], dtype=int32)
    x["decoder_token_ids"]  # array([2, 0, 6, 7, 2], dtype=int32)
    y                       # array([0, 6, 7, 2, 1], dtype=int32)
    sample_weight           # array([ True,  True,  True,  True, False])

    prompt = preprocessor.generate_preprocess([" afternoon sun"], sequence_length=3)
    prompt["decoder_token_ids"]  # array([[2, 0, 1]], dtype=int32)
    ```
    """

    def __init__(
        self,
        tokenizer: BartTokenizer,
        encoder_sequence_length: int = 1024,
        decoder_sequence_length: int = 1024,
        *,
        name: str = "bart_seq2_seq_lm_preprocessor",
        trainable: bool = True,
        dtype: Any = "float32",
        config_file: str = "preprocessor.json",
    ):
        if not isinstance(tokenizer, BartTokenizer):
            raise argument_error("tokenizer", "must be a `BartTokenizer`", tokenizer)
        self.tokenizer = tokenizer
        self.encoder_sequence_length = encoder_sequence_length
        self.decoder_sequence_length = decoder_sequence_length
        self.name = check_text("name", name)
        self.trainable = check_flag("trainable", trainable)
        self.dtype = dtype
        self.config_file = check_text("config_file", config_file)

    @property
    def encoder_sequence_length(self) -> int:
        """The padded length of sources."""
        return self._encoder_sequence_length

    @encoder_sequence_length.setter
    def encoder_sequence_length(self, value: int) -> None:
        self._encoder_sequence_length = check_int("encoder_sequence_length", value, _SHORTEST)

    @property
    def decoder_sequence_length(self) -> int:
        """The padded length of targets."""
        return self._decoder_sequence_length

    @decoder_sequence_length.setter
    def decoder_sequence_length(self, value: int) -> None:
        self._decoder_sequence_length = check_int("decoder_sequence_length", value, _SHORTEST)

    @property
    def sequence_length(self) -> int:
        """Another name of `decoder_sequence_length`."""
        return self.decoder_sequence_length

    @sequence_length.setter
    def sequence_length(self, value: int) -> None:
        self.decoder_sequence_length = value

    # Training.

    def __call__(self, x: Any, y: Any = None, sample_weight: Any = None, **kwargs: Any) -> tuple:
        """`call()`; a tuple `(x, y)` or `(x, y, sample_weight)` is taken apart first."""
        if isinstance(x, tuple) and len(x) in (2, 3) and y is None and sample_weight is None:
            return self.call(*x, **kwargs)
        return self.call(x, y, sample_weight, **kwargs)

    def call(
        self,
        x: Mapping[str, Any],
        y: Any = None,
        sample_weight: Any = None,
        *,
        encoder_sequence_length: int | None = None,
        decoder_sequence_length: int | None = None,
        sequence_length: int | None = None,
    ) -> tuple[dict[str, np.ndarray], np.ndarray, np.ndarray]:
        """Inputs, labels and weights for training.

        Returns:
            `(x, y, sample_weight)`: `x` a dict of `encoder_token_ids`, `encoder_padding_mask`
            [batch, encoder length], `decoder_token_ids`, `decoder_padding_mask`
            [batch, decoder length]; `y` and `sample_weight` [batch, decoder length]. Ids are
            int32, masks and weights bool.

        Raises:
            ValueError: a text is missing, is no text, or there are not as many targets as sources.
        """
        source_width, target_width = self._widths(
            encoder_sequence_length, decoder_sequence_length, sequence_length
        )
        sources, targets, batched = self._fit_rows(x, source_width, target_width)
        encoder_ids, encoder_mask = self._rectangle(sources, source_width)
        # One longer, because inputs and labels are its two ends.
        ids, mask = self._rectangle(targets, target_width + 1)
        inputs = _token_arrays(encoder_ids, encoder_mask, ids[:, :-1].copy(), mask[:, :-1].copy())
        labels, weights = ids[:, 1:].copy(), mask[:, 1:].copy()
        if batched:
            return inputs, labels, weights
        return {key: array[0] for key, array in inputs.items()}, labels[0], weights[0]

    def _fit_rows(self, x: Any, source_width: int, target_width: int) -> tuple[Rows, Rows, bool]:
        """Sources and targets for training as ragged rows, markers included, and whether they
        came as a batch. Targets have up to `target_width + 1` ids: inputs are all but the last
        of `target_width + 1` positions, labels all but the first.

        For `fit()`: no rectangle as wide as the limit is built where the texts are short.
        """
        if not isinstance(x, Mapping):
            raise argument_error(
                "x", f"must be a dict with `{ENCODER_TEXT}` and `{DECODER_TEXT}`", x
            )
        sources, targets, batched = _text_pairs(x, targets_required=True)
        return (
            self._closed_rows(self._ragged_ids(sources), source_width),
            self._target_rows(targets, target_width + 1, closed=True),
            batched,
        )

    # Generation.

    def generate_preprocess(
        self,
        x: Any,
        *,
        encoder_sequence_length: int | None = None,
        decoder_sequence_length: int | None = None,
        sequence_length: int | None = None,
    ) -> dict[str, np.ndarray]:
        """Token arrays for generation.

        Args:
            x: a string, a list or array of strings, or a dict with `encoder_text` and, where the
                answer shall begin with a given text, `decoder_text`.
            encoder_sequence_length: int. Overrides the attribute for this call.
            decoder_sequence_length: int. Overrides the attribute for this call.
            sequence_length: int. Another name of `decoder_sequence_length`.

        Returns:
            dict of `encoder_token_ids`, `encoder_padding_mask` [batch, encoder length],
            `decoder_token_ids`, `decoder_padding_mask` [batch, decoder length]; the decoder's mask
            is True at the prompt. No batch axis for one string.

        Raises:
            ValueError: `x` holds no texts, or there are not as many prompts as sources.

        Warns:
            UserWarning: the ends of texts are left out, since they are longer than the length.
        """
        source_width, target_width = self._widths(
            encoder_sequence_length, decoder_sequence_length, sequence_length
        )
        sources, prompts, batched = self._generate_rows(x, source_width, target_width)
        arrays = _token_arrays(
            *self._rectangle(sources, source_width), *self._rectangle(prompts, target_width)
        )
        return arrays if batched else {key: array[0] for key, array in arrays.items()}

    def _generate_rows(
        self, x: Any, source_width: int, target_width: int
    ) -> tuple[Rows, Rows, bool]:
        """Sources and prompts for generation as ragged rows, markers included, and whether they
        came as a batch. For `generate()`, which computes real tokens only.
        """
        texts = x if isinstance(x, Mapping) else {ENCODER_TEXT: x}
        name = ENCODER_TEXT if isinstance(x, Mapping) else "x"
        sources, prompts, batched = _text_pairs(texts, targets_required=False, source_name=name)
        ids = self._ragged_ids(sources)
        _warn_of_cuts(ids, source_width - sum(map(len, self.tokenizer._source_affixes)))
        return (
            self._closed_rows(ids, source_width),
            self._target_rows(prompts, target_width, closed=False),
            batched,
        )

    def generate_postprocess(self, x: Mapping[str, Any]) -> str | list[str]:
        """The text of generated tokens.

        Args:
            x: dict with `decoder_token_ids` and `decoder_padding_mask`, [length] or
                [batch, length] each. Special tokens are left out, and ids without a token too: a
                model may have more of them than its tokenizer.

        Returns:
            A string, or a list of strings where there is a batch axis.

        Raises:
            ValueError: an array is missing, or the two differ in shape.
        """
        if not isinstance(x, Mapping) or DECODER_IDS not in x or DECODER_MASK not in x:
            raise argument_error(
                "x", f"must be a dict with `{DECODER_IDS}` and `{DECODER_MASK}`", x
            )
        ids, mask = np.asarray(x[DECODER_IDS]), np.asarray(x[DECODER_MASK]).astype(bool)
        if ids.shape != mask.shape or ids.ndim not in (1, 2) or ids.dtype.kind not in "iu":
            raise ValueError(
                f"`{DECODER_IDS}` must be integers, [length] or [batch, length], and "
                f"`{DECODER_MASK}` of the same shape. Received: {ids.dtype} {ids.shape} and "
                f"{mask.shape}."
            )
        kept = (
            mask & ~np.isin(ids, self.tokenizer.special_token_ids) & self.tokenizer._has_token(ids)
        )
        if ids.ndim == 1:
            return self.tokenizer._texts([ids[kept]])[0]
        return self.tokenizer._texts([row[keep] for row, keep in zip(ids, kept, strict=True)])

    # Rows of ids.

    def _ragged_ids(self, texts: list[str]) -> Rows:
        """Token ids of each text, without markers, not cut and not padded."""
        return self.tokenizer._ragged_ids(texts)

    def _closed_rows(self, ids: Rows, width: int) -> Rows:
        before, after = self.tokenizer._source_affixes
        room = width - len(before) - len(after)
        return [[*before, *row[:room], *after] for row in ids]

    def _target_rows(self, texts: list[str], width: int, closed: bool) -> Rows:
        """`</s> <s> text </s>`, the last only if `closed`; as in the training of BART, `</s>` is
        the decoder's first input."""
        tokenizer = self.tokenizer
        opening, last = tokenizer._opening, []
        if closed:
            before, last = tokenizer._target_affixes
            opening = tokenizer._shifted(before, last)
        room = width - len(opening) - len(last)
        return [[*opening, *row[:room], *last] for row in self._ragged_ids(texts)]

    @property
    def _opening_length(self) -> int:
        """How many tokens prompts start with before their text."""
        return len(self.tokenizer._opening)

    def _rectangle(self, rows: Rows, width: int) -> tuple[np.ndarray, np.ndarray]:
        """Rows padded to `width`, int32, and which positions are theirs, bool."""
        ids = np.full((len(rows), width), self.tokenizer.pad_token_id, dtype=np.int32)
        mask = np.zeros(ids.shape, dtype=bool)
        for index, row in enumerate(rows):
            ids[index, : len(row)] = row
            mask[index, : len(row)] = True
        return ids, mask

    def _widths(
        self, encoder: int | None, decoder: int | None, alias: int | None
    ) -> tuple[int, int]:
        """The lengths of a call: what was passed, else the attributes."""
        name = (
            "sequence_length"
            if decoder is None and alias is not None
            else "decoder_sequence_length"
        )
        if alias is not None:
            check_int("sequence_length", alias, _SHORTEST)
        decoder = alias if decoder is None else decoder
        if encoder is None:
            encoder = self.encoder_sequence_length
        if decoder is None:
            decoder = self.decoder_sequence_length
        return (
            check_int("encoder_sequence_length", encoder, _SHORTEST),
            check_int(name, decoder, _SHORTEST),
        )

    # Saving and loading.

    def get_config(self) -> dict[str, Any]:
        """The constructor's arguments as plain values; the tokenizer without its vocabulary.

        keras-hub leaves the two lengths out and so loses them; it takes them all the same.
        """
        return {
            "name": self.name,
            "trainable": self.trainable,
            "dtype": self.dtype,
            "tokenizer": {
                "class_name": type(self.tokenizer).__name__,
                "config": self.tokenizer.get_config(),
            },
            "config_file": self.config_file,
            "encoder_sequence_length": self.encoder_sequence_length,
            "decoder_sequence_length": self.decoder_sequence_length,
        }

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> "BartSeq2SeqLMPreprocessor":
        """A preprocessor from what `get_config()` returned; `tokenizer` may also be an object."""
        config = check_config("config", config)
        if isinstance(config.get("tokenizer"), Mapping):
            saved = config["tokenizer"]
            unigram = saved.get("class_name") == UnigramTokenizer.__name__
            kind = UnigramTokenizer if unigram else BartTokenizer
            config["tokenizer"] = kind.from_config(saved["config"])
        return cls(**config)

    def __repr__(self) -> str:
        lengths = f"{self.encoder_sequence_length}/{self.decoder_sequence_length}"
        return f"<{type(self).__name__} name={self.name} lengths={lengths}>"


def _text_pairs(
    x: Mapping[str, Any], targets_required: bool, source_name: str = ENCODER_TEXT
) -> tuple[list[str], list[str], bool]:
    """Source texts, target texts (empty ones where there are none), and whether it is a batch."""
    missing = [key for key in (ENCODER_TEXT, DECODER_TEXT)[: 1 + targets_required] if key not in x]
    unknown = [key for key in x if key not in (ENCODER_TEXT, DECODER_TEXT)]
    if missing or unknown:
        raise ValueError(
            f"`x` must be a dict with `{ENCODER_TEXT}` and `{DECODER_TEXT}`. "
            f"Received the keys: {', '.join(map(repr, x)) or 'none'}."
        )
    sources, batched = as_texts(source_name, x[ENCODER_TEXT])
    if x.get(DECODER_TEXT) is None and not targets_required:
        return sources, [""] * len(sources), batched
    targets, targets_batched = as_texts(DECODER_TEXT, x[DECODER_TEXT])
    if batched != targets_batched or len(sources) != len(targets):
        count = [
            f"{len(texts)} strings" if many else "one string"
            for texts, many in ((sources, batched), (targets, targets_batched))
        ]
        raise ValueError(
            f"`{DECODER_TEXT}` must have a text for each in `{ENCODER_TEXT}`. "
            f"Received: {count[1]} for {count[0]}."
        )
    return sources, targets, batched


def _warn_of_cuts(ids: Rows, room: int) -> None:
    """Says how much of texts that are read for an answer is left out."""
    dropped = [len(row) - room for row in ids if len(row) > room]
    if dropped:
        which = "a text" if len(ids) == 1 else f"{len(dropped)} of {len(ids)} texts"
        warnings.warn(
            f"the end of {which} is left out, {sum(dropped)} tokens: `encoder_sequence_length` has "
            f"room for {room}, and the model for no more than its `max_sequence_length`.\n"
            "hint: pass `overlap`, or give long text in parts, a few sentences at a time",
            UserWarning,
            stacklevel=caller_level(),
        )


def _token_arrays(
    encoder_ids: np.ndarray,
    encoder_mask: np.ndarray,
    decoder_ids: np.ndarray,
    decoder_mask: np.ndarray,
) -> dict[str, np.ndarray]:
    return {
        ENCODER_IDS: encoder_ids,
        ENCODER_MASK: encoder_mask,
        DECODER_IDS: decoder_ids,
        DECODER_MASK: decoder_mask,
    }
