"""Threads: how many, several callers at once, Ctrl-C, and results that depend on none of it."""

import copy
import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

import bart_fast
from bart_fast._dtypes import PRECISIONS

THREADS = (1, 2, 4)
STOPS = list(range(3, 101, 6))


@pytest.fixture(autouse=True)
def keep_number_of_threads():
    before = bart_fast.get_num_threads()
    yield
    bart_fast.set_num_threads(before)


# A model, and sources of every kind ---------------------------------------------------------------


def random_model(
    width: int, heads: int, layers: int, inner: int, **core_config
) -> bart_fast.BartSeq2SeqLM:
    """A model whose answers vary, though it has learnt nothing.

    With the usual small weights a random model repeats its last token, whose embedding passes
    through every residual. Here layers and positions weigh more than that.
    """
    bart_fast.set_random_seed(width)
    backbone = bart_fast.BartBackbone(
        vocabulary_size=101,
        num_layers=layers,
        num_heads=heads,
        hidden_dim=width,
        intermediate_dim=inner,
        max_sequence_length=64,
        core_config={"init_std": 0.9 / width**0.5, "final_logits_bias": True, **core_config},
    )
    random = np.random.default_rng(width)
    scales = {
        "shared.weight": 1.6 / width**0.5,
        "final_logits_bias": 0.2,
        "decoder.embed_positions.weight": 1.0,
    }
    shapes = dict(backbone._model.parameters())
    backbone._model.set_parameters(
        {
            name: (random.standard_normal(shapes[name]) * scale).astype(np.float32)
            for name, scale in scales.items()
        }
    )
    return bart_fast.BartSeq2SeqLM(backbone)


MBART = {"model_type": "mbart", "normalize_before": True, "add_final_layer_norm": True}


@pytest.fixture(
    scope="module",
    params=[(64, 4, 2, 160, {}), (64, 4, 2, 160, MBART), (768, 12, 2, 1536, {})],
    ids=["64", "mbart", "768"],
)
def model(request) -> bart_fast.BartSeq2SeqLM:
    *sizes, core_config = request.param
    return random_model(*sizes, **core_config)


@pytest.fixture(scope="module")
def small_model() -> bart_fast.BartSeq2SeqLM:
    return random_model(64, 4, 2, 160)


def ragged(rows: int) -> dict[str, np.ndarray]:
    """`rows` pairs of lengths 1 to 40 with holes in their masks, padded to one rectangle."""
    random = np.random.default_rng(7)
    batch = {}
    for side in ("encoder", "decoder"):
        lengths = random.permutation(np.linspace(1, 40, rows).astype(int))
        ids = random.integers(3, 101, (rows, lengths.max()))
        mask = np.arange(lengths.max()) < lengths[:, None]
        holes = random.random(mask.shape) < 0.15
        holes[np.arange(rows), random.integers(0, lengths)] = False  # one position stays at least
        batch[f"{side}_token_ids"], batch[f"{side}_padding_mask"] = ids, mask & ~holes
    return batch


def pick(batch: dict[str, np.ndarray], rows) -> dict[str, np.ndarray]:
    """Some rows, without the columns that are padding in all of them."""
    picked = {}
    for side in ("encoder", "decoder"):
        mask = batch[f"{side}_padding_mask"][rows]
        width = int(np.flatnonzero(mask.any(axis=0)).max()) + 1
        picked[f"{side}_padding_mask"] = mask[:, :width]
        picked[f"{side}_token_ids"] = batch[f"{side}_token_ids"][rows][:, :width]
    return picked


def batchings(rows: int) -> dict[str, list[np.ndarray]]:
    """Ways of cutting the rows into batches; every way holds each row once."""
    order = np.random.default_rng(11).permutation(rows)
    return {
        "alone": [np.array([row]) for row in range(rows)],
        "in batches": np.array_split(np.arange(rows), 3),
        "permuted": [order],
        "permuted in batches": np.array_split(order[::-1], 4),
    }


def assert_same_everywhere(batch: dict[str, np.ndarray], compute) -> list[list[np.ndarray]]:
    """`compute(part)` gives arrays for each row of `part`; a row's bits must never change.

    Returns what it gives for the whole batch.
    """
    rows = len(batch["encoder_token_ids"])
    bart_fast.set_num_threads(THREADS[0])
    expected = compute(pick(batch, np.arange(rows)))
    different = []
    for threads in THREADS:
        bart_fast.set_num_threads(threads)
        cuts = {"together": [np.arange(rows)], **batchings(rows)}
        for name, parts in cuts.items():
            for part in parts:
                for row, arrays in zip(part, compute(pick(batch, part)), strict=True):
                    if not all(map(same_bits, arrays, expected[row])):
                        different.append((threads, name, int(row)))
    assert not different, f"{len(different)} rows differ (threads, batching, row): {different[:9]}"
    return expected


def same_bits(a: np.ndarray, b: np.ndarray) -> bool:
    """Bit for bit over the columns both have (the others are padding)."""
    width = min(len(a), len(b))
    return a[:width].tobytes() == b[:width].tobytes()


