"""Clean English, sentence by sentence, from the three corpora.

``tatoeba.txt`` holds one short sentence a line. ``openstax.txt`` and ``standard_ebooks.txt`` hold
one paragraph a line, which are split here. What is no running English (headings, lists,
bibliographies, formulas, program code) is left out, because a model that must give its input back
letter by letter learns nothing good from it.
"""

from __future__ import annotations

import csv
import re
import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

SOURCES = ("tatoeba", "openstax", "standard_ebooks")

# A piece of the vocabulary covers about 4 letters of clean text and 3 of careless text; 340 letters
# are then at most some 115 pieces, which leaves room in positions for the special tokens.
MAX_CHARACTERS = 340

_TO_ASCII = str.maketrans(
    {
        "\u2018": "'",
        "\u2019": "'",
        "\u2032": "'",
        "\u201c": '"',
        "\u201d": '"',
        "\u00a0": " ",
        "\u202f": " ",
        "\u2009": " ",
        "\u200b": None,
        "\u2060": None,
        "\u00ad": None,
        "\ufeff": None,
        "\u2011": "-",
        "\u2010": "-",
        "\u2013": "-",
        "\u2212": "-",
        "\u2026": "...",
    }
)


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


# Words that end in a full stop without ending a sentence. The second set may end one as well: they
# do when the next word is one that opens sentences.
_TITLES = _words(
    """mr mrs ms messrs dr prof rev hon st gen sen rep gov pres capt col lt sgt maj adm cmdr mt ft
    vs cf al fig no vol pp ed eds trans ch sec eq e.g i.e viz approx dept univ jan feb aug sept oct
    nov dec"""
)
_CLOSING_ABBREVIATIONS = _words(
    """etc jr sr inc ltd co corp bros esq u.s u.k u.n d.c b.c a.d b.c.e c.e a.m p.m ph.d m.d b.a
    m.a u.s.a"""
)
_SENTENCE_OPENERS = _words(
    """the a an in on at by for from with this that these those it he she they we you i his her
    their its our my but and so yet if when while as after before since because although however
    thus therefore what why how who where which there here some many most all no one two"""
)
_SPEECH_VERBS = (
    "said|says|asked|cried|exclaimed|answered|replied|remarked|returned|observed|murmured|muttered|"
    "whispered|shouted|repeated|continued|added|inquired|enquired|demanded|thought|began|suggested|"
    "laughed|sighed|screamed|declared|protested|growled|groaned|called|went|interrupted|roared|"
    "snapped|faltered|implored|gasped|pleaded|retorted|ejaculated|queried|sobbed|yelled|snorted"
)
_SAID_AFTER_QUOTE = re.compile(
    r"(?:(?:[A-Z][\w.\u2019'-]*|the|my|our|his|her|old|little)\s+){1,4}"
    rf"(?:\w+ly\s+)?(?:{_SPEECH_VERBS})\b"
)
_BOUNDARY = re.compile(r"[.!?\u2026]+[\u201d\u2019\"')\]]*\s+(?=[\u201c\u2018\"'(\[]*[A-Z0-9])")
_LAST_WORD = re.compile(r"[^\s\u201c\u2018\"'(\[\u2014-]+$")


@dataclass(frozen=True)
class Sentence:
    """A clean sentence; `continues` if it follows the one before it in the same paragraph."""

    source: str
    text: str
    continues: bool = False


def to_ascii_marks(text: str) -> str:
    """Map typographic quotes, apostrophes, hyphens and spaces to what a keyboard gives.

    Letters keep their accents and the em dash stays: it is a mark of its own.
    """
    text = unicodedata.normalize("NFC", text).translate(_TO_ASCII)
    return " ".join(text.split())


def split_sentences(paragraph: str) -> list[str]:
    """Split a paragraph with typographic quotes into sentences.

    A sentence never ends inside an open quotation, so that its quotes stay balanced; a sentence
    that is one quotation as a whole loses the quotes and is split again, because nothing in the
    words of a speech tells that it is spoken.
    """
    paragraph = " ".join(paragraph.split())
    # A speech of several paragraphs opens a quote in each and closes only the last.
    unclosed = paragraph.count("\u201c") - paragraph.count("\u201d")
    if unclosed == 1 and paragraph.startswith("\u201c"):
        paragraph = paragraph[1:]
    paragraph = _without_outer_quotes(paragraph)
    pieces, start, depth, seen = [], 0, 0, 0
    for boundary in _BOUNDARY.finditer(paragraph):
        passed = paragraph[seen : boundary.end()]
        depth += passed.count("\u201c") - passed.count("\u201d")
        seen = boundary.end()
        if depth <= 0 and _ends_sentence(paragraph, boundary):
            pieces.append(paragraph[start : boundary.end()].strip())
            start = boundary.end()
    pieces.append(paragraph[start:].strip())
    sentences = []
    for piece in pieces:
        inner = _without_outer_quotes(piece)
        sentences.extend(split_sentences(inner) if inner != piece else [piece])
    return [sentence for sentence in sentences if sentence]


def _without_outer_quotes(text: str) -> str:
    """Drop the quotes of a text that is one quotation from its first to its last character."""
    if len(text) > 2 and text[0] == "\u201c" and text[-1] == "\u201d":
        inner = text[1:-1]
        if "\u201c" not in inner and "\u201d" not in inner:
            return inner.strip()
    return text


