"""The picture: how far each engine is from the limit, in every scenario."""

from pathlib import Path
from typing import Any

from comparison import engines
from comparison.report import Line, lines

_COLOURS = ("#d62728", "#1f77b4", "#2ca02c", "#9467bd", "#ff7f0e", "#8c564b")


def draw(measured: dict[str, Any], path: Path) -> None:
    """Writes a PNG: for each figure that has a limit, what each engine takes beside it."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    threads = next(iter(measured["samples"]))
    rows = [row for row in lines(measured, threads) if _is_drawn(row)]
    figure, axes = pyplot.subplots(figsize=(10, 1.2 + 0.32 * len(rows)))
    for colour, name in zip(_COLOURS, measured["versions"], strict=False):
        points = [(row.times_limit(name), place) for place, row in enumerate(rows)]
        points = [(times, place) for times, place in points if times is not None]
        if points:
            ours = name == engines.OURS
            axes.scatter(
                *zip(*points, strict=True),
                color=colour,
                marker="o" if ours else "s",
                s=60 if ours else 28,
                zorder=3 if ours else 2,
                label=engines.engine(name).title,
            )
    axes.axvline(1, color="black", linewidth=1)
    axes.set_xscale("log")
    ticks = [1, 2, 4, 8, 16, 32]
    axes.set_xticks(ticks, [f"{tick}x" for tick in ticks])
    axes.minorticks_off()
    axes.set_yticks(range(len(rows)), [row.figure.title for row in rows])
    axes.invert_yaxis()
    axes.grid(axis="x", alpha=0.3)
    facts = measured["machine"]
    where = f"{facts['processor']}, {threads} threads, {facts['date'][:10]}"
    axes.set_title(f"Time beside what the machine allows: {where}", fontsize=10)
    axes.set_xlabel("times the limit (of reading weights, or of multiply-adds); logarithmic")
    axes.legend(loc="lower right", fontsize=8)
    figure.tight_layout()
    figure.savefig(path, dpi=110, bbox_inches="tight")


def _is_drawn(row: Line) -> bool:
    return row.limit is not None and row.figure.unit != "MiB"
