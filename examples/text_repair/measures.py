"""What a repair got right, kind by kind: capitals, marks, spelling, and what must stay.

Words of the answer and of the reference are aligned by edit distance on their letters and digits
alone, so that a wrong capital or mark does not move the alignment. Each kind is counted on the
aligned words; a word without a partner counts as one that was missed (or set where there is none).

- *Capitals*: words with a capital. Right if the answer's word has the same letters in equal case.
- *Final marks*: words that end in `.`, `?` or `!`. Right if the answer's word ends in the same.
- *Commas*: words that end in a comma.
- *Misspellings corrected*: of the reference's words whose letters differ in the input, the share
  whose letters are right in the answer.
- *Kept*: of the clean input's numbers (words with a digit), names (words with a capital that do not
  begin a sentence) and addresses (URLs and e-mail), the share that stands unchanged in the answer.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import numpy as np
from align import align

_CLOSING = "\"')]}"
_ADDRESS = re.compile(r"https?://|www\.|\w@\w|\w\.(?:com|org|net|edu|gov|io|co)\b")
_RESAMPLES = 1000


def core(word: str) -> str:
    """Lower-case letters and digits of a word: what it says, without its case and marks."""
    return "".join(filter(str.isalnum, word.lower()))


def capital_of(word: str) -> str | None:
    """The letters of a word with a capital, as they stand; None for a word without."""
    return "".join(filter(str.isalpha, word)) if word != word.lower() else None


def final_mark_of(word: str) -> str | None:
    last = word.rstrip(_CLOSING)[-1:]
    return last if last in (".", "?", "!") else None


def comma_of(word: str) -> str | None:
    return "," if word.rstrip(_CLOSING)[-1:] == "," else None


MARKS = {"capitals": capital_of, "final marks": final_mark_of, "commas": comma_of}


def kept_kind(words: Sequence[str], at: int) -> str | None:
    """What a word of clean text is, if it must not be changed: address, number or name."""
    word = words[at]
    if _ADDRESS.search(word):
        return "addresses"
    if any(map(str.isdigit, word)):
        return "numbers"
    begins = at == 0 or final_mark_of(words[at - 1]) is not None or words[at - 1][-1:] in ':"'
    letters = "".join(filter(str.isalpha, word))
    if not begins and letters[:1].isupper() and core(word) not in ("i", "im", "ill", "ive", "id"):
        return "names"
    return None


def count_repair(given: str, answer: str, reference: str) -> Counter[str]:
    """Counts of one repaired sentence, for `share` and `f1`."""
    counts: Counter[str] = Counter()
    before, after, right = given.split(), answer.split(), reference.split()
    cores = [core(word) for word in right]
    _, places = align([core(word) for word in after], cores)
    _, input_places = align([core(word) for word in before], cores)
    used = {at for at in places if at >= 0}
    for word, place, was in zip(right, places, input_places, strict=True):
        now = after[place] if place >= 0 else ""
        for name, mark_of in MARKS.items():
            wanted, found = mark_of(word), mark_of(now)
            counts[f"{name}: wanted"] += wanted is not None
            counts[f"{name}: set"] += found is not None
            counts[f"{name}: right"] += wanted is not None and wanted == found
        if was < 0 or core(before[was]) != core(word):
            counts["misspelt"] += 1
            counts["misspelt: right"] += core(now) == core(word)
    for at, word in enumerate(after):
        if at not in used:
            for name, mark_of in MARKS.items():
                counts[f"{name}: set"] += mark_of(word) is not None
    return counts


def count_kept(clean: str, answer: str) -> Counter[str]:
    """Counts of one clean sentence: whether it stayed, and its numbers, names and addresses."""
    counts: Counter[str] = Counter({"sentences": 1, "unchanged": int(answer == clean)})
    words, after = clean.split(), answer.split()
    places = range(len(words)) if answer == clean else align(after, words)[1]
    for at, place in enumerate(places):
        kind = kept_kind(words, at)
        if kind is not None:
            counts[kind] += 1
            counts[f"{kind}: kept"] += place >= 0 and after[place] == words[at]
    return counts


@dataclass
class Measures:
    """Counts of many sentences, one `Counter` each, so that their spread can be drawn again."""

    sentences: list[Counter[str]] = field(default_factory=list)

    def extend(self, counts: Iterable[Counter[str]]) -> None:
        self.sentences.extend(counts)

    def share(self, part: str, whole: str) -> tuple[float, float, float]:
        """`part / whole` and the ends of its 95 % interval."""
        return self._interval((part, whole), lambda p, w: p / np.maximum(w, 1))

    def f1(self, name: str) -> tuple[float, float, float]:
        """The harmonic mean of precision and recall, and the ends of its 95 % interval."""
        names = (f"{name}: right", f"{name}: wanted", f"{name}: set")
        return self._interval(names, lambda r, w, s: 2 * r / np.maximum(w + s, 1))

    def _interval(self, names, formula) -> tuple[float, float, float]:
        """The value over all sentences, and its bootstrap interval: sentences drawn again."""
        table = np.array([[each[name] for name in names] for each in self.sentences], np.float64)
        random = np.random.default_rng(0)
        drawn = random.multinomial(len(table), [1 / len(table)] * len(table), size=_RESAMPLES)
        low, high = np.quantile(formula(*(drawn @ table).T), (0.025, 0.975))
        return float(formula(*table.sum(axis=0))), float(low), float(high)
