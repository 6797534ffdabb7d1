"""`compile`, `fit`, `evaluate` of text classifiers: a label for each text."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from bart_fast._validation import argument_error
from bart_fast.models.bart_text_classifier_preprocessor import text_segments
from bart_fast.training import compiled
from bart_fast.training.compiled_metrics import CompiledMetrics
from bart_fast.training.data import Examples, open_data
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

    @property
    def targets(self) -> np.ndarray:
        """The labels, int32 [rows]."""
        return np.array(self.labels, np.int32)

    @property
    def sample_weight(self) -> np.ndarray:
        """The weights, float32 [rows]."""
        return np.array(self.weights, np.float32)

    def weighted_by_class(self, class_weight: Mapping[int, float]) -> "LabelledBatch":
        """The same, where each text weighs by its label, too: 1 for labels not named."""
        pairs = zip(self.labels, self.weights, strict=True)
        weights = [class_weight.get(label, 1.0) * weight for label, weight in pairs]
        return replace(self, weights=weights)

    def arguments(self) -> tuple:
        """What a step takes, in its order."""
        return (*self.rows_read.arguments(), self.labels, self.weights)


class LabelledTrainingMixin(TrainingMixin):
    """Training and evaluation of a classifier. All weights are trained, the head's among them."""

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
            metrics: list of names (`"accuracy"`), of `Metric` objects, also of one's own, and of
                functions of labels and scores; or `None`. `"auto"` (default) is one
                `SparseCategoricalAccuracy`.
            weighted_metrics: the same, counted with sample weights. Defaults to `None`.
            **kwargs: `run_eagerly`, `jit_compile` and `steps_per_execution` change nothing.

        Raises:
            TypeError: another keyword argument.
            ValueError: a value that is not supported.
        """
        compiled.check_ignored(kwargs)
        from_logits = self.activation != "softmax"
        self._set_compiled(
            compiled.resolve_optimizer(optimizer, _AUTO_LEARNING_RATE),
            compiled.resolve_loss(loss, from_logits),
            CompiledMetrics(
                compiled.resolve_metrics("metrics", metrics, from_logits),
                compiled.resolve_metrics("weighted_metrics", weighted_metrics, from_logits),
                self._activated,
            ),
        )

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
        data = open_data(x, y, sample_weight, name)
        if isinstance(data, Examples) and y is not None:
            _check_labels(data.y, len(data), self.num_classes)
        return data

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

    def _step_settings(self, batch: LabelledBatch) -> dict[str, Any]:
        # All texts are computed anyway, whatever they weigh.
        settings = super()._step_settings(batch)
        settings.pop("every_position", None)
        return settings

    def _train_step(self, batch: LabelledBatch, **settings: Any) -> dict[str, Any]:
        optimizer = self.optimizer._core
        return self._core_head.train_step(self._core, optimizer, *batch.arguments(), **settings)

    def _evaluate_step(self, batch: LabelledBatch, **settings: Any) -> dict[str, Any]:
        return self._core_head.evaluate_step(self._core, *batch.arguments(), **settings)

    def _trained(self) -> list[tuple[Any, str]]:
        head = self._core_head
        return super()._trained() + [(head, name) for name, _ in head.parameters()]


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
