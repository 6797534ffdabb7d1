"""Text that is longer than the model reads: `generate(..., overlap=n)`.

A model that copies its source must give any text back.
"""

import numpy as np
import pytest
from byte_vocabulary import BYTE_VOCABULARY
from hypothesis import given
from hypothesis import strategies as st
from properties import examples
from tiny_models import SOURCE, START, tiny_backbone, tiny_model

from bart_fast import samplers
from bart_fast.models import (
    BartSeq2SeqLM,
    BartSeq2SeqLMPreprocessor,
    BartTokenizer,
    generation,
    long_text,
)

# Short words and many marks, so that windows have all kinds of ends; and any text at all.
SCRIBBLES = st.text(alphabet='abI .!?…"\n', max_size=120)
# Without `<`: names of special tokens in a text are those tokens, and no answer spells them.
ANY_TEXT = st.text(st.characters(exclude_characters="<", exclude_categories=["Cs"]), max_size=60)
LONG_TEXTS = st.one_of(SCRIBBLES, ANY_TEXT, st.text(alphabet="aé😀", max_size=90))


def byte_model(encoder_sequence_length=22, decoder_sequence_length=64, **arguments):
    preprocessor = BartSeq2SeqLMPreprocessor(
        BartTokenizer(BYTE_VOCABULARY, []), encoder_sequence_length, decoder_sequence_length
    )
    sizes = {"vocabulary_size": len(BYTE_VOCABULARY), "max_sequence_length": 64, **arguments}
    model = BartSeq2SeqLM(tiny_backbone(**sizes), preprocessor)
    model.compile(sampler="greedy")
    return model


def answers_with(monkeypatch, times):
    """Models answer with their source, each token so many times, as far as the limit allows."""

    def answer(backbone, request, limits, options, functions):
        rows = [[id for id in ids[1:-1] for _ in range(times)] for ids in request.real_sources()[0]]
        cut = [[2, START, *ids, 2][:limit] for ids, limit in zip(rows, limits, strict=True)]
        return [[generation.Answer(ids, 0.0)] for ids in cut]

    monkeypatch.setattr(generation, "generate_in_core", answer)


@pytest.fixture
def copying(monkeypatch):
    """A model whose answer is its source."""
    answers_with(monkeypatch, 1)
    return byte_model()


def count_letters(texts):
    return [len(text) for text in texts]


def count_words(texts):
    return [len(text.split()) for text in texts]


# Windows.


@pytest.mark.parametrize(
    ("text", "room", "overlap", "expected"),
    [
        ("one two. Three four. Five six.", 4, 2, ["one two. Three four.", "Three four. Five six."]),
        ("One two. Three four. Five six.", 4, 0, ["One two. Three four.", "Five six."]),
        # No mark: cut between words.
        ("one two three four five six", 4, 2, ["one two three four", "three four five six"]),
        ("one two\nthree four\nfive", 3, 1, ["one two", "two\nthree four", "three four\nfive"]),
        ('One "two!" Three (four?) Five', 3, 0, ['One "two!"', "Three (four?) Five"]),
        # A mark inside a word ends nothing.
        ("v1.5 is out it works", 3, 0, ["v1.5 is out", "it works"]),
        # The next sentence is too long to be whole: the window is filled.
        ("One. Two three four five six", 4, 0, ["One. Two three four", "five six"]),
        # It fits, though not behind the one before.
        ("One two. Three four five.", 4, 1, ["One two.", "two. Three four five."]),
        ("a b c", 1, 0, ["a", "b", "c"]),
    ],
)
def test_windows_end_with_sentences(text, room, overlap, expected):
    windows = long_text.cut(text, count_words, room, overlap)
    assert [window.text for window in windows] == expected


def test_a_word_longer_than_a_window_is_cut():
    windows = long_text.cut("an abcdefghij end", count_letters, 4, 2)
    assert max(len(window.text) for window in windows) <= 4
    assert long_text.join(windows, [window.text for window in windows]) == "an abcdefghij end"


@examples(300)
@given(st.one_of(SCRIBBLES, st.text(max_size=60)), st.integers(1, 24), st.data())
def test_copies_of_windows_join_to_the_text(text, room, data):
    overlap = data.draw(st.integers(0, room - 1))
    measure = data.draw(st.sampled_from([count_letters, count_words]))
    windows = long_text.cut(text, measure, room, overlap)
    assert max(measure([window.text for window in windows])) <= room
    assert long_text.join(windows, [window.text for window in windows]) == text.strip()


# Joining.


def test_answers_go_over_at_a_sentence_that_both_have():
    windows = long_text.cut("a b. C d. E f. G h. I j.", count_words, 6, 4)
    assert [window.text for window in windows] == [
        "a b. C d. E f.",
        "C d. E f. G h.",
        "E f. G h. I j.",
    ]
    # Each answer is wrong at its ends, where it lacks what stands beside.
    answers = ["A b. C d. E x!", "X d. E f. G x!", "X f. G h. I j."]
    assert long_text.join(windows, answers) == "A b. C d. E f. G h. I j."


def test_without_a_common_sentence_answers_go_over_where_they_agree():
    windows = long_text.cut("a b c d e f g h", count_words, 6, 4)
    assert [window.text for window in windows] == ["a b c d e f", "c d e f g h"]
    assert long_text.join(windows, ["A b c d e f.", "C d e, f g h."]) == "A b c d e, f g h."
    # Words may have become more or fewer.
    assert long_text.join(windows, ["A b c d ee f.", "C d e e f g h."]) == "A b c d e e f g h."
    assert long_text.join(windows, ["p q", "r s"]) == "p q s"
    assert long_text.join(windows, ["", "C d e f g h."]) == "C d e f g h."
    assert long_text.join(windows, ["A b c d e f.", ""]) == "A b c d e f."


