"""Generation with a sampler that the core does not know: one forward pass a token.

The rules on the next token are the core's (`_core.Constraints`), so that both ways agree.
Letters in shapes: b rows, w decoder positions, v tokens of the vocabulary.
"""

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from bart_fast import _core
from bart_fast._validation import argument_error
from bart_fast.models.generation import Answer, Request
from bart_fast.samplers.beam_sampler import BeamSampler
from bart_fast.samplers.contrastive_sampler import ContrastiveSampler
from bart_fast.samplers.sampler import Sampler


def generate_in_python(
    sampler: Callable[..., Any],
    backbone: Any,
    request: Request,
    limits: list[int],
    options: dict[str, Any],
    functions: Mapping[str, Any],
) -> list[list[Answer]]:
    """Generates with a sampler in Python; see `generation.generate_in_core`.

    Args:
        sampler: called as `Sampler.__call__` is, once for the rows of each limit.
        backbone: the model's backbone.
        request: the inputs.
        limits: the longest answer of each row.
        options: stop ids and constraints.
        functions: functions of the call.
    """
    rules, wants_logprobs = _rules(sampler, options, functions)
    stop_ids = options["stop_token_ids"]
    prompts = request.given_mask.sum(axis=1)
    # Where the prompt fills the answer there is nothing to ask for.
    answers = [
        [Answer(ids[:length].tolist(), 0.0)]
        for ids, length in zip(request.given, prompts, strict=True)
    ]
    for limit in sorted(set(limits)):
        rows = np.flatnonzero((np.array(limits) == limit) & (prompts < limit))
        if rows.size == 0:
            continue
        next_token = _next_token(backbone, request, rows, limit, stop_ids, rules, sampler)
        next_token.keeps_scores = wants_logprobs
        for row, answer in zip(rows, next_token.ask(sampler), strict=True):
            answers[row] = answer
    return answers


def stream_in_python(
    sampler: Callable[..., Any],
    backbone: Any,
    request: Request,
    limits: list[int],
    options: dict[str, Any],
    functions: Mapping[str, Any],
) -> Iterator[list[int]]:
    """Generates the answer to one row; its new tokens after each step, prompt included. Arguments
    are those of `generate_in_python` and are checked now; the sampler is asked later."""
    rules, _ = _rules(sampler, options, functions)
    stop_ids = options["stop_token_ids"]

    def tokens() -> Iterator[list[int]]:
        told = int(request.given_mask[0].sum())
        yield request.given[0, :told].tolist()
        if told >= limits[0]:
            return
        rows = np.zeros(1, dtype=int)
        next_token = _next_token(backbone, request, rows, limits[0], stop_ids, rules, sampler)
        for ids in next_token.steps(sampler):
            yield ids[told:]
            told = len(ids)

    return tokens()


def _rules(
    sampler: Callable[..., Any], options: dict[str, Any], functions: Mapping[str, Any]
) -> tuple[_core.Constraints, bool]:
    """The rules of a call, and whether it wants log probabilities."""
    # These ask for the scores of several rows for each of the request's.
    asks_for_several = isinstance(sampler, (BeamSampler, ContrastiveSampler))
    if asks_for_several and functions.get("stopping_criteria"):
        raise argument_error(
            "stopping_criteria",
            "cannot be asked by a subclass of `BeamSampler` or `ContrastiveSampler`",
            type(sampler).__name__,
            "pass `num_beams` instead",
        )
    wants_logprobs = bool(options.pop("token_logprobs", False))
    if asks_for_several and wants_logprobs:
        raise argument_error(
            "output_scores",
            "cannot be had from a subclass of `BeamSampler` or `ContrastiveSampler`",
            type(sampler).__name__,
            "pass `num_beams` instead",
        )
    rules = _core.Constraints(json.dumps({"sampler": "greedy", **options}), dict(functions))
    return rules, wants_logprobs


def _next_token(
    backbone: Any,
    request: Request,
    rows: np.ndarray,
    limit: int,
    stop_ids: list[int],
    rules: _core.Constraints,
    sampler: Callable[..., Any],
) -> "NextToken":
    """For `rows` of a request, which have the limit `limit`."""
    part = replace(
        request,
        sources=request.sources[rows],
        source_mask=request.source_mask[rows],
        given=request.given[rows],
        given_mask=request.given_mask[rows],
        limit=limit,
    )
    return NextToken(backbone, part, rows, stop_ids, rules, isinstance(sampler, BeamSampler))


