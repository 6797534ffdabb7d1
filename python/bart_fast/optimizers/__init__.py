"""Optimizers with Keras' names, arguments and formulas."""

from bart_fast.optimizers import schedules
from bart_fast.optimizers.adafactor import Adafactor
from bart_fast.optimizers.adam import Adam
from bart_fast.optimizers.adamw import AdamW
from bart_fast.optimizers.lion import Lion
from bart_fast.optimizers.optimizer import Optimizer
from bart_fast.optimizers.rmsprop import RMSprop
from bart_fast.optimizers.serialization import deserialize, get, serialize
from bart_fast.optimizers.sgd import SGD

__all__ = [
    "SGD",
    "Adafactor",
    "Adam",
    "AdamW",
    "Lion",
    "Optimizer",
    "RMSprop",
    "deserialize",
    "get",
    "schedules",
    "serialize",
]
