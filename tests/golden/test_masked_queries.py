"""Queries all of whose keys are masked give keras-hub's values, which depend on the dropout that a
model was built with (recorded by make_masked_queries.py)."""

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
