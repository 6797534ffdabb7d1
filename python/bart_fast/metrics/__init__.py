"""Metrics with Keras' names and formulas."""

from bart_fast.metrics.exact_match import ExactMatch
from bart_fast.metrics.mean import Mean
from bart_fast.metrics.mean_metric_wrapper import MeanMetricWrapper
from bart_fast.metrics.metric import Metric
from bart_fast.metrics.perplexity import Perplexity
from bart_fast.metrics.rouge_l import RougeL
from bart_fast.metrics.rouge_n import RougeN
from bart_fast.metrics.serialization import deserialize, get, serialize
from bart_fast.metrics.sparse_categorical_accuracy import SparseCategoricalAccuracy

# Not in `__all__`: at the top of the package this name is the loss.
from bart_fast.metrics.sparse_categorical_crossentropy import (
    SparseCategoricalCrossentropy as SparseCategoricalCrossentropy,
)
from bart_fast.metrics.sparse_top_k_categorical_accuracy import SparseTopKCategoricalAccuracy
from bart_fast.metrics.text_metric import TextMetric

__all__ = [
    "ExactMatch",
    "Mean",
    "MeanMetricWrapper",
    "Metric",
    "Perplexity",
    "RougeL",
    "RougeN",
    "SparseCategoricalAccuracy",
    "SparseTopKCategoricalAccuracy",
    "TextMetric",
    "deserialize",
    "get",
    "serialize",
]
