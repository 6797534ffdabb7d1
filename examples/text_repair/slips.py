"""Single slips of careless writers. Each takes a list of words with their marks and changes it.

A slip returns False where the sentence offers no place for it, so that the caller draws another.
Every slip can be undone by a reader who sees only the result: what cannot be guessed back (another
number, a missing word) teaches a model to invent.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from random import Random

Words = list[str]

# Letters beside each other on a QWERTY keyboard.
_NEIGHBOURS = {
    "q": "wa", "w": "qes", "e": "wrd", "r": "etf", "t": "ryg", "y": "tuh", "u": "yij", "i": "uok",
    "o": "ipl", "p": "ol", "a": "qsz", "s": "awdx", "d": "sefc", "f": "drgv", "g": "fthb",
    "h": "gyjn", "j": "hukm", "k": "jil", "l": "kop", "z": "asx", "x": "zsdc", "c": "xdfv",
    "v": "cfgb", "b": "vghn", "n": "bhjm", "m": "njk",
}  # fmt: skip
_VOWEL_MIXUPS = {"a": "e", "e": "aie", "i": "e", "o": "u", "u": "o", "y": "i"}

_SOUND_ALIKES = (
    ("there", "their", "they're"),
    ("your", "you're"),
    ("to", "too"),
    ("then", "than"),
    ("its", "it's"),
    ("were", "we're", "where"),
    ("whose", "who's"),
    ("lose", "loose"),
    ("affect", "effect"),
    ("hear", "here"),
    ("know", "no"),
    ("new", "knew"),
    ("write", "right"),
    ("of", "off"),
    ("quite", "quiet"),
    ("weather", "whether"),
    ("accept", "except"),
    ("passed", "past"),
    ("peace", "piece"),
    ("buy", "by"),
    ("advice", "advise"),
    ("threw", "through"),
    ("lead", "led"),
    ("choose", "chose"),
    ("brake", "break"),
    ("week", "weak"),
    ("wait", "weight"),
    ("our", "are"),
    ("a", "an"),
)
SOUND_ALIKE = {
    word: tuple(other for other in group if other != word)
    for group in _SOUND_ALIKES
    for word in group
}

_SINGULAR = {"he", "she", "it", "tom", "mary", "this", "that"}
_PLURAL = {"we", "they", "you", "people", "these", "those"}
_TO_PLURAL = {
    "is": "are", "was": "were", "has": "have", "does": "do", "goes": "go", "doesn't": "don't",
    "isn't": "aren't", "wasn't": "weren't", "hasn't": "haven't",
}  # fmt: skip
_REGULAR = (
    "want need like know think say see take make get give look work live seem come play feel help "
    "love hate speak read write eat drink run walk keep leave hope believe understand start mean"
)
_TO_PLURAL |= {verb + "s": verb for verb in _REGULAR.split()}
_TO_SINGULAR = {plural: singular for singular, plural in _TO_PLURAL.items()}
_OF_FOR_HAVE = {"could", "should", "would", "must", "might"}
_OFTEN_JOINED = {
    "a lot", "in fact", "at least", "as well", "of course", "each other", "all right", "in front",
    "no one", "even though", "thank you", "next to", "in case", "at all", "a bit", "high school",
}  # fmt: skip
_OFTEN_SPLIT = (
    "maybe everyone something someone cannot anyone nothing sometimes himself myself without into "
    "already together another yourself everything anything everybody somebody today tomorrow"
)
_HEADS = ("may", "every", "some", "can", "any", "no", "him", "my", "with", "in", "al", "to", "an")
_SPLIT_AT = {
    word: next((len(head) for head in _HEADS if word.startswith(head)), 4)
    for word in _OFTEN_SPLIT.split()
}
_LETTERS = re.compile(r"[A-Za-z]{3,}")
_MARKS_AROUND = re.compile(r"^([\"'(]*)(.*?)([.,;:!?\"')]*)$")


def like(new: str, old: str) -> str:
    """Give `new` the capitals of `old`."""
    if len(old) > 1 and old.isupper():
        return new.upper()
    return new[:1].upper() + new[1:] if old[:1].isupper() else new


class Speller:
    """Misspells words: as people are known to, or by a slip of the fingers.

    Args:
        misspellings: correct word -> known misspellings, lower case.
        words: lower-case words that are right as they are. A slip that gives one of them ("form"
            for "from") is drawn again, because a reader could not see it.
    """

    def __init__(self, misspellings: dict[str, list[str]], words: frozenset[str] = frozenset()):
        self.words = words
        self._known: dict[str, list[str]] = {}
        for right, wrong in misspellings.items():
            kept = [word for word in wrong if word not in words and word.isascii()]
            if kept:
                self._known[right] = kept

    def misspell(self, letters: str, random: Random) -> str:
        """A misspelling of `letters`, which has at least two and no other character."""
        lower = letters.lower()
        known = self._known.get(lower)
        if known is not None and random.random() < 0.6:
            return like(known[int(random.random() * len(known))], letters)
        wrong = lower
        for _ in range(4):
            wrong = slip_of_fingers(lower, random)
            if wrong != lower and wrong not in self.words:
                break
        return like(wrong, letters)

    def misspell_word(self, words: Words, at: int, random: Random) -> bool:
        """Misspell the letters of `words[at]`, its marks left alone; False if it is too short."""
        found = _LETTERS.search(words[at])
        if found is None:
            return False
        start, end = found.span()
        word = words[at]
        words[at] = word[:start] + self.misspell(found.group(), random) + word[end:]
        return words[at] != word

    def misspell_some(self, words: Words, share: float, random: Random) -> None:
        """Misspell `share` of all words: a whole number of them that has this share as its mean."""
        count = int(share * len(words) + random.random())
        for _ in range(count):
            for _attempt in range(6):
                if self.misspell_word(words, int(random.random() * len(words)), random):
                    break


def slip_of_fingers(word: str, random: Random) -> str:
    """Swap, drop, double, add or replace one letter of `word`; mostly not the first one."""
    last = len(word) - 1
    first = 0 if random.random() < 0.12 or last == 0 else 1
    at = first + int(random.random() * (last + 1 - first))
    letter, kind = word[at], random.random()
    if kind < 0.28:  # adjacent letters swapped
        at = min(at, last - 1) if last > 0 else 0
        return word[:at] + word[at + 1 : at + 2] + word[at] + word[at + 2 :]
    if kind < 0.54:
        return word[:at] + word[at + 1 :]
    if kind < 0.69:
        return word[:at] + letter + word[at:]
    if kind < 0.80 and letter in _VOWEL_MIXUPS:
        return word[:at] + _pick(_VOWEL_MIXUPS[letter], random) + word[at + 1 :]
    near = _pick(_NEIGHBOURS.get(letter, "e"), random)
    if kind < 0.90:
        return word[:at] + near + word[at + 1 :]
    return word[: at + 1] + near + word[at + 1 :]


def _pick(options, random: Random):
    return options[int(random.random() * len(options))]


def _pick_index(words: Words, fits: Callable[[str], bool], random: Random) -> int:
    """The index of a word that fits, each with the same chance, or -1."""
    places = [i for i, word in enumerate(words) if fits(word)]
    return _pick(places, random) if places else -1


def drop_apostrophe(words: Words, random: Random) -> bool:
    at = _pick_index(words, lambda word: "'" in word[1:-1], random)
    if at < 0:
        return False
    word = words[at]
    inner = word.index("'", 1)
    kind = random.random()
    if kind < 0.12:
        words[at] = word[:inner] + " " + word[inner + 1 :]  # I ll
    elif kind < 0.2 and word[inner - 1 : inner + 2] == "n't":
        words[at] = word[: inner - 1] + "'n" + word[inner + 1 :]  # do'nt
    else:
        words[at] = word[:inner] + word[inner + 1 :]
    return True


def swap_sound_alike(words: Words, random: Random) -> bool:
    places = []
    for i, word in enumerate(words):
        core = _MARKS_AROUND.match(word)
        if core is not None and core.group(2).lower() in SOUND_ALIKE:
            places.append((i, core))
    if not places:
        return False
    at, core = _pick(places, random)
    before, word, after = core.groups()
    words[at] = before + like(_pick(SOUND_ALIKE[word.lower()], random), word) + after
    return True


def break_agreement(words: Words, random: Random) -> bool:
    """He go. They was. Could of been."""
    places = []
    for i in range(1, len(words)):
        subject, verb = words[i - 1].lower().strip("\"'("), words[i]
        if subject in _SINGULAR and verb in _TO_PLURAL:
            places.append((i, _TO_PLURAL[verb]))
        elif subject in _PLURAL and verb in _TO_SINGULAR:
            places.append((i, _TO_SINGULAR[verb]))
        elif subject in _OF_FOR_HAVE and verb == "have":
            places.append((i, "of"))
    if not places:
        return False
    at, verb = _pick(places, random)
    words[at] = verb
    return True


def lower_a_capital(words: Words, random: Random) -> bool:
    at = _pick_index(words, lambda word: word != word.lower(), random)
    if at < 0:
        return False
    words[at] = words[at].lower()
    return True


def raise_a_capital(words: Words, random: Random) -> bool:
    """A capital where none belongs; in a long word, so that it looks important."""

    def fits(word: str) -> bool:
        return len(word) > 4 and word.isalpha() and word.islower()

    at = _pick_index(words, fits, random)
    if at < 0:
        return False
    words[at] = words[at].capitalize() if random.random() < 0.8 else words[at].upper()
    return True


def drop_final_mark(words: Words, random: Random) -> bool:
    if words[-1][-1:] not in (".", "?", "!"):
        return False
    words[-1] = words[-1][:-1]
    return True


def drop_comma(words: Words, random: Random) -> bool:
    at = _pick_index(words, lambda word: word[-1:] in (",", ";", ":"), random)
    if at < 0:
        return False
    words[at] = words[at][:-1]
    return True


def space_around_mark(words: Words, random: Random) -> bool:
    """A space before a mark, or none after it."""
    at = _pick_index(words, lambda word: len(word) > 1 and word[-1] in ".,;:!?", random)
    if at < 0:
        return False
    kind, word = random.random(), words[at]
    if kind < 0.5 and at + 1 < len(words):
        words[at : at + 2] = [word + words[at + 1]]  # one,two
    elif kind < 0.7 and at + 1 < len(words):
        words[at : at + 2] = [word[:-1] + " " + word[-1] + words[at + 1]]  # one ,two
    else:
        words[at] = word[:-1] + " " + word[-1]
    return True


def double_space(words: Words, random: Random) -> bool:
    if len(words) < 2:
        return False
    at = int(random.random() * (len(words) - 1))
    words[at] += " " if random.random() < 0.85 else "  "
    return True


def join_words(words: Words, random: Random) -> bool:
    """Two words as one: alot, infact, or a slip of the thumb."""
    if len(words) < 3:
        return False
    pairs = [i for i in range(len(words) - 1) if f"{words[i]} {words[i + 1]}" in _OFTEN_JOINED]
    at = _pick(pairs, random) if pairs else int(random.random() * (len(words) - 1))
    if not (words[at].isalpha() and words[at + 1][:1].isalpha()):
        return False
    words[at : at + 2] = [words[at] + words[at + 1]]
    return True


def split_word(words: Words, random: Random) -> bool:
    """One word as two: every one, to gether, or a slip of the thumb."""
    at = _pick_index(words, lambda word: len(word) > 5 and word.isalpha(), random)
    if at < 0:
        return False
    word = words[at]
    places = [i for i, other in enumerate(words) if other.lower() in _SPLIT_AT]
    if places:
        at = _pick(places, random)
        word = words[at]
        cut = _SPLIT_AT[word.lower()]
    else:
        cut = 1 + int(random.random() * (len(word) - 2))
    words[at] = word[:cut] + " " + word[cut:]
    return True


def repeat_word(words: Words, random: Random) -> bool:
    at = _pick_index(words, str.isalpha, random)
    if at < 0:
        return False
    words.insert(at + 1, words[at] if words[at] == "I" else words[at].lower())
    return True


def double_mark(words: Words, random: Random) -> bool:
    if words[-1][-1:] not in (".", "?", "!"):
        return False
    words[-1] += words[-1][-1] * (1 if random.random() < 0.7 else 2)
    return True
