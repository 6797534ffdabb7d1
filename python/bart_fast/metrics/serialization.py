"""The registry of metrics: a new one is one line here."""

from bart_fast._registry import Registry
from bart_fast.metrics.exact_match import ExactMatch
from bart_fast.metrics.mean import Mean
from bart_fast.metrics.metric import Metric
from bart_fast.metrics.perplexity import Perplexity
from bart_fast.metrics.rouge_l import RougeL
from bart_fast.metrics.rouge_n import RougeN
from bart_fast.metrics.sparse_categorical_accuracy import SparseCategoricalAccuracy

_REGISTRY = Registry(
    "metric",
    "keras.metrics",
    Metric,
    {
        "ExactMatch": ExactMatch,
        "Mean": Mean,
        "Perplexity": Perplexity,
        "RougeL": RougeL,
        "RougeN": RougeN,
        "SparseCategoricalAccuracy": SparseCategoricalAccuracy,
        "sparse_categorical_accuracy": SparseCategoricalAccuracy,
    },
)


def get(identifier):
    """A metric from its name (with Keras' defaults), its configuration, or itself.

    Args:
        identifier: str, dict or `Metric`.

    Raises:
        ValueError: nothing of that name.
    """
    return _REGISTRY.get(identifier)


def serialize(metric):
    """dict. Class name and configuration of a metric, as Keras writes them."""
    return _REGISTRY.serialize(metric)


def deserialize(config):
    """The metric that `serialize` described."""
    return _REGISTRY.deserialize(config)
