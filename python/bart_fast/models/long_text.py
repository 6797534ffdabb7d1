"""Text that is longer than the model reads: cut into windows that overlap, answers joined again.

A window holds whole sentences and begins some tokens before the end of the one before, so that both
answers have the text around the place where they are joined. The lengths of windows are counted in
tokens, everything else in words: what stands between two stretches of white space.
"""

import re
from bisect import bisect_right
from collections.abc import Callable, Iterator, Sequence
from itertools import accumulate
from typing import NamedTuple

# The number of tokens of each string.
Measure = Callable[[list[str]], list[int]]

_WORD = re.compile(r"\S+")
# A sentence ends with a mark, after which quotation marks and brackets may close; and with a line.
_SENTENCE_END = re.compile("[.!?…][\"'\u201d\u2019\u00bb)\\]]*\\Z")


class Window(NamedTuple):
    """A part of a text.

    Attributes:
        text: what the model is given.
        words: the number of words in it.
        shared: how many of them, the first ones, are the last ones of the window before.
        space: what stands before it in the text if it shares no words: white space, or nothing
            where a word was cut.
    """

    text: str
    words: int
    shared: int
    space: str


def cut(text: str, measure: Measure, room: int, overlap: int) -> list[Window]:
    """The windows of `text`.

    A window ends where a sentence does (a mark . ! ? or … before white space, or the end of a
    line). A sentence of more than `room` tokens is cut between words, and a word between letters.

    Args:
        text: a text; white space at its ends is left out.
        measure: counts tokens.
        room: int, at least 1. The most tokens of a window.
        overlap: int, below `room`. A window begins about so many tokens before the end of the one
            before: where a sentence begins if one does between half and twice as many, else at a
            word. Fewer if the next sentence would not fit.

    Returns:
        One window or more; every word is in at least one.
    """
    target = room
    while True:
        pieces = _Pieces(text, measure, target)
        windows = [pieces.window(*span) for span in pieces.spans(overlap)]
        excess = max(measure([window.text for window in windows]), default=0) - room
        # Tokens of a whole can be more than those of its parts, if tokens hold white space.
        if excess <= 0 or target == 1:
            return windows
        target = max(1, target - excess)


