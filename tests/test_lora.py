"""LoRA: what is trained, that files hold all of it, keras-hub's file and PEFT's, and bad input."""

import copy
import json
import pickle

import h5py
import numpy as np
import pytest
from tiny_models import END, tiny_model, token_arrays

import bart_fast
from bart_fast import _core


def adapted(dtype=None, **arguments):
    bart_fast.set_random_seed(5)
    model = tiny_model(dtype=dtype)
    model.backbone.enable_lora(**{"rank": 2, **arguments})
    return model


def logits(model):
    x = token_arrays()
    hidden = model.backbone(x)["decoder_sequence_output"]
    return model.backbone.token_embedding(hidden, reverse=True)


def trained(model, steps=3):
    x = token_arrays()
    y = np.roll(x["decoder_token_ids"], -1, axis=1)
    model.compile(optimizer=bart_fast.optimizers.Adam(0.05))
    for _ in range(steps):
        model.train_on_batch(x, y)
    return model


def cosine(a, b):
    return float((a * b).sum() / np.sqrt((a * a).sum() * (b * b).sum()))


def weights(model):
    core = model.backbone._model
    return {name: core.get_parameter(name, True) for name, _ in core.parameters()}


@pytest.mark.parametrize("dtype", [None, "mixed_bfloat16", "bfloat16", "float16", "int8"])
def test_only_additions_change_and_a_file_holds_all_of_them(dtype, tmp_path):
    model = adapted(dtype)
    before, plain = weights(model), logits(tiny_model(dtype=dtype))
    np.testing.assert_array_equal(logits(model), plain)
    trained(model)
    for name, values in weights(model).items():
        np.testing.assert_array_equal(values, before[name], err_msg=name)
    answer = logits(model)
    assert np.abs(answer - plain).max() > 1e-3
    for file in ("x.lora.h5", "x.safetensors"):
        model.backbone.save_lora_weights(tmp_path / file)
        other = tiny_model(dtype=dtype)
        other.backbone.load_lora_weights(tmp_path / file)
        np.testing.assert_array_equal(logits(other), answer)
    np.testing.assert_array_equal(logits(copy.deepcopy(model)), answer)
    np.testing.assert_array_equal(logits(pickle.loads(pickle.dumps(model))), answer)


def test_what_is_trained_is_what_keras_adapts():
    model = adapted()
    names = model.backbone.trainable_parameters
    assert len(names) == 2 * (2 * 2 + 2 * 4)
    assert all(".q_proj.lora_" in name or ".v_proj.lora_" in name for name in names)
    before = model.count_params()
    text = []
    model.summary(print_fn=text.append)
    # Two in each encoder layer and four in each decoder layer: A [2 heads * 2, 16], B [8, 2].
    added = (2 * 2 + 2 * 4) * (2 * 2 * 16 + 8 * 2)
    assert f"Trainable params: {added:,} " in text[0]
    assert f"Non-trainable params: {before:,} " in text[0]


def test_saved_presets_and_weights_hold_the_sum(tmp_path):
    for dtype, least in ((None, 1 - 1e-6), ("int8", 0.9)):  # in int8 the sums are rounded anew
        model = trained(adapted(dtype))
        answer = logits(model)
        model.save_to_preset(tmp_path / "keras")
        model.export_to_transformers(tmp_path / "transformers")
        model.save_weights(tmp_path / "x.weights.h5")
        for preset in ("keras", "transformers"):
            other = bart_fast.BartSeq2SeqLM.from_preset(str(tmp_path / preset))
            assert other.backbone.lora_adapters == []
            assert cosine(logits(other), answer) > least
        other = tiny_model(dtype=dtype)
        other.load_weights(tmp_path / "x.weights.h5")
        assert cosine(logits(other), answer) > least


def test_several_adapters_merge_and_unmerge():
    model = trained(adapted())
    backbone = model.backbone
    first, plain = logits(model), logits(tiny_model())
    backbone.enable_lora(1, ["fc1", "decoder.layers.0.fc2"], alpha=4.0, adapter="second")
    second = logits(trained(model))
    assert backbone.lora_adapters == ["default", "second"]
    assert backbone.active_lora_adapter == "second"
    before = weights(model)
    backbone.set_lora_adapter("default")
    np.testing.assert_array_equal(logits(model), first)
    backbone.merge_lora()
    np.testing.assert_allclose(logits(model), first, atol=5e-4)
    with pytest.raises(ValueError, match="is merged into the weights\nhint: call `unmerge_lora"):
        backbone.set_lora_adapter("second")
    np.testing.assert_allclose(logits(pickle.loads(pickle.dumps(model))), first, atol=5e-4)
    backbone.unmerge_lora()
    for name, values in weights(model).items():
        np.testing.assert_array_equal(values, before[name])
    backbone.set_lora_adapter("second")
    np.testing.assert_array_equal(logits(model), second)
    backbone.set_lora_adapter(None)
    np.testing.assert_array_equal(logits(model), plain)
    backbone.delete_lora_adapter("default")
    assert backbone.lora_adapters == ["second"]


