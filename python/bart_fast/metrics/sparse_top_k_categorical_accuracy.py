"""Accuracy of the best few predictions."""

import numpy as np

from bart_fast._validation import argument_error, check_positive_int
from bart_fast.losses.loss import check_predictions
from bart_fast.metrics.mean import Mean


class SparseTopKCategoricalAccuracy(Mean):
    """How often the target is among the `k` largest predictions.

    Args:
        k: int. Defaults to 5.
        name: str. Defaults to `"sparse_top_k_categorical_accuracy"`.
        dtype: None or `"float32"`.
        from_sorted_ids: must be False.

    Example:

    >>> from bart_fast.metrics import SparseTopKCategoricalAccuracy
    >>> accuracy = SparseTopKCategoricalAccuracy(k=2)
    >>> accuracy([2, 1], [[0.1, 0.9, 0.8], [0.5, 0.05, 0.2]])
    0.5
    """

    direction = "up"

    def __init__(
        self, k=5, name="sparse_top_k_categorical_accuracy", dtype=None, from_sorted_ids=False
    ):
        if from_sorted_ids is not False:
            raise argument_error("from_sorted_ids", "must be False", from_sorted_ids)
        self.k = check_positive_int("k", k)
        super().__init__(name, dtype)

    def update_state(self, y_true, y_pred, sample_weight=None):
        """Adds a batch.

        Args:
            y_true: int array [batch, length].
            y_pred: float array [batch, length, vocabulary]: logits or probabilities.
            sample_weight: float array [batch, length] or [batch].
        """
        targets, predictions = check_predictions(y_true, y_pred)
        of_target = np.take_along_axis(predictions, targets[..., None].astype(np.int64), axis=-1)
        larger = (predictions > of_target).sum(axis=-1)
        super().update_state(larger < self.k, sample_weight)

    def get_config(self):
        return {**super().get_config(), "k": self.k}
