"""What `compile` takes: metrics beside runs recorded from Keras, losses, and what is refused."""

import numpy as np
import pytest
from keras_runs import GOLDEN, QUIET, WEIGHT, X, Y, make_model
from test_bart_text_classifier import classifier
from tiny_models import tiny_backbone, tiny_model

from bart_fast import losses, metrics, optimizers


class LargestLogit(metrics.Metric):
    """As in golden/make_keras_fit.py, with numpy's names."""

    def __init__(self, name="largest_logit"):
        super().__init__(name=name)
        self.total = self.add_variable((), initializer="zeros", name="total")
        self.count = self.add_variable((), initializer="zeros", name="count")

    def update_state(self, y_true, y_pred, sample_weight=None):
        largest = np.max(y_pred, axis=-1)
        weight = np.ones_like(largest) if sample_weight is None else sample_weight
        self.total.assign_add(np.sum(largest * weight))
        self.count.assign_add(np.sum(weight))

    def result(self):
        return self.total / self.count


def mean_logit(y_true, y_pred):
    return y_pred.mean(axis=-1)


def test_metrics_of_every_kind_equal_keras():
    run = GOLDEN["with_metrics"]
    perplexity = metrics.Perplexity
    model = make_model(
        optimizer=optimizers.SGD(0.5, momentum=0.9),
        loss=losses.SparseCategoricalCrossentropy(True, reduction="mean_with_sample_weight"),
        metrics=["accuracy", perplexity(from_logits=True), LargestLogit(), mean_logit],
        weighted_metrics=[
            "accuracy",
            metrics.SparseCategoricalAccuracy(),
            perplexity(from_logits=True, mask_token_id=2, name="masked"),
            "perplexity",
            LargestLogit(),
            mean_logit,
            "sparse_categorical_crossentropy",
            metrics.SparseTopKCategoricalAccuracy(k=2),
        ],
    )
    # A row whose weights are all one place: zeros are left out of the step, but not of `metrics`.
    options = {"sample_weight": WEIGHT, **QUIET}
    history = model.fit(X, Y, epochs=2, shuffle=False, **options).history
    evaluated = model.evaluate(X, Y, return_dict=True, **options)
    assert (list(history), list(evaluated)) == (list(run["history"]), list(run["evaluate"]))
    for key, values in run["history"].items():
        np.testing.assert_allclose(history[key], values, rtol=2e-5, err_msg=key)
        np.testing.assert_allclose(evaluated[key], run["evaluate"][key], rtol=2e-5, err_msg=key)
    np.testing.assert_allclose(model.core.table, run["table"], atol=1e-5)
    listed = model.evaluate(X, Y, **options)
    assert listed == [evaluated[name] for name in model.metrics_names]
    assert model.metrics_names[:2] == ["loss", "accuracy"]


def test_a_metric_of_a_dict_and_one_that_fails():
    class Both(LargestLogit):
        def result(self):
            return {"largest": self.total, "positions": self.count}

    class Broken(LargestLogit):
        def update_state(self, y_true, y_pred, sample_weight=None):
            raise RuntimeError("no")

    model = make_model(weighted_metrics=[Both()])
    assert model.evaluate(X, Y, return_dict=True, **QUIET)["positions"] == Y.size
    model.compile(optimizer="sgd", metrics=[Broken()])
    with pytest.raises(RuntimeError, match="no"):
        model.fit(X, Y, **QUIET)
    # The step whose metric failed was made; the model goes on.
    assert model.optimizer.iterations == 1
    model.compile(optimizer="sgd")
    assert np.isfinite(model.fit(X, Y, **QUIET).history["loss"][0])


def test_classes_weigh_positions_by_their_targets():
    weight = np.where(Y == 2, 3.0, np.where(Y == 4, 0.0, 1.0))
    got, expected = make_model(optimizer="sgd"), make_model(optimizer="sgd")
    shared = {"epochs": 2, "validation_data": (X, Y), **QUIET}
    history = got.fit(X, Y, class_weight={2: 3.0, 4: 0.0, 99: 7.0}, **shared).history
    assert history == expected.fit(X, Y, sample_weight=weight, **shared).history
    np.testing.assert_array_equal(got.core.table, expected.core.table)
    single = got.train_on_batch(X, Y, class_weight={2: 3.0, 4: 0.0})
    assert single == expected.train_on_batch(X, Y, sample_weight=weight)


