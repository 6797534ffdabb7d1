"""The example that teaches the model to write down spoken English."""

import random
import re
import sys
from pathlib import Path

import pytest
from tiny_models import VOCABULARY, tiny_model

from bart_fast.models import BartSeq2SeqLMPreprocessor, BartTokenizer, bart_presets

EXAMPLE = Path(__file__).parent.parent / "examples" / "dictation"


@pytest.fixture
def modules(monkeypatch):
    monkeypatch.syspath_prepend(str(EXAMPLE))
    names = ("spoken", "dictation")
    for name in names:
        sys.modules.pop(name, None)
    import dictation
    import spoken

    yield spoken, dictation
    for name in names:
        sys.modules.pop(name, None)


def test_numbers_are_said_as_people_say_them(modules):
    spoken, _ = modules
    for written, said in (
        ("It cost $1.50 on May 3, 1997.",
         "it cost one dollar fifty on may third nineteen ninety seven"),
        ("About 100,000 of 1,234,567!", "about one hundred thousand of one million two hundred "
         "thirty four thousand five hundred sixty seven"),
        ("In 1905, 2005, 1900 and 2000.", "in nineteen oh five two thousand five nineteen hundred "
         "and two thousand"),
        ("the 1830s and 1920s", "the eighteen thirties and nineteen twenties"),
        ("at 11:05, 9:30 and 8:00", "at eleven oh five nine thirty and eight"),
        ("the 23rd, the 12th, the 40th", "the twenty third the twelfth the fortieth"),
        ("3.5% of $27.5 million",
         "three point five percent of twenty seven point five million dollars"),
        ("$0.05 or £0.01", "five cents or one penny"),
        ("1861-1865: it's 'war'", "eighteen sixty one to eighteen sixty five it's war"),
    ):  # fmt: skip
        assert spoken.spoken(written) == said
    for unclear in ("C10H16", "$2.5", "call 0800", "16A Victoria Street"):
        assert spoken.spoken(unclear) is None


def test_other_numbers_are_of_the_same_kind(modules):
    spoken, dictation = modules
    text = "On May 3, 1997 at 11:05 the 100,000 paid $1.50, 3.5% more than in the 1980s."
    rng = random.Random(4)
    drawn = {spoken.with_other_numbers(text, rng) for _ in range(20)}
    assert len(drawn) == 20
    for other in drawn:
        assert re.sub(r"[\d:]+", "0", other) == re.sub(r"[\d:]+", "0", text)
        assert re.search(r" [1-9]00,000 paid", other) and " 1980s" in other
        assert spoken.spoken(other)
        assert dictation.place(other) == dictation.place(text)


def test_the_whole_program(modules, tmp_path, monkeypatch, capsys):
    _, dictation = modules
    vocabulary = {**VOCABULARY, "<mask>": len(VOCABULARY)}
    preprocessor = BartSeq2SeqLMPreprocessor(BartTokenizer(vocabulary, []), 96, 96)
    model = tiny_model(
        preprocessor=preprocessor, vocabulary_size=len(vocabulary), max_sequence_length=128
    )
    model.save_to_preset(str(tmp_path / "tiny"))
    entry = {**bart_presets.backbone_presets["bart_tidy_en"]}
    entry["sources"] = [f"package://{tmp_path / 'tiny'}"]
    monkeypatch.setitem(bart_presets.backbone_presets, "bart_tidy_en", entry)
    names = ("Tom", "Ann", "Eve", "Max", "Sue", "Leo", "Ida", "Ben")
    lines = [
        f"{name} has {number} cats. They eat a lot." for name in names for number in range(11, 31)
    ]
    lines += [f"{'ab' * (i % 9 + 1)}{chr(97 + i % 26)} was in {1900 + i}." for i in range(1, 60)]
    text = tmp_path / "sentences.txt"
    text.write_text("\n".join(lines), encoding="utf-8")
    dictation.main([str(text), "--pairs", "320", "--output", str(tmp_path / "out")])
    assert "numbers written right: " in capsys.readouterr().out
    assert (tmp_path / "out" / "model.weights.h5").is_file()
    text.write_text("No numbers here.", encoding="utf-8")
    with pytest.raises(SystemExit, match="too few sentences with numbers"):
        dictation.main([str(text)])
