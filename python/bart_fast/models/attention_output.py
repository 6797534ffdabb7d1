"""Which source tokens the decoder looked at, as arrays.

Letters in shapes: r rows (answers), l layers, h heads, t target positions, s source positions.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from bart_fast._validation import argument_error, check_int


@dataclass(frozen=True)
class CrossAttentionOutput:
    """What `cross_attention()` returns. Place t of the target axis belongs to target token t: its
    weights are those of the decoder position that predicts it.

    Attributes:
        cross_attentions: float32 array [batch, layers, heads, length, source length]: attention
            weights of the chosen layers, in the order asked for; 0 at padding. The forward pass of
            transformers gives a tuple instead, [batch, heads, length, source length] a layer.
        alignments: int32 array [batch, length]: the source position with the largest weight, mean
            over the layers and heads; -1 at padding.
        token_ids: int array [batch, length]: the target tokens; `None` if there were none.
        source_offsets: int32 array [batch, source length, 2]: for strings, where in the source
            string each of its tokens stands; see `GenerateOutput`.
    """

    cross_attentions: np.ndarray
    alignments: np.ndarray
    token_ids: np.ndarray | None = None
    source_offsets: np.ndarray | None = None


def check_layers(name: str, value: Any, count: int) -> list[int]:
    """Numbers of decoder layers, from 0, of `True` (all), or of a list with negative ones from the
    end; none for `None` and `False`."""
    if value is None or value is False:
        return []
    if value is True:
        return list(range(count))
    layers = check_layer_list(name, value)
    for layer in layers:
        if not -count <= layer < count:
            raise argument_error(
                name, f"must be layers from {-count} to {count - 1}: the decoder has {count}", value
            )
    return [layer % count for layer in layers]


def check_layer_list(name: str, value: Any) -> list[int]:
    """Whole numbers, one at least."""
    rule = "must be `True`, `False`, or a list of one decoder layer or more"
    if isinstance(value, str | bytes | dict) or not isinstance(value, Iterable):
        raise argument_error(name, rule, value)
    layers = [check_int(name, each, -(2**31)) for each in value]
    if not layers:
        raise argument_error(name, rule, value)
    return layers


def answer_attentions(
    core: Any, request: Any, answers: list[list[Any]], layers: list[int], size: tuple[int, int]
) -> np.ndarray:
    """What each step of a generation looked at: [r, l, h, *size], place t for token t.

    A pass over the finished answers: it has the bits of the steps that wrote them, whatever method
    chose the tokens.

    Args:
        core: the core's model.
        request: a `Request`, whose sources were read.
        answers: for each source its answers.
        layers: decoder layers from 0.
        size: places of the target axis and of the source axis.
    """
    sources, positions = request.real_sources()
    # The last token of an answer was fed to nothing.
    fed = [each.ids[:-1] for row in answers for each in row]
    of = [i for i, row in enumerate(answers) for _ in row]
    return core.cross_attention(sources, positions, fed, None, of, layers, 1, size)


def array_attentions(core: Any, arrays: Sequence[np.ndarray], layers: list[int]) -> np.ndarray:
    """The same for given targets, place t for decoder position t.

    Args:
        core: the core's model.
        arrays: ids and mask of the sources, ids and mask of the decoder's input.
        layers: decoder layers from 0.
    """
    ids, mask, decoder_ids, decoder_mask = arrays
    size = decoder_ids.shape[1], ids.shape[1]
    of = list(range(len(ids)))
    sources, targets = _ragged(ids, mask), _ragged(decoder_ids, decoder_mask)
    return core.cross_attention(*sources, *targets, of, layers, 0, size)


def _ragged(ids: np.ndarray, mask: np.ndarray) -> tuple[list[list[int]], list[list[int]]]:
    """The real tokens of each row, and their positions."""
    tokens = [row[real].tolist() for row, real in zip(ids, mask, strict=True)]
    return tokens, [np.flatnonzero(real).tolist() for real in mask]


def alignments(weights: np.ndarray) -> np.ndarray:
    """The source position [r, t] with the largest weight, mean over layers and heads; -1 where all
    weights are 0."""
    mean = weights.mean(axis=(1, 2), dtype=np.float32)
    return np.where(mean.any(axis=-1), mean.argmax(axis=-1), -1).astype(np.int32)


def moved_left(weights: np.ndarray, shifts: Iterable[int], width: int) -> np.ndarray:
    """`weights` [r, l, h, t, s] of answers whose first tokens, `shifts` a row, were left out."""
    moved = np.zeros((*weights.shape[:3], width, weights.shape[4]), dtype=weights.dtype)
    for row, shift in enumerate(shifts):
        kept = weights[row, :, :, shift : shift + width]
        moved[row, :, :, : kept.shape[2]] = kept
    return moved


def source_offsets(preprocessor: Any, texts: list[str], lengths: np.ndarray, width: int) -> Any:
    """Spans of characters int32 [b, width, 2] of the source tokens of `texts`; (0, 0) for markers
    and padding. `None` where a preprocessor of the user's made other tokens.

    Args:
        preprocessor: of the model.
        texts: the sources.
        lengths: int array [b], the source tokens of each, markers included.
        width: of the sources as arrays.
    """
    tokenizer = getattr(preprocessor, "tokenizer", None)
    if not hasattr(tokenizer, "offsets"):
        return None
    spans = np.zeros((len(texts), width, 2), dtype=np.int32)
    before, after = map(len, tokenizer._source_affixes)
    for row, found in enumerate(tokenizer.offsets(texts)):
        inside = int(lengths[row]) - before - after  # without `<s>` and `</s>`, say
        if not 0 <= inside <= len(found):
            return None
        spans[row, before : before + inside] = found[:inside]
    return spans
