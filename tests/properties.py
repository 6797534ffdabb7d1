"""How property tests run: the same examples every time, and many others where that is asked for."""

import os

from hypothesis import HealthCheck, settings

# `BART_FAST_EXAMPLES=50` tries 50 times as many examples, new ones each time.
_TIMES = int(os.environ.get("BART_FAST_EXAMPLES", "0"))


def examples(count):
    """Settings of hypothesis for a test of so many examples. A hang is the timeout of pytest."""
    return settings(
        max_examples=count * max(1, _TIMES),
        derandomize=not _TIMES,
        database=None,
        deadline=None,
        print_blob=True,
        suppress_health_check=[
            HealthCheck.too_slow,
            HealthCheck.filter_too_much,
            HealthCheck.function_scoped_fixture,
        ],
    )
