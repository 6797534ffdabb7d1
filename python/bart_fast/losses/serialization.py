"""The registry of losses: a new one is one line here."""

from bart_fast._registry import Registry
from bart_fast.losses.loss import Loss
from bart_fast.losses.sparse_categorical_crossentropy import SparseCategoricalCrossentropy

_REGISTRY = Registry(
    "loss",
    "keras.losses",
    Loss,
    {
        "SparseCategoricalCrossentropy": SparseCategoricalCrossentropy,
        "sparse_categorical_crossentropy": SparseCategoricalCrossentropy,
    },
)


def get(identifier):
    """A loss from its name (with Keras' defaults), its configuration, or itself.

    Args:
        identifier: str, dict or `Loss`.

    Raises:
        ValueError: nothing of that name.
    """
    return _REGISTRY.get(identifier)


def serialize(loss):
    """dict. Class name and configuration of a loss, as Keras writes them."""
    return _REGISTRY.serialize(loss)


def deserialize(config):
    """The loss that `serialize` described."""
    return _REGISTRY.deserialize(config)
