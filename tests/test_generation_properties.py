"""What holds for `generate()` with any model, any settings and any inputs.

Settings are drawn from the table that `generate()` checks them by, so that new ones are tried too.
"""

import contextlib
import signal
import warnings

import numpy as np
import pytest
from hypothesis import assume, event, given
from hypothesis import strategies as st
from properties import examples
from tiny_models import (
    END,
    PAD,
    START,
    VOCABULARY,
    tiny_backbone,
    tiny_model,
    tiny_preprocessor,
)

from bart_fast import samplers
from bart_fast.models import BartSeq2SeqLM
from bart_fast.models.generation_settings import SETTINGS

TABLE = 20  # positions of all models
TOKENS = len(VOCABULARY)
IDS = st.integers(0, TOKENS - 1)
WORDS = st.lists(st.lists(IDS, min_size=1, max_size=3), min_size=1, max_size=2)
SMALL = st.integers(0, 9)
POSITIVE = st.one_of(st.floats(0.2, 3), st.sampled_from([1e-30, 1e-6, 1e6, 1e30, 1.7e308]))
FLAGS = st.booleans()


def some_tokens(input_number, ids):
    return [int(ids[-1]) % TOKENS, END, 5, 6, 7]


def favour(ids, scores):
    scores = scores.copy()
    scores[:, len(ids[0]) % TOKENS] += 3
    return scores


def forbid_most(ids, scores):
    scores = np.full_like(scores, -np.inf)
    scores[:, [END, 4 + len(ids[0]) % 5]] = -1.0
    return scores


# What each kind of the table may hold. A kind that is not here has only its wrong values tried.
RIGHT = {
    ("int", "1 to 1024"): st.integers(1, 5),
    ("int", "1 or more"): st.integers(1, TABLE),
    ("int", "0 or more"): SMALL,
    ("int", "a token id"): IDS,
    ("int or list of int", "token ids"): st.one_of(IDS, st.lists(IDS, max_size=3)),
    ("list of int", "token ids"): st.lists(IDS, max_size=4),
    ("list of lists of int", "words of token ids"): WORDS,
    ("list", "words, or lists of words"): st.one_of(WORDS, st.lists(WORDS, min_size=1, max_size=2)),
    ("float", "finite"): st.one_of(st.floats(-3, 3), st.sampled_from([-1e308, 1e308])),
    ("float", "0 or more"): st.one_of(st.floats(0, 5), st.just(1e300)),
    ("float", "above 0"): POSITIVE,
    ("float", "0 to 1"): st.floats(0, 1),
    ("float", "above 0, at most 1"): st.floats(0, 1, exclude_min=True),
    ("bool", "True or False"): FLAGS,
    ("bool or str", 'True, False, "never"'): st.sampled_from([True, False, "never"]),
    ("bool or list of int", "True, False, or decoder layers"): st.one_of(FLAGS, st.just([-1])),
    ("pair", "an int from 0, a factor above 0"): st.tuples(SMALL, POSITIVE),
    ("function", "(input, ids [length]) -> token ids"): st.just(some_tokens),
    ("list of functions", "(ids [1, length], scores [1, vocabulary]) -> scores"): st.lists(
        st.sampled_from([favour, forbid_most]), max_size=2
    ),
    ("list of functions", "(ids [1, length], None) -> bool"): st.just(
        [lambda ids, scores: len(ids[0]) > 6]
    ),
}


def values_of(name):
    setting = SETTINGS[name]
    wrong = st.sampled_from(setting.wrong)
    right = RIGHT.get((setting.kind, setting.allowed))
    if right is None:
        return wrong
    # Wrong values now and then, so that most combinations get past them.
    return st.integers(0, 29).flatmap(lambda n: wrong if n == 0 else right)


@st.composite
def settings(draw, most=4):
    """Some settings, by name."""
    names = draw(st.lists(st.sampled_from(sorted(SETTINGS)), unique=True, max_size=most))
    return {name: draw(values_of(name)) for name in names}


