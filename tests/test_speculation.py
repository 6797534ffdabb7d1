"""Source-guided speculation: the same bits as without guesses, in fewer passes."""

import json
import sys

import numpy as np
import pytest
from conftest import PROJECT
from tiny_models import PROMPT, SOURCE, tiny_model

from bart_fast import _core
from bart_fast.models import BartSeq2SeqLM
from bart_fast.samplers import BeamSampler, ContrastiveSampler, Sampler

sys.path.insert(0, str(PROJECT / "examples" / "text_repair"))
from split import part_of

WITH_SCORES = {"return_dict_in_generate": True, "output_scores": True}


def same_bits(one, other) -> bool:
    names = ("sequences", "padding_mask", "token_logprobs")
    return all(getattr(one, n).tobytes() == getattr(other, n).tobytes() for n in names)


def passes(model, source: list[int], **options) -> list[int]:
    """How many tokens each pass gave."""
    options = {"sampler": "greedy", "stop_token_ids": [2], **options}
    core = _core.Generation(
        model.backbone._model, [source], None, [[2, 0]], None, [64], json.dumps(options)
    )
    return [len(tokens) for tokens in iter(core.advance, None)]


@pytest.fixture(scope="module")
def tidy():
    model = BartSeq2SeqLM.from_preset("bart_tidy_en")
    model.compile(sampler="greedy")
    return model


def slip(text: str, number: int) -> str:
    """A careless way to write `text`."""
    words = text.lower().rstrip(".!?").replace("'", "").split()
    place = number % len(words)
    word = words[place]
    words[place] = word[: len(word) // 2] + word[len(word) // 2 + 1 :] + word[-1]
    return " ".join(words)


def test_held_out_sentences_are_repaired_alike(tidy, shared):
    lines = (shared("data/text_repair") / "tatoeba.txt").read_text().splitlines()
    # They are in the order of their lengths: short and long ones.
    held_out = [text for text in lines[3::7] if len(text.split()) > 4 and part_of(text) == "test"]
    held_out = held_out[:: len(held_out) // 60][:60]
    assert len(held_out) == 60
    texts = [slip(text, number) for number, text in enumerate(held_out)]
    texts += held_out[:4]
    for size in (1, 5, 32):
        for start in range(0, len(texts), size):
            part = texts[start : start + size]
            plain = tidy.generate(part, speculative=None, **WITH_SCORES)
            guided = tidy.generate(part, **WITH_SCORES)
            assert same_bits(plain, guided), part
            assert plain.texts == guided.texts


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "mixed_float16", "int8"])
def test_every_precision_has_the_same_bits(dtype):
    model = BartSeq2SeqLM.from_preset("bart_tidy_en", dtype=dtype)
    model.compile(sampler="greedy")
    texts = ["i has two apple", "the man who live next door are a doctor", "She walked home."]
    for part in (texts, *([text] for text in texts)):
        plain = model.generate(part, speculative=None, **WITH_SCORES)
        assert same_bits(plain, model.generate(part, **WITH_SCORES))


def test_a_text_that_is_copied_takes_few_passes(tidy):
    text = "The man who lives next door is a doctor, and he helps many people every day."
    ids = [0, *tidy.preprocessor.tokenizer(text).tolist(), 2]
    plain = passes(tidy, ids)
    assert set(plain[1:]) == {1}
    guided = passes(tidy, ids, speculative="auto")
    assert sum(guided) == sum(plain)
    assert len(guided) < len(plain) / 2


