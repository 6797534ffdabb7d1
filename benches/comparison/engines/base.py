"""What an engine does for the comparison."""

import importlib.util
from importlib.metadata import version
from pathlib import Path
from typing import ClassVar

import numpy as np

from comparison.inputs import Pairs, Rows


class BaseEngine:
    """An implementation of BART behind the methods that are measured.

    A method named as a pass does all of it; its result must equal that of the other engines.
    Imports of the engine's packages are inside the methods: it is asked whether they are there.
    An object is one loaded model.

    Attributes:
        title: as tables name it.
        packages: top-level modules without which it cannot be measured.
        distributions: the packages whose versions are reported, by the names pip knows.
        precisions: those it has; others are not measured.
        passes: the methods it has, of "encode", "greedy", "beams" and "train".
        note: what a reader of its figures should know; may be empty.
    """

    title: ClassVar[str]
    packages: ClassVar[tuple[str, ...]]
    distributions: ClassVar[tuple[str, ...]]
    precisions: ClassVar[tuple[str, ...]]
    passes: ClassVar[tuple[str, ...]] = ("encode", "greedy", "beams")
    note: ClassVar[str] = ""

    @classmethod
    def missing(cls) -> list[str]:
        """The packages that are not installed."""
        return [name for name in cls.packages if importlib.util.find_spec(name) is None]

    @classmethod
    def versions(cls) -> str:
        return ", ".join(f"{name} {version(name)}" for name in cls.distributions)

    @classmethod
    def convert(cls, model: Path, precision: str, folder: Path) -> None:
        """Writes what `__init__` loads into the empty `folder`, once.

        Args:
            model: the folder of the model in Hugging Face's format; it stays.
            precision: one of `precisions`.
            folder: is kept for later runs once this returns.
        """

    def __init__(self, model: Path, folder: Path, precision: str, threads: int):
        """Loads what was converted: `folder`, or `model` itself where that is what it reads."""
        raise NotImplementedError

    def encode(self, rows: Rows) -> list[np.ndarray]:
        """The encoder's output of each row, [length, width] in float32."""
        raise NotImplementedError

    def greedy(self, rows: Rows, new_tokens: int) -> list[list[int]]:
        """The likeliest next token, `new_tokens` times, whatever it is; without the start token."""
        raise NotImplementedError

    def beams(
        self, rows: Rows, new_tokens: int, beams: int, length_penalty: float, no_repeat: int
    ) -> list[list[int]]:
        """The best beam by Hugging Face's rule; no `no_repeat` tokens in a row are said twice."""
        raise NotImplementedError

    def train(self, pairs: Pairs) -> float:
        """One step of Adam; the loss before it."""
        raise NotImplementedError
