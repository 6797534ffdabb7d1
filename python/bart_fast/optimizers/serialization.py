"""The registry of optimizers: a new one is one line here."""

from bart_fast._registry import Registry
from bart_fast.optimizers.adafactor import Adafactor
from bart_fast.optimizers.adam import Adam
from bart_fast.optimizers.adamw import AdamW
from bart_fast.optimizers.lion import Lion
from bart_fast.optimizers.optimizer import Optimizer
from bart_fast.optimizers.rmsprop import RMSprop
from bart_fast.optimizers.sgd import SGD

_REGISTRY = Registry(
    "optimizer",
    "keras.optimizers",
    Optimizer,
    {
        "Adafactor": Adafactor,
        "Adam": Adam,
        "AdamW": AdamW,
        "Lion": Lion,
        "RMSprop": RMSprop,
        "SGD": SGD,
    },
)


def get(identifier):
    """An optimizer from its name (with Keras' defaults), its configuration, or itself.

    Args:
        identifier: str (`"adafactor"`, `"adam"`, `"adamw"`, `"lion"`, `"rmsprop"`, `"sgd"`), dict,
            or `Optimizer`.

    Raises:
        ValueError: nothing of that name.
    """
    return _REGISTRY.get(identifier)


def serialize(optimizer):
    """dict. Class name and configuration of an optimizer, as Keras writes them."""
    return _REGISTRY.serialize(optimizer)


def deserialize(config):
    """The optimizer that `serialize` described."""
    return _REGISTRY.deserialize(config)
