"""Progress of a run on standard output."""

from bart_fast.callbacks.callback import Callback
from bart_fast.training.progress import ProgressBar


class ProgbarLogger(Callback):
    """Shows progress: `fit` and `evaluate` add one unless `verbose=0`."""

    _kept = ()

    def __init__(self):
        super().__init__()
        self.verbose = 1
        self.epochs = 1
        self.target = None
        self._bar = None
        self._seen = 0
        self._in_fit = False

    def set_params(self, params):
        super().set_params(params)
        self.verbose = params.get("verbose", 1)
        self.epochs = params.get("epochs", 1)
        self.target = params.get("steps")

    def on_train_begin(self, logs=None):
        # Validation inside `fit` shows nothing of its own.
        self._in_fit = True

    def on_train_end(self, logs=None):
        self._in_fit = False

    def on_epoch_begin(self, epoch, logs=None):
        self._begin()
        if self.verbose and self.epochs > 1:
            print(f"Epoch {epoch + 1}/{self.epochs}", flush=True)

    def on_train_batch_end(self, batch, logs=None):
        self._update(batch, logs)

    def on_epoch_end(self, epoch, logs=None):
        self._end(logs)

    def on_test_begin(self, logs=None):
        if not self._in_fit:
            self._begin()

    def on_test_batch_end(self, batch, logs=None):
        if not self._in_fit:
            self._update(batch, logs)

    def on_test_end(self, logs=None):
        if not self._in_fit:
            self._end(logs)

    def on_predict_begin(self, logs=None):
        self._begin()

    def on_predict_batch_end(self, batch, logs=None):
        self._update(batch, None)

    def on_predict_end(self, logs=None):
        self._end(None)

    def close(self):
        """Ends a line that was left open."""
        self._in_fit = False
        if self._bar is not None:
            self._bar.close()

    def _begin(self):
        self._seen = 0
        self._bar = ProgressBar(self.target, self.verbose)

    def _update(self, batch, logs):
        self._seen = batch + 1
        self._bar.update(self._seen, logs or {})

    def _end(self, logs):
        if self.target is None:
            # Known from the first pass on.
            self.target = self._bar.target = self._seen
        self._bar.update(self._seen, logs or {}, finalize=True)
