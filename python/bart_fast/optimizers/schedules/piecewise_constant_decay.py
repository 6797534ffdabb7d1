"""Piecewise constant rates."""

import bisect
import itertools
from collections.abc import Sequence

from bart_fast._validation import argument_error, check_finite_float, check_text
from bart_fast.optimizers.schedules.learning_rate_schedule import LearningRateSchedule


class PiecewiseConstantDecay(LearningRateSchedule):
    """`values[0]` up to and including step `boundaries[0]`, then `values[1]`, and so on.

    Args:
        boundaries: list of numbers, ascending.
        values: list of float, one more than `boundaries`.
        name: str.
    """

    def __init__(self, boundaries, values, name="PiecewiseConstant"):
        for argument, numbers in (("boundaries", boundaries), ("values", values)):
            if isinstance(numbers, str | bytes) or not isinstance(numbers, Sequence):
                raise argument_error(argument, "must be a list of numbers", numbers)
            for number in numbers:
                check_finite_float(argument, number)
        if len(values) != len(boundaries) + 1:
            raise ValueError(
                "`values` must have one element more than `boundaries`; received "
                f"{len(values)} values and {len(boundaries)} boundaries"
            )
        if any(low >= high for low, high in itertools.pairwise(boundaries)):
            raise ValueError(f"`boundaries` must ascend; received: {boundaries}")
        self.boundaries = boundaries
        self.values = values
        self.name = check_text("name", name)

    def __call__(self, step):
        return self.values[bisect.bisect_left(self.boundaries, step)]

    def get_config(self):
        return {"boundaries": self.boundaries, "values": self.values, "name": self.name}
