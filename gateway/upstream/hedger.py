"""A second attempt beside the first, where the first takes longer than most (Dean, Barroso, "The tail at scale", 2013).

Only what may be acted upon twice is hedged, and only within a budget. Whose head comes first answers; the other is
cancelled at once.
"""

import asyncio
from math import inf
from time import monotonic
from typing import Any

from gateway.core.endpoint import Endpoint, Lease
from gateway.core.pool import Pool
from gateway.core.quantile import Quantile
from gateway.core.retry import Budget, RetryRules
from gateway.errors import GatewayError
from gateway.upstream.call import Call
from gateway.upstream.gate import Gates, Hold, PickOf
from gateway.upstream.race import Race
from gateway.upstream.watch import Watch


class Hedging:
    """What a route has learnt; it outlives snapshots."""

    __slots__ = ("budget", "times")

    def __init__(self, budget: Budget) -> None:
        self.budget = budget
        self.times: dict[str, Quantile] = {}  # to the first byte, by version


class Hedger:
    """One for each route that hedges."""

    def __init__(self, hedging: Hedging, rules: RetryRules, share: float, gates: Gates | None, pick: PickOf) -> None:
        """`share` of the requests have their first byte before a second attempt is made."""
        self.hedging = hedging
        self.rules = rules
        self.share = share
        self.gates = gates
        self.pick = pick

    def may_hedge(self, call: Call) -> bool:
        return call.is_whole and self.rules.is_safe(call.scope["method"], call.exchange.fields)

    async def attempt(self, call: Call, pool: Pool, key: Any, endpoint: Endpoint) -> None:
        """As `Call.attempt`, with another one beside it if it takes long. Raises what the first one failed by."""
        hedging = self.hedging
        hedging.budget.requests += 1
        times = hedging.times.setdefault(pool.version, Quantile())
        race = call.race = Race(call.exchange, times)
        loop = asyncio.get_running_loop()
        first = race.tasks[call] = loop.create_task(_attempt(call, pool, key, endpoint))
        try:
            patience = times.of(self.share)
            await asyncio.wait([first], timeout=patience if patience < inf else None)
            if not first.done() and race.winner is None:
                self._start_second(race, call, pool, key, endpoint)
            await self._settle(race)
        finally:
            for task in race.tasks.values():
                task.cancel()
            await asyncio.wait(race.tasks.values())
            for task in race.tasks.values():  # what nobody waits for any more has been looked at
                if not task.cancelled():
                    task.exception()
            call.race = None

    def _start_second(self, race: Race, call: Call, pool: Pool, key: Any, endpoint: Endpoint) -> None:
        """If there is another endpoint, and a hedge left in the budget."""
        exchange = call.exchange
        tried = [*call.tried, endpoint]
        if not pool.candidates(tried) or not self.hedging.budget.take(monotonic()):
            return
        twin = Call(call.means, call.scope, call.receive, call.send, call.body, is_whole=True)
        twin.total, twin.is_hurried, twin.tried, twin.race = call.total, call.is_hurried, tried, race
        exchange.attempts += 1
        exchange.note().hedges += 1
        race.tasks[twin] = call.means.loop.create_task(self._second(twin, pool, key))

    async def _second(self, twin: Call, pool: Pool, key: Any) -> None:
        if self.gates is None:
            endpoint = self.pick(twin.exchange, key, twin.tried)
            hold: Lease | Hold = endpoint.lease()
        else:
            hold = self.gates.enter_now(twin, key, self.pick)
            endpoint = hold.endpoint
        with hold:
            try:
                await _attempt(twin, pool, key, endpoint)
            except GatewayError as error:
                pool.fail(endpoint, error, monotonic())
                raise

    async def _settle(self, race: Race) -> None:
        """Until one has answered, or all have failed."""
        pending = set(race.tasks.values())
        while pending and race.winner is None:
            _, pending = await asyncio.wait(pending, return_when=asyncio.FIRST_COMPLETED)
        if race.winner is not None:
            if race.winner is not next(iter(race.tasks)):
                race.exchange.note().hedges_won += 1
            await race.tasks[race.winner]
            return
        first = next(iter(race.tasks.values()))
        first.result()

    def __repr__(self) -> str:
        return f"<Hedger beyond {self.share:.0%} {self.hedging.budget!r} {self.hedging.times}>"


async def _attempt(call: Call, pool: Pool, key: Any, endpoint: Endpoint) -> None:
    try:
        if not pool.watchers:
            await call.attempt(endpoint)
            return
        with Watch(pool.watchers, key, endpoint) as call.watch:
            await call.attempt(endpoint)
    except asyncio.CancelledError:
        if endpoint.standing.is_trying:  # the other one won: that says nothing of this one
            endpoint.standing.abandon()
        raise