def test_a_batch_without_any_weight_has_no_loss_and_no_gradient():
    for reduction in ("sum_over_batch_size", "mean_with_sample_weight"):
        loss = losses.SparseCategoricalCrossentropy(True, reduction=reduction)
        model = make_model(optimizer="sgd", loss=loss)
        before = model.core.table.copy()
        assert model.train_on_batch(X, Y, np.zeros_like(WEIGHT)) == [0.0, 0.0]
        np.testing.assert_array_equal(model.core.table, before)
        assert model.optimizer.iterations == 1


TWICE = metrics.SparseCategoricalAccuracy()


class OwnLoss(losses.Loss):
    def __init__(self):
        super().__init__("own")

    def call(self, y_true, y_pred):
        return y_pred.mean(axis=-1)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"loss_weights": [1]}, TypeError, "unexpected keyword argument `loss_weights`"),
        ({"optimizer": "adamant"}, ValueError, "`optimizer`: unknown name 'adamant'"),
        ({"optimizer": object()}, ValueError, "`optimizer` must be a name"),
        ({"loss": "mse"}, ValueError, "`loss`: unknown name 'mse'"),
        ({"loss": "sparse_categorical_crossentropy"}, ValueError, "outputs of the model are"),
        ({"loss": lambda y, p: 0}, ValueError, "`loss` must be a name"),
        ({"loss": OwnLoss()}, ValueError, "hint: a loss of your own can be watched"),
        ({"metrics": ["bleu_of_none"]}, ValueError, "`metric`: unknown name"),
        ({"metrics": {"logits": "accuracy"}}, ValueError, "`metrics` must be a list"),
        ({"metrics": [metrics.Perplexity()]}, ValueError, r"`Perplexity\(from_logits=True\)`"),
        ({"weighted_metrics": [3]}, ValueError, "`metric` must be a name"),
        ({"weighted_metrics": [metrics.Mean()]}, ValueError, "metrics of targets and pred"),
        ({"weighted_metrics": [LargestLogit("loss")]}, ValueError, "other names than that"),
        ({"metrics": [TWICE], "weighted_metrics": [TWICE]}, ValueError, "different objects"),
        ({"sampler": "best"}, ValueError, "sampler"),
    ],
)
def test_bad_compile_arguments_change_nothing(arguments, error, message):
    model = make_model()
    before = (model.optimizer, model.loss, model.metrics, model.sampler)
    with pytest.raises(error, match=message):
        model.compile(**arguments)
    assert (model.optimizer, model.loss, model.metrics, model.sampler) == before


# A real model: what metrics are counted from is what `predict` gives.


PAIRS = {"encoder_text": ["the whale", "a fox", "it"], "decoder_text": ["whale", "foxes", ""]}


def by_hand(model, weight_of_padding, smoothing=0.0):
    """Loss, accuracy, perplexity and mean of the largest logits, in float64 from `predict`."""
    arrays, y, weight = model.preprocessor(PAIRS)
    logits = model.predict(arrays, verbose=0).astype(np.float64)
    nll = np.log(np.exp(logits).sum(axis=-1, keepdims=True)) - logits
    picked = np.take_along_axis(nll, y[..., None], axis=-1)[..., 0]
    smooth = (1 - smoothing) * picked + smoothing * nll.mean(axis=-1)
    counted = np.where(weight, 1.0, weight_of_padding)
    return {
        "loss": (smooth * weight).mean(),
        "accuracy": ((logits.argmax(-1) == y) * counted).sum() / counted.sum(),
        "perplexity": np.exp((picked * counted).sum() / counted.sum()),
        "largest_logit": (logits.max(axis=-1) * counted).sum() / counted.sum(),
    }


@pytest.mark.parametrize(
    ("argument", "padding"), [("weighted_metrics", 0.0), ("metrics", 1.0)], ids=["weighted", "all"]
)
def test_metrics_of_texts_are_those_of_their_logits(argument, padding):
    model = tiny_model()
    named = {"weighted_metrics": None, argument: ["accuracy", "perplexity", LargestLogit()]}
    model.compile(optimizer=optimizers.SGD(0.0), **named)
    expected = by_hand(model, padding)
    got = model.evaluate(PAIRS, batch_size=3, verbose=0, return_dict=True)
    assert got == pytest.approx(expected, rel=1e-5)
    # Without dropout a step of training predicts the same.
    trained = tiny_model(dropout=0.0)
    trained.compile(optimizer=optimizers.SGD(0.0), **named)
    assert trained.train_on_batch(PAIRS, return_dict=True) == pytest.approx(expected, rel=1e-5)


