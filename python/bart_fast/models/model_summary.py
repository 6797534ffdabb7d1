"""The text that `summary()` prints, in the form of Keras' summaries."""

from math import prod
from typing import Any

from bart_fast import _core


def summary_text(model: Any, line_length: int) -> str:
    """Tables of the tokenizer and of the layers, then the totals.

    Args:
        model: a `Seq2SeqLM` or `TextClassifier`.
        line_length: int. Characters a line.
    """
    blocks = []
    preprocessor = model.preprocessor
    tokenizer = getattr(preprocessor, "tokenizer", None)
    if tokenizer is not None:
        rows = [(_title(tokenizer), f"Vocab size: {tokenizer.vocabulary_size():,}")]
        blocks.append(f'Preprocessor: "{_name(preprocessor)}"')
        blocks.append(_table(("Layer (type)", "Config"), rows, (0.6, 0.4), line_length))
    backbone = model.backbone
    total = model.count_params()
    # The head of a classifier is float32 in every precision.
    size = backbone._model.count_bytes() + 4 * (total - backbone.count_params())
    rows = model._summary_rows(_title(backbone))
    fixed = _frozen(backbone)
    # Additions of LoRA are float32 in every precision.
    more = _added(backbone)
    total, size = total + more, size + 4 * more
    changing = (total - fixed[0], size - fixed[1])
    blocks.append(f'Model: "{model.name}"')
    blocks.append(
        _table(("Layer (type)", "Output Shape", "Param #"), rows, (0.5, 0.3, 0.2), line_length)
    )
    blocks.append(f" Total params: {_amount(total, size)}")
    blocks.append(f" Trainable params: {_amount(*changing)}")
    blocks.append(f" Non-trainable params: {_amount(*fixed)}")
    return "\n".join(blocks)


def _frozen(backbone: Any) -> tuple[int, float]:
    """Number and bytes of the weights that training does not change."""
    core = backbone._model
    trainable = set(core.trainable())
    learned = [(n, prod(s)) for n, s in core.parameters() if n != "final_logits_bias"]
    count = sum(each for name, each in learned if name not in trainable)
    return count, core.count_bytes() * count / max(sum(each for _, each in learned), 1)


def _added(backbone: Any) -> int:
    """Number of values that LoRA adds."""
    adapters = _core.Adapters(backbone._model)
    _, active, merged = adapters.names()
    return 0 if active is None or merged else sum(prod(s) for _, s in adapters.parameters(active))


def _name(layer: Any) -> str:
    return getattr(layer, "name", type(layer).__name__)


def _title(layer: Any) -> str:
    return f"{_name(layer)} ({type(layer).__name__})"


def _amount(count: int, size: float) -> str:
    """`139,420,416 (531.85 MB)`."""
    unit = "B"
    for larger in ("KB", "MB", "GB", "TB"):
        if size < 1024:
            break
        size, unit = size / 1024, larger
    return f"{count:,} ({size:.2f} {unit})"


def _table(
    head: tuple[str, ...], rows: list[tuple[str, ...]], shares: tuple[float, ...], length: int
) -> str:
    """A table with ruled lines, `length` characters wide; the first column stands to the left."""
    usable = length - 3 * len(head) - 1
    widths = [int(share * usable) for share in shares]
    widths[0] += usable - sum(widths)

    def line(cells: tuple[str, ...]) -> str:
        fitted = [
            f"{_fit(cell, width):<{width}}" if column == 0 else f"{_fit(cell, width):>{width}}"
            for column, (cell, width) in enumerate(zip(cells, widths, strict=True))
        ]
        return "│ " + " │ ".join(fitted) + " │"

    def rule(left: str, middle: str, right: str) -> str:
        return left + middle.join("─" * (width + 2) for width in widths) + right

    body = [line(head)]
    for row in rows:
        body += [rule("├", "┼", "┤"), line(row)]
    return "\n".join([rule("┌", "┬", "┐"), *body, rule("└", "┴", "┘")])


def _fit(cell: str, width: int) -> str:
    return cell if len(cell) <= width else cell[: width - 1] + "…"
