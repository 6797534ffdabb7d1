"""Presets: both formats are read to the same numbers, and written as their owners write them."""

import json
import subprocess
import sys
from pathlib import Path

import bart_fast
import h5py
import numpy as np
import pytest
from bart_fast import presets
from bart_fast.presets import keras_weights
from preset_helpers import (
    CONFIG,
    GOLDEN,
    MERGES,
    VOCABULARY,
    ArrayModel,
    edit_json,
    loaded,
    needs_golden,
    read_safetensors,
    task,
    tokenizer,
    writable_copy,
)


def assert_same_parameters(left: ArrayModel, right: ArrayModel):
    assert left.values.keys() == right.values.keys()
    for name, value in left.values.items():
        np.testing.assert_array_equal(value, right.values[name], err_msg=name)


# Reading.


@needs_golden
def test_keras_and_hugging_face_give_the_same_parameters():
    model = loaded(GOLDEN / "keras_tiny")
    expected = read_safetensors(GOLDEN / "hf_tiny" / "model.safetensors")
    assert expected.keys() - model.values.keys() == {"final_logits_bias"}
    for name, value in model.values.items():
        np.testing.assert_array_equal(value, expected[name], err_msg=name)


@needs_golden
def test_keras_weights_equal_the_recorded_variables():
    recorded = np.load(GOLDEN / "keras_tiny" / "golden.npz")
    model = loaded(GOLDEN / "keras_tiny")
    for keras, ours in [
        ("transformer_decoder_layer_1/cross_attention/value/kernel", "encoder_attn.v_proj.weight"),
        (
            "transformer_decoder_layer_1/self_attention/attention_output/kernel",
            "self_attn.out_proj.weight",
        ),
        ("transformer_decoder_layer_1/feedforward_intermediate_dense/kernel", "fc1.weight"),
    ]:
        kernel = recorded[f"weights/{keras}"]
        value = model.values[f"decoder.layers.1.{ours}"]
        np.testing.assert_array_equal(value, kernel.reshape(value.shape[::-1]).T)
    bias = recorded["weights/transformer_encoder_layer_0/self_attention_layer/query/bias"]
    np.testing.assert_array_equal(
        model.values["encoder.layers.0.self_attn.q_proj.bias"], bias.ravel()
    )


@needs_golden
def test_what_a_keras_preset_says():
    preset = presets.load_preset(GOLDEN / "keras_tiny")
    assert preset.format == "keras"
    assert preset.path == GOLDEN / "keras_tiny"
    assert preset.backbone_config == CONFIG | {
        "vocab_size": 33,
        "d_model": 16,
        "encoder_layers": 2,
        "decoder_layers": 2,
        "encoder_ffn_dim": 40,
        "decoder_ffn_dim": 40,
        "max_position_embeddings": 20,
    }
    assert preset.decoder_start_token_ids == [0, 3]
    assert (preset.start_token_id, preset.end_token_id, preset.pad_token_id) == (3, 0, 2)
    assert preset.vocabulary["Ġth"] == 32
    assert preset.merges[0] == "Ġ a"
    assert preset.merges[-1] == "pla ne"
    assert preset.sampler is None
    # 1024 in keras-hub, which this position table could not serve.
    assert preset.preprocessor_config == {
        "encoder_sequence_length": 20,
        "decoder_sequence_length": 20,
    }
    assert set(preset.tokenizer_config["unsplittable_tokens"]) == {"<s>", "</s>", "<pad>"}


@needs_golden
def test_what_a_hugging_face_directory_says():
    preset = presets.load_preset(GOLDEN / "hf_tiny_asym")
    assert preset.format == "transformers"
    assert preset.backbone_config["encoder_layers"] == 2
    assert preset.backbone_config["decoder_layers"] == 1
    assert preset.decoder_start_token_ids == [0]
    assert (preset.start_token_id, preset.end_token_id, preset.pad_token_id) == (3, 0, 2)
    keras = presets.load_preset(GOLDEN / "keras_tiny")
    assert preset.vocabulary == keras.vocabulary
    assert preset.merges == keras.merges


