"""Optimizers and schedules against steps recorded from Keras (golden/make_keras_optimizers.py)."""

import json
from pathlib import Path

import numpy as np
import pytest

from bart_fast import optimizers
from bart_fast.optimizers import schedules
from bart_fast.optimizers.optimizer import keras_style_name

GOLDEN = json.loads((Path(__file__).parent / "golden/keras_optimizers.json").read_text())
# Keras names a dense layer's weight `kernel`; our parameters have Hugging Face's names.
NAMES = {"kernel": "layer.weight", "bias": "layer.bias", "heads": "heads.weight"}


def case_name(case):
    options = [f"{key}={value}" for key, value in case["config"].items()]
    return "-".join([case["class_name"], *options])


def arrays(values):
    return {NAMES[key]: np.array(value, np.float32) for key, value in values.items()}


def gradients(step):
    return arrays({key: value[step] for key, value in GOLDEN["gradients"].items()})


@pytest.mark.parametrize("case", GOLDEN["optimizers"], ids=case_name)
def test_steps_equal_keras(case):
    optimizer = getattr(optimizers, case["class_name"])(**case["config"])
    if case["config"].get("weight_decay"):
        optimizer.exclude_from_weight_decay(var_names=["bias"])
    values = arrays(GOLDEN["initial"])
    steps = len(GOLDEN["gradients"]["bias"])
    for step in range(steps):
        values = optimizer.apply(gradients(step), values)
        for key, name in NAMES.items():
            expected = np.array(case["values"][key][step])
            np.testing.assert_allclose(values[name], expected, rtol=0, atol=2e-6)
    final = optimizer.finalize_variable_values(values)
    for key, name in NAMES.items():
        np.testing.assert_allclose(final[name], np.array(case["final"][key]), rtol=0, atol=2e-6)
    assert optimizer.iterations == steps // case["config"].get("gradient_accumulation_steps", 1)


@pytest.mark.parametrize("case", GOLDEN["schedules"], ids=case_name)
def test_schedules_equal_keras(case):
    schedule = getattr(schedules, case["class_name"])(**case["config"])
    for same in (schedule, schedules.deserialize(schedules.serialize(schedule))):
        rates = [same(step) for step in range(len(case["rates"]))]
        # Keras computes in float32.
        np.testing.assert_allclose(rates, case["rates"], rtol=1e-5, atol=1e-8)


def test_defaults_are_those_of_keras():
    expected = {
        "adam": {"learning_rate": 1e-3, "beta_1": 0.9, "beta_2": 0.999, "epsilon": 1e-7},
        "adamw": {"learning_rate": 1e-3, "weight_decay": 0.004, "epsilon": 1e-7},
        "sgd": {"learning_rate": 0.01, "momentum": 0.0, "nesterov": False},
        "rmsprop": {"learning_rate": 1e-3, "rho": 0.9, "epsilon": 1e-7, "centered": False},
        "lion": {"learning_rate": 1e-3, "beta_1": 0.9, "beta_2": 0.99, "weight_decay": None},
        "adafactor": {
            "learning_rate": 1e-3,
            "beta_2_decay": -0.8,
            "epsilon_1": 1e-30,
            "epsilon_2": 1e-3,
            "clip_threshold": 1.0,
            "relative_step": True,
        },
    }
    for name, values in expected.items():
        config = optimizers.get(name).get_config()
        assert {key: config[key] for key in values} == values


def test_serialise_and_rebuild():
    schedule = schedules.CosineDecay(0.0, 10, warmup_target=0.1, warmup_steps=5)
    optimizer = optimizers.AdamW(schedule, weight_decay=0.1, clipnorm=2.0, name="mine")
    config = json.loads(json.dumps(optimizers.serialize(optimizer)))
    assert (config["module"], config["class_name"]) == ("keras.optimizers", "AdamW")
    again = optimizers.get(config)
    assert type(again) is optimizers.AdamW
    assert again.get_config() == optimizer.get_config()
    assert optimizers.get(again) is again