def test_quantizing_keeps_the_additions():
    model = trained(adapted())
    answer, plain = logits(model), logits(tiny_model())
    model.quantize("int8")
    assert cosine(logits(model), answer) > max(0.9, cosine(plain, answer))
    trained(model)


def test_generation_uses_the_additions():
    model = trained(adapted(), steps=40)
    x = token_arrays()
    source = {name: x[name] for name in ("encoder_token_ids", "encoder_padding_mask")}
    start = {
        "decoder_token_ids": np.full((len(x["encoder_token_ids"]), 1), END),
        "decoder_padding_mask": np.ones((len(x["encoder_token_ids"]), 1), bool),
    }

    def ids():
        model.compile(sampler="greedy")
        inputs = {
            **source,
            **{k: np.pad(v, ((0, 0), (0, 7))) for k, v in start.items()},
        }
        return model.generate(inputs, stop_token_ids=None)["decoder_token_ids"]

    additions = ids()
    model.backbone.merge_lora()
    np.testing.assert_array_equal(ids(), additions)
    model.backbone.unmerge_lora()
    model.backbone.set_lora_adapter(None)
    assert (ids() != additions).any()


# Files -------------------------------------------------------------------------------------------


def keras_file(path, model, first):
    """A file as keras-hub writes it, `first` layers with weights before those of the encoder."""
    rng = np.random.default_rng(3)
    with h5py.File(path, "w") as file:
        file["lora/vars/rank"] = np.int64(3)
        encoder = [first + 10 * layer + place for layer in range(2) for place in (7, 9)]
        decoder = [25 + 16 * layer + place for layer in range(2) for place in (7, 9, 13, 15)]
        for index in encoder + decoder:
            file[f"lora/{index}/vars/lora_kernel_a"] = rng.normal(size=(16, 2, 3)).astype("f4")
            file[f"lora/{index}/vars/lora_kernel_b"] = rng.normal(size=(3, 8)).astype("f4")
    return path


def test_keras_files_of_both_kinds_of_backends_mean_the_same(tmp_path):
    answers = []
    for first in (5, 3):
        model = tiny_model()
        path = keras_file(tmp_path / f"{first}.lora.h5", model, first)
        model.backbone.load_lora_weights(path)
        answers.append(logits(model))
    np.testing.assert_array_equal(*answers)
    # The kernel of Keras is [in, heads, width]: its addition is a @ b.
    core = model.backbone._model
    with h5py.File(path) as file:
        a, b = (
            file[f"lora/40/vars/lora_kernel_{k}"][()] for k in "ab"
        )  # query, first decoder layer
    name = "decoder.layers.0.self_attn.q_proj.weight"
    added = core.get_parameter(name) - core.get_parameter(name, True)
    np.testing.assert_allclose(added, (a @ b).reshape(16, 16).T, atol=1e-6)
    model.backbone.save_lora_weights(tmp_path / "again.lora.h5")
    with h5py.File(tmp_path / "again.lora.h5") as again, h5py.File(tmp_path / "5.lora.h5") as file:
        names = []
        file["lora"].visit(names.append)
        for each in names:
            if isinstance(file["lora"][each], h5py.Dataset):
                np.testing.assert_array_equal(again["lora"][each][()], file["lora"][each][()])


def test_peft_directories_are_read(tmp_path):
    model = tiny_model()
    core = model.backbone._model
    matrix = "decoder.layers.1.encoder_attn.k_proj.weight"
    core_adapters = _core.Adapters(core)
    core_adapters.add("default", [matrix], 2, 6.0, False, 5)
    up = "decoder.layers.1.encoder_attn.k_proj.lora_B.weight"
    core_adapters.set("default", {up: np.random.default_rng(1).normal(size=(16, 2)).astype("f4")})
    expected = core.get_parameter(matrix)
    core_adapters.save("default", {}, str(tmp_path / "adapter_model.safetensors"))
    raw = (tmp_path / "adapter_model.safetensors").read_bytes()
    size = int.from_bytes(raw[:8], "little")
    header = json.loads(raw[8 : 8 + size])
    header = {(f"base_model.model.model.{k}" if "lora" in k else k): v for k, v in header.items()}
    text = json.dumps(header).encode()
    (tmp_path / "adapter_model.safetensors").write_bytes(
        len(text).to_bytes(8, "little") + text + raw[8 + size :]
    )
    config = {"peft_type": "LORA", "r": 2, "lora_alpha": 6, "bias": "none"}
    (tmp_path / "adapter_config.json").write_text(json.dumps(config))
    other = tiny_model()
    other.backbone.load_lora_weights(tmp_path)
    np.testing.assert_allclose(other.backbone._model.get_parameter(matrix), expected, atol=1e-6)
    (tmp_path / "adapter_config.json").write_text(json.dumps({**config, "use_dora": True}))
    with pytest.raises(ValueError, match="`use_dora` True is not supported"):
        other.backbone.load_lora_weights(tmp_path)


