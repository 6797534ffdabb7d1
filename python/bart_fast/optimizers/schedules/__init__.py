"""Learning rate schedules with Keras' names, arguments and formulas."""

from bart_fast.optimizers.schedules.cosine_decay import CosineDecay
from bart_fast.optimizers.schedules.cosine_decay_restarts import CosineDecayRestarts
from bart_fast.optimizers.schedules.exponential_decay import ExponentialDecay
from bart_fast.optimizers.schedules.inverse_time_decay import InverseTimeDecay
from bart_fast.optimizers.schedules.learning_rate_schedule import LearningRateSchedule
from bart_fast.optimizers.schedules.piecewise_constant_decay import PiecewiseConstantDecay
from bart_fast.optimizers.schedules.polynomial_decay import PolynomialDecay
from bart_fast.optimizers.schedules.serialization import deserialize, serialize

__all__ = [
    "CosineDecay",
    "CosineDecayRestarts",
    "ExponentialDecay",
    "InverseTimeDecay",
    "LearningRateSchedule",
    "PiecewiseConstantDecay",
    "PolynomialDecay",
    "deserialize",
    "serialize",
]
