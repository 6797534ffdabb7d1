"""Where a run of `fit` stands, and how it goes on from a checkpoint."""

import copy
from typing import Any

from bart_fast.callbacks import BackupAndRestore, CallbackList
from bart_fast.training import checkpoint as files
from bart_fast.training.batches import Batches
from bart_fast.training.checkpoint import Place, Run


class Progress:
    """The place of a run in its data, told to its `BackupAndRestore`, if it has one.

    Args:
        model: what is trained.
        callbacks: the callbacks of the run.
        training: its data.
        epochs: range. The epochs that were asked for.
    """

    def __init__(self, model: Any, callbacks: CallbackList, training: Batches, epochs: range):
        self._model, self._callbacks = model, callbacks.callbacks
        self._training, self._epochs = training, epochs
        self._backup = callbacks.find(BackupAndRestore)
        self._checkpoint = None
        self._metrics = None
        self._iterations = None
        self.place = Place(epochs.start)

    @property
    def asked(self) -> bool:
        """bool. Whether any epoch was asked for."""
        return len(self._epochs) > 0

    def restore(self) -> None:
        """Puts model and optimizer where the checkpoint has them, if there is one. Called before
        callbacks are told that training begins.

        Raises:
            ValueError: it is of another model or of other data, or damaged.
        """
        if self._backup is None:
            return
        training = self._training
        self._checkpoint = self._backup._restore(
            Run(
                examples=None if training.is_stream else len(training.data),
                batch_size=None if training.is_stream else training.batch_size,
                steps=training.steps,
                shuffle=training.shuffle,
            )
        )
        if self._checkpoint is None:
            return
        self.place = self._checkpoint.place
        training.seed = self._model._training_seed()
        training.skip(self.place.drawn, self.place.step)
        for callback in self._callbacks:
            callback._resume()

    def begin(self) -> range:
        """The epochs that are left. Called after callbacks were told that training begins."""
        if self._checkpoint is not None and self.place.step == 0:
            files.restore_callbacks(self._checkpoint, self._callbacks)
        self._note()
        return range(self.place.epoch, self._epochs.stop)

    def begin_epoch(self, epoch: int) -> int:
        """The batch to begin with. Called after callbacks were told that the epoch begins."""
        if epoch != self.place.epoch or self.place.step == 0:
            self.place = Place(epoch, 0, self.place.drawn)
            return 0
        # They were told so when it began, and may have counted it or changed the learning rate.
        files.restore_callbacks(self._checkpoint, self._callbacks)
        files.restore_rate(self._checkpoint, self._model.optimizer)
        files.restore_metrics(self._checkpoint, self._model.metrics)
        return self.place.step

    def trained(self, epoch: int, step: int) -> None:
        """A batch was trained on."""
        self.place = Place(epoch, step + 1, self.place.drawn + 1)
        self._note()

    def end_batch(self) -> None:
        """Callbacks were told that a batch ended."""
        if self._backup is not None:
            self._backup._batch_ended(self._save)

    def begin_validation(self) -> None:
        """The metrics are about to count something else."""
        if self._backup is not None:
            self._metrics = copy.deepcopy([vars(metric) for metric in self._model.metrics])

    def end_epoch(self, epoch: int) -> None:
        """Callbacks were told that an epoch ended."""
        self.place, self._metrics = Place(epoch + 1, 0, self.place.drawn), None
        if self._backup is not None:
            self._backup._epoch_ended(self._save)

    def interrupted(self) -> None:
        """Ctrl-C came. In the midst of a step the last checkpoint stays."""
        if self._backup is not None and self._iterations == self._model.optimizer._batches:
            self._save(self._backup._file)

    def _note(self) -> None:
        self._iterations = self._model.optimizer._batches

    def _save(self, path: Any) -> None:
        files.save(path, self._model, self._callbacks, self.place, self._backup._run, self._metrics)
