"""`compile`, `fit`, `evaluate`: the training loop of the models."""

import warnings
from typing import Any

from bart_fast._validation import argument_error, check_flag, check_int
from bart_fast.callbacks import CallbackList, History
from bart_fast.training import compiled
from bart_fast.training.arguments import (
    check_class_weight,
    check_counts,
    check_validation_freq,
    check_verbose,
    is_validated,
    split_validation,
)
from bart_fast.training.batches import Batches
from bart_fast.training.compiled_metrics import CompiledMetrics
from bart_fast.training.data import Examples
from bart_fast.training.errors import NonFiniteLossError
from bart_fast.training.resuming import Progress
from bart_fast.training.single_batches import SingleBatchesMixin

_AUTO_LEARNING_RATE = 2e-5


class TrainingMixin(SingleBatchesMixin):
    """Training and evaluation, for a model with a `backbone` and a `preprocessor` (or None)."""

    def compile(
        self,
        optimizer: Any = "auto",
        loss: Any = "auto",
        *,
        weighted_metrics: Any = "auto",
        sampler: Any = "top_k",
        metrics: Any = None,
        **kwargs: Any,
    ) -> None:
        """Says how the model is trained and how it generates.

        Args:
            optimizer: an `Optimizer`, or a name, which means Keras' defaults (`"adam"` is
                `Adam(0.001)`). `"auto"` (default) is `Adam(2e-5)`, for fine-tuning.
            loss: `"auto"` (default) or a `SparseCategoricalCrossentropy(from_logits=True)`, whose
                `reduction` and `label_smoothing` say more.
            weighted_metrics: list of metrics that count by sample weights: names (`"accuracy"`,
                `"perplexity"`), `Metric` objects, also of one's own, or functions of targets and
                logits; or None. `"auto"` (default) is one `SparseCategoricalAccuracy`.
            sampler: a `Sampler` or a name; `"preset"` is what the checkpoint says itself. Defaults
                to `"top_k"`.
            metrics: the same, for metrics that count every position once, padded ones too, as in
                Keras: then all of them are computed, and texts padded to the preprocessor's
                lengths. Defaults to None.
            **kwargs: `run_eagerly`, `jit_compile` and `steps_per_execution` change nothing.

        Raises:
            TypeError: another keyword argument.
            ValueError: a value that is not supported.
        """
        from bart_fast import samplers

        compiled.check_ignored(kwargs)
        # All are resolved before any is set: a failure leaves the model as it was.
        resolved = (
            compiled.resolve_optimizer(optimizer, _AUTO_LEARNING_RATE),
            compiled.resolve_loss(loss),
            CompiledMetrics(
                compiled.resolve_metrics("metrics", metrics),
                compiled.resolve_metrics("weighted_metrics", weighted_metrics),
            ),
        )
        self.sampler = None if sampler is None else samplers.get(sampler)
        self._set_compiled(*resolved)

    def fit(
        self,
        x: Any = None,
        y: Any = None,
        batch_size: int | None = None,
        epochs: int = 1,
        verbose: Any = "auto",
        callbacks: Any = None,
        validation_split: float = 0.0,
        validation_data: Any = None,
        shuffle: bool = True,
        class_weight: Any = None,
        sample_weight: Any = None,
        initial_epoch: int = 0,
        steps_per_epoch: int | None = None,
        validation_steps: int | None = None,
        validation_batch_size: int | None = None,
        validation_freq: Any = 1,
    ) -> History:
        """Trains the model.

        Shuffling depends on the model's seed and the epoch, dropout on the seed and the
        optimizer's iterations: after `bart_fast.set_random_seed` runs repeat exactly, also when
        they go on with `initial_epoch`. Ctrl-C stops between two steps.

        Args:
            x: dict of lists of texts `encoder_text` and `decoder_text`, if the model has a
                preprocessor; or dict of the four token arrays [examples, length]; or batches `x`,
                `(x, y)` or `(x, y, sample_weight)`: a list or generator of them, a dataset of
                tf.data, a loader of torch, or what has `__len__` and `__getitem__`, as Keras'
                `PyDataset`, whose `on_epoch_begin()` and `on_epoch_end()` are called.
            y: int array [examples, length]. Target ids, for token arrays.
            batch_size: int. Defaults to 32.
            epochs: int. The epoch to stop before, counted from 0. Defaults to 1.
            verbose: 0 silent, 1 or `"auto"` (default) a progress bar, 2 a line an epoch.
            callbacks: list of `Callback`.
            validation_split: float. Share of the examples, taken from the end, that is evaluated
                and not trained on.
            validation_data: `x`, `(x, y)` or `(x, y, sample_weight)` of the same kinds.
            shuffle: bool. Whether every epoch has an order of its own: of the examples, or of the
                batches of a `PyDataset`. Other batches stay in order. Defaults to True.
            class_weight: dict from token id to float, what a position weighs whose target it is;
                others weigh 1. In texts it comes on top of the mask. Not together with
                `sample_weight`. Defaults to None.
            sample_weight: float array [examples, length] or [examples], for token arrays. Without
                it every position weighs 1, padded ones too.
            initial_epoch: int. The epoch to start at, to go on with an earlier run.
            steps_per_epoch: int. Batches of an epoch; the next one goes on in the data. Defaults
                to one pass.
            validation_steps: int. Batches of a validation. Defaults to all.
            validation_batch_size: int. Defaults to `batch_size`.
            validation_freq: int, every how many epochs to validate; or the epochs, from 1.

        Returns:
            History. `history` is a dict of lists: `loss`, the mean over an epoch's examples,
            `sparse_categorical_accuracy`, and `val_loss`, `val_sparse_categorical_accuracy`.

        Raises:
            ValueError: the message names the argument and the way out.
            NonFiniteLossError: the loss or its gradient is NaN or infinite; the weights stay those
                before that step. With the callback `TerminateOnNaN` training ends instead.

        Example:

        ```python
        x = {"encoder_text": ["i has two apple"], "decoder_text": ["I have two apples."]}
        history = model.fit(x, epochs=3, batch_size=1)
        history.history["loss"]
        ```
        """
        self._check_compiled("fit")
        self._check_trainable()
        class_weight = check_class_weight(class_weight, sample_weight)
        check_int("epochs", epochs, 0)
        check_int("initial_epoch", initial_epoch, 0)
        check_flag("shuffle", shuffle)
        check_counts(
            steps_per_epoch=steps_per_epoch,
            validation_steps=validation_steps,
            validation_batch_size=validation_batch_size,
        )
        check_validation_freq(validation_freq)
        data = self._open_data(x, y, sample_weight)
        data, validation = split_validation(
            data, validation_split, validation_data, self._open_data
        )
        seed = self._training_seed()
        training = Batches(data, batch_size, shuffle, seed, steps_per_epoch, "steps_per_epoch")
        if validation is not None:
            size = validation_batch_size or batch_size
            size = size if isinstance(validation, Examples) else validation_batch_size
            validation = Batches(
                validation, size, steps=validation_steps, steps_name="validation_steps"
            )
        verbose = check_verbose(verbose)
        self._check_first(batch_size, data, validation and validation.data)
        callbacks = self._callback_list(callbacks, verbose, epochs, training.steps, history=True)
        progress = Progress(self, callbacks, training, range(initial_epoch, epochs))
        try:
            progress.restore()
            self._fit(training, validation, callbacks, progress, validation_freq, class_weight)
        except KeyboardInterrupt:
            progress.interrupted()
            raise
        finally:
            callbacks.close()
        return callbacks.history or self.history

    def _fit(self, training, validation, callbacks, progress, validation_freq, class_weight):
        """The loop over epochs."""
        self.stop_training = False
        callbacks.on_train_begin()
        epochs = progress.begin()
        logs: dict[str, float] = {}
        for epoch in epochs:
            logs = self._fit_epoch(epoch, training, callbacks, progress, class_weight)
            if not logs:
                if epoch == epochs.start:
                    raise argument_error("x", "must yield at least one batch", "none")
                warnings.warn("the data ran out: training stops", stacklevel=3)
                break
            if validation is not None and is_validated(epoch, validation_freq):
                progress.begin_validation()
                values = self._evaluate(validation, callbacks, "validation_data")
                logs |= {f"val_{name}": value for name, value in values.items()}
                logs = dict(sorted(logs.items()))
            callbacks.on_epoch_end(epoch, logs)
            progress.end_epoch(epoch)
            if self.stop_training:
                break
        callbacks.release()
        if progress.asked:
            self._put_averages()
        callbacks.on_train_end(logs)

    def _fit_epoch(self, epoch, training, callbacks, progress, class_weight):
        """The loop over the batches of an epoch; returns its logs, none if there was no batch."""
        make_batch = self._batch_maker()
        self.reset_metrics()
        callbacks.on_epoch_begin(epoch)
        first = progress.begin_epoch(epoch)
        logs = self._logs() if first else {}
        for step, raw in enumerate(training.epoch(epoch, first), first):
            callbacks.on_train_batch_begin(step)
            batch = make_batch(*raw)
            if class_weight is not None:
                batch = batch.weighted_by_class(class_weight)
            failure = self._train_batch(batch)
            logs = self._logs()
            progress.trained(epoch, step)
            callbacks.on_train_batch_end(step, logs)
            if failure is not None and not self.stop_training:
                raise NonFiniteLossError(f"epoch {epoch + 1}, step {step + 1}: {failure}")
            progress.end_batch()
            if self.stop_training:
                break
        return logs

    def evaluate(
        self,
        x: Any = None,
        y: Any = None,
        batch_size: int | None = None,
        verbose: Any = "auto",
        sample_weight: Any = None,
        steps: int | None = None,
        callbacks: Any = None,
        return_dict: bool = False,
    ) -> Any:
        """Loss and metrics, without dropout and without training.

        Args:
            x, y, batch_size, sample_weight: as for `fit`.
            verbose: 0 silent, 1 or `"auto"` (default) a progress bar, 2 one line.
            steps: int. Batches to evaluate. Defaults to all.
            callbacks: list of `Callback`.
            return_dict: bool. Return names with the values. Defaults to False.

        Returns:
            list of float, `[loss, accuracy]`; or dict of str to float.
        """
        self._check_compiled("evaluate")
        check_flag("return_dict", return_dict)
        data = Batches(self._open_data(x, y, sample_weight), batch_size, steps=steps)
        callbacks = self._callback_list(callbacks, check_verbose(verbose), 1, data.steps)
        try:
            logs = self._evaluate(data, callbacks, "x")
        finally:
            callbacks.close()
        return self._returned(logs, return_dict)

    def _evaluate(self, data: Batches, callbacks: CallbackList, name: str) -> dict[str, float]:
        make_batch = self._batch_maker()
        self.stop_evaluating = False
        callbacks.on_test_begin()
        self.reset_metrics()
        step = -1
        # Without training epochs every evaluation is of epoch 0: the same batches.
        for step, raw in enumerate(data.epoch(0)):
            callbacks.on_test_batch_begin(step)
            self._evaluate_batch(make_batch(*raw))
            callbacks.on_test_batch_end(step, self._logs())
            if self.stop_evaluating:
                break
        else:
            if step < 0:
                raise argument_error(name, "must yield at least one batch", "none")
        logs = self._logs()
        callbacks.on_test_end(logs)
        return logs
