"""The tables: what was measured, beside the limit of the machine and the other engines."""

from collections.abc import Iterable
from operator import truediv
from statistics import median
from typing import Any

from comparison import engines
from comparison.limits import BANDWIDTH, INT8_PEAK, PEAK, RATES, limit
from comparison.scenarios import MIB, Figure, Scenario, scenarios

_SCALES = {"ms": 1e3, "us": 1e6, "s": 1.0, "MiB": 1 / MIB, "x": 1.0}


def summary(samples: Iterable[Any]) -> float | None:
    """The median of all samples; those of a process may be a list. `None` without any."""
    pooled = [each for sample in samples for each in _listed(sample)]
    return None if not pooled or None in pooled else median(pooled)


def _listed(sample: Any) -> list[Any]:
    return sample if isinstance(sample, list) else [sample]


def median_rates(limits: Iterable[dict[str, Any]]) -> dict[str, float]:
    """What the machine could do, over measurements of it."""
    found = list(limits)
    return {rate: median(each[rate] for each in found) for rate in RATES}


class Line:
    """A figure of one run: values of the engines in seconds or bytes, and the limit."""

    def __init__(self, figure: Figure, scenario: Scenario, measured: dict[str, Any], threads: str):
        self.figure, self.scenario = figure, scenario
        samples = measured["samples"][threads][scenario.name]
        values = {name: summary(keys.get(figure.key, [])) for name, keys in samples.items()}
        self.values = {name: value for name, value in values.items() if value is not None}
        self.ours = self.values.get(engines.OURS)
        mine = samples.get(engines.OURS, {})
        rates = [each for process in mine.get("rates", []) for each in process]
        rates = rates or measured["limits"][threads]
        limits = [figure.limit and limit(figure.limit, scenario, each) for each in rates]
        self.limit = median(limits) if figure.limit else None
        # Each of our samples beside the limit around it.
        found = [each for process in mine.get(figure.key, []) for each in _listed(process)]
        paired = figure.limit and len(found) == len(limits)
        self._times = median(map(truediv, found, limits)) if paired else None

    def times_limit(self, name: str) -> float | None:
        """How many times its limit an engine took."""
        if self.limit is None or name not in self.values:
            return None
        if name == engines.OURS and self._times is not None:
            return self._times
        return self.values[name] / self.limit

    def best_peer(self) -> float | None:
        """How many times our figure the best peer took, of those that the target is about."""
        peers = [
            value
            for name, value in self.values.items()
            if name != engines.OURS and (not self.figure.against or name in self.figure.against)
        ]
        return min(peers) / self.ours if peers and self.ours else None

    def misses(self) -> list[str] | None:
        """The targets that were not met; `None` if there were none, or nothing to compare with."""
        figure, times, peer = self.figure, self.times_limit(engines.OURS), self.best_peer()
        if self.ours is None:
            return None
        checks = []
        if figure.most is not None:
            checks.append((times <= figure.most, f"{times:.2f}x the limit"))
        if figure.beyond is not None:
            beyond = (self.ours - self.limit) / MIB
            checks.append((beyond <= figure.beyond / MIB, f"limit + {beyond:.0f} MiB"))
        if figure.at_most is not None:
            checks.append((self.ours <= figure.at_most, self.shown(self.ours)))
        if figure.faster is not None and peer is not None:
            checks.append((peer >= figure.faster, f"{peer:.2f}x the best peer"))
        return [miss for met, miss in checks if not met] if checks else None

    def verdict(self) -> str:
        """Whether the targets were met, in words."""
        misses = self.misses()
        if misses is None:
            return ""
        unknown = self.figure.faster is not None and self.best_peer() is None
        return "no: " + ", ".join(misses) if misses else "yes" + (", as far as known" * unknown)

    def target(self) -> str:
        """What the figure shall reach, in words."""
        figure, parts = self.figure, []
        if figure.most is not None:
            parts.append(f"<= {figure.most:.3g}x limit")
        if figure.beyond is not None:
            parts.append(f"<= limit + {figure.beyond / MIB:.0f} MiB")
        if figure.at_most is not None:
            parts.append(f"<= {self.shown(figure.at_most)}")
        if figure.faster is not None:
            peers = ", ".join(map(_title, figure.against)) or "the best peer"
            parts.append(f"{peers} >= {figure.faster:.3g}x")
        return ", ".join(parts)

    def shown(self, value: float | None) -> str:
        """A value with its unit."""
        if value is None:
            return ""
        if self.figure.unit == "tokens/s":
            return f"{len(self.scenario.lengths) * self.scenario.new_tokens / value:.0f} tokens/s"
        scaled = value * _SCALES[self.figure.unit]
        return (
            f"{scaled:.0f} {self.figure.unit}"
            if scaled >= 100
            else f"{scaled:.3g} {self.figure.unit}"
        )


