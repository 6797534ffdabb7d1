"""What a stopped training needs to go on: weights, optimizer, and the place in the data.

A checkpoint is a directory ``checkpoint-<step>``. It is written beside under another name and then
renamed, so one that is there is complete; older ones are removed only after that.
"""

from __future__ import annotations

import json
import shutil
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from pairs import Position


@dataclass(frozen=True)
class Checkpoint:
    """A finished checkpoint directory and what its ``state.json`` says."""

    folder: Path
    step: int
    pairs: int
    next_batch: Position

    @property
    def preset(self) -> Path:
        """The model, as a preset directory that `from_preset` reads."""
        return self.folder / "preset"

    def optimizer_state(self) -> dict[str, np.ndarray]:
        with np.load(self.folder / "optimizer.npz", allow_pickle=False) as arrays:
            return {name: arrays[name] for name in arrays.files}


def save_checkpoint(work: Path, model, *, step: int, pairs: int, next_batch: Position) -> Path:
    """Write ``checkpoint-<step>`` under `work` and remove the others; returns the directory.

    Args:
        model: a compiled task with a preprocessor; its optimizer's `state()` is kept.
        pairs: training pairs seen so far.
        next_batch: the first batch that was not trained on.
    """
    folder = work / f"checkpoint-{step:07d}"
    beside = folder.with_suffix(".part")
    if beside.exists():
        shutil.rmtree(beside)
    beside.mkdir(parents=True)
    model.save_to_preset(str(beside / "preset"))
    np.savez(beside / "optimizer.npz", **model.optimizer.state())
    state = {"step": step, "pairs": pairs, "next_batch": asdict(next_batch)}
    (beside / "state.json").write_text(json.dumps(state), encoding="utf-8")
    if folder.exists():
        shutil.rmtree(folder)
    beside.rename(folder)
    for other in work.glob("checkpoint-*"):
        if other != folder:
            shutil.rmtree(other)
    return folder


def latest_checkpoint(work: Path) -> Checkpoint | None:
    """The newest complete checkpoint under `work`, or None."""
    folders = [f for f in work.glob("checkpoint-*") if f.is_dir() and f.suffix != ".part"]
    if not folders:
        return None
    folder = max(folders, key=lambda f: int(f.name.removeprefix("checkpoint-")))
    state = json.loads((folder / "state.json").read_text(encoding="utf-8"))
    return Checkpoint(folder, state["step"], state["pairs"], Position(**state["next_batch"]))
