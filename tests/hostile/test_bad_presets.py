"""Damaged, foreign and hostile presets: each gives one clear error."""

from pathlib import Path

import h5py
import numpy as np
import pytest
from preset_helpers import (
    CONFIG,
    GOLDEN,
    ArrayModel,
    edit_json,
    loaded,
    needs_golden,
    task,
    writable_copy,
)

from bart_fast import presets
from bart_fast.presets import files

WEIGHTS = "model.weights.h5"


@pytest.fixture
def saved(tmp_path) -> Path:
    """A whole Keras preset."""
    presets.save_keras_preset(tmp_path / "saved", task=task(ArrayModel(CONFIG, seed=1)))
    return tmp_path / "saved"


@pytest.fixture
def hugging_face(tmp_path) -> Path:
    return writable_copy(GOLDEN / "hf_tiny", tmp_path / "hf")


# Names.


@pytest.mark.parametrize("name", ["bart_tidy_em", "", "gs://keras/bart/bart_base_en"])
def test_unknown_names_list_what_is_allowed(name):
    with pytest.raises(ValueError, match="`preset` must be one of") as caught:
        presets.load_preset(name)
    message = str(caught.value)
    for part in (
        "bart_tidy_en, bart_base_en, bart_large_en",
        "hf://user/repository",
        "kaggle://",
        repr(name),
    ):
        assert part in message
    assert ("did you mean 'bart_tidy_en'" in message) == (name == "bart_tidy_em")


def test_other_things_than_names():
    with pytest.raises(TypeError, match=r"`preset` must be a name or a directory.*int"):
        presets.load_preset(3)
    with pytest.raises(ValueError, match="`preset` must be one of"):
        presets.load_preset("a\0b")
    with pytest.raises(FileNotFoundError, match="there is no directory"):
        presets.load_preset(Path("no") / "where")
    with pytest.raises(NotADirectoryError, match="is a file"):
        presets.load_preset(__file__)


# Missing files.


def test_an_empty_directory(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"`config\.json` is missing") as caught:
        presets.load_preset(tmp_path)
    assert "model.weights.h5" in str(caught.value)
    assert "model.safetensors" in str(caught.value)


def test_missing_weights(saved):
    (saved / WEIGHTS).unlink()
    preset = presets.load_preset(saved)
    with pytest.raises(FileNotFoundError, match=r"`model\.weights\.h5` is missing"):
        presets.load_weights(preset, ArrayModel(CONFIG))


def test_missing_shard(saved):
    model = ArrayModel(CONFIG)
    presets.save_keras_preset(saved, backbone=model, max_shard_size=4000 / 1024**3)
    (saved / "model_00001.weights.h5").unlink()
    with pytest.raises(FileNotFoundError, match=r"shards that are missing: model_00001"):
        loaded(saved)


@needs_golden
def test_missing_safetensors(hugging_face):
    (hugging_face / "model.safetensors").unlink()
    preset = presets.load_preset(hugging_face)
    with pytest.raises(FileNotFoundError, match=r"`model\.safetensors` is missing") as caught:
        presets.load_weights(preset, ArrayModel(preset.backbone_config))
    assert "`pytorch_model.bin`" in str(caught.value)


# JSON.


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "not valid JSON"),
        (b'{"registered_name": ', "not valid JSON"),
        (b"[" * 100_000, "not valid JSON"),
        (b"[1]", "must hold a JSON object; it holds a list"),
        (b"\xff\xfe{}", "not UTF-8"),
        (b"{}", "of no format that can be read"),
        (b'{"architecture": "resnet"}', "Received: architecture"),
        (b'{"registered_name": "x"}', "must describe a BartBackbone"),
        (b'{"registered_name": "x", "class_name": "GPT2Backbone", "config": {}}', "'GPT2Backbone'"),
        (
            b'{"registered_name": "x", "class_name": "BartBackbone", "config": 3}',
            "with its `config`",
        ),
    ],
)
def test_damaged_config(saved, content, message):
    (saved / "config.json").write_bytes(content)
    with pytest.raises(ValueError, match=r"config\.json") as caught:
        presets.load_preset(saved)
    assert message in str(caught.value)


