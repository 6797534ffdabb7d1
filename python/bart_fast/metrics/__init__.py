"""Metrics with Keras' names and formulas."""

from bart_fast.metrics.mean import Mean
from bart_fast.metrics.mean_metric_wrapper import MeanMetricWrapper
from bart_fast.metrics.metric import Metric
from bart_fast.metrics.perplexity import Perplexity
from bart_fast.metrics.serialization import deserialize, get, serialize
from bart_fast.metrics.sparse_categorical_accuracy import SparseCategoricalAccuracy

__all__ = [
    "Mean",
    "MeanMetricWrapper",
    "Metric",
    "Perplexity",
    "SparseCategoricalAccuracy",
    "deserialize",
    "get",
    "serialize",
]
