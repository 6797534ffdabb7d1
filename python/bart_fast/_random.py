"""Where seeds come from when the caller gives none."""

import os
from typing import Any

from bart_fast._validation import check_seed

# A `random.Random` once `set_random_seed` was called; till then nobody needs to import that module.
_source: Any = None


def set_random_seed(seed: int) -> None:
    """Makes everything that was given no seed of its own repeatable from here on.

    New random weights, the order of training samples, dropout and samplers built without `seed`
    take their seeds from one source; this starts that source at `seed`.

    Args:
        seed: int, 0 or more.

    Raises:
        ValueError: `seed` is not a non-negative integer below 2**63.
    """
    from random import Random

    global _source
    _source = Random(check_seed("seed", seed))


def draw_seed() -> int:
    """A seed below 2**63 from the operating system, or from `set_random_seed` once called."""
    if _source is None:
        return int.from_bytes(os.urandom(8), "little") >> 1
    return _source.getrandbits(63)


def state() -> list | None:
    """Where the source stands, for `set_state`; None where it is the operating system's."""
    if _source is None:
        return None
    version, words, following = _source.getstate()
    return [version, list(words), following]


def set_state(kept: list | None) -> None:
    """Puts the source where `state` found it."""
    from random import Random

    global _source
    if kept is not None:
        version, words, following = kept
        _source = Random()
        _source.setstate((version, tuple(words), following))
