"""What `fit` returns."""

from bart_fast.callbacks.callback import Callback


class History(Callback):
    """Keeps the values of every epoch.

    Attributes:
        history: dict of str to list of float, e.g. `loss`, `sparse_categorical_accuracy`,
            `val_loss`.
        epoch: list of int. The epochs, from 0.
    """

    def __init__(self):
        super().__init__()
        self.history = {}
        self.epoch = []

    def on_train_begin(self, logs=None):
        self.epoch = []

    def on_epoch_end(self, epoch, logs=None):
        self.epoch.append(epoch)
        for key, value in (logs or {}).items():
            self.history.setdefault(key, []).append(value)
        self.model.history = self
