"""Cosine decay with warm restarts."""

import math

from bart_fast.optimizers.schedules.learning_rate_schedule import LearningRateSchedule


class CosineDecayRestarts(LearningRateSchedule):
    """Falls along half a cosine, again and again (Loshchilov and Hutter, 2016).

    The first period takes `first_decay_steps`; every later one takes `t_mul` times the steps of the
    one before it and starts at `m_mul` times its rate.

    Args:
        initial_learning_rate: float. The rate at step 0.
        first_decay_steps: int. Steps of the first period.
        t_mul: float above 0. Defaults to 2.0.
        m_mul: float. Defaults to 1.0.
        alpha: float. The least rate, as a share of the first. Defaults to 0.0.
        name: str.

    Example:

    >>> from bart_fast.optimizers.schedules import CosineDecayRestarts
    >>> rate = CosineDecayRestarts(0.1, first_decay_steps=4, m_mul=0.5)
    >>> [round(rate(step), 4) for step in (0, 2, 4, 8, 12)]
    [0.1, 0.05, 0.05, 0.025, 0.025]
    """

    def __init__(
        self,
        initial_learning_rate,
        first_decay_steps,
        t_mul=2.0,
        m_mul=1.0,
        alpha=0.0,
        name="SGDRDecay",
    ):
        self._set(
            initial_learning_rate=initial_learning_rate,
            first_decay_steps=first_decay_steps,
            t_mul=t_mul,
            m_mul=m_mul,
            alpha=alpha,
            name=name,
        )

    def __call__(self, step):
        # Exact periods, where Keras takes logarithms in float32, which can be off by one at a seam.
        start, length, period = 0.0, float(self.first_decay_steps), 0
        if self.t_mul == 1:
            period = int(step // length)
            start = period * length
        while self.t_mul != 1 and step >= start + length:
            start, length, period = start + length, length * self.t_mul, period + 1
            if length < 1e-6:
                return self.initial_learning_rate * self.alpha
        cosine = 0.5 * self.m_mul**period * (1 + math.cos(math.pi * (step - start) / length))
        return self.initial_learning_rate * ((1 - self.alpha) * cosine + self.alpha)

    def get_config(self):
        return {
            "initial_learning_rate": self.initial_learning_rate,
            "first_decay_steps": self.first_decay_steps,
            "t_mul": self.t_mul,
            "m_mul": self.m_mul,
            "alpha": self.alpha,
            "name": self.name,
        }
