"""The gate of a pool that takes only so many requests at one time; the others wait in a line, for a while.

Counts are the leases of the zone, so that they are exact over all workers and die with the worker that held them. A
worker is woken by what ends in itself at once, and looks every few milliseconds for what ended in another. Turns and
priorities are each worker's own.
"""

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from math import ceil
from time import monotonic
from types import TracebackType
from typing import Any, Protocol

from starlette.types import Scope

from gateway.core.endpoint import Endpoint, Lease
from gateway.core.gradient import Gradients
from gateway.core.inference import Inference
from gateway.core.line import Line, Waiter
from gateway.core.pool import Pool
from gateway.errors import DeadlineExceeded, GatewayError, NoEndpoint, QueueFull, QueueTimeout, TooManyRequests
from gateway.model import Exchange
from gateway.upstream.call import Call

_LOOK = 0.01  # seconds between looks for room that another worker made
_AGAIN = 1.0  # seconds: the Retry-After of a refusal whose wait nobody can tell

PickOf = Callable[[Exchange, Any, list[Endpoint]], Endpoint]


class Leases(Protocol):
    """Requests in flight, counted over all workers (`stores/leases.py`)."""

    def place(self, key: str) -> Any: ...
    def acquire(self, place: Any, limit: int) -> bool: ...
    def release(self, place: Any) -> None: ...


@dataclass(frozen=True, slots=True)
class Bounds:
    """How many at one time; 0: any number. `length` and `timeout`: how many may wait, and for how many seconds."""

    endpoint: int
    version: int
    principal: int
    length: int
    timeout: float
    pending: int | None = None  # tokens of prompts before each endpoint beyond which it is sent no other; None: any


class Full(GatewayError):
    """Inside this module: there is no room now. `is_own`: not for this caller, for others perhaps."""

    def __init__(self, *, is_own: bool) -> None:
        super().__init__()
        self.is_own = is_own


class Hold:
    """Room for one attempt at one endpoint; a context manager around it, as `Lease` is where there is no gate."""

    __slots__ = ("endpoint", "gate", "lease", "places")

    def __init__(self, gate: "Gate", endpoint: Endpoint, places: list[Any]) -> None:
        self.gate = gate
        self.endpoint = endpoint
        self.places = places
        self.lease: Lease = endpoint.lease()
        self.lease.__enter__()  # not when the waiter wakes: until then another would be counted in its place

    def __enter__(self) -> Endpoint:
        return self.endpoint

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self.release()

    def release(self) -> None:
        self.lease.__exit__(None, None, None)
        self.gate.give_back(self.places)


