"""Rules on the next token, seen from Python: functions of the caller, and samplers of one's own."""

import numpy as np
import pytest
from tiny_models import END, PROMPT, SIZES, SOURCE, TEXTS, tiny_model

from bart_fast import samplers

VOCABULARY = SIZES["vocabulary_size"]
INPUTS = {**SOURCE, **PROMPT}
INPUTS["encoder_token_ids"] = np.where(SOURCE["encoder_token_ids"] == 12, 22, 26)
# Each changes the answers of greedy search, which says 22 again and again.
RULES = {
    "repetition_penalty": 2.5,
    "no_repeat_ngram_size": 2,
    "encoder_no_repeat_ngram_size": 1,
    "bad_words_ids": [[22, 22]],
    "min_length": 5,
    "min_new_tokens": 2,
    "forced_eos_token_id": [5, 6],
    "exponential_decay_length_penalty": (0, 3.0),
    "suppress_tokens": [22, 3],
    "begin_suppress_tokens": [22, 3],
}
STOPS = {"min_length": [22], "min_new_tokens": [22]}


class Slow(samplers.GreedySampler):
    """Greedy search that the core does not know."""

    def get_next_token(self, probabilities):
        return super().get_next_token(probabilities)


class SlowBeams(samplers.BeamSampler):
    """Beam search that the core does not know."""

    def compute_probabilities(self, logits):
        return super().compute_probabilities(logits)


PAIRS = {
    "greedy": (samplers.GreedySampler(), Slow()),
    "beams": (samplers.BeamSampler(3), SlowBeams(3)),
    "keras beams": (samplers.BeamSampler(3, compat="keras"), SlowBeams(3, compat="keras")),
}


@pytest.fixture(scope="module")
def bare():
    return tiny_model(preprocessor=None)


def answers(model, sampler, inputs=INPUTS, **settings):
    model.compile(sampler=sampler)
    output = model.generate(inputs, **{"stop_token_ids": [END, 26], **settings})
    return output["decoder_token_ids"], output["decoder_padding_mask"]


@pytest.mark.parametrize("pair", PAIRS)
@pytest.mark.parametrize("name", RULES)
def test_samplers_in_python_keep_to_the_same_rules(bare, pair, name):
    core, slow = PAIRS[pair]
    settings = {name: RULES[name], "stop_token_ids": STOPS.get(name, [END, 26])}
    got, expected = answers(bare, slow, **settings), answers(bare, core, **settings)
    np.testing.assert_array_equal(got[1], expected[1])
    np.testing.assert_array_equal(got[0], expected[0])


@pytest.mark.parametrize("name", RULES)
def test_the_rules_above_change_something(bare, name):
    stops = STOPS.get(name, [END, 26])
    plain = answers(bare, "greedy", stop_token_ids=stops)[0]
    assert (answers(bare, "greedy", stop_token_ids=stops, **{name: RULES[name]})[0] != plain).any()


@pytest.mark.parametrize("name", RULES)
@pytest.mark.parametrize("method", [{"num_beams": 1}, {"num_beams": 3}])
def test_rules_look_at_one_sequence_alone(name, method):
    model = tiny_model()
    settings = {name: RULES[name], **method}
    together = model.generate(TEXTS, **settings)
    assert together == [model.generate(text, **settings) for text in TEXTS]
    assert together[::-1] == model.generate(TEXTS[::-1], **settings)


# Functions of the caller.


class Recorder:
    """Keeps what a function was asked, and answers by another."""

    def __init__(self, answer):
        self.answer = answer
        self.asked = []

    def __call__(self, *arguments):
        self.asked.append(arguments)
        return self.answer(*arguments)


@pytest.mark.parametrize("sampler", [*PAIRS["greedy"], *PAIRS["beams"]])
def test_allowed_prefixes(bare, sampler):
    allowed = Recorder(lambda number, ids: np.array([4 + number, 6 + len(ids)]))
    ids, mask = answers(bare, sampler, prefix_allowed_tokens_fn=allowed)
    for row, start in enumerate((3, 2)):
        assert mask[row].all()
        for position in range(start, 6):
            assert ids[row, position] in (4 + row, 6 + position)
    numbers = {number for number, _ in allowed.asked}
    assert numbers == {0, 1}
    assert all(ids.ndim == 1 and ids.dtype == np.int64 for _, ids in allowed.asked)


