"""What traffic itself may do to an endpoint, in routes.yaml."""

from math import inf
from typing import Protocol, Self

from pydantic import model_validator

from gateway.config.shape import Strict, setting
from gateway.config.values import Positive
from gateway.core.ejection import Rules
from gateway.core.pick import KEYED, PROMPTED


class EjectionSettings(Strict):
    """Leave an endpoint out because requests fail there: a status of 500 or above (but 501 and 505), no answer, or one
    that breaks off. From the first failure on others are preferred. When its time is over, one request tries it."""

    failures: int | None = setting(5, "Failures in a row, over all workers, that leave it out; null: any number.", ge=1)
    success_rate: float | None = setting(
        1.9,
        "Standard deviations below the mean success rate that do; of five endpoints or more. null: any.",
        gt=0,
    )
    latency: float | None = setting(
        10,
        "Times the pool's median time to the first byte that do; of three endpoints or more. null: any. Not with "
        "policies that read prompts: who gets the long ones is no outlier.",
        gt=1,
    )
    interval: Positive = setting("10s", "How often success rates and latencies are compared.")
    volume: int = setting(100, "Requests an endpoint must have had in that time to be compared.", ge=1)
    time: Positive = setting("30s", "How long it is left out; the second time in a row twice this, and so on.")
    max_time: Positive = setting("5m", "How long at most.")
    max_share: float = setting(0.5, "Of a pool's endpoints that may be left out at one time.", ge=0, le=1)

    @model_validator(mode="after")
    def _is_in_order(self) -> Self:
        if self.max_time < self.time:
            raise ValueError("`max_time` is less than `time`")
        return self


class BreakerSettings(Strict):
    """Answer 503 at once while no endpoint of a version answers; then let one request try."""

    failures: int = setting(
        20,
        "In a row, over all endpoints, to which nothing answered: no connection, not in time, 502 to 504.",
        ge=1,
    )
    time: Positive = setting("5s", "How long nothing is tried; the second time in a row twice this, and so on.")
    max_time: Positive = setting("30s", "How long at most.")

    @model_validator(mode="after")
    def _is_in_order(self) -> Self:
        if self.max_time < self.time:
            raise ValueError("`max_time` is less than `time`")
        return self


class Balance(Protocol):
    """What `rules_of` reads of `balance:`."""

    @property
    def policy(self) -> str: ...
    @property
    def panic(self) -> float: ...
    @property
    def slow_start(self) -> float: ...


def rules_of(balance: Balance, ejection: EjectionSettings | None, breaker: BreakerSettings | None) -> Rules:
    """What traffic may do to who is asked."""
    rules = Rules(panic=balance.panic, slow_start=balance.slow_start, is_keyed=balance.policy in KEYED)
    if ejection is None:
        rules = rules._replace(failures=inf, sigmas=inf, slowness=inf, is_shy=False)
    else:
        rules = rules._replace(
            failures=ejection.failures or inf,
            sigmas=ejection.success_rate or inf,
            slowness=ejection.latency or inf,
            volume=ejection.volume,
            interval=ejection.interval,
            seconds=ejection.time,
            longest=ejection.max_time,
            share=ejection.max_share,
        )
    if balance.policy in PROMPTED:
        rules = rules._replace(slowness=inf)  # it learns who is slow, and who gets the long prompts is no outlier
    if breaker is None:
        return rules._replace(cut_failures=inf)
    return rules._replace(cut_failures=breaker.failures, cut_seconds=breaker.time, cut_longest=breaker.max_time)
