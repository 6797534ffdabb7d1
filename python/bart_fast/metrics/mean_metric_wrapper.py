"""The mean of a function of targets and predictions."""

from bart_fast._validation import check_function
from bart_fast.metrics.mean import Mean


class MeanMetricWrapper(Mean):
    """The weighted mean of what a function gives; a function in `compile(metrics=...)` becomes one.

    Args:
        fn: function(y_true, y_pred, **kwargs) in numpy, that gives a number, or an array of the
            shape of `y_true` or [batch].
        name: str. Defaults to the function's name.
        dtype: None or `"float32"`.
        **kwargs: arguments of every call of `fn`.

    Example:

    >>> import numpy as np
    >>> from bart_fast.metrics import MeanMetricWrapper
    >>> largest = MeanMetricWrapper(lambda y_true, y_pred: y_pred.max(axis=-1), name="largest")
    >>> largest([0, 1], np.array([[2.0, 1.0], [0.0, 4.0]]))
    3.0
    """

    def __init__(self, fn, name=None, dtype=None, **kwargs):
        self._fn = check_function("fn", fn)
        self._arguments = kwargs
        super().__init__(getattr(fn, "__name__", "function") if name is None else name, dtype)

    def update_state(self, y_true, y_pred, sample_weight=None):
        """Adds a batch of what `fn` gives for it."""
        super().update_state(self._fn(y_true, y_pred, **self._arguments), sample_weight)

    def get_config(self):
        raise ValueError("`metrics`: a function cannot be saved\nhint: make a class of it")
