"""The bench runs, on a model that takes no time: its results are asserted, no time is."""

import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import pytest

BENCH = Path(__file__).resolve().parent.parent / "benches" / "compare.py"
FIGURES = {
    "greedy": {"generate", "token"},
    "encoder": {"encoder"},
    "training": {"step", "peak_memory"},
    "training_dropout": {"step", "peak_memory"},
    "start": {"first_token", "loaded", "peak_loaded", "generated", "peak_generated"},
}


def run_bench(*arguments: str) -> str:
    command = [sys.executable, str(BENCH), "--size", "tiny", "--rounds", "1", "--repeats", "1"]
    done = subprocess.run([*command, *arguments], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def sizes():
    """The module `comparison.sizes`."""
    sys.path.insert(0, str(BENCH.parent))
    try:
        yield importlib.import_module("comparison.sizes")
    finally:
        sys.path.remove(str(BENCH.parent))


def test_table_and_samples(tmp_path):
    """Every figure is measured for every engine that is installed, after results were equal."""
    samples_path = tmp_path / "samples.json"
    table = run_bench("--work", str(tmp_path / "work"), "--json", str(samples_path))
    measured = json.loads(samples_path.read_text())
    has_torch = all(importlib.util.find_spec(name) for name in ("torch", "transformers"))
    assert list(measured["samples"]) == (["ours", "torch"] if has_torch else ["ours"])
    for tasks in measured["samples"].values():
        assert {name: set(figures) for name, figures in tasks.items()} == FIGURES
    [limits] = measured["limits"]
    assert limits["memory_read_bandwidth"] > 1e8
    assert limits["multiply_add_peak"] > 1e8
    lines = [line for line in table.splitlines() if line.startswith("|")]
    assert len(lines) == 2 + 11
    assert all(line.count("|") == lines[0].count("|") for line in lines)


def test_profile(tmp_path):
    lines = run_bench("--profile").splitlines()
    assert lines[0].startswith("| Phase |")
    assert len(lines) == 2 + 9


def test_costs_of_bart_base(sizes):
    """The least that passes cost, against figures from the shapes of the published model."""
    size = sizes.SIZES["bart-base"]
    # The published 139,420,416 without the two unused rows of each position table.
    assert size.parameters == 139_420_416 - 4 * 768
    assert size.decoding_bytes() == 4 * (6 * (6 * 768**2 + 2 * 768 * 3072) + 50265 * 768)
    layer = 512 * (4 * 768**2 + 2 * 768 * 3072) + 2 * 512 * 512 * 768
    assert size.encoder_flops(1, 512) == 2 * 6 * layer


def test_wrong_results_are_not_timed(sizes):
    """A difference between the engines ends the run."""
    import numpy as np

    compare = importlib.import_module("compare")
    ours = {"ids": np.array([[2, 5]]), "encoded": np.ones((1, 2, 3)), "losses": np.array([2.0, 1])}
    compare.check_equal(ours, {name: values.copy() for name, values in ours.items()})
    for name, change in (("ids", 1), ("encoded", 2e-3), ("losses", 2e-4)):
        with pytest.raises(SystemExit, match="differ"):
            compare.check_equal(ours, {**ours, name: ours[name] + change})