def lines(measured: dict[str, Any], threads: str) -> list[Line]:
    """All figures that were measured with so many threads, in the order of `scenarios`."""
    found = measured["samples"].get(threads, {})
    return [
        Line(figure, scenario, measured, threads)
        for scenario in scenarios(measured["size"])
        if scenario.name in found
        for figure in scenario.figures
    ]


def report(measured: dict[str, Any]) -> str:
    """The whole report in Markdown; `measured` is what `Comparison.measured` collected."""
    tables = [table(measured, threads) for threads in measured["samples"]]
    return "\n\n".join([header(measured), *tables])


def header(measured: dict[str, Any]) -> str:
    """What was measured, on what, and what was not."""
    facts = measured["machine"]
    details = ", ".join(f"{name} {value}" for name, value in facts["details"].items())
    text = [
        f"{facts['date']}. {facts['processor']} ({details}), {', '.join(facts['instructions'])}; "
        f"{facts['cores']} cores; {facts['system']}, Python {facts['python']}.",
        f"Engines: {'; '.join(measured['versions'].values())}.",
        f"Medians of {measured['rounds']} processes for each figure and engine, in turn, pinned.",
    ]
    text += [f"Not measured: {_title(name)} ({why})." for name, why in measured["absent"].items()]
    text += [f"Not measured: {failure}." for failure in sorted(set(measured["failed"]))]
    text += [f"Equal to ours in float32 before timing: {each}." for each in measured["checked"]]
    notes = [(name, engines.engine(name).note) for name in measured["versions"]]
    text += [f"{_title(name)}: {words}." for name, words in notes if words]
    return "\n".join(text)


def table(measured: dict[str, Any], threads: str) -> str:
    """The figures with so many threads."""
    limits = measured["limits"][threads]
    rates = median_rates([*limits, *_rates(measured, threads)])
    rows = lines(measured, threads)
    peers = [name for name in measured["versions"] if name != engines.OURS]
    peers = [name for name in peers if any(name in row.values for row in rows)]
    best = ["best peer / ours"] if peers else []
    titles = ["", "bart-fast", "limit", "times limit", *map(_title, peers), *best, "target", "met"]
    text = [
        f"{threads} thread{'s' if threads != '1' else ''}, {limits[0]['instruction_set']}. "
        f"Memory read {rates[BANDWIDTH] / 1e9:.1f} GB/s, multiply-add peak "
        f"{rates[PEAK] / 1e9:.0f} GF/s in float32 and {rates[INT8_PEAK] / 1e9:.0f} Gop/s in 8 bits "
        "(medians; the limit of a row is of the rates that were measured around each sample).",
        "",
        _row(titles),
        _row(["---", *["---:"] * (len(titles) - 3), "---", "---"]),
    ]
    for row in rows:
        times, peer = row.times_limit(engines.OURS), row.best_peer()
        text.append(
            _row(
                [
                    row.figure.title,
                    row.shown(row.ours),
                    row.shown(row.limit),
                    "" if times is None else f"{times:.2f}",
                    *(row.shown(row.values.get(name)) for name in peers),
                    *([] if not peers else ["" if peer is None else f"{peer:.2f}"]),
                    row.target(),
                    row.verdict(),
                ]
            )
        )
    return "\n".join(text)


def _rates(measured: dict[str, Any], threads: str) -> list[dict[str, float]]:
    """What the machine could do, each time it was measured around a sample."""
    samples = measured["samples"][threads].values()
    ours = [keys.get(engines.OURS, {}).get("rates", []) for keys in samples]
    return [each for processes in ours for process in processes for each in process]


def _title(name: str) -> str:
    return engines.engine(name).title


def _row(cells: list[str]) -> str:
    return f"| {' | '.join(cells)} |"
