"""The bench runs, on a model that takes no time: its results are asserted, no time is."""

import importlib
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

BENCHES = Path(__file__).resolve().parent.parent / "benches"


def run_bench(*arguments: str) -> str:
    command = [sys.executable, str(BENCHES / "compare.py"), "--size", "tiny", "--quick"]
    done = subprocess.run([*command, *arguments], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module", autouse=True)
def benches_on_the_path():
    sys.path.insert(0, str(BENCHES))
    yield
    sys.path.remove(str(BENCHES))


def module(name: str):
    return importlib.import_module(f"comparison.{name}")


def test_table_and_samples(tmp_path):
    """Every figure is measured for us, after results were checked: of each kind of scenario one."""
    kinds = ("greedy-int8", "rows8-int8", "beams", "encoder-8x128-int8", "start-int8", "training")
    path = tmp_path / "samples.json"
    arguments = ("--engines", "bart_fast", "--work", str(tmp_path / "work"), "--json", str(path))
    printed = run_bench(*arguments, "--only", *kinds)
    measured = json.loads(path.read_text())
    scenarios = [
        each for each in module("scenarios").scenarios("tiny") if each.name.startswith(kinds)
    ]
    assert list(measured["samples"]["2"]) == [each.name for each in scenarios]
    for each in scenarios:
        samples = measured["samples"]["2"][each.name]["bart_fast"]
        assert {figure.key for figure in each.figures} <= set(samples)
        [rates] = samples.get("rates", [[]])
        assert len(rates) == (0 if each.task == "start" else 1)
        for limits in [*rates, *measured["limits"]["2"]]:
            assert all(limits[rate] > 1e8 for rate in module("limits").RATES)
    lines = [line for line in printed.splitlines() if line.startswith("|")]
    assert len(lines) == 2 + sum(len(each.figures) for each in scenarios)
    assert {line.count("|") for line in lines} == {7}
    # What was written can be shown again, without a run.
    assert run_bench("--show", str(path)) == printed


def test_models_are_kept(tmp_path):
    arguments = ("--engines", "bart_fast", "--work", str(tmp_path), "--only", "greedy-int8")
    run_bench(*arguments, "--prepare")
    folders = {path.name for path in (tmp_path / "tiny").iterdir()}
    assert folders == {"bart_fast-int8", "bart_fast-float32", "model", "model-dropout"}
    weights = tmp_path / "tiny" / "model" / "model.safetensors"
    written = weights.stat().st_mtime_ns
    run_bench(*arguments, "--threads", "1")
    assert weights.stat().st_mtime_ns == written


def test_costs_of_bart_base():
    """The least that passes cost, against figures from the shapes of the published model."""
    size = module("sizes").SIZES["bart-base"]
    # The published 139,420,416 without the two unused rows of each position table.
    assert size.parameters == 139_420_416 - 4 * 768
    weights = 6 * (6 * 768**2 + 2 * 768 * 3072) + 50265 * 768
    assert [size.decoding_bytes(each) for each in ("float32", "bfloat16", "int8")] == [
        4 * weights,
        2 * weights,
        weights,
    ]
    assert size.decoding_flops(3) == 6 * weights
    layer = 512 * (4 * 768**2 + 2 * 768 * 3072) + 2 * 512 * 512 * 768
    assert size.encoder_flops(1, 512) == 2 * 6 * layer
    assert size.weight_bytes("float32") == 4 * size.parameters


def test_weights_of_the_shipped_model():
    import bart_fast

    size = module("sizes").SIZES["bart_tidy_en"]
    model = bart_fast.models.BartSeq2SeqLM.from_preset("bart_tidy_en", dtype="float32")
    assert size.parameters == model.backbone.count_params()
    assert size.weight_bytes("float32") == model.backbone._model.count_bytes()
    model.quantize("int8")
    assert size.weight_bytes("int8") == model.backbone._model.count_bytes()


def test_wrong_results_are_not_timed():
    checks = module("checks")
    ours = {
        "greedy ids": np.array([[2, 5]]),
        "encoded": np.ones((2, 3)),
        "losses": np.array([2.0, 1]),
    }
    notes = checks.compare(ours, {name: values.copy() for name, values in ours.items()})
    assert len(notes) == 4
    for name, change in (("greedy ids", 1), ("encoded", 2e-3), ("losses", 2e-4)):
        with pytest.raises(checks.Unequal, match="differ"):
            checks.compare(ours, {name: ours[name] + change})


def test_graph_engines_search_as_we_do():
    """Greedy and beam search around a graph, on a model that is a table of what follows what."""
    engine, tokens = _table_engine(), 12
    [ids] = engine.greedy([np.array([4, 5])], tokens)
    table, last = engine.table, 2
    for token in ids:
        assert token == table[last].argmax()
        last = token
    [best] = engine.beams([np.array([4, 5])], tokens, 4, 2.0, 3)
    runs = [tuple(best[i : i + 3]) for i in range(tokens - 2)]
    assert len(set(runs)) == len(runs)
    assert engine.orders, "no beam ever took the place of another"


def _table_engine():
    class TableEngine(module("engines.loops").GraphEngine):
        def __init__(self):
            self.table = np.random.default_rng(1).standard_normal((9, 9)).astype(np.float32)
            self.orders = []

        def start(self, ids, mask, copies):
            assert mask.all() and ids.shape == (1, 2)

        def step(self, tokens, order):
            if order is not None and order.tolist() != list(range(len(order))):
                self.orders.append(order)
            return self.table[tokens]

    return TableEngine()


def test_targets():
    """A row says which of its targets it misses."""
    report, scenarios = module("report"), module("scenarios")
    [scenario] = [each for each in scenarios.scenarios() if each.name == "greedy-int8"]
    rate = {"memory_read_bandwidth": 88_148_736e3, "instruction_set": "avx512"}
    limits = {**rate, "multiply_add_peak": 1e15, "int8_multiply_add_peak": 1e15}  # 1 ms a token
    cases = [(1.3e-3, [2.7e-3], []), (1.4e-3, [2.7e-3], 2), (1.3e-3, [], []), (1.3e-3, [2e-3], 1)]
    for ours, peers, misses in cases:
        samples = {"bart_fast": {"step": [[ours]], "rates": [[limits]]}}
        samples |= {name: {"step": [[t]]} for name, t in zip(["torch"], peers, strict=False)}
        measured = {"samples": {"2": {"greedy-int8": samples}}}
        measured["limits"] = {"2": []}
        line = report.Line(scenario.figures[0], scenario, measured, "2")
        assert line.times_limit("bart_fast") == pytest.approx(ours * 1e3)
        found = line.misses()
        assert len(found) == misses if misses else found == [], (ours, peers, found)
