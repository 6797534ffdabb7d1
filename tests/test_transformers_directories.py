"""Hugging Face directories as transformers 3 to 5 wrote them: configuration, generation settings
and `tokenizer.json`; and Keras presets from before there was a task in them.
"""

import json

import numpy as np
import pytest
from preset_helpers import (
    CONFIG,
    GOLDEN,
    ArrayModel,
    as_tokenizer_json,
    assert_same_parameters,
    edit_json,
    loaded,
    needs_golden,
    task,
    writable_copy,
)

from bart_fast import presets
from bart_fast.models import BartBackbone, BartSeq2SeqLM, BartTokenizer

TEXTS = ["the airplane at noon", " quick<mask> fox</s>", "é 日本", "  <s>the"]


@pytest.fixture
def directory(tmp_path):
    return writable_copy(GOLDEN / "hf_tiny", tmp_path / "copy")


# Configurations.

SIZES = {
    "vocab_size": 33,
    "d_model": 16,
    "encoder_layers": 2,
    "decoder_layers": 2,
    "encoder_attention_heads": 2,
    "decoder_attention_heads": 2,
    "encoder_ffn_dim": 40,
    "decoder_ffn_dim": 40,
    "max_position_embeddings": 20,
}
VERSION_3 = {
    **SIZES,
    "model_type": "bart",
    "architectures": ["BartForConditionalGeneration"],
    "_num_labels": 3,
    "activation_function": "gelu",
    "add_bias_logits": False,
    "add_final_layer_norm": False,
    "classif_dropout": 0.0,
    "extra_pos_embeddings": 2,
    "force_bos_token_to_be_generated": True,
    "id2label": {"0": "LABEL_0", "1": "LABEL_1", "2": "LABEL_2"},
    "normalize_before": False,
    "normalize_embedding": True,
    "num_hidden_layers": 2,
    "output_past": False,
    "prefix": " ",
    "static_position_embeddings": False,
    "task_specific_params": {"summarization": {"num_beams": 6}},
    # Settings of bart-large-cnn.
    "early_stopping": True,
    "length_penalty": 2.0,
    "max_length": 142,
    "min_length": 56,
    "no_repeat_ngram_size": 3,
    "num_beams": 4,
}
VERSION_4 = {
    **SIZES,
    "_name_or_path": "x",
    "model_type": "bart",
    "architectures": ["BartModel"],
    "classifier_dropout": 0.0,
    "decoder_start_token_id": 0,
    "forced_bos_token_id": 3,
    "forced_eos_token_id": None,
    "gradient_checkpointing": False,
    "is_encoder_decoder": True,
    "pruned_heads": {},
    "tie_encoder_decoder": False,
    "torch_dtype": "float16",
    "transformers_version": "4.57.1",
    "begin_suppress_tokens": [5],
    "typical_p": 0.9,
}
VERSION_5 = {
    **{
        key: value
        for key, value in SIZES.items()
        if key not in ("d_model", "encoder_attention_heads")
    },
    "hidden_size": 16,
    "num_attention_heads": 2,
    "model_type": "bart",
    "architectures": None,
    "dtype": "bfloat16",
    "is_decoder": False,
    "tie_word_embeddings": True,
    "transformers_version": "5.0.0",
}
CNN = {key: VERSION_3[key] for key in list(VERSION_3)[-6:]}


@needs_golden
@pytest.mark.parametrize(
    ("config", "generation", "dtype"),
    [
        (VERSION_3, {**CNN, "forced_bos_token_id": 0, "forced_eos_token_id": 2}, "float32"),
        (
            VERSION_4,
            {
                "decoder_start_token_id": 0,
                "forced_bos_token_id": 3,
                "begin_suppress_tokens": [5],
                "typical_p": 0.9,
            },
            "float16",
        ),
        (VERSION_5, {"forced_eos_token_id": 2}, "bfloat16"),
    ],
    ids=["3", "4", "5"],
)
def test_configurations_of_every_version(directory, config, generation, dtype):
    (directory / "config.json").write_text(json.dumps(config))
    preset = presets.load_preset(directory)
    assert {key: preset.backbone_config[key] for key in SIZES} == SIZES
    assert preset.generation_config == generation
    assert preset.dtype == dtype
    assert BartBackbone.from_preset(directory).hidden_dim == 16


@needs_golden
def test_a_file_of_generation_settings_holds_all_of_them(directory):
    edit_json(directory / "config.json", lambda config: config.update(CNN))
    settings = {
        "num_beams": 2,
        "force_words_ids": [[3, 4]],
        "min_p": 0.1,
        "suppress_tokens": None,
        "transformers_version": "5.0.0",
        "of_a_later_version": {"a": 1},
    }
    (directory / "generation_config.json").write_text(json.dumps(settings))
    assert presets.load_preset(directory).generation_config == settings


@needs_golden
@pytest.mark.parametrize(
    "field", ["tie_encoder_decoder", "is_decoder", "do_blenderbot_90_layernorm"]
)
def test_other_arithmetic_is_refused_by_its_field(directory, field):
    edit_json(directory / "config.json", lambda config: config.update({field: True}))
    with pytest.raises(ValueError, match=rf"config\.json.*`{field}`: received true"):
        presets.load_preset(directory)


# `tokenizer.json`.


