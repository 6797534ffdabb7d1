"""BART for sequence classification."""

from collections.abc import Callable, Mapping, Sequence
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
from bart_fast.models.bart_backbone import BartBackbone
from bart_fast.models.classification_head import ClassificationHead
from bart_fast.models.text_classifier import TextClassifier
from bart_fast.models.zero_shot import softmax

_ACTIVATIONS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "linear": lambda x: x,
    "softmax": softmax,
    "sigmoid": lambda x: 1 / (1 + np.exp(-x)),
    "tanh": np.tanh,
    "relu": lambda x: np.maximum(x, 0),
}
PROBLEM_TYPES = ("regression", "single_label_classification", "multi_label_classification")


class BartTextClassifier(TextClassifier):
    """BART with a classification head: says which class a text, or a pair of texts, belongs to.

    Encoder and decoder both read the text; the decoder's state at the last `</s>` goes through a
    dense layer with tanh and one more to the scores. The numbers are those of Hugging Face's
    `BartForSequenceClassification`; names and arguments are those of keras-hub's classifiers, which
    have none for BART. A new classifier has a random head; `from_preset()` of a directory with one,
    such as bart-large-mnli, gives a trained one. `fit()` trains on texts with a label each.

    Rows may differ in their numbers of `</s>`, which transformers refuses within a batch: each is
    classified by its last.

    Args:
        backbone: a `BartBackbone`.
        num_classes: int. Classes to tell apart.
        preprocessor: a `BartTextClassifierPreprocessor`, or `None` for token arrays. Defaults to
            `None`.
        activation: applied to the logits: `"softmax"`, `"sigmoid"`, `"tanh"`, `"relu"`, a function
            of arrays [batch, num_classes], or `None` for logits. Defaults to `None`.
        hidden_dim: int. Inner width of the head. Defaults to the backbone's.
        dropout: float from 0 to below 1, the head's. Defaults to 0.0.
        compile: bool. Whether to compile with default arguments. Defaults to `True`.
        name: str. Defaults to `"bart_text_classifier"`.
        id2label: a list of `num_classes` names, or a dict from class to name. Defaults to
            `"LABEL_0"` and so on.
        label2id: dict from name to class, as in Hugging Face's configurations; what
            `classify_zero_shot()` finds "entailment" by. Defaults to the reverse of `id2label`.
        problem_type: `"regression"`, `"single_label_classification"`,
            `"multi_label_classification"` or `None`: what `classify()` makes of logits.

    Call arguments:
        x: texts or token arrays, see `predict()`. Returns float32 [batch, num_classes].

    Examples:

    ```python
    backbone = bart_fast.models.BartBackbone(
        vocabulary_size=30,
        num_layers=2,
        num_heads=2,
        hidden_dim=16,
        intermediate_dim=24,
        max_sequence_length=24,
    )
    classifier = bart_fast.models.BartTextClassifier(backbone, num_classes=4)
    ids, mask = np.array([[0, 8, 9, 2, 1]]), np.array([[1, 1, 1, 1, 0]])
    logits = classifier.predict({"token_ids": ids, "padding_mask": mask})
    assert logits.shape == (1, 4)
    ```

    Train on texts and their labels:

    ```python
    classifier = bart_fast.models.BartTextClassifier.from_preset("bart_tidy_en", num_classes=2)
    classifier.fit(["i has two apple", "I have two apples."], np.array([0, 1]), epochs=2)
    classifier.predict(["i have apple"])
    ```

    Reference:
        Lewis et al., 2019, "BART: Denoising Sequence-to-Sequence Pre-training for Natural Language
        Generation, Translation, and Comprehension", section 3.1.
    """

    def __init__(
        self,
        backbone: BartBackbone,
        num_classes: int,
        preprocessor: Any = None,
        activation: Any = None,
        hidden_dim: int | None = None,
        dropout: float = 0.0,
        *,
        compile: bool = True,
        name: str = "bart_text_classifier",
        id2label: Sequence[str] | Mapping[Any, str] | None = None,
        label2id: Mapping[str, int] | None = None,
        problem_type: str | None = None,
        _zeros: bool = False,
    ):
        super().__init__(backbone, preprocessor, compile=False, name=name)
        self.num_classes = check_positive_int("num_classes", num_classes)
        family = backbone._core_config.get("model_type", "bart")
        if family != "bart":
            raise argument_error(
                "backbone",
                "must be a BART: classifiers of other families read texts in another "
                "way, which is not implemented",
                f"model_type {family}",
            )
        self.activation = _check_activation(activation)
        self.hidden_dim = check_positive_int("hidden_dim", hidden_dim or backbone.hidden_dim)
        self.dropout = check_finite_float("dropout", dropout)
        if not 0.0 <= self.dropout < 1.0:
            raise argument_error("dropout", "must be from 0 to below 1", dropout)
        self.id2label = _check_labels(id2label, self.num_classes)
        self.label2id = _check_ids(label2id, self.id2label)
        if problem_type not in (None, *PROBLEM_TYPES):
            names = ", ".join(map(repr, PROBLEM_TYPES))
            raise argument_error("problem_type", f"must be `None` or one of {names}", problem_type)
        self.problem_type = problem_type
        deviation = backbone._core_config.get("init_std", 0.02)
        sizes = (backbone.hidden_dim, self.hidden_dim, self.num_classes)
        # Weights that are about to be loaded need not be drawn.
        seed = None if _zeros else draw_seed()
        self._head = ClassificationHead(*sizes, self.dropout, deviation, seed)
        if check_flag("compile", compile):
            self.compile()

    def _activated(self, logits: np.ndarray) -> np.ndarray:
        if self.activation is None:
            return logits
        function = _ACTIVATIONS.get(self.activation, self.activation)
        return np.asarray(function(logits), dtype=np.float32)

    def count_params(self) -> int:
        """The number of weights, those of the head among them."""
        return self.backbone.count_params() + self._head.count_params()

    def get_config(self) -> dict[str, Any]:
        """The constructor's arguments as plain values; weights and vocabulary are not in it."""
        return {
            **super().get_config(),
            "num_classes": self.num_classes,
            "activation": self.activation,
            "hidden_dim": self.hidden_dim,
            "dropout": self.dropout,
            "id2label": list(self.id2label.values()),
            "label2id": dict(self.label2id),
            "problem_type": self.problem_type,
        }