class Own(samplers.Sampler):
    """One that runs in Python."""

    def get_next_token(self, probabilities):
        return probabilities.argmax(axis=-1)


SAMPLERS = st.one_of(
    st.builds(samplers.GreedySampler),
    st.builds(samplers.TopKSampler, k=st.integers(1, 9), seed=st.just(3), temperature=POSITIVE),
    st.builds(samplers.TopPSampler, p=st.floats(0, 1), seed=st.just(3), temperature=POSITIVE),
    st.builds(samplers.RandomSampler, seed=st.just(3), temperature=POSITIVE),
    st.builds(samplers.BeamSampler, num_beams=st.integers(1, 4), return_all_beams=FLAGS),
    st.builds(samplers.BeamSampler, num_beams=st.integers(1, 4), compat=st.just("keras")),
    st.builds(samplers.ContrastiveSampler, k=st.integers(1, 5), alpha=st.floats(0, 1)),
    st.builds(Own),
)


@st.composite
def models(draw):
    """A language model of any shape, with weights that matter."""
    heads = draw(st.sampled_from([1, 2, 3]))
    sizes = {
        "num_layers": draw(st.integers(1, 2)),
        "num_heads": heads,
        "hidden_dim": heads * draw(st.sampled_from([1, 4, 5])),
        "intermediate_dim": draw(st.sampled_from([1, 7, 33])),
        "max_sequence_length": TABLE,
    }
    pre_norm = draw(FLAGS)
    beyond = {
        "decoder_layers": draw(st.integers(1, 3)),
        "decoder_attention_heads": draw(st.sampled_from([1, heads])),
        "activation_function": draw(st.sampled_from(["gelu", "relu", "silu", "tanh"])),
        "scale_embedding": draw(FLAGS),
        "normalize_before": pre_norm,
        "add_final_layer_norm": pre_norm,
        "tie_word_embeddings": draw(FLAGS),
        "final_logits_bias": draw(FLAGS),
    }
    backbone = tiny_backbone(seed=draw(st.integers(0, 9)), core_config=beyond, **sizes)
    backbone._special_tokens = type(backbone._special_tokens)((END, START), (END,), PAD)
    model = BartSeq2SeqLM(backbone, tiny_preprocessor(TABLE, TABLE))
    model.compile(sampler=draw(SAMPLERS))
    return model


@st.composite
def token_arrays(draw):
    """Sources, with or without prompts; masks with holes."""
    rows = draw(st.integers(1, 3))
    arrays = {}
    for stack in ("encoder", "decoder")[: draw(st.integers(1, 2))]:
        width = draw(st.integers(1, 7)) + (TABLE - 7) * (stack == "decoder")
        ids = st.lists(IDS, min_size=width, max_size=width)
        masks = st.lists(FLAGS, min_size=width, max_size=width).map(lambda row: [True, *row[1:]])
        for name, values in (("token_ids", ids), ("padding_mask", masks)):
            arrays[f"{stack}_{name}"] = np.array([draw(values) for _ in range(rows)])
    if "decoder_padding_mask" in arrays:
        # Room to answer in.
        arrays["decoder_padding_mask"][:, 5:] = False
    return arrays


TEXTS = st.lists(st.text(alphabet="abc xyz", max_size=12), min_size=1, max_size=3)


@contextlib.contextmanager
def bounded(seconds=20):
    """An example that hangs fails by itself."""

    def stop(*_):
        raise AssertionError(f"an example took more than {seconds} s")

    if not hasattr(signal, "setitimer"):
        yield
        return
    before = signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # settings without effect, cut texts
            yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def answered(call):
    """What `call` returns; an example whose arguments it refuses, in a proper way, ends here."""
    try:
        return call()
    except (ValueError, TypeError) as error:
        assert "`" in str(error), f"names no argument: {error}"
        assert "internal error" not in str(error)
        event(f"refused: {str(error)[:60]}")
        assume(False)


