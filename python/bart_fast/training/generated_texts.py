"""Generated texts beside references: what `evaluate_generation` and its callback do."""

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from bart_fast import metrics
from bart_fast._texts import as_texts
from bart_fast._validation import argument_error, check_positive_int
from bart_fast.metrics.text_metric import TextMetric
from bart_fast.training.data import unpack_batch

DEFAULT_METRICS = ("rouge1", "rouge2", "rougeL", "exact_match")
_SOURCES, _REFERENCES = "encoder_text", "decoder_text"


def text_metrics(given: Any) -> list[TextMetric]:
    """Metrics of texts from their names and themselves.

    Raises:
        ValueError: one is unknown, or compares ids.
        ImportError: one needs a package that is not installed.
    """
    if isinstance(given, str | TextMetric):
        given = [given]
    if not isinstance(given, list | tuple) or not given:
        raise argument_error("metrics", "must be a list of metrics of texts or of names", given)
    found = [_text_metric(each) for each in given]
    names = [metric.name for metric in found]
    if len(set(names)) < len(names):
        raise argument_error("metrics", "must have different names", names)
    return found


def _text_metric(metric: Any) -> TextMetric:
    if isinstance(metric, str) and metric.startswith("rouge") and metric[5:6].isdigit():
        return metrics.RougeN(order=int(metric[5:]), name=metric)
    if isinstance(metric, str) and metric.lower() in ("rougel", "exact_match"):
        kind = metrics.ExactMatch if metric.lower() == "exact_match" else metrics.RougeL
        return kind(name=metric)
    if isinstance(metric, TextMetric):
        return metric
    names = "rouge1 to rouge9, rougeL, exact_match"
    raise argument_error("metrics", f"must hold metrics of texts, or names ({names})", metric)


def batches_of_pairs(x: Any, y: Any, batch_size: int) -> Iterator[tuple[list[str], list[str]]]:
    """Sources and references, so many at a time.

    Raises:
        ValueError: they are no texts, or not as many of one as of the other.
    """
    check_positive_int("batch_size", batch_size)
    is_stream = isinstance(x, Iterable) and not isinstance(x, Mapping | str | bytes)
    is_texts = hasattr(x, "__array__") or (isinstance(x, list) and any(map(_is_text, x)))
    if y is None and is_stream and not is_texts:
        for batch in x:
            inputs, references, _ = unpack_batch(batch)
            yield from batches_of_pairs(inputs, references, batch_size)
        return
    sources, references = _pairs(x, y)
    for start in range(0, len(sources), batch_size):
        yield sources[start : start + batch_size], references[start : start + batch_size]


def _is_text(value: Any) -> bool:
    return isinstance(value, str | bytes)


def count_batches(x: Any, batch_size: int) -> int | None:
    """How many batches there will be, if that is known before."""
    sources = x.get(_SOURCES) if isinstance(x, Mapping) else x
    if not isinstance(sources, list | tuple) or not all(isinstance(each, str) for each in sources):
        return None
    return -(-len(sources) // check_positive_int("batch_size", batch_size))


def _pairs(x: Any, y: Any) -> tuple[list[str], list[str]]:
    if isinstance(x, Mapping):
        if _SOURCES not in x or (y is None and _REFERENCES not in x):
            raise argument_error(
                "x",
                f"must be a dict with `{_SOURCES}` and `{_REFERENCES}`, the references",
                list(x),
            )
        y = x[_REFERENCES] if y is None else y
        x = x[_SOURCES]
    if y is None:
        raise argument_error("y", "must hold the references of `x`", y)
    sources, references = as_texts("x", x)[0], as_texts("y", y)[0]
    if len(sources) != len(references):
        raise argument_error("y", f"must have a text for each of {len(sources)}", len(references))
    return sources, references


def results(measured: list[TextMetric]) -> dict[str, float]:
    """Values by name. ROUGE's is its F1 score; of another that has several each gets a name."""
    values: dict[str, float] = {}
    for metric in measured:
        value = metric.result()
        if isinstance(metric, metrics.RougeN | metrics.RougeL):
            values[metric.name] = value["f1_score"]
        elif isinstance(value, Mapping):
            values.update({f"{metric.name}_{key}": float(each) for key, each in value.items()})
        else:
            values[metric.name] = float(value)
    return values