@pytest.mark.parametrize("folder", ["hf_tiny", "hf_tiny_asym"])
def test_recorded_cases_are_the_same_with_guesses(folder, shared):
    model = BartSeq2SeqLM.from_preset(str(shared(f"golden/{folder}")), preprocessor=None)
    with np.load(shared("golden/hf_tiny") / "golden_hf.npz") as arrays:
        inputs = {name: arrays[name] for name in ("encoder_token_ids", "encoder_padding_mask")}
        cases = json.loads(str(arrays["cases_json"]))["cases"]
    rows = [{name: array[i : i + 1] for name, array in inputs.items()} for i in range(4)]
    tried = 0
    for settings in cases.values():
        if settings.get("num_beams", 1) > 1:
            continue
        tried += 1
        call = {"max_length": 14, "num_beams": 1, **settings, **WITH_SCORES}
        for part in (inputs, *rows):
            guided = model.generate(part, speculative="source", **call)
            assert same_bits(model.generate(part, speculative=None, **call), guided), settings
    assert tried > 10


def test_answers_to_recorded_arrays_are_the_same_with_guesses(keras_tiny, keras_golden):
    model = BartSeq2SeqLM.from_preset(str(keras_tiny))
    model.compile(sampler="greedy")
    names = ("encoder_token_ids", "encoder_padding_mask")
    names += ("decoder_token_ids", "decoder_padding_mask")
    inputs = {name: keras_golden[f"fwd_in/{name}"] for name in names}
    for stop in (None, 2, [2, 7]):
        for rules in ({}, {"no_repeat_ngram_size": 2}, {"do_sample": True, "seed": 3}):
            call = {"stop_token_ids": stop, **rules, **WITH_SCORES}
            plain = model.generate(inputs, speculative=None, **call)
            assert same_bits(plain, model.generate(inputs, **call))


def test_given_tokens_and_batches(tidy):
    model = tiny_model()
    inputs = {**SOURCE, **PROMPT}
    inputs["decoder_padding_mask"] = np.array([[1, 1, 0, 0, 1, 0], [1, 1, 0, 1, 0, 0]], dtype=bool)
    call = {"stop_token_ids": None, **WITH_SCORES}
    assert same_bits(
        model.generate(inputs, speculative=None, **call), model.generate(inputs, **call)
    )


def test_a_stream_has_the_same_pieces(tidy):
    text = "the man who live next door is a doctor and he help many people every day"
    pieces = list(tidy.stream(text, speculative=None))
    assert list(tidy.stream(text)) == pieces
    assert list(tidy.stream(text, speculative="source")) == pieces


def test_candles_products_are_not_guessed_for_unless_asked(tidy):
    ids = [0, *tidy.preprocessor.tokenizer("a man is a man is a man").tolist(), 2]
    _core.set_portable(True)
    try:
        assert set(passes(tidy, ids, speculative="auto")[1:]) == {1}
        assert max(passes(tidy, ids, speculative="source")[1:]) > 1
    finally:
        _core.set_portable(False)


def test_functions_are_asked_as_without_guesses(tidy):
    text = "the man who live next door is a doctor"

    def seen(speculative):
        histories = []
        tidy.generate(
            [text, "i has two apple"],
            speculative=speculative,
            logits_processor=[lambda ids, scores: histories.append(ids.tolist()) or scores],
        )
        return histories

    assert seen("auto") == seen(None)


class Own(Sampler):
    def get_next_token(self, probabilities):
        return probabilities.argmax(axis=-1)


@pytest.mark.parametrize(
    ("sampler", "settings"),
    [
        ("greedy", {"num_beams": 2}),
        (BeamSampler(), {}),
        (ContrastiveSampler(), {}),
        (Own(), {}),
        ("greedy", {"stopping_criteria": [lambda ids, scores: False]}),
    ],
)
def test_where_guesses_do_nothing_a_wish_for_them_is_answered(sampler, settings):
    model = tiny_model(sampler=sampler)
    with pytest.warns(UserWarning, match="`speculative` is without effect, since "):
        answer = model.generate("the whale", speculative="source", **settings)
    assert model.generate("the whale", **settings) == answer


@pytest.mark.parametrize("wrong", ["model", True, 3, ["source"]])
def test_other_values_are_refused(wrong):
    model = tiny_model()
    for call in (model.generate, model.stream):
        with pytest.raises(ValueError, match='`speculative` must be "auto", "source" or `None`'):
            call("a", speculative=wrong)