class _Pieces:
    """A text as pieces: words, and parts of words that are longer than a window.

    Attributes, a list with an entry a piece each:
        begins, ends: its place in the text.
        bare: its tokens without the white space before it, as at the beginning of a window.
        inner: whether it goes on with the word before.
        total: the tokens of all pieces before it, white space included; one entry more.
        stops: numbers of the pieces that follow the end of a sentence; the last is the end.
    """

    def __init__(self, text: str, measure: Measure, room: int):
        self.text, self.room = text, room
        words = [found.span() for found in _WORD.finditer(text)]
        bare = measure([text[begin:end] for begin, end in words])
        places: list[tuple[int, int]] = []
        self.inner: list[bool] = []
        for (begin, end), size in zip(words, bare, strict=True):
            parts = [(begin, end)] if size <= room else _parts(text, begin, end, measure, room)
            places += parts
            self.inner += [False] + [True] * (len(parts) - 1)
        self.begins = [begin for begin, _ in places]
        self.ends = [end for _, end in places]
        before = [0, *self.ends][: len(places)]
        self.bare = measure([text[begin:end] for begin, end in places])
        spaced = measure([text[left:end] for left, end in zip(before, self.ends, strict=True)])
        self.total = [0, *accumulate(spaced)]
        self.stops = [
            place
            for place in range(1, len(places))
            if not self.inner[place] and self._ends_sentence(place)
        ] + [len(places)]

    def _ends_sentence(self, place: int) -> bool:
        """Whether a sentence ends before the piece `place`."""
        begin, end, following = self.begins[place - 1], self.ends[place - 1], self.begins[place]
        return bool(_SENTENCE_END.search(self.text[begin:end])) or _has_line_end(
            self.text[end:following]
        )

    def spans(self, overlap: int) -> list[tuple[int, int, int]]:
        """First piece, end, and end of the window before, for each window."""
        if not self.begins:
            return [(0, 0, 0)]
        found, start, end = [], 0, 0
        while True:
            before, end = end, self._end(start, end)
            found.append((start, end, before))
            if end == len(self.begins):
                return found
            start = self._next_start(start, end, overlap)

    def window(self, start: int, end: int, before: int) -> Window:
        """The window of the pieces from `start` to `end`; the one before ended at `before`."""
        if start == end:
            return Window("", 0, 0, "")
        space = self.text[self.ends[before - 1] : self.begins[start]] if start == before > 0 else ""
        text = self.text[self.begins[start] : self.ends[end - 1]]
        words = end - start - sum(self.inner[start + 1 : end])
        return Window(text, words, before - start - sum(self.inner[start:before]), space)

    def _size(self, start: int, end: int) -> int:
        return self.bare[start] + self.total[end] - self.total[start + 1]

    def _fitting(self, start: int) -> int:
        """The end of what fits into a window from `start`; one piece at least."""
        most = self.room - self.bare[start] + self.total[start + 1]
        return max(bisect_right(self.total, most) - 1, start + 1)

    def _end(self, start: int, before: int) -> int:
        """The end of the window from `start`, behind that of the one before."""
        fitting = self._fitting(start)
        if fitting == len(self.begins):
            return fitting
        at = bisect_right(self.stops, fitting)
        last, following = (self.stops[at - 1] if at else 0), self.stops[at]
        if last > before and self._size(last, following) <= self.room:
            return last
        # The next sentence has to be cut anyway.
        end = fitting
        while end > before + 1 and self.inner[end]:
            end -= 1
        return fitting if self.inner[end] else end

    def _next_start(self, start: int, end: int, overlap: int) -> int:
        """Where the window begins that follows the one from `start` to `end`."""
        if self.inner[end]:
            return end
        found = bisect_right(self.total, self.total[end] - overlap) - 1
        found = min(max(found, start + 1), end)
        sentences = [
            stop
            for stop in self.stops[bisect_right(self.stops, start) : bisect_right(self.stops, end)]
            if overlap <= 2 * self._tokens(stop, end) <= 4 * overlap
        ]
        if sentences:
            found = min(sentences, key=lambda stop: abs(self._tokens(stop, end) - overlap))
        following = self.stops[bisect_right(self.stops, end)]
        needed = following if self._size(end, following) <= self.room else end + 1
        while found < end and (self.inner[found] or self._fitting(found) < needed):
            found += 1
        return found

    def _tokens(self, start: int, end: int) -> int:
        return self.total[end] - self.total[start]


def _parts(text: str, begin: int, end: int, measure: Measure, room: int) -> list[tuple[int, int]]:
    """A long word in parts of at most `room` tokens, or of one letter."""
    if end - begin == 1 or measure([text[begin:end]])[0] <= room:
        return [(begin, end)]
    middle = (begin + end) // 2
    return _parts(text, begin, middle, measure, room) + _parts(text, middle, end, measure, room)


def _has_line_end(space: str) -> bool:
    return "\n" in space or "\r" in space


def join(windows: Sequence[Window], answers: Sequence[str]) -> str:
    """One text of the answers to the windows of one.

    Where two windows share words, the words of both answers there are aligned, and the text goes
    over from one to the other at the end of a sentence that both have, as near as possible to the
    middle; if they share none, where they agree best.

    Args:
        windows: what `cut()` returned.
        answers: the answer to each.

    Returns:
        The text, with the white space of the answers; where windows share nothing, with that
        between them.
    """
    if len(windows) == 1:
        return answers[0]
    left = _Answer(answers[0], windows[0])
    parts = []
    for window, answer in zip(windows[1:], answers[1:], strict=True):
        right = _Answer(answer, window)
        stop, right.used = _place(left, right, window.shared)
        parts.append((left.text_until(stop), _space(left, stop, right, window)))
        left = right
    parts.append((left.text_until(len(left)), ""))
    text = "".join(part + space if part else "" for part, space in parts)
    return text if parts[-1][0] else text.rstrip()


