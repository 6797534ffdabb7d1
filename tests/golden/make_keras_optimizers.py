"""Writes keras_optimizers.json: steps and schedules as Keras computes them.

Made with keras 3.15.1 on its torch backend:
`KERAS_BACKEND=torch python make_keras_optimizers.py > keras_optimizers.json`
"""

import json
import sys

import keras
import numpy as np
from keras import ops, optimizers

STEPS = 5

OPTIMIZERS = [
    ("Adam", {"learning_rate": 0.01}),
    ("Adam", {"learning_rate": 0.01, "amsgrad": True, "beta_1": 0.8, "beta_2": 0.9}),
    ("Adam", {"learning_rate": 0.01, "weight_decay": 0.5, "clipnorm": 0.7}),
    ("Adam", {"learning_rate": 0.01, "gradient_accumulation_steps": 2}),
    ("AdamW", {"learning_rate": 0.01, "weight_decay": 0.1}),
    ("SGD", {"learning_rate": 0.1}),
    ("SGD", {"learning_rate": 0.1, "momentum": 0.9}),
    ("SGD", {"learning_rate": 0.1, "momentum": 0.9, "nesterov": True, "weight_decay": 0.05}),
    ("SGD", {"learning_rate": 0.1, "global_clipnorm": 1.0}),
    ("SGD", {"learning_rate": 0.1, "clipvalue": 0.3, "gradient_accumulation_steps": 2}),
    ("RMSprop", {"learning_rate": 0.01}),
    ("RMSprop", {"learning_rate": 0.01, "momentum": 0.5, "centered": True, "weight_decay": 0.1}),
    ("RMSprop", {"learning_rate": 0.01, "momentum": 0.5, "rho": 0.7, "global_clipnorm": 0.5}),
    ("RMSprop", {"learning_rate": 0.01, "centered": True, "clipvalue": 0.5}),
]

SCHEDULES = [
    ("CosineDecay", {"initial_learning_rate": 0.1, "decay_steps": 10, "alpha": 0.1}),
    (
        "CosineDecay",
        {
            "initial_learning_rate": 0.01,
            "decay_steps": 12,
            "alpha": 0.05,
            "warmup_target": 0.2,
            "warmup_steps": 6,
        },
    ),
    ("ExponentialDecay", {"initial_learning_rate": 0.1, "decay_steps": 4, "decay_rate": 0.5}),
    (
        "ExponentialDecay",
        {"initial_learning_rate": 0.1, "decay_steps": 4, "decay_rate": 0.5, "staircase": True},
    ),
    ("InverseTimeDecay", {"initial_learning_rate": 0.1, "decay_steps": 4, "decay_rate": 0.5}),
    (
        "InverseTimeDecay",
        {"initial_learning_rate": 0.1, "decay_steps": 4, "decay_rate": 0.5, "staircase": True},
    ),
    ("PolynomialDecay", {"initial_learning_rate": 0.1, "decay_steps": 8, "power": 2.0}),
    (
        "PolynomialDecay",
        {
            "initial_learning_rate": 0.1,
            "decay_steps": 5,
            "end_learning_rate": 0.01,
            "cycle": True,
        },
    ),
    ("PiecewiseConstantDecay", {"boundaries": [3, 8], "values": [0.3, 0.2, 0.1]}),
]


def run(name, config, initial, gradients):
    optimizer = getattr(optimizers, name)(**config)
    if config.get("weight_decay"):
        optimizer.exclude_from_weight_decay(var_names=["bias"])
    variables = [keras.Variable(value, name=key) for key, value in initial.items()]
    values = {key: [] for key in initial}
    for step in range(STEPS):
        optimizer.apply([ops.array(gradients[key][step]) for key in initial], variables)
        for key, variable in zip(initial, variables, strict=True):
            values[key].append(ops.convert_to_numpy(variable).astype(float).round(9).tolist())
    return {"class_name": name, "config": config, "values": values}


def main():
    rng = np.random.default_rng(5)
    initial = {
        "kernel": rng.normal(size=(2, 3)).astype("float32"),
        "bias": rng.normal(size=2).astype("float32"),
    }
    gradients = {
        key: rng.normal(size=(STEPS, *value.shape)).astype("float32")
        for key, value in initial.items()
    }
    steps = list(range(20))
    schedules = [
        {
            "class_name": name,
            "config": config,
            "rates": [float(getattr(optimizers.schedules, name)(**config)(step)) for step in steps],
        }
        for name, config in SCHEDULES
    ]
    document = {
        "initial": {key: value.astype(float).tolist() for key, value in initial.items()},
        "gradients": {key: value.astype(float).tolist() for key, value in gradients.items()},
        "optimizers": [run(name, config, initial, gradients) for name, config in OPTIMIZERS],
        "schedules": schedules,
    }
    json.dump(document, sys.stdout)
    print()


main()
