"""Writes keras_hub_fit.json: `fit` of keras-hub's BartSeq2SeqLM, preset keras_tiny, no dropout.

Made with keras 3.15.1 on its torch backend, and keras-hub 0.32.0:
`KERAS_BACKEND=torch python make_keras_hub_fit.py PATH_OF_keras_tiny > keras_hub_fit.json`
"""

import json
import sys

import keras
import keras_hub
import numpy as np

ROWS, SOURCE, TARGET = 5, 7, 6

OPTIMIZERS = [
    ("AdamW", {"learning_rate": 1e-2, "weight_decay": 0.1, "global_clipnorm": 0.5}),
    ("Lion", {"learning_rate": 1e-3}),
    (
        "SGD",
        {
            "learning_rate": 0.1,
            "momentum": 0.9,
            "nesterov": True,
            "use_ema": True,
            "ema_momentum": 0.6,
        },
    ),
    ("RMSprop", {"learning_rate": 1e-3, "gradient_accumulation_steps": 2, "clipnorm": 0.3}),
]


def make_data(vocabulary):
    rng = np.random.default_rng(0)

    def mask(width):
        return np.arange(width) < rng.integers(2, width + 1, ROWS)[:, None]

    x = {
        "encoder_token_ids": rng.integers(3, vocabulary, (ROWS, SOURCE)),
        "encoder_padding_mask": mask(SOURCE),
        "decoder_token_ids": rng.integers(3, vocabulary, (ROWS, TARGET)),
        "decoder_padding_mask": mask(TARGET),
    }
    return x, rng.integers(3, vocabulary, (ROWS, TARGET))


def make_model(preset):
    backbone = keras_hub.models.BartBackbone.from_preset(preset)
    for layer in backbone._flatten_layers():
        if isinstance(layer, keras.layers.Dropout):
            layer.rate = 0.0
    return keras_hub.models.BartSeq2SeqLM(backbone=backbone, preprocessor=None)


def run(preset, name, config, x, y, weight):
    optimizer = getattr(keras.optimizers, name)(**config)
    if "weight_decay" in config:
        optimizer.exclude_from_weight_decay(var_names=["bias", "gamma", "beta"])
    perplexity = keras_hub.metrics.Perplexity
    model = make_model(preset)
    model.compile(
        optimizer=optimizer,
        loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=["accuracy", perplexity(from_logits=True)],
        weighted_metrics=["accuracy", perplexity(from_logits=True, mask_token_id=5)],
        run_eagerly=True,
    )
    # keras-hub's own `fit` wants a library for its preprocessing, of which there is none here.
    history = keras.Model.fit(
        model,
        x,
        y,
        sample_weight=weight,
        validation_data=(x, y, weight),
        batch_size=2,
        epochs=2,
        shuffle=False,
        verbose=0,
    ).history
    logits = keras.ops.convert_to_numpy(keras.Model.predict(model, x, verbose=0))
    return {
        "class_name": name,
        "config": config,
        "history": {key: [float(value) for value in values] for key, values in history.items()},
        "logits": np.asarray(logits)[0].astype(float).round(6).tolist(),
    }


def main():
    preset = sys.argv[1]
    vocabulary = keras_hub.models.BartBackbone.from_preset(preset).vocabulary_size
    x, y = make_data(vocabulary)
    weight = x["decoder_padding_mask"].astype("float32")
    document = {
        "x": {key: value.astype(int).tolist() for key, value in x.items()},
        "y": y.tolist(),
        "runs": [run(preset, name, config, x, y, weight) for name, config in OPTIMIZERS],
    }
    json.dump(document, sys.stdout)
    print()


main()