def test_a_schedule_follows_the_steps():
    optimizer = optimizers.SGD(schedules.PiecewiseConstantDecay([1], [0.5, 0.25]))
    values = {"w": np.zeros(1, np.float32)}
    seen = []
    for _ in range(4):
        seen.append(optimizer.learning_rate)
        values = optimizer.apply({"w": np.ones(1, np.float32)}, values)
    assert seen == [0.5, 0.5, 0.25, 0.25]
    assert values["w"] == pytest.approx(-1.5)
    with pytest.raises(TypeError, match="made with a `LearningRateSchedule`"):
        optimizer.learning_rate = 0.1


def test_the_learning_rate_can_be_set_or_be_a_function():
    optimizer = optimizers.SGD(1)
    optimizer.learning_rate = np.float32(0.5)
    assert optimizer.learning_rate == 0.5
    optimizer.learning_rate = lambda: 0.125
    values = optimizer.apply({"w": np.ones(1, np.float32)}, {"w": np.zeros(1, np.float32)})
    assert values["w"] == -0.125


@pytest.mark.parametrize("name", ["adam", "adamw", "rmsprop", "sgd", "lion", "adafactor"])
def test_a_saved_state_goes_on_exactly(name, tmp_path):
    whole = optimizers.get(name)
    values = arrays(GOLDEN["initial"])
    for step in range(2):
        values = whole.apply(gradients(step), values)
    np.savez(tmp_path / "state.npz", **whole.state())
    again = optimizers.get(name)
    with np.load(tmp_path / "state.npz") as state:
        again.set_state(state)
    assert again.iterations == 2
    expected, got = whole.apply(gradients(2), values), again.apply(gradients(2), values)
    for key in NAMES.values():
        np.testing.assert_array_equal(got[key], expected[key])


def test_weight_decay_exclusion_takes_names_and_patterns():
    def decayed(**excluded):
        optimizer = optimizers.SGD(0.5, weight_decay=1.0)
        optimizer.exclude_from_weight_decay(**excluded)
        names = ["shared.weight", "encoder.layers.0.fc1.weight", "encoder.layers.0.fc1.bias"]
        names += ["encoder.layers.0.final_layer_norm.weight"]
        ones = {name: np.ones(1, np.float32) for name in names}
        zeros = {name: np.zeros(1, np.float32) for name in names}
        return [float(value[0]) for value in optimizer.apply(zeros, ones).values()]

    assert decayed() == [0.5, 0.5, 0.5, 0.5]
    assert decayed(var_names=["bias", "gamma"]) == [0.5, 0.5, 1.0, 1.0]
    assert decayed(var_names=["embeddings"]) == [1.0, 0.5, 0.5, 0.5]
    assert decayed(var_names=["fc1"]) == [0.5, 1.0, 1.0, 0.5]
    assert decayed(var_list=["shared.weight"]) == [1.0, 0.5, 0.5, 0.5]


def test_names_end_as_in_keras():
    for name, expected in {
        "shared.weight": "shared.embeddings",
        "decoder.embed_positions.weight": "decoder.embed_positions.embeddings",
        "encoder.layernorm_embedding.bias": "encoder.layernorm_embedding.beta",
        "decoder.layers.1.encoder_attn_layer_norm.weight": (
            "decoder.layers.1.encoder_attn_layer_norm.gamma"
        ),
        "decoder.layers.1.self_attn.q_proj.weight": "decoder.layers.1.self_attn.q_proj.kernel",
        "decoder.layers.1.fc2.bias": "decoder.layers.1.fc2.bias",
        "w": "w",
    }.items():
        assert keras_style_name(name) == expected


