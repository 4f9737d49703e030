"""Limits of requests at one time."""

import asyncio
import logging
import mmap
import os
from collections.abc import Iterator
from typing import Any

import pytest

from gateway.config.settings import LimitSettings
from gateway.edge.in_flight import InFlight
from gateway.edge.throttle import Throttle
from gateway.errors import NoEndpoint, TooManyRequests
from gateway.model import Exchange, Principal
from gateway.stores.leases import SharedLeases, size_of
from gateway.stores.memory import MemoryBuckets


@pytest.fixture
def leases() -> Iterator[SharedLeases]:
    fd = os.memfd_create("test")
    os.ftruncate(fd, size_of(100))
    yield SharedLeases(memoryview(mmap.mmap(fd, size_of(100))), fd, 0, worker=0)
    os.close(fd)


class Gate:
    """An upstream whose answers end when they are told to."""

    def __init__(self) -> None:
        self.opened = asyncio.Event()
        self.error: Exception | None = None
        self.running = 0

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        self.running += 1
        try:
            await self.opened.wait()
            if self.error is not None:
                raise self.error
        finally:
            self.running -= 1


class Caller:
    def __init__(self, leases: SharedLeases, *limits: dict[str, Any], model: str = "llama") -> None:
        self.gate = Gate()
        settings = [LimitSettings(**each) for each in limits]
        self.layer: Any = InFlight(self.gate, limits=settings, model=model, leases=leases, clock=lambda: 10**15)

    async def start(self, name: str = "a", ip: str = "192.0.2.1") -> tuple[Exchange, "asyncio.Task[None]"]:
        exchange = Exchange("r1", 0.0, ip)
        exchange.principal = Principal(name, name, "key")
        task = asyncio.ensure_future(self.layer({"exchange": exchange, "headers": []}, None, None))
        await asyncio.sleep(0)
        return exchange, task


def test_a_caller_has_so_many_requests_at_one_time(leases: SharedLeases) -> None:
    async def run() -> None:
        caller = Caller(leases, {"in_flight": 2})
        first, one = await caller.start()
        _, two = await caller.start()
        refused, three = await caller.start()
        with pytest.raises(TooManyRequests, match=r"the limit is 2\.") as error:
            await three
        assert error.value.headers == [(b"retry-after", b"1")]
        assert (first.limit_verdict, refused.limit_verdict) == ("admitted", "limited")
        _, other = await caller.start("b")
        assert caller.gate.running == 3
        caller.gate.opened.set()
        await asyncio.gather(one, two, other)
        _, after = await caller.start()
        await after

    asyncio.run(run())


@pytest.mark.parametrize("how", ["fails", "is cancelled"])
def test_a_request_that_fails_or_is_cancelled_gives_its_lease_back(leases: SharedLeases, how: str) -> None:
    async def run() -> None:
        caller = Caller(leases, {"in_flight": 1})
        caller.gate.error = NoEndpoint()
        _, task = await caller.start()
        if how == "fails":
            caller.gate.opened.set()
        else:
            task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        await caller.start()
        assert caller.gate.running == (1 if how == "is cancelled" else 0)
        exchange, task = await caller.start()
        await asyncio.gather(task, return_exceptions=True)
        assert exchange.limit_verdict == ("limited" if how == "is cancelled" else "admitted")

    asyncio.run(run())


def test_what_another_limit_refuses_holds_nothing(leases: SharedLeases) -> None:
    async def run() -> None:
        caller = Caller(leases, {"in_flight": 5, "per": "ip"}, {"in_flight": 1, "per": "key"})
        await caller.start("a")
        for _ in range(10):
            _, task = await caller.start("a")
            with pytest.raises(TooManyRequests):
                await task
        for name in "bcde":
            await caller.start(name)
        assert caller.gate.running == 5
        _, task = await caller.start("f")
        with pytest.raises(TooManyRequests, match="the limit is 5"):
            await task

    asyncio.run(run())


def test_what_a_bucket_refuses_holds_nothing(leases: SharedLeases) -> None:
    async def run() -> None:
        caller = Caller(leases, {"in_flight": 2})
        limits = [LimitSettings(rate="1/hour")]
        caller.layer.app = Throttle(caller.gate, limits=limits, model="llama", store=MemoryBuckets(keys=100))
        await caller.start()
        for _ in range(5):
            exchange, task = await caller.start()
            with pytest.raises(TooManyRequests, match="1 per 1 hour"):
                await task
            assert exchange.limit_verdict == "limited"

    asyncio.run(run())


def test_models_count_for_themselves(leases: SharedLeases) -> None:
    async def run() -> None:
        first, second = (Caller(leases, {"in_flight": 1}, model=model) for model in ("a", "b"))
        await first.start()
        await second.start()
        assert (first.gate.running, second.gate.running) == (1, 1)

    asyncio.run(run())


def test_of_two_limits_for_the_same_callers_the_smaller_holds(leases: SharedLeases) -> None:
    async def run() -> None:
        caller = Caller(leases, {"in_flight": 1}, {"in_flight": 3})
        await caller.start()
        _, task = await caller.start()
        with pytest.raises(TooManyRequests, match="the limit is 1"):
            await task

    asyncio.run(run())


def test_a_reload_that_changes_the_number_keeps_the_count(leases: SharedLeases) -> None:
    async def run() -> None:
        before, after = Caller(leases, {"in_flight": 5}), Caller(leases, {"in_flight": 2})
        await before.start()
        await before.start()
        _, task = await after.start()
        with pytest.raises(TooManyRequests):
            await task

    asyncio.run(run())


def test_a_dry_run_admits_says_so_and_counts_for_itself(leases: SharedLeases, caplog: pytest.LogCaptureFixture) -> None:
    async def run() -> list[str]:
        caller = Caller(leases, {"in_flight": 1, "dry_run": True}, {"in_flight": 3})
        caller.layer.app = Throttle(
            caller.gate, limits=[LimitSettings(rate="9/hour")], model="llama", store=MemoryBuckets(keys=100)
        )
        verdicts = [(await caller.start())[0].limit_verdict for _ in range(3)]
        assert caller.gate.running == 3
        _, task = await caller.start()
        with pytest.raises(TooManyRequests, match="the limit is 3"):
            await task
        return verdicts

    with caplog.at_level(logging.WARNING, "gateway.limits"):
        assert asyncio.run(run()) == ["admitted", "would_limit", "would_limit"]
    assert "dry run: <1 in flight per key> would have refused" in caplog.text
