"""Perplexity of targets."""

import math

import numpy as np

from bart_fast._validation import check_flag, check_int
from bart_fast.losses.loss import broadcast_weights, check_predictions
from bart_fast.losses.sparse_categorical_crossentropy import SparseCategoricalCrossentropy
from bart_fast.metrics.metric import Metric


class Perplexity(Metric):
    """The exponential of the mean negative log likelihood of target ids, as in keras-hub.

    As a metric of a model it wants `from_logits=True`, because a model's outputs are logits.

    Args:
        from_logits: bool. Whether predictions are logits rather than probabilities. Defaults to
            False, as in keras-hub.
        mask_token_id: int. Targets of this id do not count. Defaults to `None`: all do.
        dtype: None or `"float32"`.
        name: str. Defaults to `"perplexity"`.

    Example:

    >>> from bart_fast.metrics import Perplexity
    >>> perplexity = Perplexity(mask_token_id=1)
    >>> round(perplexity([[0, 1]], [[[0.25, 0.75], [0.5, 0.5]]]), 4)
    4.0
    """

    direction = "down"

    def __init__(self, from_logits=False, mask_token_id=None, dtype=None, name="perplexity"):
        super().__init__(name, dtype)
        if mask_token_id is not None:
            check_int("mask_token_id", mask_token_id, 0)
        self.from_logits = check_flag("from_logits", from_logits)
        self.mask_token_id = mask_token_id
        self._loss = SparseCategoricalCrossentropy(from_logits, reduction="sum")
        self.reset_state()

    def update_state(self, y_true, y_pred, sample_weight=None):
        """Adds a batch.

        Args:
            y_true: int array [batch, length].
            y_pred: float array [batch, length, vocabulary].
            sample_weight: float array [batch, length] or [batch].
        """
        targets, predictions = check_predictions(y_true, y_pred)
        self.add_positions(targets, self._loss.call(targets, predictions), sample_weight)

    def add_positions(self, targets, nll, sample_weight=None):
        """Adds the negative log likelihood of each position."""
        weights = broadcast_weights(sample_weight, targets.shape)
        if self.mask_token_id is not None:
            weights = weights * (targets != self.mask_token_id)
        self.add(float((weights * nll).sum(dtype=np.float64)), float(weights.sum()))

    def add(self, total, count):
        """Adds a weighted sum of negative log likelihoods and the sum of the weights."""
        self.total += total
        self.count += count

    def result(self):
        if not self.count:
            return 0.0
        mean = self.total / self.count
        return math.exp(mean) if mean < 709 else math.inf

    def reset_state(self):
        self.total = 0.0
        self.count = 0.0

    def get_config(self):
        return {
            **super().get_config(),
            "from_logits": self.from_logits,
            "mask_token_id": self.mask_token_id,
        }
