"""Rows on their way into a classifier: what the encoder and what the decoder reads of each."""

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class ClassifiedRows:
    """Ragged rows.

    Attributes:
        sources: real tokens of each row.
        positions: theirs, or `None` where no mask has a hole.
        targets: what the decoder reads: the row shifted by one, up to the position that is
            classified.
    """

    sources: list[list[int]]
    positions: list[list[int]] | None
    targets: list[list[int]]

    def __len__(self) -> int:
        return len(self.sources)

    def part(self, start: int, end: int) -> "ClassifiedRows":
        """Some of the rows."""
        positions = None if self.positions is None else self.positions[start:end]
        return ClassifiedRows(self.sources[start:end], positions, self.targets[start:end])

    def arguments(self) -> tuple:
        """As the core takes them."""
        return self.sources, self.positions, self.targets


def rows_of_arrays(
    ids: np.ndarray,
    mask: np.ndarray,
    starts: tuple[int, ...],
    ends: tuple[int, ...],
    names: tuple[str, str],
) -> ClassifiedRows:
    """Rows of padded arrays; what is classified is the state at the last real end token, whatever
    their number. The decoder sees every position before it, as in transformers.

    Where the end token is not known, each row's last real token counts as one.

    Args:
        ids: int64 [batch, length], and `mask` bool of its shape.
        starts: the token that the decoder begins with, or none if it is not known.
        ends: the end token, or none.
        names: of the two arrays, for errors.
    """
    counted = mask & np.isin(ids, ends) if ends else mask
    empty = np.flatnonzero(~counted.any(axis=1))
    if empty.size:
        what = f"the end token, {ends[0]}" if ends else "a real token"
        raise ValueError(
            f"`{names[0]}` must have {what} in each row, where `{names[1]}` is True: a text is "
            f"classified by it. Received: row {empty[0]} without it."
        )
    last = ids.shape[1] - 1 - counted[:, ::-1].argmax(axis=1)
    targets = []
    for row, place in zip(ids, last, strict=True):
        start = starts[0] if starts else int(row[place])
        targets.append([start, *row[:place].tolist()])
    sources = [row[real].tolist() for row, real in zip(ids, mask, strict=True)]
    positions = [np.flatnonzero(real).tolist() for real in mask]
    return ClassifiedRows(sources, positions, targets)
