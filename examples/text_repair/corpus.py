"""The corpus as all commands here see it: split sentences and the noise that goes with them."""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path

from noise import Noise
from slips import Speller
from sources import read_misspellings, read_sentences
from split import Split, split_sentences_by_hash

# Held-out inputs depend on this number; changing it makes old and new measures incomparable.
SEED = 1

_LETTERS = re.compile(r"[a-z]+")


def default_data() -> Path:
    """Where the corpora lie when `--data` is not given: beside the project."""
    return Path(__file__).resolve().parents[2].parent / "shared" / "data" / "text_repair"


def load_corpus(data: Path) -> tuple[Split, Noise]:
    """Read, split and hash the corpora under `data`; takes some ten seconds.

    Words that occur three times in the training sentences count as right: no misspelling is one.
    """
    misspellings = read_misspellings(data)
    misspelt = frozenset(word for wrong in misspellings.values() for word in wrong)
    split = split_sentences_by_hash(read_sentences(data, misspelt))
    counts: Counter[str] = Counter()
    for sentence in split.train:
        counts.update(_LETTERS.findall(sentence.text.lower()))
    words = frozenset(word for word, count in counts.items() if count >= 3)
    return split, Noise(Speller(misspellings, words))