@pytest.mark.parametrize("name", ["task.json", "preprocessor.json", "tokenizer.json"])
@pytest.mark.parametrize("content", [b"{", b'{"class_name": "Other", "config": {}}', b"\xff"])
def test_other_damaged_files_are_named(saved, name, content):
    (saved / name).write_bytes(content)
    with pytest.raises(ValueError, match=name.replace(".", r"\.")):
        presets.load_preset(saved)


def test_a_file_too_large_to_be_text(saved, monkeypatch):
    monkeypatch.setattr(files, "_CONFIG_LIMIT", 10)
    with pytest.raises(ValueError, match="at most 10"):
        presets.load_preset(saved)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("vocabulary_size", 0),
        ("num_layers", -1),
        ("num_heads", 3),
        ("hidden_dim", 8.0),
        ("hidden_dim", True),
        ("intermediate_dim", "12"),
        ("max_sequence_length", None),
        ("dropout", 1),
        ("dropout", "0.1"),
        ("dropout", float("nan")),
        ("activation", "relu"),
    ],
)
def test_config_fields_are_read_or_refused(saved, field, value):
    edit_json(saved / "config.json", lambda config: config["config"].update({field: value}))
    with pytest.raises(ValueError, match=field) as caught:
        presets.load_preset(saved)
    assert "config.json" in str(caught.value)


def test_a_missing_field(saved):
    edit_json(saved / "config.json", lambda config: config["config"].pop("num_heads"))
    with pytest.raises(ValueError, match=r"Missing: \['num_heads'\]"):
        presets.load_preset(saved)


@pytest.mark.parametrize(
    ("num_layers", "message"),
    [
        (1000, r"has only .* bytes; it is truncated or belongs"),
        (10**12, r"config\.json`: config field `encoder_layers`: must be 1 to 1024"),
    ],
)
def test_a_config_that_asks_for_all_memory(saved, num_layers, message):
    edit_json(saved / "config.json", lambda config: config["config"].update(num_layers=num_layers))
    preset = presets.load_preset(saved)
    with pytest.raises(ValueError, match=message):
        _ = preset.backbone_config
    # A tokenizer can still be had.
    assert preset.end_token_id == 2


@pytest.mark.parametrize(
    ("name", "change", "field"),
    [
        ("preprocessor.json", {"encoder_sequence_length": 0}, "encoder_sequence_length"),
        ("preprocessor.json", {"decoder_sequence_length": "9"}, "decoder_sequence_length"),
        ("tokenizer.json", {"sequence_length": -1}, "sequence_length"),
        ("tokenizer.json", {"add_prefix_space": 1}, "add_prefix_space"),
        ("tokenizer.json", {"unsplittable_tokens": "<s>"}, "unsplittable_tokens"),
    ],
)
def test_other_fields(saved, name, change, field):
    edit_json(saved / name, lambda config: config["config"].update(change))
    with pytest.raises(ValueError, match=f"`{field}` must be"):
        presets.load_preset(saved)


def test_a_sampler_that_is_none(saved):
    edit_json(saved / "task.json", lambda config: config.update(sampler=[1]))
    with pytest.raises(ValueError, match="`sampler` must be a name or a serialised sampler"):
        presets.load_preset(saved)


@pytest.mark.parametrize(
    ("policy", "name"),
    [
        ({"class_name": "QuantizedDTypePolicy", "config": {"mode": "gptq/4/8"}}, "gptq/4/8"),
        ({"config": {"policy_map": {"a": {"config": {"mode": "int4/128"}}}}}, "int4/128"),
        ("float8", "float8"),
    ],
)
def test_quantised_weights_are_refused_by_name(saved, policy, name):
    edit_json(saved / "config.json", lambda config: config["config"].update(dtype=policy))
    preset = presets.load_preset(saved)
    assert preset.dtype == name
    with pytest.raises(ValueError, match=f"quantised to {name}.*cannot be read yet"):
        presets.load_weights(preset, ArrayModel(CONFIG))


@pytest.mark.parametrize("policy", ["mixed_bfloat16", {"config": {"name": "bfloat16"}}, None])
def test_float_policies_are_read(saved, policy):
    edit_json(saved / "config.json", lambda config: config["config"].update(dtype=policy))
    loaded(saved)


