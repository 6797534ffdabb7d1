"""`Seq2SeqLM`: calling, predicting, saving and loading, configs, the summary."""

import json
import re

import numpy as np
import pytest
from tiny_models import (
    END,
    PAD,
    SIZES,
    SOURCE,
    START,
    TEXTS,
    VOCABULARY,
    tiny_backbone,
    tiny_model,
    token_arrays,
)

from bart_fast import callbacks, samplers
from bart_fast.models import BartBackbone, BartSeq2SeqLM, Seq2SeqLM


class Own(samplers.GreedySampler):
    """A sampler that no preset can name."""

    def get_next_token(self, probabilities):
        return np.argmax(probabilities, axis=-1)


@pytest.fixture(scope="module")
def model():
    return tiny_model()


# Calling and predicting.


def test_call_and_predict_give_logits(model):
    arrays = token_arrays(rows=5)
    logits = model(arrays)
    assert (logits.shape, logits.dtype) == ((5, 5, SIZES["vocabulary_size"]), np.float32)
    for batch_size in (1, 2, 32):
        np.testing.assert_array_equal(model.predict(arrays, batch_size=batch_size), logits)
    empty = {name: array[:0] for name, array in arrays.items()}
    assert model(empty).shape == model.predict(empty).shape == (0, 5, SIZES["vocabulary_size"])


def test_logits_are_the_reversed_embedding_of_the_backbone(model):
    arrays = token_arrays()
    hidden = model.backbone(arrays)["decoder_sequence_output"]
    np.testing.assert_allclose(
        model(arrays), hidden @ model.backbone.token_embedding.embeddings.T, rtol=0, atol=1e-4
    )


def test_predict_strings(model):
    texts = {"encoder_text": TEXTS, "decoder_text": ["b", "c", "d", ""]}
    arrays, _, _ = model.preprocessor(texts)
    np.testing.assert_array_equal(model.predict(texts), model(arrays))


def test_predict_takes_batches_and_tells_callbacks(model, capsys):
    arrays = token_arrays(rows=5)
    parts = [{name: array[i : i + 2] for name, array in arrays.items()} for i in (0, 2, 4)]
    told = []
    logger = callbacks.LambdaCallback()
    logger.on_predict_batch_end = lambda batch, logs=None: told.append(batch)
    logits = model.predict(iter(parts), verbose=0, callbacks=[logger])
    np.testing.assert_array_equal(logits, model(arrays, training=False))
    assert told == [0, 1, 2]
    assert capsys.readouterr().out == ""
    assert len(model.predict(parts, steps=2)) == 4
    assert "2/2" in capsys.readouterr().out
    with pytest.raises(ValueError, match="`training` must be False"):
        model(arrays, training=True)
    narrow = {**parts[0], **{n: a[:, :3] for n, a in parts[0].items() if n.startswith("dec")}}
    with pytest.raises(ValueError, match="`x` must have batches of one decoder length"):
        model.predict([parts[0], narrow], verbose=0)


# Building, saving, loading.


def test_attributes():
    backbone = tiny_backbone()
    model = BartSeq2SeqLM(backbone)
    assert model.backbone is backbone
    assert model.preprocessor is None
    assert model.sampler.get_config()["k"] == 5
    assert BartSeq2SeqLM(backbone, compile=False).sampler is None
    assert "bart_tidy_en" in BartSeq2SeqLM.presets


def test_an_uncompiled_model_says_so():
    model = BartSeq2SeqLM(tiny_backbone(), compile=False)
    with pytest.raises(ValueError, match="hint: call `compile"):
        model.generate(dict(SOURCE))


@pytest.mark.parametrize("cls", [BartSeq2SeqLM, Seq2SeqLM])
def test_saved_models_come_back(tmp_path, cls):
    model = tiny_model()
    expected = model.generate(TEXTS)
    model.save_to_preset(str(tmp_path / "preset"))
    again = cls.from_preset(str(tmp_path / "preset"))
    assert type(again) is BartSeq2SeqLM
    assert again.generate(TEXTS) == expected, "greedy is saved, and so are the lengths"
    assert again.preprocessor.encoder_sequence_length == 16
    assert again.backbone.get_config() == model.backbone.get_config()
    np.testing.assert_array_equal(again(token_arrays()), model(token_arrays()))


