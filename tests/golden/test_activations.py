"""Activations other than BART's GELU give Hugging Face's logits (make_activations.py), are written
and read again, and have the gradients of their formulas."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from bart_fast import optimizers
from bart_fast.models import BartSeq2SeqLM

RECORDED = Path(__file__).with_name("activations.npz")
NAMES = ("gelu", "gelu_new", "quick_gelu", "relu", "swish", "tanh")


@pytest.fixture(scope="module")
def recorded():
    with np.load(RECORDED) as arrays:
        return {name: arrays[name] for name in arrays.files}


@pytest.fixture
def directory(request, shared, tmp_path):
    """`hf_tiny` with another activation."""
    folder = tmp_path / "preset"
    shutil.copytree(shared("golden/hf_tiny"), folder)
    config = json.loads((folder / "config.json").read_text())
    config["activation_function"] = request.param
    (folder / "config.json").write_text(json.dumps(config))
    return folder


@pytest.mark.parametrize("directory", NAMES, indirect=True)
def test_logits_equal_hugging_face(directory, recorded, request, tmp_path):
    name = request.node.callspec.params["directory"]
    model = BartSeq2SeqLM.from_preset(str(directory), preprocessor=None)
    inputs = {key: value for key, value in recorded.items() if "/" not in key}
    np.testing.assert_allclose(model(inputs), recorded[f"logits/{name}"], rtol=0, atol=2e-5)
    model.export_to_transformers(tmp_path / "exported")
    again = BartSeq2SeqLM.from_preset(str(tmp_path / "exported"), preprocessor=None)
    np.testing.assert_array_equal(again(inputs), model(inputs))
    if name != "gelu":
        with pytest.raises(ValueError, match="`activation_function` is "):
            model.save_to_preset(str(tmp_path / "keras"))


@pytest.mark.parametrize("directory", NAMES[1:], indirect=True)
def test_gradients_are_slopes(directory, recorded):
    model = BartSeq2SeqLM.from_preset(str(directory), preprocessor=None, dropout=0.0)
    model.compile(optimizer=optimizers.SGD(1.0))
    x = {key: value for key, value in recorded.items() if "/" not in key}
    y = x["decoder_token_ids"]
    before = model.get_weights()
    model.train_on_batch(x, y)
    gradients = [old - new for old, new in zip(before, model.get_weights(), strict=True)]
    random = np.random.default_rng(0)
    # The stored bias of the logits is not trained.
    steps = [
        random.standard_normal(shape).astype(np.float32) * (name != "final_logits_bias")
        for name, shape in model.backbone._model.parameters()
    ]
    losses = []
    for size in (1e-4, -1e-4):  # small: ReLU has kinks
        model.set_weights([w + np.float32(size) * d for w, d in zip(before, steps, strict=True)])
        losses.append(model.test_on_batch(x, y, return_dict=True)["loss"])
    slope = (losses[0] - losses[1]) / 2e-4
    expected = sum(float((g * d).sum()) for g, d in zip(gradients, steps, strict=True))
    assert slope == pytest.approx(expected, rel=0.02, abs=2e-3)