def _check_activation(activation: Any) -> Any:
    """`None`, a name, or a function."""
    name = activation
    if isinstance(activation, Mapping):
        # As Keras serialises it.
        name = activation.get("config", activation.get("class_name"))
    if name is None or name == "linear":
        return None
    if callable(name) or (isinstance(name, str) and name in _ACTIVATIONS):
        return name
    names = ", ".join(map(repr, _ACTIVATIONS))
    raise argument_error("activation", f"must be `None`, a function, or one of {names}", activation)


def _check_labels(labels: Any, count: int) -> dict[int, str]:
    """Class -> name."""
    rule = f"must give each of the {count} classes a name"
    if labels is None:
        return {i: f"LABEL_{i}" for i in range(count)}
    if isinstance(labels, Mapping):
        try:
            labels = {check_int("id2label", int(key), 0): name for key, name in labels.items()}
        except (TypeError, ValueError):
            raise argument_error("id2label", rule, labels) from None
        labels = [labels.get(i) for i in range(max(labels, default=-1) + 1)]
    if isinstance(labels, str) or not isinstance(labels, Sequence):
        raise argument_error("id2label", rule, labels)
    if len(labels) != count or not all(isinstance(name, str) for name in labels):
        raise argument_error("id2label", rule, labels)
    return dict(enumerate(labels))


def _check_ids(ids: Any, labels: dict[int, str]) -> dict[str, int]:
    """Name -> class."""
    if ids is None:
        return {name: number for number, name in labels.items()}
    rule = f"must be a dict from name to one of the {len(labels)} classes"
    fine = isinstance(ids, Mapping) and all(
        isinstance(name, str) and isinstance(i, int) and not isinstance(i, bool) and i in labels
        for name, i in ids.items()
    )
    if not fine:
        raise argument_error("label2id", rule, ids)
    return dict(ids)
