"""Where a model is: names, moving there and back, and the CPU computing as a card would."""

import copy
import os
import pickle
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from tiny_models import END, tiny_model, token_arrays

import bart_fast
from bart_fast import optimizers
from bart_fast.models import BartBackbone, BartSeq2SeqLM

HERE = Path(__file__).parent
# Cards, where there are some, and what stands for them.
DEVICES = [each.device for each in bart_fast.devices()[1:2]] + ["portable"]
# Of the largest logit, beside our kernels: weights are drawn so large that roundings show.
ALLOWED = {
    "float32": 1e-5,
    "float16": 2e-2,
    "bfloat16": 0.1,
    "mixed_float16": 5e-3,
    "mixed_bfloat16": 2e-2,
    "int8": 0.2,
}


def on(device, dtype="float32", **sizes):
    bart_fast.set_random_seed(3)
    return tiny_model(dtype=dtype, **sizes).to(device)


def weights(model):
    core = model.backbone._model
    return {name: core.get_parameter(name) for name, _ in core.parameters()}


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("dtype", ALLOWED)
def test_a_model_moves_with_its_weights(dtype, device, tmp_path):
    model, x = on("cpu", dtype), token_arrays()
    before, expected = weights(model), model(x)
    assert (model.device, model.to(device), model.device) == ("cpu", model, device)
    largest = np.abs(expected).max()
    np.testing.assert_allclose(model(x), expected, rtol=0, atol=ALLOWED[dtype] * largest)
    answer = model.generate(x, max_length=6, stop_token_ids=[END])
    for other in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert (other.device, other.backbone.dtype) == (device, dtype)
        np.testing.assert_array_equal(other(x), model(x))
    model.save_to_preset(tmp_path / "preset")
    again = BartSeq2SeqLM.from_preset(
        tmp_path / "preset", dtype=dtype, device=device, preprocessor=None
    )
    again.compile(sampler=model.sampler)
    np.testing.assert_array_equal(again(x), model(x))
    again = again.generate(x, max_length=6, stop_token_ids=[END])
    np.testing.assert_array_equal(again["decoder_token_ids"], answer["decoder_token_ids"])
    for name, values in weights(model.to("cpu")).items():
        np.testing.assert_array_equal(values, before[name], err_msg=name)
    np.testing.assert_array_equal(model(x), expected)


@pytest.mark.parametrize("device", DEVICES)
def test_what_is_added_to_weights_moves_too(device):
    model, x = on("cpu"), token_arrays()
    model.backbone.enable_lora(2)
    model.compile(optimizer=optimizers.SGD(0.5), sampler="greedy")
    model.train_on_batch(x, x["decoder_token_ids"])
    answer, expected = model.generate(x, stop_token_ids=None), model(x)
    for place in (device, "cpu", device):
        largest = np.abs(expected).max()
        np.testing.assert_allclose(model.to(place)(x), expected, rtol=0, atol=1e-5 * largest)
        again = model.generate(x, stop_token_ids=None)
        np.testing.assert_array_equal(again["decoder_token_ids"], answer["decoder_token_ids"])
    assert np.isfinite(model.train_on_batch(x, x["decoder_token_ids"])[0])
    assert np.abs(model(x) - expected).max() > 1e-3 * np.abs(expected).max()


@pytest.mark.parametrize("there", DEVICES)
@pytest.mark.parametrize("dtype", ["float32", "mixed_bfloat16"])
def test_training_is_the_same_there(dtype, there):
    """Dropout among it: the same elements are dropped everywhere."""
    x = token_arrays()
    y = np.roll(x["decoder_token_ids"], -1, axis=1)
    losses = {}
    for device in ("cpu", there):
        model = on(device, dtype, dropout=0.2)
        model.compile(optimizer=optimizers.SGD(2e-4))
        losses[device] = [model.train_on_batch(x, y)[0] for _ in range(2)]
        model.backbone.enable_lora(2)
        losses[device] += [model.train_on_batch(x, y)[0] for _ in range(2)]
    allowed = 1e-3 if dtype == "float32" else 0.1
    np.testing.assert_allclose(losses["cpu"], losses[there], rtol=allowed)


# Steps are small, since weights are drawn so large that differences grow from step to step.
OPTIMIZERS = {
    "adam": lambda: optimizers.Adam(1e-4, amsgrad=True, clipnorm=0.5),
    "adamw": lambda: optimizers.AdamW(1e-4, weight_decay=0.1, global_clipnorm=0.3),
    "sgd": lambda: optimizers.SGD(1e-4, clipvalue=0.01),
    "momentum": lambda: optimizers.SGD(
        1e-4, momentum=0.9, nesterov=True, use_ema=True, ema_overwrite_frequency=2
    ),
    "accumulating": lambda: optimizers.SGD(
        1e-4, momentum=0.9, gradient_accumulation_steps=2, global_clipnorm=0.3
    ),
    "rmsprop": lambda: optimizers.RMSprop(1e-4, momentum=0.5, centered=True, epsilon=1e-3),
    "lion": lambda: optimizers.Lion(1e-4),
    "adafactor": lambda: optimizers.Adafactor(1e-4),
}


