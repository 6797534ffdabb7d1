"""Precisions: names that `dtype` takes, `quantize()`, and files, copies and training in each."""

import copy
import json
import pickle

import numpy as np
import pytest
from tiny_models import (
    END,
    PROMPT,
    SIZES,
    SOURCE,
    TEXTS,
    attends_in_bfloat16,
    tiny_backbone,
    tiny_model,
    token_arrays,
)

from bart_fast import _core, optimizers
from bart_fast._dtypes import PRECISIONS
from bart_fast.models import BartBackbone, BartSeq2SeqLM, BartTextClassifier

COARSE = ("float16", "bfloat16", "int8")
PAIRS = {"encoder_text": TEXTS, "decoder_text": TEXTS[::-1]}


class Named:
    """As an object of Keras or torch that has its name on it."""

    def __init__(self, name):
        self.name = name


def policy(**config):
    return {"module": "keras", "class_name": "DTypePolicy", "config": config}


def in_precision(dtype, **arguments):
    """The tiny model in another precision."""
    model = tiny_model(**arguments)
    model.backbone._model = model.backbone._model.to_dtype(dtype)
    return model


def assert_same(left, right):
    """Both have the same precision and the same bits."""
    left, right = left._model, right._model
    assert left.dtype == right.dtype
    for name, _ in left.parameters():
        assert left.get_parameter(name).tobytes() == right.get_parameter(name).tobytes(), name
        for a, b in zip(left.get_int8(name) or (), right.get_int8(name) or (), strict=True):
            assert a.tobytes() == b.tobytes(), name


def largest_difference(a, b):
    return np.abs(a - b).max() / np.abs(b).max()


# Names.


@pytest.mark.parametrize(
    ("dtype", "expected"),
    [
        (None, "float32"),
        *((name, name) for name in PRECISIONS),
        ("int8_from_float32", "int8"),
        (policy(name="mixed_bfloat16"), "mixed_bfloat16"),
        (policy(mode="int8", source_name=None), "int8"),
        (policy(policy_map={"a": policy(mode="int8")}, default_policy=None), "int8"),
        ({"token_embedding": Named("int8_from_float32"), "b": Named("float32")}, "int8"),
        (Named("bfloat16"), "bfloat16"),
        (np.float16, "float16"),
        (np.dtype("float32"), "float32"),
        (np.int8, "int8"),
    ],
)
def test_what_dtype_may_be(dtype, expected):
    backbone = BartBackbone(**SIZES, dtype=dtype)
    assert backbone.dtype == backbone._model.dtype == expected
    again = BartBackbone.from_config(json.loads(json.dumps(backbone.get_config())))
    assert again.dtype == expected
    assert again.get_config() == backbone.get_config()


@pytest.mark.parametrize("dtype", ["int4", "int4/128_from_float32", "float8", "gptq/4/128", "awq"])
def test_other_quantisations_are_refused_by_name(dtype):
    with pytest.raises(ValueError, match=rf"`dtype` '{dtype.partition('_from')[0]}' is not .*int8"):
        BartBackbone(**SIZES, dtype=dtype)
    with pytest.raises(ValueError, match=r"`mode` .* is not implemented"):
        tiny_backbone().quantize(dtype)


@pytest.mark.parametrize(
    "dtype",
    ["float64", "int32", "", "FLOAT32", 3, True, [], {}, policy(), object(), "int8_from_bfloat16"],
)
def test_what_is_no_precision_is_refused(dtype):
    with pytest.raises(ValueError, match=r'`dtype` must be `None`, "float32", .*"int8"\. Received'):
        BartBackbone(**SIZES, dtype=dtype)


def test_a_backbone_says_how_keras_would_describe_it():
    backbone = BartBackbone(**SIZES, dtype="int8", core_config={"decoder_layers": 1})
    policies = backbone.get_config()["dtype"]["config"]["policy_map"]
    assert len(policies) == 1 + 2 * 6 + 10
    assert "transformer_decoder_layer_0/cross_attention/value" in policies
    assert not any("decoder_layer_1" in path or "norm" in path for path in policies)


# Values.


@pytest.mark.parametrize("dtype", COARSE)
def test_weights_are_rounded_when_they_are_set(dtype):
    exact = tiny_backbone()
    backbone = BartBackbone(**SIZES, dtype=dtype)
    core = backbone._model
    core.set_parameters({n: exact._model.get_parameter(n) for n, _ in core.parameters()})
    steps = {"float16": 2.0**-11, "bfloat16": 2.0**-8, "int8": None}
    for name, _ in core.parameters():
        values, got = exact._model.get_parameter(name), core.get_parameter(name)
        if dtype == "int8" and core.get_int8(name) is None:
            np.testing.assert_array_equal(got, values)
        elif dtype == "int8":
            step = np.abs(values).max(axis=1, keepdims=True) / 127
            assert (np.abs(got - values) <= 0.5001 * step).all(), name
        else:
            np.testing.assert_allclose(got, values, rtol=steps[dtype], atol=1e-7, err_msg=name)
    assert_same(backbone, in_precision(dtype).backbone)


