"""Presets on their way to Hugging Face and back: each part by itself, and nothing is lost."""

import json
from pathlib import Path

import numpy as np
import pytest
from preset_helpers import (
    GOLDEN,
    assert_same_cores,
    core_model,
    edit_json,
    needs_golden,
    writable_copy,
)

import bart_fast
from bart_fast import presets


def names_in(directory: Path) -> list[str]:
    return sorted(path.name for path in directory.iterdir())


MODEL_FILES = ["config.json", "generation_config.json", "model.safetensors"]
TEXT_FILES = ["merges.txt", "tokenizer_config.json", "vocab.json"]


@needs_golden
def test_each_part_is_exported_by_itself(tmp_path):
    golden = GOLDEN / "keras_tiny"
    lm = bart_fast.models.BartSeq2SeqLM.from_preset(golden)
    lm.export_to_transformers(tmp_path / "whole")
    lm.backbone.export_to_transformers(tmp_path / "parts")
    assert names_in(tmp_path / "parts") == MODEL_FILES
    # The ids of the preset are known without its tokenizer.
    preset = presets.load_preset(tmp_path / "parts")
    assert (preset.start_token_id, preset.end_token_id, preset.pad_token_id) == (3, 0, 2)
    assert preset.generation_config == {
        "bos_token_id": 3,
        "eos_token_id": 0,
        "pad_token_id": 2,
        "decoder_start_token_id": 0,
        "forced_bos_token_id": 3,
    }
    before = (tmp_path / "parts" / "config.json").read_bytes()
    lm.preprocessor.tokenizer.export_to_transformers(tmp_path / "parts")
    assert names_in(tmp_path / "parts") == sorted(MODEL_FILES + TEXT_FILES)
    assert (tmp_path / "parts" / "config.json").read_bytes() == before
    for name in ("generation_config.json", "model.safetensors", "vocab.json", "merges.txt"):
        whole, parts = (tmp_path / each / name for each in ("whole", "parts"))
        assert whole.read_bytes() == parts.read_bytes(), name
    lm.preprocessor.tokenizer.export_to_transformers(tmp_path / "tokenizer")
    assert names_in(tmp_path / "tokenizer") == TEXT_FILES
    lm.preprocessor = None
    lm.export_to_transformers(tmp_path / "arrays")
    assert names_in(tmp_path / "arrays") == MODEL_FILES


@needs_golden
def test_special_ids_of_a_hugging_face_model_survive_without_a_tokenizer(tmp_path):
    backbone = bart_fast.models.BartBackbone.from_preset(GOLDEN / "hf_tiny")
    backbone.export_to_transformers(tmp_path)
    back = bart_fast.models.BartBackbone.from_preset(tmp_path)
    assert back._special_tokens == backbone._special_tokens
    assert back._special_tokens.start_ids == (0,)


def keras_json(folder: Path, name: str) -> dict:
    return json.loads((folder / name).read_text())


@needs_golden
@pytest.mark.parametrize("lengths", [(20, 20), (12, 10)])
def test_from_keras_to_hugging_face_and_back(tmp_path, lengths):
    """keras -> ours -> Hugging Face -> ours -> keras: nothing is lost, not even a bit."""
    first, second, middle = tmp_path / "first", tmp_path / "second", tmp_path / "middle"
    lm = bart_fast.models.Seq2SeqLM.from_preset(GOLDEN / "keras_tiny")
    lm.preprocessor.encoder_sequence_length, lm.preprocessor.decoder_sequence_length = lengths
    lm.preprocessor.tokenizer.sequence_length = 7
    lm.preprocessor.tokenizer.add_prefix_space = True
    lm.save_to_preset(first)
    lm.export_to_transformers(middle)
    bart_fast.models.Seq2SeqLM.from_preset(middle).save_to_preset(second)
    assert_same_cores(core_model(second), core_model(GOLDEN / "keras_tiny"))
    for name in ("config.json", "task.json", "preprocessor.json", "tokenizer.json"):
        assert keras_json(first, name) == keras_json(second, name), name
    for name in ("vocabulary.json", "merges.txt"):
        name = f"assets/tokenizer/{name}"
        assert (first / name).read_bytes() == (second / name).read_bytes(), name
    # And what Hugging Face's files say is the same the second time.
    bart_fast.models.Seq2SeqLM.from_preset(second).export_to_transformers(tmp_path / "again")
    for path in middle.iterdir():
        assert path.read_bytes() == (tmp_path / "again" / path.name).read_bytes(), path.name


@needs_golden
@pytest.mark.parametrize("part", ["model", "backbone"])
def test_settings_of_a_checkpoint_survive_a_keras_preset(tmp_path, part):
    """Hugging Face -> Keras -> Hugging Face: the sampler "preset" and the start of answers too."""
    copy = writable_copy(GOLDEN / "hf_tiny", tmp_path / "first")
    settings = {"num_beams": 3, "max_length": 9, "no_repeat_ngram_size": 2}
    edit_json(copy / "config.json", lambda config: config.update(settings))
    first = bart_fast.models.Seq2SeqLM.from_preset(copy)
    first.compile(sampler="preset")
    (first if part == "model" else first.backbone).save_to_preset(tmp_path / "keras")
    second = bart_fast.models.Seq2SeqLM.from_preset(tmp_path / "keras")
    assert settings.items() <= second.backbone._generation_config.items()
    assert second.backbone._special_tokens == first.backbone._special_tokens
    if part == "model":
        assert type(second.sampler) is bart_fast.samplers.PresetSampler
        texts = ["airplane at airport", " the plane"]
        assert second.generate(texts) == first.generate(texts)
    second.export_to_transformers(tmp_path / "second")
    third = bart_fast.models.Seq2SeqLM.from_preset(tmp_path / "second")
    assert third.backbone._generation_config == second.backbone._generation_config
    edit_json(
        tmp_path / "keras" / "config.json",
        lambda config: config["bart_fast"].update(generation_config=[]),
    )
    with pytest.raises(ValueError, match="`generation_config` must be an object"):
        bart_fast.models.Seq2SeqLM.from_preset(tmp_path / "keras")


