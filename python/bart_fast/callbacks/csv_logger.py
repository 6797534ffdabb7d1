"""Values of every epoch in a file."""

import csv
from pathlib import Path

from bart_fast._validation import argument_error, check_flag, check_path
from bart_fast.callbacks.callback import Callback


class CSVLogger(Callback):
    """Writes a line of values for every epoch, as soon as it ends.

    The columns are `epoch`, counted from 0, and the values of the first epoch by name. As in Keras
    there are columns for validation from the first epoch on, with `NA` where there was none.

    Args:
        filename: str or path. The file, in a directory that exists.
        separator: str of one character. Defaults to `","`.
        append: bool. Go on in a file that exists. Defaults to False: replace it.
    """

    _kept = ()

    def __init__(self, filename, separator=",", append=False):
        super().__init__()
        if not isinstance(separator, str) or len(separator) != 1:
            raise argument_error("separator", "must be a string of one character", separator)
        self.filename = str(check_path("filename", filename))
        self.sep = separator
        self.append = check_flag("append", append)
        self._file = None
        self._writer = None
        self._goes_on = False

    def _resume(self):
        self._goes_on = True

    def on_train_begin(self, logs=None):
        self._release()
        path = Path(self.filename)
        append, self._goes_on = self.append or self._goes_on, False
        self._has_header = append and path.exists() and path.stat().st_size > 0
        self._file = path.open("a" if append else "w", newline="", encoding="utf-8")
        self._writer = None

    def on_epoch_end(self, epoch, logs=None):
        logs = logs or {}
        if self._writer is None:
            names = sorted(logs)
            if names and not any(name.startswith("val_") for name in names):
                names += [f"val_{name}" for name in names]
            self._writer = csv.DictWriter(
                self._file,
                ["epoch", *names],
                restval="NA",
                extrasaction="ignore",
                delimiter=self.sep,
            )
            if not self._has_header:
                self._writer.writeheader()
        self._writer.writerow({"epoch": epoch, **logs})
        self._file.flush()

    def on_train_end(self, logs=None):
        self._release()

    def _release(self):
        if self._file is not None:
            self._file.close()
        self._file = self._writer = None
