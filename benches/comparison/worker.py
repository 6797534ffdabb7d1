"""One measurement of one engine, in the process that was started for it."""

import json
import os
import sys
import time
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

# More than one, as some engines choose how to compute a shape the first time they see it.
WARM_UPS = 2
CHECKED_STEPS = 3


def run(spec: dict[str, Any]) -> None:
    """Does what `spec` says and prints the result as one line of JSON.

    `spec` has `task`, a function of `TASKS`; `engine`; `cores` that the process is pinned to; and
    what the task asks for.
    """
    if spec.get("cores") and hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, spec["cores"])
    result = TASKS[spec["task"]](spec)
    print(json.dumps(result), file=sys.stdout, flush=True)


def _load(spec: dict[str, Any]) -> Any:
    from comparison.engines import engine

    paths = Path(spec["model"]), Path(spec["folder"])
    return engine(spec["engine"])(*paths, spec["precision"], spec["threads"])


def _rows(spec: dict[str, Any]) -> Any:
    from comparison.inputs import make_rows

    return make_rows(spec["vocabulary"], tuple(spec["lengths"]))


def available(spec: dict[str, Any]) -> dict[str, Any]:
    """What the engine lacks to be measured, and what it is."""
    from comparison.engines import engine

    found = engine(spec["engine"])
    missing = found.missing()
    return {"missing": missing, "versions": "" if missing else found.versions()}


def convert(spec: dict[str, Any]) -> dict[str, Any]:
    """Makes the engine's own form of the model."""
    from comparison.engines import engine

    # Converters report what they do on standard output.
    sys.stdout, output = sys.stderr, sys.stdout
    engine(spec["engine"]).convert(Path(spec["model"]), spec["precision"], Path(spec["folder"]))
    sys.stdout = output
    return {}


def results(spec: dict[str, Any]) -> dict[str, Any]:
    """Writes what the engine computes to the file `output`: the others' must be equal."""
    from comparison import checks

    return checks.compute(_load(spec), spec)


def greedy(spec: dict[str, Any]) -> dict[str, Any]:
    """Seconds of a generation, of one of a single token, and of each token after the first."""
    engine, rows = _load(spec), _rows(spec)
    return _generations(spec, lambda new_tokens: engine.greedy(rows, new_tokens))


def scored(spec: dict[str, Any]) -> dict[str, Any]:
    """The same as `greedy`, with the log probabilities of tokens."""
    engine, rows = _load(spec), _rows(spec)
    return _generations(spec, lambda new_tokens: engine.scored(rows, new_tokens))


def beams(spec: dict[str, Any]) -> dict[str, Any]:
    """The same with beams."""
    engine, rows = _load(spec), _rows(spec)
    settings = [spec[name] for name in ("beams", "length_penalty", "no_repeat")]
    return _generations(spec, lambda new_tokens: engine.beams(rows, new_tokens, *settings))


def _generations(spec: dict[str, Any], generate: Callable[[int], Any]) -> dict[str, Any]:
    new_tokens = spec["new_tokens"]

    def once() -> tuple[float, float]:
        return _seconds(lambda: generate(1)), _seconds(lambda: generate(new_tokens))

    pairs, rates = _repeated(once, spec)
    return {
        "rates": rates,
        "first": [first for first, _ in pairs],
        "whole": [whole for _, whole in pairs],
        "step": [(whole - first) / (new_tokens - 1) for first, whole in pairs],
    }


def encoder(spec: dict[str, Any]) -> dict[str, Any]:
    """Seconds of the encoder over all sources."""
    engine, rows = _load(spec), _rows(spec)
    seconds, rates = _repeated(lambda: _seconds(lambda: engine.encode(rows)), spec)
    return {"rates": rates, "seconds": seconds}


def training(spec: dict[str, Any]) -> dict[str, Any]:
    """Seconds of a training step, and the most memory that was resident."""
    from comparison.inputs import make_pairs

    lengths = spec["lengths"]
    pairs = make_pairs(spec["vocabulary"], len(lengths), lengths[0], spec["new_tokens"])
    engine = _load(spec)
    seconds, rates = _repeated(lambda: _seconds(lambda: engine.train(pairs)), spec)
    return {"rates": rates, "step": seconds, "peak": _memory("VmHWM")}


def ragged(spec: dict[str, Any]) -> dict[str, Any]:
    """Seconds of training steps over rows of many lengths and over rows of the longest, in turn.

    `share`: how many times the share of its real tokens the former takes of the latter.
    """
    from comparison.inputs import make_pairs, make_ragged_pairs

    lengths, longest = tuple(spec["lengths"]), max(spec["lengths"])
    uneven = make_ragged_pairs(spec["vocabulary"], lengths)
    full = make_pairs(spec["vocabulary"], len(lengths), longest, longest)
    real = sum(lengths) / (len(lengths) * longest)
    engine = _load(spec)

    def both() -> tuple[float, float]:
        return _seconds(lambda: engine.train(uneven)), _seconds(lambda: engine.train(full))

    pairs, rates = _repeated(both, spec)
    return {
        "rates": rates,
        "step": [step for step, _ in pairs],
        "share": [step / (whole * real) for step, whole in pairs],
    }


def start(spec: dict[str, Any]) -> dict[str, Any]:
    """Seconds from the start of the process to some tokens; resident memory on the way."""
    engine = _load(spec)
    loaded = _memory("VmRSS")
    rows = _rows(spec)
    engine.greedy(rows, spec["new_tokens"])
    # The clock of the parent, which took the time before it started this process.
    seconds = time.monotonic() - spec["started"]
    return {
        "start": seconds,
        "loaded": loaded,
        "generated": _memory("VmRSS"),
        "peak": _memory("VmHWM"),
    }


def limits(spec: dict[str, Any]) -> dict[str, Any]:
    """What this machine can do: bytes read and operations a second."""
    from bart_fast import _core

    return {**_core.runtime_info(), **_core.measure_limits(spec["threads"])}


def _repeated(work: Callable[[], Any], spec: dict[str, Any]) -> tuple[list[Any], list[Any]]:
    """The results of `repeats` calls after warming up, or of as many as `seconds` allow.

    With bart-fast also what the machine could do around each: neighbours take from its memory and
    give back within seconds, so a limit of another moment says nothing.
    """
    # What is slow needs no second warm-up and few repeats: it is far from what is compared.
    started = time.monotonic()
    found: list[Any] = []
    rates = [_rates(spec)]
    for call in range(WARM_UPS + spec["repeats"]):
        found.append(work())
        rates.append(_rates(spec))
        if call > 0 and time.monotonic() - started > spec["seconds"]:
            break
    first = min(WARM_UPS, len(found) - 1)
    around = [
        {rate: (before[rate] + after[rate]) / 2 for rate in before}
        for before, after in pairwise(rates)
    ]
    return found[first:], around[first:]


def _rates(spec: dict[str, Any]) -> dict[str, float]:
    if spec["engine"] != "bart_fast":
        return {}
    from bart_fast import _core

    return _core.measure_limits(spec["threads"])


def _seconds(work: Callable[[], Any]) -> float:
    before = time.perf_counter()
    work()
    return time.perf_counter() - before


def _memory(field: str) -> int | None:
    """Bytes of a line such as `VmRSS` of this process; `None` where there is no /proc."""
    status = Path("/proc/self/status")
    if not status.exists():
        return None
    lines = status.read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{field}:"))


TASKS = {
    task.__name__: task
    for task in (
        available,
        convert,
        results,
        greedy,
        scored,
        beams,
        encoder,
        training,
        ragged,
        start,
        limits,
    )
}
