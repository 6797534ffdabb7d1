"""What all metrics share."""

import re

import numpy as np

from bart_fast._validation import check_text


class Variable(np.ndarray):
    """A number or array that a metric keeps: numpy's, with Keras' methods to change it."""

    def assign(self, value):
        """Replaces the value."""
        self[...] = value
        return self

    def assign_add(self, value):
        """Adds to the value."""
        self[...] = self + value
        return self

    def assign_sub(self, value):
        """Subtracts from the value."""
        self[...] = self - value
        return self

    @property
    def value(self):
        """The value itself, a copy."""
        return np.array(self)

    def numpy(self):
        """The same."""
        return np.array(self)


class Metric:
    """A number gathered over batches.

    For a metric of one's own override `update_state(y_true, y_pred, sample_weight=None)` and
    `result()`, in numpy; a model calls the first with targets [batch, length] and logits
    [batch, length, vocabulary] ([batch] and [batch, classes] of a classifier), the last without
    `sample_weight` where it stands in `metrics`. What was made by `add_variable` is set to zero by
    `reset_state()`.

    Args:
        name: str. Key of the metric in logs. Defaults to the name of the class in snake case.
        dtype: None or `"float32"`; sums are kept in Python floats.

    Example:

    ```python
    class MeanConfidence(bart_fast.metrics.Metric):
        def __init__(self, name="mean_confidence"):
            super().__init__(name)
            self.total = self.add_variable((), name="total")
            self.count = self.add_variable((), name="count")

        def update_state(self, y_true, y_pred, sample_weight=None):
            weight = np.ones(y_true.shape) if sample_weight is None else sample_weight
            self.total.assign_add((y_pred.max(axis=-1) * weight).sum())
            self.count.assign_add(weight.sum())

        def result(self):
            return self.total / self.count
    ```
    """

    # "up" if larger is better, "down" if smaller is; callbacks with `mode="auto"` ask for it.
    direction = None

    def __init__(self, name=None, dtype=None):
        if dtype not in (None, "float32"):
            raise ValueError(f"`dtype` must be None or 'float32'; received: {dtype!r}")
        self.name = check_text("name", _snake_case(type(self).__name__) if name is None else name)
        self._variables = []

    def __call__(self, *args, **kwargs):
        """Adds a batch, and returns the value over everything added."""
        self.update_state(*args, **kwargs)
        return self.result()

    def add_variable(self, shape=(), initializer="zeros", dtype=None, name=None):
        """A value that the metric keeps.

        Args:
            shape: tuple of int. Defaults to that of a number.
            initializer: `"zeros"`, `"ones"` or a number. Defaults to `"zeros"`.
            dtype: a dtype of numpy. Defaults to float64.
            name: str; for Keras' signature.

        Returns:
            Variable, an array with `assign`, `assign_add` and `assign_sub`.
        """
        start = {"zeros": 0.0, "ones": 1.0, None: 0.0}.get(initializer, initializer)
        variable = np.full(shape, start, dtype or np.float64).view(Variable)
        self._variables.append(variable)
        return variable

    add_weight = add_variable

    def update_state(self, *args, **kwargs):
        """Adds a batch."""
        raise NotImplementedError(f"{type(self).__name__} must override `update_state()`")

    def result(self):
        """float. The value over everything added since the last reset."""
        raise NotImplementedError(f"{type(self).__name__} must override `result()`")

    def reset_state(self):
        """Forgets everything added."""
        for variable in self._variables:
            variable.assign(0)

    def set_state(self, state):
        """Takes over the attributes of an equal metric, as a checkpoint keeps them. What
        `add_variable` made stays, with the values that are kept."""
        for name, value in state.items():
            kept = vars(self).get(name)
            if name == "_variables":
                for variable, each in zip(self._variables, value, strict=True):
                    variable.assign(each)
            elif not isinstance(kept, Variable):
                setattr(self, name, value)

    def get_config(self):
        """dict. The constructor's arguments."""
        return {"name": self.name}

    @classmethod
    def from_config(cls, config):
        """Makes the metric that `get_config` describes."""
        return cls(**config)


def _snake_case(name):
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])", "_", name).lower()