@needs_golden
def test_generation_settings_win_over_the_configuration(tmp_path):
    copy = writable_copy(GOLDEN / "hf_tiny", tmp_path / "copy")
    edit_json(copy / "config.json", lambda config: config.update(num_beams=4, eos_token_id=[5, 0]))
    preset = presets.load_preset(copy)
    assert preset.generation_config["num_beams"] == 4
    assert preset.end_token_id == 5
    settings = {"decoder_start_token_id": 9, "eos_token_id": 7}
    (copy / "generation_config.json").write_text(json.dumps(settings))
    preset = presets.load_preset(copy)
    assert preset.generation_config == settings
    assert preset.decoder_start_token_ids == [9]
    assert preset.end_token_id == 7
    assert preset.pad_token_id == 2


@needs_golden
def test_ids_that_hugging_face_leaves_out_have_its_defaults(tmp_path):
    copy = writable_copy(GOLDEN / "hf_tiny", tmp_path / "copy")

    def forget(config):
        del config["eos_token_id"]
        config["pad_token_id"] = None
        config["decoder_start_token_id"] = None

    edit_json(copy / "config.json", forget)
    preset = presets.load_preset(copy)
    assert preset.end_token_id == 2
    assert preset.pad_token_id is None
    assert preset.decoder_start_token_ids == [3]


@needs_golden
def test_a_backbone_without_tokenizer_or_task(tmp_path):
    copy = writable_copy(GOLDEN / "keras_tiny", tmp_path / "copy")
    for name in ("task.json", "preprocessor.json", "tokenizer.json", "metadata.json"):
        (copy / name).unlink()
    for path in (copy / "assets" / "tokenizer").iterdir():
        path.unlink()
    preset = presets.load_preset(copy)
    assert not preset.has_tokenizer
    assert preset.decoder_start_token_ids is None
    assert preset.end_token_id is None
    assert preset.tokenizer_config["unsplittable_tokens"] is None
    with pytest.raises(FileNotFoundError, match=r"assets/tokenizer/vocabulary.json.*is missing"):
        _ = preset.vocabulary
    assert_same_parameters(loaded(copy), loaded(GOLDEN / "keras_tiny"))


def test_older_names_of_attention_layers_are_read(tmp_path):
    model = ArrayModel(CONFIG, seed=1)
    presets.save_keras_preset(tmp_path, backbone=model)
    with h5py.File(tmp_path / "model.weights.h5", "r+") as file:
        attentions = []
        file.visit(lambda name: attentions.append(name) if name.endswith("query_dense") else None)
        assert len(attentions) == 9
        for name in attentions:
            file.move(name, name.replace("query_dense", "_query_dense"))
    assert_same_parameters(loaded(tmp_path), model)


# Writing a Keras preset.


def h5_tree(path: Path) -> dict:
    """Every group and dataset of a file, with shapes, dtypes and attributes."""
    tree = {}

    def visit(name, item):
        kind = (item.shape, item.dtype.str) if isinstance(item, h5py.Dataset) else None
        tree[name] = (kind, dict(item.attrs))

    with h5py.File(path) as file:
        file.visititems(visit)
    return tree


@needs_golden
def test_a_saved_preset_has_the_structure_keras_writes(tmp_path):
    golden = GOLDEN / "keras_tiny"
    preset = presets.load_preset(golden)
    model = loaded(golden)
    same = task(model, vocabulary=preset.vocabulary, merges=preset.merges)
    same.preprocessor.tokenizer.unsplittable_tokens = ["<pad>", "<s>", "</s>"]
    presets.save_keras_preset(tmp_path / "saved", task=same)

    written = {str(p.relative_to(tmp_path / "saved")) for p in (tmp_path / "saved").rglob("*.*")}
    known = {str(p.relative_to(golden)) for p in golden.rglob("*.*")}
    assert written == known - {"golden.npz", "README.md"}
    for name in ("config.json", "task.json", "preprocessor.json", "tokenizer.json"):
        assert (tmp_path / "saved" / name).read_text() == (golden / name).read_text(), name
    for name in ("vocabulary.json", "merges.txt"):
        name = f"assets/tokenizer/{name}"
        assert (tmp_path / "saved" / name).read_bytes() == (golden / name).read_bytes(), name
    metadata = json.loads((tmp_path / "saved" / "metadata.json").read_text())
    recorded = json.loads((golden / "metadata.json").read_text())
    assert list(metadata)[:-1] == list(recorded)
    assert metadata["parameter_count"] == recorded["parameter_count"] == 13424
    assert h5_tree(tmp_path / "saved/model.weights.h5") == h5_tree(golden / "model.weights.h5")
    assert_same_parameters(loaded(tmp_path / "saved"), model)


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
def test_round_trip_in_each_dtype(tmp_path, dtype):
    model = ArrayModel(CONFIG, seed=2)
    presets.save_keras_preset(tmp_path / "saved", backbone=model, dtype=dtype)
    preset = presets.load_preset(tmp_path / "saved")
    assert preset.dtype == dtype
    assert preset.backbone_config == CONFIG
    back = loaded(tmp_path / "saved")
    for name, value in model.values.items():
        if dtype == "float32":
            expected = value
        elif dtype == "float16":
            expected = value.astype(np.float16).astype(np.float32)
        else:
            # Independent of the code under test: the nearer of the two bfloat16 neighbours.
            below = (value.view(np.uint32) & 0xFFFF0000).view(np.float32)
            above = ((value.view(np.uint32) & 0xFFFF0000) + 0x10000).view(np.float32)
            expected = np.where(abs(value - below) < abs(above - value), below, above)
        np.testing.assert_array_equal(back.values[name], expected, err_msg=name)


