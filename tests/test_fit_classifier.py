"""Training of `BartTextClassifier`: inputs, losses, metrics, and what is refused.

That steps are those of torch is in `golden/test_classifiers.py`.
"""

import copy
import pickle

import numpy as np
import pytest
from test_bart_text_classifier import classifier, preprocessor
from tiny_models import TEXTS, tiny_backbone

import bart_fast
from bart_fast import callbacks, losses, optimizers
from bart_fast.models import BartTextClassifier
from bart_fast.training.errors import NonFiniteLossError

LABELS = np.array([0, 2, 1, 1])
SECOND = ["a", "", "fox", "it"]


def trainable(rate=0.05, dropout=0.0, **arguments):
    model = classifier(tiny_backbone(dropout=dropout), **arguments)
    model.compile(optimizers.SGD(rate), metrics=["accuracy"])
    bart_fast.set_random_seed(3)
    return model


def weights(model):
    return np.concatenate([each.ravel() for each in model.get_weights()])


def test_evaluate_is_the_cross_entropy_of_predict():
    model = trainable()
    logits = model.predict(TEXTS).astype(np.float64)
    rows = np.log(np.exp(logits).sum(axis=1)) - logits[np.arange(4), LABELS]
    correct = logits.argmax(axis=1) == LABELS
    got = model.evaluate(TEXTS, LABELS, batch_size=3, verbose=0, return_dict=True)
    assert got == {
        "loss": pytest.approx(rows.mean(), abs=1e-6),
        "accuracy": pytest.approx(correct.mean()),
    }
    counts = np.array([1.0, 0.0, 2.0, 0.5])
    model.compile(metrics=["accuracy"], weighted_metrics=["acc"])
    got = model.test_on_batch(TEXTS, LABELS, counts, return_dict=True)
    assert got["loss"] == pytest.approx((rows * counts).mean(), abs=1e-6)
    assert got["accuracy"] == pytest.approx(correct.mean())
    assert got["acc"] == pytest.approx((correct * counts).sum() / counts.sum())
    softmax = classifier(model.backbone, activation="softmax")
    assert not softmax.loss.from_logits
    assert softmax.evaluate(TEXTS, LABELS, verbose=0)[0] == pytest.approx(rows.mean(), abs=1e-6)


def test_inputs_of_all_kinds_train_alike():
    arrays = preprocessor()(TEXTS)
    columns = {"x": TEXTS, "y": LABELS, "batch_size": 4}
    calls = [
        columns,
        {**columns, "x": np.array(TEXTS)},
        {**columns, "x": (TEXTS,)},
        {**columns, "x": arrays, "y": LABELS[:, None]},
        {**columns, "y": list(LABELS), "sample_weight": np.ones(4)},
        {"x": [(TEXTS, LABELS)]},
        {"x": iter([(arrays, LABELS, np.ones((4, 1)))])},
    ]
    results = []
    for call in calls:
        model = trainable()
        history = model.fit(**call, shuffle=False, verbose=0).history
        results.append((history, weights(model)))
    for history, values in results:
        assert history == results[0][0]
        np.testing.assert_array_equal(values, results[0][1])
    assert (results[0][1] != weights(trainable())).any()
    pairs = trainable(rate=0.01)
    losses_seen = pairs.fit((TEXTS, SECOND), LABELS, verbose=0, epochs=4).history["loss"]
    assert losses_seen[-1] < losses_seen[0]
    listed = trainable(rate=0.01)
    listed.fit(list(zip(TEXTS, SECOND, strict=True)), LABELS, verbose=0, epochs=4)
    np.testing.assert_array_equal(weights(listed), weights(pairs))


def test_runs_repeat_and_go_on():
    def run(epochs, model=None, **arguments):
        model = model or trainable(dropout=0.2)
        model.fit(TEXTS, LABELS, batch_size=2, epochs=epochs, verbose=0, **arguments)
        return model

    whole = run(4)
    np.testing.assert_array_equal(weights(whole), weights(run(4)))
    half = run(2)
    for copied in (copy.deepcopy(half), pickle.loads(pickle.dumps(half))):
        again = run(4, copied, initial_epoch=2)
        np.testing.assert_array_equal(weights(again), weights(whole))


