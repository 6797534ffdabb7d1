"""The short programs of `examples/` run, with a small model for the one in the package."""

import runpy
import sys
from pathlib import Path

import pytest
from tiny_models import VOCABULARY, tiny_model

from bart_fast.models import BartSeq2SeqLMPreprocessor, BartTokenizer, bart_presets

EXAMPLES = sorted((Path(__file__).parent.parent / "examples").glob("*.py"))
# What a program must print: a line for each answer, or a figure.
PRINTED = {
    "choose_a_sampler": "TopPSampler: ",
    "continue_pretraining": "perplexity of held-out text: ",
    "fine_tune": "sparse_categorical_accuracy",
    "repair_text": "\n",
    "token_arrays": "[[",
    "write_a_sampler": "\n",
}


@pytest.fixture(scope="module")
def preset(tmp_path_factory):
    folder = tmp_path_factory.mktemp("presets") / "bart_tidy_en"
    vocabulary = {**VOCABULARY, "<mask>": len(VOCABULARY)}
    preprocessor = BartSeq2SeqLMPreprocessor(BartTokenizer(vocabulary, []), 32, 24)
    sizes = {"vocabulary_size": len(vocabulary), "max_sequence_length": 192}
    model = tiny_model(preprocessor=preprocessor, **sizes)
    model.save_to_preset(str(folder))
    return folder


def test_every_example_is_known():
    assert {path.stem for path in EXAMPLES} == PRINTED.keys()


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_example(path, preset, monkeypatch, tmp_path, capsys):
    entry = {**bart_presets.backbone_presets["bart_tidy_en"], "sources": [f"package://{preset}"]}
    monkeypatch.setitem(bart_presets.backbone_presets, "bart_tidy_en", entry)
    monkeypatch.setattr(sys, "argv", [str(path), str(tmp_path / "saved")])
    monkeypatch.chdir(tmp_path)
    runpy.run_path(str(path), run_name="__main__")
    assert PRINTED[path.stem] in capsys.readouterr().out
    if path.stem == "fine_tune":
        assert (tmp_path / "saved" / "config.json").is_file()
