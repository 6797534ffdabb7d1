"""Presets: names are found, and both formats are read to the same numbers."""

import json
import subprocess
import sys

import h5py
import numpy as np
import pytest
from preset_helpers import (
    CONFIG,
    GOLDEN,
    ArrayModel,
    assert_same_parameters,
    edit_json,
    loaded,
    needs_golden,
    read_safetensors,
    writable_copy,
)

import bart_fast
from bart_fast import models, presets

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


# Names.


def test_a_directory_wins_over_a_name(tmp_path, monkeypatch):
    presets.save_keras_preset(tmp_path / "bart_base_en", backbone=ArrayModel(CONFIG))
    monkeypatch.chdir(tmp_path)
    assert presets.load_preset("bart_base_en").backbone_config == CONFIG


@needs_golden
@pytest.mark.parametrize(
    ("base", "cls"),
    [
        (models.Backbone, models.BartBackbone),
        (models.Seq2SeqLM, models.BartSeq2SeqLM),
        (models.Seq2SeqLMPreprocessor, models.BartSeq2SeqLMPreprocessor),
        (models.Tokenizer, models.BartTokenizer),
    ],
)
@pytest.mark.parametrize("name", ["keras_tiny", "hf_tiny"])
def test_a_base_class_loads_the_right_class(base, cls, name):
    assert type(base.from_preset(GOLDEN / name)) is cls
    assert type(cls.from_preset(str(GOLDEN / name))) is cls
    assert issubclass(cls, base)
    assert base.presets.keys() == cls.presets.keys()


@needs_golden
@pytest.mark.parametrize("cls", [models.BartBackbone, models.BartSeq2SeqLM])
def test_random_weights_are_seeded(cls, tmp_path):
    """`load_weights=False` needs no weight file, and the seed decides what it draws."""
    copy = writable_copy(GOLDEN / "keras_tiny", tmp_path / "copy")
    (copy / "model.weights.h5").unlink()
    drawn = []
    for seed in (1, 1, 2):
        bart_fast.set_random_seed(seed)
        model = cls.from_preset(copy, load_weights=False)
        drawn.append(getattr(model, "backbone", model).token_embedding.embeddings)
    np.testing.assert_array_equal(drawn[0], drawn[1])
    assert not np.array_equal(drawn[0], drawn[2])
    # A normal distribution cut at twice its deviation of 0.02.
    assert 0.015 < drawn[0].std() < 0.02
    assert abs(drawn[0]).max() <= 0.04
    with pytest.raises(FileNotFoundError, match=r"model\.weights\.h5"):
        cls.from_preset(copy)


@needs_golden
@pytest.mark.parametrize("cls", [models.Backbone, models.Seq2SeqLM])
def test_dtype_and_device(cls):
    golden = GOLDEN / "keras_tiny"
    for arguments in ({"dtype": "float32", "device": "cpu"}, {"dtype": None, "device": None}):
        model = cls.from_preset(golden, True, **arguments)
        assert getattr(model, "backbone", model).dtype == "float32"
    for dtype in ("float8_e4m3", "int4", "half", 3):
        with pytest.raises(ValueError, match=r'`dtype` .*must be `None`, "float32", ') as caught:
            cls.from_preset(golden, dtype=dtype)
        assert f"Received: {dtype!r}" in str(caught.value)
    for device in ("gpu", "cuda:", "cuda:-1", "CPU", 0):
        with pytest.raises(ValueError, match=r'`device` must be `None`, "cpu", "cuda"') as caught:
            cls.from_preset(golden, device=device)
        assert f"Received: {device!r}" in str(caught.value)


def test_import_stays_light():
    code = (
        "import sys, bart_fast.presets;"
        "heavy = {'h5py', 'huggingface_hub', 'kagglehub'} & set(sys.modules);"
        "assert not heavy, heavy"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