class _Answer:
    """The answer to a window, in words; the first `used` of them are left to the one before."""

    def __init__(self, text: str, window: Window):
        self.text = text
        self.spans = [found.span() for found in _WORD.finditer(text)]
        self.words = [text[begin:end] for begin, end in self.spans]
        self.window_words = window.words
        self.used = 0

    def __len__(self) -> int:
        return len(self.words)

    def share(self, shared: int) -> int:
        """How many words answer to `shared` words of the window, if all grew alike."""
        return min(len(self), round(shared * len(self) / max(1, self.window_words)))

    def text_until(self, stop: int) -> str:
        if stop <= self.used:
            return ""
        return self.text[self.spans[self.used][0] : self.spans[stop - 1][1]]

    def space_before(self, place: int) -> str:
        return self.text[self.spans[place - 1][1] : self.spans[place][0]]

    def ends_sentence(self, place: int) -> bool:
        """Whether a sentence ends before the word `place`."""
        if place == 0:
            return False
        after = self.space_before(place) if place < len(self) else ""
        return bool(_SENTENCE_END.search(self.words[place - 1])) or _has_line_end(after)


def _space(left: _Answer, stop: int, right: _Answer, window: Window) -> str:
    """The white space where `left` goes over to `right`, whose first words are left out."""
    if window.shared == 0:
        return window.space
    if 0 < right.used < len(right):
        return right.space_before(right.used)
    return left.space_before(stop) if 0 < stop < len(left) else " "


def _place(left: _Answer, right: _Answer, shared: int) -> tuple[int, int]:
    """Before which word `left` ends, and from which on `right` is taken."""
    first = len(left) - left.share(shared)
    end = right.share(shared)
    if first == len(left) or end == 0:
        return len(left), 0
    path = list(_alignment(left.words[first:], right.words[:end]))
    allowed = [
        (number, first + i, j) for number, (i, j, _) in enumerate(path) if first + i >= left.used
    ]

    def rank(point: tuple[int, int, int]) -> tuple[int, float]:
        number, i, j = point
        _, _, cost = path[number]
        # Words on both sides that are the same.
        follows = path[number + 1][2] if number + 1 < len(path) else None
        if left.ends_sentence(i) and (j == 0 or (cost is not None and right.ends_sentence(j))):
            kind = 0
        elif cost == _SAME:
            kind = 1 if follows == _SAME else 2
        else:
            kind = 3 if cost == _SAME_LETTERS else 4
        # Half a word to the right, since the answer that knows what comes before is the better one.
        return kind, abs(i - first + j - (len(left) - first + end) / 2 - 0.5)

    _, stop, start = min(allowed, key=rank)
    return stop, start


# What it costs to put words into one place, or to have a word in one answer only.
_SAME, _SAME_LETTERS, _OTHER, _GAP = 0, 1, 4, 3


def _alignment(left: list[str], right: list[str]) -> Iterator[tuple[int, int, int | None]]:
    """The cheapest way to put the words of two lists side by side (Needleman and Wunsch, 1970).

    Yields:
        How many words of each lie before a place, and what the two words before it cost that stand
        side by side; `None` for a word alone.
    """
    rows, columns = len(left), len(right)
    left_letters, right_letters = [_letters(w) for w in left], [_letters(w) for w in right]

    def cost(i: int, j: int) -> int:
        if left[i] == right[j]:
            return _SAME
        return _SAME_LETTERS if left_letters[i] == right_letters[j] else _OTHER

    # table[i][j]: the price of the words from i and j on.
    table = [[_GAP * (columns - j) for j in range(columns + 1)]]
    for i in reversed(range(rows)):
        below, row = table[-1], [_GAP * (rows - i)]
        for j in reversed(range(columns)):
            pair = below[j + 1] + cost(i, j)
            row.append(min(pair, below[j] + _GAP, row[-1] + _GAP))
        table.append(row[::-1])
    table.reverse()
    i = j = 0
    yield 0, 0, None
    while i < rows or j < columns:
        paid = None
        if i < rows and j < columns and table[i][j] == table[i + 1][j + 1] + cost(i, j):
            paid = cost(i, j)
            i, j = i + 1, j + 1
        elif i < rows and table[i][j] == table[i + 1][j] + _GAP:
            i += 1
        else:
            j += 1
        yield i, j, paid


def _letters(word: str) -> str:
    return "".join(letter for letter in word.casefold() if letter.isalnum()) or word
