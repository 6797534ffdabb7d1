"""The mean of values."""

from bart_fast._validation import check_numbers
from bart_fast.losses.loss import broadcast_weights
from bart_fast.metrics.metric import Metric


class Mean(Metric):
    """The weighted mean of everything added.

    As in Keras an array with a batch axis is first averaged over its other axes.

    Args:
        name: str. Defaults to `"mean"`.
        dtype: None or `"float32"`.

    Example:

    >>> from bart_fast.metrics import Mean
    >>> mean = Mean()
    >>> mean.update_state([1, 3, 5, 7], sample_weight=[1, 1, 0, 0])
    >>> mean.result()
    2.0
    """

    def __init__(self, name="mean", dtype=None):
        super().__init__(name, dtype)
        self.reset_state()

    def update_state(self, values, sample_weight=None):
        """Adds values.

        Args:
            values: number, or float array [batch, ...].
            sample_weight: number, or float array [batch] or of the shape of `values`.
        """
        values = check_numbers("values", values)
        weights = broadcast_weights(sample_weight, values.shape)
        inner = max(values.size // (len(values) or 1), 1) if values.ndim > 1 else 1
        self.add(float((values * weights).sum()) / inner, float(weights.sum()) / inner)

    def add(self, total, count):
        """Adds a weighted sum and the sum of its weights."""
        self.total += total
        self.count += count

    def result(self):
        return self.total / self.count if self.count else 0.0

    def reset_state(self):
        self.total = 0.0
        self.count = 0.0
