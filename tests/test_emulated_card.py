"""What only a card can do, or fail to do. `make test-emulated-card` has one that is the CPU."""

import json
import os
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
from tiny_models import END, tiny_model, token_arrays

import bart_fast

CARDS = [each for each in bart_fast.devices() if each.name.startswith("Emulated card")]
pytestmark = pytest.mark.skipif(not CARDS, reason="there is no emulated card")

# What a model of a few thousand weights, and the libraries, leave free of it is little.
MEMORY = 48_000_000
RUN_OUT = """
import numpy as np, pytest
from tiny_models import END, tiny_model, token_arrays

model, x = tiny_model().to("cuda"), token_arrays()
expected = model.generate(x, max_length=6, stop_token_ids=[END])["decoder_token_ids"]
many = {name: np.repeat(array, 4000, axis=0) for name, array in x.items()}
for work in (
    lambda: model.generate(many, max_length=6, num_beams=4),
    lambda: model.predict(many, batch_size=8000),
    lambda: model.train_on_batch(many, many["decoder_token_ids"]),
):
    with pytest.raises(MemoryError, match="the card has not the memory.*\\nhint: "):
        work()
    assert model.device == "cuda:0"
    again = model.generate(x, max_length=6, stop_token_ids=[END])["decoder_token_ids"]
    np.testing.assert_array_equal(again, expected)
"""


def run(code, **environment):
    paths = [str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(paths), **environment}
    command = [sys.executable, "-c", code]
    return subprocess.run(command, env=environment, capture_output=True, text=True)


def test_memory_that_runs_out_leaves_the_model_usable():
    done = run(RUN_OUT, EMULATED_CARD_MEMORY=str(MEMORY))
    assert done.returncode == 0, done.stderr[-3000:]


def test_scores_of_attention_are_not_in_memory():
    """Those of so long a source would not fit, and do not where candle's operations have them."""
    code = (
        "import numpy as np\n"
        "from tiny_models import tiny_model\n"
        "sizes = {'max_sequence_length': 520, 'num_layers': 1}\n"
        "x = {\n"
        "    'encoder_token_ids': np.arange(520)[None] % 25 + 4,\n"
        "    'encoder_padding_mask': np.ones((1, 520), bool),\n"
        "    'decoder_token_ids': np.array([[2, 0, 7]]),\n"
        "    'decoder_padding_mask': np.ones((1, 3), bool),\n"
        "}\n"
        "model = tiny_model(dtype='DTYPE', **sizes)\n"
        "expected = model(x)\n"
        "difference = np.abs(model.to('cuda')(x) - expected).max() / np.abs(expected).max()\n"
        "assert difference < ALLOWED, difference\n"
    )
    memory = {"EMULATED_CARD_MEMORY": "40000000"}
    for dtype, allowed, way in (
        ("float32", 1e-5, "kernel"),
        ("bfloat16", 0.1, "kernel"),
        ("float32", 1e-5, "portable"),
    ):
        script = code.replace("DTYPE", dtype).replace("ALLOWED", str(allowed))
        done = run(script, BART_FAST_DEVICE="cpu", BART_FAST_WAY=way, **memory)
        assert (done.returncode == 0) == (way == "kernel"), done.stderr[-2000:]
        assert ("MemoryError" in done.stderr) == (way == "portable")


def test_many_rows_are_kept_in_bfloat16():
    """Whole sequences: what is between the layers has as few bits as the weights."""
    sizes = {"vocabulary_size": 40, "num_layers": 2, "num_heads": 2, "hidden_dim": 32}
    bart_fast.set_random_seed(1)
    backbone = bart_fast.BartBackbone(**sizes, intermediate_dim=64, max_sequence_length=20)
    x = token_arrays(rows=60, source=18, target=12)
    assert x["encoder_padding_mask"].sum() > 512
    expected = backbone(x)["decoder_sequence_output"]
    rounded = bart_fast.BartBackbone(
        **sizes, intermediate_dim=64, max_sequence_length=20, dtype="bfloat16", device="cuda"
    )
    for name, _ in backbone._model.parameters():
        rounded._model.set_parameters({name: backbone._model.get_parameter(name)})
    seen = x["decoder_padding_mask"]
    found, few = (
        rounded({name: array[:rows] for name, array in x.items()})["decoder_sequence_output"]
        for rows in (60, 20)
    )
    difference = np.abs(found - expected)[seen].max() / np.abs(expected).max()
    assert 1e-3 < difference < 3e-2
    # Few rows are float32 between the layers, and nearer.
    nearer = np.abs(few - expected[:20])[seen[:20]].max() / np.abs(expected).max()
    assert 1e-4 < nearer < difference


