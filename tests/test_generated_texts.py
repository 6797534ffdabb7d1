"""ROUGE, exact match, and what compares generated texts with references."""

import doctest
import json
import sys

import numpy as np
import pytest
from tiny_models import tiny_model

from bart_fast import callbacks, metrics
from bart_fast.metrics import exact_match, perplexity
from bart_fast.training import generated_texts

REFERENCES = [
    "the tiny little cat was found under the big funny bed",
    "i really love contributing to KerasHub",
]
TEXTS = ["the cat was under the bed", "i love contributing to KerasHub"]
SOURCES = ["the whale", "a fox", "it", "over", "under"]


class Length(metrics.TextMetric):
    """A metric of one's own."""

    def scores(self, reference, text):
        return {"of_text": len(text), "of_reference": len(reference)}


def test_rouge_equals_keras_hub():
    """The values in keras-hub's documentation."""
    pytest.importorskip("rouge_score")
    for metric, one, both in (
        (metrics.RougeN(order=2), 0.26666668, 0.4666667),
        (metrics.RougeN(order=3), None, 0.2857143),
        (metrics.RougeL(), None, 0.80748665),
    ):
        if one is not None:
            assert metric(REFERENCES[0], TEXTS[0])["f1_score"] == pytest.approx(one)
            metric.reset_state()
        rows = ([[each] for each in REFERENCES], np.array(TEXTS)[:, None])
        assert metric(*rows)["f1_score"] == pytest.approx(both)
        assert metric(REFERENCES, TEXTS)["f1_score"] == pytest.approx(both)
        again = metrics.get(json.loads(json.dumps(metrics.serialize(metric))))
        assert again.get_config() == metric.get_config()
        assert again.result() == {"precision": 0.0, "recall": 0.0, "f1_score": 0.0}


def test_exact_matches():
    references, texts = ["One.", "two", "three"], ["One.", "Two!", "thre"]
    assert metrics.ExactMatch()(references, texts) == pytest.approx(1 / 3)
    assert metrics.ExactMatch(True, True)(references, texts) == pytest.approx(2 / 3)
    assert metrics.ExactMatch().result() == 0.0


def test_generated_texts_are_compared_with_references():
    model = tiny_model()
    answers = model.generate(SOURCES, num_beams=2)
    references = [answers[0], "b", answers[2], "c", answers[4] + "x"]
    # The state of a metric is of one evaluation.
    length = Length()
    length.update_state(["a"], ["b"])
    options = {"metrics": ["exact_match", length], "num_beams": 2, "verbose": 0}
    expected = {
        "exact_match": pytest.approx(2 / 5),
        "length_of_text": pytest.approx(np.mean([len(each) for each in answers])),
        "length_of_reference": pytest.approx(np.mean([len(each) for each in references])),
    }
    pairs = {"encoder_text": SOURCES, "decoder_text": references}
    parts = [
        {"encoder_text": SOURCES[i : i + 2], "decoder_text": references[i : i + 2]}
        for i in (0, 2, 4)
    ]
    forms = ((pairs,), (SOURCES, references), (np.array(SOURCES), references), (parts,))
    for form in (*forms, (iter(parts),), (iter([(SOURCES, references)]),)):
        assert model.evaluate_generation(*form, batch_size=2, **options) == expected


def test_rouge_by_its_short_names(capsys):
    pytest.importorskip("rouge_score")
    model = tiny_model()
    answers = model.generate(SOURCES[:2])
    got = model.evaluate_generation(SOURCES[:2], answers, batch_size=1)
    assert list(got) == list(generated_texts.DEFAULT_METRICS) and got["exact_match"] == 1.0
    assert capsys.readouterr().out.startswith("2/2 ")
    # A sampler that returns all its beams: the best counts.
    model.compile(sampler="greedy")
    assert model.evaluate_generation(SOURCES, SOURCES, metrics="rougeL", verbose=0).keys() == {
        "rougeL"
    }


def test_epochs_are_judged_by_what_the_model_writes():
    model = tiny_model(dropout=0.0)
    pairs = {"encoder_text": SOURCES, "decoder_text": ["ab"] * 5}
    watched = callbacks.GenerationMetrics(pairs, metrics=["exact_match"], every=2)
    stop = callbacks.EarlyStopping("val_exact_match", mode="max", baseline=2.0, patience=1)
    with pytest.warns(UserWarning, match="`val_exact_match` is not available"):
        history = model.fit(pairs, epochs=6, verbose=0, callbacks=[watched, stop]).history
    assert len(history["val_exact_match"]) == 2 and len(history["loss"]) == 4
    value = model.evaluate_generation(pairs, metrics=["exact_match"], verbose=0)
    assert history["val_exact_match"][-1] == value["exact_match"]


def test_a_missing_package_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "rouge_score.rouge_scorer", None)
    with pytest.raises(ImportError, match="hint: pip install"):
        metrics.RougeL()
    with pytest.raises(ImportError, match="rouge-score"):
        tiny_model().evaluate_generation(SOURCES, SOURCES)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"y": None}, "`y` must hold the references"),
        ({"y": SOURCES[:2]}, "`y` must have a text for each of 5"),
        ({"x": {"encoder_text": SOURCES}, "y": None}, "`x` must be a dict with"),
        ({"x": []}, "`y` must have a text for each of 0"),
        ({"x": [], "y": []}, "`x` must hold at least one text"),
        ({"metrics": ["accuracy"]}, "`metrics` must hold metrics of texts"),
        ({"metrics": []}, "`metrics` must be a list"),
        ({"metrics": ["exact_match", "exact_match"]}, "`metrics` must have different names"),
        ({"batch_size": 0}, "`batch_size` must be a whole number"),
        ({"verbose": 3}, "`verbose` must be"),
        ({"num_return_sequences": 2}, "`settings` must ask for one answer a text"),
        ({"num_beam": 2}, "num_beam"),
    ],
)
def test_bad_arguments_are_named(arguments, message):
    options = {"x": SOURCES, "y": SOURCES, "metrics": ["exact_match"], "verbose": 0}
    with pytest.raises((ValueError, TypeError), match=message):
        tiny_model().evaluate_generation(**{**options, **arguments})
    with pytest.raises(ValueError, match="hint: `evaluate_generation"):
        tiny_model().compile(weighted_metrics=["exactmatch"])


def test_texts_must_pair_with_references():
    with pytest.raises(ValueError, match="`y_pred` must have a text for each of 2"):
        metrics.ExactMatch().update_state(REFERENCES, TEXTS[:1])
    with pytest.raises(ValueError, match="`y_true` must have one text a row"):
        metrics.ExactMatch().update_state([["a", "b"]], ["a"])


@pytest.mark.parametrize("module", [exact_match, perplexity])
def test_examples_of_docstrings(module):
    results = doctest.testmod(module)
    assert (results.attempted > 0, results.failed) == (True, 0)
