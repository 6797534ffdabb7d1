"""How fast bart-fast is on this machine, beside what the machine could do: `bart-fast --bench`.

`benches/compare.py` of the source tree does the same at length, with other engines beside it.
"""

import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from statistics import median
from typing import Any

import numpy as np

from bart_fast._costs import Size

# facebook/bart-base.
BART_BASE = Size(50265, 768, 6, 12, 3072, 1024)
PRECISIONS = ("int8", "bfloat16", "float32")
_TEXT = (
    "i dont no whats wrong with teh car but it keep making a strange noise when i drive up the "
    "hill near my house in the morning"
)
_SOURCE = 64
_REPEATS = 5
_BANDWIDTH, _PEAK, _INT8_PEAK = (
    "memory_read_bandwidth",
    "multiply_add_peak",
    "int8_multiply_add_peak",
)


@dataclass(frozen=True)
class Row:
    """A line of the table.

    Attributes:
        title: what was measured.
        seconds: what it took.
        rate: the same as users count it, with its unit.
        limit: the seconds that the machine needs at its best; `None` where that says nothing.
    """

    title: str
    seconds: float
    rate: str
    limit: float | None = None


def run(
    threads: int | None = None,
    size: Size = BART_BASE,
    new_tokens: int = 48,
    encoder_source: int = 512,
    write: Callable[[str], Any] = print,
) -> None:
    """Measures and writes a table in Markdown; what it does meanwhile goes to standard error.

    Args:
        threads: int. How many compute. Defaults to what is set.
        size: Size. The model of random weights. Defaults to that of bart-base.
        new_tokens: int, 2 or more. Tokens of an answer whose time is taken.
        encoder_source: int. Tokens that the encoder's time is taken with.
        write: gets each line of the table.
    """
    from bart_fast import _core

    if threads is not None:
        _core.set_num_threads(threads)
    threads = _core.get_num_threads()
    _note("what the machine can do")
    limits = _core.measure_limits(threads)
    write(
        f"bart-fast {_core.__version__}, {_core.runtime_info()['instruction_set']}, "
        f"{threads} thread{'s' if threads > 1 else ''}"
    )
    write(
        f"memory read {limits[_BANDWIDTH] / 1e9:.1f} GB/s, multiply-add peak "
        f"{limits[_PEAK] / 1e9:.0f} GF/s in float32, {limits[_INT8_PEAK] / 1e9:.0f} Gop/s in 8 bits"
    )
    write("")
    write("| | rate | time | limit | times the limit |")
    write("|---|---:|---:|---:|---:|")
    for row in _rows(size, new_tokens, encoder_source, threads):
        times = "" if row.limit is None else f"{row.seconds / row.limit:.2f}"
        cells = (row.title, row.rate, _shown(row.seconds), _shown(row.limit), times)
        write(f"| {' | '.join(cells)} |")


def _rows(size: Size, new_tokens: int, encoder_source: int, threads: int) -> Iterator[Row]:
    from bart_fast import _core

    _note("the model of the package")
    yield from _shipped_rows(new_tokens)
    for precision in PRECISIONS:
        _note(f"random weights of {size.parameters / 1e6:.0f} million values, {precision}")
        model = _random_model(size, precision)
        # Neighbours come and go: the limit is of the same moment.
        limits = _core.measure_limits(threads)
        ids = _ids(size, min(_SOURCE, size.positions))
        step = _step_seconds(lambda n, m=model, i=ids: _generate(m, i, n), new_tokens)
        reading = size.decoding_bytes(precision) / limits[_BANDWIDTH]
        name = f"bart-base's size, random weights, {precision}"
        yield Row(f"{name}, greedy, 1 row", step, f"{1 / step:.0f} tokens/s", reading)
        if precision != "bfloat16":
            core, ids = model.backbone._model, _ids(size, encoder_source)
            mask = np.ones(ids.shape, bool)
            seconds = _median(lambda c=core, i=ids, m=mask: c.encode(i, m))
            peak = limits[_INT8_PEAK if precision == "int8" else _PEAK]
            yield Row(
                f"{name}, encoder 1x{encoder_source}",
                seconds,
                f"{encoder_source / seconds:.0f} tokens/s",
                size.encoder_flops(1, encoder_source) / peak,
            )


def _shipped_rows(new_tokens: int) -> Iterator[Row]:
    from bart_fast.models import BartSeq2SeqLM

    model = BartSeq2SeqLM.from_preset("bart_tidy_en")
    model.compile(sampler="greedy")
    tokens = len(model.preprocessor.tokenizer(model.generate(_TEXT)))
    seconds = _median(lambda: model.generate(_TEXT))
    rate = f"{tokens / seconds:.0f} tokens/s"
    yield Row("bart_tidy_en, a sentence with default settings", seconds, rate)
    step = _step_seconds(
        lambda n: model.generate(_TEXT, max_new_tokens=n, stop_token_ids=None, speculative=None),
        new_tokens,
    )
    rate = f"{1 / step:.0f} tokens/s"
    yield Row("bart_tidy_en, a further token, nothing guessed", step, rate)


def _random_model(size: Size, precision: str) -> Any:
    from bart_fast.models import BartBackbone, BartSeq2SeqLM

    backbone = BartBackbone(
        vocabulary_size=size.vocabulary,
        num_layers=size.layers,
        num_heads=size.heads,
        hidden_dim=size.width,
        intermediate_dim=size.inner,
        max_sequence_length=size.positions,
        dtype=precision,
    )
    model = BartSeq2SeqLM(backbone)
    model.compile(sampler="greedy")
    return model


def _ids(size: Size, length: int) -> np.ndarray:
    return np.random.default_rng(20).integers(4, size.vocabulary, (1, length))


def _generate(model: Any, ids: np.ndarray, new_tokens: int) -> None:
    answer = np.full((1, 1 + new_tokens), 2)
    given = np.arange(1 + new_tokens)[None] == 0
    inputs = {"encoder_token_ids": ids, "encoder_padding_mask": np.ones(ids.shape, bool)}
    inputs |= {"decoder_token_ids": answer, "decoder_padding_mask": given}
    # Without guesses: a token is to be a pass.
    model.generate(inputs, stop_token_ids=None, speculative=None)


def _step_seconds(generate: Callable[[int], Any], new_tokens: int) -> float:
    """Seconds of each token after the first."""
    generate(new_tokens)
    pairs = [
        (_seconds(lambda: generate(1)), _seconds(lambda: generate(new_tokens)))
        for _ in range(_REPEATS)
    ]
    return median((whole - first) / (new_tokens - 1) for first, whole in pairs)


def _median(work: Callable[[], Any]) -> float:
    work()
    return median(_seconds(work) for _ in range(_REPEATS))


def _seconds(work: Callable[[], Any]) -> float:
    before = time.perf_counter()
    work()
    return time.perf_counter() - before


def _shown(seconds: float | None) -> str:
    if seconds is None:
        return ""
    return f"{seconds * 1e6:.0f} us" if seconds < 1e-3 else f"{seconds * 1e3:.3g} ms"


def _note(text: str) -> None:
    print(f"bart-fast: measuring {text}", file=sys.stderr, flush=True)
