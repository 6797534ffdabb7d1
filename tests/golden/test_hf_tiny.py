"""What Hugging Face's transformers computes with `hf_tiny` and `hf_tiny_asym`."""

import json
import shutil

import numpy as np
import pytest

from bart_fast.models import BartSeq2SeqLM

# Folder of the preset -> its name in the recorded answers.
MODELS = {"hf_tiny": "hf_bart_tiny", "hf_tiny_asym": "hf_bart_tiny_asym"}

# Each for both models.
CASES = 61
PAD, LIMIT = 2, 14


@pytest.fixture(scope="module")
def recorded(shared):
    with np.load(shared("golden/hf_tiny") / "golden_hf.npz") as arrays:
        return {name: arrays[name] for name in arrays.files}


@pytest.fixture(scope="module", params=MODELS)
def folder(request, shared):
    return shared(f"golden/{request.param}")


@pytest.fixture(scope="module")
def model(folder):
    return BartSeq2SeqLM.from_preset(str(folder), preprocessor=None)


def log_probabilities(model, sources, mask, decoder_ids, targets):
    """Of each target token, given the source and the decoder's input: `score()` counts them all."""
    every = np.ones(decoder_ids.shape, dtype=bool)
    arrays = {
        "encoder_token_ids": sources,
        "encoder_padding_mask": mask,
        "decoder_token_ids": decoder_ids,
        "decoder_padding_mask": every,
    }
    return model.score(arrays, targets.astype(int)).token_logprobs


def test_sizes(model, folder):
    config = json.loads((folder / "config.json").read_text())
    core = json.loads(model.backbone._model.config)
    assert core["decoder_layers"] == config["decoder_layers"]
    assert model.backbone.num_layers == config["encoder_layers"]
    again = type(model.backbone).from_config(model.backbone.get_config())
    assert json.loads(again._model.config) == core


def test_forward(shared, keras_golden):
    """`hf_tiny` has the weights of `keras_tiny`."""
    model = BartSeq2SeqLM.from_preset(str(shared("golden/hf_tiny")), preprocessor=None)
    names = ("encoder_token_ids", "encoder_padding_mask", "decoder_token_ids")
    inputs = {name: keras_golden[f"fwd_in/{name}"] for name in (*names, "decoder_padding_mask")}
    np.testing.assert_allclose(model(inputs), keras_golden["fwd_out/logits"], rtol=0, atol=2e-5)


def test_scores_of_given_targets(model, folder, recorded, keras_golden):
    weights = keras_golden["fit_sample_weight"]
    scores = weights * log_probabilities(
        model,
        keras_golden["fit_x/encoder_token_ids"],
        keras_golden["fit_x/encoder_padding_mask"],
        keras_golden["fit_x/decoder_token_ids"],
        keras_golden["fit_y"],
    )
    name = f"{MODELS[folder.name]}/score"
    np.testing.assert_allclose(scores, recorded[f"{name}/token_logprobs"], rtol=0, atol=1e-5)
    np.testing.assert_allclose(scores.sum(axis=1), recorded[f"{name}/sum"], rtol=0, atol=1e-4)


def test_generated_ids_and_scores(model, folder, recorded):
    """All cases in one test, so that what is compared can be counted."""
    inputs = {name: recorded[name] for name in ("encoder_token_ids", "encoder_padding_mask")}
    cases = json.loads(str(recorded["cases_json"]))["cases"]
    failures = []
    for case, settings in cases.items():
        expected = {
            name.rsplit("/", 1)[1]: array
            for name, array in recorded.items()
            if name.startswith(f"{MODELS[folder.name]}/{case}/")
        }
        call = {"max_length": LIMIT, "num_beams": 1, **settings}
        output = model.generate(inputs, **call, return_dict_in_generate=True, output_scores=True)
        ids = np.where(output.padding_mask, output.sequences, PAD)
        if not np.array_equal(ids, expected["sequences"]):
            failures.append(f"{case}: ids {ids.tolist()}, not {expected['sequences'].tolist()}")
            continue
        # The penalty -1 multiplies scores by the length, and their rounding with them.
        scores = expected.get("sequences_scores")
        if scores is not None and not close(output.sequences_scores, scores):
            failures.append(f"{case}: scores {output.sequences_scores}, not {scores}")
        # Behind a stop token the reference goes on to count.
        of_answer = output.padding_mask[:, 1:]
        logprobs = np.where(of_answer, expected["token_logprobs"], 0)
        # Its n-grams of the source have padding, so that </s> is not followed by it.
        first = 1 if case == "greedy_encngram2" else 0
        if not close(output.token_logprobs[:, first:], logprobs[:, first:]):
            failures.append(f"{case}: log probabilities {output.token_logprobs}, not {logprobs}")
    assert not failures, "\n".join(failures)
    assert len(cases) == CASES


def test_settings_of_the_checkpoint(folder, recorded, tmp_path):
    """What bart-large-cnn has in its generation_config.json, and the sampler "preset"."""
    cases = json.loads(str(recorded["cases_json"]))
    settings = {**cases["base"], **cases["cases"]["beam4_cnn_like"]}
    copy = tmp_path / "preset"
    shutil.copytree(folder, copy)
    (copy / "generation_config.json").write_text(json.dumps(settings))
    model = BartSeq2SeqLM.from_preset(str(copy))
    model.compile(sampler="preset")
    inputs = {name: recorded[name] for name in ("encoder_token_ids", "encoder_padding_mask")}
    output = model.generate(inputs)
    expected = recorded[f"{MODELS[folder.name]}/beam4_cnn_like/sequences"]
    ids = np.where(output["decoder_padding_mask"], output["decoder_token_ids"], PAD)
    np.testing.assert_array_equal(ids, expected)
    # Answers to strings start with the start token alone, and <s> is forced.
    strings = model.generate("a text", return_dict_in_generate=True)
    assert strings.sequences[0, :2].tolist() == [0, 3]
    assert strings.padding_mask.sum() in range(7, 13)


def close(got, expected):
    return got.shape == expected.shape and np.allclose(got, expected, rtol=1e-6, atol=1e-5)


@pytest.mark.parametrize("case", ["greedy", "beam4"])
def test_log_probabilities_of_answers(model, folder, recorded, case):
    prefix = f"{MODELS[folder.name]}/{case}"
    sequences, expected = recorded[f"{prefix}/sequences"], recorded[f"{prefix}/token_logprobs"]
    got = log_probabilities(
        model,
        recorded["encoder_token_ids"],
        recorded["encoder_padding_mask"],
        sequences[:, :-1],
        sequences[:, 1:],
    )
    np.testing.assert_allclose(got[expected != 0], expected[expected != 0], rtol=0, atol=1e-5)


def test_strings_start_as_in_keras_hub(folder, keras_golden):
    """With a preprocessor answers start with `</s> <s>`; the beams are Hugging Face's."""
    model = BartSeq2SeqLM.from_preset(str(folder))
    model.compile(sampler="greedy")
    assert model.preprocessor.decoder_sequence_length == 20
    texts = json.loads(str(keras_golden["tok_json"]))["texts"]
    if folder.name == "hf_tiny":
        expected = json.loads(str(keras_golden["strings_json"]))["greedy_str"]
        assert model.generate(texts[:4], max_length=10) == expected
    else:
        assert len(model.generate(texts, max_length=10)) == len(texts)