@pytest.mark.parametrize("there", DEVICES)
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_optimizers_are_the_same_there(name, there):
    x = token_arrays()
    y = np.roll(x["decoder_token_ids"], -1, axis=1)
    models = {}
    for device in ("cpu", there):
        model = models[device] = on(device)
        model.compile(optimizer=OPTIMIZERS[name]())
        for _ in range(3):
            model.train_on_batch(x, y)
        # State goes with the model, wherever it goes.
        model.to("cpu").train_on_batch(x, y)
    before, first = weights(on("cpu")), weights(models["cpu"])
    far = {key: np.abs(first[key] - before[key]).max() for key in first}
    for key, values in weights(models[there]).items():
        # Where gradients are roundings of 0, as those of key biases, their signs mean nothing.
        strays = np.abs(values - first[key]) > 0.05 * max(far[key], 1e-6)
        assert "k_proj.bias" in key or strays.mean() < 0.1, key


def test_devices_that_are_not_there():
    model = on("cpu")
    for device in ("gpu", "", "cuda:", "cuda:x", 0, 1.5):
        with pytest.raises(ValueError, match='`device` must be `None`, "cpu", "cuda" or "metal"'):
            model.to(device)
    for device in ("cuda:99", "metal", *([] if len(DEVICES) > 1 else ["cuda"])):
        with pytest.raises(ValueError, match=f"`device`.*{device}.*\nhint: "):
            model.to(device)
        with pytest.raises(ValueError, match="`device`"):
            BartBackbone(5, 1, 1, 8, 8, device=device)
    assert model.device == "cpu"
    model(token_arrays())


def test_what_there_is():
    first, *others = bart_fast.devices()
    assert first.device == "cpu" and first.name
    assert 0 < first.free <= first.memory or not Path("/proc/meminfo").exists()
    assert all(card.device.startswith("cuda:") for card in others)


# A core for cards: the plain one under another name, and what can be wrong with it.
FAKE = """
def load_core():
    {how}
"""
WRONG = {
    "raise ImportError('there is no driver of NVIDIA\\'s')": "there is no driver of NVIDIA's",
    "import no_such_library": "No module named 'no_such_library'",
    "import types; return types.SimpleNamespace(__version__='0.0.1')": "0.0.1 does not fit",
}


@pytest.mark.parametrize(("how", "why"), WRONG.items())
def test_a_package_for_cards_that_cannot_be_used(how, why, tmp_path):
    (tmp_path / "bart_fast_cuda.py").write_text(FAKE.format(how=how))
    script = tmp_path / "script.py"
    script.write_text(
        "import bart_fast\n"
        "backbone = bart_fast.BartBackbone(9, 1, 1, 8, 8)\n"
        "print(backbone.device)\n"
        "try:\n    backbone.to('cuda')\nexcept ValueError as error:\n    print(error)\n"
    )
    environment = {**os.environ, "PYTHONPATH": f"{tmp_path}:{os.environ.get('PYTHONPATH', '')}"}
    command = [sys.executable, str(script)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    assert done.stderr == ""
    device, message = done.stdout.split("\n", 1)
    assert device == "cpu"
    assert why in message and "`device`: 'cuda' cannot be used" in message and "hint: " in message


def test_a_package_for_cards_that_can_be_used(tmp_path):
    """It takes the place of the plain core, whoever imports it."""
    how = "from bart_fast import _core; _core.marked = True; return _core"
    (tmp_path / "bart_fast_cuda.py").write_text(FAKE.format(how=how))
    code = (
        "import bart_fast, sys; from bart_fast import _core; "
        "from bart_fast._runtime import core, cuda_problem; "
        "assert core is _core is sys.modules['bart_fast._core'] and _core.marked; "
        "assert cuda_problem is None"
    )
    environment = {**os.environ, "PYTHONPATH": f"{tmp_path}:{os.environ.get('PYTHONPATH', '')}"}
    subprocess.run([sys.executable, "-c", code], env=environment, check=True)


def test_goldens_as_a_card_computes_them(shared):
    """All of them once more, by candle's own operations on tensors as a card has them."""
    shared("golden/keras_tiny")
    environment = {**os.environ, "BART_FAST_DEVICE": "portable", "BART_FAST_WAY": "portable"}
    command = [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider"]
    done = subprocess.run(
        [*command, str(HERE / "golden")], env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout[-4000:]
