"""What the random samplers share: a seed, and draws that can be repeated."""

from typing import Any

import numpy as np

from bart_fast._random import draw_seed
from bart_fast._validation import check_seed
from bart_fast.samplers.sampler import Sampler

# Odd constant of Weyl sequences (2**64 / golden ratio): far-apart seeds for successive calls.
_WEYL = 0x9E3779B97F4A7C15


class SeededSampler(Sampler):
    """A sampler that draws at random.

    As in Keras, two samplers built with the same seed give the same answers call by call, and
    successive calls of one sampler differ.
    """

    def __init__(self, seed: int | None = None, temperature: float = 1.0):
        super().__init__(temperature=temperature)
        self.seed = None if seed is None else check_seed("seed", seed)
        self._first_seed = draw_seed() if self.seed is None else self.seed
        self._calls = 0
        self._generator: np.random.Generator | None = None

    def next_call_seed(self) -> int:
        """The seed of the next `generate()`; the first is the sampler's own."""
        seed = (self._first_seed + self._calls * _WEYL) % 2**63
        self._calls += 1
        return seed

    def draw(self, weights: np.ndarray) -> np.ndarray:
        """One index a row of `weights` [batch, n], drawn in proportion. Weights need no norm."""
        if self._generator is None:
            self._generator = np.random.Generator(np.random.Philox(self._first_seed))
        cumulative = np.cumsum(np.asarray(weights, dtype=np.float64), axis=-1)
        # In (0, total]: a weight of zero at the front can then never be hit.
        points = (1.0 - self._generator.random(len(cumulative))) * cumulative[:, -1]
        return (cumulative < points[:, None]).sum(axis=-1)

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "seed": self.seed}