# The same bits ------------------------------------------------------------------------------------


def last_real(mask: np.ndarray) -> int:
    return int(np.flatnonzero(mask).max()) + 1


def test_hidden_states_do_not_depend_on_batch_and_threads(model):
    def compute(part):
        out = model.backbone(part)
        return [
            [
                out[f"{side}_sequence_output"][row, : last_real(part[f"{side}_padding_mask"][row])]
                for side in ("encoder", "decoder")
            ]
            for row in range(len(part["encoder_token_ids"]))
        ]

    expected = assert_same_everywhere(ragged(9), compute)
    assert all(np.isfinite(each).all() for arrays in expected for each in arrays)
    assert not same_bits(expected[0][1], expected[1][1]), "the rows are all alike"


def logits_of(model):
    def compute(part):
        logits = model(part)
        ends = [last_real(mask) for mask in part["decoder_padding_mask"]]
        return [[logits[row, :end]] for row, end in enumerate(ends)]

    return compute


def test_logits_do_not_depend_on_batch_and_threads(model):
    expected = assert_same_everywhere(ragged(9), logits_of(model))
    assert expected[0][0].std() > 0.1


@pytest.mark.parametrize("dtype", PRECISIONS[1:])
def test_logits_of_other_precisions_do_not_depend_on_batch_and_threads(small_model, dtype):
    backbone = copy.copy(small_model.backbone)
    backbone._model = backbone._model.to_dtype(dtype)
    model = bart_fast.BartSeq2SeqLM(backbone)
    batch = ragged(5)
    expected = assert_same_everywhere(batch, logits_of(model))
    exact = logits_of(small_model)(batch)
    assert not same_bits(expected[0][0], exact[0][0]), "the precision changes nothing"
    np.testing.assert_allclose(expected[0][0], exact[0][0], atol=0.5)


@pytest.mark.parametrize("sampler", ["greedy", "beam"])
def test_answers_do_not_depend_on_batch_and_threads(model, sampler):
    if sampler == "beam":
        sampler = bart_fast.samplers.BeamSampler(num_beams=3, return_all_beams=True)
    model.compile(sampler=sampler)

    def compute(part):
        rows = len(part["encoder_token_ids"])
        prompt = np.zeros((rows, 24), dtype=int)
        prompt[:, 0] = 2
        answer = model.generate(
            {
                **{name: part[name] for name in ("encoder_token_ids", "encoder_padding_mask")},
                "decoder_token_ids": prompt,
                "decoder_padding_mask": np.arange(24)[None] < np.ones((rows, 1)),
            },
            stop_token_ids=STOPS,
        )
        names = ["decoder_token_ids", "decoder_padding_mask"]
        names += ["scores"] if "scores" in answer else []
        return [[answer[name][row] for name in names] for row in range(rows)]

    expected = assert_same_everywhere(ragged(9), compute)
    lengths = {int(arrays[1].reshape(-1, 24)[0].sum()) for arrays in expected}
    tokens = {int(token) for arrays in expected for token in arrays[0].ravel()}
    assert len(lengths) > 1, f"answers all end at once: {lengths}, {tokens}"
    assert len(tokens) > 10, f"answers hold only {tokens}"


def test_random_answers_do_not_depend_on_threads(small_model):
    small_model.compile(sampler=bart_fast.samplers.TopKSampler(k=20))

    def answers(threads):
        bart_fast.set_num_threads(threads)
        return generate(small_model, rows=6, length=30, seed=4)

    assert all((answers(threads) == answers(1)).all() for threads in THREADS)
    assert (answers(1) != generate(small_model, rows=6, length=30, seed=5)).any()


# Several callers ----------------------------------------------------------------------------------


def generate(model, rows: int, length: int, shift: int = 0, seed: int | None = None) -> np.ndarray:
    """Answers of `length` tokens to sources that depend on `shift`."""
    sources = (np.arange(rows * 9).reshape(rows, 9) * 7 + shift) % 98 + 3
    prompt = np.full((rows, length), 1)
    return model.generate(
        {
            "encoder_token_ids": sources,
            "encoder_padding_mask": np.ones_like(sources, dtype=bool),
            "decoder_token_ids": prompt,
            "decoder_padding_mask": np.cumsum(prompt, axis=1) == 1,
        },
        stop_token_ids=None,
        seed=seed,
    )["decoder_token_ids"]


def test_threads_that_generate_at_once_get_their_own_answers(small_model):
    small_model.compile(sampler="greedy")
    bart_fast.set_num_threads(2)
    expected = [generate(small_model, 3, 40, shift) for shift in range(8)]
    assert any((expected[0] != other).any() for other in expected[1:])
    start = threading.Barrier(2)

    def work(_):
        start.wait()
        return [generate(small_model, 3, 40, shift) for shift in range(8)]

    with ThreadPoolExecutor(2) as pool:
        for found in pool.map(work, range(2)):
            assert all((a == b).all() for a, b in zip(found, expected, strict=True))


