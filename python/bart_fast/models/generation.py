"""What goes into a `generate()` call and what comes out, as token arrays.

Letters in shapes: b rows, n beams a row, s source positions, w decoder positions.
"""

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from bart_fast import _core
from bart_fast._validation import (
    DECODER_IDS,
    DECODER_MASK,
    ENCODER_IDS,
    ENCODER_MASK,
    argument_error,
    check_keys,
    check_length,
    check_mask,
    check_positive_int,
    check_same_rows,
    check_token_ids,
)


@dataclass(frozen=True)
class SpecialTokens:
    """Special ids that a preset names, for models without a tokenizer. Empty or `None`: unknown."""

    start_ids: tuple[int, ...] = ()
    end_ids: tuple[int, ...] = ()
    pad_id: int | None = None

    def settings(self) -> dict[str, Any]:
        """The ids as Hugging Face's settings name them."""
        start = {"decoder_start_token_id": list(self.start_ids[:1])}
        return {**start, "bos_token_id": list(self.start_ids[1:])} | {
            "eos_token_id": list(self.end_ids),
            "pad_token_id": self.pad_id,
        }


@dataclass(frozen=True)
class Answer:
    """One generated sequence: prompt and answer up to and including the stop token.

    `token_logprobs` are those of the tokens after the prompt. Beam search always has them, other
    methods where the option `token_logprobs` asks for them.
    """

    ids: list[int]
    score: float
    token_logprobs: list[float] = field(default_factory=list)


@dataclass
class Request:
    """A checked batch of inputs.

    Attributes:
        sources: int64 [b, s] and `source_mask` bool [b, s]: what the encoder reads where `True`.
        given: int64 [b, w], what the decoder starts from where `given_mask` [b, w] is `True`.
        limit: the longest answer, prompt included.
        fixed_width: whether answers come back as wide as `given`; else as the longest of them.
        pad_id: fills what no answer covers, where nothing was given.
    """

    sources: np.ndarray
    source_mask: np.ndarray
    given: np.ndarray
    given_mask: np.ndarray
    limit: int
    fixed_width: bool
    pad_id: int

    def __len__(self) -> int:
        return len(self.sources)

    def repeated(self, times: int) -> "Request":
        """Every row so many times, one after the other."""
        if times == 1:
            return self
        names = ("sources", "source_mask", "given", "given_mask")
        return replace(self, **{n: np.repeat(getattr(self, n), times, axis=0) for n in names})

    def real_sources(self) -> tuple[list[list[int]], list[list[int]] | None]:
        """The real tokens of each source, and their positions if a mask has holes."""
        rows = zip(self.sources, self.source_mask, strict=True)
        ids = [row[mask].tolist() for row, mask in rows]
        begins = self.source_mask[:, 0].all()
        # A mask that goes from False to True has a hole.
        if begins and not (self.source_mask[:, 1:] & ~self.source_mask[:, :-1]).any():
            return ids, None
        return ids, [np.flatnonzero(mask).tolist() for mask in self.source_mask]


def request_from_arrays(
    arrays: Mapping[str, Any], max_length: int | None, backbone: Any, special: SpecialTokens
) -> Request:
    """Checks the token arrays of a `generate()` call.

    Args:
        arrays: `encoder_token_ids` and `encoder_padding_mask`, with or without
            `decoder_token_ids` and `decoder_padding_mask`; [batch, length] each.
        max_length: the longest answer; the width of the decoder arrays limits it too.
        backbone: the model's backbone, for the sizes.
        special: start and pad ids, used without decoder arrays.

    Raises:
        ValueError: see the messages; each names the argument.
    """
    check_keys("inputs", arrays, (ENCODER_IDS, ENCODER_MASK), (DECODER_IDS, DECODER_MASK))
    sources, source_mask = _check_pair(arrays, ENCODER_IDS, ENCODER_MASK, backbone)
    check_sources(source_mask)
    if len(source_mask):
        last = int(np.flatnonzero(source_mask.any(axis=0))[-1])
        check_length(ENCODER_IDS, last + 1, backbone.max_sequence_length)
    if max_length is not None:
        check_positive_int("max_length", max_length)
    table = backbone.max_sequence_length
    if not has_prompts(arrays):
        limit = table if max_length is None else max_length
        check_limit("max_length", limit, table)
        start = _start_ids(special)
        given = np.tile(np.array(start, dtype=np.int64), (len(sources), 1))
        mask = np.ones(given.shape, dtype=bool)
        return Request(sources, source_mask, given, mask, limit, False, _pad_id(special))
    check_keys("inputs", arrays, (ENCODER_IDS, ENCODER_MASK, DECODER_IDS, DECODER_MASK))
    given, given_mask = _check_pair(arrays, DECODER_IDS, DECODER_MASK, backbone)
    check_same_rows(sources, given)
    _check_prompts(given_mask)
    limit = given.shape[1] if max_length is None else min(max_length, given.shape[1])
    check_limit(DECODER_IDS, limit, table)
    # Every position has a given value, so that no pad id is ever needed.
    return Request(sources, source_mask, given, given_mask, limit, True, 0)


