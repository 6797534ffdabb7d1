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
    ("Lion", {"learning_rate": 0.01}),
    ("Lion", {"learning_rate": 0.01, "beta_1": 0.6, "beta_2": 0.8, "weight_decay": 0.3}),
    ("Lion", {"learning_rate": 0.01, "gradient_accumulation_steps": 2, "clipnorm": 0.5}),
    ("Adafactor", {"learning_rate": 0.05}),
    ("Adafactor", {"learning_rate": 2.0, "relative_step": False, "clip_threshold": 0.4}),
    (
        "Adafactor",
        {
            "learning_rate": 0.3,
            "beta_2_decay": -0.5,
            "epsilon_1": 0.01,
            "epsilon_2": 2.0,
            "weight_decay": 0.2,
            "global_clipnorm": 1.0,
        },
    ),
    ("Adafactor", {"learning_rate": 0.1, "gradient_accumulation_steps": 2, "clipvalue": 0.3}),
    ("SGD", {"learning_rate": 0.1, "global_clipnorm": 0.5, "gradient_accumulation_steps": 2}),
    ("SGD", {"learning_rate": 0.1, "loss_scale_factor": 4.0, "clipnorm": 0.5}),
    ("SGD", {"learning_rate": 0.1, "use_ema": True}),
    ("Adam", {"learning_rate": 0.01, "use_ema": True, "ema_momentum": 0.5}),
    (
        "AdamW",
        {
            "learning_rate": 0.01,
            "use_ema": True,
            "ema_momentum": 0.7,
            "ema_overwrite_frequency": 2,
        },
    ),
    (
        "SGD",
        {
            "learning_rate": 0.1,
            "use_ema": True,
            "ema_momentum": 0.7,
            "ema_overwrite_frequency": 2,
            "gradient_accumulation_steps": 2,
        },
    ),
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
    ("CosineDecayRestarts", {"initial_learning_rate": 0.1, "first_decay_steps": 3}),
    (
        "CosineDecayRestarts",
        {
            "initial_learning_rate": 0.1,
            "first_decay_steps": 5,
            "t_mul": 1.0,
            "m_mul": 0.7,
            "alpha": 0.1,
        },
    ),
    (
        "CosineDecayRestarts",
        {"initial_learning_rate": 0.1, "first_decay_steps": 4, "t_mul": 1.6, "m_mul": 0.8},
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
    optimizer.finalize_variable_values(variables)
    final = {
        key: ops.convert_to_numpy(variable).astype(float).round(9).tolist()
        for key, variable in zip(initial, variables, strict=True)
    }
    return {"class_name": name, "config": config, "values": values, "final": final}


def main():
    rng = np.random.default_rng(5)
    initial = {
        "kernel": rng.normal(size=(2, 3)).astype("float32"),
        "bias": rng.normal(size=2).astype("float32"),
        # As the projections of attention in Keras: Adafactor factors the last two axes.
        "heads": rng.normal(size=(2, 3, 2)).astype("float32"),
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
