"""`compile`, `fit`, `evaluate` of text classifiers: a label for each text."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from bart_fast import losses, optimizers
from bart_fast._validation import argument_error
from bart_fast.metrics import Mean
from bart_fast.models.bart_text_classifier_preprocessor import text_segments
from bart_fast.training import compiled
from bart_fast.training.data import open_data
from bart_fast.training.fit import TrainingMixin

# The columns that texts become, so that they can be shuffled.
_FIRST, _SECOND = "text", "text_pair"
_AUTO_LEARNING_RATE = 5e-5


@dataclass(frozen=True)
class LabelledBatch:
    """A batch of a step.

    Attributes:
        rows_read: what encoder and decoder read of each text.
        labels: their classes.
        weights: what they count in the loss.
    """

    rows_read: Any
    labels: list[int]
    weights: list[float]
    padded_width: int = 1

    @property
    def rows(self) -> int:
        """Texts of the batch."""
        return len(self.labels)

    @property
    def positions(self) -> int:
        """The same, as the loss counts."""
        return self.rows

    @property
    def weight_sum(self) -> float:
        """Sum of the weights."""
        return float(sum(self.weights))

    def arguments(self) -> tuple:
        """What a step takes, in its order."""
        return (*self.rows_read.arguments(), self.labels, self.weights)


class LabelledTrainingMixin(TrainingMixin):
    """Training and evaluation of a classifier. All weights are trained, the head's among them."""

    # How many of the metrics, from the first, do not weigh.
    _unweighted = 0

    def compile(
        self,
        optimizer: Any = "auto",
        loss: Any = "auto",
        *,
        metrics: Any = "auto",
        weighted_metrics: Any = None,
        **kwargs: Any,
    ) -> None:
        """Says how the model is trained.

        Args:
            optimizer: an `Optimizer`, or a name, which means Keras' defaults. `"auto"` (default) is
                `Adam(5e-5)`, as in keras-hub.
            loss: `"auto"` (default) or a `SparseCategoricalCrossentropy`; with `from_logits=True`
                unless `activation` is `"softmax"`.
            metrics: list of `SparseCategoricalAccuracy` or of names, or `None`. `"auto"` (default)
                is one `SparseCategoricalAccuracy`.
            weighted_metrics: the same, counted with sample weights. Defaults to `None`.
            **kwargs: `run_eagerly`, `jit_compile` and `steps_per_execution` change nothing.

        Raises:
            TypeError: another keyword argument.
            ValueError: a value that is not supported.
        """
        compiled.check_ignored(kwargs)
        if isinstance(optimizer, str) and optimizer == "auto":
            optimizer = optimizers.Adam(_AUTO_LEARNING_RATE)
        unweighted = compiled.resolve_weighted_metrics(metrics)
        every = [*unweighted, *compiled.resolve_weighted_metrics(weighted_metrics)]
        resolved = (
            compiled.resolve_optimizer(optimizer),
            self._resolve_loss(loss),
            compiled.resolve_weighted_metrics(every),
        )
        self.optimizer, self.loss, self._weighted_metrics = resolved
        self._unweighted = len(unweighted)
        self._loss_tracker = Mean("loss")

    def _resolve_loss(self, loss: Any) -> losses.SparseCategoricalCrossentropy:
        """Cross entropy, told whether the model's outputs are logits."""
        from_logits = self.activation != "softmax"
        if isinstance(loss, str) and loss == "auto":
            return losses.SparseCategoricalCrossentropy(from_logits=from_logits)
        loss = losses.get(loss)
        if type(loss) is not losses.SparseCategoricalCrossentropy:
            raise argument_error(
                "loss", "must be a `SparseCategoricalCrossentropy`", type(loss).__name__
            )
        if loss.from_logits != from_logits:
            outputs = "logits" if from_logits else "probabilities"
            raise argument_error(
                "loss",
                f"must have from_logits={from_logits}, since the model gives {outputs}",
                f"from_logits={loss.from_logits}",
                'loss="auto" fits',
            )
        return loss

    def _check_compiled(self, method: str) -> None:
        super()._check_compiled(method)
        if self.activation not in (None, "softmax"):
            raise argument_error(
                "activation", 'must be `None` or "softmax" for training', self.activation
            )
        if self.num_classes < 2:
            raise argument_error("num_classes", "must be 2 or more for training", self.num_classes)
        if self.problem_type not in (None, "single_label_classification"):
            raise argument_error(
                "problem_type",
                'must be `None` or "single_label_classification" for training: a text has one '
                "label",
                self.problem_type,
            )

    # What differs from language models.

    def _open_data(self, x: Any, y: Any = None, sample_weight: Any = None, name: str = "x") -> Any:
        if y is not None and not isinstance(x, Mapping):
            x = _columns(x)
        return open_data(x, y, sample_weight, name)

    def _batch_maker(self) -> Any:
        return self._labelled_batch

    def _labelled_batch(self, x: Any, y: Any = None, sample_weight: Any = None) -> LabelledBatch:
        if isinstance(x, Mapping) and _FIRST in x:
            x = tuple(list(x[name]) for name in (_FIRST, _SECOND) if name in x)
        rows = self._rows(x)
        count = len(rows)
        return LabelledBatch(
            rows, _check_labels(y, count, self.num_classes), _check_weights(sample_weight, count)
        )

    def _train_step(self, batch: LabelledBatch, **settings: Any) -> dict[str, Any]:
        optimizer = self.optimizer._core
        return self._core_head.train_step(self._core, optimizer, *batch.arguments(), **settings)

    def _evaluate_step(self, batch: LabelledBatch, normalizer: float) -> dict[str, Any]:
        return self._core_head.evaluate_step(self._core, *batch.arguments(), normalizer=normalizer)

    def _trained(self) -> list[tuple[Any, str]]:
        head = self._core_head
        return super()._trained() + [(head, name) for name, _ in head.parameters()]

    def _record(self, batch: LabelledBatch, result: dict[str, Any]) -> None:
        self._loss_tracker.add(result["loss"] * batch.rows, batch.rows)
        for index, metric in enumerate(self._weighted_metrics):
            if index < self._unweighted:
                metric.add(result["correct"], batch.rows)
            else:
                metric.add(result["correct_weight_sum"], result["weight_sum"])


