"""The metrics of `compile`: their names in logs, and how they are counted from steps."""

from collections.abc import Iterator
from typing import Any

import numpy as np

from bart_fast._validation import argument_error
from bart_fast.metrics import (
    Metric,
    Perplexity,
    SparseCategoricalAccuracy,
    SparseCategoricalCrossentropy,
)

# Metrics that are counted from the sums of a step.
_OF_SUMS = (SparseCategoricalAccuracy, SparseCategoricalCrossentropy)


class Predictions:
    """What one step predicted, as a metric counts it: by sample weights, or every position once."""

    def __init__(self, batch: Any, result: dict[str, Any], weighted: bool):
        self._batch, self._result, self._weighted = batch, result, weighted

    @property
    def correct(self) -> float:
        """Sum of the weights of positions whose target had the largest logit."""
        return float(self._result["correct_weight_sum" if self._weighted else "correct"])

    @property
    def nll(self) -> float:
        """Weighted sum of the negative log likelihoods."""
        return self._result["weighted_nll_sum" if self._weighted else "nll_sum"]

    @property
    def weight(self) -> float:
        """Sum of the weights."""
        return self._result["weight_sum"] if self._weighted else float(self._batch.positions)

    @property
    def width(self) -> int:
        """Positions of a row, as Keras pads it."""
        return self._batch.padded_width

    @property
    def targets(self) -> np.ndarray:
        """int array [rows, length], or [rows] of a classifier."""
        return np.asarray(self._batch.targets)

    @property
    def sample_weight(self) -> np.ndarray | None:
        """float32 array of the shape of the targets; None where every position weighs 1."""
        return self._batch.sample_weight if self._weighted else None

    def of_positions(self, name: str) -> np.ndarray:
        """`nll_of_rows` [rows, length] or `logits` [rows, length, vocabulary] of the step; zeros
        at positions that were not computed."""
        values, targets, weights = self._result[name], self.targets, self._batch.sample_weight
        computed = np.ones(targets.shape, bool)
        if len(values) < targets.size:
            computed = np.asarray(weights) != 0
        array = np.zeros(targets.shape + values.shape[1:], np.float32)
        array[computed] = values
        return array


class CompiledMetrics:
    """The metrics of a model.

    Args:
        unweighted: list of `Metric`. What `compile(metrics=...)` was given: they count every
            position once.
        weighted: list of `Metric`. They count sample weights.
        outputs: function of logits. What metrics of one's own get of them. Defaults to `None`: the
            logits.
    """

    def __init__(self, unweighted: Any = (), weighted: Any = (), outputs: Any = None):
        self.unweighted, self.weighted, self.outputs = list(unweighted), list(weighted), outputs
        self.by_name = _names(self.unweighted, self.weighted)

    def __iter__(self) -> Iterator[Metric]:
        return iter(self.by_name.values())

    @property
    def counts_padding(self) -> bool:
        """Whether predictions at padded positions count, too."""
        return bool(self.unweighted)

    @property
    def wishes(self) -> dict[str, Any]:
        """Settings of a step that the metrics need; none for sums of weighted metrics."""
        needs = {_detail_for(metric) for metric in self}
        wishes = {"every_position": True} if self.counts_padding else {}
        detail = next((detail for detail in ("logits", "rows") if detail in needs), None)
        return {**wishes, "detail": detail} if detail else wishes

    def add(self, batch: Any, result: dict[str, Any]) -> None:
        """Adds what a step computed of a batch."""
        for weighted, metrics in ((False, self.unweighted), (True, self.weighted)):
            predictions = Predictions(batch, result, weighted)
            for metric in metrics:
                self._add(metric, predictions)

    def _add(self, metric: Metric, predictions: Predictions) -> None:
        if type(metric) in _OF_SUMS:
            # As in Keras a batch counts by its weights over its width.
            is_accuracy, width = type(metric) is SparseCategoricalAccuracy, predictions.width
            total = predictions.correct if is_accuracy else predictions.nll
            metric.add(total / width, predictions.weight / width)
        elif type(metric) is Perplexity and metric.mask_token_id is None:
            metric.add(predictions.nll, predictions.weight)
        elif type(metric) is Perplexity:
            nll = predictions.of_positions("nll_of_rows")
            metric.add_positions(predictions.targets, nll, predictions.sample_weight)
        else:
            outputs = predictions.of_positions("logits")
            outputs = outputs if self.outputs is None else self.outputs(outputs)
            weight = predictions.sample_weight
            # A metric of one's own need not know of weights.
            given = () if weight is None else (weight,)
            metric.update_state(predictions.targets, outputs, *given)

    def results(self) -> dict[str, float]:
        """What each has counted, by its name; values of a dict by their own names, as in Keras."""
        results = {}
        for name, metric in self.by_name.items():
            value = metric.result()
            if isinstance(value, dict):
                results.update({key: float(each) for key, each in value.items()})
            else:
                results[name] = float(value)
        return results


def _detail_for(metric: Metric) -> str:
    """What a step must tell: sums, the loss of each position, or all logits."""
    if type(metric) is Perplexity:
        return "sums" if metric.mask_token_id is None else "rows"
    return "sums" if type(metric) in _OF_SUMS else "logits"


def _names(unweighted: list[Metric], weighted: list[Metric]) -> dict[str, Metric]:
    """Metrics by their names in logs: a name that is taken gets a number, and in the weighted ones
    first the prefix `weighted_`, as in Keras."""
    names: dict[str, Metric] = {}
    counts: dict[str, int] = {}
    for metric in (*unweighted, *weighted):
        if any(metric is other for other in names.values()):
            raise argument_error("metrics", "must be different objects", metric.name)
        name = metric.name
        if name in counts and any(metric is other for other in weighted):
            name = f"weighted_{name}"
        known = counts.get(name, 0)
        counts[name] = known + 1
        names[f"{name}_{known}" if known else name] = metric
    if "loss" in names:
        raise argument_error("metrics", "must have other names than that of the loss", "loss")
    return names
