"""`compile`, `fit`, `evaluate`: the training loop of the models."""

import math
import numbers
import warnings
from collections.abc import Callable, Collection, Iterable, Mapping
from typing import Any

import numpy as np

from bart_fast._random import draw_seed
from bart_fast._validation import (
    argument_error,
    check_finite_float,
    check_flag,
    check_int,
    check_positive_int,
)
from bart_fast.callbacks import CallbackList, History
from bart_fast.metrics import Mean, Metric
from bart_fast.training import compiled
from bart_fast.training.batch import Batch, BatchMaker
from bart_fast.training.data import Batches, Examples, is_packed, open_data, unpack_batch
from bart_fast.training.errors import NonFiniteLossError


class TrainingMixin:
    """Training and evaluation, for a model with a `backbone` and a `preprocessor` (or None)."""

    optimizer = None
    loss = None
    sampler = None
    history = None
    stop_training = False
    stop_evaluating = False
    _seed: int | None = None
    _loss_tracker = None
    _weighted_metrics: tuple | list = ()

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
            loss: `"auto"` (default) or a `SparseCategoricalCrossentropy(from_logits=True)`.
            weighted_metrics: list of `SparseCategoricalAccuracy` or of names, or None. `"auto"`
                (default) is one `SparseCategoricalAccuracy`.
            sampler: a `Sampler` or a name; `"preset"` is what the checkpoint says itself. Defaults
                to `"top_k"`.
            metrics: must be None; see `weighted_metrics`.
            **kwargs: `run_eagerly`, `jit_compile` and `steps_per_execution` change nothing.

        Raises:
            TypeError: another keyword argument.
            ValueError: a value that is not supported.
        """
        from bart_fast import samplers

        compiled.check_ignored(kwargs)
        compiled.check_metrics(metrics)
        # All are resolved before any is set: a failure leaves the model as it was.
        resolved = (
            compiled.resolve_optimizer(optimizer),
            compiled.resolve_loss(loss),
            compiled.resolve_weighted_metrics(weighted_metrics),
            None if sampler is None else samplers.get(sampler),
        )
        self.optimizer, self.loss, self._weighted_metrics, self.sampler = resolved
        self._loss_tracker = Mean("loss")

    @property
    def compiled(self) -> bool:
        """bool. Whether `compile` was called."""
        return self.optimizer is not None

    @property
    def metrics(self) -> list[Metric]:
        """The loss, as a metric, and the metrics of `compile`."""
        return [] if self._loss_tracker is None else [self._loss_tracker, *self._weighted_metrics]

    @property
    def metrics_names(self) -> list[str]:
        """Names of what `evaluate` returns, in its order."""
        return [metric.name for metric in self.metrics]

    def reset_metrics(self) -> None:
        """Starts all metrics anew."""
        for metric in self.metrics:
            metric.reset_state()

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
                preprocessor; or dict of the four token arrays [examples, length]; or an iterable of
                batches `x`, `(x, y)` or `(x, y, sample_weight)`.
            y: int array [examples, length]. Target ids, for token arrays.
            batch_size: int. Defaults to 32.
            epochs: int. The epoch to stop before, counted from 0. Defaults to 1.
            verbose: 0 silent, 1 or `"auto"` (default) a progress bar, 2 a line an epoch.
            callbacks: list of `Callback`.
            validation_split: float. Share of the examples, taken from the end, that is evaluated
                and not trained on.
            validation_data: `x`, `(x, y)` or `(x, y, sample_weight)` of the same kinds.
            shuffle: bool. Whether every epoch has an order of its own. Defaults to True.
            class_weight: must be None; see `sample_weight`.
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
        self._core.check_trainable()
        check_no_class_weight(class_weight)
        check_int("epochs", epochs, 0)
        check_int("initial_epoch", initial_epoch, 0)
        check_flag("shuffle", shuffle)
        for name, count in (
            ("steps_per_epoch", steps_per_epoch),
            ("validation_steps", validation_steps),
            ("validation_batch_size", validation_batch_size),
        ):
            if count is not None:
                check_positive_int(name, count)
        check_validation_freq(validation_freq)
        data = self._open_data(x, y, sample_weight)
        data, validation = split_validation(
            data, validation_split, validation_data, self._open_data
        )
        seed = self._training_seed()
        training = Batches(data, batch_size, shuffle, seed, steps_per_epoch)
        if validation is not None:
            size = validation_batch_size or batch_size
            size = size if isinstance(validation, Examples) else validation_batch_size
            validation = Batches(validation, size, steps=validation_steps)
        verbose = check_verbose(verbose)
        callbacks = self._callback_list(callbacks, verbose, epochs, training.steps, history=True)
        try:
            self._fit(training, validation, callbacks, initial_epoch, epochs, validation_freq)
        finally:
            callbacks.close()
        return callbacks.history or self.history

    def _fit(self, training, validation, callbacks, initial_epoch, epochs, validation_freq):
        """The loop over epochs."""
        make_batch = self._batch_maker()
        self.stop_training = False
        callbacks.on_train_begin()
        logs: dict[str, float] = {}
        for epoch in range(initial_epoch, epochs):
            self.reset_metrics()
            callbacks.on_epoch_begin(epoch)
            logs = {}
            for step, raw in enumerate(training.epoch(epoch)):
                callbacks.on_train_batch_begin(step)
                failure = self._train_batch(make_batch(*raw))
                logs = self._logs()
                callbacks.on_train_batch_end(step, logs)
                if failure is not None and not self.stop_training:
                    raise NonFiniteLossError(f"epoch {epoch + 1}, step {step + 1}: {failure}")
                if self.stop_training:
                    break
            if not logs:
                warnings.warn("the data ran out: training stops", stacklevel=3)
                break
            if validation is not None and is_validated(epoch, validation_freq):
                values = self._evaluate(validation, callbacks)
                logs.update({f"val_{name}": value for name, value in values.items()})
            callbacks.on_epoch_end(epoch, logs)
            if self.stop_training:
                break
        callbacks.on_train_end(logs)

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
            logs = self._evaluate(data, callbacks)
        finally:
            callbacks.close()
        return self._returned(logs, return_dict)

    def _evaluate(self, data: Batches, callbacks: CallbackList) -> dict[str, float]:
        make_batch = self._batch_maker()
        self.stop_evaluating = False
        callbacks.on_test_begin()
        self.reset_metrics()
        # Without training epochs every evaluation is of epoch 0: the same batches.
        for step, raw in enumerate(data.epoch(0)):
            callbacks.on_test_batch_begin(step)
            self._evaluate_batch(make_batch(*raw))
            callbacks.on_test_batch_end(step, self._logs())
            if self.stop_evaluating:
                break
        logs = self._logs()
        callbacks.on_test_end(logs)
        return logs

    def train_on_batch(
        self,
        x: Any,
        y: Any = None,
        sample_weight: Any = None,
        class_weight: Any = None,
        return_dict: bool = False,
    ) -> Any:
        """One training step.

        Args:
            x, y, sample_weight: as for `fit`; all examples are one batch.
            class_weight: must be None.
            return_dict: bool. Return names with the values. Defaults to False.

        Returns:
            list of float, `[loss, accuracy]` of the batch before the step; or dict of str to float.

        Raises:
            NonFiniteLossError: the loss or its gradient is NaN or infinite; nothing was changed.
        """
        self._check_compiled("train_on_batch")
        self._core.check_trainable()
        check_flag("return_dict", return_dict)
        check_no_class_weight(class_weight)
        self.reset_metrics()
        failure = self._train_batch(self._batch_maker()(*unpack_batch((x, y, sample_weight))))
        if failure is not None:
            raise NonFiniteLossError(failure)
        return self._returned(self._logs(), return_dict)

    def test_on_batch(
        self, x: Any, y: Any = None, sample_weight: Any = None, return_dict: bool = False
    ) -> Any:
        """Loss and metrics of one batch; see `evaluate`."""
        self._check_compiled("test_on_batch")
        check_flag("return_dict", return_dict)
        self.reset_metrics()
        self._evaluate_batch(self._batch_maker()(*unpack_batch((x, y, sample_weight))))
        return self._returned(self._logs(), return_dict)

    def get_weights(self) -> list[np.ndarray]:
        """All weights, copied as float32, in the order of the model's parameters."""
        return [part.get_parameter(name) for part, name in self._trained()]

    def set_weights(self, weights: Iterable[np.ndarray]) -> None:
        """Replaces all weights by what `get_weights` returned, in the precision of the model.

        Raises:
            ValueError: too few, too many or misshapen arrays.
        """
        parameters = self._trained()
        if not isinstance(weights, Iterable):
            raise argument_error("weights", f"must be a list of {len(parameters)} arrays", weights)
        weights = list(weights)
        if len(weights) != len(parameters):
            raise argument_error(
                "weights", f"must be a list of {len(parameters)} arrays", f"{len(weights)} arrays"
            )
        pairs = list(zip(parameters, weights, strict=True))
        for part in dict.fromkeys(part for part, _ in parameters):
            part.set_parameters({name: each for (owner, name), each in pairs if owner is part})

    def _train_batch(self, batch: Batch) -> str | None:
        """One step. Returns why it was not made, if the numbers were not finite."""
        optimizer = self.optimizer
        if not optimizer.serves(self._core):
            optimizer.build([name for _, name in self._trained()], owner=self._core)
        learning_rate = optimizer.learning_rate
        if not math.isfinite(learning_rate):
            raise argument_error("learning_rate", "must be finite", learning_rate)
        result = self._train_step(
            batch,
            learning_rate=learning_rate,
            seed=step_seed(self._training_seed(), optimizer._batches),
            normalizer=self.loss.normalizer(batch.positions, batch.weight_sum),
        )
        self._record(batch, result)
        if result["applied"]:
            return None
        return (
            f"the loss is {result['loss']}, the norm of its gradient {result['gradient_norm']}. "
            "The weights are those before this step.\n"
            "hint: lower the learning rate, or clip gradients with `global_clipnorm=1.0`"
        )

    def _evaluate_batch(self, batch: Batch) -> None:
        normalizer = self.loss.normalizer(batch.positions, batch.weight_sum)
        self._record(batch, self._evaluate_step(batch, normalizer=normalizer))

    # What models of another kind do in another way.

    def _train_step(self, batch: Batch, **settings: Any) -> dict[str, Any]:
        return self._core.train_step(self.optimizer._core, *batch.arrays(), **settings)

    def _evaluate_step(self, batch: Batch, normalizer: float) -> dict[str, Any]:
        return self._core.evaluate_step(*batch.arrays(), normalizer=normalizer)

    def _open_data(self, x: Any, y: Any = None, sample_weight: Any = None, name: str = "x") -> Any:
        return open_data(x, y, sample_weight, name)

    def _trained(self) -> list[tuple[Any, str]]:
        """The object that holds each parameter, and its name."""
        return [(self._core, name) for name, _ in self._core.parameters()]

    def _record(self, batch: Batch, result: dict[str, Any]) -> None:
        """Adds a step to the metrics: the loss weighs by examples, as in Keras, and metrics by
        sample weights, averaged over the width of the batch."""
        self._loss_tracker.add(result["loss"] * batch.rows, batch.rows)
        width = batch.padded_width
        for metric in self._weighted_metrics:
            metric.add(result["correct_weight_sum"] / width, result["weight_sum"] / width)

    def _logs(self) -> dict[str, float]:
        return {metric.name: metric.result() for metric in self.metrics}

    @staticmethod
    def _returned(logs: dict[str, float], return_dict: bool) -> Any:
        if return_dict:
            return logs
        values = list(logs.values())
        return values[0] if len(values) == 1 else values

    @property
    def _core(self) -> Any:
        """The `_core.Model` whose weights are trained."""
        return self.backbone._model

    def _batch_maker(self) -> BatchMaker:
        backbone = self.backbone
        return BatchMaker(self.preprocessor, backbone.max_sequence_length, backbone.vocabulary_size)

    def _training_seed(self) -> int:
        """What shuffling and dropout depend on; one for the life of the model."""
        if self._seed is None:
            self._seed = draw_seed()
        return self._seed

    def _check_compiled(self, method: str) -> None:
        if not self.compiled:
            raise ValueError(f"`{method}()` needs a compiled model\nhint: call `compile()` first")

    def _callback_list(self, callbacks, verbose, epochs, steps, history=False) -> CallbackList:
        if isinstance(callbacks, CallbackList):
            return callbacks
        return CallbackList(
            callbacks,
            add_history=history,
            add_progbar=verbose != 0,
            model=self,
            verbose=verbose,
            epochs=epochs,
            steps=steps,
        )