def test_counting_padding_changes_no_weight():
    def trained(**arguments):
        model = tiny_model(dropout=0.0)
        model.compile(optimizer=optimizers.SGD(0.1), **arguments)
        model.fit(PAIRS, epochs=2, verbose=0, batch_size=3)
        return np.concatenate([each.ravel() for each in model.get_weights()])

    np.testing.assert_allclose(trained(metrics=["accuracy"]), trained(), atol=2e-6)


def test_smoothed_labels_and_their_gradient():
    loss = losses.SparseCategoricalCrossentropy(True, label_smoothing=0.3)
    model = tiny_model(dropout=0.0)
    model.compile(optimizer=optimizers.SGD(1e-4), loss=loss, weighted_metrics=["perplexity"])
    expected = by_hand(model, 0.0, smoothing=0.3)
    got = model.test_on_batch(PAIRS, return_dict=True)
    assert got["loss"] == pytest.approx(expected["loss"], rel=1e-5)
    assert got["perplexity"] == pytest.approx(expected["perplexity"], rel=1e-5)
    arrays, y, weight = model.preprocessor(PAIRS)
    assert loss(y, model.predict(arrays, verbose=0), weight) == pytest.approx(got["loss"], rel=1e-5)
    before = np.concatenate([each.ravel() for each in model.get_weights()]).astype(np.float64)
    model.train_on_batch(PAIRS)
    after = np.concatenate([each.ravel() for each in model.get_weights()]).astype(np.float64)
    # To first order a small step lowers the loss by its square over the learning rate.
    promised = ((after - before) ** 2).sum() / 1e-4
    fall = got["loss"] - model.test_on_batch(PAIRS, return_dict=True)["loss"]
    assert fall == pytest.approx(promised, rel=0.05)


def test_metrics_of_a_classifier():
    model = classifier(tiny_backbone(dropout=0.0))
    labels, weight = np.array([0, 2, 1]), np.array([1.0, 0.0, 2.0])
    scores = model.predict(PAIRS["encoder_text"]).astype(np.float64)
    nll = np.log(np.exp(scores).sum(axis=1)) - scores[np.arange(3), labels]
    every = ["accuracy", "perplexity", LargestLogit()]
    again = ["accuracy", "perplexity", LargestLogit()]
    model.compile(optimizer="sgd", metrics=every, weighted_metrics=again)
    got = model.test_on_batch(PAIRS["encoder_text"], labels, weight, return_dict=True)
    assert got["perplexity"] == pytest.approx(np.exp(nll.mean()), rel=1e-5)
    assert got["weighted_perplexity"] == pytest.approx(np.exp((nll * weight).sum() / 3), rel=1e-5)
    assert got["weighted_largest_logit"] == pytest.approx((scores.max(1) * weight).sum() / 3)
    by_class = model.test_on_batch(PAIRS["encoder_text"], labels, [4.0, 1.0, 0.5])
    trained = model.train_on_batch(PAIRS["encoder_text"], labels, class_weight={0: 4.0, 1: 0.5})
    assert trained == pytest.approx(by_class, rel=1e-5)
    softmax = classifier(model.backbone, activation="softmax")
    softmax.compile(weighted_metrics=["perplexity", LargestLogit()])
    assert softmax.test_on_batch(PAIRS["encoder_text"], labels, return_dict=True)[
        "largest_logit"
    ] == pytest.approx(softmax.predict(PAIRS["encoder_text"]).max(axis=1).mean(), rel=1e-5)


def test_a_loss_of_ones_own_can_be_watched():
    model = make_model(weighted_metrics=[OwnLoss(), losses.SparseCategoricalCrossentropy(True)])
    got = model.evaluate(X, Y, sample_weight=WEIGHT, batch_size=5, verbose=0, return_dict=True)
    logits = model.core.table[X["decoder_token_ids"]]
    own = (logits.mean(axis=-1) * WEIGHT).sum() / WEIGHT.sum()
    assert got["own"] == pytest.approx(own, rel=1e-5)
    # Divided by the weights, where the loss is divided by the positions.
    ratio = WEIGHT.size / WEIGHT.sum()
    assert got["sparse_categorical_crossentropy"] == pytest.approx(got["loss"] * ratio, rel=1e-5)


def test_predictions_of_one_batch():
    model, texts = tiny_model(), PAIRS["encoder_text"]
    np.testing.assert_array_equal(model.predict_on_batch(PAIRS), model.predict(PAIRS, verbose=0))
    of_classes = classifier(tiny_backbone())
    np.testing.assert_array_equal(of_classes.predict_on_batch(texts), of_classes.predict(texts))
