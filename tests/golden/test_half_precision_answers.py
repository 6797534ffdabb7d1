"""Answers of a model in float16 beside transformers' in float32: equal where its logits may err."""

import json

import numpy as np
import pytest

from bart_fast.models import BartSeq2SeqLM

MODELS = {"hf_tiny": "hf_bart_tiny", "hf_tiny_asym": "hf_bart_tiny_asym"}
# What the logits in float16 may err by; `test_precision.py` checks it. Most rows hang on less:
# logits of these models, which nobody trained, lie close together.
TOLERANCE = 0.02
DRAWS = 8
PAD, LIMIT = 2, 14
INPUTS = ("encoder_token_ids", "encoder_padding_mask")


def answers(model, recorded, settings):
    inputs = {name: recorded[name] for name in INPUTS}
    call = {"max_length": LIMIT, "num_beams": 1, **settings}
    output = model.generate(inputs, **call, return_dict_in_generate=True)
    ids = np.where(output.padding_mask, output.sequences, PAD)
    return np.pad(ids, ((0, 0), (0, LIMIT - ids.shape[1])), constant_values=PAD)


@pytest.mark.parametrize("device", ["cpu", "portable"])
@pytest.mark.parametrize("preset", MODELS)
def test_answers_are_equal_where_the_margin_exceeds_the_tolerance(shared, preset, device):
    folder = shared(f"golden/{preset}")
    with np.load(shared("golden/hf_tiny") / "golden_hf.npz") as arrays:
        recorded = {name: arrays[name] for name in arrays.files}
    cases = json.loads(str(recorded["cases_json"]))["cases"]
    exact = BartSeq2SeqLM.from_preset(folder, preprocessor=None)
    half = BartSeq2SeqLM.from_preset(folder, dtype="float16", device=device, preprocessor=None)
    expected = np.concatenate([answers(exact, recorded, each) for each in cases.values()])
    # A margin exceeds the tolerance where no error of this size in the logits changes the row.
    firm = np.ones(len(expected), dtype=bool)
    random = np.random.default_rng(0)
    core = exact.backbone._model
    bias = core.get_parameter("final_logits_bias")
    for _ in range(DRAWS):
        error = TOLERANCE * random.choice([-1, 1], bias.shape).astype(np.float32)
        core.set_parameters({"final_logits_bias": bias + error})
        moved = np.concatenate([answers(exact, recorded, each) for each in cases.values()])
        firm &= (moved == expected).all(axis=1)
    got = np.concatenate([answers(half, recorded, each) for each in cases.values()])
    assert firm.sum() > 100
    np.testing.assert_array_equal(got[firm], expected[firm])
