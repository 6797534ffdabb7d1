"""Metrics with Keras' names and formulas."""

from bart_fast.metrics.mean import Mean
from bart_fast.metrics.metric import Metric
from bart_fast.metrics.serialization import deserialize, get, serialize
from bart_fast.metrics.sparse_categorical_accuracy import SparseCategoricalAccuracy

__all__ = [
    "Mean",
    "Metric",
    "SparseCategoricalAccuracy",
    "deserialize",
    "get",
    "serialize",
]
