"""Another number of tokens than the model was made with: `resize_token_embeddings`, tokens that the
tokenizer knows and the model does not, special ids without a row."""

import json

import numpy as np
import pytest
from preset_helpers import GOLDEN, edit_json, needs_golden, writable_copy
from tiny_models import SIZES, VOCABULARY, tiny_backbone, tiny_model, token_arrays

from bart_fast import optimizers, set_random_seed
from bart_fast.models import (
    BartBackbone,
    BartSeq2SeqLM,
    BartSeq2SeqLMPreprocessor,
    BartTokenizer,
)

SIZE = SIZES["vocabulary_size"]
UNTIED = {"tie_word_embeddings": False, "separate_embeddings": True, "final_logits_bias": True}
TABLES = {
    "tied": ["shared.weight"],
    "untied": ["encoder.embed_tokens.weight", "decoder.embed_tokens.weight", "lm_head.weight"],
}
CONFIGS = {"tied": {}, "untied": {"core_config": UNTIED}}


@pytest.mark.parametrize("kind", CONFIGS)
@pytest.mark.parametrize("size", [SIZE + 40, SIZE - 3])
def test_rows_that_stay_keep_their_logits(kind, size):
    model = BartSeq2SeqLM(tiny_backbone(**CONFIGS[kind]))
    x = {key: np.minimum(array, SIZE - 4) for key, array in token_arrays().items()}
    before, kept = model(x), min(size, SIZE)
    backbone, old = model.backbone, model.backbone._model
    tables = {name: old.get_parameter(name) for name in TABLES[kind]}
    embedding = model.resize_token_embeddings(size)
    assert backbone.vocabulary_size == size
    assert embedding.embeddings.shape == (size, 16)
    np.testing.assert_array_equal(model(x)[..., :kept], before[..., :kept])
    for name, table in tables.items():
        grown = backbone._model.get_parameter(name)
        np.testing.assert_array_equal(grown[:kept], table[:kept])
        if size > SIZE:
            # Around the mean of the old rows, with a thousand-millionth of their covariance.
            apart = grown[SIZE:] - table.mean(axis=0)
            assert 0 < np.abs(apart).max() < 1e-3
            assert np.unique(grown[SIZE:], axis=0).shape[0] == 40
    if kind == "untied":
        bias = backbone._model.get_parameter("final_logits_bias")
        assert bias.shape == (size,) and not bias[SIZE:].any()
    again = BartBackbone.from_config(backbone.get_config())
    assert again._model.parameters() == backbone._model.parameters()


def test_new_rows_are_seeded_and_drawn_like_those_of_a_new_model():
    def rows(**arguments):
        set_random_seed(3)
        return tiny_backbone().resize_token_embeddings(SIZE + 500, **arguments).embeddings[SIZE:]

    np.testing.assert_array_equal(rows(), rows())
    assert rows(mean_resizing=False).std() == pytest.approx(0.02, rel=0.05)
    backbone = tiny_backbone()
    assert backbone.resize_token_embeddings(pad_to_multiple_of=8).embeddings.shape == (32, 16)
    assert backbone.resize_token_embeddings(33, 8).embeddings.shape == (40, 16)
    same = backbone._model
    backbone.resize_token_embeddings()
    assert backbone._model is same


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"new_num_tokens": 0}, "`new_num_tokens` must be a whole number of at least 1"),
        ({"new_num_tokens": 2.5}, "`new_num_tokens` must be a whole number"),
        ({"new_num_tokens": 1 << 25}, "`new_num_tokens` must be at most"),
        ({"new_num_tokens": 9, "pad_to_multiple_of": -1}, "`pad_to_multiple_of` must be"),
    ],
)
def test_sizes_that_cannot_be(arguments, message):
    with pytest.raises(ValueError, match=message):
        tiny_backbone().resize_token_embeddings(**arguments)


