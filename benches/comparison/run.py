"""Prepares, checks and measures: starts a process for each step and collects what it says."""

import argparse
import json
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from comparison import checks, engines, machine
from comparison.model import DROPOUT, model_folder, write_model
from comparison.scenarios import Scenario
from comparison.sizes import SIZES

COMMAND = Path(__file__).resolve().parent.parent / "compare.py"
# Of the source, and of a training pair, by which results are compared.
CHECKED_LENGTHS = {"tiny": (37, (7, 5))}
CHECKED_LENGTH = (128, (32, 24))


class Comparison:
    """The engines that are here, and the processes that measure them.

    Attributes:
        present: engine -> what it is, versions included.
        absent: engine -> why it is not measured at all.
        failed: what could not be prepared or measured, with the reason.
    """

    def __init__(self, options: argparse.Namespace, chosen: list[Scenario], work: Path):
        self.options, self.scenarios = options, chosen
        self.work = work.resolve()
        self.present: dict[str, str] = {}
        self.absent: dict[str, str] = {}
        self.failed: list[str] = []
        self.samples: dict[str, Any] = {}
        self.limits: dict[str, Any] = {}
        self.checked: list[str] = []

    def prepare(self) -> None:
        """Finds the engines, writes the models and converts them. What is there stays."""
        self.work.mkdir(parents=True, exist_ok=True)
        for name in self.options.engines or engines.names():
            answer = self.child("available", name)
            if answer["missing"]:
                self.absent[name] = f"no {', '.join(answer['missing'])}"
                note(f"{name}: not measured, {self.absent[name]}")
            else:
                self.present[name] = answer["versions"]
        for model in {each.model for each in self.scenarios} | {self.options.size}:
            write_model(self.work, model)
        wanted = {(each.model, each.precision) for each in self.scenarios}
        wanted.add((self.options.size, "float32"))
        for name in self.present:
            for model, precision in sorted(wanted):
                if precision in engines.engine(name).precisions:
                    self._convert(name, model, precision)

    def _convert(self, name: str, model: str, precision: str) -> None:
        folder = self.folder(name, model, precision)
        if folder.exists() and name != engines.OURS:
            return
        note(f"{name}: converting {model} to {precision}")
        unfinished = folder.with_name(folder.name + "-unfinished")
        shutil.rmtree(unfinished, ignore_errors=True)
        unfinished.mkdir(parents=True)
        try:
            self.child("convert", name, model, precision, threads=1, folder=str(unfinished))
        except ChildFailed as error:
            self.failed.append(f"{name} cannot convert {model} to {precision} ({error})")
            note(self.failed[-1])
        else:
            # Ours is made anew: what is measured may have changed the way it writes.
            shutil.rmtree(folder, ignore_errors=True)
            unfinished.rename(folder)

    def folder(self, name: str, model: str, precision: str) -> Path:
        """Where an engine's own form of a model lies."""
        return self.work / model / f"{name}-{precision}"

    def check(self) -> None:
        """Stops unless all engines compute the same in float32."""
        import numpy as np

        size = self.options.size
        longest, pair = CHECKED_LENGTHS.get(size, CHECKED_LENGTH)
        answers: dict[str, dict[str, Any]] = {}
        for name in list(self.present):
            if not self.folder(name, size, "float32").exists():
                continue
            path = self.work / f"results-{name}.npz"
            more = {"output": str(path), "longest": longest, "pair": pair}
            try:
                self.child("results", name, size, "float32", **more)
            except ChildFailed as error:
                raise SystemExit(f"error: {name} cannot be checked: {error}") from None
            with np.load(path) as arrays:
                answers[name] = {key: arrays[key] for key in arrays.files}
        ours = answers.pop(engines.OURS)
        distinct = len(np.unique(ours["greedy ids"]))
        losses = ours["losses"]
        if not losses[-1] < losses[0]:
            raise SystemExit(f"error: training does not lower the loss: {losses}")
        note(f"a greedy answer has {distinct} different tokens; losses {losses}")
        for name, found in answers.items():
            try:
                compared = checks.compare(ours, found)
            except checks.Unequal as error:
                raise SystemExit(f"error: {name} does not compute what we do: {error}") from None
            self.checked.append(f"{name}: {', '.join(compared)}")
            note(f"equal to {self.checked[-1]}")

    def measure(self) -> dict[str, Any]:
        """Samples of every figure, the engines in turn; also what is there when interrupted."""
        try:
            for turn in range(self.options.rounds):
                for threads in self.options.threads:
                    limits = self.child("limits", engines.OURS, threads=threads)
                    self.limits.setdefault(str(threads), []).append(limits)
                    for scenario in self.scenarios:
                        self._measure(scenario, threads)
                note(f"round {turn + 1} of {self.options.rounds}")
                if self.options.json:
                    self.options.json.write_text(json.dumps(self.measured(), indent=1))
        except KeyboardInterrupt:
            note("interrupted: the table has what was measured so far")
        return self.measured()

    def _measure(self, scenario: Scenario, threads: int) -> None:
        for name in self.present:
            engine = engines.engine(name)
            folder = self.folder(name, scenario.model, scenario.precision)
            able = scenario.bart_pass in engine.passes and scenario.precision in engine.precisions
            peers_too = threads in (self.options.peers_at or self.options.threads)
            if not able or not folder.exists() or not (peers_too or name == engines.OURS):
                continue
            try:
                result = self.child(
                    scenario.task,
                    name,
                    scenario.model,
                    scenario.precision,
                    dropout=scenario.dropout,
                    threads=threads,
                    **{key: getattr(scenario, key) for key in SPECIFIED},
                )
            except ChildFailed as error:
                if name == engines.OURS:
                    raise SystemExit(f"error: {scenario.name}: {error}") from None
                self.failed.append(f"{name}, {scenario.name}, {threads} threads ({error})")
                note(self.failed[-1])
                continue
            kept = self.samples.setdefault(str(threads), {}).setdefault(scenario.name, {})
            for key, value in result.items():
                kept.setdefault(name, {}).setdefault(key, []).append(value)

    def measured(self) -> dict[str, Any]:
        """Everything a report is made of, ready for JSON."""
        return {
            "machine": machine.facts(),
            "size": self.options.size,
            "rounds": self.options.rounds,
            "versions": self.present,
            "absent": self.absent,
            "failed": self.failed,
            "checked": self.checked,
            "limits": self.limits,
            "samples": self.samples,
        }

    def child(
        self,
        task: str,
        name: str,
        model: str | None = None,
        precision: str = "float32",
        dropout: bool = False,
        threads: int | None = None,
        **more: Any,
    ) -> dict[str, Any]:
        """Runs a task in a process of its own and returns its result.

        Raises:
            ChildFailed: it ended with an error.
        """
        threads = threads or max(self.options.threads)
        spec = {
            "engine": name,
            "task": task,
            "threads": threads,
            "cores": machine.cores(threads),
            "repeats": self.options.repeats,
            "seconds": self.options.seconds,
            "precision": precision,
            "started": time.monotonic(),
        }
        if model:
            folder = model_folder(self.work, model, DROPOUT if dropout else 0.0)
            spec.update(vocabulary=SIZES[model].vocabulary, model=str(folder))
            # Dropout is part of the model, and only engines that read the model itself train.
            converted = self.folder(name, model, precision)
            spec["folder"] = str(folder if dropout else converted)
        ours = name == engines.OURS
        python = sys.executable if ours else self.options.peers_python or sys.executable
        command = [python, str(COMMAND), "--worker", json.dumps({**spec, **more})]
        log = self.work / "workers.log"
        with log.open("a") as errors:
            done = subprocess.run(
                command,
                stdout=subprocess.PIPE,
                stderr=errors,
                text=True,
                env=machine.environment(threads),
            )
        if done.returncode:
            raise ChildFailed(f"`{task}` ended with {done.returncode}, see {log}")
        return json.loads(done.stdout.splitlines()[-1])


SPECIFIED = ("lengths", "new_tokens", "beams", "length_penalty", "no_repeat")


class ChildFailed(Exception):
    """A process ended with an error."""


def note(text: str) -> None:
    """Progress goes to stderr: the table alone is on stdout."""
    print(text, file=sys.stderr, flush=True)
