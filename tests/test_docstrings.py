"""The Python examples in the docstrings of the package run."""

import importlib
import inspect
import pkgutil
import re

import numpy as np
import pytest
from tiny_models import tiny_model, tiny_preprocessor

import bart_fast
from bart_fast.models import bart_presets


def documented():
    """(name, example) for each block of code in the docstrings of classes and methods."""
    seen = {}
    for found in pkgutil.walk_packages(bart_fast.__path__, "bart_fast."):
        if found.name == "bart_fast._core":
            continue
        for value in vars(importlib.import_module(found.name)).values():
            if not inspect.isclass(value) or not value.__module__.startswith("bart_fast."):
                continue
            owners = {value.__qualname__: value}
            owners |= {f"{value.__qualname__}.{name}": each for name, each in vars(value).items()}
            for name, owner in owners.items():
                document = inspect.getdoc(owner) if callable(owner) else None
                for block in re.findall(r"```python\n(.*?)```", document or "", flags=re.DOTALL):
                    seen.setdefault((name, block), None)
    return sorted(seen)


EXAMPLES = documented()


@pytest.fixture(scope="module")
def preset(tmp_path_factory):
    folder = tmp_path_factory.mktemp("presets") / "bart_tidy_en"
    preprocessor = tiny_preprocessor(encoder_sequence_length=24, decoder_sequence_length=24)
    tiny_model(preprocessor=preprocessor, max_sequence_length=64).save_to_preset(str(folder))
    return folder


def test_the_main_classes_have_examples():
    names = {name for name, _ in EXAMPLES}
    assert {"BartBackbone", "BartSeq2SeqLM", "GenerationMixin.generate", "Sampler"} <= names
    assert {"BartTokenizer", "BartSeq2SeqLMPreprocessor", "TopKSampler"} <= names


@pytest.mark.parametrize(("name", "block"), EXAMPLES, ids=[name for name, _ in EXAMPLES])
def test_example(name, block, preset, monkeypatch, tmp_path):
    """`bart_lm` and `model` are a model, `x` pairs of texts; `bart_tidy_en` is a small one."""
    entry = {**bart_presets.backbone_presets["bart_tidy_en"], "sources": [f"package://{preset}"]}
    monkeypatch.setitem(bart_presets.backbone_presets, "bart_tidy_en", entry)
    monkeypatch.chdir(tmp_path)
    bart_lm = bart_fast.models.BartSeq2SeqLM.from_preset("bart_tidy_en")
    pairs = {"encoder_text": ["i has two apple"], "decoder_text": ["I have two apples."]}
    variables = {"bart_fast": bart_fast, "np": np, "bart_lm": bart_lm, "model": bart_lm, "x": pairs}
    exec(compile(block, name, "exec"), variables)
