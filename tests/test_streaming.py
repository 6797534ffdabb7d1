"""`stream()`: the pieces of an answer, which come early, add up to `generate()`'s, and cost nothing
when nobody asks for the next."""

import gc
import threading
import time
import weakref
from itertools import zip_longest

import numpy as np
import pytest
from test_fork import _PARENT, run
from tiny_models import END, START, tiny_backbone, tiny_model, tiny_preprocessor

import bart_fast
from bart_fast.models import BartSeq2SeqLM, BartSeq2SeqLMPreprocessor, BartTokenizer
from bart_fast.models.streaming_mixin import _pieces
from bart_fast.samplers import BeamSampler, GreedySampler, Sampler, TopKSampler

METHODS = [
    {},
    {"num_beams": 1, "min_new_tokens": 5, "repetition_penalty": 1.4},
    {"do_sample": True, "seed": 3, "max_new_tokens": 7},
    {"top_p": 0.8, "temperature": 2.0, "seed": 5},
    {"num_beams": 4},
    {"num_beams": 4, "early_stopping": True, "length_penalty": 2.0, "no_repeat_ngram_size": 2},
    {"num_beams": 3, "early_stopping": "never", "length_penalty": -1.0},
    {"num_beams": 4, "num_beam_groups": 2, "diversity_penalty": 0.5},
    {"num_beams": 4, "force_words_ids": [[5, 6]], "max_length": 9},
    {"num_beams": 3, "do_sample": True, "seed": 2},
    {"generation_config": {"num_beams": 2, "max_length": 8}},
    {"stop_token_ids": None},
    {"stop_token_ids": [7, 9], "max_length": 10},
    {"decoder_start_token_id": END, "forced_bos_token_id": START},
    {"max_length": 2},
]
INPUTS = ["the whale", "", {"encoder_text": "a fox", "decoder_text": "ju"}]


def byte_tokenizer() -> BartTokenizer:
    """A token for each byte, spelled as GPT-2 spells it; ids from 3 on."""
    plain = [*range(33, 127), *range(161, 173), *range(174, 256)]
    rest = [byte for byte in range(256) if byte not in plain]
    spelled = {byte: chr(byte) for byte in plain}
    spelled |= {byte: chr(256 + place) for place, byte in enumerate(rest)}
    special = {"<s>": 0, "<pad>": 1, "</s>": 2}
    return BartTokenizer({**special, **{spelled[b]: b + 3 for b in range(256)}}, [])


def byte_model() -> BartSeq2SeqLM:
    preprocessor = BartSeq2SeqLMPreprocessor(byte_tokenizer(), 16, 24)
    return BartSeq2SeqLM(tiny_backbone(vocabulary_size=259), preprocessor)


@pytest.fixture(scope="module")
def model():
    return tiny_model()


@pytest.mark.parametrize("settings", METHODS, ids=str)
def test_the_pieces_add_up(model, settings):
    for text in INPUTS:
        for strip in (False, True):
            pieces = list(model.stream(text, strip_prompt=strip, **settings))
            assert "".join(pieces) == model.generate(text, strip_prompt=strip, **settings)
            assert all(pieces)


@pytest.mark.parametrize(
    "sampler",
    [
        "beam",
        "contrastive",
        TopKSampler(k=3, seed=2),
        BeamSampler(num_beams=3, compat="keras"),
        type("OwnGreedy", (Sampler,), {"get_next_token": lambda self, p: p.argmax(axis=-1)})(),
        type(
            "OwnBeams", (BeamSampler,), {"compute_probabilities": Sampler.compute_probabilities}
        )(),
    ],
    ids=lambda each: getattr(each, "__class__", type(each)).__name__,
)
def test_the_pieces_add_up_with_compiled_samplers(sampler):
    streaming, whole = tiny_model(), tiny_model()
    streaming.compile(sampler=sampler)
    for text in INPUTS:
        if isinstance(sampler, TopKSampler):  # whose seed moves on from call to call
            streaming.compile(sampler=TopKSampler(k=3, seed=2))
            whole.compile(sampler=TopKSampler(k=3, seed=2))
        else:
            whole.compile(sampler=sampler)
        pieces = list(streaming.stream(text, no_repeat_ngram_size=2))
        assert "".join(pieces) == whole.generate(text, no_repeat_ngram_size=2)


