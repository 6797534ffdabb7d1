"""The table: what was measured, beside the limit of the machine and the other engine."""

import platform
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

from comparison.sizes import FLOAT_BYTES, Size

# Values that training holds for each parameter: itself, its gradient and two moments of Adam.
TRAINING_COPIES = 4


@dataclass(frozen=True)
class Figure:
    """A line of the table.

    Attributes:
        title: what was measured.
        task, key: where the samples lie among the results.
        unit, scale: how a sample (seconds or bytes) is shown.
        limit: the least it can be on this machine, as a sample; `None`: unknown.
    """

    title: str
    task: str
    key: str
    unit: str
    scale: float
    limit: float | None = None


def figures(size: Size, limits: dict[str, float]) -> list[Figure]:
    """The lines of the table for a model of `size` on a machine of `limits`."""
    bandwidth, peak = limits["memory_read_bandwidth"], limits["multiply_add_peak"]
    training = size.training_flops() / peak
    weights = FLOAT_BYTES * size.parameters

    def ms(title: str, task: str, key: str, limit: float | None = None) -> Figure:
        return Figure(title, task, key, "ms", 1e3, limit)

    def megabytes(title: str, task: str, key: str, limit: float | None = None) -> Figure:
        return Figure(title, task, key, "MB", 1e-6, limit)

    token_limit = size.decoding_bytes() / bandwidth
    encoder_limit = size.encoder_flops(1, size.encoder_source) / peak
    step = f"Training step, {size.batch} x ({size.batch_source} + {size.batch_target})"
    return [
        ms("Greedy, a further token", "greedy", "token", token_limit),
        ms(f"`generate`, {size.source} to {size.new_tokens} tokens", "greedy", "generate"),
        ms(f"Encoder, 1 x {size.encoder_source}", "encoder", "encoder", encoder_limit),
        ms(f"{step}, no dropout", "training", "step", training),
        ms(f"{step}, dropout 0.1", "training_dropout", "step", training),
        Figure("Process start to first token", "start", "first_token", "s", 1.0),
        megabytes("Resident after loading", "start", "loaded", weights),
        megabytes("Most resident while loading", "start", "peak_loaded", weights),
        megabytes("Resident after the first token", "start", "generated", weights),
        megabytes("Most resident to the first token", "start", "peak_generated", weights),
        megabytes(
            "Most resident in training", "training", "peak_memory", TRAINING_COPIES * weights
        ),
    ]


def summary(samples: Iterable[Any]) -> float | None:
    """The median of all samples; those of a child process may be a list. `None` without any."""
    pooled: list[float] = []
    for sample in samples:
        pooled += sample if isinstance(sample, list) else [sample]
    return None if not pooled or None in pooled else median(pooled)


def table(size: Size, measured: dict[str, Any]) -> str:
    """The whole report in Markdown.

    Args:
        measured: what `compare.py` collected: `limits`, a list; `versions`, `processor`, `threads`,
            `date`; and `samples`, engine -> task -> key -> list of samples.
    """
    limits = {
        key: median(each[key] for each in measured["limits"])
        for key in ("memory_read_bandwidth", "multiply_add_peak")
    }
    engines = list(measured["samples"])
    lines = [
        f"{measured['processor']}, {measured['limits'][0]['instruction_set']}, "
        f"{measured['threads']} threads, {measured['date']}; {', '.join(measured['versions'])}.",
        f"Memory read {limits['memory_read_bandwidth'] / 1e9:.1f} GB/s, "
        f"f32 multiply-add peak {limits['multiply_add_peak'] / 1e9:.0f} GF/s, in the same run.",
        f"Medians of {measured['rounds']} processes for each figure and engine, in turn.",
        "",
        _row(["", "bart-fast", "limit", "share of limit", *_torch_titles(engines)]),
        _row(["---", *["---:"] * (3 + len(_torch_titles(engines)))]),
    ]
    lines += [_line(figure, measured["samples"]) for figure in figures(size, limits)]
    return "\n".join(lines)


def _torch_titles(engines: list[str]) -> list[str]:
    return ["torch", "torch / bart-fast"] if "torch" in engines else []


def _line(figure: Figure, samples: dict[str, Any]) -> str:
    values = {
        engine: summary(tasks[figure.task].get(figure.key, [])) for engine, tasks in samples.items()
    }
    ours = values["ours"]
    share = "" if figure.limit is None or ours is None else f"{figure.limit / ours:.0%}"
    cells = [figure.title, _shown(ours, figure), _shown(figure.limit, figure), share]
    if "torch" in values:
        torch = values["torch"]
        ratio = "" if ours is None or torch is None else f"{torch / ours:.2f}"
        cells += [_shown(torch, figure), ratio]
    return _row(cells)


def _shown(value: float | None, figure: Figure) -> str:
    if value is None:
        return ""
    scaled = value * figure.scale
    return f"{scaled:.0f} {figure.unit}" if scaled >= 100 else f"{scaled:.3g} {figure.unit}"


def _row(cells: list[str]) -> str:
    return f"| {' | '.join(cells)} |"


def profile_table(size: Size, parts: dict[str, float], limits: dict[str, float]) -> str:
    """Where the time of a generation and of a training step goes, as told apart from Python."""
    further = (parts["generate"] - parts["first"]) / (size.new_tokens - 1)
    bandwidth, peak = limits["memory_read_bandwidth"], limits["multiply_add_peak"]
    head_bytes = FLOAT_BYTES * size.vocabulary * size.width
    layers_bytes = size.decoding_bytes() - head_bytes
    forward_flops = size.training_flops() / 3
    weights = FLOAT_BYTES * size.parameters
    # Adam reads weight, gradient and two moments, and writes all but the gradient; SGD reads two
    # and writes one.
    rows = [
        ("Encode the source", parts["encode"], size.encoder_flops(1, size.source) / peak),
        ("Keys and values of the source, first token", parts["first"] - parts["encode"], None),
        ("A further token", further, size.decoding_bytes() / bandwidth),
        ("- of it the language-model head", parts["head"], head_bytes / bandwidth),
        ("- of it the decoder's layers", further - parts["head"], layers_bytes / bandwidth),
        ("Training: forward and loss", parts["forward"], forward_flops / peak),
        ("Training: whole step with Adam", parts["adam"], 3 * forward_flops / peak),
        ("- of it backward", parts["sgd"] - parts["forward"], 2 * forward_flops / peak),
        ("- of it Adam beyond SGD", parts["adam"] - parts["sgd"], 4 * weights / bandwidth),
    ]
    lines = [_row(["Phase", "time", "limit", "share of limit"]), _row(["---", *["---:"] * 3])]
    for title, seconds, limit in rows:
        figure = Figure(title, "", "", "ms", 1e3)
        share = "" if limit is None else f"{limit / seconds:.0%}"
        lines.append(_row([title, _shown(seconds, figure), _shown(limit, figure), share]))
    return "\n".join(lines)


def processor_name() -> str:
    """The processor as the system names it."""
    information = Path("/proc/cpuinfo")
    if information.exists():
        for line in information.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()