def test_bfloat16_rounds_to_nearest_even_and_keeps_the_special_values():
    bits = [0x3F808000, 0x3F818000, 0x3F808001, 0x7F800000, 0xFF800000, 0x80000000, 0x7F7FFFFF]
    values = np.array(bits, np.uint32).view(np.float32)
    expected = [0x3F80, 0x3F82, 0x3F81, 0x7F80, 0xFF80, 0x8000, 0x7F80]
    assert keras_weights.to_bfloat16(values).tolist() == expected
    nan = np.array([0x7F800001, 0xFFFFFFFF], np.uint32).view(np.float32)
    assert np.isnan(keras_weights.from_bfloat16(keras_weights.to_bfloat16(nan))).all()


def test_float16_refuses_values_it_cannot_hold(tmp_path):
    model = ArrayModel(CONFIG, seed=3)
    model.values["decoder.layers.2.fc1.weight"][0, 0] = 1e6
    with pytest.raises(ValueError, match=r"`decoder.layers.2.fc1.weight`.*1e\+06") as caught:
        presets.save_keras_preset(tmp_path / "saved", backbone=model, dtype="float16")
    assert "hint: save with dtype bfloat16" in str(caught.value)
    assert list(tmp_path.iterdir()) == []


def test_sequence_lengths_and_sampler_come_back(tmp_path):
    sampler = {"class_name": "TopKSampler", "config": {"k": 3}}
    presets.save_keras_preset(tmp_path, task=task(ArrayModel(CONFIG), 7, 5), sampler=sampler)
    preset = presets.load_preset(tmp_path)
    assert preset.sampler == sampler
    assert preset.preprocessor_config == {
        "encoder_sequence_length": 7,
        "decoder_sequence_length": 5,
    }
    (tmp_path / "preprocessor.json").unlink()
    lengths = presets.load_preset(tmp_path).preprocessor_config
    assert lengths["encoder_sequence_length"] == 7
    presets.save_keras_preset(tmp_path, task=task(ArrayModel(CONFIG)), sampler="greedy")
    assert json.loads((tmp_path / "task.json").read_text())["sampler"] == "greedy"
    assert presets.load_preset(tmp_path).sampler == "greedy"


def test_tokenizer_options_come_back(tmp_path):
    options = {
        "sequence_length": 4,
        "add_prefix_space": True,
        "unsplittable_tokens": ["<s>", "</s>", "<pad>", "<mask>"],
    }
    presets.save_keras_preset(tmp_path, tokenizer=tokenizer(**options))
    preset = presets.load_preset(tmp_path)
    assert preset.tokenizer_config == options
    assert preset.vocabulary == VOCABULARY
    assert preset.merges == MERGES
    assert preset.end_token_id == 2
    assert not preset.has_backbone
    with pytest.raises(FileNotFoundError, match=r"`config\.json` is missing"):
        _ = preset.backbone_config


