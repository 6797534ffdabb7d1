"""Losses and metrics by hand, and by their names."""

import doctest
import json

import numpy as np
import pytest

from bart_fast import losses, metrics
from bart_fast.losses import sparse_categorical_crossentropy
from bart_fast.metrics import mean, sparse_categorical_accuracy
from bart_fast.optimizers.schedules import cosine_decay

Y = np.array([[0, 1], [1, 1]])
PROBABILITIES = np.array([[[0.5, 0.5], [0.2, 0.8]], [[0.6, 0.4], [0.9, 0.1]]], np.float32)
LOGITS = np.log(PROBABILITIES) + 3  # A constant added to logits changes nothing.
WEIGHT = np.array([[1.0, 0.5], [2.0, 0.0]])
NLL = -np.log([[0.5, 0.8], [0.4, 0.1]])


@pytest.mark.parametrize(
    ("reduction", "divisor"),
    [("sum_over_batch_size", 4), ("mean", 4), ("sum", 1), ("mean_with_sample_weight", 3.5)],
)
def test_crossentropy_by_hand(reduction, divisor):
    for from_logits, predictions in ((True, LOGITS), (False, PROBABILITIES)):
        loss = losses.SparseCategoricalCrossentropy(from_logits, reduction=reduction)
        assert loss(Y, predictions, WEIGHT) == pytest.approx((NLL * WEIGHT).sum() / divisor)
    plain = losses.SparseCategoricalCrossentropy(from_logits=True)
    assert plain(Y, LOGITS) == pytest.approx(NLL.mean())
    assert plain(Y, LOGITS, [1, 0]) == pytest.approx(NLL[0].sum() / 4)


def test_accuracy_by_hand():
    accuracy = metrics.SparseCategoricalAccuracy()
    assert accuracy.result() == 0.0
    accuracy.update_state(Y, LOGITS, WEIGHT)  # Right: the first (of equals) and the second.
    assert accuracy.result() == pytest.approx(1.5 / 3.5)
    accuracy.update_state(Y[:1], LOGITS[:1])
    # As in Keras a batch counts by its weights over its width: (1.5 + 2) / 2 of (3.5 + 2) / 2.
    assert accuracy.result() == pytest.approx(3.5 / 5.5)
    accuracy.reset_state()
    assert accuracy.result() == 0.0


def test_mean_averages_inside_examples_first():
    mean_of = metrics.Mean()
    mean_of.update_state([[1.0, 3.0], [5.0, 7.0]])
    mean_of.update_state(10.0, sample_weight=2)
    assert mean_of.result() == pytest.approx((2 + 6 + 20) / 4)


@pytest.mark.parametrize(
    ("module", "instance"),
    [
        (losses, losses.SparseCategoricalCrossentropy(from_logits=True, reduction="sum")),
        (metrics, metrics.SparseCategoricalAccuracy(name="words")),
        (metrics, metrics.Mean(name="length")),
    ],
)
def test_serialise_and_rebuild(module, instance):
    config = json.loads(json.dumps(module.serialize(instance)))
    again = module.deserialize(config)
    assert type(again) is type(instance)
    assert again.get_config() == instance.get_config()
    assert type(module.get(type(instance).__name__)) is type(instance)
    assert module.get(instance) is instance


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: losses.get("mse"), "`loss`: unknown name 'mse'"),
        (lambda: losses.get(None), r"`bart_fast\.losses\.Loss`; received: None"),
        (lambda: metrics.get("bleu"), "`metric`: unknown name 'bleu'"),
        (lambda: losses.deserialize({"config": {}}), "must be a dict with `class_name`"),
        (
            lambda: losses.SparseCategoricalCrossentropy(ignore_class=0),
            "hint: give those positions a sample weight of zero",
        ),
        (lambda: losses.SparseCategoricalCrossentropy(axis=1), "`axis` must be -1"),
        (lambda: losses.SparseCategoricalCrossentropy(reduction="max"), "`reduction` must be one"),
        (lambda: metrics.Mean(dtype="int8"), "`dtype` must be None or 'float32'"),
    ],
)
def test_bad_arguments_are_named(make, message):
    with pytest.raises(ValueError, match=message):
        make()


@pytest.mark.parametrize(
    "module",
    [sparse_categorical_crossentropy, sparse_categorical_accuracy, mean, cosine_decay],
)
def test_examples_of_docstrings(module):
    results = doctest.testmod(module)
    assert results.attempted > 0
    assert results.failed == 0
