"""Beam search in numpy over a `next` function: what `BeamSampler` does when called by itself.

Models search in the core (`src/generation`); this is the same rule for a `next` of the caller's.
Letters in shapes: b rows, n beams a row, l positions, v tokens, c candidates.
"""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

# Score of what may not be chosen: far below any sum of log probabilities, yet finite.
_NEVER = np.float32(-1e9)


def keras_search(
    sampler: Any,
    next: Callable[..., tuple[Any, Any, Any]],
    prompt: np.ndarray,
    cache: Any,
    index: int,
    mask: np.ndarray,
    stop_token_ids: Sequence[int] | None,
) -> tuple[np.ndarray, np.ndarray]:
    """keras-hub's rule: ended beams go on; ranked by summed log probability, best first.

    Returns:
        sequences [b, n, l] and their scores [b, n].
    """
    beams = sampler.num_beams
    prompt, mask, cache = _expand((prompt, mask, cache), beams)
    scores = _first_beam_only(len(prompt) // beams, beams)
    done = np.zeros(len(prompt), dtype=bool)
    for position in range(index, prompt.shape[1]):
        if stop_token_ids is not None and done.all():
            break
        logits, _, cache = next(prompt, cache, position)
        logs = _log_probabilities(sampler, next, logits, prompt, cache, position)
        totals = logs.reshape(*scores.shape, -1) + scores[:, :, None]  # b n v
        chosen, scores = _best(totals.reshape(len(scores), -1), beams)  # b n
        source = _flat_source(chosen // totals.shape[-1])
        prompt, done, cache = _take((prompt, done, cache), source)
        given = mask[:, position]
        prompt[:, position] = np.where(
            given, prompt[:, position], (chosen % totals.shape[-1]).reshape(-1)
        )
        if stop_token_ids is not None:
            done |= ~given & np.isin(prompt[:, position], list(stop_token_ids))
    order = np.argsort(-scores, axis=-1, kind="stable")
    sequences = prompt.reshape(len(scores), beams, -1)
    return (
        np.take_along_axis(sequences, order[:, :, None], axis=1),
        np.take_along_axis(scores, order, axis=1),
    )


def transformers_search(
    sampler: Any,
    next: Callable[..., tuple[Any, Any, Any]],
    prompt: np.ndarray,
    cache: Any,
    index: int,
    mask: np.ndarray,
    stop_token_ids: Sequence[int] | None,
) -> tuple[np.ndarray, np.ndarray]:
    """Hugging Face's rule: ended beams are set aside with a score normalised by length.

    Returns:
        sequences [b, n, l] and their scores [b, n], best first.
    """
    search = _Search(sampler, prompt, mask, index, stop_token_ids)
    cache = _expand(cache, sampler.num_beams)
    for position in range(index, prompt.shape[1]):
        if not search.open.any():
            break
        running = search.flat_running()
        logits, _, cache = next(running, cache, position)
        logs = _log_probabilities(sampler, next, logits, running, cache, position)
        cache = _take(cache, search.step(logs, position))
    return search.answers()


class _Search:
    """The state of `transformers_search`: running beams, and answers set aside."""

    def __init__(self, sampler, prompt, mask, index, stop_token_ids):
        rows, self.length = prompt.shape
        self.sampler, self.beams = sampler, sampler.num_beams
        self.mask = mask
        self.stop = list(stop_token_ids or ())
        self.running = np.repeat(prompt[:, None], self.beams, axis=1)  # b n l
        self.running_scores = _first_beam_only(rows, self.beams)
        self.ended = self.running.copy()
        self.ended_scores = np.full((rows, self.beams), _NEVER)
        self.has_ended = np.zeros((rows, self.beams), dtype=bool)
        self.open = np.ones(rows, dtype=bool)
        # A row's prompt reaches to its first free position.
        free = ~mask.copy()
        free[:, :index] = False
        self.prompt_lengths = np.where(free.any(axis=1), free.argmax(axis=1), self.length)

    def flat_running(self) -> np.ndarray:
        return self.running.reshape(-1, self.length)

    def step(self, logs: np.ndarray, position: int) -> np.ndarray:
        """Extends all beams by one token, given log probabilities [b * n, v]. Returns the flat beam
        that each new one came from."""
        scores = self.running_scores
        totals = logs.reshape(*scores.shape, -1) + scores[:, :, None]  # b n v
        vocabulary = totals.shape[-1]
        flat = totals.reshape(len(totals), -1)
        kept = min(max(2, 1 + len(self.stop)) * self.beams, flat.shape[1])
        chosen, scores = _best(flat, kept)  # b c
        tokens, sources = chosen % vocabulary, chosen // vocabulary
        sequences = np.take_along_axis(self.running, sources[:, :, None], axis=1)  # b c l
        sequences[:, :, position] = tokens
        ends = np.isin(tokens, self.stop) | (position == self.length - 1)
        free = self.open & ~self.mask[:, position]
        self._set_aside(free, sequences, scores, ends, position)
        sources = self._continue(free, sequences, scores, ends, sources)
        self._close(free, position + 1)
        return _flat_source(sources)

    def _set_aside(self, free, sequences, scores, ends, position) -> None:
        """Merges candidates that end, if among the best `num_beams`, into the answers."""
        lengths = (position + 1 - self.prompt_lengths)[:, None]
        eligible = ends & (np.arange(ends.shape[1]) < self.beams)
        normalised = scores / _power(lengths, self.sampler.length_penalty)
        normalised = np.where(eligible, normalised, _NEVER).astype(np.float32)
        merged = np.concatenate([self.ended_scores, normalised], axis=1)
        best, best_scores = _best(merged, self.beams)
        every = np.concatenate([self.ended, sequences], axis=1)
        flags = np.concatenate([self.has_ended, eligible], axis=1)
        self.ended_scores[free] = best_scores[free]
        self.ended[free] = np.take_along_axis(every, best[:, :, None], axis=1)[free]
        self.has_ended[free] = np.take_along_axis(flags, best, axis=1)[free]

    def _continue(self, free, sequences, scores, ends, sources) -> np.ndarray:
        """The best candidates that do not end run on; others keep beams and tokens given."""
        best, best_scores = _best(np.where(ends, scores + _NEVER, scores), self.beams)
        self.running_scores[free] = best_scores[free]
        self.running[free] = np.take_along_axis(sequences, best[:, :, None], axis=1)[free]
        new = np.take_along_axis(sources, best, axis=1)
        return np.where(free[:, None], new, np.arange(self.beams))

    def _close(self, free, length) -> None:
        """Closes rows whose running beams cannot, or are unlikely to, become answers."""
        stopping, penalty = self.sampler.early_stopping, self.sampler.length_penalty
        reach = self.length if stopping == "never" and penalty > 0 else length
        possible = self.running_scores[:, 0] / _power(reach - self.prompt_lengths, penalty)
        worst = np.where(self.has_ended, self.ended_scores.min(axis=1, keepdims=True), _NEVER)
        improvable = (possible[:, None] > worst).any(axis=1)
        full = self.has_ended.all(axis=1) & (stopping is True)
        self.open &= ~free | (improvable & ~full)

    def answers(self) -> tuple[np.ndarray, np.ndarray]:
        return self.ended, self.ended_scores


def _power(lengths: np.ndarray, penalty: float) -> np.ndarray:
    return np.maximum(lengths, 1).astype(np.float32) ** np.float32(penalty)


def _first_beam_only(rows: int, beams: int) -> np.ndarray:
    """Start scores: equal beams would only ever find equal candidates."""
    return np.tile(np.array([0.0] + [_NEVER] * (beams - 1), dtype=np.float32), (rows, 1))


def _log_probabilities(
    sampler: Any, next: Any, logits: Any, prompt: np.ndarray, cache: Any, position: int
) -> np.ndarray:
    """Logits to log probabilities [b * n, v], as the rules of a model's call leave them."""
    with np.errstate(divide="ignore"):  # log 0 = -inf is right: never chosen
        logs = np.log(sampler.compute_probabilities(logits))
    constrain = getattr(next, "constrain", None)
    return logs if constrain is None else constrain(logs, prompt, cache, position)


def _best(scores: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    """Indices and values of the `k` largest of each row; of equals the first."""
    order = np.argsort(-scores, axis=-1, kind="stable")[:, :k]
    return order, np.take_along_axis(scores, order, axis=-1)


def _flat_source(sources: np.ndarray) -> np.ndarray:
    """Beam numbers within a row [b, n] to indices of flat beams [b * n]."""
    rows, beams = sources.shape
    return (sources + np.arange(rows)[:, None] * beams).reshape(-1)


def _expand(tree: Any, beams: int) -> Any:
    return _map(lambda leaf: np.repeat(leaf, beams, axis=0), tree)


def _take(tree: Any, source: np.ndarray) -> Any:
    return _map(lambda leaf: np.asarray(leaf)[source], tree)


def _map(function: Callable[[Any], Any], tree: Any) -> Any:
    """`function` of every leaf of nested tuples, lists and dicts; `None` stays."""
    if tree is None:
        return None
    if isinstance(tree, (tuple, list)):
        return type(tree)(_map(function, each) for each in tree)
    if isinstance(tree, dict):
        return {key: _map(function, each) for key, each in tree.items()}
    return function(tree)
