"""`BartSeq2SeqLM.generate()`: kinds of input and output, lengths, samplers."""

import threading

import numpy as np
import pytest
from tiny_models import END, PAD, PROMPT, SIZES, SOURCE, START, TEXTS, tiny_model

from bart_fast import samplers


@pytest.fixture(scope="module")
def model():
    return tiny_model()


@pytest.fixture(scope="module")
def bare():
    """The same model without a preprocessor."""
    return tiny_model(preprocessor=None)


# Strings.


def test_a_string_gives_a_string_and_a_list_a_list(model):
    answers = model.generate(TEXTS)
    assert all(isinstance(answer, str) for answer in answers)
    assert len(set(answers)) > 1, "answers must depend on the source"
    assert [model.generate(text) for text in TEXTS] == answers
    assert model.generate(tuple(TEXTS)) == answers
    assert model.generate(np.array(TEXTS)) == answers
    assert model.generate({"encoder_text": TEXTS}) == answers
    assert model.generate({"encoder_text": TEXTS[0]}) == answers[0]
    assert model.generate([TEXTS[0]]) == answers[:1]


def test_an_empty_list_gives_an_empty_list(model):
    assert model.generate([]) == []
    assert model.generate({"encoder_text": [], "decoder_text": []}) == []


def test_an_empty_string_is_a_source_of_start_and_end(model, bare):
    ids = bare.generate(
        {
            "encoder_token_ids": np.array([[START, END]]),
            "encoder_padding_mask": np.ones((1, 2), bool),
            "decoder_token_ids": np.array([[END, START] + [PAD] * 10]),
            "decoder_padding_mask": np.array([[True] * 2 + [False] * 10]),
        },
        stop_token_ids=[END],
    )
    assert model.generate("") == model.preprocessor.generate_postprocess(ids)[0]


def test_prompts(model):
    answers = model.generate({"encoder_text": TEXTS[:2], "decoder_text": ["ab", "xyz"]})
    assert [answers[0][:2], answers[1][:3]] == ["ab", "xyz"]
    stripped = model.generate(
        {"encoder_text": TEXTS[:2], "decoder_text": ["ab", "xyz"]}, strip_prompt=True
    )
    assert ["ab" + stripped[0], "xyz" + stripped[1]] == answers
    assert model.generate(TEXTS, strip_prompt=True) == model.generate(TEXTS)


def test_max_length_counts_everything(model):
    tokens = len(model.generate("the whale", stop_token_ids=None))
    assert tokens <= 12
    # Two tokens start every answer; each letter is one.
    assert len(model.generate("the whale", stop_token_ids=None, max_length=6)) <= 4
    assert model.generate("the whale", max_length=2) == ""


def test_the_default_length_fits_the_position_table():
    model = tiny_model()
    model.preprocessor.decoder_sequence_length = 1024
    model.preprocessor.encoder_sequence_length = 1024
    # What of the text cannot be read is said: 120 letters and spaces, and room for 22.
    with pytest.warns(UserWarning, match=r"end of a text is left out, 98 tokens: .* room for 22"):
        answer = model.generate("abc " * 30, stop_token_ids=None)
    assert len(answer) <= SIZES["max_sequence_length"]


def test_rows_do_not_depend_on_their_batch(model):
    alone = [model.generate(text) for text in TEXTS]
    assert model.generate(TEXTS[::-1]) == alone[::-1]


# Token arrays.


def test_answers_keep_the_width_and_what_was_given(bare):
    output = bare.generate({**SOURCE, **PROMPT}, stop_token_ids=[END])
    ids, mask = output["decoder_token_ids"], output["decoder_padding_mask"]
    given = PROMPT["decoder_token_ids"]
    assert output.keys() == PROMPT.keys()
    assert (ids.shape, ids.dtype, mask.dtype) == (given.shape, np.int32, np.bool_)
    assert ids[0, :3].tolist() == [END, START, 7]
    assert ids[1, :2].tolist() == [END, START]
    for row in range(2):
        length = int(mask[row].sum())
        assert mask[row, :length].all(), "the mask is one run of True"
        np.testing.assert_array_equal(ids[row, length:], given[row, length:])


def stop_of(bare, position=4):
    """A token that the first row produces at `position`, and not before."""
    full = bare.generate({**SOURCE, **PROMPT}, stop_token_ids=None)["decoder_token_ids"]
    token = int(full[0, position])
    first = int(np.flatnonzero(full[0, 3:] == token)[0]) + 3
    return token, first


def test_the_mask_reaches_to_the_stop_token(bare):
    token, first = stop_of(bare)
    output = bare.generate({**SOURCE, **PROMPT}, stop_token_ids=token)
    mask = output["decoder_padding_mask"][0]
    assert mask.tolist() == [True] * (first + 1) + [False] * (5 - first)
    assert output["decoder_token_ids"][0, first] == token


