"""Callbacks with Keras' names and arguments."""

from bart_fast.callbacks.callback import Callback
from bart_fast.callbacks.callback_list import CallbackList
from bart_fast.callbacks.early_stopping import EarlyStopping
from bart_fast.callbacks.history import History
from bart_fast.callbacks.lambda_callback import LambdaCallback
from bart_fast.callbacks.learning_rate_scheduler import LearningRateScheduler
from bart_fast.callbacks.model_checkpoint import ModelCheckpoint
from bart_fast.callbacks.monitor_callback import MonitorCallback
from bart_fast.callbacks.progbar_logger import ProgbarLogger
from bart_fast.callbacks.terminate_on_nan import TerminateOnNaN

__all__ = [
    "Callback",
    "CallbackList",
    "EarlyStopping",
    "History",
    "LambdaCallback",
    "LearningRateScheduler",
    "ModelCheckpoint",
    "MonitorCallback",
    "ProgbarLogger",
    "TerminateOnNaN",
]