# Bad input ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"rank": 0}, "`rank` must be"),
        (
            {"rank": 17},
            r"`rank`: must be 1 to 16 for `encoder\.layers\.0\.self_attn\.v_proj\.weight`",
        ),
        ({"rank": 1.5}, "`rank` must be"),
        ({"rank": 2, "target_layer_names": "query"}, "`target_layer_names` must be a list"),
        ({"rank": 2, "target_layer_names": ["queries"]}, "`target_layer_names` must name layers"),
        ({"rank": 2, "target_layer_names": [3]}, "`target_layer_names` must be a list"),
        ({"rank": 2, "alpha": 0}, "`alpha` must be"),
        ({"rank": 2, "adapter": ""}, "`adapter` must be"),
    ],
)
def test_bad_arguments_change_nothing(arguments, message):
    model = tiny_model()
    with pytest.raises(ValueError, match=message):
        model.backbone.enable_lora(**arguments)
    assert model.backbone.lora_adapters == []
    assert len(model.backbone.trainable_parameters) == len(model.backbone._model.parameters())


def test_bad_files_and_names_change_nothing(tmp_path):
    model = trained(adapted())
    backbone, answer = model.backbone, logits(model)
    good = tmp_path / "good.lora.h5"
    backbone.save_lora_weights(good)

    def refused(call, message, error=ValueError):
        with pytest.raises(error, match=message):
            call()
        np.testing.assert_array_equal(logits(model), answer)

    load = backbone.load_lora_weights
    refused(lambda: load(tmp_path / "none.lora.h5"), "there is no file", FileNotFoundError)
    refused(lambda: load(__file__), "must end in")
    refused(lambda: backbone.save_lora_weights(tmp_path / "x.h5"), "must end in")
    (tmp_path / "cut.lora.h5").write_bytes(good.read_bytes()[:-100])
    refused(lambda: load(tmp_path / "cut.lora.h5"), "truncated or damaged")
    (tmp_path / "cut.safetensors").write_bytes(b"\x10" + bytes(30))
    refused(lambda: load(tmp_path / "cut.safetensors"), "cut.safetensors")
    for change, message in {
        "lora/vars/rank": "has no rank",
        "lora/12": "is of another model",
        "lora/12/vars/lora_kernel_b": "must have 2 axes",
    }.items():
        bad = tmp_path / "bad.lora.h5"
        bad.write_bytes(good.read_bytes())
        with h5py.File(bad, "a") as file:
            del file[change]
        refused(lambda bad=bad: load(bad), message)
    other = tiny_model(hidden_dim=8)
    with pytest.raises(
        ValueError, match=r"does not fit the model: `.*lora_A.weight` has the shape"
    ):
        other.backbone.load_lora_weights(good)
    assert other.backbone.lora_adapters == []
    refused(lambda: backbone.enable_lora(2), "there is one of the name")
    refused(lambda: backbone.set_lora_adapter("other"), 'must be one of: "default"')
    refused(backbone.unmerge_lora, "none is merged")
    backbone.enable_lora(1, ["key"], adapter="keys")
    refused_file = tmp_path / "keys.lora.h5"
    with pytest.raises(ValueError, match=r"holds additions to all queries and values"):
        backbone.save_lora_weights(refused_file)
    assert not refused_file.exists()
    plain = tiny_model()
    with pytest.raises(ValueError, match=r"no set of additions is in use"):
        plain.backbone.save_lora_weights(tmp_path / "x.lora.h5")
    with pytest.raises(ValueError, match="none is in use"):
        plain.backbone.merge_lora()
    with pytest.raises(ValueError, match="cannot be merged into weights of int8"):
        adapted("int8").backbone.merge_lora()
    with pytest.raises(ValueError, match=r"(?s)cannot be trained.*enable_lora"):
        trained(tiny_model(dtype="int8"))
