"""Sampling from the smallest set of tokens that holds a given probability."""

from typing import Any

import numpy as np

from bart_fast._validation import check_positive_int, check_probability
from bart_fast.samplers.seeded_sampler import SeededSampler
from bart_fast.samplers.top_k_sampler import most_probable


class TopPSampler(SeededSampler):
    """Draws from the most probable tokens whose probabilities sum to more than `p`.

    Tokens are ordered by probability; each one is kept while the sum of those before it is at
    most `p`, so that at least one always stays.

    Args:
        p: float from 0 to 1. Defaults to 0.1.
        k: int or `None`. If set, only the `k` most probable tokens are looked at (their
            probabilities are not scaled up for that). Defaults to `None`.
        seed: int or `None`. Start of the random stream. Defaults to `None`: a new one each time.
        temperature: float above 0. Defaults to 1.0.

    Example:

    ```python
    bart_lm.compile(sampler=bart_fast.samplers.TopPSampler(p=0.9, k=1_000, seed=7))
    bart_lm.generate("The quick brown fox")
    ```

    Reference:
        Holtzman et al., 2019, "The Curious Case of Neural Text Degeneration".
    """

    _core_name = "top_p"

    def __init__(
        self,
        p: float = 0.1,
        k: int | None = None,
        seed: int | None = None,
        temperature: float = 1.0,
    ):
        super().__init__(seed=seed, temperature=temperature)
        self.p = check_probability("p", p)
        self.k = None if k is None else check_positive_int("k", k)

    def get_next_token(self, probabilities: np.ndarray) -> np.ndarray:
        order, kept = most_probable(probabilities, self.k)
        sum_with = np.cumsum(kept, axis=-1)
        # Shifted by one: the token whose probability takes the sum past `p` is kept.
        keep = np.concatenate([np.ones_like(order[:, :1], bool), sum_with[:, :-1] <= self.p], 1)
        chosen = self.draw(np.where(keep, kept, 0.0))
        return np.take_along_axis(order, chosen[:, None], axis=-1)[:, 0]

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "p": self.p, "k": self.k}

    def _core_options(self) -> dict[str, Any]:
        return {**super()._core_options(), "p": self.p, "k": self.k}