@pytest.mark.parametrize(
    ("what", "why"),
    [
        ({"EMULATED_CARD_CAPABILITY": "7.5"}, "compute capability 7.5, 8.0 is needed"),
        ({"EMULATED_CARDS": "0"}, "the driver of NVIDIA's does not answer"),
        ({"EMULATED_CARD_MEMORY": "1000"}, "the card has not the memory"),
    ],
)
def test_cards_that_cannot_be_used(what, why):
    code = (
        "import bart_fast\n"
        "model = bart_fast.BartBackbone(9, 1, 1, 8, 8)\n"
        "print(model.device)\n"
        "try:\n    model.to('cuda')\nexcept (ValueError, MemoryError) as error:\n    print(error)\n"
    )
    done = run(code, BART_FAST_DEVICE="cpu", **what)
    assert done.stdout.startswith("cpu\n") and done.stderr == "", done
    assert why in done.stdout and "hint: " in done.stdout


def test_a_free_card_is_the_default():
    code = "import bart_fast; print(bart_fast.BartBackbone(9, 1, 1, 8, 8).device)"
    done = run(code, BART_FAST_DEVICE="")
    assert done.stdout == "cuda:0\n", done
    old = run(code, BART_FAST_DEVICE="", EMULATED_CARD_CAPABILITY="7.5")
    assert (old.stdout, old.stderr) == ("cpu\n", ""), old
    full = run(code, BART_FAST_DEVICE="", EMULATED_CARD_MEMORY="1000")
    assert full.stdout == "cpu\n" and "the model is on the CPU: the card has not" in full.stderr


def asked(code, report, **environment):
    """What a program asks of the card."""
    done = run(code, EMULATED_CARD_REPORT=str(report), **environment)
    assert done.returncode == 0, done.stderr[-2000:]
    return json.loads(report.read_text())


def test_what_a_step_asks_of_a_card(tmp_path):
    """One recorded launch, two copies there and one back, no memory, and a launch that chooses or
    says how beams likely go on, after which the card goes on while the host hears of it."""
    code = (
        "import numpy as np, bart_fast\n"
        "from bart_fast.samplers import *\n"
        "from tiny_models import START, tiny_model, token_arrays\n"
        "model, x = tiny_model(hidden_dim=32).to('cuda'), token_arrays()\n"
        "x['decoder_token_ids'] = np.full((3, LENGTH), START)\n"
        "x['decoder_padding_mask'] = np.arange(LENGTH) < np.ones((3, 1))\n"
        "model.compile(sampler=SAMPLER)\n"
        "model.generate(x, stop_token_ids=None, CALL)\n"
    )
    for sampler, call in (
        ("'greedy'", ""),
        ("'greedy'", "repetition_penalty=1.5, no_repeat_ngram_size=3"),
        ("TopKSampler(k=3, seed=5)", ""),
        ("TopPSampler(p=0.8, seed=5)", "suppress_tokens=[5]"),
        ("'greedy'", "do_sample=True, top_p=0.9, min_p=0.01, seed=3"),
        ("'greedy'", "num_beams=3, no_repeat_ngram_size=2"),
    ):
        counts = []
        for length in (8, 13):
            script = code.replace("SAMPLER", sampler).replace("LENGTH", str(length))
            report = tmp_path / f"{len(call)}-{sampler[:9]}-{length}"
            counts.append(asked(script.replace("CALL", call), report))
        steps = {name: (counts[1][name] - counts[0][name]) / 5 for name in counts[0]}
        expected = {"launches": 1, "graphs": 1, "uploads": 2, "downloads": 1}
        expected |= {"allocations": 0, "ahead": 1}
        assert {name: steps[name] for name in expected} == expected, (sampler, call)
        assert counts[1]["refused"] == 0


