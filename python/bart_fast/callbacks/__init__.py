"""Callbacks with Keras' names and arguments."""

from bart_fast.callbacks.backup_and_restore import BackupAndRestore
from bart_fast.callbacks.callback import Callback
from bart_fast.callbacks.callback_list import CallbackList
from bart_fast.callbacks.csv_logger import CSVLogger
from bart_fast.callbacks.early_stopping import EarlyStopping
from bart_fast.callbacks.generation_metrics import GenerationMetrics
from bart_fast.callbacks.history import History
from bart_fast.callbacks.lambda_callback import LambdaCallback
from bart_fast.callbacks.learning_rate_scheduler import LearningRateScheduler
from bart_fast.callbacks.model_checkpoint import ModelCheckpoint
from bart_fast.callbacks.monitor_callback import MonitorCallback
from bart_fast.callbacks.progbar_logger import ProgbarLogger
from bart_fast.callbacks.reduce_lr_on_plateau import ReduceLROnPlateau
from bart_fast.callbacks.swap_ema_weights import SwapEMAWeights
from bart_fast.callbacks.tensor_board import TensorBoard
from bart_fast.callbacks.terminate_on_nan import TerminateOnNaN

__all__ = [
    "BackupAndRestore",
    "CSVLogger",
    "Callback",
    "CallbackList",
    "EarlyStopping",
    "GenerationMetrics",
    "History",
    "LambdaCallback",
    "LearningRateScheduler",
    "ModelCheckpoint",
    "MonitorCallback",
    "ProgbarLogger",
    "ReduceLROnPlateau",
    "SwapEMAWeights",
    "TensorBoard",
    "TerminateOnNaN",
]
