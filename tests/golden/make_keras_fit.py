"""Writes keras_fit.json: a run of fit(), evaluate() and train_on_batch() as Keras makes it.

The model is a table of logits by token, so that a test can compute it in numpy.
Made with keras 3.15.1 on its torch backend:
`KERAS_BACKEND=torch python make_keras_fit.py > keras_fit.json`
"""

import json
import sys

import keras
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
