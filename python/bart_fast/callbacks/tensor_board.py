"""Curves of a training for TensorBoard."""

import time
from pathlib import Path

from bart_fast._validation import argument_error, check_flag, check_int, check_path
from bart_fast.callbacks.callback import Callback


class TensorBoard(Callback):
    """Writes curves that TensorBoard shows: `tensorboard --logdir logs`.

    Files and names are those of Keras: in `train/` and `validation/` the values of each epoch as
    `epoch_<name>`, in `train/` those of batches as `batch_<name>`, in `validation/` those of each
    evaluation by updates made as `evaluation_<name>_vs_iterations`. The files are written by
    tensorboardX: `pip install "bart-fast[tensorboard]"`.

    Args:
        log_dir: str or path. The directory. Defaults to `"logs"`.
        histogram_freq: int. Every how many epochs the weights are written as histograms. Defaults
            to 0: never.
        write_graph: bool. For Keras' signature; there is no graph.
        write_images: must be False.
        write_steps_per_second: bool. Whether to write the rate of steps. Defaults to False.
        update_freq: `"epoch"` (default), `"batch"` or int: every how many batches values are
            written.
        profile_batch: must be 0.
        embeddings_freq: must be 0.
        embeddings_metadata: must be `None`.

    Raises:
        ImportError: tensorboardX is not installed.
    """

    _kept = ("_batches",)

    def __init__(
        self,
        log_dir="logs",
        histogram_freq=0,
        write_graph=True,
        write_images=False,
        write_steps_per_second=False,
        update_freq="epoch",
        profile_batch=0,
        embeddings_freq=0,
        embeddings_metadata=None,
    ):
        super().__init__()
        unsupported = (
            ("write_images", write_images, False),
            ("profile_batch", profile_batch, 0),
            ("embeddings_freq", embeddings_freq, 0),
            ("embeddings_metadata", embeddings_metadata, None),
        )
        for name, value, allowed in unsupported:
            if value is not allowed and value != allowed:
                raise argument_error(name, f"must be {allowed!r}; others are not written", value)
        self.log_dir = str(check_path("log_dir", log_dir))
        self.histogram_freq = check_int("histogram_freq", histogram_freq, 0)
        self.write_graph = check_flag("write_graph", write_graph)
        self.write_steps_per_second = check_flag("write_steps_per_second", write_steps_per_second)
        self.update_freq = 1 if update_freq == "batch" else update_freq
        if self.update_freq != "epoch":
            check_int("update_freq", self.update_freq, 1, "or pass 'epoch' or 'batch'")
        self._writer_class = _writer_class()
        self._writers = {}
        self._batches = 0

    def on_train_begin(self, logs=None):
        self._batches = 0

    def on_epoch_begin(self, epoch, logs=None):
        self._epoch_start = (time.monotonic(), self.model.optimizer.iterations)

    def on_train_batch_begin(self, batch, logs=None):
        self._batches += 1
        self._batch_start = time.monotonic()

    def on_train_batch_end(self, batch, logs=None):
        if self.update_freq == "epoch" or self._batches % self.update_freq:
            return
        if self.write_steps_per_second:
            rate = 1 / max(time.monotonic() - self._batch_start, 1e-9)
            logs = {**(logs or {}), "steps_per_second": rate}
        self._write("train", "batch_{}", logs, self._batches)

    def on_epoch_end(self, epoch, logs=None):
        logs, optimizer = logs or {}, self.model.optimizer
        values = {name: value for name, value in logs.items() if not name.startswith("val_")}
        values["learning_rate"] = optimizer.learning_rate
        if self.write_steps_per_second:
            start, iterations = self._epoch_start
            seconds = max(time.monotonic() - start, 1e-9)
            values["steps_per_second"] = (optimizer.iterations - iterations) / seconds
        self._write("train", "epoch_{}", values, epoch)
        of_validation = {
            name.removeprefix("val_"): value
            for name, value in logs.items()
            if name.startswith("val_")
        }
        self._write("validation", "epoch_{}", of_validation, epoch)
        if self.histogram_freq and epoch % self.histogram_freq == 0:
            for part, name in self.model._trained():
                values = part.get_parameter(name)
                self._writer("train").add_histogram(f"{name}/histogram", values, epoch)
        for writer in self._writers.values():
            writer.flush()

    def on_test_end(self, logs=None):
        iterations = self.model.optimizer.iterations
        self._write("validation", "evaluation_{}_vs_iterations", logs, iterations)

    def on_train_end(self, logs=None):
        self._release()

    def _write(self, directory, tag, logs, step):
        for name, value in (logs or {}).items():
            self._writer(directory).add_scalar(tag.format(name), value, step)

    def _writer(self, directory):
        if directory not in self._writers:
            path = str(Path(self.log_dir) / directory)
            self._writers[directory] = self._writer_class(path)
        return self._writers[directory]

    def _release(self):
        for writer in self._writers.values():
            writer.close()
        self._writers = {}


def _writer_class():
    try:
        from tensorboardX import SummaryWriter
    except ImportError:
        raise ImportError(
            "TensorBoard needs tensorboardX, which writes its files, and it is not installed.\n"
            'hint: pip install "bart-fast[tensorboard]", or pip install tensorboardX'
        ) from None
    return SummaryWriter