def test_mixed_precisions_keep_their_weights_and_round_them_in_products():
    exact, x = tiny_model(), token_arrays()
    for dtype, kept in (("mixed_float16", "float16"), ("mixed_bfloat16", "bfloat16")):
        mixed = in_precision(dtype)
        for name, _ in exact.backbone._model.parameters():
            same = mixed.backbone._model.get_parameter(name)
            np.testing.assert_array_equal(same, exact.backbone._model.get_parameter(name))
        assert 0 < largest_difference(mixed(x), exact(x)) < 0.15
        assert largest_difference(mixed(x), in_precision(kept)(x)) < 0.15


@pytest.mark.parametrize("dtype", PRECISIONS)
def test_both_ways_of_computing_agree(dtype):
    model, x = in_precision(dtype), token_arrays()
    kernel = model(x)
    try:
        _core.set_portable(True)
        portable = model(x)
    finally:
        _core.set_portable(False)
    allowed = 1e-5 if "float32" in dtype else 0.02
    if dtype in ("bfloat16", "int8") and attends_in_bfloat16():
        # By kernels alone: as far as from float32. Measured: 0.051, 0.13 of 5.7.
        allowed = 0.25
    assert largest_difference(kernel, portable) < allowed


def test_what_float16_cannot_hold_is_refused():
    core = BartBackbone(**SIZES, dtype="float16")._model
    before = core.get_parameter("shared.weight")
    too_large = {
        "encoder.layernorm_embedding.bias": np.zeros(16, np.float32),
        "shared.weight": np.full((SIZES["vocabulary_size"], 16), 7e4, np.float32),
    }
    with pytest.raises(ValueError, match=r"`shared.weight` has the value 70000.*16 bits") as caught:
        core.set_parameters(too_large)
    assert "hint: " in str(caught.value)
    np.testing.assert_array_equal(core.get_parameter("shared.weight"), before)


def test_layers_too_wide_for_int8_are_refused():
    with pytest.raises(ValueError, match="`dtype`: int8 multiplies at most 133144 inputs, `enc"):
        BartBackbone(**{**SIZES, "intermediate_dim": 140_000}, dtype="int8")


def test_summary_counts_the_bytes_of_the_precision():
    backbone = tiny_backbone()
    count = backbone.count_params()
    matrices = [s for _, s in backbone._model.parameters() if len(s) == 2 and s[0] != 24]
    matrices += [[24, 16]] * 4  # the first layer of each feed-forward block has as many rows
    rows, quantised = sum(s[0] for s in matrices), sum(s[0] * s[1] for s in matrices)
    expected = {"float32": 4 * count, "bfloat16": 2 * count, "mixed_float16": 4 * count}
    expected["int8"] = 4 * (count - quantised) + quantised + 4 * rows
    for dtype, size in expected.items():
        model, lines = in_precision(dtype), []
        assert model.count_params() == count
        model.summary(print_fn=lines.append)
        assert f"Total params: {count:,} ({size / 1024:.2f} KB)" in lines[0]


# quantize().


@pytest.mark.parametrize("whole", [True, False])
def test_quantize(whole):
    model = tiny_model()
    x = token_arrays()
    exact = model(x)
    assert (model if whole else model.backbone).quantize("int8") is None
    assert model.backbone.dtype == "int8"
    assert_same(model.backbone, in_precision("int8").backbone)
    # The tiny model's weights are large, so that it shows: 0.158.
    assert 0 < largest_difference(model(x), exact) < 0.3
    assert model.generate(TEXTS)
    for again in (model, model.backbone):
        with pytest.raises(ValueError, match=r"`mode` has been applied: .*quantised already"):
            again.quantize("int8")


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        ({}, '`mode` must be "int8". Received: None'),
        ({"mode": "int5"}, "`mode` must be"),
        ({"mode": 8}, "`mode` must be"),
        ({"mode": "int4"}, "'int4' is not implemented"),
        ({"mode": "int8", "config": object()}, "`config` must be `None`"),
        ({"mode": "int8", "filters": "encoder"}, "`filters` must be `None`"),
    ],
)
def test_quantize_refuses(arguments, problem):
    model = tiny_model()
    for each in (model, model.backbone):
        with pytest.raises(ValueError, match=problem):
            each.quantize(**arguments)
    assert model.backbone.dtype == "float32"


