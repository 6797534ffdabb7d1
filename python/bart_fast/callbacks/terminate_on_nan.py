"""A quiet end when the loss is no number."""

import math

from bart_fast._validation import check_flag
from bart_fast.callbacks.callback import Callback


class TerminateOnNaN(Callback):
    """Ends training when the loss is NaN or infinite, instead of the error `fit` raises.

    Args:
        raise_error: bool. Raise RuntimeError at once. Defaults to False.
    """

    def __init__(self, raise_error=False):
        super().__init__()
        self.raise_error = check_flag("raise_error", raise_error)

    def on_batch_end(self, batch, logs=None):
        loss = (logs or {}).get("loss")
        if loss is None or math.isfinite(loss):
            return
        if self.raise_error:
            raise RuntimeError(f"batch {batch}: the loss is {loss}")
        print(f"Batch {batch}: Invalid loss, terminating training")
        self.model.stop_training = True
