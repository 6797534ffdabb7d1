"""Where seeds come from when the caller gives none."""

import random

from bart_fast._validation import check_seed

_source: random.Random = random.SystemRandom()


def set_random_seed(seed: int) -> None:
    """Makes everything that was given no seed of its own repeatable from here on.

    New random weights, the order of training samples, dropout and samplers built without `seed`
    take their seeds from one source; this starts that source at `seed`.

    Args:
        seed: int, 0 or more.

    Raises:
        ValueError: `seed` is not a non-negative integer below 2**63.
    """
    global _source
    _source = random.Random(check_seed("seed", seed))


def draw_seed() -> int:
    """A seed below 2**63 from the operating system, or from `set_random_seed` once called."""
    return _source.getrandbits(63)
