"""What keras-hub computes with the preset `keras_tiny`, number by number."""

import json
from pathlib import Path

import numpy as np
import pytest

from bart_fast import metrics, optimizers, samplers
from bart_fast.models import BartSeq2SeqLM

STOPS = ["nostop", "stop0", "stop16", "stop12", "stop9", "stop16_20", "stop32_21"]
# Of the others only these two ends are recorded.
ENDS = STOPS[:2]
SAMPLERS = {
    "greedy": {},
    "beam1": {"num_beams": 1},
    "beam2": {"num_beams": 2},
    "beam4": {"num_beams": 4},
    "beam5": {"num_beams": 5},
    "beam4_t2": {"num_beams": 4, "temperature": 2.0},
    "contrastive_k4_a0.6": {"k": 4, "alpha": 0.6},
}


@pytest.fixture(scope="module")
def model(keras_tiny):
    model = BartSeq2SeqLM.from_preset(str(keras_tiny))
    # The lengths that the preset was made with; keras-hub does not save them.
    model.preprocessor.encoder_sequence_length = 12
    model.preprocessor.decoder_sequence_length = 10
    return model


@pytest.fixture(scope="module")
def texts(keras_golden):
    return json.loads(str(keras_golden["tok_json"]))["texts"]


CASES = [
    (name, inputs, stop)
    for name in SAMPLERS
    for inputs in ("gen", "genp")
    for stop in (STOPS if name in ("greedy", "beam2", "beam4") else ENDS)
]


def arrays(golden, prefix):
    return {
        name.removeprefix(f"{prefix}/"): array
        for name, array in golden.items()
        if name.startswith(f"{prefix}/")
    }


def sampler(name, **arguments):
    if name == "greedy":
        return samplers.GreedySampler()
    if name.startswith("contrastive"):
        return samplers.ContrastiveSampler(**SAMPLERS[name])
    return samplers.BeamSampler(compat="keras", **SAMPLERS[name], **arguments)


def stop_ids(stop):
    return None if stop == "nostop" else [int(id) for id in stop[4:].split("_")]


# The forward pass.


def test_hidden_states(model, keras_golden):
    output = model.backbone(arrays(keras_golden, "fwd_in"))
    for name, expected in arrays(keras_golden, "fwd_out").items():
        if name != "logits":
            np.testing.assert_allclose(output[name], expected, rtol=0, atol=2e-5, err_msg=name)


@pytest.mark.parametrize("method", ["__call__", "predict"])
def test_logits(model, keras_golden, method):
    inputs = arrays(keras_golden, "fwd_in")
    # Batches of two rows and one: what a row gets must not depend on the others.
    arguments = {"batch_size": 2} if method == "predict" else {}
    logits = getattr(model, method)(inputs, **arguments)
    np.testing.assert_allclose(logits, keras_golden["fwd_out/logits"], rtol=0, atol=2e-5)


def test_token_embedding(model, keras_golden):
    embedding = model.backbone.token_embedding
    table = keras_golden["weights/token_embedding/embeddings"]
    np.testing.assert_array_equal(embedding.embeddings, table)
    ids = keras_golden["fwd_in/decoder_token_ids"]
    np.testing.assert_array_equal(embedding(ids), table[ids])
    hidden = keras_golden["fwd_out/decoder_sequence_output"]
    logits = embedding(hidden, reverse=True)
    np.testing.assert_allclose(logits, keras_golden["fwd_out/logits"], rtol=0, atol=2e-5)


def test_count_params(model, keras_golden):
    weights = arrays(keras_golden, "weights")
    assert model.count_params() == sum(array.size for array in weights.values()) == 13424


# Generation.


@pytest.mark.parametrize(("name", "inputs", "stop"), CASES)
def test_generated_ids(model, keras_golden, name, inputs, stop):
    prompts = arrays(keras_golden, {"gen": "gen_in", "genp": "gen_in_prompt"}[inputs])
    model.compile(sampler=sampler(name))
    output = model.generate(prompts, stop_token_ids=stop_ids(stop))
    expected = arrays(keras_golden, f"{name}/{inputs}/{stop}")
    mask = expected["decoder_padding_mask"]
    np.testing.assert_array_equal(output["decoder_padding_mask"], mask)
    np.testing.assert_array_equal(
        output["decoder_token_ids"][mask], expected["decoder_token_ids"][mask]
    )
    # Past the stop token given values stay.
    np.testing.assert_array_equal(
        output["decoder_token_ids"][~mask], prompts["decoder_token_ids"][~mask]
    )


@pytest.mark.parametrize(
    ("name", "inputs", "stop"), [case for case in CASES if case[0].startswith("beam")]
)
def test_all_beams(model, keras_golden, name, inputs, stop):
    expected = arrays(keras_golden, f"{name}/{inputs}/{stop}")
    prompts = arrays(keras_golden, {"gen": "gen_in", "genp": "gen_in_prompt"}[inputs])
    model.compile(sampler=sampler(name, return_all_beams=True))
    output = model.generate(prompts, stop_token_ids=stop_ids(stop))
    np.testing.assert_allclose(output["scores"], expected["all_scores"], rtol=0, atol=2e-5)
    if "all_prompts" in expected:
        mask = output["decoder_padding_mask"]
        np.testing.assert_array_equal(
            output["decoder_token_ids"][mask], expected["all_prompts"][mask]
        )


