"""Training that computes inner values again: the same result, and the switch itself."""

import copy
import pickle

import numpy as np
import pytest
from tiny_models import TEXTS, tiny_backbone, tiny_model, token_arrays

import bart_fast


def train(model, steps=3):
    x = token_arrays()
    y = np.roll(x["decoder_token_ids"], -1, axis=1)
    bart_fast.set_random_seed(7)
    model.compile(optimizer=bart_fast.optimizers.SGD(1e-3))
    losses = [model.train_on_batch(x, y)[0] for _ in range(steps)]
    core = model.backbone._model
    return losses, {name: core.get_parameter(name) for name, _ in core.parameters()}


@pytest.mark.parametrize("dtype", ["float32", "mixed_bfloat16"])
@pytest.mark.parametrize("adapted", [False, True])
def test_training_is_the_same_with_and_without(dtype, adapted):
    def model(again):
        bart_fast.set_random_seed(3)
        model = tiny_model(dropout=0.3, dtype=dtype)
        if adapted:
            model.backbone.enable_lora(2)
        model.backbone.gradient_checkpointing = again
        return model

    (losses, weights), (again, weights_again) = train(model(False)), train(model(True))
    assert losses[2] != losses[0]
    np.testing.assert_allclose(again, losses, rtol=1e-4)
    for name, values in weights.items():
        np.testing.assert_allclose(weights_again[name], values, atol=1e-5, err_msg=name)


def test_the_switch_is_checked_and_goes_with_copies():
    model = tiny_model()
    assert model.backbone.gradient_checkpointing is False
    model.backbone.gradient_checkpointing = True
    for other in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert other.backbone.gradient_checkpointing is True
    with pytest.raises((TypeError, ValueError), match="`gradient_checkpointing`"):
        model.backbone.gradient_checkpointing = "yes"
    model.quantize("int8")
    assert model.backbone.gradient_checkpointing is True


def test_a_classifier_trains_with_it():
    model = bart_fast.BartTextClassifier(
        tiny_backbone(dropout=0.0),
        num_classes=2,
        preprocessor=bart_fast.models.BartTextClassifierPreprocessor(
            tiny_model().preprocessor.tokenizer, sequence_length=24
        ),
    )
    model.backbone.gradient_checkpointing = True
    model.compile(optimizer=bart_fast.optimizers.Adam(0.01))
    history = model.fit(TEXTS, [0, 1, 0, 1], epochs=9, verbose=0).history
    assert history["loss"][-1] < history["loss"][0]
