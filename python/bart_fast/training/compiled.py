"""What `compile` was told, resolved and checked."""

from typing import Any

from bart_fast import losses, metrics, optimizers
from bart_fast.metrics import Mean, SparseCategoricalAccuracy

# Accepted for Keras' signature; there is nothing here that they could change.
IGNORED = ("run_eagerly", "jit_compile", "steps_per_execution")

AUTO_LEARNING_RATE = 2e-5


def resolve_optimizer(optimizer: Any) -> optimizers.Optimizer:
    """`"auto"` is Adam with a learning rate for fine-tuning; a name has Keras' defaults."""
    if isinstance(optimizer, str) and optimizer == "auto":
        return optimizers.Adam(AUTO_LEARNING_RATE)
    return optimizers.get(optimizer)


def resolve_loss(loss: Any) -> losses.SparseCategoricalCrossentropy:
    """The loss of a language model: cross entropy of logits.

    Raises:
        ValueError: another loss, or one of probabilities.
    """
    if isinstance(loss, str) and loss == "auto":
        return losses.SparseCategoricalCrossentropy(from_logits=True)
    loss = losses.get(loss)
    if type(loss) is not losses.SparseCategoricalCrossentropy:
        raise ValueError(
            "`loss` must be a `SparseCategoricalCrossentropy`, the only loss that models are "
            f"trained with so far; received: {type(loss).__name__}"
        )
    if not loss.from_logits:
        raise ValueError(
            "`loss` has from_logits=False, but the outputs of the model are logits\n"
            'hint: pass loss="auto" or SparseCategoricalCrossentropy(from_logits=True)'
        )
    return loss


def resolve_weighted_metrics(weighted_metrics: Any) -> list[Mean]:
    """The metrics counted with sample weights.

    Raises:
        ValueError: one that is no accuracy of ids.
    """
    if weighted_metrics is None:
        return []
    if isinstance(weighted_metrics, str) and weighted_metrics == "auto":
        return [SparseCategoricalAccuracy()]
    if not isinstance(weighted_metrics, list | tuple):
        weighted_metrics = [weighted_metrics]
    resolved = []
    for metric in weighted_metrics:
        # As in Keras these short names are also the names in logs.
        if metric in ("accuracy", "acc"):
            metric = SparseCategoricalAccuracy(name=metric)
        metric = metrics.get(metric)
        if type(metric) is not SparseCategoricalAccuracy:
            raise ValueError(
                "`weighted_metrics` can hold `SparseCategoricalAccuracy`; "
                f"received: {type(metric).__name__}"
            )
        resolved.append(metric)
    names = ["loss", *(metric.name for metric in resolved)]
    if len(set(names)) < len(names):
        raise ValueError(
            "`weighted_metrics` must have different names, other than 'loss'; "
            f"received: {names[1:]}"
        )
    return resolved


def check_metrics(unweighted: Any) -> None:
    """Refuses metrics without weights: they would count padding.

    Raises:
        ValueError: there are any.
    """
    if unweighted:
        raise ValueError(
            "`metrics` must be None: they would count padded positions\n"
            "hint: pass `weighted_metrics`"
        )


def check_ignored(arguments: dict[str, Any]) -> None:
    """Accepts the arguments that change nothing.

    Raises:
        TypeError: another argument.
    """
    for name in arguments:
        if name not in IGNORED:
            raise TypeError(f"compile() got an unexpected keyword argument `{name}`")