def test_dropout_rates_that_keras_has_no_field_for_come_back(tmp_path):
    config = CONFIG | {"attention_dropout": 0.0, "activation_dropout": 0.25}
    presets.save_keras_preset(tmp_path, backbone=ArrayModel(config))
    assert presets.load_preset(tmp_path).backbone_config == config
    saved = json.loads((tmp_path / "config.json").read_text())
    assert saved["config"].keys() == {
        "name",
        "trainable",
        "dtype",
        "vocabulary_size",
        "num_layers",
        "num_heads",
        "hidden_dim",
        "intermediate_dim",
        "dropout",
        "max_sequence_length",
    }


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"decoder_layers": 2}, "`encoder_layers` 3 differs from `decoder_layers` 2"),
        ({"decoder_ffn_dim": 16}, "`encoder_ffn_dim` 12 differs from `decoder_ffn_dim` 16"),
        ({"decoder_attention_heads": 4}, "`encoder_attention_heads` 2 differs"),
        ({"scale_embedding": True}, "`scale_embedding` is on"),
        ({"final_logits_bias": True}, "`final_logits_bias` is on"),
    ],
)
def test_what_keras_cannot_describe_is_not_saved(tmp_path, change, named):
    with pytest.raises(ValueError, match="a Keras preset cannot describe") as caught:
        presets.save_keras_preset(tmp_path / "saved", backbone=ArrayModel(CONFIG | change))
    assert named in str(caught.value)
    assert "hint: save it with `export_to_transformers(directory)`" in str(caught.value)
    assert not (tmp_path / "saved").exists()


# Shards.


def gigabytes(count: int) -> float:
    return count / 1024**3


def test_shards_are_written_and_read(tmp_path):
    model = ArrayModel(CONFIG, seed=4)
    presets.save_keras_preset(tmp_path, backbone=model, max_shard_size=gigabytes(4000))
    index = json.loads((tmp_path / "model.weights.json").read_text())
    shards = sorted(path.name for path in tmp_path.glob("*.h5"))
    count = sum(value.size for value in model.values.values())
    assert index["metadata"] == {"total_size": 4.0 * count}
    assert len(shards) > 2
    assert shards[0] == "model_00000.weights.h5"
    assert all((tmp_path / name).stat().st_size > 0 for name in shards)
    # One array: a name; several: a list, also where all are in one file.
    assert index["weight_map"]["/layers/reversible_embedding/vars"] == shards[0]
    assert index["weight_map"]["/layers/layer_normalization/vars"] == [shards[0]]
    for group, names in index["weight_map"].items():
        for name in [names] if isinstance(names, str) else names:
            with h5py.File(tmp_path / name) as file:
                assert len(file[group]) > 0, (group, name)
    assert_same_parameters(loaded(tmp_path), model)

    # Whole again: the shards would contradict the new file.
    other = ArrayModel(CONFIG, seed=5)
    presets.save_keras_preset(tmp_path, backbone=other)
    assert [path.name for path in tmp_path.glob("*weights*")] == ["model.weights.h5"]
    assert_same_parameters(loaded(tmp_path), other)
    presets.save_keras_preset(tmp_path, backbone=model, max_shard_size=gigabytes(4000))
    assert not (tmp_path / "model.weights.h5").exists()
    assert_same_parameters(loaded(tmp_path), model)


def test_no_shards_where_none_are_wanted(tmp_path):
    presets.save_keras_preset(tmp_path, backbone=ArrayModel(CONFIG), max_shard_size=None)
    assert (tmp_path / "model.weights.h5").is_file()


@pytest.mark.parametrize("size", [gigabytes(100), 0, -1])
def test_a_shard_must_hold_the_largest_array(tmp_path, size):
    with pytest.raises(ValueError, match="`max_shard_size` must hold the largest array"):
        presets.save_keras_preset(tmp_path / "x", backbone=ArrayModel(CONFIG), max_shard_size=size)


# Names.


def test_names_of_built_in_presets():
    names = presets.built_in_presets()
    assert list(names) == ["bart_tidy_en", "bart_base_en", "bart_large_en", "bart_large_en_cnn"]
    for entry in names.values():
        assert entry["metadata"]["description"]


def test_a_directory_wins_over_a_name(tmp_path, monkeypatch):
    presets.save_keras_preset(tmp_path / "bart_base_en", backbone=ArrayModel(CONFIG))
    monkeypatch.chdir(tmp_path)
    assert presets.load_preset("bart_base_en").backbone_config == CONFIG


@pytest.mark.parametrize(
    ("name", "repository"),
    [
        ("bart_large_en_cnn", "facebook/bart-large-cnn"),
        ("hf://someone/some-bart", "someone/some-bart"),
        ("someone/some-bart", "someone/some-bart"),
    ],
)
def test_names_on_the_hub(tmp_path, monkeypatch, name, repository):
    presets.save_keras_preset(tmp_path, backbone=ArrayModel(CONFIG))
    asked = []

    def download(repository, allow_patterns):
        asked.append(repository)
        assert "model.safetensors" in allow_patterns
        return str(tmp_path)

    monkeypatch.setattr("huggingface_hub.snapshot_download", download)
    assert presets.load_preset(name).path == tmp_path
    assert asked == [repository]


