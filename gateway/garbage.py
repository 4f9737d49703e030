"""The collector of garbage, held back while much is made at one time."""

import gc
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def uncollected() -> Iterator[None]:
    """Hundreds of thousands of young objects, none of them garbage: looking for it takes up to half of the time. May be
    nested, and may overlap in threads or tasks: the one that found it on turns it on again."""
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


def settle() -> None:
    """What is loaded by now stays to the end: the collector need not look at it again, and what comes and goes need not
    be looked at every 700 objects (Python's default), as it holds no cycles that matter."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000, 20, 50)