AHEAD = """
import numpy as np
from tiny_models import START, tiny_model
import bart_fast

def answers(device, sampler, **call):
    # Of a model whose answers depend on the position, and so do not repeat themselves.
    model = tiny_model(hidden_dim=32)
    core, random = model.backbone._model, np.random.default_rng(0)
    deviations = {name: 6 if "position" in name else 0.25 for name, _ in core.parameters()}
    core.set_parameters({
        name: random.normal(0, deviations[name], shape).astype(np.float32)
        for name, shape in core.parameters() if "decoder" in name and "norm" not in name
    })
    if call.pop("equals", False):
        # Tokens of one score, so that the best of them leave the choice open.
        table = core.get_parameter("shared.weight")
        core.set_parameters({"shared.weight": table[np.arange(len(table)) // 3 * 3]})
    model.to(device)
    model.compile(sampler=sampler)
    ids = np.random.default_rng(1).integers(4, 20, (ROWS, 9))
    lengths = np.arange(ROWS) % 8 + 2
    x = {"encoder_token_ids": ids, "encoder_padding_mask": np.arange(9) < lengths[:, None]}
    start = np.full((ROWS, 16), START)
    start[:, 1:] = np.random.default_rng(2).integers(4, 20, (ROWS, 15))
    x |= {"decoder_token_ids": start,
          "decoder_padding_mask": np.arange(16) < 1 + np.arange(ROWS)[:, None] % 3}
    if call.pop("ends", False):
        # Where beams end by a function the card does not know how they go on.
        call["stopping_criteria"] = [lambda ids, _: bool(ids.sum() % 3 == 0 and ids.size > 5)]
    call |= {"return_dict_in_generate": True, "output_scores": True}
    return model.generate(x, stop_token_ids=STOP, **call)

ROWS, STOP = 9, [2, 6, 24, 26]
for call in CALLS:
    found = [answers(device, SAMPLER, **dict(call)) for device in ("cpu", "cuda")]
    np.testing.assert_array_equal(found[0].sequences, found[1].sequences, err_msg=str(call))
    np.testing.assert_array_equal(found[0].padding_mask, found[1].padding_mask)
    np.testing.assert_allclose(found[0].token_logprobs, found[1].token_logprobs, atol=1e-4)
    lengths = found[0].padding_mask.sum(1)
    assert len(set(lengths)) > 2, (call, lengths)
"""


RULES = [
    {"min_length": 7},
    {"no_repeat_ngram_size": 1},
    {"suppress_tokens": [5, 6, 9]},
    {"repetition_penalty": 1.5},
    {"forced_eos_token_id": 2},
    {"equals": True},
    {"exponential_decay_length_penalty": (3, 1.6), "repetition_penalty": 0.8},
]
DRAWN = {"do_sample": True, "seed": 3}
BEAMS = {"num_beams": 3, "num_return_sequences": 2}


@pytest.mark.parametrize(
    ("sampler", "calls"),
    [
        ("'greedy'", [{}, *RULES]),
        ("bart_fast.samplers.TopKSampler(k=4, seed=3, temperature=0.7)", [{}, RULES[-2]]),
        ("bart_fast.samplers.TopPSampler(p=0.7, k=9, seed=3)", [{}, RULES[-1]]),
        ("bart_fast.samplers.RandomSampler(seed=4, temperature=0.5)", [RULES[0]]),
        ("'greedy'", [DRAWN | {"top_k": 5, "top_p": 0.8} | RULES[-2]]),
        ("'greedy'", [DRAWN | {"top_p": 0.9, "min_p": 0.02, "num_return_sequences": 2}]),
        ("'greedy'", [BEAMS | more for more in ({}, RULES[1], RULES[5])]),
        ("'greedy'", [BEAMS | {"length_penalty": 2.0, "ends": True}]),
    ],
)
def test_going_ahead_changes_no_answer(sampler, calls, tmp_path):
    """Rows that end one by one, prompts of unlike lengths, and rules that the card learns of
    later."""
    code = AHEAD.replace("CALLS", repr(calls)).replace("SAMPLER", sampler)
    counts = asked(code, tmp_path / "counts")
    assert counts["ahead"] > 0.5 * counts["graphs"] and counts["refused"] == 0


def test_memory_of_the_host_is_used_again(tmp_path):
    """Where the host never waits for what it sends: a classifier's head is on the CPU."""
    code = (
        "import numpy as np\n"
        "from bart_fast import BartTextClassifier\n"
        "from tiny_models import tiny_backbone, token_arrays\n"
        "model = BartTextClassifier(tiny_backbone(), num_classes=2, preprocessor=None).to('cuda')\n"
        "x = token_arrays()\n"
        "x = {'token_ids': x['encoder_token_ids'], 'padding_mask': x['encoder_padding_mask']}\n"
        "for _ in range(STEPS):\n    model.train_on_batch(x, np.array([0, 1, 1]))\n"
    )
    few, more = (asked(code.replace("STEPS", str(n)), tmp_path / str(n)) for n in (4, 7))
    assert more["uploads"] > few["uploads"] and more["pinned"] == few["pinned"]