def has_prompts(arrays: Mapping[str, Any]) -> bool:
    """Whether token arrays say what the decoder starts from."""
    return DECODER_IDS in arrays or DECODER_MASK in arrays


def _check_pair(
    arrays: Mapping[str, Any], ids_name: str, mask_name: str, backbone: Any
) -> tuple[np.ndarray, np.ndarray]:
    ids = check_token_ids(ids_name, arrays[ids_name], backbone.vocabulary_size)
    mask = check_mask(mask_name, arrays[mask_name], ids_name, ids.shape, allow_short=True)
    return ids, mask


def check_sources(mask: np.ndarray) -> None:
    """Every source has a real token."""
    empty = np.flatnonzero(~mask.any(axis=1))
    if empty.size:
        raise ValueError(
            f"`{ENCODER_MASK}` must be True at one position of each row at least. "
            f"Received: row {empty[0]} without any.\n"
            "hint: an empty source is start and end token, `<s> </s>`, both real"
        )


def _check_prompts(mask: np.ndarray) -> None:
    empty = np.flatnonzero(~mask.any(axis=1))
    if empty.size:
        raise ValueError(
            f"`{DECODER_MASK}` must be True at one position of each row at least: the decoder "
            f"needs a token to start from. Received: row {empty[0]} without any.\n"
            "hint: begin the row with the model's start token and set its mask to True"
        )


def check_limit(name: str, limit: int, table: int) -> None:
    """An answer may not be longer than the position table."""
    if limit > table:
        raise ValueError(
            f"`{name}` asks for answers of {limit} tokens, but the position table of the model "
            f"(`max_sequence_length`) has {table}.\nhint: use a `max_length` of at most {table}"
        )


def _start_ids(special: SpecialTokens) -> tuple[int, ...]:
    if not special.start_ids:
        raise ValueError(
            f"`inputs` has no `{DECODER_IDS}`, and which token starts an answer is not known: the "
            "model has no preprocessor and does not come from a preset.\n"
            f"hint: pass `{DECODER_IDS}` and `{DECODER_MASK}` with the start token"
        )
    return special.start_ids


def _pad_id(special: SpecialTokens) -> int:
    if special.pad_id is None:
        raise ValueError(
            "`inputs`: the pad id is not known, since the preset does not name one.\n"
            f"hint: pass `{DECODER_IDS}` and `{DECODER_MASK}`; their width is then the limit"
        )
    return special.pad_id


def resolve_stop_ids(
    stop_token_ids: Any, automatic: Iterable[int], vocabulary_size: int
) -> list[int]:
    """The ids that end an answer; none means that only the length does.

    Args:
        stop_token_ids: `"auto"`, `None`, one id, or several.
        automatic: what `"auto"` stands for; empty if it is not known.
        vocabulary_size: ids must be below it.
    """
    if stop_token_ids is None:
        return []
    if isinstance(stop_token_ids, str):
        if stop_token_ids != "auto":
            raise argument_error(
                "stop_token_ids", 'must be "auto", `None`, or token ids', stop_token_ids
            )
        if not (known := list(automatic)):
            raise ValueError(
                '`stop_token_ids="auto"` is the end id of the tokenizer or of the preset, and this '
                "model has neither.\nhint: pass the ids that end an answer, or `None` to generate "
                "up to the limit"
            )
        return known
    try:
        ids = np.atleast_1d(np.asarray(stop_token_ids)).tolist()
        if isinstance(stop_token_ids, (set, frozenset)):
            ids = np.sort(list(stop_token_ids)).tolist()
    except (TypeError, ValueError):
        ids = [None]
    for each in ids:
        if not isinstance(each, int) or isinstance(each, bool) or not 0 <= each < vocabulary_size:
            raise argument_error(
                "stop_token_ids",
                f"must be ids from 0 to {vocabulary_size - 1} (sequences of several tokens are "
                "not supported)",
                stop_token_ids,
            )
    return ids


def check_lengths(request: Request, settings: Mapping[str, Any], said: Iterable[str]) -> None:
    """Refuses least lengths beyond the longest.

    Args:
        request: the inputs.
        settings: `min_length`, `min_new_tokens` and `max_new_tokens`, where given.
        said: names of those that the caller said. As in transformers, those of a checkpoint may
            be beyond the length of a call: then no answer stops before its limit.
    """
    if "min_length" in said and settings.get("min_length", 0) > request.limit:
        raise argument_error(
            "min_length",
            f"must be at most the limit of {request.limit} tokens",
            settings["min_length"],
        )
    least, most = settings.get("min_new_tokens"), settings.get("max_new_tokens")
    if "min_new_tokens" in said and most is not None and least > most:
        raise argument_error("min_new_tokens", f"must be at most `max_new_tokens`, {most}", least)
    longest_prompt = int(request.given_mask.sum(axis=1).max(initial=0))
    if "min_new_tokens" in said and least > max(0, request.limit - longest_prompt):
        raise argument_error(
            "min_new_tokens",
            f"must be at most {max(0, request.limit - longest_prompt)}: answers have a limit of "
            f"{request.limit} tokens, and a prompt has {longest_prompt}",
            least,
        )


def row_limits(request: Request, max_new_tokens: int | None) -> list[int]:
    """The longest answer of each row, prompt included."""
    prompts = request.given_mask.sum(axis=1)
    if max_new_tokens is None:
        return [request.limit] * len(prompts)
    return np.minimum(prompts + max_new_tokens, request.limit).tolist()


def answer_arrays(request: Request, answers: list[list[Answer]]) -> dict[str, np.ndarray]:
    """Rectangular arrays of the answers, several beams a row.

    Returns:
        `decoder_token_ids` int32 [b, n, w], `decoder_padding_mask` bool [b, n, w] (`True` up to
        and including the stop token) and `scores` float32 [b, n].
    """
    beams = len(answers[0]) if answers else 1
    if request.fixed_width:
        width = request.given.shape[1]
    else:
        width = max((len(each.ids) for row in answers for each in row), default=0)
    ids = np.full((len(request), beams, width), request.pad_id, dtype=np.int32)
    shared = min(width, request.given.shape[1])
    ids[:, :, :shared] = request.given[:, None, :shared]
    mask = np.zeros(ids.shape, dtype=bool)
    scores = np.zeros(ids.shape[:2], dtype=np.float32)
    for row, beams_of_row in enumerate(answers):
        for beam, answer in enumerate(beams_of_row):
            ids[row, beam, : len(answer.ids)] = answer.ids
            mask[row, beam, : len(answer.ids)] = True
            scores[row, beam] = answer.score
    return {DECODER_IDS: ids, DECODER_MASK: mask, "scores": scores}


def logprob_array(request: Request, answers: list[list[Answer]], width: int) -> np.ndarray:
    """Those of generated tokens, float32 [b * n, width - shortest prompt]; 0 elsewhere."""
    starts = request.given_mask.sum(axis=1)
    shortest = int(starts.min(initial=width))
    rows = [each for row in answers for each in row]
    logprobs = np.zeros((len(rows), width), dtype=np.float32)
    for row, each in enumerate(rows):
        end = len(each.ids)
        logprobs[row, end - len(each.token_logprobs) : end] = each.token_logprobs
    return logprobs[:, shortest:]


def strip_prompts(request: Request, arrays: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The answers of `answer_arrays` moved to the left by their prompts, which are masked."""
    ids, mask = arrays[DECODER_IDS].copy(), arrays[DECODER_MASK].copy()
    width = ids.shape[-1]
    prompt = np.zeros((len(request), width), dtype=bool)
    shared = min(width, request.given_mask.shape[1])
    prompt[:, :shared] = request.given_mask[:, :shared]
    mask &= ~prompt[:, None, :]
    for row, shift in enumerate(request.given_mask.sum(axis=1)):
        ids[row] = np.roll(ids[row], -shift, axis=-1)
        mask[row] = np.roll(mask[row], -shift, axis=-1)
    return {**arrays, DECODER_IDS: ids, DECODER_MASK: mask}


def generate_in_core(
    backbone: Any,
    request: Request,
    limits: list[int],
    options: Mapping[str, Any],
    functions: Mapping[str, Any],
) -> list[list[Answer]]:
    """Generates with a method of the core; padding is left out of everything it computes.

    Args:
        backbone: the model's backbone.
        request: the inputs.
        limits: the longest answer of each row.
        options: the method's name and arguments, stop ids, constraints.
        functions: `prefix_allowed_tokens_fn`, `logits_processor`, `stopping_criteria`, where given.
    """
    arguments = _core_arguments(request, limits, options, functions)
    answers = backbone._model.generate(*arguments)
    return [[Answer(ids, score, logprobs) for ids, score, _, logprobs in row] for row in answers]


def stream_from_core(
    backbone: Any,
    request: Request,
    limits: list[int],
    options: Mapping[str, Any],
    functions: Mapping[str, Any],
) -> _core.Generation:
    """The same for one row, whose tokens come as they become certain; nothing runs yet."""
    arguments = _core_arguments(request, limits, options, functions)
    return _core.Generation(backbone._model, *arguments)


def _core_arguments(
    request: Request,
    limits: list[int],
    options: Mapping[str, Any],
    functions: Mapping[str, Any],
) -> tuple[Any, ...]:
    return (
        *request.real_sources(),
        request.given.tolist(),
        request.given_mask.tolist(),
        limits,
        json.dumps(options),
        dict(functions),
    )
