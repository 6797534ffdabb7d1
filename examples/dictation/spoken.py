"""Written English as a speaker says it: numbers in words, no marks, no capitals.

`spoken("It cost $1.50 on May 3, 1997.")` is "it cost one dollar fifty on may third nineteen ninety
seven". What a voice would not say in one plain way (codes, formulas, addresses) gives None.
"""

from __future__ import annotations

import random
import re

_ONES = [
    "zero",
    "one",
    "two",
    "three",
    "four",
    "five",
    "six",
    "seven",
    "eight",
    "nine",
    "ten",
    "eleven",
    "twelve",
    "thirteen",
    "fourteen",
    "fifteen",
    "sixteen",
    "seventeen",
    "eighteen",
    "nineteen",
]
_TENS = ["twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety"]
_SCALES = ((10**9, "billion"), (10**6, "million"), (1000, "thousand"), (100, "hundred"))
_ORDINALS = {
    "one": "first", "two": "second", "three": "third", "five": "fifth", "eight": "eighth",
    "nine": "ninth", "twelve": "twelfth",
}  # fmt: skip
_MONTHS = [
    "january",
    "february",
    "march",
    "april",
    "may",
    "june",
    "july",
    "august",
    "september",
    "october",
    "november",
    "december",
]
_CURRENCIES = {"$": ("dollar", "dollars"), "£": ("pound", "pounds"), "€": ("euro", "euros")}
_COINS = {"$": ("cent", "cents"), "£": ("penny", "pence"), "€": ("cent", "cents")}

_NUMBER = re.compile(
    r"(?P<time>\d{1,2}:\d\d)(?!\d)"
    r"|(?P<sign>[$£€])(?P<money>\d[\d,]*(?:\.\d+)?)(?P<scale> (?:million|billion|trillion))?"
    r"|(?P<ordinal>\d+)(?:st|nd|rd|th)\b"
    r"|(?P<decade>1\d|20)(?P<tens>\d)0s\b"
    r"|(?P<percent>\d+(?:\.\d+)?)%"
    r"|(?P<decimal>\d+\.\d+)"
    r"|(?P<whole>\d{1,3}(?:,\d{3})+|\d+)"
)
# What stands around a number that is said plainly.
_BEFORE = re.compile(r"(?:^|[\s(\"'-])$")
_AFTER = re.compile(r"^(?:$|[\s.,;:?!)\"'-])")


def cardinal(number: int) -> str:
    """A whole number below a trillion in words."""
    if number < 20:
        return _ONES[number]
    for size, name in _SCALES:
        if number >= size:
            rest = f" {cardinal(number % size)}" if number % size else ""
            return f"{cardinal(number // size)} {name}{rest}"
    rest = f" {_ONES[number % 10]}" if number % 10 else ""
    return _TENS[number // 10 - 2] + rest


def ordinal(number: int) -> str:
    """A place in words: "twenty first"."""
    head, _, last = cardinal(number).rpartition(" ")
    last = _ORDINALS.get(last) or (last[:-1] + "ieth" if last.endswith("y") else last + "th")
    return f"{head} {last}".strip()


def year(number: int) -> str:
    """A year in words: "nineteen oh five"."""
    century, rest = divmod(number, 100)
    if 2000 <= number < 2010 or (rest == 0 and century % 10 == 0):
        return cardinal(number)
    if rest == 0:
        return f"{cardinal(century)} hundred"
    return f"{cardinal(century)} {'oh ' if rest < 10 else ''}{cardinal(rest)}"


def _money(amount: str, sign: str, scale: str | None) -> str | None:
    one, many = _CURRENCIES[sign]
    whole, _, cents = amount.replace(",", "").partition(".")
    if scale:
        tail = f" point {_digits(cents)}" if cents else ""
        return f"{cardinal(int(whole))}{tail}{scale} {many}"
    if len(cents) not in (0, 2):
        return None
    if int(whole) == 0 and int(cents or 0):
        coins = _COINS[sign][int(cents) != 1]
        return f"{cardinal(int(cents))} {coins}"
    words = f"{cardinal(int(whole))} {one if int(whole) == 1 else many}"
    return words if not int(cents or 0) else f"{words} {cardinal(int(cents))}"


def _digits(digits: str) -> str:
    return " ".join(_ONES[int(digit)] for digit in digits)


def _decimal(number: str) -> str:
    whole, _, fraction = number.partition(".")
    return cardinal(int(whole)) + (f" point {_digits(fraction)}" if fraction else "")


def _in_words(match: re.Match, before: str) -> str | None:
    """How a number is said, or None if it is too long to be said plainly."""
    part = match.groupdict()
    if part["time"]:
        hours, minutes = map(int, part["time"].split(":"))
        tail = "" if minutes == 0 else f" {'oh ' if minutes < 10 else ''}{cardinal(minutes)}"
        return cardinal(hours) + tail
    if part["money"]:
        return _money(part["money"], part["sign"], part["scale"])
    if part["ordinal"]:
        return ordinal(int(part["ordinal"]))
    if part["decade"]:
        tens = {"0": "hundreds", "1": "tens"}.get(part["tens"])
        return f"{cardinal(int(part['decade']))} " + (
            tens or _TENS[int(part["tens"]) - 2][:-1] + "ies"
        )
    if part["percent"]:
        return _decimal(part["percent"]) + " percent"
    if part["decimal"]:
        return _decimal(part["decimal"])
    number = int(part["whole"].replace(",", ""))
    after_month = before.rstrip().lower().rpartition(" ")[2].strip("(\"'") in _MONTHS
    if after_month and 1 <= number <= 31:
        return ordinal(number)
    if len(part["whole"]) == 4 and 1100 <= number < 2100:
        return year(number)
    if number >= 10**12 or part["whole"][0] == "0" != part["whole"]:
        return None
    return cardinal(number)


def spoken(text: str) -> str | None:
    """What a speaker says of `text`, or None where that is not plain."""
    text = re.sub(r"(?<=\d)-(?=\d)", " to ", text)
    words, end = [], 0
    for match in _NUMBER.finditer(text):
        before, after = text[: match.start()], text[match.end() :]
        said = _in_words(match, before)
        if said is None or not _BEFORE.search(before) or not _AFTER.search(after):
            return None
        words += [text[end : match.start()], said]
        end = match.end()
    said = "".join([*words, text[end:]]).lower().replace("%", " percent").replace("&", " and ")
    said = " ".join(re.sub(r"[^a-z'\s]", " ", said.replace("\u2019", "'")).split())
    return re.sub(r"(?<![a-z])'|'(?![a-z])", "", said)


def with_other_numbers(text: str, rng: random.Random) -> str:
    """`text` with its numbers drawn anew, each of the same kind and of about the same length: a
    model that sees the same sentence twice learns how numbers are written, and not these."""

    def other(match: re.Match) -> str:
        found = match[0]
        if match["time"]:
            return f"{rng.randint(1, 12)}:{rng.randrange(0, 60, 5):02d}"
        if match["ordinal"] or match["decade"]:
            return found
        if re.fullmatch(r"1\d{3}|20\d\d", found):
            return str(rng.randint(1700, 2035))
        # Zeros stay: round numbers are round.
        return re.sub(r"[1-9]", lambda _: str(rng.randint(1, 9)), found)

    return _NUMBER.sub(other, text)
