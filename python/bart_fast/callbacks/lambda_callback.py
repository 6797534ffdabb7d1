"""A callback from functions."""

from bart_fast._validation import check_function
from bart_fast.callbacks.callback import Callback


class LambdaCallback(Callback):
    """Calls functions given by the name of the event.

    Args:
        on_epoch_begin: function(epoch, logs).
        on_epoch_end: function(epoch, logs).
        on_train_begin: function(logs).
        on_train_end: function(logs).
        on_train_batch_begin: function(batch, logs).
        on_train_batch_end: function(batch, logs).
        **kwargs: functions for the other events of `Callback`.

    Example:

    ```python
    show = bart_fast.callbacks.LambdaCallback(
        on_epoch_end=lambda epoch, logs: print(epoch, logs["loss"])
    )
    model.fit(x, callbacks=[show])
    ```
    """

    def __init__(
        self,
        on_epoch_begin=None,
        on_epoch_end=None,
        on_train_begin=None,
        on_train_end=None,
        on_train_batch_begin=None,
        on_train_batch_end=None,
        **kwargs,
    ):
        super().__init__()
        functions = {
            "on_epoch_begin": on_epoch_begin,
            "on_epoch_end": on_epoch_end,
            "on_train_begin": on_train_begin,
            "on_train_end": on_train_end,
            "on_train_batch_begin": on_train_batch_begin,
            "on_train_batch_end": on_train_batch_end,
            **kwargs,
        }
        for name, function in functions.items():
            if not name.startswith("on_") or not hasattr(Callback, name):
                raise TypeError(f"LambdaCallback: unknown argument `{name}`")
            if function is not None:
                setattr(self, name, check_function(name, function))