@examples(150)
@given(models(), st.one_of(TEXTS, token_arrays()), settings())
def test_any_call_is_answered_or_refused(model, inputs, keywords):
    with bounded():
        answer = answered(lambda: model.generate(inputs, **keywords))
        again = answered(lambda: model.generate(inputs, **keywords))
    rows = len(inputs["encoder_token_ids"]) if isinstance(inputs, dict) else len(inputs)
    if isinstance(answer, list):
        assert len(answer) == rows
        for each in answer:
            assert isinstance(each, str) or all(isinstance(one, str) for one in each)
    if "seed" in keywords and not isinstance(model.sampler, samplers.PresetSampler):
        assert_same(answer, again)


def assert_same(one, other):
    if isinstance(one, list):
        assert one == other
    elif isinstance(one, dict):
        for name, array in one.items():
            np.testing.assert_array_equal(array, other[name])
    else:
        np.testing.assert_array_equal(one.sequences, other.sequences)
        assert one.texts == other.texts


def is_drawn(model, keywords):
    drawing = ("do_sample", "temperature", "top_k", "top_p", "min_p", "typical_p")
    compiled = isinstance(model.sampler, samplers.RandomSampler | samplers.TopKSampler)
    return (
        compiled
        or isinstance(model.sampler, samplers.TopPSampler)
        or (any(name in keywords for name in drawing))
    )


@examples(100)
@given(models(), token_arrays(), settings())
def test_answers_keep_to_ids_lengths_and_padding(model, arrays, keywords):
    keywords = {**keywords, "return_dict_in_generate": True, "output_scores": True}
    keywords.pop("overlap", None)
    with bounded():
        output = answered(lambda: model.generate(arrays, **keywords))
    ids, mask = output.sequences, output.padding_mask
    assert ids.dtype == np.int32
    assert ((ids >= 0) & (ids < TOKENS)).all()
    lengths = mask.sum(axis=1)
    # Real tokens first, then nothing that counts.
    np.testing.assert_array_equal(mask, np.arange(mask.shape[1]) < lengths[:, None])
    each = len(ids) // len(arrays["encoder_token_ids"])
    prompts = np.full(len(ids), 2 if keywords.get("decoder_start_token_id") is None else 1)
    if "decoder_token_ids" in arrays:
        prompts = np.repeat(arrays["decoder_padding_mask"].sum(axis=1), each)
    most = min(keywords.get("max_length") or TABLE, TABLE)
    assert (lengths <= np.maximum(most, prompts)).all()
    if keywords.get("max_new_tokens") is not None:
        assert (lengths <= prompts + keywords["max_new_tokens"]).all()
    stops = np.atleast_1d(keywords.get("eos_token_id", END))
    given = np.zeros(mask.shape, bool)
    if "decoder_token_ids" in arrays:
        given = np.repeat(arrays["decoder_padding_mask"], each, axis=0)
    for row in range(len(ids)):
        said = ~given[row, : lengths[row] - 1] & (np.arange(lengths[row] - 1) >= prompts[row])
        stopped = np.isin(ids[row, : lengths[row] - 1], stops) & said
        assert not stopped.any(), "nothing follows a stop token"
        if "decoder_token_ids" not in arrays:
            assert (ids[row, lengths[row] :] == PAD).all()
    for scores in (output.sequences_scores, output.token_logprobs):
        assert scores is None or np.isfinite(scores).all()