@pytest.mark.parametrize("sampler", [*PAIRS["greedy"], *PAIRS["beams"]])
def test_processors_come_last_and_one_after_the_other(bare, sampler):
    def allow(ids, scores):
        assert ids.shape == (1, ids.size)
        assert (scores.shape, scores.dtype) == ((1, VOCABULARY), np.float32)
        assert scores[0, 7] == -np.inf, "after all other rules"
        changed = np.full_like(scores, -np.inf)
        changed[0, [7, 8]] = 0.0
        return changed

    def prefer(ids, scores):
        return scores.astype(np.float64) - np.where(np.arange(VOCABULARY) == 8, 5, 0)

    ids, mask = answers(bare, sampler, logits_processor=[allow, prefer], suppress_tokens=[7])
    assert (ids[0, 3:] == 7).all()
    assert (ids[1, 2:] == 7).all()
    assert mask.all()


@pytest.mark.parametrize("sampler", [*PAIRS["greedy"], samplers.BeamSampler(3), "random"])
def test_stopping_criteria(bare, sampler):
    def long_enough(ids, scores):
        assert scores is None
        return ids.shape[1] >= 4

    never = Recorder(lambda ids, scores: np.array([False]))
    _, mask = answers(bare, sampler, stopping_criteria=[never, long_enough], stop_token_ids=[2])
    assert mask.sum(axis=1).max() == 4
    assert never.asked


def test_beams_that_run_in_python_ask_no_criteria(bare):
    with pytest.raises(ValueError, match="`stopping_criteria` cannot be asked"):
        answers(bare, SlowBeams(3), stopping_criteria=[lambda ids, scores: True])


@pytest.mark.parametrize(
    "name", ["prefix_allowed_tokens_fn", "logits_processor", "stopping_criteria"]
)
@pytest.mark.parametrize("sampler", ["greedy", "beam", Slow()])
def test_exceptions_come_out_as_they_are(bare, name, sampler):
    error = KeyError("of the caller")

    def fails(*arguments):
        raise error

    with pytest.raises(KeyError) as caught:
        answers(bare, sampler, **{name: fails if name.startswith("prefix") else [fails]})
    assert caught.value is error


@pytest.mark.parametrize(
    ("name", "answer"),
    [
        ("prefix_allowed_tokens_fn", []),
        ("prefix_allowed_tokens_fn", None),
        ("prefix_allowed_tokens_fn", [VOCABULARY]),
        ("prefix_allowed_tokens_fn", [-1]),
        ("prefix_allowed_tokens_fn", ["a"]),
        ("logits_processor", None),
        ("logits_processor", np.zeros(3)),
        ("logits_processor", np.full((1, VOCABULARY), np.nan)),
        ("logits_processor", np.full((1, VOCABULARY), np.inf)),
        ("logits_processor", "scores"),
        ("stopping_criteria", None),
        ("stopping_criteria", [True, False]),
    ],
)
def test_answers_of_functions_are_checked(bare, name, answer):
    def function(*arguments):
        return answer

    with pytest.raises(ValueError, match=f"^`{name}`: the function returned "):
        answers(bare, "greedy", **{name: function if name.startswith("prefix") else [function]})


def test_what_rules_out_everything_is_named(bare):
    with pytest.raises(ValueError, match=r"^`min_length`, `suppress_tokens`: no token"):
        answers(bare, "greedy", suppress_tokens=range(VOCABULARY), min_length=3)
    message = "^`prefix_allowed_tokens_fn`, `suppress_tokens`: no token"
    for sampler in ("greedy", "beam", Slow()):
        with pytest.raises(ValueError, match=message):
            answers(bare, sampler, suppress_tokens=[5], prefix_allowed_tokens_fn=lambda *a: [5])


def test_a_function_may_generate_itself(bare):
    inner = tiny_model()

    def function(number, ids):
        inner.generate("the whale")
        return [4, 5]

    ids, _ = answers(bare, "greedy", prefix_allowed_tokens_fn=function)
    assert np.isin(ids[1, 2:], [4, 5]).all()