def _ends_sentence(paragraph: str, boundary: re.Match[str]) -> bool:
    marks = boundary.group().rstrip()
    rest = paragraph[boundary.end() : boundary.end() + 80]
    if marks[-1] in '\u201d"' and _SAID_AFTER_QUOTE.match(rest):
        return False  # "What!" I exclaimed.
    if marks[0] != "." or (len(marks) > 1 and marks[1] == "."):
        return True
    word = _LAST_WORD.search(paragraph, max(0, boundary.start() - 30), boundary.start())
    if word is None:
        return True
    last = word.group().lower().strip(".,")
    opener = re.match(r"\W*(\w+)", rest)
    opens = opener is not None and opener.group(1).lower() in _SENTENCE_OPENERS
    if last in _CLOSING_ABBREVIATIONS:
        return opens
    if len(last) == 1 and last.isalpha() and last != "i":
        return False  # an initial: J. Edgar Hoover
    return last not in _TITLES


_WORD = re.compile(r"[^\W\d_]+(?:'[^\W\d_]+)*")
_ENDING = re.compile(r"[.!?]['\")]*$")
_UNWANTED = re.compile(
    "|".join(
        (
            r"https?:|www\.|\.com\b|\.org\b",
            r"[_=<>{}|\\^~`#*@+\[\]\u2e3a\u2e3b\u00ae\u00a7\u00d7\u00b7]|\(\)|\.\.\.\.",  # signs
            r"\b(?:[Aa]n|[Tt]h|o|i|wi|[Tt]ha|[A-Za-z]+in)'(?=[\s,.])",  # dialect: an' th' goin'
            r"\s[.,;:!?]|\w- (?!and\b|or\b|to\b)",  # stray spaces
            # Parts of bibliographies and references.
            r"\(\d{4}\):|&c\b|\bpp?\. \d|\bVol\.|\bed\. ",
            r"\b(?:Press|Books|Publishers|Publishing), \d{4}",
            r"[A-Z][\w. ]+: [A-Z][^:]{2,60}, (?:1[789]|20)\d\d\.$",
            r"^[A-Z]\w+(?:, [A-Z]\w+)?: [A-Z]\S*(?: [A-Z&]\S*)*$",
            r"^(?:Figure|Table|Step|Exercise|Chapter|Source)\b [\dA-Z]",
        )
    )
)
# "Huggins, Nathan. Slave and Citizen. Boston: Little Brown, 1980." A whole paragraph of it.
_BIBLIOGRAPHY = re.compile(r"^[\u201c]?[A-Z][\w\u2019 -]*, [A-Z].*: .*\d\.?$")
_CODE = re.compile(r"\w\(|\w\.\w+\(|\b(?:def|elif|lambda|None|True|False|int|str|len|print)\b\W")


def is_running_english(text: str, *, min_words: int = 3) -> bool:
    """Tell whether `text` is one or two whole sentences that a person may have written."""
    if not 2 <= len(text) <= MAX_CHARACTERS or not _ENDING.search(text):
        return False
    if not (text[0].isupper() or text[0].isdigit() or text[0] in "\"'$") or _UNWANTED.search(text):
        return False
    if _CODE.search(text) or text.count('"') % 2 or text.count("(") != text.count(")"):
        return False
    words = _WORD.findall(text)
    if len(words) < min_words or max(map(len, words)) > 24:
        return False
    # Lists of names and bibliographies are mostly capitals; formulas are mostly not letters.
    capitals = sum(word[0].isupper() for word in words)
    if len(words) > 4 and capitals > 0.55 * len(words):
        return False
    if sum(map(len, words)) < 0.68 * len(text):
        return False
    return all(ord(c) < 0x250 or c in "\u2014\u20ac" for c in text)


def read_misspellings(data: Path) -> dict[str, list[str]]:
    """Read ``misspellings.csv`` the other way round: correct word -> its misspellings."""
    table: dict[str, list[str]] = {}
    with (data / "misspellings.csv").open(encoding="utf-8", newline="") as file:
        for wrong, right in csv.reader(file):
            table.setdefault(right, []).append(wrong)
    return table


def read_sentences(data: Path, misspelt: frozenset[str] = frozenset()) -> Iterator[Sentence]:
    """Yield the clean sentences of all three corpora under `data`, in file order.

    Args:
        data: the directory with the three text files.
        misspelt: words known to be wrong; a sentence with one of them is no example of clean text.

    Raises:
        FileNotFoundError: if a corpus is missing, naming the file and the option that sets it.
    """
    for source in SOURCES:
        path = data / f"{source}.txt"
        if not path.is_file():
            raise FileNotFoundError(
                f"`--data`: {path} does not exist.\nhint: name the directory that holds "
                "tatoeba.txt, openstax.txt, standard_ebooks.txt and misspellings.csv"
            )
        with path.open(encoding="utf-8") as file:
            for line in file:
                yield from _line_sentences(source, line, misspelt)


def _line_sentences(source: str, line: str, misspelt: frozenset[str]) -> Iterator[Sentence]:
    if source == "tatoeba":
        pieces, min_words = [line], 1  # "Hello." is a sentence there
    elif _BIBLIOGRAPHY.match(line.strip()) and len(line) < 400:
        return
    else:
        pieces = split_sentences(unicodedata.normalize("NFC", line))
        min_words = 3 if source == "openstax" else 2  # one word there is mostly a heading
    continues = False
    for piece in pieces:
        text = to_ascii_marks(piece)
        # Single quotation marks cannot be told from apostrophes once they are ASCII.
        clean = "\u2018" not in piece and is_running_english(text, min_words=min_words)
        if clean and misspelt and not misspelt.isdisjoint(text.lower().translate(_APART).split()):
            clean = False
        if clean:
            yield Sentence(source, text, continues)
        continues = clean


_APART = str.maketrans(dict.fromkeys('.,;:!?"()-\u2014', " "))
