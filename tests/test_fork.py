"""A forked child can compute, whatever its parent had computed before.

The parents are processes of their own: a child of pytest would inherit its threads and its output.
"""

import os
import subprocess
import sys
import textwrap

import pytest

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork()")

# Products of 512 x 768 x 768 and a GELU of 512 x 768 wake every thread there is; what is worth
# remembering across the fork is compared with what the child computes.
_PARENT = """
    import os, signal, sys, time
    import numpy as np
    import bart_fast

    bart_fast.set_random_seed(5)
    bart_fast.set_num_threads(2)
    backbone = bart_fast.models.BartBackbone(
        vocabulary_size=50, num_layers=1, num_heads=12, hidden_dim=768, intermediate_dim=768,
        max_sequence_length=512, core_config={"init_std": 0.1},
    )
    model = bart_fast.models.BartSeq2SeqLM(backbone)
    model.compile(sampler="greedy")

    def hidden(length):
        ids = np.arange(length)[None] % 50
        mask = np.ones((1, length), dtype=bool)
        return backbone({
            "encoder_token_ids": ids, "encoder_padding_mask": mask,
            "decoder_token_ids": ids[:, :4], "decoder_padding_mask": mask[:, :4],
        })["decoder_sequence_output"]

    def answer():
        prompt = np.zeros((2, 12), dtype=int)
        return model.generate({
            "encoder_token_ids": np.arange(12).reshape(2, 6),
            "encoder_padding_mask": np.ones((2, 6), dtype=bool),
            "decoder_token_ids": prompt, "decoder_padding_mask": np.arange(12)[None] + prompt < 2,
        }, stop_token_ids=None)["decoder_token_ids"]

    before = hidden(512)
    expected = answer()

    def compare(_=None):
        return bool((answer() == expected).all() and (hidden(512) == before).all())
"""

_FORK = """
    child = os.fork()
    if child == 0:
        os._exit(0 if compare() else 3)
    deadline = time.monotonic() + 60
    while (ended := os.waitpid(child, os.WNOHANG))[0] == 0:
        if time.monotonic() > deadline:
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
            sys.exit("the child hangs")
        time.sleep(0.01)
    assert os.waitstatus_to_exitcode(ended[1]) == 0, ended
    assert compare(), "the parent computes something else after the fork"
"""

# In the midst of a generation of another thread, whose workers are awake and may hold locks.
_FORK_WHILE_BUSY = """
    import threading

    stop = threading.Event()
    def keep_busy():
        while not stop.is_set():
            answer()
    threads = [threading.Thread(target=keep_busy) for _ in range(2)]
    for thread in threads:
        thread.start()
    time.sleep(0.2)
""" + _FORK.replace("assert compare()", "stop.set()\n    assert compare()")

_MULTIPROCESSING = """
    import multiprocessing

    with multiprocessing.get_context("fork").Pool(2) as pool:
        assert pool.map_async(compare, range(4)).get(timeout=60) == [True] * 4
"""


def run(*parts: str, way: str = "kernel") -> None:
    """Runs a parent; it must end well, and soon."""
    environment = {**os.environ, "PYTHONWARNINGS": "ignore", "BART_FAST_WAY": way}
    script = "".join(textwrap.dedent(part) for part in parts)
    subprocess.run([sys.executable, "-c", script], env=environment, check=True, timeout=110)


# Where the way is chosen after the import, the products of the parent must start no threads either.
_CHOOSE_PORTABLE = """
    from bart_fast import _core
    os.environ["RAYON_NUM_THREADS"] = "2"
    _core.set_portable(True)
    before, expected = hidden(512), answer()
"""

_CHOOSE_KERNELS = """
    _core.set_portable(False)
    assert os.environ["RAYON_NUM_THREADS"] == "2", "the variable is the user's again"
"""


@pytest.mark.parametrize("way", ["kernel", "portable"])
def test_a_child_computes_what_its_parent_does(way):
    run(_PARENT, _FORK, way=way)


def test_the_portable_way_may_be_chosen_late():
    run(_PARENT, _CHOOSE_PORTABLE, _FORK, _CHOOSE_KERNELS)


def test_a_child_born_during_a_generation(way="kernel"):
    run(_PARENT, _FORK_WHILE_BUSY, way=way)


def test_a_pool_of_forked_processes():
    run(_PARENT, _MULTIPROCESSING)
