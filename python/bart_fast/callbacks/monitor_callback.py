"""Callbacks that watch one value."""

import warnings

from bart_fast._validation import check_finite_float, check_text
from bart_fast.callbacks.callback import Callback


class MonitorCallback(Callback):
    """Base class of callbacks that ask whether a value improved.

    Args:
        monitor: str. Key of the value in the logs of an epoch. Defaults to `"val_loss"`.
        mode: str. `"min"`, `"max"`, or `"auto"` (default), which knows losses and our metrics.
        baseline: float. The value to beat first; None for any.
        min_delta: float. Smallest change that counts. Defaults to 0.
    """

    def __init__(self, monitor="val_loss", mode="auto", baseline=None, min_delta=0):
        super().__init__()
        if mode not in ("auto", "min", "max"):
            raise ValueError(f"`mode` must be 'auto', 'min' or 'max'; received: {mode!r}")
        self.monitor = check_text("monitor", monitor)
        self.mode = mode
        self.best = baseline if baseline is None else check_finite_float("baseline", baseline)
        self.min_delta = abs(check_finite_float("min_delta", min_delta))

    def _smaller_is_better(self):
        if self.mode != "auto":
            return self.mode == "min"
        name = self.monitor.removeprefix("val_")
        if name == "loss":
            return True
        metric = getattr(self.model, "_metrics_by_name", {}).get(name)
        if metric is not None and metric.direction is not None:
            return metric.direction == "down"
        raise ValueError(
            f"`mode`: not known whether `{self.monitor}` should be small or large\n"
            "hint: pass mode='min' or mode='max'"
        )

    def _is_improvement(self, value, reference):
        if reference is None:
            return True
        if self._smaller_is_better():
            return value + self.min_delta < reference
        return value - self.min_delta > reference

    def _monitored(self, logs):
        value = (logs or {}).get(self.monitor)
        if value is None:
            warnings.warn(
                f"{type(self).__name__}: `{self.monitor}` is not available; available: "
                f"{', '.join(logs or {})}",
                stacklevel=3,
            )
        return value