# Training.


@pytest.mark.parametrize("dtype", COARSE)
def test_coarse_weights_are_not_trained(dtype):
    model = in_precision(dtype)
    before = copy.deepcopy(model.backbone)
    for train in (
        lambda: model.fit(PAIRS, verbose=0),
        lambda: model.train_on_batch(*model.preprocessor(PAIRS)),
    ):
        with pytest.raises(ValueError, match=f"`dtype`: a model in {dtype} cannot be trained") as e:
            train()
        assert 'hint: load it with dtype="float32" or "mixed_bfloat16"' in str(e.value)
    assert_same(model.backbone, before)
    loss, _ = model.evaluate(PAIRS, verbose=0)
    assert np.isfinite(loss)


def one_step(dtype):
    """The loss of a step, the weights after it, and what each changed by."""
    backbone = BartBackbone(300, 2, 4, 64, 128, dropout=0.0, max_sequence_length=32, dtype=dtype)
    core, random = backbone._model, np.random.default_rng(0)
    start = {
        name: random.normal(1.0 if "norm.weight" in name else 0.0, 0.1, shape).astype(np.float32)
        for name, shape in core.parameters()
    }
    core.set_parameters(start)
    model = BartSeq2SeqLM(backbone, None, compile=False)
    model.compile(optimizer=optimizers.SGD(0.5), weighted_metrics=None)
    mask = np.arange(20) < random.integers(1, 21, (7, 1))
    ids = random.integers(3, 300, (5, 7, 20))
    x = {
        "encoder_token_ids": ids[0],
        "encoder_padding_mask": mask,
        "decoder_token_ids": ids[1],
        "decoder_padding_mask": mask[::-1],
    }
    loss = model.train_on_batch(x, ids[2])
    after = {name: core.get_parameter(name) for name in start}
    return loss, after, {name: start[name] - after[name] for name in start}


def test_mixed_precisions_keep_float32_weights_and_take_the_steps_of_float32():
    """Products of training are in bfloat16 where the processor has them, else in float32."""
    loss, after, steps = one_step("float32")
    of_float16 = one_step("mixed_float16")
    assert of_float16[0] == loss
    rounded_loss, rounded_after, rounded_steps = one_step("mixed_bfloat16")
    assert abs(rounded_loss - loss) < 2e-3 * loss
    for name in after:
        np.testing.assert_array_equal(of_float16[1][name], after[name], err_msg=name)
        # Floats of 32 bits, which 16 could not hold.
        assert np.any(rounded_after[name].view(np.uint32) & 0xFFFF), name
        a, b = steps[name].ravel().astype(float), rounded_steps[name].ravel().astype(float)
        size = np.linalg.norm(a)
        if size > 1e-5:  # Biases of keys have no gradient.
            assert a @ b > 0.999 * size * np.linalg.norm(b), name
            assert abs(np.linalg.norm(b) - size) < 0.02 * size, name


# Files and copies.


@pytest.mark.parametrize("dtype", PRECISIONS)
def test_presets(tmp_path, dtype):
    model = in_precision(dtype)
    model.save_to_preset(tmp_path / "whole")
    model.save_to_preset(tmp_path / "shards", max_shard_size=3000 / 1024**3)
    assert len(list((tmp_path / "shards").glob("model_*.weights.h5"))) > 2
    for name in ("whole", "shards"):
        again = BartSeq2SeqLM.from_preset(tmp_path / name, dtype=dtype)
        assert_same(again.backbone, model.backbone)
        assert again.generate(TEXTS) == model.generate(TEXTS)
        by_itself = BartBackbone.from_preset(tmp_path / name)
        assert by_itself.dtype == ("int8" if dtype == "int8" else "float32")
        for parameter, _ in by_itself._model.parameters():
            np.testing.assert_array_equal(
                by_itself._model.get_parameter(parameter),
                model.backbone._model.get_parameter(parameter),
            )
    config = json.loads((tmp_path / "whole/config.json").read_text())
    assert config["config"]["dtype"] == model.backbone.get_config()["dtype"]
    task = json.loads((tmp_path / "whole/task.json").read_text())
    assert task["config"]["backbone"] == config
    random = BartBackbone.from_preset(tmp_path / "whole", load_weights=False)
    assert random.dtype == by_itself.dtype


