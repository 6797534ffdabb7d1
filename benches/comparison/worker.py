"""One measurement of one engine, in the process that was started for it."""

import importlib.util
import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from comparison.sizes import Inputs, Size, make_inputs

WARM_UPS = 2
CHECKED_STEPS = 3


def run(spec: dict[str, Any]) -> None:
    """Does what `spec` says and prints the result as one line of JSON."""
    result = TASKS[spec["task"]](spec)
    print(json.dumps(result), file=sys.stdout, flush=True)


def _load(spec: dict[str, Any]) -> tuple[Any, Inputs, Size]:
    from comparison.engines import ENGINES

    size = Size(**spec["size"])
    engine = ENGINES[spec["engine"]](Path(spec["folder"]), spec["threads"])
    return engine, make_inputs(size), size


def available(spec: dict[str, Any]) -> dict[str, Any]:
    """Whether the engine's packages are here."""
    needed = {"ours": ["bart_fast"], "torch": ["torch", "transformers"]}[spec["engine"]]
    return {"available": all(importlib.util.find_spec(name) is not None for name in needed)}


def results(spec: dict[str, Any]) -> dict[str, Any]:
    """Writes what the engine computes to the file `output`: the other's must be equal."""
    import numpy as np

    engine, inputs, size = _load(spec)
    encoded = engine.encode(inputs.encoder_source)
    ids = engine.generate(inputs.source, size.new_tokens)
    if spec["engine"] == "ours":
        _check_ours(engine, inputs, encoded, ids)
    losses = [engine.train(inputs) for _ in range(CHECKED_STEPS)]
    np.savez(spec["output"], encoded=encoded, ids=ids, losses=losses)
    return {"versions": engine.versions()}


def _check_ours(engine: Any, inputs: Inputs, encoded: Any, ids: Any) -> None:
    """Checks that need no other engine: decoding against whole sequences, kernels against none."""
    import numpy as np

    from bart_fast import _core
    from comparison.sizes import masked

    scores = engine.model({**masked("encoder", inputs.source), **masked("decoder", ids[:, :-1])})
    expect(np.array_equal(scores.argmax(-1), ids[:, 1:]), "greedy ids are not the best tokens")
    _core.set_portable(True)
    difference = np.abs(engine.encode(inputs.encoder_source) - encoded).max()
    loss = engine.evaluate(inputs)
    _core.set_portable(False)
    expect(difference < 1e-3, f"the encoder differs by {difference} from candle's operations")
    difference = abs(engine.evaluate(inputs) - loss)
    expect(difference < 1e-4, f"the loss differs by {difference} from candle's operations")


def expect(holds: bool, message: str) -> None:
    """Stops with `message` unless `holds`: wrong results are not timed."""
    if not holds:
        raise SystemExit(f"error: {message}")


def greedy(spec: dict[str, Any]) -> dict[str, Any]:
    """Seconds of `generate`, and of each token after the first."""
    engine, inputs, size = _load(spec)

    def seconds(new_tokens: int) -> float:
        return _seconds(lambda: engine.generate(inputs.source, new_tokens))

    for _ in range(WARM_UPS):
        seconds(size.new_tokens)
    whole, token = [], []
    for _ in range(spec["repeats"]):
        first = seconds(1)
        whole.append(seconds(size.new_tokens))
        token.append((whole[-1] - first) / (size.new_tokens - 1))
    return {"generate": whole, "token": token}


def encoder(spec: dict[str, Any]) -> dict[str, Any]:
    """Seconds of the encoder over one long source."""
    engine, inputs, _ = _load(spec)
    return {"encoder": _repeated(lambda: engine.encode(inputs.encoder_source), spec["repeats"])}


def training(spec: dict[str, Any]) -> dict[str, Any]:
    """Seconds of a training step, and the most memory that was resident."""
    engine, inputs, _ = _load(spec)
    seconds = _repeated(lambda: engine.train(inputs), spec["repeats"])
    return {"step": seconds, "peak_memory": _memory("VmHWM")}


def start(spec: dict[str, Any]) -> dict[str, Any]:
    """Seconds from the start of the process to the first token; resident memory on the way."""
    engine, inputs, _ = _load(spec)
    loaded, peak_loaded = _memory("VmRSS"), _memory("VmHWM")
    engine.generate(inputs.source, 1)
    # The clock of the parent, which took the time before it started this process.
    first_token = time.monotonic() - spec["started"]
    return {
        "first_token": first_token,
        "loaded": loaded,
        "peak_loaded": peak_loaded,
        "generated": _memory("VmRSS"),
        "peak_generated": _memory("VmHWM"),
    }


def limits(spec: dict[str, Any]) -> dict[str, Any]:
    """What this machine can do: bytes read and floating-point operations a second."""
    from bart_fast import _core

    return {**_core.runtime_info(), **_core.measure_limits(spec["threads"])}


def profile(spec: dict[str, Any]) -> dict[str, Any]:
    """Seconds of the parts of a generation and of a training step that can be told apart."""
    import numpy as np

    from bart_fast.optimizers import SGD

    engine, inputs, size = _load(spec)
    core, repeats = engine.model.backbone._model, spec["repeats"]
    hidden = np.ones((1, size.width), np.float32)
    parts = {
        "encode": _repeated(lambda: engine.encode(inputs.source), repeats),
        "first": _repeated(lambda: engine.generate(inputs.source, 1), repeats),
        "generate": _repeated(lambda: engine.generate(inputs.source, size.new_tokens), repeats),
        "head": _repeated(lambda: core.logits(hidden), repeats),
        "forward": _repeated(lambda: engine.evaluate(inputs), repeats),
        "adam": _repeated(lambda: engine.train(inputs), repeats),
    }
    engine.model.compile(optimizer=SGD(1e-5))
    parts["sgd"] = _repeated(lambda: engine.train(inputs), repeats)
    return {name: _median(seconds) for name, seconds in parts.items()}


def _median(values: list[float]) -> float:
    import statistics

    return statistics.median(values)


def _repeated(work: Callable[[], Any], repeats: int) -> list[float]:
    for _ in range(WARM_UPS):
        work()
    return [_seconds(work) for _ in range(repeats)]


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
    for task in (available, results, greedy, encoder, training, start, limits, profile)
}