class Gate:
    """One for each pool that has bounds."""

    def __init__(self, pool: Pool, bounds: Bounds, leases: Leases, gradients: Gradients | None = None) -> None:
        """`gradients`: the endpoints' bounds are found out as well."""
        self.leases = leases
        self.line = Line()
        self.loop = asyncio.get_running_loop()
        self.look: asyncio.TimerHandle | None = None
        self.just: set[Endpoint] = set()  # that the line has just sent a prompt to, not counted there yet
        self.renew(pool, bounds, gradients)

    def renew(self, pool: Pool, bounds: Bounds, gradients: Gradients | None) -> None:
        """After a reload. Those who wait, wait on."""
        self.pool = pool
        self.bounds = bounds
        self.gradients = gradients
        whole, place = f"{pool.model}@{pool.version}", self.leases.place
        self.version_place = place(f"version/{whole}") if bounds.version else None
        self.line_place = place(f"line/{whole}")
        self.endpoint_places = {e: place(f"endpoint/{e.url}") for e in pool.endpoints} if bounds.endpoint else {}

    async def enter(self, call: Call, key: Any, rank: int, pick: PickOf) -> Hold:
        """Room for an attempt of `call`, as soon as there is any. Raises QueueFull, QueueTimeout, TooManyRequests (the
        caller's own bound), DeadlineExceeded, NoEndpoint."""
        now = monotonic()
        waiter = Waiter(rank, call.exchange.principal.id, now, min(now + self.bounds.timeout, call.total))
        full = Full(is_own=False)
        if not self.line:  # nobody is passed by
            try:
                return self._admit(call, key, pick)
            except Full as error:
                full = error
        self._make_place(waiter, full)
        future: asyncio.Future[Hold] = self.loop.create_future()
        waiter.what = (call, key, pick, future)
        self.line.add(waiter)
        self._look_later()
        try:
            return await future
        except asyncio.CancelledError:
            if future.done() and not future.cancelled() and future.exception() is None:
                future.result().release()
            raise
        finally:
            self.line.remove(waiter)
            if waiter.has_place:
                self.leases.release(self.line_place)
            call.exchange.note().queued += monotonic() - now

    def enter_now(self, call: Call, key: Any, pick: PickOf) -> Hold:
        """Room for an attempt if there is any at once. Raises GatewayError."""
        if self.line:
            raise Full(is_own=False)
        return self._admit(call, key, pick)

    # --- room ---

    def _admit(self, call: Call, key: Any, pick: PickOf) -> Hold:
        """Raises Full, NoEndpoint."""
        bounds, pool = self.bounds, call.exchange.pool
        held: list[Any] = []
        if pool is None or not pool.candidates(call.tried, monotonic()):
            pick(call.exchange, key, call.tried)  # a session's endpoint, or NoEndpoint: nothing to wait for
        try:
            if bounds.principal:
                held.append(self._take(self._principal_place(call.exchange), bounds.principal, is_own=True))
            if self.version_place is not None:
                held.append(self._take(self.version_place, bounds.version))
            endpoint = self._choose(call, key, pick, held)
        except GatewayError:
            for place in held:
                self.leases.release(place)
            raise
        return Hold(self, endpoint, held)

    def _choose(self, call: Call, key: Any, pick: PickOf, held: list[Any]) -> Endpoint:
        """What the pool's policy picks among those that have room; the room is `held` then."""
        tried = list(call.tried)
        if self.gradients is not None:
            tried += [each for each in self.pool.endpoints if not self.gradients.has_room(each)]
        if self.bounds.pending is not None and isinstance(key, Inference):
            tried += [each for each in self.pool.endpoints if each in self.just or not self._is_due(each)]
        while True:
            try:
                endpoint = pick(call.exchange, key, tried)
            except NoEndpoint:
                raise Full(is_own=False) from None
            place = self.endpoint_places.get(endpoint)
            if place is None:
                return endpoint
            if self.leases.acquire(place, self.bounds.endpoint):
                held.append(place)
                return endpoint
            if endpoint.standing.is_trying:  # and nothing is sent there
                endpoint.standing.abandon()
            tried.append(endpoint)

    def _is_due(self, endpoint: Endpoint) -> bool:
        """Late binding: a prompt is sent on when an endpoint is about to run out of others, and so to that which truly
        is the first to do so."""
        work = endpoint.work
        work.refresh()
        return work.pending <= (self.bounds.pending or 0)

    def _take(self, place: Any, bound: int, *, is_own: bool = False) -> Any:
        if not self.leases.acquire(place, bound):
            raise Full(is_own=is_own)
        return place

    def _principal_place(self, exchange: Exchange) -> Any:
        return self.leases.place(f"principal/{self.pool.model}/{exchange.principal.id}")

    def give_back(self, places: list[Any]) -> None:
        for place in places:
            self.leases.release(place)
        if self.line:
            self._serve()

    # --- the line ---

    def _make_place(self, waiter: Waiter, full: Full) -> None:
        """A place in the line for one that comes, or the reason why there is none."""
        wait = self.line.wait(waiter.rank, waiter.owner)
        if waiter.since + wait > waiter.until:
            raise self._refusal(QueueFull, "The wait for this model is longer than this request has time.", wait)
        if self.leases.acquire(self.line_place, self.bounds.length):
            return
        worst = self.line.worst(waiter.rank)
        if worst is None or not self.bounds.length:
            if full.is_own:
                raise TooManyRequests("Too many requests at one time.", headers=[_retry_after(wait)])
            raise self._refusal(QueueFull, None, wait)
        worst.has_place = False  # the new one has it now
        self._end(worst, self._refusal(QueueFull, None, wait))

    def _serve(self) -> None:
        """Let go whoever may go, in their order; a caller that has its fill does not keep others from it."""
        barred: set[str] = set()
        while (waiter := self.line.next(barred)) is not None:
            call, key, pick, future = waiter.what
            if future.done():  # its client has left in this turn of the loop: it has not woken, and takes nothing
                self.line.remove(waiter)
                continue
            try:
                hold = self._admit(call, key, pick)
            except Full as full:
                if not full.is_own:
                    return
                barred.add(waiter.owner)
            except GatewayError as error:
                self._end(waiter, error)
            else:
                self.line.serve(waiter, monotonic())
                future.set_result(hold)
                if self.bounds.pending is not None:
                    self._settle(hold.endpoint)

    def _settle(self, endpoint: Endpoint) -> None:
        """Its prompt counts when the one that waited has woken: before that, the endpoint takes no other."""
        if not self.just:
            self.loop.call_soon(self._on_settled)  # behind the wakening
        self.just.add(endpoint)

    def _on_settled(self) -> None:
        self.just.clear()
        self._serve()

    def _look_later(self) -> None:
        if self.look is None:
            self.look = self.loop.call_later(_LOOK, self._on_look)

    def _on_look(self) -> None:
        self.look = None
        self._serve()
        now = monotonic()
        for waiter in self.line.overdue(now):
            self._end(waiter, self._too_late(waiter, now))
        if self.line:
            self._look_later()

    def _too_late(self, waiter: Waiter, now: float) -> GatewayError:
        call: Call = waiter.what[0]
        if call.is_hurried and now >= call.total:
            return DeadlineExceeded()
        try:
            self._take_one_of_own(call.exchange)
        except Full:
            return TooManyRequests("Too many requests at one time.", headers=[_retry_after(0.0)])
        return self._refusal(QueueTimeout, None, self.line.wait(waiter.rank, waiter.owner))

    def _take_one_of_own(self, exchange: Exchange) -> None:
        """Raises Full if the caller itself has as many as it may."""
        if self.bounds.principal:
            self.leases.release(self._take(self._principal_place(exchange), self.bounds.principal, is_own=True))

    def _end(self, waiter: Waiter, error: GatewayError) -> None:
        self.line.remove(waiter)
        future: asyncio.Future[Hold] = waiter.what[3]
        if not future.done():
            future.set_exception(error)

    def _refusal(self, kind: type[GatewayError], message: str | None, wait: float) -> GatewayError:
        return kind(message, headers=[_retry_after(wait)])

    def __repr__(self) -> str:
        return f"<Gate of {self.pool.model}@{self.pool.version} {self.bounds} {self.line!r}>"


class Gates:
    """The gates of a route's pools, and how important a request is at them."""

    def __init__(self, gates: Mapping[str, Gate], rank_of: Callable[[Scope, Exchange], int]) -> None:
        """`gates` by version."""
        self.gates = gates
        self.rank_of = rank_of

    async def enter(self, call: Call, key: Any, pick: PickOf) -> Hold:
        """See `Gate.enter`."""
        exchange = call.exchange
        assert exchange.pool is not None, "split comes first"
        return await self.gates[exchange.pool.version].enter(call, key, self.rank_of(call.scope, exchange), pick)

    def enter_now(self, call: Call, key: Any, pick: PickOf) -> Hold:
        """See `Gate.enter_now`."""
        assert call.exchange.pool is not None, "split comes first"
        return self.gates[call.exchange.pool.version].enter_now(call, key, pick)

    def __repr__(self) -> str:
        return f"<Gates {list(self.gates.values())}>"


def _retry_after(wait: float) -> tuple[bytes, bytes]:
    return b"retry-after", b"%d" % max(1, ceil(wait or _AGAIN))
