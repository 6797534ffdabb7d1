"""Measures bart-fast beside Hugging Face's torch model, in one run on one machine.

    python benches/compare.py --torch-python PATH --threads 2

Makes a model of bart-base's true size with random weights, saves it once in Hugging Face's format
and lets both engines load it. First checks that both give the same results (encoder, greedy ids,
losses); only then times. Every measurement has a process of its own, and the engines take turns,
so that a busy minute hurts both. Prints a Markdown table: each figure, its share of what the
machine could do (measured in the same run), and its ratio to torch. Without torch in the
interpreter `--torch-python`, it measures bart-fast alone.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from comparison import report, worker
from comparison.sizes import SIZES, Size

# task -> (what the worker does, whether with dropout)
MEASUREMENTS = {
    "greedy": ("greedy", False),
    "encoder": ("encoder", False),
    "training": ("training", False),
    "training_dropout": ("training", True),
    "start": ("start", False),
}
# Sums of thousands of products in another order, over twelve layers.
ENCODER_TOLERANCE = 1e-3
FIRST_LOSS_TOLERANCE = 1e-4
# Adam turns the rounding of gradients that are nearly zero into whole steps.
LATER_LOSS_TOLERANCE = 1e-3


def main() -> None:
    if sys.argv[1:2] == ["--worker"]:
        worker.run(json.loads(sys.argv[2]))
        return
    options = parse_arguments()
    with tempfile.TemporaryDirectory() as scratch:
        comparison = Comparison(options, options.work or Path(scratch))
        comparison.prepare()
        comparison.check()
        if options.profile:
            print(comparison.profile())
            return
        measured = comparison.measure()
        print(report.table(comparison.size, measured))
        if options.json:
            options.json.write_text(json.dumps(measured, indent=2))


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--size", choices=SIZES, default="bart-base", help="default: bart-base")
    parser.add_argument("--threads", type=int, default=2, help="for both engines; default: 2")
    parser.add_argument(
        "--rounds", type=int, default=5, help="processes for each figure and engine"
    )
    parser.add_argument("--repeats", type=int, default=3, help="timings in a process")
    parser.add_argument("--only", nargs="*", choices=MEASUREMENTS, help="measure only these")
    parser.add_argument("--work", type=Path, help="keep the model in this folder")
    parser.add_argument("--torch-python", default=sys.executable, metavar="PATH")
    parser.add_argument("--profile", action="store_true", help="time the phases of bart-fast")
    parser.add_argument("--json", type=Path, metavar="PATH", help="write all samples there")
    return parser.parse_args()


class Comparison:
    """The engines that are here, and the processes that measure them."""

    def __init__(self, options: argparse.Namespace, work: Path):
        self.options = options
        self.size: Size = SIZES[options.size]
        self.work = work.resolve()
        self.interpreters = {"ours": sys.executable, "torch": options.torch_python}
        self.versions: list[str] = []

    def prepare(self) -> None:
        """Drops an engine that is not installed; writes the model."""
        from comparison.model import write_model

        if not self.child("torch", "available")["available"]:
            note(f"`{self.options.torch_python}` has no torch and transformers: bart-fast alone")
            del self.interpreters["torch"]
        self.work.mkdir(parents=True, exist_ok=True)
        write_model(self.work, self.size)

    def check(self) -> None:
        """Stops unless both engines compute the same."""
        import numpy as np

        answers = {}
        for engine in self.interpreters:
            path = self.work / f"results-{engine}.npz"
            self.versions.append(self.child(engine, "results", output=str(path))["versions"])
            with np.load(path) as arrays:
                answers[engine] = {name: arrays[name] for name in arrays.files}
        ours = answers["ours"]
        losses = ours["losses"]
        worker.expect(bool(losses[-1] < losses[0]), f"training does not lower the loss: {losses}")
        note(f"greedy answer of {len(np.unique(ours['ids']))} different tokens; losses {losses}")
        if "torch" in answers:
            check_equal(ours, answers["torch"])

    def measure(self) -> dict[str, Any]:
        """Samples of every figure, the engines in turn."""
        names = self.options.only or MEASUREMENTS
        samples = {engine: {name: {} for name in MEASUREMENTS} for engine in self.interpreters}
        limits = []
        for turn in range(self.options.rounds):
            limits.append(self.child("ours", "limits"))
            for name in names:
                task, dropout = MEASUREMENTS[name]
                for engine in self.interpreters:
                    result = self.child(engine, task, dropout=dropout)
                    for key, value in result.items():
                        samples[engine][name].setdefault(key, []).append(value)
            note(f"round {turn + 1} of {self.options.rounds}")
        return {
            "processor": report.processor_name(),
            "threads": self.options.threads,
            "date": time.strftime("%Y-%m-%d"),
            "versions": self.versions,
            "rounds": self.options.rounds,
            "limits": limits,
            "samples": samples,
        }

    def profile(self) -> str:
        """Where bart-fast's time goes, as far as it shows from Python."""
        parts = self.child("ours", "profile")
        return report.profile_table(self.size, parts, self.child("ours", "limits"))

    def child(self, engine: str, task: str, dropout: bool = False, **more: Any) -> dict[str, Any]:
        """Runs a task in a process of its own and returns its result."""
        from comparison.model import DROPOUT, model_folder

        spec = {
            "engine": engine,
            "task": task,
            "size": self.size.as_dict(),
            "folder": str(model_folder(self.work, self.size, DROPOUT if dropout else 0.0)),
            "threads": self.options.threads,
            "repeats": self.options.repeats,
            "started": time.monotonic(),
            **more,
        }
        command = [self.interpreters[engine], __file__, "--worker", json.dumps(spec)]
        done = subprocess.run(
            command, stdout=subprocess.PIPE, text=True, env=environment(self.options.threads)
        )
        if done.returncode:
            raise SystemExit(f"error: `{task}` of `{engine}` ended with {done.returncode}")
        return json.loads(done.stdout.splitlines()[-1])


def check_equal(ours: dict[str, Any], torch: dict[str, Any]) -> None:
    """Stops unless the results of both engines are equal."""
    import numpy as np

    worker.expect(np.array_equal(ours["ids"], torch["ids"]), "the engines' greedy ids differ")
    pairs = {
        "encoder outputs": ("encoded", slice(None), ENCODER_TOLERANCE),
        "first losses": ("losses", slice(1), FIRST_LOSS_TOLERANCE),
        "later losses": ("losses", slice(1, None), LATER_LOSS_TOLERANCE),
    }
    for title, (name, part, tolerance) in pairs.items():
        difference = float(np.abs(ours[name][part] - torch[name][part]).max())
        worker.expect(
            difference < tolerance, f"the engines' {title} differ by {difference} > {tolerance}"
        )
        note(f"{title}: largest difference {difference:.1e}")


def environment(threads: int) -> dict[str, str]:
    """The environment of the children: as many threads in every library, and no network."""
    count = str(threads)
    return {
        **os.environ,
        "BART_FAST_NUM_THREADS": count,
        "OMP_NUM_THREADS": count,
        "MKL_NUM_THREADS": count,
        "HF_HUB_OFFLINE": "1",
    }


def note(text: str) -> None:
    """Progress goes to stderr: the table alone is on stdout."""
    print(text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
