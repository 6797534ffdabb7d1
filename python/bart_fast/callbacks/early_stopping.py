"""An end when nothing improves any more."""

from bart_fast._validation import check_flag, check_int, check_verbosity
from bart_fast.callbacks.monitor_callback import MonitorCallback


class EarlyStopping(MonitorCallback):
    """Ends training when a value has stopped improving.

    Args:
        monitor: str. Defaults to `"val_loss"`.
        min_delta: float. Smallest change that counts. Defaults to 0.
        patience: int. Epochs without improvement to wait for. Defaults to 0.
        verbose: int. 1 prints when it acts.
        mode: str. `"min"`, `"max"` or `"auto"`.
        baseline: float. Improvement counts only beyond this value.
        restore_best_weights: bool. Put back the weights of the best epoch at the end.
        start_from_epoch: int. Epochs that are not looked at. Defaults to 0.
    """

    _kept = ("wait", "stopped_epoch", "best", "best_weights", "best_epoch")

    def __init__(
        self,
        monitor="val_loss",
        min_delta=0,
        patience=0,
        verbose=0,
        mode="auto",
        baseline=None,
        restore_best_weights=False,
        start_from_epoch=0,
    ):
        super().__init__(monitor, mode, baseline, min_delta)
        self.patience = check_int("patience", patience, 0)
        self.verbose = check_verbosity(verbose)
        self.baseline = self.best
        self.restore_best_weights = check_flag("restore_best_weights", restore_best_weights)
        self.start_from_epoch = check_int("start_from_epoch", start_from_epoch, 0)
        self._reset()

    def _reset(self):
        self.wait = 0
        self.stopped_epoch = 0
        self.best = None
        self.best_weights = None
        self.best_epoch = 0

    def on_train_begin(self, logs=None):
        self._reset()

    def on_epoch_end(self, epoch, logs=None):
        current = self._monitored(logs)
        if current is None or epoch < self.start_from_epoch:
            return
        self.wait += 1
        if self._is_improvement(current, self.best):
            self.best, self.best_epoch = current, epoch
            if self.restore_best_weights:
                self.best_weights = self.model.get_weights()
            if self.baseline is None or self._is_improvement(current, self.baseline):
                self.wait = 0
            return
        # As in Keras the first epoch never ends training.
        if self.wait >= self.patience and epoch > 0:
            self.stopped_epoch = epoch
            self.model.stop_training = True

    def on_train_end(self, logs=None):
        if self.stopped_epoch > 0 and self.verbose:
            print(f"Epoch {self.stopped_epoch + 1}: early stopping")
        if self.best_weights is not None:
            if self.verbose:
                print(f"Restoring model weights of the best epoch: {self.best_epoch + 1}.")
            self.model.set_weights(self.best_weights)
