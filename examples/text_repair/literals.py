"""What a reader must copy letter by letter: addresses, numbers, codes, and names never seen before.

The corpora hold next to none of the first kinds, and only so many names. Without examples a model
takes all of these for misspellings. Everything is drawn from a `random.Random` that is passed in.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from random import Random


def _list(text: str) -> list[str]:
    return text.split()


_SYLLABLES = _list(
    "ab ac al an ar as at ba be bi bo bra bu ca ce chi co cra da de di do dra du e el en er es fa "
    "fe fi flo fo fra ga ge gi go gra ha he hi ho i il in is ja jo ka ke ki ko la le li lo lu ma "
    "me mi mo mu na ne ni no nu o ol on or pa pe pi plo po pra qua ra re ri ro ru sa se sha shi so "
    "sta ste su ta te thi ti to tra tu u un ur va ve vi vo wa we wi wo xa ya yo za ze zi"
)
_WORDS = _list(
    "home news shop blog docs about help index main data report photo team start page list user "
    "paper green river house north music light open free world city book game food health school "
    "cloud store mail photo track small first river report draft final notes plan budget"
)
_ENDS = _list("com com com org net edu gov io co.uk de fr info dev app")
_FILES = _list("txt pdf csv py json html jpg docx xlsx md zip png")
_UNITS = _list("kg km cm mm ml GB MB kB mph km/h kWh Hz °C lb oz ft")

_TEMPLATES = {
    "address": (
        "See {}.",
        "See {} for details.",
        "Visit {} to learn more.",
        "The page is at {}.",
        "I found it on {} last week.",
        "More information is available at {}.",
        "Go to {} and sign in.",
        "It was published on {}, wasn't it?",
        "Have you looked at {} yet?",
        "Source: {}.",
        "You can download it from {} for free.",
        "(Retrieved from {}.)",
    ),
    "mail": (
        "Write to {}.",
        "Please send your answer to {}.",
        "My address is {}, in case you need it.",
        "Contact {} if you have questions.",
        "Did you write to {}?",
    ),
    "file": (
        "Open {} first.",
        "The results are in {}.",
        "I saved everything as {}.",
        "Where is {}?",
        "The file {} is missing.",
    ),
    "number": (
        "It cost {}.",
        "The total was {}.",
        "We need {} more.",
        "About {} were sold.",
        "The answer is {}, not {}.",
        "It rose from {} to {}.",
        "Nearly {} of them agreed.",
        "Room {} is on the left.",
        "Chapter {} begins on page {}.",
    ),
    "time": (
        "The meeting is at {}.",
        "It happened on {}.",
        "We open at {} and close at {}.",
        "Call me before {}.",
        "The train leaves at {}, I think.",
    ),
    "code": (
        "The code is {}.",
        "My phone number is {}.",
        "Order {} has been shipped.",
        "Flight {} is late.",
        "Use version {} or later.",
        "The model is called {}.",
        "Follow {} for more.",
        "Set {} to {}.",
    ),
}


def made_up_word(random: Random, most: int = 3) -> str:
    """A lower-case word that can be spoken and most likely does not exist."""
    return "".join(random.choice(_SYLLABLES) for _ in range(1 + int(random.random() * most)))


def literal(kind: str, random: Random) -> str:
    """One thing of a kind that `sentence_with_literals` has templates for."""
    return _MAKERS[kind](random)


def _word(random: Random) -> str:
    return random.choice(_WORDS) if random.random() < 0.6 else made_up_word(random)


def _host(random: Random) -> str:
    name = _word(random) + random.choice(("", "", "-", "")) + _word(random)
    return f"{name}.{random.choice(_ENDS)}"


def _address(random: Random) -> str:
    start = random.choice(("https://", "https://", "http://", "www.", "https://www.", ""))
    path = "".join(
        "/" + _word(random) + random.choice(("", "", "-" + _word(random), "_" + _word(random)))
        for _ in range(int(random.random() * 4))
    )
    if random.random() < 0.2:
        path += f"/{random.randrange(10_000)}"
    if random.random() < 0.15:
        path += random.choice(
            (".html", ".php", f"?id={random.randrange(1000)}", "#" + _word(random))
        )
    return start + _host(random) + (path or random.choice(("", "/")))


def _mail(random: Random) -> str:
    mark = random.choice((".", "_", "", "-"))
    number = str(random.randrange(100)) if random.random() < 0.3 else ""
    return f"{_word(random)}{mark}{_word(random)}{number}@{_host(random)}"


def _file(random: Random) -> str:
    mark = random.choice(("_", "-", "", ""))
    name = f"{_word(random)}{mark}{_word(random)}.{random.choice(_FILES)}"
    return random.choice(("", "", "src/", "C:\\data\\", "~/", "/tmp/")) + name


def _number(random: Random) -> str:
    size = 10 ** random.randrange(1, 8)
    value = random.randrange(size)
    plain = str(value)
    return random.choice(
        (
            plain,
            f"{value:,}",
            f"{random.uniform(0, size):.{random.randrange(1, 4)}f}",
            f"${value:,}",
            f"${random.uniform(0, size):,.2f}",
            f"{random.randrange(101)}%",
            f"{random.uniform(0, 100):.1f}%",
            f"{random.randrange(500)} {random.choice(_UNITS)}",
            f"{random.randrange(1, 100)}/{random.randrange(2, 100)}",
            f"\u20ac{value}",
            f"-{value}",
        )
    )


def _time(random: Random) -> str:
    year, month, day = (
        random.randrange(1800, 2040),
        random.randrange(1, 13),
        random.randrange(1, 29),
    )
    hour, minute = random.randrange(24), random.randrange(60)
    return random.choice(
        (
            f"{hour}:{minute:02d}",
            f"{hour % 12 + 1}:{minute:02d} {random.choice(('a.m.', 'p.m.', 'am', 'PM'))}",
            f"{hour:02d}:{minute:02d}",
            f"{year}-{month:02d}-{day:02d}",
            f"{month}/{day}/{year}",
            f"{day}.{month}.{year}",
            str(year),
        )
    )


def _code(random: Random) -> str:
    def letters(count: int) -> str:
        return "".join(random.choice("ABCDEFGHJKLMNPQRSTUVWXYZ") for _ in range(count))

    return random.choice(
        (
            f"{letters(2)}{random.randrange(1000)}",
            f"{letters(3)}-{random.randrange(10_000)}",
            f"+{random.randrange(1, 99)} {random.randrange(99, 999)} {random.randrange(10**7)}",
            f"{random.randrange(100, 999)}-{random.randrange(1000, 9999)}",
            f"v{random.randrange(9)}.{random.randrange(20)}.{random.randrange(20)}",
            f"{random.randrange(9)}.{random.randrange(20)}",
            f"@{_word(random)}{random.choice(('', '_'))}{_word(random)}",
            f"#{_word(random)}",
            f"{_word(random)}_{_word(random)}",
            f"{_word(random)}{_word(random).capitalize()}",
            f"{random.getrandbits(32):x}",
        )
    )


_MAKERS = {
    "address": _address,
    "mail": _mail,
    "file": _file,
    "number": _number,
    "time": _time,
    "code": _code,
}
_KINDS = ("address", "address", "mail", "file", "number", "number", "time", "code")


def sentence_with_literals(random: Random) -> str:
    """A short sentence around something that must be copied."""
    kind = random.choice(_KINDS)
    template = random.choice(_TEMPLATES[kind])
    return template.format(*(literal(kind, random) for _ in range(template.count("{}"))))


_NAME = re.compile(r"(?<=[a-z,;] )[A-Z][a-z]{2,}\b")
_CUT = re.compile(r"(?<=[bcdfghklmnprstvwz])(?=[aeiouy])|(?<=[aeiouy])(?=[bcdfghklmnprstvwz])")


class Names:
    """Makes new names out of halves of those in the sentences.

    Args:
        sentences: clean text; names are its words with a capital inside a sentence.
        words: lower-case words, which are no names.
    """

    def __init__(self, sentences: Iterable[str], words: frozenset[str]):
        found = {name for text in sentences for name in _NAME.findall(text)}
        heads, tails = set(), set()
        for name in found:
            if name.lower() in words:
                continue
            for cut in (match.start() for match in _CUT.finditer(name)):
                if 2 <= cut <= len(name) - 2:
                    heads.add(name[:cut])
                    tails.add(name[cut:])
        self._heads, self._tails = sorted(heads), sorted(tails)

    def draw(self, random: Random) -> str:
        if not self._heads or random.random() < 0.2:
            return (made_up_word(random) + random.choice(_SYLLABLES)).capitalize()
        return random.choice(self._heads) + random.choice(self._tails)

    def rename(self, text: str, random: Random) -> str:
        """`text` with new names inside its sentences, the same for the same."""
        new: dict[str, str] = {}

        def other(found: re.Match[str]) -> str:
            return new.setdefault(found.group(), self.draw(random))

        return _NAME.sub(other, text)