def test_a_classifier_learns_and_keeps_it(tmp_path):
    texts, labels = ["aa", "ab", "ba", "bb"] * 4, np.array([0, 0, 1, 1] * 4)
    model = BartTextClassifier(tiny_backbone(dropout=0.0), 2, preprocessor())
    model.compile(optimizers.Adam(0.01))
    best = tmp_path / "best.weights.h5"
    history = model.fit(
        texts,
        labels,
        batch_size=4,
        epochs=20,
        validation_data=(texts, labels),
        callbacks=[callbacks.ModelCheckpoint(str(best), save_weights_only=True)],
        verbose=0,
    ).history
    assert history["val_sparse_categorical_accuracy"][-1] == 1.0
    assert [model.classify(text)["label"] for text in texts[:4]] == [
        f"LABEL_{label}" for label in labels[:4]
    ]
    model.save_to_preset(tmp_path / "preset")
    again = BartTextClassifier.from_preset(tmp_path / "preset")
    np.testing.assert_array_equal(again.predict(texts), model.predict(texts))
    other = BartTextClassifier(tiny_backbone(), 2, preprocessor())
    other.load_weights(best)
    np.testing.assert_array_equal(other.predict(texts), model.predict(texts))
    other.set_weights([each * 0 for each in model.get_weights()])
    assert not other.predict(texts).any()


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda m: m.fit(TEXTS), "`x` must be a dict of texts"),
        (lambda m: m.fit([(TEXTS,)]), "`y` must be 4 labels from 0 to 2"),
        (lambda m: m.fit(TEXTS, LABELS[:2]), "`x`, `y` and `sample_weight` must have one length"),
        (lambda m: m.fit(TEXTS, LABELS + 1), "`y` must be 4 labels from 0 to 2.*from 1 to 3"),
        (lambda m: m.fit(TEXTS, LABELS * 0.5), "`y` must be 4 labels"),
        (lambda m: m.fit(TEXTS, np.eye(4)), "`y` must be 4 labels"),
        (
            lambda m: m.fit(TEXTS, LABELS, sample_weight=np.ones((4, 2))),
            "`sample_weight` must be 4",
        ),
        (lambda m: m.fit(TEXTS, LABELS, class_weight=[1]), "`class_weight` must be a dict"),
        (lambda m: m.fit("one", 1), "`x` must hold lists of texts"),
        (lambda m: m.compile(loss="mse"), "loss"),
        (
            lambda m: m.compile(loss=losses.SparseCategoricalCrossentropy()),
            "`loss` must have from_logits=True",
        ),
    ],
)
def test_what_is_refused(call, message):
    model = trainable()
    before = weights(model)
    with pytest.raises(ValueError, match=message):
        call(model)
    np.testing.assert_array_equal(weights(model), before)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"activation": "tanh"}, '`activation` must be `None` or "softmax" for training'),
        ({"num_classes": 1}, "`num_classes` must be 2 or more for training"),
        ({"problem_type": "regression"}, "`problem_type` must be `None` or"),
    ],
)
def test_classifiers_that_cannot_be_trained(arguments, message):
    model = BartTextClassifier(tiny_backbone(), **{"num_classes": 3, **arguments})
    assert model.compiled
    with pytest.raises(ValueError, match=message):
        model.fit({"token_ids": [[2]], "padding_mask": [[1]]}, [0])
    assert not BartTextClassifier(tiny_backbone(), 3, compile=False).compiled


def test_a_loss_that_is_not_finite_changes_nothing():
    model = trainable(rate=1e30)
    model.train_on_batch(TEXTS, LABELS)
    before = weights(model)
    with pytest.raises(NonFiniteLossError):
        model.train_on_batch(TEXTS, LABELS)
    np.testing.assert_array_equal(weights(model), before)
