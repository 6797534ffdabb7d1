"""Contrastive search."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from bart_fast._validation import check_numbers, check_positive_int, check_probability
from bart_fast.samplers.beam_search import _expand, _take
from bart_fast.samplers.sampler import Sampler, _prepare


class ContrastiveSampler(Sampler):
    """Takes a probable token that says something new.

    Of the `k` most probable tokens the one is taken whose
    `(1 - alpha) * probability - alpha * similarity` is highest, where the similarity is the largest
    cosine between the decoder's hidden state of the token and those of all tokens before it. This
    keeps texts from repeating themselves without any chance; each step costs about as much as with
    `k` beams.

    Args:
        k: int, 1 or more. How many candidates each step has. Defaults to 5.
        alpha: float from 0 to 1. What similarity weighs: 0 is greedy search. Defaults to 0.6.
        temperature: float above 0. Defaults to 1.0.

    Example:

    ```python
    bart_lm.compile(sampler=bart_fast.samplers.ContrastiveSampler(k=4))
    bart_lm.generate("The quick brown fox")
    ```

    Reference:
        Su et al., 2022, "A Contrastive Framework for Neural Text Generation".
    """

    _core_name = "contrastive"

    def __init__(self, k: int = 5, alpha: float = 0.6, temperature: float = 1.0):
        super().__init__(temperature=temperature)
        self.k = check_positive_int("k", k)
        self.alpha = check_probability("alpha", alpha)

    def __call__(
        self,
        next: Callable[..., tuple[Any, Any, Any]],
        prompt: Any,
        cache: Any = None,
        index: int = 0,
        mask: Any = None,
        stop_token_ids: Sequence[int] | None = None,
        hidden_states: Any = None,
        model: Any = None,
    ) -> Any:
        """Fills `prompt` from position `index` on; arguments as for `Sampler`.

        `next` is called with `index`, and then once a token with the following positions, with `k`
        rows for each row of `prompt`; arrays in `cache` are repeated and chosen with them (first
        axis). Its `hidden_states` [rows, width] are those of the token before its `index`.

        Args:
            hidden_states: float array [batch, length, width], of the prompt. Required.

        Returns:
            int array [batch, length].

        Raises:
            ValueError: `hidden_states` is missing or misshapen.
        """
        prompt, mask, index, stop_token_ids = _prepare(next, prompt, mask, index, stop_token_ids)
        history = _checked_states(hidden_states, prompt)  # b l w
        rows, length = prompt.shape
        done = np.zeros(rows, dtype=bool)
        logits, _, cache = next(prompt, cache, int(index))
        for position in range(int(index), length):
            if stop_token_ids is not None and done.all():
                break
            tokens, probabilities = self._candidates(logits)  # b k
            given = mask[:, position]
            tokens = np.where(given[:, None], prompt[:, position, None], tokens)
            count = tokens.shape[1]
            extended = np.repeat(prompt, count, axis=0)
            extended[:, position] = tokens.reshape(-1)
            logits, states, cache = next(extended, _expand(cache, count), position + 1)
            states = np.asarray(states, dtype=np.float32)
            said = np.repeat(history[:, :position], count, axis=0)
            similarity = self.similarity(said, states).max(axis=1, initial=-1.0)
            scores = (1 - self.alpha) * probabilities.reshape(-1) - self.alpha * similarity
            best = scores.reshape(rows, count).argmax(axis=1) + np.arange(rows) * count
            prompt, logits, cache = extended[best], np.asarray(logits)[best], _take(cache, best)
            history[:, position] = states[best]
            if stop_token_ids is not None:
                done |= ~given & np.isin(prompt[:, position], list(stop_token_ids))
        return prompt

    def _candidates(self, logits: Any) -> tuple[np.ndarray, np.ndarray]:
        probabilities = self.compute_probabilities(logits)
        order = np.argsort(-probabilities, axis=-1, kind="stable")[:, : self.k]
        return order, np.take_along_axis(probabilities, order, axis=-1)

    def similarity(self, h1: np.ndarray, h2: np.ndarray) -> np.ndarray:
        """Cosines [rows, length] between `h1` [rows, length, width] and `h2` [rows, width]."""
        norms = np.linalg.norm(h1, axis=-1) * np.linalg.norm(h2, axis=-1)[:, None]
        return np.einsum("rlw,rw->rl", h1, h2) / norms

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "k": self.k, "alpha": self.alpha}

    def _core_options(self) -> dict[str, Any]:
        return {**super()._core_options(), "k": self.k, "alpha": self.alpha}


def _checked_states(hidden_states: Any, prompt: np.ndarray) -> np.ndarray:
    """A float32 copy [b, l, w]."""
    if hidden_states is None:
        raise ValueError(
            "`hidden_states` must be the hidden states of the prompt, [batch, length, width]: they "
            "are what `ContrastiveSampler` compares. Received: None."
        )
    states = np.array(check_numbers("hidden_states", hidden_states))
    if states.ndim != 3 or states.shape[:2] != prompt.shape:
        raise ValueError(
            "`hidden_states` must have the shape [batch, length, width], the first two being "
            f"{prompt.shape}. Received: {states.shape}."
        )
    return states
