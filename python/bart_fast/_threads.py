"""How many threads compute."""

from bart_fast import _core
from bart_fast._validation import argument_error, check_positive_int

_MOST_THREADS = 1024


def set_num_threads(n: int) -> None:
    """Sets how many threads compute, from now on. Results do not depend on it.

    The default is the environment variable `BART_FAST_NUM_THREADS`, else every core that this
    process may use.

    Args:
        n: int, 1 to 1024.

    Raises:
        ValueError: `n` is no whole number in this range.
    """
    if check_positive_int("n", n) > _MOST_THREADS:
        raise argument_error("n", f"must be at most {_MOST_THREADS}", n)
    _core.set_num_threads(int(n))


def get_num_threads() -> int:
    """How many threads compute."""
    return _core.get_num_threads()
