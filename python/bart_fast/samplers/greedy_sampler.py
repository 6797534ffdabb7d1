"""Greedy search."""

from typing import Any

import numpy as np

from bart_fast.samplers.sampler import Sampler


class GreedySampler(Sampler):
    """Takes the most probable token each time; of equals, the one with the lowest id.

    Args:
        temperature: float above 0. Has no influence on the choice. Defaults to 1.0.

    Example:

    ```python
    bart_lm.compile(sampler="greedy")
    bart_lm.generate("The quick brown fox")
    ```
    """

    _core_name = "greedy"

    def get_next_token(self, probabilities: np.ndarray) -> np.ndarray:
        return np.argmax(probabilities, axis=-1)

    def _core_options(self) -> dict[str, Any]:
        return {"sampler": self._core_name}
