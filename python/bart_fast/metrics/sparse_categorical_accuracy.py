"""Accuracy against target ids."""

import numpy as np

from bart_fast.losses.loss import check_predictions
from bart_fast.metrics.mean import Mean


class SparseCategoricalAccuracy(Mean):
    """How often the largest prediction is the target.

    Args:
        name: str. Defaults to `"sparse_categorical_accuracy"`.
        dtype: None or `"float32"`.

    Example:

    >>> from bart_fast.metrics import SparseCategoricalAccuracy
    >>> accuracy = SparseCategoricalAccuracy()
    >>> accuracy.update_state([[1, 0]], [[[0.1, 0.9], [0.3, 0.7]]])
    >>> accuracy.result()
    0.5
    """

    direction = "up"

    def __init__(self, name="sparse_categorical_accuracy", dtype=None):
        super().__init__(name, dtype)

    def update_state(self, y_true, y_pred, sample_weight=None):
        """Adds a batch.

        Args:
            y_true: int array [batch, length].
            y_pred: float array [batch, length, vocabulary]: logits or probabilities.
            sample_weight: float array [batch, length] or [batch].
        """
        targets, predictions = check_predictions(y_true, y_pred)
        super().update_state(np.argmax(predictions, axis=-1) == targets, sample_weight)
