"""The learning rate by epoch."""

import inspect

from bart_fast._validation import check_function, check_verbosity
from bart_fast.callbacks.callback import Callback


class LearningRateScheduler(Callback):
    """Sets the learning rate before every epoch, and logs it as `learning_rate`.

    Args:
        schedule: function(epoch, learning_rate) or function(epoch) that returns a float.
        verbose: int. 1 prints the new rate.
    """

    def __init__(self, schedule, verbose=0):
        super().__init__()
        self.schedule = check_function("schedule", schedule)
        self.verbose = check_verbosity(verbose)

    def on_epoch_begin(self, epoch, logs=None):
        optimizer = self.model.optimizer
        arguments = (epoch, optimizer.learning_rate)
        try:
            inspect.signature(self.schedule).bind(*arguments)
        except TypeError:
            arguments = arguments[:1]
        except ValueError:
            pass  # A built-in without a signature takes what it takes.
        rate = self.schedule(*arguments)
        try:
            rate = float(rate)
        except (TypeError, ValueError):
            raise ValueError(
                f"`schedule` must return a float; epoch {epoch} gave: {rate!r}"
            ) from None
        optimizer.learning_rate = rate
        if self.verbose:
            print(f"Epoch {epoch + 1}: LearningRateScheduler setting learning rate to {rate}.")

    def on_epoch_end(self, epoch, logs=None):
        if logs is not None:
            logs["learning_rate"] = self.model.optimizer.learning_rate