@pytest.mark.parametrize("dtype", PRECISIONS)
@pytest.mark.parametrize("name", ["w.weights.h5", "w.safetensors"])
def test_files_of_weights(tmp_path, dtype, name):
    model = in_precision(dtype)
    for each in (model, model.backbone):
        each.save_weights(tmp_path / name)
        other = BartSeq2SeqLM(BartBackbone(**SIZES, dtype=dtype))
        other.load_weights(tmp_path / name)
        assert_same(other.backbone, model.backbone)
    # A model of another precision takes them in its own.
    for into in ("float32", "int8"):
        other = BartBackbone(**SIZES, dtype=into)
        other.load_weights(tmp_path / name)
        expected = model.backbone._model.to_dtype("float32").to_dtype(into)
        assert other.dtype == into
        if dtype != into:
            np.testing.assert_array_equal(
                other.token_embedding.embeddings, expected.get_parameter("shared.weight")
            )


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda x: pickle.loads(pickle.dumps(x))])
@pytest.mark.parametrize("dtype", PRECISIONS)
def test_copies(copied, dtype):
    model = in_precision(dtype)
    other = copied(model)
    assert_same(other.backbone, model.backbone)
    assert other.generate(TEXTS) == model.generate(TEXTS)


@pytest.mark.parametrize("dtype", PRECISIONS)
def test_exports(tmp_path, dtype):
    model = in_precision(dtype)
    model.export_to_transformers(tmp_path)
    stored = dtype if dtype in ("float16", "bfloat16") else "float32"
    config = json.loads((tmp_path / "config.json").read_text())
    assert config["torch_dtype"] == stored
    header = (tmp_path / "model.safetensors").read_bytes()[8:]
    kinds = {"float16": b"F16", "bfloat16": b"BF16", "float32": b"F32"}
    assert b'"dtype":"%s"' % kinds[stored] in header
    wide = BartBackbone.from_preset(tmp_path)
    assert wide.dtype == "float32"
    for name, _ in model.backbone._model.parameters():
        np.testing.assert_array_equal(
            wide._model.get_parameter(name), model.backbone._model.get_parameter(name)
        )
    if dtype != "int8":
        assert_same(model.backbone, BartBackbone.from_preset(tmp_path, dtype=dtype))


@pytest.mark.parametrize("dtype", PRECISIONS)
def test_classifiers_keep_their_head_in_float32(tmp_path, dtype):
    backbone = in_precision(dtype).backbone
    model = BartTextClassifier(backbone, num_classes=3)
    if dtype == "int8":
        model = BartTextClassifier(tiny_backbone(), num_classes=3)
        model.quantize("int8")
    x = {"token_ids": SOURCE["encoder_token_ids"], "padding_mask": SOURCE["encoder_padding_mask"]}
    logits = model.predict(x)
    copies = [copy.deepcopy(model)]
    model.save_to_preset(tmp_path / "keras")
    copies.append(BartTextClassifier.from_preset(tmp_path / "keras", dtype=dtype))
    for name in ("w.weights.h5", "w.safetensors"):
        model.save_weights(tmp_path / name)
        copies.append(BartTextClassifier(BartBackbone(**SIZES, dtype=dtype), num_classes=3))
        copies[-1].load_weights(tmp_path / name)
    for other in copies:
        assert other.backbone.dtype == dtype
        np.testing.assert_array_equal(other.predict(x), logits)


@pytest.mark.parametrize("size", [20, 41])
def test_resized_vocabularies_keep_their_bits(size):
    model = in_precision("int8")
    table = model.backbone._model.get_int8("shared.weight")
    model.backbone.resize_token_embeddings(size)
    kept = min(size, SIZES["vocabulary_size"])
    resized = model.backbone._model.get_int8("shared.weight")
    assert resized[0].shape == (size, SIZES["hidden_dim"])
    for before, after in zip(table, resized, strict=True):
        np.testing.assert_array_equal(after[:kept], before[:kept])
    assert model.backbone.dtype == "int8"


def test_generate_and_score_in_int8():
    model = in_precision("int8", preprocessor=None)
    batch = {**SOURCE, **PROMPT}
    together = model.generate(batch, stop_token_ids=END)["decoder_token_ids"]
    for row in range(2):
        alone = model.generate({n: a[row : row + 1] for n, a in batch.items()}, stop_token_ids=END)
        np.testing.assert_array_equal(alone["decoder_token_ids"][0], together[row])


@pytest.mark.filterwarnings("default")
@pytest.mark.timeout(400)
def test_keras_hub_loads_int8_presets(tmp_path):
    keras_hub = pytest.importorskip("keras_hub")
    model = in_precision("int8", preprocessor=None)
    model.save_to_preset(tmp_path)
    theirs = keras_hub.models.BartSeq2SeqLM.from_preset(str(tmp_path)).backbone
    x = token_arrays()
    hidden = theirs(x)["decoder_sequence_output"]
    logits = np.asarray(theirs.token_embedding(hidden, reverse=True))
    np.testing.assert_allclose(model(x), logits, rtol=0, atol=2e-4)