def test_a_vocabulary_of_which_the_kernels_find_few():
    sizes = {"num_layers": 1, "num_heads": 1, "hidden_dim": 8, "intermediate_dim": 8}
    bart_fast.set_random_seed(1)
    backbone = bart_fast.BartBackbone(100_000, **sizes, max_sequence_length=8)
    model = bart_fast.BartSeq2SeqLM(backbone, None)
    answers = [
        model.to(device).generate(
            token_arrays(rows=1), stop_token_ids=None, do_sample=True, top_k=50, seed=3
        )["decoder_token_ids"]
        for device in ("cpu", "cuda")
    ]
    np.testing.assert_array_equal(*answers)


KEPT = """
import copy
import numpy as np
import bart_fast
from tiny_models import END, tiny_model, token_arrays

models = [tiny_model(hidden_dim=32, dropout=0.0).to(device) for device in ("cpu", "cuda")]

def compare(rows, length, seed=1, **call):
    x = token_arrays(rows=rows, target=length, seed=seed)
    x["decoder_padding_mask"] = np.arange(length) < np.full((rows, 1), 2)
    call = {"stop_token_ids": [END]} | call
    found = [model.generate(x, **call) for model in models]
    np.testing.assert_array_equal(*[each["decoder_token_ids"] for each in found])

for seed in range(REPEATS):
    compare(3, 9, seed, stop_token_ids=None)
if REPEATS > 1:
    # Fewer rows, other prompts; more than there is room for; then again; beams.
    for rows, length in ((2, 7), (9, 12), (3, 9), (5, 20)):
        compare(rows, length)
    compare(3, 9, num_beams=3)
    x = token_arrays()
    trained = models[1]
    # What is added is not in what was recorded, nor the other way round.
    for lora in (False, True):
        lora and trained.backbone.enable_lora(2)
        trained.compile(optimizer=bart_fast.optimizers.SGD(0.5), sampler="greedy")
        trained.train_on_batch(x, x["decoder_token_ids"])
        models[0] = copy.deepcopy(trained).to("cpu")
        compare(3, 9)
    for model in models:
        model.backbone.set_lora_adapter(None)
    compare(3, 9)
"""


def test_what_is_recorded_serves_later_calls(tmp_path):
    once = asked(KEPT.replace("REPEATS", "1"), tmp_path / "once")
    thrice = KEPT[: KEPT.index("if REPEATS")].replace("REPEATS", "3")
    thrice = asked(thrice, tmp_path / "thrice")
    assert once["recorded"] == thrice["recorded"] == 1 and thrice["graphs"] > once["graphs"]
    asked(KEPT.replace("REPEATS", "2"), tmp_path / "others")


def test_two_cards_have_a_model_each():
    x = token_arrays()
    models = [tiny_model(dropout=0.0).to(device) for device in ("cuda:0", "cuda:1")]
    assert [model.device for model in models] == ["cuda:0", "cuda:1"]
    answers = [model.generate(x, max_length=8)["decoder_token_ids"] for model in models]
    np.testing.assert_array_equal(*answers)
    losses = [model.train_on_batch(x, x["decoder_token_ids"])[0] for model in models]
    assert losses[0] == losses[1]
    assert models[1].to("cuda:0").device == "cuda:0"
    np.testing.assert_array_equal(models[1](x), models[0](x))


def test_threads_share_a_card():
    """Steps that are recorded while others compute, move, and train."""
    x = token_arrays()
    models = [tiny_model(seed=seed).to("cuda") for seed in (1, 2)]
    call = {"max_length": 8, "stop_token_ids": [END]}
    expected = [model.generate(x, **call)["decoder_token_ids"] for model in models]
    trained = tiny_model(seed=3).to("cuda")
    failures = []

    def generate(i):
        for _ in range(8):
            got = models[i].generate(x, **call)["decoder_token_ids"]
            if not np.array_equal(got, expected[i]):
                failures.append(f"model {i}: {got}")

    def train():
        for _ in range(4):
            trained.train_on_batch(x, x["decoder_token_ids"])
            trained.to("cpu").to("cuda")

    threads = [threading.Thread(target=generate, args=(i,)) for i in (0, 1)]
    threads.append(threading.Thread(target=train))
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures
