"""Averaged weights while a model is evaluated."""

from bart_fast._validation import check_flag
from bart_fast.callbacks.callback import Callback


class SwapEMAWeights(Callback):
    """Evaluates with the running means of the weights, which an optimizer with `use_ema` keeps.

    Before an evaluation or prediction weights and means change places, after it they change back.

    Args:
        swap_on_epoch: bool. Whether they change places at the end of each epoch, too, until the
            next one begins, so that a `ModelCheckpoint` behind this callback saves the means.
            Defaults to False.
    """

    _kept = ("_swapped",)

    def __init__(self, swap_on_epoch=False):
        super().__init__()
        self.swap_on_epoch = check_flag("swap_on_epoch", swap_on_epoch)
        self._swapped = False

    def _swap(self, wanted):
        if not self.model.optimizer.use_ema:
            raise ValueError(
                "`callbacks`: SwapEMAWeights needs an optimizer that keeps running means\n"
                "hint: make the optimizer with `use_ema=True`"
            )
        if self._swapped is not wanted:
            self.model._put_averages(exchange=True)
            self._swapped = wanted

    def on_epoch_begin(self, epoch, logs=None):
        self._swap(False)

    def on_epoch_end(self, epoch, logs=None):
        if self.swap_on_epoch:
            self._swap(True)

    def on_test_begin(self, logs=None):
        self._swap(True)

    def on_test_end(self, logs=None):
        self._swap(False)

    def on_predict_begin(self, logs=None):
        self._swap(True)

    def on_predict_end(self, logs=None):
        self._swap(False)

    def _release(self):
        # Also after an exception in the middle.
        if self._swapped:
            self._swap(False)
