"""Smaller learning rates when nothing improves any more."""

from bart_fast._validation import (
    argument_error,
    check_finite_float,
    check_int,
    check_positive_float,
    check_verbosity,
)
from bart_fast.callbacks.monitor_callback import MonitorCallback


class ReduceLROnPlateau(MonitorCallback):
    """Multiplies the learning rate when a value has stopped improving, and logs the rate.

    Args:
        monitor: str. Defaults to `"val_loss"`.
        factor: float above 0 and below 1. Defaults to 0.1.
        patience: int. Epochs without improvement to wait for. Defaults to 10.
        verbose: int. 1 prints when it acts.
        mode: str. `"min"`, `"max"` or `"auto"`.
        min_delta: float. Smallest change that counts. Defaults to 0.0001.
        cooldown: int. Epochs after a reduction in which nothing is counted. Defaults to 0.
        min_lr: float. The rate is not reduced below it. Defaults to 0.0.
    """

    _kept = ("best", "cooldown_counter", "wait")

    def __init__(
        self,
        monitor="val_loss",
        factor=0.1,
        patience=10,
        verbose=0,
        mode="auto",
        min_delta=1e-4,
        cooldown=0,
        min_lr=0.0,
    ):
        super().__init__(monitor, mode, min_delta=min_delta)
        if check_positive_float("factor", factor) >= 1:
            raise argument_error("factor", "must be above 0 and below 1", factor)
        self.factor = factor
        self.patience = check_int("patience", patience, 0)
        self.verbose = check_verbosity(verbose)
        self.cooldown = check_int("cooldown", cooldown, 0)
        self.min_lr = check_finite_float("min_lr", min_lr)
        self._reset()

    def _reset(self):
        self.best = None
        self.cooldown_counter = 0
        self.wait = 0

    def in_cooldown(self):
        """Whether the last reduction is so recent that nothing is counted."""
        return self.cooldown_counter > 0

    def on_train_begin(self, logs=None):
        self._reset()

    def on_epoch_end(self, epoch, logs=None):
        if logs is not None:
            logs["learning_rate"] = self.model.optimizer.learning_rate
        current = self._monitored(logs)
        if current is None:
            return
        if self.in_cooldown():
            self.cooldown_counter -= 1
            self.wait = 0
        if self._is_improvement(current, self.best):
            self.best = current
            self.wait = 0
        elif not self.in_cooldown():
            self.wait += 1
            if self.wait >= self.patience:
                self._reduce(epoch)

    def _reduce(self, epoch):
        optimizer = self.model.optimizer
        old = optimizer.learning_rate
        if old <= self.min_lr:
            return
        optimizer.learning_rate = new = max(old * self.factor, self.min_lr)
        if self.verbose:
            print(f"\nEpoch {epoch + 1}: ReduceLROnPlateau reducing learning rate to {new}.")
        self.cooldown_counter = self.cooldown
        self.wait = 0
