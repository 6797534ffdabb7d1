"""What a repair got right, kind by kind: capitals, marks, spelling, and what must stay.

Words of the answer and of the reference are aligned by edit distance on their letters and digits
alone, so that a wrong capital or mark does not move the alignment. Each kind is counted on the
aligned words; a word without a partner counts as one that was missed (or set where there is none).

- *Capitals*: words with a capital. Right if the answer's word has the same letters in equal case.
- *Final marks*: words that end in `.`, `?` or `!`. Right if the answer's word ends in the same.
- *Commas*: words that end in a comma.
- *Misspellings corrected*: of the reference's words whose letters differ in the input, the share
  whose letters are right in the answer.
- *Unchanged*: of the clean sentences, the share that comes back as it is.
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

# Addresses as people write them; none was made by `literals.py`.
ADDRESSES = """
https://en.wikipedia.org/wiki/Jane_Austen www.bbc.co.uk/news https://github.com/rust-lang/rust
https://docs.python.org/3/library/re.html jane.doe@example.com http://localhost:8080/status
www.gutenberg.org/ebooks/1342 info@openstax.org https://www.nytimes.com/2024/05/01/science/moon.html
https://arxiv.org/abs/1910.13461 support@mozilla.org https://stackoverflow.com/q/231767
https://maps.google.com/?q=48.8584,2.2945 example.org/a_b-c https://doi.org/10.1038/nature14539
sales+uk@shop.co https://www.youtube.com/watch?v=dQw4w9WgXcQ mr_smith99@mail.net www.nasa.gov
https://pypi.org/project/numpy/2.1.0/ https://api.weather.gov/points/39.7,-97.1 tom@cs.mit.edu
https://www.amazon.com/dp/B08N5WRWNW http://192.168.0.1/login https://t.co/AbC123xYz
https://news.ycombinator.com/item?id=1 user@sub.domain.edu https://fr.wikipedia.org/wiki/Caf%C3%A9
www.who.int/health-topics https://archive.org/details/texts
"""

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

    def share(self, part: str, whole: str) -> tuple[float, float, float] | None:
        """`part / whole` and the ends of its 95 % interval; None where there is no `whole`."""
        if not any(each[whole] for each in self.sentences):
            return None
        return self._interval((part, whole), lambda p, w: p / np.maximum(w, 1))

    def f1(self, name: str) -> tuple[float, float, float]:
        """The harmonic mean of precision and recall, and the ends of its 95 % interval."""
        names = (f"{name}: right", f"{name}: wanted", f"{name}: set")
        return self._interval(names, lambda r, w, s: 2 * r / np.maximum(w + s, 1))

    def _interval(self, names, formula) -> tuple[float, float, float]:
        """The value over all sentences, and its bootstrap interval: sentences drawn again."""
        if not self.sentences:
            return 0.0, 0.0, 0.0
        table = np.array([[each[name] for name in names] for each in self.sentences], np.float64)
        random = np.random.default_rng(0)
        drawn = random.multinomial(len(table), [1 / len(table)] * len(table), size=_RESAMPLES)
        low, high = np.quantile(formula(*(drawn @ table).T), (0.025, 0.975))
        return float(formula(*table.sum(axis=0))), float(low), float(high)


def measure(
    inputs: Sequence[str],
    answers: Sequence[str],
    references: Sequence[str],
    clean_answers: Sequence[str],
) -> dict[str, tuple[float, float, float] | None]:
    """Every measure but addresses, each with the ends of its 95 % interval; None for a kind that is
    absent.

    Args:
        inputs, answers, references: careless sentences, what became of them, and the clean ones.
        clean_answers: what became of the references.
    """
    noised, clean = Measures(), Measures()
    noised.extend(map(count_repair, inputs, answers, references))
    clean.extend(map(count_kept, references, clean_answers))
    found = {name: noised.f1(name) for name in MARKS}
    found["misspelt"] = noised.share("misspelt: right", "misspelt")
    found["unchanged"] = clean.share("unchanged", "sentences")
    for kind in ("numbers", "names"):
        found[kind] = clean.share(f"{kind}: kept", kind)
    return found


def with_addresses(references: Sequence[str]) -> list[str]:
    """Clean sentences with an address behind each: `ADDRESSES` in turn."""
    pairs = zip(references, ADDRESSES.split(), strict=False)
    return [f"{text} See {address} for more." for text, address in pairs]


def measure_addresses(
    texts: Sequence[str], answers: Sequence[str]
) -> tuple[float, float, float] | None:
    """The share of addresses that are kept, and the ends of its 95 % interval."""
    kept = Measures()
    kept.extend(map(count_kept, texts, answers))
    return kept.share("addresses: kept", "addresses")