def test_a_dtype_that_is_none(saved):
    edit_json(saved / "config.json", lambda config: config["config"].update(dtype=[1]))
    with pytest.raises(ValueError, match="`dtype` must be a name or a dtype policy"):
        presets.load_preset(saved)


# The tokenizer's files.


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('{"a": -1}', "an id of 0 or more"),
        ('{"a": true}', "an id of 0 or more"),
        ('{"a": 1, "b": 1}', "the same id to two tokens"),
        ('["a"]', "must hold a JSON object"),
    ],
)
def test_damaged_vocabulary(saved, content, message):
    (saved / "assets/tokenizer/vocabulary.json").write_text(content)
    preset = presets.load_preset(saved)
    with pytest.raises(ValueError, match=message):
        _ = preset.vocabulary


@pytest.mark.parametrize("content", ["a b c\n", "ab\n", " b\n", "a \n", "a  b\n"])
def test_damaged_merges(saved, content):
    (saved / "assets/tokenizer/merges.txt").write_text(content)
    preset = presets.load_preset(saved)
    with pytest.raises(ValueError, match="two pieces with one space between"):
        _ = preset.merges


def test_merges_with_windows_line_ends_and_a_header(saved):
    (saved / "assets/tokenizer/merges.txt").write_bytes(b"#version: 0.2\r\na b\r\nab c\r\n\r\n")
    assert presets.load_preset(saved).merges == ["a b", "ab c"]


# Hugging Face's special ids.


@needs_golden
@pytest.mark.parametrize("value", [-1, "2", 1.5, True, ["x"], []])
def test_special_ids_must_be_ids(hugging_face, value):
    edit_json(hugging_face / "config.json", lambda config: config.update(eos_token_id=value))
    with pytest.raises(ValueError, match="`eos_token_id` must be a token id or null"):
        presets.load_preset(hugging_face)


@needs_golden
def test_what_the_core_refuses_is_named_with_its_file(hugging_face):
    edit_json(hugging_face / "config.json", lambda config: config.update(model_type="t5"))
    with pytest.raises(ValueError, match=r"config\.json.*model_type"):
        presets.load_preset(hugging_face)


# Weights.


def test_every_length_of_a_truncated_file(saved):
    whole = (saved / WEIGHTS).read_bytes()
    # Also cuts at every boundary of a block of the file.
    for length in [0, 1, 7, 8, 9, 95, 96, 97, *range(512, len(whole), 1999), len(whole) - 1]:
        (saved / WEIGHTS).write_bytes(whole[:length])
        with pytest.raises(ValueError, match="truncated"):
            loaded(saved)


def test_a_file_of_another_kind(saved):
    (saved / WEIGHTS).write_bytes(b"PK\x03\x04" * 10_000)
    with pytest.raises(ValueError, match=r"model\.weights\.h5` cannot be read as HDF5"):
        loaded(saved)


def test_flipped_bytes_never_crash(saved):
    """Each damage is either found, or it hit the numbers themselves."""
    whole = (saved / WEIGHTS).read_bytes()
    random = np.random.default_rng(3)
    found = 0
    for _ in range(150):
        damaged = bytearray(whole)
        for at in random.integers(0, len(whole), 20):
            damaged[at] = random.integers(0, 256)
        (saved / WEIGHTS).write_bytes(damaged)
        try:
            loaded(saved)
        except ValueError as error:
            found += 1
            assert "model.weights.h5" in str(error)
    assert found > 20


