"""Words of one text beside the words of another, by edit distance."""

from __future__ import annotations

from collections.abc import Sequence


def align(hypothesis: Sequence[str], reference: Sequence[str]) -> tuple[int, list[int]]:
    """Align two word lists by edit distance (Levenshtein, all edits cost 1).

    Returns the distance and, for each reference word, the index of the hypothesis word that stands
    in its place (equal or substituted), or -1 where it was left out. Among the cheapest alignments
    one with the most equal words is taken.
    """
    rows, columns = len(hypothesis), len(reference)
    # A cell is the pair (distance, -equal words), so that the smaller of two is the better one.
    table = [[(j, 0) for j in range(columns + 1)]]
    for i in range(1, rows + 1):
        above, row, word = table[-1], [(i, 0)], hypothesis[i - 1]
        for j in range(1, columns + 1):
            distance, equal = above[j - 1]
            best = (distance, equal - 1) if word == reference[j - 1] else (distance + 1, equal)
            best = min(best, (above[j][0] + 1, above[j][1]), (row[-1][0] + 1, row[-1][1]))
            row.append(best)
        table.append(row)
    return table[rows][columns][0], _walk_back(table, hypothesis, reference)


def _walk_back(table, hypothesis: Sequence[str], reference: Sequence[str]) -> list[int]:
    i, j = len(hypothesis), len(reference)
    places = [-1] * j
    while i and j:
        here, (distance, equal) = table[i][j], table[i - 1][j - 1]
        same = hypothesis[i - 1] == reference[j - 1]
        if here == ((distance, equal - 1) if same else (distance + 1, equal)):
            i, j = i - 1, j - 1
            places[j] = i
        elif here == (table[i - 1][j][0] + 1, table[i - 1][j][1]):
            i -= 1
        else:
            j -= 1
    return places
