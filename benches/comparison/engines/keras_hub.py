"""keras-hub's model on jax, as its documentation uses it: compiled for the shapes of the batch."""

import os
from pathlib import Path

import numpy as np

from comparison.engines.bart_fast import ADAM_EPSILON, LEARNING_RATE
from comparison.engines.base import BaseEngine
from comparison.inputs import Pairs


class Engine(BaseEngine):
    title = "keras-hub on jax"
    packages = ("keras", "keras_hub", "jax")
    distributions = ("keras", "keras-hub", "jax")
    precisions = ("float32",)
    passes = ("train",)
    note = "only training is measured; padding is computed, and compiling is not timed"

    def __init__(self, model: Path, folder: Path, precision: str, threads: int):
        os.environ["KERAS_BACKEND"] = "jax"
        import keras
        import keras_hub

        backbone = keras_hub.models.BartBackbone.from_preset(str(model))
        self.model = keras_hub.models.BartSeq2SeqLM(backbone, preprocessor=None)
        self.model.compile(
            optimizer=keras.optimizers.Adam(LEARNING_RATE, epsilon=ADAM_EPSILON),
            loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
            weighted_metrics=None,
        )

    def train(self, pairs: Pairs) -> float:
        results = self.model.train_on_batch(pairs.batch, pairs.labels, pairs.weights)
        return float(np.ravel(results)[0])
