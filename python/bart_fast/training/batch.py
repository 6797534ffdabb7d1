"""One batch: what a training step takes, made from texts or from token arrays."""

import itertools
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from bart_fast._validation import (
    DECODER_IDS,
    DECODER_MASK,
    ENCODER_IDS,
    ENCODER_MASK,
    TOKEN_ARRAYS,
    argument_error,
    caller_level,
    check_finite_array,
    check_keys,
    check_mask,
    check_same_rows,
    check_text_ids,
)


@dataclass(frozen=True, slots=True)
class Batch:
    """Arrays of a training step, [rows, length] each.

    Attributes:
        encoder_token_ids: int32 or int64 array.
        encoder_padding_mask: bool array.
        decoder_token_ids: int32 or int64 array.
        decoder_padding_mask: bool array.
        targets: int32 or int64 array of the shape of `decoder_token_ids`.
        sample_weight: float32 array of the same shape, or None: every position weighs 1.
        padded_width: int. Length the decoder's arrays would have without leaving out columns that
            are padding in every row; Keras' loss is divided by rows times this.
    """

    encoder_token_ids: np.ndarray
    encoder_padding_mask: np.ndarray
    decoder_token_ids: np.ndarray
    decoder_padding_mask: np.ndarray
    targets: np.ndarray
    sample_weight: np.ndarray | None
    padded_width: int

    @property
    def rows(self) -> int:
        """Sequences of the batch."""
        return len(self.targets)

    @property
    def positions(self) -> int:
        """Positions of the batch as Keras pads it."""
        return self.rows * self.padded_width

    @property
    def weight_sum(self) -> float:
        """Sum of the weights."""
        return float(self.positions if self.sample_weight is None else self.sample_weight.sum())

    def weighted_by_class(self, class_weight: Mapping[int, float]) -> "Batch":
        """The same, where each position weighs by its target, too: 1 for targets not named."""
        weights = np.ones(self.targets.shape, np.float32)
        for target, weight in class_weight.items():
            weights[self.targets == target] = weight
        if self.sample_weight is not None:
            weights *= self.sample_weight
        return replace(self, sample_weight=weights)

    def arrays(self) -> tuple:
        """Everything a step takes, in its order."""
        return (
            self.encoder_token_ids,
            self.encoder_padding_mask,
            self.decoder_token_ids,
            self.decoder_padding_mask,
            self.targets,
            self.sample_weight,
        )


class BatchMaker:
    """Makes batches from what a user gives to `fit`.

    Args:
        preprocessor: a `BartSeq2SeqLMPreprocessor`, another callable that returns
            `(x, y, sample_weight)`, or None.
        max_sequence_length: int. Positions of the model; texts are cut to it.
        vocabulary_size: int. Token ids of the model; texts must not have others. Defaults to
            `None`: the core finds them.
        whole: bool. Whether texts are padded to the preprocessor's lengths, as Keras does; else
            they are as wide as the longest, which changes no loss. Defaults to `False`.
    """

    def __init__(
        self,
        preprocessor: Any,
        max_sequence_length: int,
        vocabulary_size: int | None = None,
        whole: bool = False,
    ):
        self.whole = whole
        self.preprocessor = preprocessor
        self.max_sequence_length = max_sequence_length
        self.vocabulary_size = vocabulary_size
        self._has_warned = False

    def __call__(self, x: Any, y: Any = None, sample_weight: Any = None) -> Batch:
        """A batch from token arrays, or from texts if there is a preprocessor.

        Raises:
            ValueError: an argument is missing, not allowed with the others, or misshapen.
        """
        if isinstance(x, Mapping) and ENCODER_IDS in x:
            return batch_from_arrays(x, y, sample_weight)
        if self.preprocessor is None:
            # Says what is missing, and that texts need a preprocessor.
            check_keys("x", x, required=TOKEN_ARRAYS)
        if not hasattr(self.preprocessor, "_fit_rows"):
            given = () if y is None and sample_weight is None else (y, sample_weight)
            return batch_from_arrays(*self.preprocessor(x, *given))
        self._warn_of_what_is_ignored(y, sample_weight)
        return self._from_texts(x)

    def _warn_of_what_is_ignored(self, y: Any, sample_weight: Any) -> None:
        """Once, not for every batch."""
        given = {"y": y, "sample_weight": sample_weight}
        names = [f"`{name}`" for name, value in given.items() if value is not None]
        if names and not self._has_warned:
            self._has_warned = True
            warnings.warn(
                f"{' and '.join(names)} ignored, since `x` holds texts: targets and weights come "
                "from `decoder_text`.\nhint: pass token arrays for targets and weights of your own",
                UserWarning,
                stacklevel=caller_level(),
            )

    def _from_texts(self, x: Any) -> Batch:
        """Arrays only as wide as the longest row: a preprocessor's limit is often far wider. Not so
        if padded positions count: then they are the preprocessor's own."""
        encoder_width = min(self.preprocessor.encoder_sequence_length, self.max_sequence_length)
        decoder_width = min(self.preprocessor.decoder_sequence_length, self.max_sequence_length)
        if self.whole:
            lengths = {
                "encoder_sequence_length": encoder_width,
                "decoder_sequence_length": decoder_width,
            }
            return batch_from_arrays(*self.preprocessor(x, **lengths))
        sources, targets, batched = self.preprocessor._fit_rows(x, encoder_width, decoder_width)
        if not batched:
            raise argument_error(
                "x", "must hold lists of texts", "one text", "put it into a list: ['...']"
            )
        source_ids, source_mask = pad_rows(sources)
        ids, mask = pad_rows(targets)
        if self.vocabulary_size is not None:
            check_text_ids(self.preprocessor, self.vocabulary_size, source_ids, ids)
        # The last token of a row has no target: its position is left out. Nothing attends to it.
        return Batch(
            encoder_token_ids=source_ids,
            encoder_padding_mask=source_mask,
            decoder_token_ids=ids[:, :-1],
            decoder_padding_mask=mask[:, 1:],
            targets=ids[:, 1:],
            sample_weight=mask[:, 1:].astype(np.float32),
            padded_width=decoder_width,
        )