# Export to Hugging Face.


def test_export_writes_what_the_reader_reads(tmp_path):
    config = CONFIG | {"decoder_layers": 1, "scale_embedding": True}
    settings = {"num_beams": 4, "decoder_start_token_id": 2, "eos_token_id": 2}
    target = tmp_path / "exported"
    presets.export_transformers(
        target, backbone=ArrayModel(config), tokenizer=tokenizer(), generation=settings
    )
    names = {path.name for path in target.iterdir()}
    assert names == {
        "config.json",
        "generation_config.json",
        "merges.txt",
        "model.safetensors",
        "tokenizer_config.json",
        "vocab.json",
    }
    assert (target / "merges.txt").read_text(encoding="utf-8") == "#version: 0.2\na b\nĠ ab\n"
    saved = json.loads((target / "config.json").read_text())
    assert saved["model_type"] == "bart"
    assert saved["decoder_layers"] == 1
    assert saved["scale_embedding"] is True
    assert saved["pad_token_id"] == 1
    assert "forced_bos_token_id" not in json.loads((target / "generation_config.json").read_text())
    (target / "model.safetensors").unlink()  # A stand-in, too small for the configuration.
    preset = presets.load_preset(target)
    assert preset.backbone_config == config
    assert preset.generation_config == settings | {"bos_token_id": 0, "pad_token_id": 1}
    assert preset.decoder_start_token_ids == [2]
    assert preset.vocabulary == VOCABULARY
    assert preset.merges == MERGES


def test_export_of_a_keras_model_begins_as_keras_does(tmp_path):
    presets.export_transformers(tmp_path, backbone=ArrayModel(CONFIG), tokenizer=tokenizer())
    settings = json.loads((tmp_path / "generation_config.json").read_text())
    assert settings["decoder_start_token_id"] == 2
    assert settings["forced_bos_token_id"] == 0


def test_export_over_a_keras_preset_leaves_one_format(tmp_path):
    presets.save_keras_preset(tmp_path, task=task(ArrayModel(CONFIG)))
    presets.export_transformers(tmp_path, backbone=ArrayModel(CONFIG), tokenizer=tokenizer())
    # Hugging Face would take Keras' file of this name for its own.
    assert not (tmp_path / "tokenizer.json").exists()


# The package.


def test_import_stays_light():
    code = (
        "import sys, bart_fast.presets;"
        "heavy = {'h5py', 'huggingface_hub'} & set(sys.modules); assert not heavy, heavy"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.filterwarnings("default")
def test_keras_hub_loads_what_is_saved(tmp_path):
    keras_hub = pytest.importorskip("keras_hub")
    model = ArrayModel(CONFIG, seed=6)
    for name, dtype, size in [("whole", "bfloat16", 10), ("shards", "float32", gigabytes(4000))]:
        target = tmp_path / name
        saved = task(model, 7, 5, unsplittable_tokens=["<s>", "</s>", "<pad>"])
        presets.save_keras_preset(
            target, task=saved, sampler="greedy", dtype=dtype, max_shard_size=size
        )
        lm = keras_hub.models.BartSeq2SeqLM.from_preset(str(target))
        assert lm.preprocessor.encoder_sequence_length == 7
        assert lm.preprocessor.decoder_sequence_length == 5
        by_path = {weight.path: weight.numpy() for weight in lm.backbone.weights}
        path = "transformer_decoder_layer_2/cross_attention/attention_output/kernel"
        kernel = by_path[path].reshape(8, 8).T
        expected = loaded(target).values["decoder.layers.2.encoder_attn.out_proj.weight"]
        np.testing.assert_array_equal(kernel, expected)
        lm.save_to_preset(str(tmp_path / f"{name}_back"))
        assert_same_parameters(loaded(tmp_path / f"{name}_back"), loaded(target))


def test_version_is_written(tmp_path):
    presets.save_keras_preset(tmp_path, backbone=ArrayModel(CONFIG))
    metadata = json.loads((tmp_path / "metadata.json").read_text())
    assert metadata["bart_fast_version"] == bart_fast.__version__
