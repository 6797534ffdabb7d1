"""What `compile` was told, resolved and checked."""

from collections.abc import Mapping
from typing import Any

from bart_fast import losses, metrics, optimizers
from bart_fast._validation import argument_error
from bart_fast.metrics import (
    MeanMetricWrapper,
    Metric,
    Perplexity,
    SparseCategoricalAccuracy,
    SparseCategoricalCrossentropy,
)

# Metrics that are told whether outputs are logits.
_OF_LOGITS = (Perplexity, SparseCategoricalCrossentropy)
# Accepted for Keras' signature; there is nothing here that they could change.
IGNORED = ("run_eagerly", "jit_compile", "steps_per_execution", "auto_scale_loss")


def resolve_optimizer(optimizer: Any, learning_rate: float) -> optimizers.Optimizer:
    """`"auto"` is Adam with a learning rate for fine-tuning; a name has Keras' defaults."""
    if isinstance(optimizer, str) and optimizer == "auto":
        return optimizers.Adam(learning_rate)
    return optimizers.get(optimizer)


def resolve_loss(loss: Any, from_logits: bool = True) -> losses.SparseCategoricalCrossentropy:
    """The loss of a language model or classifier: cross entropy of its outputs.

    Raises:
        ValueError: another loss, or one of other outputs than the model's.
    """
    if isinstance(loss, str) and loss == "auto":
        return losses.SparseCategoricalCrossentropy(from_logits=from_logits)
    # Keras' short names; what they mean depends on the outputs, which are of many classes.
    if isinstance(loss, str) and loss.lower() in ("crossentropy", "ce"):
        loss = "sparse_categorical_crossentropy"
    loss = losses.get(loss)
    if type(loss) is not losses.SparseCategoricalCrossentropy:
        raise argument_error(
            "loss",
            "must be a `SparseCategoricalCrossentropy`, the loss whose gradient the core has",
            type(loss).__name__,
            "a loss of your own can be watched: pass it in `weighted_metrics`",
        )
    if loss.from_logits != from_logits:
        outputs = "logits" if from_logits else "probabilities"
        raise argument_error(
            "loss",
            f"must have from_logits={from_logits}, since the outputs of the model are {outputs}",
            f"from_logits={loss.from_logits}",
            f'pass loss="auto" or SparseCategoricalCrossentropy(from_logits={from_logits})',
        )
    return loss


def resolve_metrics(name: str, given: Any, from_logits: bool = True) -> list[Metric]:
    """The metrics of the argument `name`; `"auto"` is the accuracy of ids.

    Raises:
        ValueError: one that is unknown or does not fit the outputs of the model.
    """
    if given is None:
        return []
    if isinstance(given, str) and given == "auto":
        return [SparseCategoricalAccuracy()]
    if isinstance(given, Mapping):
        raise argument_error(name, "must be a list: the model has one output", given)
    given = list(given) if isinstance(given, list | tuple) else [given]
    return [_resolve_metric(name, metric, from_logits) for metric in given]


def _resolve_metric(name: str, metric: Any, from_logits: bool) -> Metric:
    if isinstance(metric, losses.Loss):
        return MeanMetricWrapper(metric.call, name=metric.name)
    if callable(metric) and not isinstance(metric, Metric | type):
        return MeanMetricWrapper(metric)
    resolved = metric
    if isinstance(metric, str):
        # As in Keras a name is also the name in logs.
        short = metric.lower() in ("accuracy", "acc")
        resolved = SparseCategoricalAccuracy() if short else metrics.get(metric)
        if isinstance(resolved, _OF_LOGITS):
            resolved = type(resolved)(from_logits=from_logits)
        resolved.name = metric
    resolved = metrics.get(resolved)
    if hasattr(resolved, "of_texts"):
        raise argument_error(
            name,
            "can hold metrics of ids and logits",
            type(resolved).__name__,
            "`evaluate_generation()` compares generated texts",
        )
    if type(resolved) is metrics.Mean:
        raise argument_error(name, "can hold metrics of targets and predictions", "Mean")
    if isinstance(resolved, _OF_LOGITS) and resolved.from_logits != from_logits:
        fitting = f"{type(resolved).__name__}(from_logits={from_logits})"
        raise argument_error(
            name,
            f"must hold `{fitting}`, which fits the model's outputs",
            f"from_logits={resolved.from_logits}",
        )
    return resolved


def check_ignored(arguments: dict[str, Any]) -> None:
    """Accepts the arguments that change nothing.

    Raises:
        TypeError: another argument.
    """
    for name in arguments:
        if name not in IGNORED:
            raise TypeError(f"compile() got an unexpected keyword argument `{name}`")
