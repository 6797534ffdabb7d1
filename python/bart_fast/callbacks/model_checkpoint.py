"""Presets, or weights alone, saved while training."""

from pathlib import Path

from bart_fast._validation import check_finite_float, check_flag, check_path, check_verbosity
from bart_fast.callbacks.monitor_callback import MonitorCallback


class ModelCheckpoint(MonitorCallback):
    """Saves the model while it trains, with `save_to_preset` or with `save_weights`.

    Args:
        filepath: str or path. Directory of the preset, or with `save_weights_only` a file that ends
            in `.weights.h5` or `.safetensors`. It may name values of the logs, as in
            `"checkpoints/{epoch:02d}-{val_loss:.3f}"`; else the last save stays.
        monitor: str. What `save_best_only` looks at. Defaults to `"val_loss"`.
        verbose: int. 1 prints when it acts.
        save_best_only: bool. Save only when the value improved. Defaults to False.
        save_weights_only: bool. Save the weights alone. Defaults to False.
        mode: str. `"min"`, `"max"` or `"auto"`.
        save_freq: `"epoch"` (default) or int, the number of batches between saves.
        initial_value_threshold: float. The value to beat first.
    """

    _kept = ("best", "_epoch", "_unsaved_batches")

    def __init__(
        self,
        filepath,
        monitor="val_loss",
        verbose=0,
        save_best_only=False,
        save_weights_only=False,
        mode="auto",
        save_freq="epoch",
        initial_value_threshold=None,
    ):
        if initial_value_threshold is not None:
            check_finite_float("initial_value_threshold", initial_value_threshold)
        super().__init__(monitor, mode, baseline=initial_value_threshold)
        check_path("filepath", filepath)
        if save_weights_only and not str(filepath).endswith((".weights.h5", ".safetensors")):
            raise ValueError(
                "`filepath` must end in `.weights.h5` or `.safetensors` when "
                f"`save_weights_only` is True. Received: {str(filepath)!r}."
            )
        is_count = isinstance(save_freq, int) and not isinstance(save_freq, bool)
        if save_freq != "epoch" and not (is_count and save_freq > 0):
            raise ValueError(
                f"`save_freq` must be 'epoch' or a positive int; received: {save_freq!r}"
            )
        self.filepath = str(filepath)
        self.verbose = check_verbosity(verbose)
        self.save_best_only = check_flag("save_best_only", save_best_only)
        self.save_weights_only = check_flag("save_weights_only", save_weights_only)
        self.save_freq = save_freq
        self._epoch = 0
        self._unsaved_batches = 0

    def on_epoch_begin(self, epoch, logs=None):
        self._epoch = epoch

    def on_train_batch_end(self, batch, logs=None):
        if self.save_freq == "epoch":
            return
        self._unsaved_batches += 1
        if self._unsaved_batches >= self.save_freq:
            self._unsaved_batches = 0
            self._save(self._epoch, {"batch": batch + 1, **(logs or {})})

    def on_epoch_end(self, epoch, logs=None):
        if self.save_freq == "epoch":
            self._save(epoch, logs or {})

    def _save(self, epoch, logs):
        if self.save_best_only:
            current = self._monitored(logs)
            if current is not None and not self._is_improvement(current, self.best):
                return
            self.best = current if current is not None else self.best
        try:
            path = self.filepath.format(epoch=epoch + 1, **logs)
        except KeyError as error:
            raise ValueError(
                f"`filepath`: {self.filepath!r} names {error}, which is not among: "
                f"epoch, {', '.join(logs)}"
            ) from None
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        if self.save_weights_only:
            self.model.save_weights(path)
        else:
            self.model.save_to_preset(path)
        if self.verbose:
            print(f"Epoch {epoch + 1}: saved model to {path}")
