"""The short programs of `examples/` run, with a small model for the one in the package."""

import runpy
import sys
from pathlib import Path

import pytest
from tiny_models import tiny_model, tiny_preprocessor

from bart_fast.models import bart_presets

EXAMPLES = sorted((Path(__file__).parent.parent / "examples").glob("*.py"))
# What a program must print: a line for each answer, or a figure.
PRINTED = {
    "choose_a_sampler": "TopPSampler: ",
    "fine_tune": "sparse_categorical_accuracy",
    "repair_text": "\n",
    "token_arrays": "[[",
    "write_a_sampler": "\n",
}


@pytest.fixture(scope="module")
def preset(tmp_path_factory):
    folder = tmp_path_factory.mktemp("presets") / "bart_tidy_en"
    preprocessor = tiny_preprocessor(encoder_sequence_length=32, decoder_sequence_length=24)
    model = tiny_model(preprocessor=preprocessor, max_sequence_length=64)
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