def test_all_differences_are_in_one_error(saved):
    with h5py.File(saved / WEIGHTS, "r+") as file:
        del file["layers/position_embedding/vars/0"]
        del file["layers/transformer_decoder_1/_self_attention_layer/query_dense/vars/1"]
        del file["layers/layer_normalization/vars/1"]
        file["layers/layer_normalization/vars/1"] = np.zeros(9, np.float32)
        del file["layers/layer_normalization_1/vars/1"]
        file["layers/layer_normalization_1/vars/1"] = np.zeros(8, np.int8)
        file["layers/surprise/vars/0"] = np.zeros(2, np.float32)
        file["layers/layer_normalization/vars/2"] = np.zeros(8, np.float32)
    model = ArrayModel(CONFIG)
    before = dict(model.values)
    with pytest.raises(ValueError, match=r"does not fit.*\(6 differences\)") as caught:
        presets.load_weights(presets.load_preset(saved), model)
    for line in [
        "missing: layers/position_embedding/vars/0 [9, 8]",
        "missing: layers/transformer_decoder_1/_self_attention_layer/query_dense/vars/1 [2, 4]",
        "misshapen: layers/layer_normalization/vars/1 is [9], expected [8]",
        "not supported: layers/layer_normalization_1/vars/1 has dtype int8",
        "not expected: layers/surprise/vars/0",
        "not expected: layers/layer_normalization/vars/2",
    ]:
        assert line in str(caught.value)
    assert all(model.values[name] is value for name, value in before.items())


def test_a_model_of_other_sizes_does_not_fit(saved):
    edit_json(saved / "config.json", lambda config: config["config"].update(num_layers=2))
    with pytest.raises(ValueError, match="not expected: layers/transformer_encoder_2") as caught:
        loaded(saved)
    assert "and 22 more" in str(caught.value)


@pytest.mark.parametrize("kind", ["external link", "soft link", "external storage", "virtual"])
def test_values_from_other_places_are_refused(saved, tmp_path, kind):
    name, shape = "layers/layer_normalization/vars/0", (8,)
    secret = tmp_path / "secret.h5"
    with h5py.File(secret, "w") as file:
        file["x"] = np.arange(8, dtype=np.float32)
    with h5py.File(saved / WEIGHTS, "r+") as file:
        del file[name]
        if kind == "external link":
            file[name] = h5py.ExternalLink(str(secret), "x")
        elif kind == "soft link":
            file[name] = h5py.SoftLink("/layers/layer_normalization/vars/1")
        elif kind == "external storage":
            file.create_dataset(name, shape, "f4", external=[(str(secret), 0, 32)])
        else:
            layout = h5py.VirtualLayout(shape, "f4")
            layout[:] = h5py.VirtualSource(str(secret), "x", shape)
            file.create_virtual_dataset(name, layout)
    with pytest.raises(ValueError, match=rf"(missing|not allowed): {name}"):
        loaded(saved)


def test_a_group_in_the_place_of_values_and_a_loop(saved):
    with h5py.File(saved / WEIGHTS, "r+") as file:
        del file["layers/layer_normalization/vars/0"]
        file.create_group("layers/layer_normalization/vars/0")
        file["layers/loop"] = file["layers"]
    with pytest.raises(ValueError, match=r"layers/layer_normalization/vars/0 is a group"):
        loaded(saved)


@pytest.mark.parametrize(
    "index",
    [
        "{",
        "{}",
        '{"weight_map": 1}',
        '{"weight_map": {"/a/vars": 1}}',
        '{"weight_map": {"/a/vars": "../x.h5"}}',
        '{"weight_map": {"/a/vars": ["/etc/x.h5"]}}',
    ],
)
def test_damaged_shard_index(saved, index):
    (saved / WEIGHTS).unlink()
    (saved / "model.weights.json").write_text(index)
    with pytest.raises(ValueError, match=r"model\.weights\.json"):
        loaded(saved)


# Wrong arguments.


def test_arguments_of_the_writers(tmp_path):
    model = ArrayModel(CONFIG)
    with pytest.raises(ValueError, match=r"`dtype` must be one of float32.*Received: 'int8'"):
        presets.save_keras_preset(tmp_path / "x", backbone=model, dtype="int8")
    with pytest.raises(ValueError, match="`dtype` must be one of"):
        presets.export_transformers(tmp_path / "x", backbone=model, dtype="f32")
    with pytest.raises(ValueError, match="`max_shard_size` must be a number"):
        presets.save_keras_preset(tmp_path / "x", backbone=model, max_shard_size="10GB")
    with pytest.raises(ValueError, match="nothing to save"):
        presets.save_keras_preset(tmp_path / "x")
    assert list(tmp_path.iterdir()) == []
