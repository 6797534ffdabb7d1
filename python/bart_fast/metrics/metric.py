"""What all metrics share."""

from bart_fast._validation import check_text


class Metric:
    """A number gathered over batches.

    Args:
        name: str. Key of the metric in logs.
        dtype: None or `"float32"`; sums are kept in Python floats.
    """

    # "up" if larger is better, "down" if smaller is; callbacks with `mode="auto"` ask for it.
    direction = None

    def __init__(self, name, dtype=None):
        if dtype not in (None, "float32"):
            raise ValueError(f"`dtype` must be None or 'float32'; received: {dtype!r}")
        self.name = check_text("name", name)

    def update_state(self, *args, **kwargs):
        """Adds a batch."""
        raise NotImplementedError(f"{type(self).__name__} must override `update_state()`")

    def result(self):
        """float. The value over everything added since the last reset."""
        raise NotImplementedError(f"{type(self).__name__} must override `result()`")

    def reset_state(self):
        """Forgets everything added."""
        raise NotImplementedError(f"{type(self).__name__} must override `reset_state()`")

    def get_config(self):
        """dict. The constructor's arguments."""
        return {"name": self.name}

    @classmethod
    def from_config(cls, config):
        """Makes the metric that `get_config` describes."""
        return cls(**config)
