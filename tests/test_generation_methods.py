"""Ways to decode, through a model: what their answers hold, and that they know no batch-mates."""

import numpy as np
import pytest
from tiny_models import SOURCE, TEXTS, VOCABULARY, tiny_model

import bart_fast

METHODS = {
    "sampling": {"do_sample": True, "top_k": 9, "top_p": 0.9, "min_p": 0.01, "typical_p": 0.95},
    "beam sampling": {"do_sample": True, "num_beams": 3, "temperature": 1.3},
    "groups": {"num_beams": 4, "num_beam_groups": 2, "diversity_penalty": 2.0},
    "forced words": {"num_beams": 4, "force_words_ids": [[7, 8], [[9], [10, 11]]]},
    "contrastive": {},
}


@pytest.fixture(scope="module")
def model():
    return tiny_model()


def each_method(function):
    return pytest.mark.parametrize("name", METHODS)(function)


def settings_of(model, name):
    model.compile(sampler="contrastive" if name == "contrastive" else "greedy")
    drawn = METHODS[name].get("do_sample")
    return {**METHODS[name], **({"seed": 5} if drawn else {})}


@each_method
def test_an_answer_does_not_depend_on_its_batch(model, name):
    settings = settings_of(model, name)
    together = model.generate(TEXTS, **settings)
    assert together == model.generate(TEXTS, **settings)
    assert len(set(together)) > 1
    # A text draws by its place in the call, so it keeps its place.
    for count in range(1, len(TEXTS)):
        assert model.generate(TEXTS[:count], **settings) == together[:count]
    if "seed" not in settings:
        assert [model.generate(text, **settings) for text in TEXTS] == together


@pytest.mark.parametrize("dtype", [None, "bfloat16", "int8"])
@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"no_repeat_ngram_size": 2, "suppress_tokens": [5], "min_new_tokens": 4},
        {"num_beams": 4, "length_penalty": 2.0, "num_return_sequences": 3},
        {"num_beams": 3, "no_repeat_ngram_size": 2, "bad_words_ids": [[7]]},
    ],
)
def test_the_best_scores_alone_lead_where_all_scores_do(dtype, settings):
    model = tiny_model(dtype=dtype)
    model.compile(sampler="greedy")
    told = {"return_dict_in_generate": True, "output_scores": True, **settings}
    best = model.generate(TEXTS, **told)
    # A function of the caller has to see all of them.
    every = model.generate(TEXTS, logits_processor=[lambda ids, scores: scores], **told)
    assert best.texts == every.texts
    for name in ("sequences", "sequences_scores", "token_logprobs"):
        np.testing.assert_array_equal(getattr(best, name), getattr(every, name), err_msg=name)


@each_method
def test_several_answers_come_best_first_or_from_streams_of_their_own(model, name):
    settings = settings_of(model, name)
    if name == "contrastive":
        with pytest.raises(ValueError, match="`num_return_sequences`: received 2"):
            model.generate(TEXTS, num_return_sequences=2, **settings)
        return
    several = model.generate(TEXTS, num_return_sequences=3, **settings)
    assert [len(answers) for answers in several] == [3] * len(TEXTS)
    # With forced words three answers may be more than have said them, and the others rank along.
    if name != "forced words":
        assert [answers[0] for answers in several] == model.generate(TEXTS, **settings)
    assert any(len(set(answers)) > 1 for answers in several)
    output = model.generate(
        TEXTS, num_return_sequences=3, return_dict_in_generate=True, output_scores=True, **settings
    )
    assert (output.token_logprobs <= 1e-6).all()
    if "num_beams" in settings:
        scores = output.sequences_scores.reshape(len(TEXTS), 3)
        assert (np.diff(scores, axis=1) <= 0).all()


def test_forced_words_are_said(model):
    model.compile(sampler="greedy")
    letters = {id: letter for letter, id in VOCABULARY.items()}
    for words in ([[7, 8]], [[20], [9, 10]], [[[7, 8], [22, 23]]]):
        for answer in model.generate(TEXTS, num_beams=4, force_words_ids=words):
            for word in words:
                choices = word if isinstance(word[0], list) else [word]
                spelled = ["".join(letters[id] for id in choice) for choice in choices]
                assert any(each in answer for each in spelled), (answer, spelled)


def test_groups_begin_differently(model):
    model.compile(sampler="greedy")
    groups = {"num_beam_groups": 3, "diversity_penalty": 50.0}
    answers = model.generate(
        SOURCE, max_length=6, num_beams=3, num_return_sequences=3, stop_token_ids=None, **groups
    )
    ids = answers["decoder_token_ids"].reshape(2, 3, -1)
    prompt = 2
    for row in ids:
        assert len(set(row[:, prompt])) == 3


def test_seeds_of_a_process_repeat_what_is_drawn(model):
    model.compile(sampler="greedy")
    drawn = []
    for _ in range(2):
        bart_fast.set_random_seed(3)
        drawn.append(model.generate(TEXTS, do_sample=True, num_beams=2))
    assert drawn[0] == drawn[1]
    assert drawn[0] != model.generate(TEXTS, do_sample=True, num_beams=2)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"num_beams": 4, "force_words_ids": [[7], []]}, "`force_words_ids`"),
        ({"num_beams": 4, "force_words_ids": [[[7], [7, 8]]]}, "`force_words_ids`"),
        ({"num_beams": 4, "num_beam_groups": 2}, "`diversity_penalty`"),
        ({"num_beams": 4, "diversity_penalty": 1.0}, "`diversity_penalty`"),
        (
            {
                "num_beams": 4,
                "num_beam_groups": 2,
                "diversity_penalty": 1.0,
                "force_words_ids": [[7]],
            },
            "cannot be used together with `num_beam_groups`",
        ),
    ],
)
def test_settings_that_exclude_each_other(model, settings, message):
    model.compile(sampler="greedy")
    with pytest.raises(ValueError, match=message):
        model.generate(TEXTS, **settings)
