"""What all callbacks share."""


class Callback:
    """Hooks into `fit`, `evaluate` and `predict`: override the methods of interest.

    Setting `self.model.stop_training = True` ends training after the current batch.

    Attributes:
        params: dict. `verbose`, `epochs` and `steps` of the run.
        model: the model.

    Example:

    ```python
    class PrintLoss(bart_fast.callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            print(epoch, logs["loss"])

    model.fit(x, callbacks=[PrintLoss()])
    ```
    """

    # Names of the attributes that a checkpoint keeps; None: all of them.
    _kept = None

    def __init__(self):
        self.params = None
        self.model = None

    def set_params(self, params):
        """Called before a run with its parameters."""
        self.params = params

    def set_model(self, model):
        """Called before a run with the model."""
        self.model = model

    def get_state(self):
        """dict. What a checkpoint keeps of the callback: by default all its attributes. Those that
        are no numbers, strings, arrays, or lists and dicts of such are left out."""
        if self._kept is not None:
            return {name: getattr(self, name) for name in self._kept}
        return {k: v for k, v in vars(self).items() if k not in ("params", "model")}

    def set_state(self, state):
        """Takes over what `get_state` of an equal callback returned, in a run that goes on."""
        vars(self).update(state)

    def _resume(self):
        """Called before `on_train_begin` of a run that goes on."""

    def on_train_begin(self, logs=None):
        """Called when training starts."""

    def on_train_end(self, logs=None):
        """Called when training ends, with the logs of the last epoch."""

    def on_epoch_begin(self, epoch, logs=None):
        """Called before an epoch (counted from 0)."""

    def on_epoch_end(self, epoch, logs=None):
        """Called after an epoch and its validation; validation values start with `val_`."""

    def on_train_batch_begin(self, batch, logs=None):
        """Called before a training batch (counted from 0 in each epoch)."""
        self.on_batch_begin(batch, logs)

    def on_train_batch_end(self, batch, logs=None):
        """Called after a training batch, with the means over the epoch so far."""
        self.on_batch_end(batch, logs)

    def on_batch_begin(self, batch, logs=None):
        """Another name of `on_train_batch_begin`."""

    def on_batch_end(self, batch, logs=None):
        """Another name of `on_train_batch_end`."""

    def on_test_begin(self, logs=None):
        """Called when an evaluation starts, in `fit` too."""

    def on_test_end(self, logs=None):
        """Called when an evaluation ends."""

    def on_test_batch_begin(self, batch, logs=None):
        """Called before a batch of an evaluation."""

    def on_test_batch_end(self, batch, logs=None):
        """Called after a batch of an evaluation, with the means so far."""

    def on_predict_begin(self, logs=None):
        """Called when a prediction starts."""

    def on_predict_end(self, logs=None):
        """Called when a prediction ends."""

    def on_predict_batch_begin(self, batch, logs=None):
        """Called before a batch of a prediction."""

    def on_predict_batch_end(self, batch, logs=None):
        """Called after a batch of a prediction."""
