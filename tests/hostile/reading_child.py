"""A process of its own that reads damaged or hostile presets and says how that went.

A crash ends this process and not the tests; memory is what this process alone took.
"""

import json
import random
import resource
import sys
import time
from pathlib import Path

import h5py  # noqa: F401  (its memory is not a file's)

from bart_fast import presets
from bart_fast._core import Model


def read_all(directory: Path) -> None:
    """Everything that a preset holds."""
    preset = presets.load_preset(directory)
    if preset.mentions_tokenizer:
        assert len(preset.vocabulary) + len(preset.merges) >= 0
        assert preset.tokenizer_config
    if preset.has_backbone:
        presets.load_weights(preset, Model(json.dumps(preset.backbone_config)))


def outcome(directory: Path) -> str:
    """What a user would see: nothing, or the text of an error of the two allowed kinds."""
    try:
        read_all(directory)
    except (ValueError, OSError) as error:
        return str(error) or type(error).__name__
    return ""


def peak() -> float:
    """The most memory so far, in MiB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def read_each(directories: list[str]) -> list[dict]:
    """Read some presets; message, processor time and growth of memory for each."""
    results = []
    for directory in directories:
        before, start = peak(), time.process_time()
        message = outcome(Path(directory))
        results.append(
            {
                "message": message[:2000],
                "seconds": time.process_time() - start,
                "mebibytes": peak() - before,
            }
        )
    return results


def damage(path: str, seed: str, times: str) -> list[dict]:
    """Read the preset of a file again and again, each time with some bits flipped, or cut off."""
    file = Path(path)
    whole = file.read_bytes()
    directory = file.parents[2] if file.parent.name == "tokenizer" else file.parent
    dice = random.Random(int(seed))
    refused, before = 0, peak()
    for _ in range(int(times)):
        damaged = bytearray(whole)
        for _ in range(dice.randint(1, 4)):
            damaged[dice.randrange(len(whole))] ^= 1 << dice.randrange(8)
        if dice.random() < 0.2:
            del damaged[dice.randrange(len(whole)) :]
        file.write_bytes(damaged)
        refused += bool(outcome(directory))
    file.write_bytes(whole)
    return [{"refused": refused, "mebibytes": peak() - before, "whole": outcome(directory)}]


if __name__ == "__main__":
    task, *arguments = sys.argv[1:]
    print(json.dumps(read_each(arguments) if task == "read" else damage(*arguments)))