def test_the_number_of_threads_may_change_during_a_generation(small_model):
    small_model.compile(sampler="greedy")
    expected = generate(small_model, 4, 60)
    with ThreadPoolExecutor(1) as pool:
        answers = [pool.submit(generate, small_model, 4, 60) for _ in range(5)]
        while not all(answer.done() for answer in answers):
            for threads in (3, 1, 4, 2):
                bart_fast.set_num_threads(threads)
        assert all((answer.result() == expected).all() for answer in answers)


@pytest.mark.parametrize("work", ["generate", "encode"])
def test_other_python_threads_run_during_a_pass(small_model, work):
    """While a pass computes, a thread that wakes up every millisecond does wake up."""
    small_model.compile(sampler="greedy")
    core, ticks, done = small_model.backbone._model, 0, threading.Event()

    def tick():
        nonlocal ticks
        while not done.wait(0.001):
            ticks += 1

    def call(rows):
        ids = np.full((rows, 60), 7)
        return core.encode(ids, ids > 0) if work == "encode" else generate(small_model, rows, 60)

    rows, seconds = 32, 0.0
    while seconds < 0.5:
        rows *= 2
        begun = time.monotonic()
        call(rows)
        seconds = time.monotonic() - begun
    watcher = threading.Thread(target=tick)
    watcher.start()
    call(rows)
    done.set()
    watcher.join()
    # With the interpreter held there would be two or three, before and after. On a machine that has
    # other work there are few in any case.
    assert ticks > 8, f"{ticks} turns in a call of {seconds:.2f} s"


# How many -----------------------------------------------------------------------------------------


def run_python(script: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script)],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=60,
    )


def test_the_number_of_threads_is_what_was_set():
    for threads in (3, 1, 2):
        bart_fast.set_num_threads(threads)
        assert bart_fast.get_num_threads() == threads


@pytest.mark.parametrize("n", [0, -1, 1025, 2**40, 2**70, True, 2.0, "2", None])
def test_impossible_numbers_of_threads_are_refused(n):
    before = bart_fast.get_num_threads()
    with pytest.raises(ValueError, match=rf"^`n` must be .*Received: {n!r}"):
        bart_fast.set_num_threads(n)
    assert bart_fast.get_num_threads() == before


def test_the_environment_sets_the_number_of_threads():
    script = "import bart_fast; print(bart_fast.get_num_threads())"
    assert run_python(script, BART_FAST_NUM_THREADS="3").stdout == "3\n"
    available = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    default = int(run_python(script, BART_FAST_NUM_THREADS="").stdout)
    assert 1 <= default <= available


@pytest.mark.parametrize("value", ["0", "many", "2.5", "-1"])
def test_an_unusable_environment_is_one_clear_error(value):
    failed = run_python("import bart_fast", BART_FAST_NUM_THREADS=value)
    assert failed.returncode == 1
    assert f"ValueError: `BART_FAST_NUM_THREADS`: received `{value}`" in failed.stderr
    assert "hint: " in failed.stderr


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="counts threads in /proc")
def test_importing_starts_no_threads():
    """Neither ours nor the tensor library's, which would not survive a fork."""
    script = """
        import os, numpy
        before = len(os.listdir("/proc/self/task"))
        import bart_fast.models
        print(len(os.listdir("/proc/self/task")) - before)
    """
    assert run_python(script).stdout == "0\n"


# Ctrl-C -------------------------------------------------------------------------------------------

_LONG_GENERATION = """
    import sys
    import numpy as np
    import bart_fast

    model = bart_fast.BartSeq2SeqLM(bart_fast.BartBackbone(
        vocabulary_size=2000, num_layers=4, num_heads=4, hidden_dim=256, intermediate_dim=1024,
        max_sequence_length=1024,
    ))
    model.compile(sampler="greedy")

    def generate(length):
        ids = np.ones((64, length), dtype=int)
        return model.generate({
            "encoder_token_ids": ids[:, :4], "encoder_padding_mask": ids[:, :4] > 0,
            "decoder_token_ids": ids, "decoder_padding_mask": np.cumsum(ids, axis=1) == 1,
        }, stop_token_ids=None)

    generate(4)
    print("ready", flush=True)
    try:
        generate(1024)
    except KeyboardInterrupt:
        print("interrupted", flush=True)
        assert generate(4)["decoder_token_ids"].shape == (64, 4)
        print("goes on", flush=True)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="sends SIGINT")
def test_ctrl_c_stops_a_generation():
    child = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(_LONG_GENERATION)], stdout=subprocess.PIPE, text=True
    )
    try:
        assert child.stdout.readline() == "ready\n"
        time.sleep(1.0)
        child.send_signal(signal.SIGINT)
        begun = time.monotonic()
        assert child.stdout.readline() == "interrupted\n", "it ended before the signal came"
        waited = time.monotonic() - begun
        assert child.stdout.readline() == "goes on\n"
        assert child.wait(timeout=30) == 0
        assert waited < 5, f"the interruption took {waited:.1f} s"
    finally:
        child.kill()
        child.wait()
        child.stdout.close()