class NextToken:
    """What a sampler calls for the scores of the next token, as `next(prompt, cache, index)`.

    The cache carries what belongs to a row, so that a beam sampler repeats it with its beams. The
    rules change log probabilities in beam search, which calls `constrain` itself, else logits.

    Args:
        backbone: the model's backbone.
        request: rows that have one limit.
        numbers: int array [b], their places in the call.
        stop_ids: ids that end an answer.
        rules: the constraints and stopping criteria of the call.
        is_beams: whether the sampler is a beam search.
    """

    def __init__(self, backbone, request: Request, numbers, stop_ids, rules, is_beams: bool):
        self.backbone, self.request = backbone, request
        self.stop_ids, self.rules, self.is_beams = stop_ids, rules, is_beams
        self.prompt, self.mask = _prompt_rectangle(request)
        lengths = request.given_mask.sum(axis=1)
        self.start = int(lengths.min())
        self.cache = (request.sources, request.source_mask, self.mask, lengths, numbers)
        # Number of an input -> the length at which a criterion ended it.
        self.ends: dict[int, int] = {}
        # Position -> the scores that were handed out for it, where they are kept.
        self.keeps_scores = False
        self.scores: dict[int, np.ndarray] = {}

    def ask(self, sampler: Callable[..., Any]) -> list[list[Answer]]:
        """Runs the sampler and cuts its answers where they end."""
        outputs = sampler(
            **self._arguments(), hidden_states=self._hidden_states(), model=self.backbone
        )
        sequences, scores = outputs if isinstance(outputs, tuple) else (outputs, None)
        sequences = np.asarray(sequences)
        if sequences.ndim == 2:
            sequences = sequences[:, None]
        scores = np.zeros(sequences.shape[:2]) if scores is None else np.asarray(scores)
        return [
            [
                self._answer(sampler, self._cut(ids, row), float(score), row)
                for ids, score in zip(beams, scores[row], strict=True)
            ]
            for row, beams in enumerate(sequences)
        ]

    def steps(self, sampler: Callable[..., Any]) -> Iterator[list[int]]:
        """The ids of the first row after each of the sampler's steps, or all of them at once if it
        has a loop of its own."""
        if not isinstance(sampler, Sampler) or type(sampler).__call__ is not Sampler.__call__:
            yield self.ask(sampler)[0][0].ids
            return
        for end, sequences in sampler._steps(**self._arguments()):
            yield self._cut(sequences[0, :end], 0)

    def _arguments(self) -> dict[str, Any]:
        return {
            "next": self,
            "prompt": self.prompt,
            "cache": self.cache,
            "index": self.start,
            "mask": self.mask,
            "stop_token_ids": self.stop_ids or None,
        }

    def _hidden_states(self) -> np.ndarray:
        """Of the prompts [b, w, width]; what stands behind a prompt does not change its own."""
        every = np.ones(self.prompt.shape, dtype=bool)
        return self.backbone._model.forward(*self.cache[:2], self.prompt, every)[1]

    def _answer(self, sampler: Any, ids: list[int], score: float, row: int) -> Answer:
        prompt = int(self.cache[3][row])
        if not self.keeps_scores:
            return Answer(ids, score)
        temperature = getattr(sampler, "temperature", 1.0)
        logprobs = [0.0] * (len(ids) - prompt)
        for position in range(prompt, len(ids)):
            if not self.mask[row, position]:
                logits = self.scores[position][row].astype(np.float64) / temperature
                norm = np.log(np.exp(logits - logits.max()).sum()) + logits.max()
                logprobs[position - prompt] = float(logits[ids[position]] - norm)
        return Answer(ids, score, logprobs)

    def __call__(self, prompt: Any, cache: Any, index: int) -> tuple[np.ndarray, np.ndarray, Any]:
        history = np.asarray(prompt)[:, :index].astype(np.int64)
        every = np.ones(history.shape, dtype=bool)
        core = self.backbone._model
        hidden = np.ascontiguousarray(core.forward(*cache[:2], history, every)[1][:, -1])
        logits = np.array(core.logits(hidden))
        _check_logits(logits, cache, index)
        # Contrastive search asks beyond the last token, for its hidden state alone.
        if not self.is_beams and index < self.mask.shape[1]:
            self._ask_criteria(history, cache)
            logits = self.constrain(logits, prompt, cache, index)
        if self.keeps_scores:
            self.scores[index] = np.array(logits)
        return logits, hidden, cache

    def constrain(self, scores: np.ndarray, prompt: Any, cache: Any, index: int) -> np.ndarray:
        """The scores [b, v] of the tokens at `index` as the rules leave them."""
        history = np.asarray(prompt)[:, :index]
        sources, source_mask, mask, lengths, numbers = cache
        rows = [
            row
            for row in range(len(history))
            if not mask[row, index] and (self.is_beams or not self._has_ended(history, cache, row))
        ]
        described = [
            (
                history[row].tolist(),
                int(lengths[row]),
                self.request.limit,
                sources[row][source_mask[row]].tolist(),
                int(numbers[row]),
            )
            for row in rows
        ]
        scores = np.array(scores, dtype=np.float32)
        if rows:
            scores[rows] = self.rules.apply(described, scores[rows])
        if self.stop_ids:
            # The sampler waits for a stop token of every row; rows ended by a criterion give one.
            for row in np.flatnonzero(np.isin(numbers, list(self.ends))):
                scores[row] = -np.inf
                scores[row, self.stop_ids[0]] = 0.0
        return scores

    def _ask_criteria(self, history: np.ndarray, cache: Any) -> None:
        """Notes which rows a criterion ends with the token that came last."""
        *_, mask, lengths, numbers = cache
        last = history.shape[1] - 1
        rows = [
            row
            for row in range(len(history))
            if last >= lengths[row]
            and not mask[row, last]
            and not self._has_ended(history, cache, row)
        ]
        asked = [(history[row].tolist(), int(numbers[row])) for row in rows]
        for (ids, number), stops in zip(asked, self.rules.stops(asked), strict=True):
            if stops:
                self.ends[number] = len(ids)

    def _has_ended(self, history: np.ndarray, cache: Any, row: int) -> bool:
        *_, mask, _, numbers = cache
        if int(numbers[row]) in self.ends:
            return True
        generated = history[row, self.start :][~mask[row, self.start : history.shape[1]]]
        return bool(np.isin(generated, self.stop_ids).any())

    def _cut(self, ids: np.ndarray, row: int) -> list[int]:
        """`ids` up to the first stop token that was generated, or to where a criterion ended it."""
        generated = ~self.mask[row, : len(ids)] & (np.arange(len(ids)) >= self.start)
        ends = np.flatnonzero(np.isin(ids, self.stop_ids) & generated)
        ended = self.ends.get(int(self.cache[-1][row]), len(ids))
        return ids[: min(ended, int(ends[0]) + 1 if ends.size else len(ids))].tolist()


def _check_logits(logits: np.ndarray, cache: Any, index: int) -> None:
    """Refuses what nothing can be chosen from, as the core does."""
    broken = np.flatnonzero(~(logits < np.inf).all(axis=1))
    if broken.size:
        raise ValueError(
            f"the model's logits for input {int(cache[-1][broken[0]])} at position {index} hold "
            "NaN or infinity\n"
            "hint: check the weights; a training run may have diverged, or a file may be damaged"
        )


def _prompt_rectangle(request: Request) -> tuple[np.ndarray, np.ndarray]:
    """The prompts and what of them is given, as wide as the answers may be long.

    Holes in a prompt are given too, as in the core, so that a row is the same beside shorter ones.
    """
    shape = (len(request), request.limit)
    prompt, mask = np.full(shape, request.pad_id, dtype=np.int64), np.zeros(shape, dtype=bool)
    shared = min(request.limit, request.given.shape[1])
    prompt[:, :shared] = request.given[:, :shared]
    mask[:, :shared] = request.given_mask[:, :shared]
    lengths = request.given_mask.sum(axis=1)
    return prompt, mask | (np.arange(request.limit) < lengths[:, None])
