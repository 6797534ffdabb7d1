"""Measures bart-fast beside other engines for BART, in one run on one machine.

    python benches/compare.py --work DIR --peers-python PATH --threads 2

Makes models of true size with random weights and lets every engine that is installed in the Python
`PATH` (`pip install ".[bench]"`) convert them. First checks that all compute the same in float32
(encoder, greedy ids, ids of beams, losses); only then times. Every measurement has a process of its
own, pinned to as many cores as it has threads, and the engines take turns, so that a busy minute
hurts all. Prints Markdown: each figure beside what the machine could do (measured in the same run)
and beside the other engines. `DIR` keeps models and conversions for the next run. Without any other
engine it measures bart-fast alone.
"""

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from comparison import worker

if TYPE_CHECKING:
    from argparse import Namespace


def main() -> None:
    if sys.argv[1:2] == ["--worker"]:
        # Memory of the process is measured too: no module is imported that the work does not need.
        worker.run(json.loads(sys.argv[2]))
        return
    import tempfile

    options = parse_arguments()
    if options.show:
        publish(json.loads(options.show.read_text()), options)
        return
    from comparison.run import Comparison

    with tempfile.TemporaryDirectory() as scratch:
        comparison = Comparison(options, chosen_scenarios(options), options.work or Path(scratch))
        comparison.prepare()
        if options.prepare:
            return
        comparison.check()
        publish(comparison.measure(), options)


def parse_arguments() -> "Namespace":
    import argparse
    import importlib.util

    from comparison import engines
    from comparison.scenarios import scenarios

    names = [each.name for each in scenarios()]
    parser = argparse.ArgumentParser(
        description=__doc__.splitlines()[0], epilog=f"scenarios: {', '.join(names)}"
    )
    add = parser.add_argument
    add("--work", type=Path, metavar="DIR", help="keep models and conversions there")
    add("--prepare", action="store_true", help="only write and convert the models")
    add("--peers-python", metavar="PATH", help="the Python that has the peers; default: this one")
    add("--engines", nargs="+", choices=engines.names(), help="measure only these")
    add("--only", nargs="+", metavar="SCENARIO", help="names, or how they begin; default: all")
    add("--quick", action="store_true", help="one round of few repeats")
    add("--threads", type=int, nargs="+", default=[2], help="a table for each; default: 2")
    add("--peers-at", type=int, nargs="+", metavar="N", help="threads with peers; default: all")
    add("--rounds", type=int, help="processes for each figure and engine; default: 3")
    add("--repeats", type=int, help="timings in a process; default: 3")
    add("--seconds", type=float, default=6.0, help="no further repeats after them; default: 6")
    add("--size", default="bart-base", choices=("bart-base", "tiny"), help="tiny is for tests")
    add("--json", type=Path, metavar="PATH", help="write all samples there, while it runs")
    add("--plot", type=Path, metavar="PATH", help="draw distances to the limit (matplotlib)")
    add("--show", type=Path, metavar="JSON", help="print and draw what `--json` wrote; no run")
    options = parser.parse_args()
    if options.plot and importlib.util.find_spec("matplotlib") is None:
        parser.error("argument --plot: needs matplotlib in this Python")
    options.rounds = options.rounds or (1 if options.quick else 3)
    options.repeats = options.repeats or (1 if options.quick else 3)
    if options.engines and engines.OURS not in options.engines:
        options.engines.insert(0, engines.OURS)
    if options.only:
        for name in options.only:
            if not any(each.startswith(name) for each in names):
                parser.error(f"argument --only: no scenario begins with {name!r}: {names}")
    return options


def chosen_scenarios(options: "Namespace"):
    """The scenarios of `--only` and `--size`."""
    from comparison.scenarios import scenarios

    found = scenarios(options.size)
    if options.only:
        return [each for each in found if each.name.startswith(tuple(options.only))]
    if options.quick:
        return [each for each in found if each.quick]
    return found


def publish(measured: dict, options: "Namespace") -> None:
    """Prints the tables, and draws the plot where it was asked for."""
    from comparison import report

    print(report.report(measured))
    if options.plot:
        from comparison import plot

        plot.draw(measured, options.plot)


if __name__ == "__main__":
    main()