@needs_golden
@pytest.mark.parametrize(
    ("file", "entry", "named"),
    [
        ("config.json", {"encoder_sequence_length": 0}, "`encoder_sequence_length` must be a posi"),
        ("config.json", {"other": 1}, "`bart_fast` may hold `encoder_sequence_length`, `decoder"),
        ("config.json", [], "`bart_fast` may hold"),
        ("tokenizer_config.json", {"sequence_length": -1}, "`sequence_length` must be a positive"),
        ("tokenizer_config.json", {"dtype": "float32"}, "`dtype` must be one of"),
        ("tokenizer_config.json", {"unsplittable_tokens": [3]}, "`unsplittable_tokens` must be a"),
    ],
)
def test_our_entry_in_hugging_face_files_is_checked(tmp_path, file, entry, named):
    bart_fast.models.Seq2SeqLM.from_preset(GOLDEN / "keras_tiny").export_to_transformers(tmp_path)
    saved = json.loads((tmp_path / file).read_text())
    (tmp_path / file).write_text(json.dumps({**saved, "bart_fast": entry}))
    with pytest.raises(ValueError, match=named):
        bart_fast.models.Seq2SeqLM.from_preset(tmp_path)


@needs_golden
@pytest.mark.filterwarnings("default")
@pytest.mark.timeout(400)
def test_keras_hub_loads_what_is_exported(tmp_path):
    """keras-hub -> ours -> Hugging Face -> ours -> keras-hub, and keras-hub from the middle."""
    keras_hub = pytest.importorskip("keras_hub")
    pytest.importorskip("safetensors")
    lm = bart_fast.models.Seq2SeqLM.from_preset(GOLDEN / "keras_tiny")
    lm.preprocessor.encoder_sequence_length = 12
    lm.export_to_transformers(tmp_path / "middle")
    bart_fast.models.Seq2SeqLM.from_preset(tmp_path / "middle").save_to_preset(tmp_path / "end")
    # One with settings of a checkpoint in an entry of ours.
    bart_fast.models.Seq2SeqLM.from_preset(GOLDEN / "hf_tiny").save_to_preset(tmp_path / "foreign")
    assert "generation_config" in (tmp_path / "foreign" / "task.json").read_text()
    folders = [GOLDEN / "keras_tiny", *(tmp_path / each for each in ("middle", "end", "foreign"))]
    first, middle, end, foreign = (
        keras_hub.models.BartSeq2SeqLM.from_preset(str(folder)) for folder in folders
    )
    assert end.preprocessor.encoder_sequence_length == 12
    assert end.preprocessor.decoder_sequence_length == 20
    for other in (middle, end, foreign):
        weights = {weight.path: weight.numpy() for weight in other.backbone.weights}
        for weight in first.backbone.weights:
            np.testing.assert_array_equal(weights[weight.path], weight.numpy())
        tokenizer = other.preprocessor.tokenizer
        assert tokenizer.get_vocabulary() == first.preprocessor.tokenizer.get_vocabulary()


@needs_golden
@pytest.mark.filterwarnings("default")
def test_transformers_reads_what_is_exported(tmp_path):
    """The tokenizer gives our ids, and our entries come through its own files."""
    transformers = pytest.importorskip("transformers")
    lm = bart_fast.models.Seq2SeqLM.from_preset(GOLDEN / "keras_tiny")
    lm.preprocessor.encoder_sequence_length = 12
    lm.preprocessor.tokenizer.add_prefix_space = True
    lm.export_to_transformers(tmp_path / "ours")
    texts = [" airplane at airport", "the plane"]
    theirs = transformers.AutoTokenizer.from_pretrained(tmp_path / "ours")
    back = bart_fast.models.BartTokenizer.from_preset(tmp_path / "ours")
    assert [ids[1:-1] for ids in theirs(texts).input_ids] == back(texts)
    config = transformers.AutoConfig.from_pretrained(tmp_path / "ours")
    settings = transformers.GenerationConfig.from_pretrained(tmp_path / "ours")
    assert (config.decoder_start_token_id, settings.forced_bos_token_id) == (0, 3)
    for part in (config, settings, theirs):
        part.save_pretrained(tmp_path / "theirs")
    (tmp_path / "ours" / "model.safetensors").rename(tmp_path / "theirs" / "model.safetensors")
    again = bart_fast.models.Seq2SeqLM.from_preset(tmp_path / "theirs")
    assert again.preprocessor.encoder_sequence_length == 12
    assert_same_cores(again.backbone._model, lm.backbone._model)