def test_a_gradient_that_is_not_finite_changes_nothing():
    optimizer = optimizers.Adam()
    values = {"w": np.ones(2, np.float32)}
    with pytest.raises(FloatingPointError, match="gradients are not finite"):
        optimizer.apply({"w": np.array([1, np.nan], np.float32)}, values)
    assert (optimizer.iterations, values["w"].tolist()) == (0, [1.0, 1.0])


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: optimizers.Adam("fast"), "`learning_rate` must be a finite float"),
        (lambda: optimizers.Adam(float("nan")), "`learning_rate` must be a finite float"),
        (lambda: optimizers.Adam(-1.0), "`learning_rate` must be a finite float"),
        (lambda: optimizers.Adam(beta_1=float("nan")), "`beta_1` must be a finite number"),
        (lambda: optimizers.SGD(momentum="much"), "`momentum` must be a finite number"),
        (lambda: optimizers.AdamW(clipnorm=float("inf")), "`clipnorm` must be a finite number"),
        (lambda: optimizers.Adam(beta_1=2.0), "`beta_1`: received 2, allowed: 0 to 1"),
        (lambda: optimizers.Adam(epsilon=0.0), "`epsilon`: received 0, allowed: a positive"),
        (lambda: optimizers.SGD(momentum=-0.1), "`momentum`: received -0.1, allowed: 0 to 1"),
        (lambda: optimizers.SGD(clipnorm=1.0, clipvalue=1.0), "only one of `clipnorm`"),
        (lambda: optimizers.SGD(use_ema=1), "`use_ema` must be `True` or `False`"),
        (lambda: optimizers.SGD(use_ema=True, ema_momentum=1.5), "`ema_momentum` must be a number"),
        (
            lambda: optimizers.SGD(use_ema=True, ema_overwrite_frequency=0),
            "`ema_overwrite_frequency` must be a whole number of at least 1",
        ),
        (lambda: optimizers.SGD(loss_scale_factor=0.0), "`loss_scale_factor` must be a finite"),
        (lambda: optimizers.Lion(beta_1=0.0), "`beta_1`: received 0, allowed: a positive"),
        (lambda: optimizers.Adafactor(epsilon_1=0.0), "`epsilon_1`: received 0, allowed: a pos"),
        (lambda: optimizers.Adafactor(relative_step=1), "`relative_step` must be `True` or"),
        (lambda: schedules.CosineDecayRestarts(0.1, 0), "`first_decay_steps` must be a finite"),
        (lambda: optimizers.SGD(decay=0.1), r"unknown argument\(s\) of SGD: \['decay'\]"),
        (lambda: optimizers.AdamW(weight_decay=None), "hint: use Adam"),
        (lambda: optimizers.get("adagrad"), "unknown name 'adagrad'; known names: 'adafactor', 'a"),
        (lambda: optimizers.get(3), r"an instance of `bart_fast\.optimizers\.Optimizer`"),
        (lambda: schedules.CosineDecay(0.1, 0), "`decay_steps` must be a finite number above 0"),
        (lambda: schedules.PiecewiseConstantDecay([2], [1.0]), "one element more"),
    ],
)
def test_bad_arguments_are_named(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_one_optimizer_serves_one_model():
    optimizer = optimizers.Adam()
    first, second = object(), object()
    optimizer.build(["w"], owner=first)
    optimizer.build(["w"], owner=first)
    with pytest.raises(ValueError, match="make a new optimizer for each model"):
        optimizer.build(["w"], owner=second)
    with pytest.raises(ValueError, match="before the first training step"):
        optimizer.exclude_from_weight_decay(var_names=["bias"])


def test_state_of_another_kind_is_refused():
    sgd = optimizers.SGD(momentum=0.9)
    sgd.apply({"w": np.ones(1, np.float32)}, {"w": np.ones(1, np.float32)})
    with pytest.raises(ValueError, match="parameter `w` has 1 of 2 slots"):
        optimizers.Adam().set_state(sgd.state())
    with pytest.raises(ValueError, match="`iterations` is missing"):
        optimizers.Adam().set_state({})
