"""One step of training or evaluation, and what it adds to the metrics."""

import math
import warnings
from typing import Any

from bart_fast._lora import AdapterInUse
from bart_fast._random import draw_seed
from bart_fast._validation import DECODER_IDS, ENCODER_IDS, argument_error, caller_level
from bart_fast.callbacks import CallbackList
from bart_fast.metrics import Mean, Metric
from bart_fast.training.batch import Batch, BatchMaker
from bart_fast.training.compiled_metrics import CompiledMetrics
from bart_fast.training.data import DEFAULT_BATCH_SIZE, Examples, open_data


class StepsMixin:
    """Steps, for a model with a `backbone` and a `preprocessor` (or None)."""

    optimizer = None
    loss = None
    sampler = None
    history = None
    stop_training = False
    stop_evaluating = False
    stop_predicting = False
    _seed: int | None = None
    _loss_tracker = None
    _compiled_metrics = CompiledMetrics()

    @property
    def compiled(self) -> bool:
        """bool. Whether `compile` was called."""
        return self.optimizer is not None

    @property
    def metrics(self) -> list[Metric]:
        """The loss, as a metric, and the metrics of `compile`."""
        return [] if self._loss_tracker is None else [self._loss_tracker, *self._compiled_metrics]

    @property
    def metrics_names(self) -> list[str]:
        """Names of what `evaluate` returns, in its order."""
        return list(self._metrics_by_name)

    @property
    def _metrics_by_name(self) -> dict[str, Metric]:
        """Metrics by their names in logs."""
        if self._loss_tracker is None:
            return {}
        return {"loss": self._loss_tracker, **self._compiled_metrics.by_name}

    def reset_metrics(self) -> None:
        """Starts all metrics anew."""
        for metric in self.metrics:
            metric.reset_state()

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
            **self._step_settings(batch),
        )
        self._record(batch, result)
        if result["applied"]:
            return None
        return (
            f"the loss is {result['loss']}, the norm of its gradient {result['gradient_norm']}. "
            "The weights are those before this step.\n"
            "hint: lower the learning rate, or clip gradients with `global_clipnorm=1.0`"
        )

    def _put_averages(self, exchange: bool = False) -> None:
        """Puts the running means of the weights in their place, if the optimizer keeps them."""
        optimizer = self.optimizer
        if optimizer.use_ema and optimizer.serves(self._core):
            for part in dict.fromkeys(part for part, _ in self._trained()):
                if not isinstance(part, AdapterInUse):  # The model puts those of its own.
                    part.put_averages(optimizer._core, exchange)

    def _evaluate_batch(self, batch: Batch) -> None:
        self._record(batch, self._evaluate_step(batch, **self._step_settings(batch)))

    def _step_settings(self, batch: Batch) -> dict[str, Any]:
        """What the loss and the metrics want of a step, beside what every step does."""
        # A batch without any weight has a loss of zero, as in Keras.
        normalizer = self.loss.normalizer(batch.positions, batch.weight_sum) or 1.0
        settings = {"normalizer": normalizer, **self._compiled_metrics.wishes}
        if self.loss.label_smoothing:
            settings["label_smoothing"] = self.loss.label_smoothing
        return settings

    def _record(self, batch: Batch, result: dict[str, Any]) -> None:
        """Adds a step to the metrics: the loss weighs by examples, as in Keras."""
        self._loss_tracker.add(result["loss"] * batch.rows, batch.rows)
        self._compiled_metrics.add(batch, result)

    def _logs(self) -> dict[str, float]:
        """Loss and metrics so far, sorted by their names, as in Keras."""
        logs = {"loss": self._loss_tracker.result(), **self._compiled_metrics.results()}
        return dict(sorted(logs.items()))

    def _returned(self, logs: dict[str, float], return_dict: bool) -> Any:
        """The logs, or their values in the order of `metrics_names`."""
        if return_dict:
            return logs
        order = [*(name for name in self.metrics_names if name in logs), *logs]
        values = [logs[name] for name in dict.fromkeys(order)]
        return values[0] if len(values) == 1 else values

    # What models of another kind do in another way.

    def _train_step(self, batch: Batch, **settings: Any) -> dict[str, Any]:
        return self._core.train_step(self.optimizer._core, *batch.arrays(), **settings)

    def _evaluate_step(self, batch: Batch, **settings: Any) -> dict[str, Any]:
        return self._core.evaluate_step(*batch.arrays(), **settings)

    def _open_data(self, x: Any, y: Any = None, sample_weight: Any = None, name: str = "x") -> Any:
        data = open_data(x, y, sample_weight, name)
        if isinstance(data, Examples):
            data.check_texts()
            for ids in (ENCODER_IDS, DECODER_IDS):
                data.check_ids(ids, self.backbone.vocabulary_size)
            data.check_ids("y", self.backbone.vocabulary_size, data.sample_weight)
        return data

    def _check_first(self, batch_size: int | None, *sources: Any) -> None:
        """Makes the first batch of data in memory, so that what is wrong with all of it is found
        before anything is trained."""
        make_batch = self._batch_maker()
        with warnings.catch_warnings():
            # It is made again, and then they are shown.
            warnings.simplefilter("ignore")
            for data in sources:
                if isinstance(data, Examples):
                    make_batch(*data.take(slice(0, batch_size or DEFAULT_BATCH_SIZE)))

    def _trained(self) -> list[tuple[Any, str]]:
        """The object that holds each parameter, and its name: of the model, and of LoRA in use."""
        parts = (self._core, AdapterInUse(self._core))
        return [(part, name) for part in parts for name, _ in part.parameters()]

    def _batch_maker(self) -> Any:
        backbone = self.backbone
        return BatchMaker(
            self.preprocessor,
            backbone.max_sequence_length,
            backbone.vocabulary_size,
            whole=self._compiled_metrics.counts_padding,
        )

    @property
    def _core(self) -> Any:
        """The `_core.Model` whose weights are trained."""
        return self.backbone._model

    def _training_seed(self) -> int:
        """What shuffling and dropout depend on; one for the life of the model."""
        if self._seed is None:
            self._seed = draw_seed()
        return self._seed

    @property
    def _trains_something(self) -> bool:
        return bool(self._core.trainable())

    def _check_trainable(self) -> None:
        """Refuses weights that are too coarse to be trained, and warns where all are frozen."""
        self._core.check_trainable()
        if not self._trains_something:
            warnings.warn(
                "nothing is trained: all weights are frozen\n"
                "hint: set `model.backbone.trainable`, or call `enable_lora()`",
                stacklevel=caller_level(),
            )

    def _check_compiled(self, method: str) -> None:
        if not self.compiled:
            raise ValueError(f"`{method}()` needs a compiled model\nhint: call `compile()` first")

    def _set_compiled(self, optimizer: Any, loss: Any, metrics: CompiledMetrics) -> None:
        self.optimizer, self.loss, self._compiled_metrics = optimizer, loss, metrics
        self._loss_tracker = Mean("loss")

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
