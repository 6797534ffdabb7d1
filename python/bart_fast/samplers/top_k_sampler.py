"""Sampling from the most probable tokens."""

from typing import Any

import numpy as np

from bart_fast._validation import check_positive_int
from bart_fast.samplers.seeded_sampler import SeededSampler


class TopKSampler(SeededSampler):
    """Draws from the `k` most probable tokens, in proportion to their probabilities.

    Args:
        k: int, 1 or more. Of tokens equally probable at the border, those with lower ids stay.
            Defaults to 5.
        seed: int or `None`. Start of the random stream. Defaults to `None`: a new one each time.
        temperature: float above 0. Defaults to 1.0.

    Example:

    ```python
    bart_lm.compile(sampler=bart_fast.samplers.TopKSampler(k=10, seed=7))
    bart_lm.generate("The quick brown fox")
    ```
    """

    _core_name = "top_k"

    def __init__(self, k: int = 5, seed: int | None = None, temperature: float = 1.0):
        super().__init__(seed=seed, temperature=temperature)
        self.k = check_positive_int("k", k)

    def get_next_token(self, probabilities: np.ndarray) -> np.ndarray:
        order, kept = most_probable(probabilities, self.k)
        return np.take_along_axis(order, self.draw(kept)[:, None], axis=-1)[:, 0]

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "k": self.k}

    def _core_options(self) -> dict[str, Any]:
        return {**super()._core_options(), "k": self.k}


def most_probable(probabilities: np.ndarray, k: int | None) -> tuple[np.ndarray, np.ndarray]:
    """Ids and probabilities [batch, k], most probable first, lower ids first among equals."""
    order = np.argsort(-np.asarray(probabilities), axis=-1, kind="stable")[:, :k]
    return order, np.take_along_axis(probabilities, order, axis=-1)
