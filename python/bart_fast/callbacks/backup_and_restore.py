"""Runs that go on where they were stopped."""

import contextlib
import os
import tempfile
from pathlib import Path

from bart_fast._validation import argument_error, check_flag, check_path
from bart_fast.callbacks.callback import Callback

_FILE, _EARLIER = "checkpoint.npz", "checkpoint.earlier.npz"


class BackupAndRestore(Callback):
    """Saves all of a run now and then, and lets the same call of `fit()` go on there: after Ctrl-C,
    a crash or `kill -9` it ends with the same weights, to the bit, as if nothing had happened.

    A checkpoint holds weights, the optimizer, the place in the data, the seeds of shuffling and
    dropout, and what metrics and callbacks have gathered. Ctrl-C saves as well. Data in memory and
    indexed data go on at once; iterables are read again up to the place. If the run ends, the
    checkpoint is deleted.

    Args:
        backup_dir: str or path. A directory of this run's own.
        save_freq: `"epoch"` (default) or int, the number of batches between saves.
        double_checkpoint: bool. Keep the one before as well, and take it where the newest one
            cannot be read. Defaults to False.
        delete_checkpoint: bool. Delete it when the run ends. Defaults to True; with False the same
            call of `fit()` has nothing left to do.

    Raises:
        ValueError: when `fit()` begins, if the checkpoint is of another model or other data.
        OSError: when `fit()` begins, if the directory cannot be written; later, if the disk is
            full. The last checkpoint stays.

    Example:

    ```python
    backup = bart_fast.callbacks.BackupAndRestore("backup", save_freq=100)
    model.fit(x, epochs=3, callbacks=[backup])
    ```

    Reference:
        `keras.callbacks.BackupAndRestore`, Keras 3.15, which goes on at epochs or batches too, but
        draws their order and dropout anew.
    """

    _kept = ()

    def __init__(
        self, backup_dir, save_freq="epoch", double_checkpoint=False, delete_checkpoint=True
    ):
        super().__init__()
        self.backup_dir = Path(check_path("backup_dir", backup_dir)).expanduser()
        if not os.fspath(backup_dir):
            raise argument_error("backup_dir", "must name a directory", backup_dir)
        is_count = isinstance(save_freq, int) and not isinstance(save_freq, bool)
        if save_freq != "epoch" and not (is_count and save_freq > 0):
            raise argument_error("save_freq", "must be 'epoch' or a positive int", save_freq)
        self.save_freq = save_freq
        self.double_checkpoint = check_flag("double_checkpoint", double_checkpoint)
        self.delete_checkpoint = check_flag("delete_checkpoint", delete_checkpoint)
        self._run = None
        self._unsaved = 0

    @property
    def _file(self):
        return self.backup_dir / _FILE

    # Called by `fit()`.

    def _restore(self, run):
        """Puts the run's state back, if there is a checkpoint; returns that or None."""
        from bart_fast.training import checkpoint as files

        self._run, self._unsaved = run, 0
        self._check_writable()
        path, found = self._newest()
        if found is None:
            return None
        files.check_run(path, found, run)
        files.restore(path, found, self.model)
        return found

    def _check_writable(self):
        """Not after an hour, when the first checkpoint is due."""
        try:
            self.backup_dir.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryFile(dir=self.backup_dir):
                pass
        except OSError as error:
            message = f"`backup_dir` cannot be written: {error.strerror}"
            raise type(error)(error.errno, message, str(self.backup_dir)) from None

    def _newest(self):
        from bart_fast.training import checkpoint as files

        failure = None
        for name in (_FILE, _EARLIER):
            path = self.backup_dir / name
            if not path.is_file():
                continue
            try:
                return path, files.load(path)
            except ValueError as error:
                failure = failure or error
        if failure is not None:
            raise ValueError(f"`backup_dir`: {failure}\nhint: delete it to start anew") from None
        return None, None

    def _batch_ended(self, save):
        self._unsaved += 1
        if self.save_freq != "epoch" and self._unsaved >= self.save_freq:
            self._save(save)

    def _epoch_ended(self, save):
        if self.save_freq == "epoch":
            self._save(save)

    def _save(self, save):
        path = self._file
        if self.double_checkpoint and path.is_file():
            earlier = self.backup_dir / _EARLIER
            earlier.unlink(missing_ok=True)
            with contextlib.suppress(OSError):  # A file system without hard links.
                os.link(path, earlier)
        save(path)
        self._unsaved = 0

    def on_train_end(self, logs=None):
        if self.delete_checkpoint:
            for name in (_FILE, _EARLIER):
                (self.backup_dir / name).unlink(missing_ok=True)
            with contextlib.suppress(OSError):  # Other files are there.
                self.backup_dir.rmdir()
