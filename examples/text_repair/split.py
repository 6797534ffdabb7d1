"""Training, validation and test sentences, told apart by a hash of the normalised sentence.

The corpora hold near-copies ("Tom left." and "Tom left!"). A hash of the letters alone puts all of
them on the same side, in every corpus and in every run, whatever the order of the files.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass, field

from sources import SOURCES, Sentence

VALIDATION_SHARE = 0.01
TEST_SHARE = 0.02


def normalise(text: str) -> str:
    """Lower case, letters only: what is equal for near-copies of a sentence."""
    return "".join(filter(str.isalpha, text.lower()))


def fraction(text: str) -> float:
    """A number in [0, 1) that depends on the normalised sentence only."""
    digest = hashlib.sha256(normalise(text).encode()).digest()
    return int.from_bytes(digest[:8], "big") / 2**64


def part_of(text: str) -> str:
    """The part a sentence belongs to: ``"test"``, ``"validation"`` or ``"train"``."""
    position = fraction(text)
    if position < TEST_SHARE:
        return "test"
    return "validation" if position < TEST_SHARE + VALIDATION_SHARE else "train"


@dataclass
class Split:
    """The three parts, each without repeated sentences.

    `follower[i]` is the index of the training sentence that follows training sentence `i` in its
    paragraph, or -1: two such sentences make a natural input of two sentences.
    """

    train: list[Sentence] = field(default_factory=list)
    validation: list[Sentence] = field(default_factory=list)
    test: list[Sentence] = field(default_factory=list)
    follower: list[int] = field(default_factory=list)

    def held_out(self, part: str, source: str, limit: int | None = None) -> list[str]:
        """Sentences of one source in `part`, in the order of their hash, at most `limit`."""
        chosen = [s.text for s in getattr(self, part) if s.source == source]
        return sorted(chosen, key=fraction)[:limit]


def split_sentences_by_hash(sentences: Iterable[Sentence]) -> Split:
    """Divide `sentences`; of sentences with equal letters only the first is kept."""
    split, seen, previous_kept = Split(), set(), False
    for sentence in sentences:
        key = normalise(sentence.text)
        part = part_of(sentence.text)
        kept = bool(key) and key not in seen
        if kept:
            seen.add(key)
            getattr(split, part).append(sentence)
        in_train = kept and part == "train"
        if in_train:
            split.follower.append(-1)
            if previous_kept and sentence.continues:
                split.follower[-2] = len(split.follower) - 1
        previous_kept = in_train
    return split


def check_no_leak(split: Split) -> None:
    """Raise ValueError if a held-out sentence has the letters of a training sentence."""
    train = {normalise(s.text) for s in split.train}
    leaked = [s.text for s in split.validation + split.test if normalise(s.text) in train]
    if leaked:
        raise ValueError(f"{len(leaked)} held-out sentences are in the training part: {leaked[:3]}")


__all__ = [
    "SOURCES",
    "TEST_SHARE",
    "VALIDATION_SHARE",
    "Split",
    "check_no_leak",
    "fraction",
    "normalise",
    "part_of",
    "split_sentences_by_hash",
]
