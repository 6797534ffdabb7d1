"""Cross entropy against target ids."""

import numpy as np

from bart_fast._validation import argument_error, check_finite_float, check_flag
from bart_fast.losses.loss import Loss


class SparseCategoricalCrossentropy(Loss):
    """Negative log likelihood of target ids.

    A model is trained with `from_logits=True`, because its outputs are logits.

    Args:
        from_logits: bool. Whether predictions are logits rather than probabilities. Defaults to
            False, as in Keras.
        ignore_class: must be None. Give positions a sample weight of zero instead.
        reduction: str, see `Loss`. Defaults to `"sum_over_batch_size"`.
        axis: must be -1.
        name: str.
        dtype: None or `"float32"`.
        label_smoothing: float from 0 to below 1. Share of each target that goes to all ids alike,
            by the formula of Keras' `CategoricalCrossentropy`, whose sparse loss has none. Defaults
            to 0.0.

    Example:

    >>> from bart_fast.losses import SparseCategoricalCrossentropy
    >>> loss = SparseCategoricalCrossentropy(from_logits=True)
    >>> round(loss([[0, 1]], [[[2.0, 0.0], [0.0, 0.0]]], sample_weight=[[1, 0]]), 4)
    0.0635
    """

    def __init__(
        self,
        from_logits=False,
        ignore_class=None,
        reduction="sum_over_batch_size",
        axis=-1,
        name="sparse_categorical_crossentropy",
        dtype=None,
        label_smoothing=0.0,
    ):
        super().__init__(name, reduction)
        if ignore_class is not None:
            raise ValueError(
                f"`ignore_class`: received {ignore_class!r}, not supported\n"
                "hint: give those positions a sample weight of zero"
            )
        if axis != -1:
            raise ValueError(f"`axis` must be -1; received: {axis!r}")
        if dtype not in (None, "float32"):
            raise ValueError(f"`dtype` must be None or 'float32'; received: {dtype!r}")
        smoothing = check_finite_float("label_smoothing", label_smoothing)
        if not 0 <= smoothing < 1:
            raise argument_error("label_smoothing", "must be from 0 to below 1", label_smoothing)
        self.from_logits = check_flag("from_logits", from_logits)
        self.label_smoothing = smoothing

    def call(self, y_true, y_pred):
        if self.from_logits:
            shifted = y_pred - y_pred.max(axis=-1, keepdims=True)
            log_probabilities = shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True))
        else:
            # Keras keeps probabilities this far from 0 and 1.
            total = y_pred.sum(axis=-1, keepdims=True)
            log_probabilities = np.log(np.clip(y_pred / total, 1e-7, 1 - 1e-7))
        picked = np.take_along_axis(log_probabilities, y_true[..., None].astype(np.int64), axis=-1)
        nll = -picked[..., 0]
        if not self.label_smoothing:
            return nll
        return nll + self.label_smoothing * (-log_probabilities.mean(axis=-1) - nll)

    def get_config(self):
        config = {**super().get_config(), "from_logits": self.from_logits}
        # Only where it is set, so that Keras reads what it can.
        return (
            {**config, "label_smoothing": self.label_smoothing} if self.label_smoothing else config
        )
