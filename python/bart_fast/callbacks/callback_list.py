"""Several callbacks called as one."""

from bart_fast.callbacks.callback import Callback
from bart_fast.callbacks.history import History
from bart_fast.callbacks.progbar_logger import ProgbarLogger


class CallbackList(Callback):
    """Passes every call on to all callbacks, in order.

    Args:
        callbacks: a callback, a list of callbacks, or None.
        add_history: bool. Add a `History` unless there is one.
        add_progbar: bool. Add a `ProgbarLogger` unless there is one.
        model: the model the callbacks are told.
        **params: what the callbacks are told with `set_params`.

    Raises:
        ValueError: an element is no callback.
    """

    def __init__(self, callbacks=None, add_history=False, add_progbar=False, model=None, **params):
        super().__init__()
        if callbacks is None:
            callbacks = []
        self.callbacks = list(callbacks) if isinstance(callbacks, list | tuple) else [callbacks]
        for callback in self.callbacks:
            if not isinstance(callback, Callback):
                raise ValueError(
                    "`callbacks` must be instances of `bart_fast.callbacks.Callback`; "
                    f"received: {callback!r}"
                )
        self.history = self.find(History)
        if add_history and self.history is None:
            self.history = History()
            self.callbacks.append(self.history)
        self.progress = self.find(ProgbarLogger)
        if add_progbar and self.progress is None:
            self.progress = ProgbarLogger()
            self.callbacks.append(self.progress)
        if model is not None:
            self.set_model(model)
        if params:
            self.set_params(params)

    def append(self, callback):
        """Adds a callback at the end."""
        self.callbacks.append(callback)

    def release(self):
        """Tells callbacks to give back what they hold: files, and the places of weights."""
        for callback in self.callbacks:
            getattr(callback, "_release", int)()

    def close(self):
        """Ends a run, also one that stops in the middle: gives back what callbacks hold, and ends
        the progress line."""
        self.release()
        if self.progress is not None:
            self.progress.close()

    def find(self, kind):
        """The first callback of a class, or None."""
        return next((callback for callback in self.callbacks if isinstance(callback, kind)), None)

    def set_params(self, params):
        self.params = params
        for callback in self.callbacks:
            callback.set_params(params)

    def set_model(self, model):
        self.model = model
        for callback in self.callbacks:
            callback.set_model(model)


def _pass_on(name):
    if name.endswith(("_batch_begin", "_batch_end")) or "epoch" in name:

        def method(self, index, logs=None):
            logs = {} if logs is None else logs
            for callback in self.callbacks:
                getattr(callback, name)(index, logs)

    else:

        def method(self, logs=None):
            logs = {} if logs is None else logs
            for callback in self.callbacks:
                getattr(callback, name)(logs)

    method.__name__ = name
    method.__doc__ = f"Calls `{name}` of every callback."
    return method


for _stage in ("train", "test", "predict"):
    for _event in ("begin", "end", "batch_begin", "batch_end"):
        _name = f"on_{_stage}_{_event}"
        setattr(CallbackList, _name, _pass_on(_name))
for _name in ("on_epoch_begin", "on_epoch_end"):
    setattr(CallbackList, _name, _pass_on(_name))