def test_without_stop_tokens_every_position_is_filled(bare):
    output = bare.generate({**SOURCE, **PROMPT}, stop_token_ids=None)
    assert output["decoder_padding_mask"].all()


def test_a_stop_token_in_the_prompt_does_not_stop(bare):
    output = bare.generate({**SOURCE, **PROMPT}, stop_token_ids=[START])
    assert output["decoder_padding_mask"].sum(axis=1).min() > 2


def test_the_width_is_the_limit_and_max_length_limits_further(bare):
    inputs = {**SOURCE, **PROMPT}
    full = bare.generate(inputs, stop_token_ids=None)
    longer = bare.generate(inputs, stop_token_ids=None, max_length=20)
    np.testing.assert_array_equal(full["decoder_token_ids"], longer["decoder_token_ids"])
    shorter = bare.generate(inputs, stop_token_ids=None, max_length=4)
    assert shorter["decoder_padding_mask"].sum(axis=1).tolist() == [4, 4]
    np.testing.assert_array_equal(
        shorter["decoder_token_ids"][:, :4], full["decoder_token_ids"][:, :4]
    )
    np.testing.assert_array_equal(
        shorter["decoder_token_ids"][:, 4:], PROMPT["decoder_token_ids"][:, 4:]
    )


def test_a_prompt_as_long_as_the_limit_comes_back(bare):
    inputs = {**SOURCE, **PROMPT, "decoder_padding_mask": np.ones((2, 6), bool)}
    output = bare.generate(inputs, stop_token_ids=[END])
    np.testing.assert_array_equal(output["decoder_token_ids"], PROMPT["decoder_token_ids"])
    assert output["decoder_padding_mask"].all()
    output = bare.generate({**SOURCE, **PROMPT}, stop_token_ids=[END], max_length=1)
    np.testing.assert_array_equal(output["decoder_token_ids"], PROMPT["decoder_token_ids"])
    assert output["decoder_padding_mask"].sum(axis=1).tolist() == [3, 2]


@pytest.mark.parametrize("stack", ["encoder", "decoder"])
def test_a_short_mask_counts_as_false_beyond_its_end(bare, stack):
    inputs = {**SOURCE, **PROMPT}
    expected = bare.generate(inputs, stop_token_ids=None)
    name = f"{stack}_padding_mask"
    inputs[name] = inputs[name][:, :5]
    with pytest.warns(UserWarning, match=f"`{name}` has 5 columns and `{stack}_token_ids` has 6"):
        output = bare.generate(inputs, stop_token_ids=None)
    np.testing.assert_array_equal(output["decoder_token_ids"], expected["decoder_token_ids"])


def test_padding_and_its_values_do_not_matter(bare):
    expected = bare.generate({**SOURCE, **PROMPT}, stop_token_ids=None)["decoder_token_ids"]
    ids = np.where(SOURCE["encoder_padding_mask"] == 1, SOURCE["encoder_token_ids"], 25)
    wide = {
        "encoder_token_ids": np.pad(ids, ((0, 0), (0, 30)), constant_values=29),
        "encoder_padding_mask": np.pad(SOURCE["encoder_padding_mask"], ((0, 0), (0, 30))),
    }
    output = bare.generate({**wide, **PROMPT}, stop_token_ids=None)
    np.testing.assert_array_equal(output["decoder_token_ids"], expected)


def test_holes_in_the_source_mask_keep_positions(bare):
    """A hole is skipped, and what follows it stays where it is: as in the forward pass."""
    ids = np.random.default_rng(2).integers(3, 30, (8, 5))
    holes = np.tile([True, False, True, False, True], (8, 1))
    prompt = np.tile([END, START, 7, 7, 7], (8, 1))
    prompt_mask = np.tile([True, True, False, False, False], (8, 1))
    inputs = dict(zip(SOURCE, (ids, holes), strict=True))
    prompts = dict(zip(PROMPT, (prompt, prompt_mask), strict=True))
    output = bare.generate({**inputs, **prompts}, stop_token_ids=None)
    logits = bare({**inputs, **output})
    answers = output["decoder_token_ids"]
    np.testing.assert_array_equal(answers[:, 2:], logits[:, 1:-1].argmax(axis=-1))
    closed = dict(zip(SOURCE, (ids[:, ::2], holes[:, ::2]), strict=True))
    moved = bare.generate({**closed, **prompts}, stop_token_ids=None)["decoder_token_ids"]
    assert (moved != answers).any()