def test_bytes_that_are_no_characters_add_up():
    model = byte_model()
    for seed in range(12):
        settings = {"do_sample": True, "top_k": 0, "temperature": 3.0, "seed": seed}
        if seed % 2:  # many lead and trail bytes, some of which fit together
            allowed = [3 + byte for byte in b"\xf0\x9f\x98\x80\xc3\xa9\xe2\x82\xaca"]
            settings["prefix_allowed_tokens_fn"] = lambda number, ids, some=allowed: some
        assert "".join(model.stream("abc", **settings)) == model.generate("abc", **settings)


def pieces_of(data: bytes) -> list[str]:
    preprocessor = BartSeq2SeqLMPreprocessor(byte_tokenizer(), 16, 24)
    model = BartSeq2SeqLM(tiny_backbone(vocabulary_size=259), preprocessor)
    arrays = preprocessor.generate_preprocess(["x"])
    request = bart_fast.models.generation.request_from_arrays(
        arrays, None, model.backbone, model._special_tokens()
    )
    tokens = ([byte + 3] for byte in data)
    return list(_pieces(tokens, lambda: None, model._reader(request, 0)))


def test_a_piece_is_whole_characters_and_comes_with_the_last_byte():
    assert pieces_of("aé😀b".encode()) == ["a", "é", "😀", "b"]
    # The second byte is no character, which shows with the third; the end is cut off.
    assert pieces_of(b"a\xe2b\xf0\x9f") == ["a", "\ufffdb", "\ufffd"]
    random = np.random.default_rng(1)
    for _ in range(50):
        data = bytes(random.choice(list("aé😀€".encode()), 12).tolist())
        assert "".join(pieces_of(data)) == data.decode(errors="replace")


def test_pieces_come_with_their_tokens(model):
    calls = []

    def count(ids, scores):
        calls.append(ids.shape[1])
        return scores

    stream = model.stream("the whale", stop_token_ids=None, logits_processor=[count])
    assert calls == [], "nothing runs before the first piece is asked for"
    for number, _ in enumerate(stream, start=1):
        assert len(calls) == number, "one token, one piece"
    assert number > 5


def test_a_sampler_in_python_is_asked_as_pieces_are():
    asked = []

    class Own(Sampler):
        def get_next_token(self, probabilities):
            asked.append(len(asked))
            return probabilities.argmax(axis=-1)

    stream = tiny_model(sampler=Own()).stream("the whale", stop_token_ids=None)
    assert not asked
    for number, _ in enumerate(stream, start=1):
        assert len(asked) == number


def test_beams_give_the_beginning_before_the_end():
    model = BartSeq2SeqLM.from_preset("bart_tidy_en")
    text = "the man who live next door are a doctor and he help many people every day"
    calls = []

    def count(ids, scores):
        calls.append(ids.shape[1])
        return scores

    seen = [calls[-1] for _ in model.stream(text, num_beams=4, logits_processor=[count])]
    assert len(seen) > 12
    assert seen[5] < calls[-1] - 5, "the sixth word comes with the last"


def test_what_writes_text_its_own_way_gives_it_at_once():
    class Loud(BartSeq2SeqLMPreprocessor):
        def generate_postprocess(self, x):
            return [text.strip().upper() for text in super().generate_postprocess(x)]

    model = BartSeq2SeqLM(tiny_backbone(), Loud(tiny_preprocessor().tokenizer, 16, 12))
    model.compile(sampler="greedy")
    assert list(model.stream("the whale")) == [model.generate("the whale")]


@pytest.mark.parametrize(
    ("inputs", "settings", "name"),
    [
        (["a", "b"], {}, "inputs"),
        (["a"], {}, "inputs"),
        (np.array(["a"]), {}, "inputs"),
        ((text for text in ("a", "b")), {}, "inputs"),
        ({"encoder_text": ["a"]}, {}, "encoder_text"),
        ({"encoder_token_ids": [[0]], "encoder_padding_mask": [[1]]}, {}, "inputs"),
        (3, {}, "inputs"),
        ("a", {"num_return_sequences": 2, "num_beams": 2}, "num_return_sequences"),
        ("a", {"return_dict_in_generate": True}, "return_dict_in_generate"),
        ("a", {"overlap": 4}, "overlap"),
        ("a", {"max_length": 0}, "max_length"),
        ("a", {"top_k": -1}, "top_k"),
    ],
)
def test_arguments_are_checked_at_the_call(model, inputs, settings, name):
    with pytest.raises(ValueError, match=f"^`{name}` ") as caught:
        model.stream(inputs, **settings)
    if name in (
        "inputs",
        "encoder_text",
        "num_return_sequences",
        "return_dict_in_generate",
        "overlap",
    ):
        assert "\nhint: `generate()` answers it" in str(caught.value)


