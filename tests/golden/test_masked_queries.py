"""Queries all of whose keys are masked give keras-hub's values, which depend on the dropout that a
model was built with (recorded by make_masked_queries.py); and the loss is that of these values."""

from pathlib import Path

import numpy as np
import pytest

import bart_fast

RECORDED = Path(__file__).with_name("masked_queries.npz")


@pytest.mark.parametrize("dropout", [0.0, 0.1])
def test_a_query_without_keys_gets_what_keras_hub_gives(keras_tiny, dropout):
    preset = bart_fast.BartBackbone.from_preset(keras_tiny)
    backbone = bart_fast.BartBackbone.from_config({**preset.get_config(), "dropout": dropout})
    names = [name for name, _ in preset._model.parameters()]
    backbone._model.set_parameters({name: preset._model.get_parameter(name) for name in names})
    with np.load(RECORDED) as recorded:
        answer = backbone({key: recorded[key] for key in recorded.files if "/" not in key})
        for name, values in answer.items():
            expected = recorded[f"dropout_{dropout}/{name}"]
            np.testing.assert_allclose(values, expected, rtol=0, atol=2e-5, err_msg=name)


def random_masks(random, shape):
    """From all False to all True."""
    return random.random(shape) < random.choice([0.0, 0.3, 0.7, 1.0])


@pytest.mark.parametrize("dropout", [0.0, 0.1])
def test_the_loss_is_that_of_the_logits_whatever_masks_and_weights(keras_tiny, dropout):
    model = bart_fast.BartSeq2SeqLM.from_preset(keras_tiny, preprocessor=None, dropout=dropout)
    random = np.random.default_rng(4)
    for _ in range(40):
        rows, source, target = random.integers(1, 5, 3)
        x = {}
        for stack, length in (("encoder", source), ("decoder", target)):
            x[f"{stack}_token_ids"] = random.integers(0, 30, (rows, length))
            x[f"{stack}_padding_mask"] = random_masks(random, (rows, length))
        labels = random.integers(0, 30, (rows, target))
        weights = random.random(labels.shape) * random_masks(random, labels.shape)
        logits = model(x).astype(np.float64)
        chosen = np.take_along_axis(logits, labels[..., None], -1)[..., 0]
        loss = (weights * (np.log(np.exp(logits).sum(-1)) - chosen)).mean()
        reported = model.test_on_batch(x, labels, weights, return_dict=True)["loss"]
        assert reported == pytest.approx(loss, abs=2e-6)


def test_a_step_over_sources_without_any_real_token(keras_tiny):
    model = bart_fast.BartSeq2SeqLM.from_preset(keras_tiny, preprocessor=None, dropout=0.0)
    ids, real = np.array([[3, 5, 6]]), np.ones((1, 3), bool)
    x = {"encoder_token_ids": ids, "encoder_padding_mask": ~real}
    x |= {"decoder_token_ids": ids, "decoder_padding_mask": real}
    losses = [model.train_on_batch(x, ids)[0] for _ in range(3)]
    assert np.isfinite(losses).all()
    assert losses[2] < losses[0]
