"""What metrics of texts share."""

from typing import Any

import numpy as np

from bart_fast._texts import as_texts
from bart_fast._validation import argument_error
from bart_fast.metrics.metric import Metric


class TextMetric(Metric):
    """Base class of metrics that compare texts with references, for `evaluate_generation()`.

    A subclass overrides `scores(reference, text)`, which returns a dict of numbers; the value of
    the metric is their mean over all pairs.

    Args:
        name: str.
        dtype: None or `"float32"`.
    """

    # Metrics of ids and logits have it not; `compile` tells them apart by it.
    of_texts = True
    # Names of the numbers, where they are known before there is a pair.
    _keys: tuple[str, ...] = ()

    def __init__(self, name=None, dtype=None):
        super().__init__(name, dtype)
        self.reset_state()

    def scores(self, reference: str, text: str) -> dict[str, float]:
        """Numbers of one pair."""
        raise NotImplementedError(f"{type(self).__name__} must override `scores()`")

    def update_state(self, y_true, y_pred, sample_weight=None):
        """Adds pairs of texts.

        Args:
            y_true: the references: a string, or a list or array [batch] or [batch, 1] of strings.
            y_pred: as many texts.
            sample_weight: must be None.

        Raises:
            ValueError: there are not as many texts as references, or no texts.
        """
        if sample_weight is not None:
            raise argument_error(
                "sample_weight", "must be None: each text counts once", sample_weight
            )
        references, texts = _texts("y_true", y_true), _texts("y_pred", y_pred)
        if len(references) != len(texts):
            raise argument_error(
                "y_pred", f"must have a text for each of {len(references)} references", len(texts)
            )
        for reference, text in zip(references, texts, strict=True):
            for key, value in self.scores(reference, text).items():
                self._totals[key] = self._totals.get(key, 0.0) + float(value)
        self._count += len(texts)

    def result(self):
        if not self._count:
            return self._value(dict.fromkeys(self._keys, 0.0))
        return self._value({key: total / self._count for key, total in self._totals.items()})

    def _value(self, means: dict[str, float]) -> Any:
        """The value of the metric from the means of all numbers."""
        return means

    def reset_state(self):
        self._totals: dict[str, float] = {}
        self._count = 0


def _texts(name: str, value: Any) -> list[str]:
    if isinstance(value, list | tuple) and value and isinstance(value[0], list | tuple):
        if any(len(row) != 1 for row in value):
            raise argument_error(name, "must have one text a row", value)
        value = [row[0] for row in value]
    if isinstance(value, np.ndarray) and value.ndim == 2 and value.shape[1] == 1:
        value = value[:, 0]
    return as_texts(name, value)[0]
