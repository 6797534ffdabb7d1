"""Attention to the source is that of Hugging Face's transformers (recorded by
make_cross_attentions.py), and spans of tokens are those of its tokenizer."""

import json
from pathlib import Path

import numpy as np
import pytest

from bart_fast.models import BartSeq2SeqLM, BartTokenizer

CALLS = {"greedy": {"num_beams": 1}, "beams": {"num_beams": 3, "num_return_sequences": 2}}


@pytest.fixture(scope="module")
def recorded():
    with np.load(Path(__file__).with_name("cross_attentions.npz")) as arrays:
        return {name: arrays[name] for name in arrays.files}


@pytest.fixture(scope="module")
def sources(shared):
    with np.load(shared("golden/hf_tiny") / "golden_hf.npz") as arrays:
        return {name: arrays[name] for name in ("encoder_token_ids", "encoder_padding_mask")}


@pytest.mark.parametrize("name", ["hf_tiny", "hf_tiny_asym"])
def test_weights(shared, recorded, sources, name):
    model = BartSeq2SeqLM.from_preset(str(shared(f"golden/{name}")), preprocessor=None)
    decoder_ids = sources["encoder_token_ids"][:, ::2]
    targets = {
        "decoder_token_ids": decoder_ids,
        "decoder_padding_mask": np.ones(decoder_ids.shape, bool),
    }
    expected = recorded[f"{name}/forward"]
    whole = model.cross_attention({**sources, **targets})
    np.testing.assert_allclose(whole.cross_attentions, expected, rtol=0, atol=1e-5)
    np.testing.assert_array_equal(whole.alignments, expected.mean(axis=(1, 2)).argmax(axis=-1))
    last = model.cross_attention({**sources, **targets}, layers=[-1])
    np.testing.assert_array_equal(last.cross_attentions, whole.cross_attentions[:, -1:])
    for call, settings in CALLS.items():
        output = model.generate(
            sources,
            max_length=12,
            return_dict_in_generate=True,
            output_attentions=True,
            **settings,
        )
        ids = np.where(output.padding_mask, output.sequences, 2)
        np.testing.assert_array_equal(ids, recorded[f"{name}/{call}/sequences"])
        # The reference goes on behind a stop token.
        real = output.padding_mask[:, None, None, :, None]
        expected = np.where(real, recorded[f"{name}/{call}/weights"], 0)
        np.testing.assert_allclose(output.cross_attentions, expected, rtol=0, atol=1e-5)
        chosen = np.where(output.padding_mask, expected.mean(axis=(1, 2)).argmax(axis=-1), -1)
        chosen[:, 0] = -1
        np.testing.assert_array_equal(output.alignments, chosen)


def test_spans(bart_bpe, recorded):
    tokenizer = BartTokenizer.from_preset(str(bart_bpe))
    spans = json.loads(str(recorded["spans_json"]))
    assert tokenizer.tokenize(spans["texts"]) == spans["ids"]
    assert [row.tolist() for row in tokenizer.offsets(spans["texts"])] == spans["spans"]
