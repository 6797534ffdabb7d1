"""Cosine decay with warm-up."""

import math

from bart_fast.optimizers.schedules.learning_rate_schedule import LearningRateSchedule


class CosineDecay(LearningRateSchedule):
    """Falls along half a cosine (Loshchilov and Hutter, 2016), after a linear warm-up if asked for.

    With `warmup_target` the rate goes in a straight line from `initial_learning_rate` to it over
    `warmup_steps`, then in `decay_steps` to `alpha * warmup_target`. Without, it goes from
    `initial_learning_rate` to `alpha * initial_learning_rate`. It stays there.

    Args:
        initial_learning_rate: float. The rate at step 0.
        decay_steps: int. Steps of the decay, the warm-up not counted.
        alpha: float. What is left at the end, as a share. Defaults to 0.0.
        name: str.
        warmup_target: float. The rate after the warm-up. None (default) for no warm-up.
        warmup_steps: int. Steps of the warm-up. Defaults to 0.

    Example:

    >>> from bart_fast.optimizers.schedules import CosineDecay
    >>> rate = CosineDecay(0.0, decay_steps=900, warmup_target=1e-3, warmup_steps=100)
    >>> [round(rate(step), 6) for step in (0, 50, 100, 550, 1000)]
    [0.0, 0.0005, 0.001, 0.0005, 0.0]
    """

    def __init__(
        self,
        initial_learning_rate,
        decay_steps,
        alpha=0.0,
        name="CosineDecay",
        warmup_target=None,
        warmup_steps=0,
    ):
        self._set(
            initial_learning_rate=initial_learning_rate,
            decay_steps=decay_steps,
            alpha=alpha,
            name=name,
            warmup_target=warmup_target,
            warmup_steps=warmup_steps,
        )

    def __call__(self, step):
        top = self.initial_learning_rate
        if self.warmup_target is not None:
            if step < self.warmup_steps:
                return top + (self.warmup_target - top) * (step / self.warmup_steps)
            top = self.warmup_target
            step -= self.warmup_steps
        done = min(step, self.decay_steps) / self.decay_steps
        cosine = 0.5 * (1.0 + math.cos(math.pi * done))
        return top * ((1 - self.alpha) * cosine + self.alpha)

    def get_config(self):
        return {
            "initial_learning_rate": self.initial_learning_rate,
            "decay_steps": self.decay_steps,
            "alpha": self.alpha,
            "name": self.name,
            "warmup_target": self.warmup_target,
            "warmup_steps": self.warmup_steps,
        }
