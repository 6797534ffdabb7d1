"""Presets as they are written: what keras-hub and Hugging Face write, and all of it comes back."""

import json
from pathlib import Path

import h5py
import numpy as np
import pytest
from preset_helpers import (
    CONFIG,
    GOLDEN,
    MERGES,
    VOCABULARY,
    ArrayModel,
    assert_same_cores,
    assert_same_parameters,
    core_model,
    loaded,
    needs_golden,
    task,
    tokenizer,
)
from tiny_models import tiny_model

import bart_fast
from bart_fast import presets
from bart_fast.presets import hdf5, keras_weights

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
    assert np.isnan(hdf5.from_bfloat16(keras_weights.to_bfloat16(nan))).all()


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


def test_a_preset_in_int8_may_be_loaded_in_float32_where_nobody_says(tmp_path):
    model = tiny_model()
    model.quantize("int8")
    presets.save_keras_preset(tmp_path, task=model, loads_in="float32")
    usual = bart_fast.BartSeq2SeqLM.from_preset(tmp_path)
    assert usual.backbone.dtype == "float32"
    usual.train_on_batch(*usual.preprocessor({"encoder_text": ["ab"], "decoder_text": ["cd"]}))
    quantized = bart_fast.BartSeq2SeqLM.from_preset(tmp_path, dtype="int8")
    usual = bart_fast.BartSeq2SeqLM.from_preset(tmp_path)
    for name, _ in usual.backbone._model.parameters():
        of_int8 = quantized.backbone._model.get_int8(name)
        values = usual.backbone._model.get_parameter(name)
        if of_int8 is not None:
            assert np.array_equal(values, of_int8[0].astype(np.float32) / of_int8[1][:, None])
    for wrong in ("int4", 8):
        with pytest.raises(ValueError, match="`loads_in` must be one of float32, "):
            presets.save_keras_preset(tmp_path, task=model, loads_in=wrong)
    config = json.loads((tmp_path / "config.json").read_text())
    config["bart_fast"]["loads_in"] = "int4"
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(ValueError, match=r"`loads_in` must be one of float32, .* Received: 'int4'"):
        bart_fast.BartSeq2SeqLM.from_preset(tmp_path)


def test_tokenizer_options_come_back(tmp_path):
    options = {
        "sequence_length": 4,
        "add_prefix_space": True,
        "unsplittable_tokens": ["<s>", "</s>", "<pad>", "<mask>"],
        "dtype": "int64",
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
    config = CONFIG | {
        "attention_dropout": 0.0,
        "activation_dropout": 0.25,
        "decoder_layerdrop": 0.5,
    }
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
    ],
)
def test_what_keras_cannot_describe_is_not_saved(tmp_path, change, named):
    with pytest.raises(ValueError, match="a Keras preset cannot describe") as caught:
        presets.save_keras_preset(tmp_path / "saved", backbone=ArrayModel(CONFIG | change))
    assert named in str(caught.value)
    assert "hint: save it with `export_to_transformers(directory)`" in str(caught.value)
    assert not (tmp_path / "saved").exists()


def test_a_bias_of_zeros_is_left_out_and_another_refused(tmp_path):
    model = ArrayModel(CONFIG | {"final_logits_bias": True})
    model.values["final_logits_bias"] = np.zeros(11, np.float32)
    presets.save_keras_preset(tmp_path / "zeros", backbone=model)
    assert presets.load_preset(tmp_path / "zeros").backbone_config == CONFIG
    model.values["final_logits_bias"][3] = 1e-8
    with pytest.raises(ValueError, match="`final_logits_bias` is on"):
        presets.save_keras_preset(tmp_path / "bias", backbone=model)


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
    # Hugging Face's configuration does not say whether there is a bias; the weights do.
    assert preset.backbone_config == config | {"final_logits_bias": True}
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


# Through the core and the models.


@needs_golden
def test_the_core_holds_the_same_from_either_format(tmp_path):
    keras, hugging_face = (core_model(GOLDEN / name) for name in ("keras_tiny", "hf_tiny"))
    assert_same_cores(keras, hugging_face)
    # And from each format to the other.
    presets.save_keras_preset(tmp_path / "keras", backbone=hugging_face)
    presets.export_transformers(tmp_path / "hf", backbone=keras)
    assert_same_cores(core_model(tmp_path / "keras"), keras)
    assert_same_cores(core_model(tmp_path / "hf"), keras)


@needs_golden
def test_a_model_of_two_depths_goes_to_hugging_face_and_back(tmp_path):
    model = core_model(GOLDEN / "hf_tiny_asym")
    presets.export_transformers(tmp_path, backbone=model)
    assert_same_cores(core_model(tmp_path), model)
    assert presets.load_preset(tmp_path).backbone_config == json.loads(model.config)
    with pytest.raises(ValueError, match="`encoder_layers` 2 differs from `decoder_layers` 1"):
        presets.save_keras_preset(tmp_path, backbone=model)


@needs_golden
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_task_comes_back(tmp_path, dtype):
    lm = bart_fast.models.BartSeq2SeqLM.from_preset(GOLDEN / "keras_tiny")
    lm.compile(sampler="greedy")
    lm.preprocessor.encoder_sequence_length = 12
    lm.preprocessor.decoder_sequence_length = 10
    presets.save_keras_preset(tmp_path, task=lm, sampler="greedy", dtype=dtype)
    back = bart_fast.models.BartSeq2SeqLM.from_preset(tmp_path)
    assert type(back.sampler) is type(lm.sampler)
    assert back.preprocessor.encoder_sequence_length == 12
    assert back.preprocessor.decoder_sequence_length == 10
    assert (
        back.preprocessor.tokenizer.get_vocabulary() == lm.preprocessor.tokenizer.get_vocabulary()
    )
    assert back.preprocessor.tokenizer.get_config() == lm.preprocessor.tokenizer.get_config()
    if dtype == "float32":
        assert_same_cores(back.backbone._model, lm.backbone._model)
    else:
        shared = lm.backbone._model.get_parameter("shared.weight")
        stored = back.backbone._model.get_parameter("shared.weight")
        np.testing.assert_allclose(stored, shared, rtol=2**-8, atol=0)


# The other packages.


@pytest.mark.filterwarnings("default")
@pytest.mark.timeout(400)
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
