"""What users may get wrong in calls: one exception that names the argument and the way out."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from tiny_models import END, PAD, SIZES, START, tiny_backbone, tiny_model, token_arrays

from bart_fast import samplers
from bart_fast.models import BartBackbone, BartSeq2SeqLM

TESTS = Path(__file__).parent.parent
WIDTH = SIZES["max_sequence_length"]


@pytest.fixture(scope="module")
def model():
    return tiny_model()


@pytest.fixture(scope="module")
def bare():
    return tiny_model(preprocessor=None)


def refused(call, *parts, error=ValueError):
    """`call` raises `error`, and the message has all of `parts`."""
    with pytest.raises(error) as caught:
        call()
    message = str(caught.value)
    for part in parts:
        assert part in message, message
    return message


def arrays(**changes):
    """Good arrays for `generate()` with some replaced, or left out where `None`."""
    good = {
        "encoder_token_ids": np.array([[START, 9, END, PAD]] * 2),
        "encoder_padding_mask": np.array([[True, True, True, False]] * 2),
        "decoder_token_ids": np.array([[END, START, PAD, PAD, PAD]] * 2),
        "decoder_padding_mask": np.array([[True, True, False, False, False]] * 2),
    }
    return {name: value for name, value in {**good, **changes}.items() if value is not None}


# Backbone.


def test_a_model_larger_than_any_memory_is_refused():
    with pytest.raises(MemoryError, match=r"a model of these sizes needs .* GB of memory"):
        BartBackbone(2**24, 1, 1, 2**24, 16)


@pytest.mark.parametrize(
    ("changes", "parts"),
    [
        ({"vocabulary_size": 0}, ["`vocabulary_size`", "at least 1", "Received: 0"]),
        ({"num_layers": -1}, ["`num_layers`", "Received: -1"]),
        ({"num_heads": 2.0}, ["`num_heads`", "Received: 2.0"]),
        ({"num_layers": 10**6}, ["`encoder_layers`", "1 to 1024"]),
        ({"num_heads": True}, ["`num_heads`", "Received: True"]),
        ({"hidden_dim": "16"}, ["`hidden_dim`", "Received: '16'"]),
        ({"hidden_dim": 15}, ["`hidden_dim`", "multiple of `num_heads`, 2", "Received: 15"]),
        ({"intermediate_dim": None}, ["`intermediate_dim`"]),
        ({"max_sequence_length": 0}, ["`max_sequence_length`"]),
        ({"dropout": 1.0}, ["`dropout`", "below 1"]),
        ({"dropout": float("nan")}, ["`dropout`"]),
        ({"dropout": -0.1}, ["`dropout`"]),
        ({"dtype": "int4"}, ["`dtype` 'int4' is not implemented", '"float32"', "hint: "]),
        ({"dtype": {"config": {"name": "float64"}}}, ["`dtype` must be", "float64"]),
        ({"core_config": {"decoder_attention_heads": 3}}, ["decoder_attention_heads"]),
        ({"core_config": {"separate_embeddings": True}}, ["separate_embeddings"]),
        ({"core_config": "encoder"}, ["`core_config` must be a dict", "'encoder'"]),
        ({"core_config": [1]}, ["`core_config` must be a dict"]),
        ({"core_config": {"depth": 3}}, ["`core_config`", "unknown", "'depth'"]),
        ({"core_config": {"decoder_layers": "3"}}, ["`core_config`", "'decoder_layers'", "int"]),
        ({"core_config": {"decoder_layers": True}}, ["`core_config`", "'decoder_layers'", "int"]),
        ({"core_config": {"init_std": float("nan")}}, ["`core_config`", "'init_std'"]),
        ({"core_config": {"scale_embedding": 1}}, ["`core_config`", "'scale_embedding'", "bool"]),
    ],
)
def test_backbone_arguments(changes, parts):
    refused(lambda: BartBackbone(**{**SIZES, **changes}), *parts)


def test_unknown_backbone_arguments():
    with pytest.raises(TypeError, match="depth"):
        BartBackbone(**SIZES, depth=3)


@pytest.mark.parametrize(
    ("name", "value", "parts"),
    [
        ("decoder_token_ids", np.full((3, 5), 30), ["from 0 to 29", "30 at row 0, position 0"]),
        ("encoder_token_ids", np.full((3, 7), -1), ["-1 at row 0"]),
        ("encoder_token_ids", np.full((3, 7), 2**64 - 1, np.uint64), ["18446744073709551615"]),
        ("encoder_token_ids", np.ones((3, 7)), ["must hold integers", "float64"]),
        ("encoder_token_ids", np.ones((3, 7), bool), ["must hold integers", "bool"]),
        ("encoder_token_ids", [["a"] * 7] * 3, ["must hold integers", "hint: "]),
        ("encoder_token_ids", [[1, 2], [3]], ["rectangular", "hint: pad"]),
        ("encoder_token_ids", np.ones(7, int), ["[batch, length]", "hint: add a batch axis"]),
        ("encoder_token_ids", np.ones((1, 3, 7), int), ["[batch, length]", "(1, 3, 7)"]),
        ("decoder_token_ids", np.ones((3, 0), int), ["one position at least"]),
        ("decoder_token_ids", None, ["must hold integers"]),
        ("encoder_padding_mask", np.ones((3, 6), bool), ["`encoder_token_ids`, (3, 7)", "(3, 6)"]),
        ("encoder_padding_mask", np.ones((2, 7), bool), ["(2, 7)"]),
        ("decoder_padding_mask", np.ones(5, bool), ["[batch, length]"]),
        ("decoder_padding_mask", [["yes"] * 5] * 3, ["booleans, or zeros and ones"]),
    ],
)
@pytest.mark.parametrize("method", ["__call__", "predict"])
def test_forward_arrays(model, method, name, value, parts):
    inputs = {**token_arrays(rows=3, source=7, target=5), name: value}
    for owner in (model, model.backbone):
        refused(lambda owner=owner: getattr(owner, method)(inputs), f"`{name}`", *parts)


def test_forward_keys_rows_and_lengths(model):
    inputs = token_arrays()
    short = {name: array for name, array in inputs.items() if name != "decoder_padding_mask"}
    refused(lambda: model(short), "`x`", "missing: `decoder_padding_mask`")
    refused(lambda: model({**inputs, "token_ids": 1}), "`x`", "unknown: 'token_ids'")
    refused(lambda: model("text"), "`x` must be a dict", "Received: 'str'")
    refused(lambda: model.backbone(None), "`x` must be a dict")
    rows = {**inputs, "decoder_token_ids": np.ones((2, 5), int)}
    rows["decoder_padding_mask"] = np.ones((2, 5), bool)
    refused(lambda: model(rows), "`decoder_token_ids` must have as many rows", "3", "Received: 2")
    long = token_arrays(source=WIDTH + 1)
    refused(lambda: model(long), "`encoder_token_ids`", "position table", f"length {WIDTH + 1}")
    refused(lambda: model.predict(inputs, batch_size=0), "`batch_size`")


def test_token_embedding(model):
    embedding = model.backbone.token_embedding
    refused(lambda: embedding([30]), "`inputs`", "from 0 to 29")
    refused(lambda: embedding(np.ones((2, 3)), reverse=True), "`inputs`", "last axis of 16")


# Model.


def test_model_arguments():
    refused(lambda: BartSeq2SeqLM("bart_base_en"), "`backbone`", "hint: `BartBackbone.from_preset")
    refused(lambda: BartSeq2SeqLM(tiny_backbone(), preprocessor=3), "`preprocessor`")


@pytest.mark.parametrize(
    ("inputs", "parts"),
    [
        (3, ["`inputs`", "a string"]),
        (None, ["`inputs`"]),
        ([1, 2], ["`inputs`"]),
        (["text", None], ["`inputs`", "item 1"]),
        ([["nested"]], ["`inputs`"]),
        (b"caf\xe9", ["`inputs`", "UTF-8", "hint: "]),
        ({"encoder_text": 3}, ["`encoder_text`", "a string"]),
        ("\ud800", ["surrogate"]),
        (np.array([[1, 2]]), ["`inputs`"]),
        ({"text": "a"}, ["`inputs`", "`encoder_text`", "'text'"]),
        ({"decoder_text": "a"}, ["`inputs`", "`encoder_text`"]),
        ({"encoder_text": "a", "decoder_text": ["b"]}, ["`decoder_text`"]),
        ({"encoder_text": ["a", "b"], "decoder_text": ["b"]}, ["`decoder_text`", "2", "1"]),
        ({"encoder_text": ["a"], "decoder_text": [3]}, ["`decoder_text`"]),
    ],
)
def test_texts(model, inputs, parts):
    refused(lambda: model.generate(inputs), *parts)


def test_texts_without_a_preprocessor(bare):
    for inputs in ("text", ["text"], {"encoder_text": "text"}):
        refused(
            lambda inputs=inputs: bare.generate(inputs, stop_token_ids=None),
            "`inputs` must be a dict of token arrays",
            "no preprocessor",
            "hint: ",
        )


@pytest.mark.parametrize(
    ("changes", "parts"),
    [
        ({"encoder_padding_mask": None}, ["`inputs`", "missing: `encoder_padding_mask`"]),
        ({"decoder_padding_mask": None}, ["`inputs`", "missing: `decoder_padding_mask`"]),
        ({"decoder_token_ids": None}, ["`inputs`", "missing: `decoder_token_ids`"]),
        ({"padding_mask": 1}, ["`inputs`", "unknown: 'padding_mask'"]),
        ({"encoder_token_ids": np.full((2, 4), 99)}, ["`encoder_token_ids`", "99 at row 0"]),
        ({"decoder_token_ids": np.full((2, 5), 99)}, ["`decoder_token_ids`", "99 at row 0"]),
        ({"encoder_padding_mask": np.ones((2, 5))}, ["`encoder_padding_mask`", "(2, 5)"]),
        ({"encoder_padding_mask": np.ones((3, 4))}, ["`encoder_padding_mask`", "(3, 4)"]),
        (
            {"encoder_padding_mask": np.array([[1, 1, 1, 0], [0, 0, 0, 0]])},
            ["`encoder_padding_mask`", "row 1", "hint: "],
        ),
        (
            {"decoder_padding_mask": np.array([[1, 0, 0, 0, 0], [0, 0, 0, 0, 0]])},
            ["`decoder_padding_mask`", "row 1", "hint: "],
        ),
        (
            {
                "decoder_token_ids": np.full((1, 5), 2),
                "decoder_padding_mask": np.ones((1, 5), bool),
            },
            ["`decoder_token_ids` must have as many rows"],
        ),
        (
            {
                "encoder_token_ids": np.full((2, WIDTH + 1), 3),
                "encoder_padding_mask": np.ones((2, WIDTH + 1), bool),
            },
            ["`encoder_token_ids`", f"Received: length {WIDTH + 1}", "hint: "],
        ),
        (
            {
                "decoder_token_ids": np.full((2, WIDTH + 1), 3),
                "decoder_padding_mask": np.eye(2, WIDTH + 1, dtype=bool),
            },
            ["`decoder_token_ids`", f"answers of {WIDTH + 1} tokens", "hint: "],
        ),
    ],
)
def test_token_arrays(bare, changes, parts):
    refused(lambda: bare.generate(arrays(**changes), stop_token_ids=[END]), *parts)


def test_a_wide_decoder_array_is_fine_below_the_table(bare):
    wide = {
        "decoder_token_ids": np.full((2, WIDTH + 6), 3),
        "decoder_padding_mask": np.eye(1, WIDTH + 6, dtype=bool).repeat(2, axis=0),
    }
    output = bare.generate(arrays(**wide), stop_token_ids=None, max_length=WIDTH)
    assert output["decoder_padding_mask"].sum(axis=1).tolist() == [WIDTH] * 2


@pytest.mark.parametrize(
    ("arguments", "parts"),
    [
        ({"max_length": 0}, ["`max_length`", "at least 1"]),
        ({"max_length": -3}, ["`max_length`", "Received: -3"]),
        ({"max_length": 7.5}, ["`max_length`", "Received: 7.5"]),
        ({"max_length": "10"}, ["`max_length`"]),
        ({"max_length": 1}, ["`max_length`", "at least 2"]),
        ({"max_length": WIDTH + 1}, ["`max_length`", f"has {WIDTH}", "hint: "]),
        ({"stop_token_ids": [30]}, ["`stop_token_ids`", "from 0 to 29"]),
        ({"stop_token_ids": [-1]}, ["`stop_token_ids`"]),
        ({"stop_token_ids": [[1, 2]]}, ["`stop_token_ids`", "several tokens"]),
        ({"stop_token_ids": "</s>"}, ["`stop_token_ids`", '"auto"']),
        ({"stop_token_ids": [1.5]}, ["`stop_token_ids`"]),
        ({"stop_token_ids": [True]}, ["`stop_token_ids`"]),
        ({"stop_token_ids": object()}, ["`stop_token_ids`"]),
        ({"max_new_tokens": -1}, ["`max_new_tokens`"]),
        ({"min_new_tokens": 2.0}, ["`min_new_tokens`"]),
        ({"min_new_tokens": 5, "max_new_tokens": 3}, ["`min_new_tokens`", "`max_new_tokens`, 3"]),
        ({"min_length": -1}, ["`min_length`"]),
        ({"min_length": 13}, ["`min_length`", "12"]),
        ({"seed": -1}, ["`seed`"]),
        ({"seed": 1.0}, ["`seed`"]),
    ],
)
def test_generate_arguments(model, arguments, parts):
    refused(lambda: model.generate("text", **arguments), *parts)


def test_stop_token_ids_in_other_forms(model):
    expected = model.generate("text", stop_token_ids=[7, 9])
    for form in ((7, 9), {7, 9}, np.array([7, 9]), [np.int64(7), 9]):
        assert model.generate("text", stop_token_ids=form) == expected
    assert model.generate("text", stop_token_ids=7) == model.generate("text", stop_token_ids=[7])
    assert model.generate("text", stop_token_ids=[]) == model.generate("text", stop_token_ids=None)


def test_a_model_of_nowhere_knows_no_special_ids(bare):
    refused(lambda: bare.generate(arrays()), '`stop_token_ids="auto"`', "neither", "hint: ")
    source = arrays(decoder_token_ids=None, decoder_padding_mask=None)
    refused(
        lambda: bare.generate(source, stop_token_ids=None),
        "`decoder_token_ids`",
        "not known",
        "hint: ",
    )


def test_seed_with_a_sampler_in_python(bare):
    class Own(samplers.GreedySampler):
        def get_next_token(self, probabilities):
            return probabilities.argmax(axis=-1)

    bare.compile(sampler=Own())
    try:
        refused(lambda: bare.generate(arrays(), stop_token_ids=None, seed=3), "`seed`")
    finally:
        bare.compile(sampler="greedy")


def test_weights_that_are_not_finite(bare):
    """Numbers that mean nothing are not sampled from."""
    model = tiny_model(preprocessor=None)
    core = model.backbone._model
    table = core.get_parameter("shared.weight")
    core.set_parameters({"shared.weight": np.full_like(table, np.nan)})
    refused(lambda: model.generate(arrays(), stop_token_ids=None), "NaN")


def test_names_of_samplers_and_presets(model):
    refused(lambda: model.compile(sampler="best"), "unknown sampler 'best'")
    assert model.sampler is not None, "a failed `compile()` changes nothing"
    refused(lambda: BartSeq2SeqLM.from_preset("bart_tidy"), "hint: did you mean 'bart_tidy_en'")
    with pytest.raises(TypeError, match="weights"):
        model.compile(weights=1)


@pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="signals of POSIX")
def test_ctrl_c_stops_between_tokens():
    model = tiny_model(preprocessor=None, hidden_dim=256, num_layers=6, max_sequence_length=4096)
    inputs = arrays(decoder_token_ids=np.full((2, 4096), START))
    inputs["decoder_padding_mask"] = np.eye(1, 4096, dtype=bool).repeat(2, axis=0)
    # Without guesses, of which this model would say many at a time.
    plain = {"stop_token_ids": None, "speculative": None}
    started = time.perf_counter()
    model.generate(inputs, max_length=400, **plain)
    per_token = (time.perf_counter() - started) / 400
    before = signal.signal(signal.SIGALRM, signal.default_int_handler)
    signal.setitimer(signal.ITIMER_REAL, max(20 * per_token, 0.01))
    try:
        started = time.perf_counter()
        with pytest.raises(KeyboardInterrupt):
            model.generate(inputs, **plain)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    # Far from the 4096 tokens of an answer, even if the machine is busy.
    assert time.perf_counter() - started < 1000 * per_token
    output = model.generate(inputs, stop_token_ids=None, max_length=3)
    assert output["decoder_padding_mask"].sum() == 6, "the model is as good as before"


FORKING = """
import os, sys
sys.path.insert(0, sys.argv[1])
from tiny_models import tiny_model
model = tiny_model(hidden_dim=768, intermediate_dim=768, num_heads=12)
text = "a text that is long enough for products of several rows"
expected = model.generate([text] * 40)
child = os.fork()
if child == 0:
    os._exit(0 if model.generate([text] * 40) == expected else 3)
_, status = os.waitpid(child, 0)
sys.exit(os.waitstatus_to_exitcode(status))
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="the system cannot fork")
def test_a_forked_child_can_generate():
    """The parent has run products and GELUs of some 600 rows and 768 columns on two threads."""
    environment = {**os.environ, "BART_FAST_NUM_THREADS": "2"}
    result = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", FORKING, str(TESTS)],
        env=environment,
        timeout=60,
        check=False,
    )
    assert result.returncode == 0