def test_all_beams_are_no_stream(model):
    model = tiny_model(sampler=BeamSampler(return_all_beams=True))
    with pytest.raises(ValueError, match="`return_all_beams` must be False"):
        model.stream("a")
    with pytest.raises(TypeError, match="`max_tokens`"):
        model.stream("a", max_tokens=3)
    with pytest.raises(ValueError, match="has no preprocessor"):
        tiny_model(preprocessor=None).stream("a")


def test_streams_and_calls_go_side_by_side(model):
    expected = [model.generate(text, stop_token_ids=None) for text in ("the whale", "a fox", "x")]
    first, second = (model.stream(text, stop_token_ids=None) for text in ("the whale", "a fox"))
    answers = ["", ""]
    for one, two in zip_longest(first, second, fillvalue=""):
        assert model.generate("x", stop_token_ids=None) == expected[2]
        answers[0] += one
        answers[1] += two
    assert answers == expected[:2]


def test_threads_stream_at_the_same_time(model):
    expected = model.generate("the whale", num_beams=3)
    answers = []

    def work():
        for _ in range(10):
            answers.append("".join(model.stream("the whale", num_beams=3)))

    threads = [threading.Thread(target=work) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert answers == [expected] * 30


def leave_by_close(stream):
    stream.close()


def leave_by_exception(stream):
    with pytest.raises(KeyError):
        for _ in stream:
            raise KeyError
    stream.close()


def leave_by_throwing(stream):
    with pytest.raises(KeyboardInterrupt):
        stream.throw(KeyboardInterrupt)


@pytest.mark.parametrize("leave", [leave_by_close, leave_by_exception, leave_by_throwing])
def test_leaving_frees_what_the_stream_holds(model, leave):
    def rule(ids, scores):
        return scores

    held = weakref.ref(rule)
    stream = model.stream("the whale", stop_token_ids=None, logits_processor=[rule])
    next(stream)
    gc.disable()
    try:
        del rule
        assert held() is not None
        leave(stream)
        assert held() is None, "the core still holds the functions, and with them all the rest"
    finally:
        gc.enable()
    assert list(stream) == []


def test_dropping_frees_too(model):
    def rule(ids, scores):
        return scores

    held = weakref.ref(rule)
    for started in (True, False):
        stream = model.stream("the whale", logits_processor=[rule])
        if started:
            next(stream)
        del stream
    del rule
    assert held() is None


def test_what_a_function_raises_comes_out_and_ends_the_stream(model):
    def fail(ids, scores):
        if ids.shape[1] == 4:
            raise KeyboardInterrupt
        return scores

    stream = model.stream("the whale", stop_token_ids=None, logits_processor=[fail])
    with pytest.raises(KeyboardInterrupt):
        list(stream)
    assert list(stream) == []
    assert model.generate("the whale") == "".join(model.stream("the whale"))


def test_a_paused_stream_does_not_use_the_processor():
    model = BartSeq2SeqLM.from_preset("bart_tidy_en")
    model.compile(sampler=GreedySampler())
    stream = model.stream("i has two apple")
    next(stream)
    time.sleep(0.05)  # the workers fall asleep
    before = time.process_time()
    time.sleep(0.4)
    assert time.process_time() - before < 0.1
    stream.close()


_STREAM = """
    def stream():
        from bart_fast import _core
        options = '{"sampler": "greedy", "stop_token_ids": []}'
        return _core.Generation(
            backbone._model, [[1, 2, 3]], None, [[0, 1]], None, [12], options
        )

    def rest(core):
        return [token for tokens in iter(core.advance, None) for token in tokens]

    whole = rest(stream())
    paused = stream()
    told = paused.advance()

    def compare(_=None):
        return told + rest(paused) == whole and bool((answer() == expected).all())
"""


def test_a_fork_beside_an_open_stream():
    from test_fork import _FORK

    run(_PARENT, _STREAM, _FORK)


def test_the_checkpoints_own_settings(model):
    model = tiny_model()
    settings = {"num_beams": 4, "length_penalty": 2.0, "early_stopping": True}
    settings |= {"min_length": 4, "max_length": 11, "no_repeat_ngram_size": 3}
    model.backbone._generation_config = settings
    model.compile(sampler="preset")
    for text in INPUTS:
        assert "".join(model.stream(text)) == model.generate(text)