@examples(100)
@given(models(), token_arrays(), settings(most=3), st.randoms(use_true_random=False))
def test_a_row_does_not_depend_on_its_batch(model, arrays, keywords, random):
    rows = len(arrays["encoder_token_ids"])
    keywords = {**keywords, "max_length": keywords.get("max_length", 12)}
    assume(rows > 1 and not is_drawn(model, keywords))
    assume(getattr(model.sampler, "compat", None) != "keras")
    # It tells rows apart by their numbers.
    keywords.pop("prefix_allowed_tokens_fn", None)
    keywords["return_dict_in_generate"] = keywords["output_scores"] = True
    order = random.sample(range(rows), rows)
    permuted = {name: array[order] for name, array in arrays.items()}
    alone = {name: array[:1] for name, array in arrays.items()}
    with bounded():
        whole = answered(lambda: model.generate(arrays, **keywords))
        mixed = answered(lambda: model.generate(permuted, **keywords))
        single = answered(lambda: model.generate(alone, **keywords))
    each = len(whole.sequences) // rows
    for row, place in enumerate(order):
        assert_rows_equal(mixed, row * each, whole, place * each, each)
    assert_rows_equal(single, 0, whole, 0, each)


def assert_rows_equal(one, first, other, second, count):
    for k in range(count):
        tokens = [
            output.sequences[start + k][output.padding_mask[start + k]].tolist()
            for output, start in ((one, first), (other, second))
        ]
        assert tokens[0] == tokens[1]
        if one.sequences_scores is not None:
            assert one.sequences_scores[first + k] == other.sequences_scores[second + k]


@examples(100)
@given(models(), TEXTS, settings(most=3))
def test_streams_say_what_generate_says(model, texts, keywords):
    assume("seed" in keywords or not is_drawn(model, keywords))
    with bounded():
        pieces = answered(lambda: list(model.stream(texts[0], **keywords)))
        assert "".join(pieces) == model.generate(texts[0], **keywords)
    assert all(pieces)


@examples(100)
@given(models(), token_arrays(), settings(most=3))
def test_guesses_change_no_bit(model, arrays, keywords):
    keywords = {**keywords, "return_dict_in_generate": True, "output_scores": True}
    assume("seed" in keywords or not is_drawn(model, keywords))
    with bounded():
        plain = answered(lambda: model.generate(arrays, speculative=None, **keywords))
        guided = model.generate(arrays, speculative="source", **keywords)
    assert_same(plain, guided)
    assert plain.token_logprobs.tobytes() == guided.token_logprobs.tobytes()


@examples(60)
@given(models(), TEXTS, TEXTS)
def test_scores_and_states_are_finite(model, texts, targets):
    targets = (targets * len(texts))[: len(texts)]
    with bounded():
        scores = model.score(texts, targets)
        states = model.encode(texts, pooling="mean")
        logits = model.predict(
            model.preprocessor({"encoder_text": texts, "decoder_text": targets})[0]
        )
    assert (scores.logprobs <= 0).all()
    for array in (scores.logprobs, scores.token_logprobs, states, logits):
        assert np.isfinite(array).all()


@pytest.mark.parametrize("method", ["random", "top_k", "top_p", None])
def test_extreme_temperatures_and_penalties_leave_numbers(method):
    """What the tests above found: scores near the end of float32 over a temperature near zero."""
    model = tiny_model(sampler="greedy")
    if method is not None:
        classes = {"random": samplers.RandomSampler, "top_k": samplers.TopKSampler}
        sampler = classes.get(method, samplers.TopPSampler)(seed=3, temperature=1e-30)
        model.compile(sampler=sampler)
    drawn = {} if method is not None else {"temperature": 1e-30, "seed": 3}
    for penalty in (
        {"exponential_decay_length_penalty": (0, 1e30)},
        {"repetition_penalty": 1e-30},
    ):
        output = model.generate(
            ["the", "fox"], return_dict_in_generate=True, output_scores=True, **drawn, **penalty
        )
        assert np.isfinite(output.token_logprobs).all()


@pytest.mark.parametrize("name", sorted(SETTINGS))
def test_every_setting_is_drawn_from(name):
    """A new kind of setting wants a line in `RIGHT`."""
    assert (SETTINGS[name].kind, SETTINGS[name].allowed) in RIGHT or name == "generation_config"
