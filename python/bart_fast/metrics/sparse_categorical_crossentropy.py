"""Cross entropy against target ids, as a metric."""

from bart_fast import losses
from bart_fast._validation import check_flag
from bart_fast.losses.loss import check_predictions
from bart_fast.metrics.mean import Mean


class SparseCategoricalCrossentropy(Mean):
    """The negative log likelihood of target ids in the mean.

    As a metric of a model it wants `from_logits=True`, because a model's outputs are logits.

    Args:
        name: str. Defaults to `"sparse_categorical_crossentropy"`.
        dtype: None or `"float32"`.
        from_logits: bool. Whether predictions are logits rather than probabilities. Defaults to
            False, as in Keras.
        ignore_class: must be None. Give positions a sample weight of zero instead.
        axis: must be -1.
    """

    direction = "down"

    def __init__(
        self,
        name="sparse_categorical_crossentropy",
        dtype=None,
        from_logits=False,
        ignore_class=None,
        axis=-1,
    ):
        self._loss = losses.SparseCategoricalCrossentropy(
            from_logits, ignore_class=ignore_class, axis=axis
        )
        self.from_logits = check_flag("from_logits", from_logits)
        super().__init__(name, dtype)

    def update_state(self, y_true, y_pred, sample_weight=None):
        """Adds a batch.

        Args:
            y_true: int array [batch, length].
            y_pred: float array [batch, length, vocabulary].
            sample_weight: float array [batch, length] or [batch].
        """
        super().update_state(self._loss.call(*check_predictions(y_true, y_pred)), sample_weight)

    def get_config(self):
        return {**super().get_config(), "from_logits": self.from_logits}