def test_greedy_answers_are_the_arguments_of_the_maximum_of_logits(bare):
    output = bare.generate({**SOURCE, **PROMPT}, stop_token_ids=None)
    ids = output["decoder_token_ids"]
    logits = bare({**SOURCE, **output})
    for row, start in enumerate([3, 2]):
        np.testing.assert_array_equal(ids[row, start:], logits[row, start - 1 : -1].argmax(-1))


def test_no_rows(bare):
    empty = {name: array[:0] for name, array in {**SOURCE, **PROMPT}.items()}
    output = bare.generate(empty, stop_token_ids=None)
    assert output["decoder_token_ids"].shape == (0, 6)


def test_token_arrays_with_a_preprocessor(model, bare):
    expected = bare.generate({**SOURCE, **PROMPT}, stop_token_ids=[END])
    output = model.generate({**SOURCE, **PROMPT})
    np.testing.assert_array_equal(output["decoder_token_ids"], expected["decoder_token_ids"])
    started = model.generate(dict(SOURCE), max_length=6)
    np.testing.assert_array_equal(started["decoder_token_ids"][:, :2], [[END, START]] * 2)


def test_strip_prompt_moves_the_answer_to_the_left(bare):
    full = bare.generate({**SOURCE, **PROMPT}, stop_token_ids=None)
    output = bare.generate({**SOURCE, **PROMPT}, stop_token_ids=None, strip_prompt=True)
    ids, mask = output["decoder_token_ids"], output["decoder_padding_mask"]
    assert mask.sum(axis=1).tolist() == [3, 4]
    np.testing.assert_array_equal(ids[0, mask[0]], full["decoder_token_ids"][0, 3:])
    np.testing.assert_array_equal(ids[1, mask[1]], full["decoder_token_ids"][1, 2:])


def test_inputs_are_left_as_they_were(bare):
    inputs = {name: array.copy() for name, array in {**SOURCE, **PROMPT}.items()}
    bare.generate(inputs, stop_token_ids=None, strip_prompt=True)
    for name, array in {**SOURCE, **PROMPT}.items():
        np.testing.assert_array_equal(inputs[name], array)


# Lengths.


def test_lengths_of_answers(bare):
    inputs = {**SOURCE, **PROMPT}

    def lengths(**arguments):
        output = bare.generate(inputs, **arguments)
        return output["decoder_padding_mask"].sum(axis=1).tolist()

    assert lengths(stop_token_ids=None, max_new_tokens=1) == [4, 3]
    assert lengths(stop_token_ids=None, max_new_tokens=0) == [3, 2]
    # All but one token stop, so that answers end as soon as they may.
    stops = [id for id in range(SIZES["vocabulary_size"]) if id != PAD]
    assert lengths(stop_token_ids=stops) == [4, 3]
    # The stop token comes on top of the least length.
    assert lengths(stop_token_ids=stops, min_length=5) == [6, 6]
    assert lengths(stop_token_ids=stops, min_new_tokens=1) == [5, 4]
    with pytest.raises(ValueError, match=r"`min_new_tokens` must be at most 3: .* limit of 6"):
        lengths(stop_token_ids=None, min_new_tokens=4)


def test_new_tokens_of_strings_have_the_room_of_the_model():
    model = tiny_model()
    model.preprocessor.decoder_sequence_length = 6
    assert len(model.generate("the whale", stop_token_ids=None)) <= 4
    text = model.generate("the whale", stop_token_ids=None, max_new_tokens=9)
    assert len(text) > 4


# Samplers.


@pytest.mark.parametrize("name", ["random", "top_k", "top_p"])
def test_seeds(name):
    model = tiny_model(sampler=samplers.get({"class_name": name, "config": {"seed": 4}}))
    first = model.generate(TEXTS, stop_token_ids=None)
    second = model.generate(TEXTS, stop_token_ids=None)
    model.compile(sampler=samplers.get({"class_name": name, "config": {"seed": 4}}))
    assert model.generate(TEXTS, stop_token_ids=None) == first
    assert model.generate(TEXTS, stop_token_ids=None) == second
    given = model.generate(TEXTS, stop_token_ids=None, seed=8)
    assert model.generate(TEXTS, stop_token_ids=None, seed=8) == given
    if name != "top_p":  # p = 0.1 leaves one token as a rule
        assert first != second
        assert given != first