def _columns(x: Any) -> dict[str, list[str]]:
    segments, batched = text_segments("x", x)
    if not batched:
        raise argument_error("x", "must hold lists of texts", "one text", "put it into a list")
    return dict(zip((_FIRST, _SECOND), segments, strict=False))


def _check_labels(y: Any, count: int, classes: int) -> list[int]:
    rule = f"must be {count} labels from 0 to {classes - 1}, one for each text"
    if y is None:
        raise argument_error("y", rule, None)
    try:
        labels = np.asarray(y)
    except ValueError:
        raise argument_error("y", rule, "ragged rows") from None
    if labels.ndim == 2 and labels.shape[1] == 1:
        labels = labels[:, 0]
    if labels.ndim == 0 and count == 1:
        labels = labels[None]
    if labels.shape != (count,) or labels.dtype.kind not in "biu":
        raise argument_error("y", rule, f"dtype {labels.dtype}, shape {labels.shape}")
    if count and not (labels.min() >= 0 and labels.max() < classes):
        raise argument_error("y", rule, f"from {labels.min()} to {labels.max()}")
    return labels.astype(int).tolist()


def _check_weights(value: Any, count: int) -> list[float]:
    if value is None:
        return [1.0] * count
    weights = np.asarray(value)
    if weights.ndim == 2 and weights.shape[1] == 1:
        weights = weights[:, 0]
    if weights.shape != (count,) or weights.dtype.kind not in "biuf":
        raise argument_error(
            "sample_weight",
            f"must be {count} numbers, one for each text",
            f"dtype {weights.dtype}, shape {weights.shape}",
        )
    return weights.astype(np.float32).tolist()