def test_the_saved_sampler(tmp_path):
    def saved_and_loaded(sampler):
        model = tiny_model(sampler=sampler)
        model.save_to_preset(str(tmp_path / "preset"))
        return BartSeq2SeqLM.from_preset(str(tmp_path / "preset")).sampler

    beams = samplers.BeamSampler(4, length_penalty=2.0)
    assert saved_and_loaded(beams).get_config() == beams.get_config()
    assert type(saved_and_loaded("top_k")) is samplers.TopKSampler
    assert "sampler" not in json.loads((tmp_path / "preset/task.json").read_text())
    assert type(saved_and_loaded(Own())) is samplers.TopKSampler, "ours alone can be named"


def test_from_preset_arguments(tmp_path):
    folder = str(tmp_path / "preset")
    model = tiny_model()
    model.save_to_preset(folder)
    bare = BartSeq2SeqLM.from_preset(folder, preprocessor=None)
    assert bare.preprocessor is None
    random = BartSeq2SeqLM.from_preset(folder, load_weights=False, compile=False, name="mine")
    assert random.sampler is None
    assert random.name == "mine"
    assert (random(token_arrays()) != model(token_arrays())).any()
    dropped = BartSeq2SeqLM.from_preset(folder, dropout=0.25)
    assert json.loads(dropped.backbone._model.config)["attention_dropout"] == 0.25


def test_keras_presets_without_a_preprocessor_start_with_end_and_start(tmp_path):
    folder = str(tmp_path / "preset")
    tiny_model().save_to_preset(folder)
    bare = BartSeq2SeqLM.from_preset(folder, preprocessor=None)
    output = bare.generate(dict(SOURCE), max_length=9)
    ids, mask = output["decoder_token_ids"], output["decoder_padding_mask"]
    assert ids[:, :2].tolist() == [[END, START]] * 2
    assert ids.shape[1] == mask.sum(axis=1).max() <= 9
    assert (ids[~mask] == PAD).all()
    for row in range(2):
        generated = ids[row, 2:][mask[row, 2:]]
        assert END not in generated[:-1], "the end id of the preset stops"
    # The backbone alone knows too.
    alone = BartSeq2SeqLM(BartBackbone.from_preset(folder))
    alone.compile(sampler="greedy")
    again = alone.generate(dict(SOURCE), max_length=9)
    np.testing.assert_array_equal(bare_ids(bare), again["decoder_token_ids"])


def bare_ids(model):
    model.compile(sampler="greedy")
    return model.generate(dict(SOURCE), max_length=9)["decoder_token_ids"]


def test_exported_models_come_back(tmp_path):
    model = tiny_model()
    folder = str(tmp_path / "hf")
    model.export_to_transformers(folder)
    again = BartSeq2SeqLM.from_preset(folder)
    again.compile(sampler="greedy")
    np.testing.assert_array_equal(again(token_arrays()), model(token_arrays()))
    assert again.generate(TEXTS, max_length=12) == model.generate(TEXTS, max_length=12)


def test_config_and_repr(model):
    config = model.get_config()
    assert config["backbone"]["config"] == model.backbone.get_config()
    assert json.loads(json.dumps(config)) == config
    again = BartSeq2SeqLM.from_config(config)
    assert again.get_config() == config
    again.preprocessor.tokenizer.set_vocabulary_and_merges(VOCABULARY, [])
    assert isinstance(again.generate("the whale"), str)
    bare = BartSeq2SeqLM.from_config({"backbone": model.backbone, "preprocessor": None})
    assert bare.backbone is model.backbone
    assert "parameters=" in repr(model)


def test_summary(model, capsys):
    lines = []
    model.summary(print_fn=lines.append)
    text = "\n".join(lines)
    total = f"{model.count_params():,}"
    assert 'Preprocessor: "bart_seq2_seq_lm_preprocessor"' in text
    assert "Vocab size: 30" in text
    assert re.search(rf"bart_backbone \(BartBackbone\) +│ +\(None, None, 16\) │ +{total} │", text)
    assert f"Total params: {total} (" in text
    assert "Non-trainable params: 0 (0.00 B)" in text
    assert capsys.readouterr().out == ""
    model.summary(line_length=60)
    printed = capsys.readouterr().out.splitlines()
    assert {len(line) for line in printed if line[0] in "│├└┌"} == {60}
