"""What presets say about a sequence classifier, in either format: its head's sizes and its labels.

In our words a classifier is a dict of `num_classes`, `hidden_dim`, `dropout`, `activation`,
`id2label` (a list), `label2id`, `problem_type`, and how its texts are packed: `sequence_length` and
`truncate`.
"""

from __future__ import annotations

from pathlib import Path

from .keras_names import Group, Variable

CLASS_NAME = "BartTextClassifier"
PREPROCESSOR_CLASS_NAME = "BartTextClassifierPreprocessor"
WEIGHTS_FILE = "task.weights.h5"
# Hugging Face's own default, where `config.json` says neither labels nor their number.
_DEFAULT_CLASSES = 3
# What Hugging Face has no field for, kept in an entry of our own where it is not the default.
OWN_DEFAULTS = {"activation": None, "truncate": "longest_first"}
_LABELS = ("id2label", "label2id", "problem_type")
# Keras saves these in the config of its classifiers.
_KERAS_FIELDS = ("num_classes", "activation", "hidden_dim", "dropout")


def from_transformers(fields: dict, path: Path) -> dict:
    """The classifier that a `config.json` describes; every one describes one, wanted or not.

    Raises:
        ValueError: labels are no labels, or their number is not one.
    """
    labels = fields.get("id2label")
    if labels is not None:
        labels = _label_list(labels, path)
    # As in transformers, labels beat their number.
    count = fields.get("num_labels", fields.get("_num_labels", _DEFAULT_CLASSES))
    if labels is not None:
        count = len(labels)
    names = ("classifier_dropout", "classif_dropout")
    dropout = next((fields[name] for name in names if fields.get(name) is not None), 0.0)
    return _checked(
        {
            "num_classes": count,
            "hidden_dim": None,
            "dropout": dropout,
            "activation": None,
            "id2label": labels,
            "label2id": fields.get("label2id"),
            "problem_type": fields.get("problem_type"),
        },
        path,
    )


def to_transformers(classifier: dict) -> dict:
    """The fields of `config.json`."""
    labels = dict(enumerate(classifier["id2label"]))
    return {
        "architectures": ["BartForSequenceClassification"],
        "id2label": {str(number): label for number, label in labels.items()},
        "label2id": classifier["label2id"],
        "num_labels": classifier["num_classes"],
        "classifier_dropout": classifier["dropout"],
        "problem_type": classifier["problem_type"],
    }


def from_keras(saved: dict, own: dict, path: Path) -> dict:
    """The classifier of a `task.json`; `own` is our entry in it."""
    config = saved["config"]
    labels = own.get("id2label")
    return _checked(
        {
            "num_classes": config.get("num_classes"),
            "hidden_dim": config.get("hidden_dim"),
            "dropout": config.get("dropout", 0.0),
            "activation": config.get("activation"),
            "id2label": None if labels is None else _label_list(labels, path),
            "label2id": own.get("label2id"),
            "problem_type": own.get("problem_type"),
        },
        path,
    )


def to_keras(classifier: dict) -> tuple[dict, dict]:
    """What goes into the config of `task.json`, and into our entry of it."""
    config = {name: classifier[name] for name in _KERAS_FIELDS}
    # Keras' own name of no activation.
    config["activation"] = config["activation"] or "linear"
    return config, {name: classifier[name] for name in _LABELS}


def head_groups(width: int, hidden_dim: int, classes: int, folder: str = "") -> list[Group]:
    """The layers of the head in Keras' file of a task's own weights, with the names that
    keras-hub's RoBERTa classifier gives them."""
    head = "classification_head"

    def dense(path: str, name: str, ours: str, inputs: int, outputs: int) -> Group:
        variables = (
            Variable(f"{head}.{ours}.weight", (inputs, outputs), kernel=True, kind="float32"),
            Variable(f"{head}.{ours}.bias", (outputs,), kind="float32"),
        )
        return Group(f"{folder}layers/{path}", name, variables)

    return [
        dense("dense", "pooled_dense", "dense", width, hidden_dim),
        dense("dense_1", "logits", "out_proj", hidden_dim, classes),
    ]


def groups_of(core_head) -> list[Group]:
    """The same for a head that exists."""
    shapes = dict(core_head.parameters())
    hidden_dim, width = shapes["classification_head.dense.weight"]
    return head_groups(width, hidden_dim, shapes["classification_head.out_proj.bias"][0])


def _label_list(labels, path: Path) -> list[str]:
    """Names by class, from a list or from a JSON object whose keys are numbers."""
    names = labels
    if isinstance(labels, dict):
        names = [labels.get(str(i)) for i in range(len(labels))]
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise ValueError(
            f"`{path}`: `id2label` must name every class from 0 on. Received: {labels!r}."
        )
    return names


def _checked(classifier: dict, path: Path) -> dict:
    count, hidden_dim = classifier["num_classes"], classifier["hidden_dim"]
    for name, value in (("num_classes", count), ("hidden_dim", hidden_dim)):
        wanted = value is not None or name == "num_classes"
        if wanted and (type(value) is not int or not 1 <= value <= 1 << 24):
            raise ValueError(f"`{path}`: `{name}` must be a positive integer. Received: {value!r}.")
    if classifier["id2label"] is not None and len(classifier["id2label"]) != count:
        raise ValueError(
            f"`{path}`: `id2label` must name each of the {count} classes. "
            f"Received: {classifier['id2label']!r}."
        )
    return classifier