def pad_rows(rows: list[list[int]]) -> tuple[np.ndarray, np.ndarray]:
    """Rows of ids as an int32 array as wide as the longest, and the mask of what is real.

    Padding is id 0: any id will do, because masked positions are not computed.
    """
    lengths = np.fromiter(map(len, rows), np.int64, len(rows))
    mask = np.arange(lengths.max(initial=0)) < lengths[:, None]
    ids = np.zeros(mask.shape, np.int32)
    ids[mask] = np.fromiter(itertools.chain.from_iterable(rows), np.int32, int(lengths.sum()))
    return ids, mask


def batch_from_arrays(x: Any, y: Any = None, sample_weight: Any = None) -> Batch:
    """A batch from token arrays, all [rows, length]; `sample_weight` may be [rows].

    Raises:
        ValueError: an array is missing, misshapen or of the wrong kind.
    """
    check_keys("x", x, required=TOKEN_ARRAYS)
    if y is None:
        raise argument_error(
            "y",
            "must hold the target ids when `x` holds token arrays",
            None,
            "targets are the decoder's ids moved one position to the left",
        )
    encoder_ids = _check_ids(ENCODER_IDS, x[ENCODER_IDS])
    decoder_ids = _check_ids(DECODER_IDS, x[DECODER_IDS])
    check_same_rows(encoder_ids, decoder_ids)
    targets = _check_ids("y", _drop_last_axis(y))
    if targets.shape != decoder_ids.shape:
        raise argument_error(
            "y",
            f"must have the shape of `{DECODER_IDS}`, {decoder_ids.shape}",
            f"shape {targets.shape}",
        )
    return Batch(
        encoder_token_ids=encoder_ids,
        encoder_padding_mask=check_mask(
            ENCODER_MASK, x[ENCODER_MASK], ENCODER_IDS, encoder_ids.shape
        ),
        decoder_token_ids=decoder_ids,
        decoder_padding_mask=check_mask(
            DECODER_MASK, x[DECODER_MASK], DECODER_IDS, decoder_ids.shape
        ),
        targets=targets,
        sample_weight=_check_weights(sample_weight, targets.shape),
        padded_width=targets.shape[1],
    )


def _check_ids(name: str, value: Any) -> np.ndarray:
    try:
        array = np.asarray(value)
    except ValueError:
        raise argument_error(name, "must have rows of one length", "ragged rows") from None
    if array.ndim != 2 or array.dtype.kind not in "iu":
        raise argument_error(
            name,
            "must be an integer array [batch, length]",
            f"dtype {array.dtype}, shape {array.shape}",
        )
    # Ranges are checked by the core, which knows the vocabulary.
    return np.ascontiguousarray(array, array.dtype if array.dtype == np.int32 else np.int64)


def _drop_last_axis(value: Any) -> Any:
    """Keras takes targets [batch, length, 1] as well."""
    array = np.asarray(value)
    return array[..., 0] if array.ndim == 3 and array.shape[-1] == 1 else array


def _check_weights(value: Any, shape: tuple[int, int]) -> np.ndarray | None:
    if value is None:
        return None
    array = np.asarray(value)
    if array.dtype.kind not in "biuf":
        raise argument_error("sample_weight", "must hold numbers", f"dtype {array.dtype}")
    array = array.astype(np.float32)
    if array.ndim == 3 and array.shape[-1] == 1:
        array = array[..., 0]
    if array.shape in ((shape[0],), (shape[0], 1)):
        array = np.broadcast_to(array.reshape(-1, 1), shape)
    check_finite_array("sample_weight", array)
    if array.shape != shape:
        raise argument_error(
            "sample_weight", f"must have the shape of `y`, {shape}, or [batch]", array.shape
        )
    return np.ascontiguousarray(array)
