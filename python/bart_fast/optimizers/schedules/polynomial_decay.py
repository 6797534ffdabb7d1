"""Polynomial decay."""

import math

from bart_fast.optimizers.schedules.learning_rate_schedule import LearningRateSchedule


class PolynomialDecay(LearningRateSchedule):
    """Falls to `end_learning_rate` along `(1 - step / decay_steps) ** power`, then stays there.

    Args:
        initial_learning_rate: float.
        decay_steps: int.
        end_learning_rate: float. Defaults to 0.0001.
        power: float. Defaults to 1.0, a straight line.
        cycle: bool. After `decay_steps` start again, over the next multiple of `decay_steps`.
            Defaults to False.
        name: str.
    """

    def __init__(
        self,
        initial_learning_rate,
        decay_steps,
        end_learning_rate=0.0001,
        power=1.0,
        cycle=False,
        name="PolynomialDecay",
    ):
        self._set(
            initial_learning_rate=initial_learning_rate,
            decay_steps=decay_steps,
            end_learning_rate=end_learning_rate,
            power=power,
            cycle=cycle,
            name=name,
        )

    def __call__(self, step):
        decay_steps = self.decay_steps
        if self.cycle:
            decay_steps *= max(1, math.ceil(step / decay_steps))
        left = 1 - min(step, decay_steps) / decay_steps
        height = self.initial_learning_rate - self.end_learning_rate
        return height * left**self.power + self.end_learning_rate

    def get_config(self):
        return {
            "initial_learning_rate": self.initial_learning_rate,
            "decay_steps": self.decay_steps,
            "end_learning_rate": self.end_learning_rate,
            "power": self.power,
            "cycle": self.cycle,
            "name": self.name,
        }