@pytest.mark.parametrize("inputs", ["gen_in", "gen_in_prompt"])
def test_contrastive_search_in_python_is_that_of_the_core(model, keras_golden, inputs):
    class Own(samplers.ContrastiveSampler):
        def similarity(self, h1, h2):
            return super().similarity(h1, h2)

    prompts = arrays(keras_golden, inputs)
    model.compile(sampler=Own(k=4))
    output = model.generate(prompts, min_new_tokens=3)
    model.compile(sampler=samplers.ContrastiveSampler(k=4))
    expected = model.generate(prompts, min_new_tokens=3)
    for name, array in expected.items():
        np.testing.assert_array_equal(output[name], array)


@pytest.mark.parametrize("row", range(5))
@pytest.mark.parametrize("name", ["greedy", "beam4"])
def test_rows_alone(model, keras_golden, name, row):
    prompts = {key: array[row : row + 1] for key, array in arrays(keras_golden, "gen_in").items()}
    model.compile(sampler=sampler(name))
    output = model.generate(prompts)
    expected = arrays(keras_golden, f"{name}/row{row}/stop0")
    mask = expected["decoder_padding_mask"]
    np.testing.assert_array_equal(output["decoder_padding_mask"], mask)
    np.testing.assert_array_equal(
        output["decoder_token_ids"][mask], expected["decoder_token_ids"][mask]
    )


def test_strings(model, keras_golden, texts):
    expected = json.loads(str(keras_golden["strings_json"]))
    prompts = json.loads(str(keras_golden["strings_json"])).keys()
    assert set(prompts) == {
        "greedy_str",
        "greedy_str_prompt",
        "beam5_str",
        "beam5_str_prompt",
        "greedy_str_max7",
    }
    model.compile(sampler="greedy")
    assert model.generate(texts[:4]) == expected["greedy_str"]
    assert model.generate(texts[:4], max_length=7) == expected["greedy_str_max7"]
    for text, answer in zip(texts, expected["greedy_str"], strict=False):
        assert model.generate(text) == answer
    model.compile(sampler=sampler("beam5"))
    assert model.generate(texts[:4]) == expected["beam5_str"]


@pytest.mark.parametrize("name", ["greedy", "beam5"])
def test_strings_with_prompts(model, keras_golden, texts, name):
    """The recorded prompts are those of `gen_in_prompt`; their text is that of its ids."""
    ids = keras_golden["gen_in_prompt/decoder_token_ids"]
    mask = keras_golden["gen_in_prompt/decoder_padding_mask"]
    prompts = model.preprocessor.generate_postprocess(
        {"decoder_token_ids": ids, "decoder_padding_mask": mask}
    )
    expected = json.loads(str(keras_golden["strings_json"]))[f"{name}_str_prompt"]
    model.compile(sampler=sampler(name))
    inputs = {"encoder_text": texts[:4], "decoder_text": prompts[:4]}
    answers = model.generate(inputs)
    assert answers == expected
    stripped = model.generate(inputs, strip_prompt=True)
    assert [p + s for p, s in zip(prompts[:4], stripped, strict=True)] == expected


# Training.


def test_evaluate(model, keras_golden):
    model.compile()
    x, y = arrays(keras_golden, "fit_x"), keras_golden["fit_y"]
    weights = keras_golden["fit_sample_weight"]
    preprocessor, model.preprocessor = model.preprocessor, None
    try:
        loss, accuracy = model.evaluate(x, y, sample_weight=weights, verbose=0)
    finally:
        model.preprocessor = preprocessor
    assert abs(loss - keras_golden["evaluate_loss"]) < 1e-5
    assert abs(accuracy - keras_golden["evaluate_acc"]) < 1e-6


@pytest.mark.parametrize(
    ("name", "optimizer", "tolerance", "key_bias_tolerance"),
    [
        ("sgd_1e-1", optimizers.SGD(0.1), 2e-6, 2e-6),
        # The exact gradient of a key bias is zero; Adam divides rounding by rounding there.
        ("adam_1e-2", optimizers.Adam(0.01), 3e-5, 1e-4),
    ],
)
def test_training_steps(keras_tiny, keras_golden, name, optimizer, tolerance, key_bias_tolerance):
    """Three steps on one batch, without dropout; every parameter is compared."""
    model = BartSeq2SeqLM.from_preset(str(keras_tiny), preprocessor=None, dropout=0.0)
    model.compile(optimizer=optimizer)
    x, y = arrays(keras_golden, "fit_x"), keras_golden["fit_y"]
    weights = keras_golden["fit_sample_weight"]
    losses = [model.train_on_batch(x, y, sample_weight=weights)[0] for _ in range(3)]
    recorded = arrays(keras_golden, f"train/{name}")
    np.testing.assert_allclose(losses, recorded.pop("losses"), rtol=0, atol=1e-5)
    trained = keras_arrays(model)
    compared = 0
    for path, expected in recorded.items():
        path = path.removeprefix("weights/")
        allowed = key_bias_tolerance if path.endswith("key/bias") else tolerance
        assert trained[path].shape == expected.shape, path
        worst = np.abs(trained[path] - expected).max()
        assert worst <= allowed, f"{path}: {worst} > {allowed}"
        compared += 1
    assert compared == len(arrays(keras_golden, "weights"))


