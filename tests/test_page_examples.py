"""The code of keras-hub's page of `BartSeq2SeqLM` runs, with our package in keras-hub's place.

The page is read from the shared data. Presets with the names on it are stood for by a small random
model with the real vocabulary.
"""

import re

import numpy as np
import pytest

import bart_fast
from bart_fast.models import (
    BartBackbone,
    BartSeq2SeqLM,
    BartSeq2SeqLMPreprocessor,
    BartTokenizer,
    bart_presets,
)

# Blocks in the page's order: what an example begins with -> how often it stands there.
EXAMPLES = 7
# Signatures, and models that are not BART.
NOT_EXAMPLES = re.compile(r"^\s*(keras_hub\.models\.\w+\(|BartSeq2SeqLM\.|keras_hub.*\.\w+$)|gemma")


@pytest.fixture(scope="module")
def blocks(shared):
    """The page's examples; each is a program of its own."""
    page = shared("reference/keras_hub_bart_seq2seq_lm.md").read_text(encoding="utf-8")
    blocks = re.findall(r"```python\n(.*?)```", page, flags=re.DOTALL)
    examples = [block for block in blocks if not NOT_EXAMPLES.search(block)]
    assert len(examples) == EXAMPLES
    return examples


@pytest.fixture(scope="module")
def preset(bart_bpe, tmp_path_factory):
    folder = tmp_path_factory.mktemp("presets") / "bart_base_en"
    tokenizer = BartTokenizer(str(bart_bpe / "vocab.json"), str(bart_bpe / "merges.txt"))
    backbone = BartBackbone(
        vocabulary_size=50265,
        num_layers=1,
        num_heads=2,
        hidden_dim=8,
        intermediate_dim=16,
        max_sequence_length=1024,
    )
    preprocessor = BartSeq2SeqLMPreprocessor(
        tokenizer, encoder_sequence_length=64, decoder_sequence_length=48
    )
    BartSeq2SeqLM(backbone, preprocessor).save_to_preset(str(folder))
    return folder


@pytest.fixture
def named_presets(preset, monkeypatch):
    """`from_preset("bart_base_en")` loads the small preset."""
    entry = {**bart_presets.backbone_presets["bart_base_en"], "sources": [f"package://{preset}"]}
    monkeypatch.setitem(bart_presets.backbone_presets, "bart_base_en", entry)


def run(block):
    """Runs an example; returns its variables."""
    variables = {"keras_hub": bart_fast, "np": np}
    exec(compile(block, "example", "exec"), variables)
    return variables


def example(blocks, *marks):
    """The one block that has all of `marks` in it."""
    (found,) = (block for block in blocks if all(mark in block for mark in marks))
    return found


@pytest.mark.usefixtures("named_presets")
def test_generate_from_strings(blocks):
    block = example(blocks, 'bart_lm.generate(["The quick brown fox", "The whale"]')
    bart_lm = run(block)["bart_lm"]
    assert type(bart_lm.sampler).__name__ == "TopKSampler"
    answers = bart_lm.generate(["The quick brown fox", "The whale"], max_length=30)
    assert [type(answer) for answer in answers] == [str, str]
    assert isinstance(bart_lm.generate("The quick brown fox", max_length=30), str)


@pytest.mark.usefixtures("named_presets")
def test_compile_with_a_sampler(blocks):
    bart_lm = run(example(blocks, 'compile(sampler="greedy")'))["bart_lm"]
    answers = {bart_lm.generate("The quick brown fox", max_length=30) for _ in range(3)}
    assert len(answers) == 1


@pytest.mark.usefixtures("named_presets")
def test_generate_from_a_prompt(blocks):
    bart_lm = run(example(blocks, '"decoder_text": "The fast"\n', "generate"))["bart_lm"]
    answer = bart_lm.generate(
        {"encoder_text": "The quick brown fox", "decoder_text": "The fast"}, max_length=12
    )
    assert answer.startswith("The fast")


@pytest.mark.usefixtures("named_presets")
def test_generate_without_preprocessing(blocks):
    block = example(blocks, "bart_lm.generate(prompt)")
    # The page's decoder mask is one shorter than its ids.
    with pytest.warns(UserWarning, match="`decoder_padding_mask` has 6 columns"):
        variables = run(block)
    with pytest.warns(UserWarning, match="`decoder_padding_mask` has 6 columns"):
        output = variables["bart_lm"].generate(variables["prompt"])
    ids, mask = output["decoder_token_ids"], output["decoder_padding_mask"]
    assert ids.shape == mask.shape == (1, 7)
    assert ids[0, :4].tolist() == [2, 0, 133, 1769]
    assert mask[0, :5].all()


@pytest.mark.usefixtures("named_presets")
def test_fit_on_strings(blocks, capsys):
    bart_lm = run(example(blocks, "bart_lm.fit(x=features", "hazel"))["bart_lm"]
    assert bart_lm.optimizer.iterations == 1
    assert "loss" in capsys.readouterr().out


@pytest.mark.usefixtures("named_presets")
def test_fit_without_preprocessing(blocks):
    variables = run(example(blocks, "sample_weight=sw"))
    history = variables["bart_lm"].fit(
        variables["x"], variables["y"], sample_weight=variables["sw"], verbose=0
    )
    # Two rows of four counted positions over two rows of five.
    assert history.history["loss"][0] == pytest.approx(np.log(50265) * 4 / 5, rel=0.02)


def test_custom_backbone_and_vocabulary(blocks):
    """This one has the true size of bart-base, and takes 2.5 GB."""
    variables = run(example(blocks, "BartBackbone("))
    bart_lm = variables["bart_lm"]
    assert bart_lm.optimizer.iterations == 1
    # The page's vocabulary has a slip (its "Ġ" was read in another encoding), so " sun" is no
    # token of it and is dropped.
    assert bart_lm.preprocessor.tokenizer("noon sun").tolist() == [6]
    bart_lm.compile(sampler="greedy")
    assert isinstance(bart_lm.generate(" afternoon sun", max_length=8), str)


@pytest.mark.parametrize("name", ["bart_base_en", "bart_large_en", "bart_large_en_cnn"])
def test_the_names_of_the_page_are_known(name):
    for cls in (BartSeq2SeqLM, BartBackbone):
        assert name in cls.presets
