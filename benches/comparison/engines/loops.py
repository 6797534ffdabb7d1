"""Greedy and beam search for engines that run a graph: the least that must be done around it."""

import numpy as np

from comparison.engines.base import BaseEngine
from comparison.inputs import Rows, padded

PADDING, START = 1, 2


class GraphEngine(BaseEngine):
    """An engine whose decoder is asked for the scores of one more token."""

    def start(self, ids: np.ndarray, mask: np.ndarray, copies: int) -> None:
        """Encodes sources, int64 [rows, length], and begins `copies` answers to each."""
        raise NotImplementedError

    def step(self, tokens: np.ndarray, order: np.ndarray | None) -> np.ndarray:
        """Scores [rows, vocabulary] after one more token of each row, int64 [rows].

        `order` says which of its rows the cache of each row now is; `None`: its own.
        """
        raise NotImplementedError

    def greedy(self, rows: Rows, new_tokens: int) -> list[list[int]]:
        ids, mask = padded(rows, PADDING)
        self.start(ids, mask, 1)
        tokens = np.full(len(rows), START)
        answers = []
        for _ in range(new_tokens):
            tokens = self.step(tokens, None).argmax(-1)
            answers.append(tokens)
        return np.stack(answers, 1).tolist()

    def beams(
        self, rows: Rows, new_tokens: int, beams: int, length_penalty: float, no_repeat: int
    ) -> list[list[int]]:
        """For one row. No token ends a beam: all have one length, whose penalty changes nothing."""
        ids, mask = padded(rows, PADDING)
        self.start(ids, mask, beams)
        histories = [[START] for _ in range(beams)]
        totals = np.array([0.0] + [-1e9] * (beams - 1), np.float32)
        order = None
        for _ in range(new_tokens):
            scores = self.step(np.array([history[-1] for history in histories]), order)
            scores = scores - _log_sum_exp(scores)
            for history, row in zip(histories, scores, strict=True):
                row[_repeats(history, no_repeat)] = -np.inf
            scores += totals[:, None]
            best = np.argpartition(scores.ravel(), -beams)[-beams:]
            best = best[np.argsort(-scores.ravel()[best], kind="stable")]
            totals, order = scores.ravel()[best], best // scores.shape[1]
            histories = [
                [*histories[beam], int(token)]
                for beam, token in zip(order, best % scores.shape[1], strict=True)
            ]
        return [histories[0][1:]]


def _log_sum_exp(scores: np.ndarray) -> np.ndarray:
    highest = scores.max(-1, keepdims=True)
    return highest + np.log(np.exp(scores - highest).sum(-1, keepdims=True))


def _repeats(history: list[int], size: int) -> list[int]:
    """The tokens that would end a run of `size` tokens a second time."""
    if size == 0 or len(history) < size:
        return []
    last = history[len(history) - size + 1 :]
    runs = range(len(history) - size + 1)
    return [history[i + size - 1] for i in runs if history[i : i + size - 1] == last]