@examples(100)
@given(SCRIBBLES, st.integers(2, 24), st.data())
def test_changes_of_single_words_survive(text, room, data):
    """A model that changes every word by itself gives what it would give for the whole."""

    def repair(part):
        return " ".join(word.upper() + ";" for word in part.split())

    windows = long_text.cut(text, count_words, room, data.draw(st.integers(0, room - 1)))
    assert (
        long_text.join(windows, [repair(w.text) for w in windows]).split() == repair(text).split()
    )


# In `generate()`.


@pytest.mark.parametrize("overlap", [0, 7])
def test_a_copied_book(copying, overlap):
    book = (
        "It was noon.\n\nShe said: “Go!” He went … " + "no marks at all " * 9 + "x" * 70 + " end."
    )
    inputs = [book, "short.", "", book.upper(), " leading"]
    copies = copying.generate(inputs, overlap=overlap)
    assert copies == [book, "short.", "", book.upper(), " leading"]
    assert copying.generate(book, overlap=overlap) == book
    assert copying.generate({"encoder_text": [book]}, overlap=overlap) == [book]
    assert copying.generate(iter([[book], ["a"]]), overlap=overlap) == [book, "a"]
    many = [book] * 20  # more windows than are asked for at once
    assert copying.generate(many, overlap=overlap) == many


@examples(40)
@given(text=LONG_TEXTS, width=st.integers(7, 40), data=st.data())
def test_any_text_is_copied(copying, text, width, data):
    copying.preprocessor.encoder_sequence_length = width
    overlap = data.draw(st.integers(0, width - 3))
    copy = copying.generate(text, overlap=overlap)
    assert copy.split() == text.split()
    if len(text.encode()) <= width - 2:
        assert copy == text


@pytest.mark.parametrize(
    "settings", [{}, {"num_beams": 3}, {"do_sample": True, "seed": 5}, {"top_k": 4, "seed": 1}]
)
def test_texts_that_fit_are_answered_as_without(settings):
    model = byte_model(decoder_sequence_length=40)
    texts = ["a fox", "", "twenty letters, .. .", "jumps over it"]
    expected = model.generate(texts, **settings)
    assert model.generate(texts, overlap=5, **settings) == expected
    # Also beside a text that does not.
    long = ["far too long for a window of it"]
    with pytest.warns(UserWarning, match="answers to windows|end of"):
        assert model.generate(texts + long, overlap=5, **settings)[:-1] == expected
        assert (
            model.generate(long + texts, overlap=5, **settings)[1:]
            == (model.generate(long + texts, **settings)[1:])
        )


def test_windows_leave_room_for_answers(copying, monkeypatch):
    texts = ["no marks at all " * 5, "aaaaaaaaaa"]
    assert copying.generate(texts, overlap=2, max_length=12)[0] == texts[0].strip()
    answers_with(monkeypatch, 3)
    with pytest.warns(UserWarning, match=r"\d+ answers to windows are as long as they may be"):
        copying.generate(texts, overlap=2, max_length=12)


@pytest.mark.parametrize(
    ("inputs", "settings", "parts"),
    [
        (SOURCE, {}, ["`overlap` is for strings"]),
        (
            {"encoder_text": "a", "decoder_text": "b"},
            {},
            ["`decoder_text` cannot be used together"],
        ),
        ("a", {"return_dict_in_generate": True}, ["`return_dict_in_generate` cannot be used"]),
        (
            "a",
            {"num_beams": 2, "num_return_sequences": 2},
            ["`num_return_sequences`", "one answer"],
        ),
        (
            "a",
            {"prefix_allowed_tokens_fn": lambda number, ids: [3]},
            ["`prefix_allowed_tokens_fn`"],
        ),
        ("a", {"overlap": 20}, ["`overlap` must be below the 20 tokens of a window", "hint: "]),
        ("a", {"max_length": 13, "overlap": 8}, ["below the 8 tokens"]),
        ("a", {"max_new_tokens": 11, "overlap": 8}, ["below the 8 tokens"]),
        ("a", {"max_length": 3, "overlap": 0}, ["below the 0 tokens"]),
        ("a", {"generation_config": {"overlap": 3}}, ["`overlap` is an argument of the call"]),
        (3, {}, ["a string"]),
    ],
)
def test_what_does_not_go_together(inputs, settings, parts):
    with pytest.raises(ValueError, match=r"^`") as caught:
        byte_model().generate(inputs, **{"overlap": 5, **settings})
    for part in parts:
        assert part in str(caught.value)


def test_beams_that_come_all_are_refused():
    model = byte_model()
    model.compile(sampler=samplers.BeamSampler(2, return_all_beams=True))
    with pytest.raises(ValueError, match="`return_all_beams` cannot be used together"):
        model.generate("a", overlap=3)


def test_an_empty_list_and_a_model_without_a_preprocessor():
    assert byte_model().generate([], overlap=3) == []
    assert byte_model().generate(np.array([], dtype=str), overlap=3) == []
    with pytest.raises(ValueError, match="`inputs` must be a dict of token arrays"):
        tiny_model(preprocessor=None).generate("a", overlap=3, stop_token_ids=None)
