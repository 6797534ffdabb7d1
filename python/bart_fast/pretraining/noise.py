"""The five kinds of noise of BART (Lewis et al., 2019, section 2.2), each a function of its own.

A unit is a list of token ids that stay together: a word, or one token. `rng` is a
`numpy.random.Generator`, and each function draws from nothing else.
"""

import math
import re
from itertools import chain

import numpy as np

Units = list[list[int]]

# A sentence ends at a stop, with what closes behind it, before white space.
_SENTENCE_END = re.compile("(?<=[.!?])[\"'\u201d\u2019)\\]]*(\\s+)")


def infill(units: Units, share: float, length: float, mask: int, rng: np.random.Generator) -> Units:
    """Text infilling: spans of units, each replaced by one mask.

    Span lengths are drawn from a Poisson distribution of the mean `length` until they cover `share`
    of the units, rounded up, and the last is cut to cover no more. Spans do not overlap; every
    arrangement of them among the other units is as likely. A span of length 0 is a mask between two
    units, or at an end.
    """
    budget = math.ceil(share * len(units))
    spans: list[int] = []
    while budget > 0:
        spans.append(min(int(rng.poisson(length)), budget))
        budget -= spans[-1]
    # The spans and the units that stay, in a row of places.
    places = len(units) - sum(spans) + len(spans)
    is_span = np.zeros(places, bool)
    is_span[rng.choice(places, len(spans), replace=False)] = True
    order = rng.permutation(len(spans))
    noisy, at, used = [], 0, 0
    for span in is_span:
        if span:
            noisy.append([mask])
            at += spans[order[used]]
            used += 1
        else:
            noisy.append(units[at])
            at += 1
    return noisy


def mask_tokens(ids: list[int], share: float, mask: int, rng: np.random.Generator) -> list[int]:
    """Token masking: `share` of the tokens, rounded up, become masks."""
    chosen = set(_some(len(ids), share, rng))
    return [mask if index in chosen else token for index, token in enumerate(ids)]


def delete_tokens(ids: list[int], share: float, rng: np.random.Generator) -> list[int]:
    """Token deletion: `share` of the tokens, rounded up, are left out."""
    chosen = set(_some(len(ids), share, rng))
    return [token for index, token in enumerate(ids) if index not in chosen]


def permute_sentences(text: str, share: float, rng: np.random.Generator) -> str:
    """Sentence permutation: `share` of the sentences, rounded up, change places among themselves.

    White space between sentences stays where it is.
    """
    body = text.lstrip()
    ends = list(_SENTENCE_END.finditer(body))
    starts = [0, *(end.end() for end in ends)]
    stops = [*(end.start(1) for end in ends), len(body)]
    sentences = [body[start:stop] for start, stop in zip(starts, stops, strict=True)]
    spaces = [*(end[1] for end in ends), ""]
    if not sentences[-1]:  # White space at the end: no sentence follows it.
        sentences.pop()
        spaces.pop()
    chosen = _some(len(sentences), share, rng)
    permuted = list(sentences)
    for place, source in zip(chosen, rng.permutation(chosen), strict=True):
        permuted[place] = sentences[source]
    lead = text[: len(text) - len(body)]
    return lead + "".join(chain.from_iterable(zip(permuted, spaces, strict=True)))


def rotate(ids: list[int], rng: np.random.Generator) -> list[int]:
    """Document rotation: the text begins with a token drawn at random; what was before follows."""
    if not ids:
        return ids
    first = int(rng.integers(len(ids)))
    return ids[first:] + ids[:first]


def _some(count: int, share: float, rng: np.random.Generator) -> list[int]:
    """Numbers below `count`, ascending: `share` of them, rounded up."""
    return (
        sorted(rng.choice(count, math.ceil(share * count), replace=False).tolist()) if count else []
    )
