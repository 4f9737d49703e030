"""Health: what a check does to an endpoint's state.

The rules are the table `TRANSITIONS`; `judge` looks them up. An endpoint starts CHECKING, and one good check brings it
UP, as Envoy does it for a host's first check: a gateway that has just started must not wait `rise` intervals to serve.
One that was DOWN has more to prove: the first good check puts it on PROBATION, `rise` of them in a row bring it UP.
"""

from collections.abc import Mapping
from enum import Enum, auto
from random import Random
from typing import NamedTuple

from gateway.core.endpoint import Health


class Need(Enum):
    """How many like checks in a row a transition takes."""

    ONE = auto()
    RISE = auto()
    FALL = auto()


class Vitals(NamedTuple):
    """All that is remembered of an endpoint's checks."""

    health: Health = Health.CHECKING
    streak: int = 0  # good checks in a row; negative: bad ones


# (state, is the check good) -> transitions, the first whose need is met; none met, or none there: it stays.
TRANSITIONS: Mapping[tuple[Health, bool], tuple[tuple[Need, Health], ...]] = {
    (Health.CHECKING, True): ((Need.ONE, Health.UP),),
    (Health.CHECKING, False): ((Need.FALL, Health.DOWN),),
    (Health.UP, True): (),
    (Health.UP, False): ((Need.FALL, Health.DOWN),),
    (Health.DOWN, True): ((Need.RISE, Health.UP), (Need.ONE, Health.PROBATION)),
    (Health.DOWN, False): (),
    (Health.PROBATION, True): ((Need.RISE, Health.UP),),
    (Health.PROBATION, False): ((Need.ONE, Health.DOWN),),
    (Health.DRAINING, True): (),  # its end is the configuration's to say: `undrain`
    (Health.DRAINING, False): (),
}

QUICK = 0.1  # seconds: the shortest pause while in doubt
_HURRY = 5  # times as often while in doubt
_JITTER = 0.1  # of an interval, so that checks of many endpoints and gateways spread


def judge(vitals: Vitals, is_good: bool, rise: int, fall: int) -> Vitals:
    """After one more check."""
    streak = max(vitals.streak, 0) + 1 if is_good else min(vitals.streak, 0) - 1
    needed = {Need.ONE: 1, Need.RISE: rise, Need.FALL: fall}
    for need, health in TRANSITIONS[vitals.health, is_good]:
        if abs(streak) >= needed[need]:
            return Vitals(health, streak)
    return Vitals(vitals.health, streak)


def drain() -> Vitals:
    """Takes no new work from now on, whatever checks say."""
    return Vitals(Health.DRAINING)


def undrain() -> Vitals:
    """Back from draining: nobody has looked in the meantime."""
    return Vitals(Health.CHECKING)


def is_in_doubt(vitals: Vitals) -> bool:
    """The next check may decide something soon: it should come quickly."""
    if vitals.health is Health.UP:
        return vitals.streak < 0
    return vitals.health in (Health.CHECKING, Health.PROBATION)


def pause(vitals: Vitals, interval: float, rng: Random) -> float:
    """Seconds until the next check of an endpoint that is checked every `interval` seconds."""
    if is_in_doubt(vitals):
        interval = min(interval, max(interval / _HURRY, QUICK))
    return interval * rng.uniform(1.0 - _JITTER, 1.0 + _JITTER)
