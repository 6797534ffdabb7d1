"""Losses with Keras' names and formulas."""

from bart_fast.losses.loss import Loss
from bart_fast.losses.serialization import deserialize, get, serialize
from bart_fast.losses.sparse_categorical_crossentropy import SparseCategoricalCrossentropy

__all__ = ["Loss", "SparseCategoricalCrossentropy", "deserialize", "get", "serialize"]