def test_a_resized_model_trains_on_new_tokens_and_is_saved(tmp_path):
    model = tiny_model()
    model.compile(optimizer=optimizers.Adam(0.01), sampler="greedy")
    data = {"encoder_text": ["abc"] * 4, "decoder_text": ["abc"] * 4}
    model.fit(data, verbose=0)
    model.resize_token_embeddings(SIZE + 2)
    tokenizer = BartTokenizer(VOCABULARY | {"<x>": SIZE}, [], unsplittable_tokens=["<x>"])
    model.preprocessor = BartSeq2SeqLMPreprocessor(tokenizer, 16, 12)
    row = model.backbone.token_embedding.embeddings[SIZE]
    data["encoder_text"][0] = "a<x>"
    history = model.fit(data, epochs=2, verbose=0).history["loss"]
    assert history[1] < history[0]
    assert model.optimizer.iterations == 2
    assert np.abs(model.backbone.token_embedding.embeddings[SIZE] - row).max() > 1e-3
    for save in (model.save_to_preset, model.export_to_transformers):
        save(tmp_path / save.__name__)
        again = BartSeq2SeqLM.from_preset(str(tmp_path / save.__name__))
        np.testing.assert_array_equal(
            again.backbone.token_embedding.embeddings, model.backbone.token_embedding.embeddings
        )
        assert again.generate("a<x>", 8, num_beams=1) == model.generate("a<x>", 8)


def without_mask():
    """A model of one row less than its tokenizer has tokens, as some of Facebook's are."""
    tokenizer = BartTokenizer(VOCABULARY | {"<mask>": SIZE}, [])
    return BartSeq2SeqLM(tiny_backbone(), BartSeq2SeqLMPreprocessor(tokenizer, 16, 12))


@pytest.mark.parametrize(
    "call",
    [
        lambda model, text: model.generate(["ab", text]),
        lambda model, text: model.generate({"encoder_text": "a", "decoder_text": text}),
        lambda model, text: model.encode(text),
        lambda model, text: model.score("a", text),
        lambda model, text: model.predict({"encoder_text": [text], "decoder_text": ["a"]}),
        lambda model, text: model.fit({"encoder_text": ["a"], "decoder_text": [text]}, verbose=0),
    ],
    ids=["generate", "prompt", "encode", "score", "predict", "fit"],
)
def test_a_token_without_a_row_is_named_and_resizing_is_the_way_out(call):
    model = without_mask()
    call(model, "ab")
    message = (
        rf"the token '<mask>', whose id is {SIZE}, but the token table of the model has {SIZE} "
        rf"rows.*\n.*`resize_token_embeddings\({SIZE + 1}\)`"
    )
    with pytest.raises(ValueError, match=message):
        call(model, "a<mask>")
    model.resize_token_embeddings(SIZE + 1)
    call(model, "a<mask>")


@needs_golden
@pytest.mark.parametrize(
    ("file", "name", "value"),
    [
        ("config.json", "decoder_start_token_id", 99),
        ("config.json", "pad_token_id", 33),
        ("config.json", "eos_token_id", [2, 40]),
        ("generation_config.json", "forced_bos_token_id", 50264),
        ("generation_config.json", "bos_token_id", 1000),
    ],
)
def test_special_ids_without_a_row_are_found_when_loading(tmp_path, file, name, value):
    directory = writable_copy(GOLDEN / "hf_tiny", tmp_path / "copy")
    path = directory / file
    if not path.is_file():
        path.write_text(json.dumps({}))
    edit_json(path, lambda fields: fields.update({name: value}))
    shown = value[-1] if isinstance(value, list) else value
    with pytest.raises(ValueError, match=rf"copy`: `{name}` is {shown}, but the model has the ids"):
        BartSeq2SeqLM.from_preset(directory)


@needs_golden
def test_special_ids_are_not_cut_off():
    model = BartSeq2SeqLM.from_preset(GOLDEN / "keras_tiny")
    with pytest.raises(ValueError, match=r"`new_num_tokens`: `bos_token_id` is 3"):
        model.resize_token_embeddings(3)
