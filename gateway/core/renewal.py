"""When a certificate is renewed, and when a failed attempt is tried again."""

from random import Random
from typing import NamedTuple

_FIRST_PAUSE = 300.0  # seconds; doubled, it makes 4 attempts in the first hour, where Let's Encrypt bears 5 failures
_LONGEST_PAUSE = 6 * 3600.0
_SPREAD = 0.2  # of a pause
ASK_AGAIN = 6 * 3600  # seconds until a CA that does not say when is asked for its wish once more (RFC 9773, 4.3.3)


class Suggestion(NamedTuple):
    """When a CA would have a certificate renewed (RFC 9773, 4.2): between `start` and `end`, seconds since 1970, both
    0.0 if it has no wish. It may be asked again after `ask_again` seconds."""

    start: float
    end: float
    ask_again: float
    explanation: str = ""  # a URL


def renew_at(not_before: float, not_after: float, luck: float, suggestion: Suggestion | None = None) -> float:
    """The time (seconds since 1970) at which a third of the lifetime is left, which is what Let's Encrypt asks for.

    Up to a tenth of that third later, as `luck` (0 to 1) has it, so that many gateways do not ask at once. A CA's own
    suggestion wins, so long as it leaves a tenth of the lifetime for attempts that fail.
    """
    third = (not_after - not_before) / 3
    if suggestion is not None and suggestion.start:
        within = suggestion.start + max(suggestion.end - suggestion.start, 0.0) * luck
        return min(within, not_after - third * 0.3)
    return not_after - third + third * 0.1 * luck


def pause_after(failures: int, rng: Random) -> float:
    """Seconds from the last of so many failures in a row (from 1) to the next attempt."""
    pause = min(_FIRST_PAUSE * 2.0 ** min(failures - 1, 16), _LONGEST_PAUSE)
    return pause * (1 - _SPREAD + 2 * _SPREAD * rng.random())
