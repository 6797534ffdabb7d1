"""Cross entropy against target ids."""

import numpy as np

from bart_fast._validation import check_flag
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
        self.from_logits = check_flag("from_logits", from_logits)

    def call(self, y_true, y_pred):
        if self.from_logits:
            shifted = y_pred - y_pred.max(axis=-1, keepdims=True)
            log_probabilities = shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True))
        else:
            # Keras keeps probabilities this far from 0 and 1.
            total = y_pred.sum(axis=-1, keepdims=True)
            log_probabilities = np.log(np.clip(y_pred / total, 1e-7, 1 - 1e-7))
        picked = np.take_along_axis(log_probabilities, y_true[..., None].astype(np.int64), axis=-1)
        return -picked[..., 0]

    def get_config(self):
        return {**super().get_config(), "from_logits": self.from_logits}