def step_seed(seed: int, step: int) -> int:
    """The seed of one step's dropout: the numbers of splitmix64 (Steele et al., 2014)."""
    mixed = (seed + (step + 1) * 0x9E3779B97F4A7C15) % 2**64
    mixed = (mixed ^ (mixed >> 30)) * 0xBF58476D1CE4E5B9 % 2**64
    mixed = (mixed ^ (mixed >> 27)) * 0x94D049BB133111EB % 2**64
    return mixed ^ (mixed >> 31)


def check_verbose(verbose: Any) -> int:
    """0, 1 or 2; `"auto"` is 1."""
    if isinstance(verbose, str) and verbose == "auto":
        return 1
    if verbose not in (0, 1, 2):
        raise argument_error("verbose", "must be 'auto', 0, 1 or 2", verbose)
    return int(verbose)


def check_no_class_weight(class_weight: Any) -> None:
    """Refuses class weights, which have no meaning for sequences of ids."""
    if class_weight is not None:
        raise argument_error(
            "class_weight",
            "must be None",
            type(class_weight).__name__,
            "weigh positions with `sample_weight`",
        )


def split_validation(
    data: Any, split: float, validation_data: Any, open_: Callable[..., Any]
) -> tuple[Any, Any]:
    """Training data, and validation data or None; `open_` opens the latter."""
    if validation_data is not None:
        if is_packed(validation_data):
            x, y, sample_weight = unpack_batch(validation_data)
            return data, open_(x, y, sample_weight, "validation_data")
        return data, open_(validation_data, name="validation_data")
    share = check_finite_float("validation_split", split)
    if share == 0:
        return data, None
    if not isinstance(data, Examples) or not 0 < share < 1:
        raise argument_error(
            "validation_split",
            "must be at least 0 and below 1, and 0 when `x` is an iterable of batches",
            split,
        )
    return data.split(share)


def check_validation_freq(frequency: Any) -> None:
    """A whole number, or a collection of epochs."""
    rule = "must be a whole number of at least 1, or a list of epochs, from 1"
    epochs = frequency if isinstance(frequency, Collection) else [frequency]
    if isinstance(frequency, str | bytes | Mapping):
        raise argument_error("validation_freq", rule, frequency)
    for epoch in epochs:
        if isinstance(epoch, bool) or not isinstance(epoch, numbers.Integral) or epoch < 1:
            raise argument_error("validation_freq", rule, frequency)


def is_validated(epoch: int, frequency: Any) -> bool:
    """Whether an epoch (counted from 0) is followed by a validation."""
    if isinstance(frequency, numbers.Integral):
        return (epoch + 1) % frequency == 0
    return epoch + 1 in frequency