def test_frequencies_of_a_drawn_token_follow_its_distribution():
    """4,000 rows of one source: the first drawn token, by chi-square, for each sampler."""
    rows, temperature = 4_000, 4.0
    arrays = {name: array[:1] for name, array in {**SOURCE, **PROMPT}.items()}
    bare = tiny_model(preprocessor=None)
    logits = bare({**arrays, "decoder_padding_mask": np.ones((1, 6), bool)})[0, 2] / temperature
    probabilities = np.exp(logits - logits.max())
    probabilities /= probabilities.sum()
    many = {name: np.repeat(array, rows, axis=0) for name, array in arrays.items()}
    for sampler, kept in (
        (samplers.RandomSampler(seed=3, temperature=temperature), len(probabilities)),
        (samplers.TopKSampler(k=4, seed=3, temperature=temperature), 4),
    ):
        bare.compile(sampler=sampler)
        drawn = bare.generate(many, max_length=4, stop_token_ids=None)["decoder_token_ids"][:, 3]
        order = np.argsort(-probabilities, kind="stable")[:kept]
        expected = rows * probabilities[order] / probabilities[order].sum()
        counts = np.bincount(drawn, minlength=len(probabilities))
        assert counts.sum() == counts[order].sum()
        frequent = expected > 5
        chi_square = ((counts[order] - expected) ** 2 / expected)[frequent].sum()
        # The 99.9 % point of `degrees` degrees of freedom is below this for all of 3 to 29.
        degrees = int(frequent.sum()) - 1
        assert chi_square < degrees + 3.3 * np.sqrt(2 * degrees) + 6, type(sampler).__name__


class Slow(samplers.GreedySampler):
    """Greedy search by way of Python."""

    def get_next_token(self, probabilities):
        return np.argmax(probabilities, axis=-1)


class SlowBeams(samplers.BeamSampler):
    """Beam search by way of Python."""

    def compute_probabilities(self, logits):
        return super().compute_probabilities(logits)


@pytest.mark.parametrize(
    ("core", "python"),
    [
        (samplers.GreedySampler(), Slow()),
        (samplers.BeamSampler(3), SlowBeams(3)),
        (samplers.BeamSampler(3, length_penalty=2.0), SlowBeams(3, length_penalty=2.0)),
        (samplers.BeamSampler(3, compat="keras"), SlowBeams(3, compat="keras")),
    ],
)
def test_samplers_in_python_answer_as_in_the_core(core, python):
    token, _ = stop_of(tiny_model(preprocessor=None))
    for arguments in ({}, {"min_length": 6}, {"max_new_tokens": 3}, {"min_new_tokens": 2}):
        answers = []
        for sampler in (core, python):
            model = tiny_model(sampler=sampler, preprocessor=None)
            answers.append(
                model.generate({**SOURCE, **PROMPT}, stop_token_ids=[token, END], **arguments)
            )
        for name, expected in answers[0].items():
            np.testing.assert_array_equal(answers[1][name], expected, err_msg=str(arguments))


def test_samplers_in_python_keep_limits_and_holes():
    """A long prompt with a hole beside a short one, and a limit below the long prompt."""
    inputs = {
        **SOURCE,
        "decoder_token_ids": PROMPT["decoder_token_ids"],
        "decoder_padding_mask": np.array([[1, 1, 1, 0, 1, 1], [1, 0, 0, 0, 0, 0]], dtype=bool),
    }
    for limit in (2, 4, 5, 6):
        core, python = (
            tiny_model(sampler=sampler, preprocessor=None).generate(
                inputs, stop_token_ids={np.int64(END)}, max_length=limit
            )
            for sampler in ("greedy", Slow())
        )
        for name, expected in core.items():
            np.testing.assert_array_equal(python[name], expected, err_msg=f"{limit} {name}")


def test_samplers_in_python_are_not_asked_about_numbers_that_are_none():
    model = tiny_model(sampler=Slow(), preprocessor=None)
    model.set_weights([np.full_like(values, np.nan) for values in model.get_weights()])
    with pytest.raises(ValueError, match="logits for input 0 at position 2 hold NaN"):
        model.generate({**SOURCE, **PROMPT}, stop_token_ids=None)


def test_all_beams():
    sampler = samplers.BeamSampler(num_beams=3, return_all_beams=True)
    model = tiny_model(sampler=sampler)
    answers = model.generate(TEXTS)
    assert [len(beams) for beams in answers] == [3] * len(TEXTS)
    assert model.generate(TEXTS[0]) == answers[0]
    output = model.generate({**SOURCE, **PROMPT})
    assert output["decoder_token_ids"].shape == (2, 3, 6)
    assert (np.diff(output["scores"], axis=1) <= 0).all()
    model.compile(sampler=samplers.BeamSampler(num_beams=3))
    assert model.generate(TEXTS) == [beams[0] for beams in answers]


def test_threads_may_share_a_model(model):
    expected = model.generate(TEXTS)
    answers = {}

    def work(number):
        answers[number] = [model.generate(TEXTS) for _ in range(5)]

    threads = [threading.Thread(target=work, args=(number,)) for number in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert answers == dict.fromkeys(range(3), [expected] * 5)
