"""Writes keras_fit.json: a run of fit(), evaluate() and train_on_batch() as Keras makes it.

The model is a table of logits by token, so that a test can compute it in numpy.
Made with keras 3.15.1 on its torch backend, and keras-hub 0.32.0:
`KERAS_BACKEND=torch python make_keras_fit.py > keras_fit.json`
"""

import json
import sys

import keras
import keras_hub
import numpy as np

VOCABULARY, ROWS, WIDTH = 6, 5, 4


def make_model(table):
    ids = keras.Input((None,), dtype="int32")
    layer = keras.layers.Embedding(VOCABULARY, VOCABULARY)
    model = keras.Model(ids, layer(ids))
    layer.embeddings.assign(table)
    model.compile(
        optimizer=keras.optimizers.Adam(0.1),
        loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        weighted_metrics=[keras.metrics.SparseCategoricalAccuracy()],
    )
    return model


class LargestLogit(keras.metrics.Metric):
    """A metric of one's own: the largest logit in the weighted mean over all positions."""

    def __init__(self, name="largest_logit"):
        super().__init__(name=name)
        self.total = self.add_variable((), initializer="zeros", name="total")
        self.count = self.add_variable((), initializer="zeros", name="count")

    def update_state(self, y_true, y_pred, sample_weight=None):
        largest = keras.ops.max(y_pred, axis=-1)
        weight = keras.ops.ones_like(largest) if sample_weight is None else sample_weight
        self.total.assign_add(keras.ops.sum(largest * weight))
        self.count.assign_add(keras.ops.sum(weight))

    def result(self):
        return self.total / self.count


def mean_logit(y_true, y_pred):
    """A function as a metric."""
    return keras.ops.mean(y_pred, axis=-1)


def run_with_metrics(table, x, y, weight):
    """Metrics of every kind in both places."""
    model = make_model(table)
    perplexity = keras_hub.metrics.Perplexity
    model.compile(
        optimizer=keras.optimizers.SGD(0.5, momentum=0.9),
        loss=keras.losses.SparseCategoricalCrossentropy(
            from_logits=True, reduction="mean_with_sample_weight"
        ),
        metrics=["accuracy", perplexity(from_logits=True), LargestLogit(), mean_logit],
        weighted_metrics=[
            "accuracy",
            keras.metrics.SparseCategoricalAccuracy(),
            perplexity(from_logits=True, mask_token_id=2, name="masked"),
            perplexity(from_logits=True),
            LargestLogit(),
            mean_logit,
            keras.metrics.SparseCategoricalCrossentropy(from_logits=True),
            keras.metrics.SparseTopKCategoricalAccuracy(k=2),
        ],
    )
    options = {"batch_size": 2, "verbose": 0, "shuffle": False}
    history = model.fit(x, y, sample_weight=weight, epochs=2, **options).history
    evaluated = model.evaluate(x, y, sample_weight=weight, return_dict=True, **options_of(options))
    return {
        "history": {key: [float(value) for value in values] for key, values in history.items()},
        "evaluate": {key: float(value) for key, value in evaluated.items()},
        "table": np.asarray(model.get_weights()[0]).astype(float).round(8).tolist(),
    }


def run_with_averages(table, x, y):
    """An optimizer that averages weights: the average is what is left at the end."""
    model = make_model(table)
    model.compile(
        optimizer=keras.optimizers.SGD(0.5, use_ema=True, ema_momentum=0.8),
        loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
    )
    history = model.fit(x, y, epochs=2, batch_size=2, verbose=0, shuffle=False).history
    return {
        "loss": history["loss"],
        "table": np.asarray(model.get_weights()[0]).astype(float).round(8).tolist(),
    }


def options_of(options):
    return {key: value for key, value in options.items() if key != "shuffle"}


def main():
    rng = np.random.default_rng(3)
    table = rng.normal(size=(VOCABULARY, VOCABULARY)).astype("float32")
    x = rng.integers(0, VOCABULARY, size=(ROWS, WIDTH))
    y = rng.integers(0, VOCABULARY, size=(ROWS, WIDTH))
    weight = np.array([[1, 1, 0.5, 0], [1, 1, 1, 1], [0, 1, 1, 0], [1, 0, 0, 0], [2, 1, 1, 0]])
    weight = weight.astype("float32")
    options = {"batch_size": 2, "verbose": 0, "shuffle": False}
    runs = {}
    for name, sample_weight in (("weighted", weight), ("plain", None)):
        model = make_model(table)
        validation = (x[:3], y[:3]) if sample_weight is None else (x[:3], y[:3], weight[:3])
        evaluated = model.evaluate(x, y, sample_weight=sample_weight, batch_size=2, verbose=0)
        history = model.fit(
            x, y, sample_weight=sample_weight, epochs=3, validation_data=validation, **options
        )
        runs[name] = {
            "evaluate": [float(value) for value in evaluated],
            "history": {
                key: [float(value) for value in values] for key, values in history.history.items()
            },
            "table": np.asarray(model.get_weights()[0]).astype(float).round(8).tolist(),
            "train_on_batch": [
                float(value) for value in model.train_on_batch(x, y, sample_weight=sample_weight)
            ],
        }
    model = make_model(table)
    split = model.fit(x, y, validation_split=0.4, epochs=2, **options).history
    document = {
        "with_averages": run_with_averages(table, x, y),
        "with_metrics": run_with_metrics(table, x, y, weight),
        "table": table.astype(float).tolist(),
        "x": x.tolist(),
        "y": y.tolist(),
        "sample_weight": weight.tolist(),
        "runs": runs,
        "validation_split": {key: [float(v) for v in values] for key, values in split.items()},
    }
    json.dump(document, sys.stdout)
    print()


main()