def keras_arrays(model):
    """The weights under Keras' paths and in its shapes, as the golden file has them."""
    backbone = model.backbone
    split = (backbone.hidden_dim, backbone.num_heads, backbone.hidden_dim // backbone.num_heads)
    core = backbone._model
    return dict(keras_array(name, core.get_parameter(name), split) for name, _ in core.parameters())


def keras_array(name, value, split):
    """Path and array in Keras' form of one parameter in Hugging Face's."""
    width, heads, head_width = split
    parts = name.split(".")
    if name == "shared.weight":
        return "token_embedding/embeddings", value
    stack = parts[0]
    if parts[1] == "embed_positions":
        return f"{stack}_position_embedding/embeddings", value
    norm = {"weight": "gamma", "bias": "beta"}
    if parts[1] == "layernorm_embedding":
        return f"{stack}_embeddings_layer_norm/{norm[parts[2]]}", value
    layer = f"transformer_{stack}_layer_{parts[2]}"
    kind, last = parts[3], parts[-1]
    self_attention = "self_attention_layer" if stack == "encoder" else "self_attention"
    attention = {"self_attn": self_attention, "encoder_attn": "cross_attention"}
    if kind in attention:
        which = parts[4].removesuffix("_proj")
        dense = {"q": "query", "k": "key", "v": "value", "out": "attention_output"}[which]
        path = f"{layer}/{attention[kind]}/{dense}/{'kernel' if last == 'weight' else 'bias'}"
        if which == "out":
            value = value.T.reshape(heads, head_width, width) if last == "weight" else value
        else:
            value = value.T.reshape(split) if last == "weight" else value.reshape(split[1:])
        return path, value
    if kind in ("fc1", "fc2"):
        dense = {"fc1": "feedforward_intermediate_dense", "fc2": "feedforward_output_dense"}[kind]
        return f"{layer}/{dense}/{'kernel' if last == 'weight' else 'bias'}", (
            value.T if last == "weight" else value
        )
    named = {
        "self_attn_layer_norm": "self_attention_layer_norm",
        "encoder_attn_layer_norm": "cross_attention_layer_norm",
        "final_layer_norm": "feedforward_layer_norm",
    }
    return f"{layer}/{named[kind]}/{norm[last]}", value


@pytest.mark.parametrize(
    ("changed", "problem"),
    [
        ({"num_layers": 3}, "missing: "),
        ({"num_layers": 1}, "not expected: "),
        ({"intermediate_dim": 8}, "misshapen: "),
    ],
)
def test_sizes_that_the_weights_do_not_have_are_refused(keras_tiny, changed, problem):
    with pytest.raises(ValueError, match=problem):
        BartSeq2SeqLM.from_preset(keras_tiny, **changed)


FIT = json.loads((Path(__file__).parent / "keras_hub_fit.json").read_text())


@pytest.mark.parametrize("run", FIT["runs"], ids=[run["class_name"] for run in FIT["runs"]])
def test_a_run_of_fit_equals_keras_hub(keras_tiny, run):
    """Made by make_keras_hub_fit.py: metrics of both kinds, validation, four optimizers."""
    model = BartSeq2SeqLM.from_preset(str(keras_tiny), preprocessor=None, dropout=0.0)
    optimizer = getattr(optimizers, run["class_name"])(**run["config"])
    if "weight_decay" in run["config"]:
        optimizer.exclude_from_weight_decay(var_names=["bias", "gamma", "beta"])
    masked = metrics.Perplexity(from_logits=True, mask_token_id=5)
    model.compile(
        optimizer=optimizer,
        metrics=["accuracy", "perplexity"],
        weighted_metrics=["accuracy", masked],
    )
    x, y = {key: np.array(value) for key, value in FIT["x"].items()}, np.array(FIT["y"])
    weight = x["decoder_padding_mask"].astype(np.float32)
    options = {"batch_size": 2, "verbose": 0, "shuffle": False, "epochs": 2}
    got = model.fit(x, y, sample_weight=weight, validation_data=(x, y, weight), **options).history
    assert list(got) == list(run["history"])
    for key, values in run["history"].items():
        np.testing.assert_allclose(got[key], values, rtol=1e-5, err_msg=key)
    np.testing.assert_allclose(model.predict(x, verbose=0)[0], run["logits"], atol=5e-5)
