"""Sampling from the whole distribution."""

import numpy as np

from bart_fast.samplers.seeded_sampler import SeededSampler


class RandomSampler(SeededSampler):
    """Draws from all tokens, each with its probability.

    Args:
        seed: int or `None`. Start of the random stream. Defaults to `None`: a new one each time.
        temperature: float above 0. Defaults to 1.0.

    Example:

    ```python
    bart_lm.compile(sampler=bart_fast.samplers.RandomSampler(seed=7, temperature=0.7))
    bart_lm.generate("The quick brown fox")
    ```
    """

    _core_name = "random"

    def get_next_token(self, probabilities: np.ndarray) -> np.ndarray:
        return self.draw(probabilities)
