"""The registry of learning rate schedules: a new one is one line here."""

from bart_fast._registry import Registry
from bart_fast.optimizers.schedules.cosine_decay import CosineDecay
from bart_fast.optimizers.schedules.cosine_decay_restarts import CosineDecayRestarts
from bart_fast.optimizers.schedules.exponential_decay import ExponentialDecay
from bart_fast.optimizers.schedules.inverse_time_decay import InverseTimeDecay
from bart_fast.optimizers.schedules.learning_rate_schedule import LearningRateSchedule
from bart_fast.optimizers.schedules.piecewise_constant_decay import PiecewiseConstantDecay
from bart_fast.optimizers.schedules.polynomial_decay import PolynomialDecay

_REGISTRY = Registry(
    "schedule",
    "keras.optimizers.schedules",
    LearningRateSchedule,
    {
        "CosineDecay": CosineDecay,
        "CosineDecayRestarts": CosineDecayRestarts,
        "ExponentialDecay": ExponentialDecay,
        "InverseTimeDecay": InverseTimeDecay,
        "PiecewiseConstantDecay": PiecewiseConstantDecay,
        "PolynomialDecay": PolynomialDecay,
    },
)


def serialize(learning_rate_schedule):
    """dict. Class name and configuration of a schedule, as Keras writes them."""
    return _REGISTRY.serialize(learning_rate_schedule)


def deserialize(config):
    """The schedule that `serialize` described."""
    return _REGISTRY.deserialize(config)
