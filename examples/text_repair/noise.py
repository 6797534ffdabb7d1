"""Careless English from clean English.

Every pair draws a level: a clean copy, a few slips, a careless style with some slips, or full noise
(lower case, no marks, one word in ten misspelt). All randomness comes from the `random.Random` that
is passed in, so a seed gives the same text on every machine.
"""

from __future__ import annotations

import re
from random import Random

import slips
from slips import Speller, Words

# Shares of the levels; the rest is full noise.
CLEAN, LIGHT, STYLE = 0.12, 0.26, 0.26
MISSPELT_SHARE = 0.10

# What the marks of a sentence are: everything but letters, digits, white space and signs that stand
# for a word ($ % & and their like). Marks inside a number stay, since 1.5 and 15 are not the same.
_APOSTROPHE = re.compile(r"'(?=\w)|(?<=\w)'")
_SEPARATOR = re.compile(
    r"(?<=\w)[-/\u2014.,;:!?](?=[^\W\d])|(?<=[^\W\d])[-/\u2014.,;:!?](?=\w)|\u2014"
)
_INITIALISM = re.compile(r"\b(?:[A-Za-z]\.){2,}")
_OTHER_MARK = re.compile(r"[^\w\s$%&\u00a3\u20ac\u00b0](?!(?<=\d.)\d)|_")

_LIGHT_SLIPS = (
    (0.30, None),  # a misspelling
    (0.10, slips.drop_apostrophe),
    (0.12, slips.swap_sound_alike),
    (0.06, slips.break_agreement),
    (0.10, slips.lower_a_capital),
    (0.02, slips.raise_a_capital),
    (0.06, slips.drop_final_mark),
    (0.07, slips.drop_comma),
    (0.05, slips.space_around_mark),
    (0.02, slips.double_space),
    (0.03, slips.join_words),
    (0.02, slips.split_word),
    (0.03, slips.repeat_word),
    (0.02, slips.double_mark),
)


def remove_marks(text: str) -> str:
    """Remove the marks of `text`: apostrophes and final marks vanish, a dash leaves a space.

    >>> remove_marks('He didn\\'t say "well-known" - or did he? It cost $1,500.50.')
    'He didnt say well known or did he It cost $1,500.50'
    """
    text = _INITIALISM.sub(lambda found: found.group().replace(".", ""), text)
    text = _SEPARATOR.sub(" ", _APOSTROPHE.sub("", text))
    return " ".join(_OTHER_MARK.sub("", text).split())


class Noise:
    """Draws careless versions of clean sentences.

    Args:
        speller: makes the misspellings.
    """

    def __init__(self, speller: Speller):
        self._speller = speller
        kinds, self._slips, total = [], [], 0.0
        for weight, slip in _LIGHT_SLIPS:
            total += weight
            kinds.append(total)
            self._slips.append(slip)
        self._cumulative = [value / total for value in kinds]

    @property
    def words(self) -> frozenset[str]:
        """Lower-case words that are right as they are."""
        return self._speller.words

    def full(self, text: str, random: Random) -> str:
        """Lower case, all marks removed, one word in ten misspelt. The held-out sets use this."""
        words = remove_marks(text).lower().split()
        if words:
            self._speller.misspell_some(words, MISSPELT_SHARE, random)
        return " ".join(words)

    def draw(self, text: str, random: Random) -> str:
        """A careless version of `text` at a level drawn for it; may be `text` itself."""
        level = random.random()
        if level < CLEAN:
            return text
        if level < CLEAN + LIGHT:
            words = text.split(" ")
            self._slip(words, 1 + int(random.random() * 2.2), random)
            return " ".join(words).strip()
        if level < CLEAN + LIGHT + STYLE:
            return self._careless_style(text, random)
        return self._near_full(text, random)

    def _slip(self, words: Words, count: int, random: Random) -> None:
        if not words:
            return
        for _ in range(count):
            for _attempt in range(4):
                draw = random.random()
                slip = self._slips[next(i for i, c in enumerate(self._cumulative) if draw <= c)]
                if slip is None:
                    at = int(random.random() * len(words))
                    done = self._speller.misspell_word(words, at, random)
                else:
                    done = slip(words, random)
                if done:
                    break

    def _careless_style(self, text: str, random: Random) -> str:
        """Habits that run through the whole text, some misspellings, and up to two slips."""
        draw = random.random
        if draw() < 0.4:
            text = text.replace("'", "")
        if draw() < 0.4:
            text = text.replace(", ", " ")  # not those inside numbers
        if draw() < 0.45:
            text = text.rstrip(".?!")
        style = draw()
        if style < 0.50:
            text = text.lower()
        elif style < 0.58:
            text = text.replace("I ", "i ").replace("I'", "i'")
        elif style < 0.68:
            text = text[:1].lower() + text[1:]
        words = text.split()
        if not words:
            return text
        self._speller.misspell_some(words, 0.15 * draw(), random)
        self._slip(words, int(draw() * 3), random)
        joined = " ".join(words).strip()
        return joined.upper() if style > 0.93 else joined

    def _near_full(self, text: str, random: Random) -> str:
        """Full noise, now and then with one habit missing or some slips more."""
        kind = random.random()
        if kind < 0.60:
            return self.full(text, random)
        if kind < 0.72:  # dashes vanish too, and join what they parted
            words = _OTHER_MARK.sub("", text).lower().split()
        elif kind < 0.79:  # marks only; the capitals stay
            words = remove_marks(text).split()
        elif kind < 0.86:  # lower case only
            words = text.lower().split()
        else:
            words = remove_marks(text).lower().split()
            self._slip(words, 1 + int(random.random() * 2), random)
        if not words:
            return text
        self._speller.misspell_some(words, 0.05 + 0.15 * random.random(), random)
        return " ".join(words).strip()


def held_out_input(noise: Noise, text: str, seed: int) -> str:
    """The full noise of one held-out sentence: depends on the sentence and the seed alone."""
    return noise.full(text, Random(f"{seed}:{text}"))