@needs_golden
@pytest.mark.parametrize("pairs", [False, True])
def test_tokenizer_json_alone(directory, pairs):
    expected = BartTokenizer.from_preset(directory)
    as_tokenizer_json(directory)
    if pairs:
        change = {"merges": [merge.split(" ") for merge in expected.merges]}
        edit_json(directory / "tokenizer.json", lambda file: file["model"].update(change))
    tokenizer = BartTokenizer.from_preset(directory)
    assert tokenizer.vocabulary == expected.vocabulary
    assert tokenizer.merges == expected.merges
    assert tokenizer(TEXTS) == expected(TEXTS)
    assert BartSeq2SeqLM.from_preset(directory).preprocessor.tokenizer(TEXTS) == expected(TEXTS)


@needs_golden
def test_added_tokens_stay_whole(directory):
    as_tokenizer_json(directory)
    added = [{"id": 33, "content": "<speaker one>", "special": False}]
    edit_json(directory / "tokenizer.json", lambda file: file["added_tokens"].extend(added))
    tokenizer = BartTokenizer.from_preset(directory)
    assert tokenizer("a<speaker one>").tolist()[-1] == 33
    assert tokenizer.detokenize([33]) == "<speaker one>"
    assert tokenizer.vocabulary_size() == 34
    assert set(tokenizer.unsplittable_tokens) >= {"<speaker one>", "</s>"}


@needs_golden
def test_added_tokens_beside_vocabulary_and_merges(directory):
    (directory / "added_tokens.json").write_text('{"<new>": 33}')
    tokenizer = BartTokenizer.from_preset(directory)
    assert tokenizer("<new>").tolist() == [33]
    assert "<s>" in tokenizer.unsplittable_tokens


@needs_golden
@pytest.mark.parametrize(("beside", "expected"), [(None, True), (False, False), (True, True)])
def test_add_prefix_space(directory, beside, expected):
    """`tokenizer_config.json` wins, as in transformers."""
    as_tokenizer_json(directory, pre_tokenizer={"type": "ByteLevel", "add_prefix_space": True})
    if beside is not None:
        config = json.dumps({"add_prefix_space": beside})
        (directory / "tokenizer_config.json").write_text(config)
    assert BartTokenizer.from_preset(directory).add_prefix_space is expected


@needs_golden
@pytest.mark.parametrize("whole", [False, True])
def test_a_tokenizer_without_a_model(directory, whole):
    expected = BartTokenizer.from_preset(directory)(TEXTS)
    if whole:
        as_tokenizer_json(directory)
    for name in ("config.json", "model.safetensors"):
        (directory / name).unlink()
    preset = presets.load_preset(directory)
    assert not preset.has_backbone
    assert preset.end_token_id == 0
    assert BartTokenizer.from_preset(directory)(TEXTS) == expected


@needs_golden
def test_the_same_ids_as_the_package_tokenizers(bart_bpe, directory):
    """With the vocabulary of the published models, through a file that the package wrote."""
    tokenizers = pytest.importorskip("tokenizers")
    theirs = tokenizers.ByteLevelBPETokenizer(
        str(bart_bpe / "vocab.json"), str(bart_bpe / "merges.txt"), trim_offsets=True
    )
    theirs.add_special_tokens(["<s>", "</s>", "<pad>", "<unk>"])
    mask = tokenizers.AddedToken("<mask>", lstrip=True, special=True)
    theirs._tokenizer.add_special_tokens([mask])
    theirs._tokenizer.add_tokens(["<new word>"])
    for name in ("vocab.json", "merges.txt", "config.json"):
        (directory / name).unlink()
    theirs.save(str(directory / "tokenizer.json"))
    ours = BartTokenizer.from_preset(directory)
    texts = [*TEXTS, "It's 1,234.50 naïve <mask>, isn't it?\n\n\tok <new word>x", "<new  word>", ""]
    assert ours(texts) == [theirs.encode(text).ids for text in texts]


@needs_golden
def test_other_tokenizers_are_refused_by_name(directory):
    as_tokenizer_json(directory, model={"type": "WordPiece", "vocab": {"a": 0}})
    with pytest.raises(ValueError, match=r"tokenizer\.json.*WordPiece is not supported") as caught:
        BartTokenizer.from_preset(directory)
    assert "hint: BART's own tokenizers are byte-level BPE" in str(caught.value)
    # The model beside it works with token arrays.
    assert BartBackbone.from_preset(directory).vocabulary_size == 33


# Keras presets of before.


@needs_golden
def test_keras_presets_without_task_and_preprocessor(tmp_path):
    """keras-nlp until 0.14 wrote a backbone and a tokenizer, and named them after itself."""
    model = ArrayModel(CONFIG, seed=1)
    presets.save_keras_preset(tmp_path / "old", task=task(model))
    for name in ("task.json", "preprocessor.json"):
        (tmp_path / "old" / name).unlink()

    def rename(file):
        file["module"] = file["module"].replace("keras_hub", "keras_nlp")
        file["registered_name"] = file["registered_name"].replace("keras_hub", "keras_nlp")
        file["assets"] = ["assets/tokenizer/vocabulary.json", "assets/tokenizer/merges.txt"]
        file["weights"] = "model.weights.h5"
        file["config"].pop("dtype", None)

    for name in ("config.json", "tokenizer.json"):
        edit_json(tmp_path / "old" / name, rename)
    edit_json(tmp_path / "old" / "tokenizer.json", lambda file: file["config"].pop("config_file"))
    assert_same_parameters(loaded(tmp_path / "old"), model)
    preset = presets.load_preset(tmp_path / "old")
    assert preset.preprocessor_config == {
        "encoder_sequence_length": 9,
        "decoder_sequence_length": 9,
    }
    assert np.array_equal(BartTokenizer.from_preset(tmp_path / "old")("ab"), [6])
