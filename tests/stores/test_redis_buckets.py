"""`redis://` over a real server: exact over several gateways, together, and not in the way when the server is not."""

import asyncio
import logging
import os
import signal
import sys
import time
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from limits import parse
from limits.errors import ConfigurationError

from gateway.core.limiter import Limit
from gateway.errors import StoreUnavailable
from gateway.stores.buckets import AsyncTokenBucketRateLimiter
from gateway.stores.memory import MemoryBuckets
from gateway.stores.redis import RedisBuckets, RedisClusterBuckets, RedisSentinelBuckets
from gateway.stores.schemes import open_buckets
from tests.ports import free_port
from tests.redis_server import Server

PATIENCE = 10.0  # seconds
HOURLY = Limit(1, 3600, 20)  # so slow that nothing flows back while a test runs


@pytest.fixture(scope="module")
def shared_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    server = Server(tmp_path_factory.mktemp("redis"))
    yield server
    server.kill()


@pytest.fixture
def server(shared_server: Server) -> Server:
    shared_server.client.flushall()
    shared_server.client.script_flush()
    return shared_server


@pytest.fixture
def mortal(tmp_path: Path) -> Iterator[Server]:
    server = Server(tmp_path)
    yield server
    server.kill()


def store_at(port: int, timeout: float = PATIENCE, **options: Any) -> RedisBuckets:
    """Patient, unless a test is about an outage: a busy machine is none."""
    return RedisBuckets(f"redis://127.0.0.1:{port}/0", MemoryBuckets(keys=100), timeout=timeout, **options)


def with_store(port: int, body: Callable[[RedisBuckets], Awaitable[Any]], **options: Any) -> Any:
    async def run() -> Any:
        store = store_at(port, **options)
        try:
            return await body(store)
        finally:
            await store.aclose()

    return asyncio.run(run())


async def take(store: RedisBuckets, *keys: str, limit: Limit = HOURLY, cost: int = 1) -> bool:
    places = [store.place(key, "tag") for key in keys]
    debts = await store.take(places, [cost * limit.price] * len(keys), [limit.window] * len(keys))
    return max(debts) <= limit.window


def test_a_bucket_admits_its_burst(server: Server) -> None:
    async def body(store: RedisBuckets) -> list[bool]:
        return [await take(store, "key") for _ in range(22)]

    assert with_store(server.port, body) == [True] * 20 + [False] * 2


def test_tokens_flow_back_by_the_servers_clock(server: Server) -> None:
    async def body(store: RedisBuckets) -> None:
        limit = Limit(100, 1, 5)
        assert await take(store, "key", limit=limit, cost=5)
        assert not await take(store, "key", limit=limit, cost=5)
        await asyncio.sleep(0.06)
        assert await take(store, "key", limit=limit, cost=5)

    with_store(server.port, body)


def test_debts_are_told_to_the_microsecond(server: Server) -> None:
    async def body(store: RedisBuckets) -> None:
        places = [store.place("key")]
        first = await store.take(places, [HOURLY.price], [HOURLY.window])
        assert first == [HOURLY.price]
        refused = await store.take(places, [30 * HOURLY.price], [HOURLY.window])
        assert 30.99 * HOURLY.price < refused[0] <= 31 * HOURLY.price
        assert (await store.take([store.place("b")], [10**9 + 100], [10**9]))[
            0
        ] > 10**9  # refused, so beyond the window
        assert HOURLY.price - 10**9 < await store.debt(places[0]) <= HOURLY.price

    with_store(server.port, body)


def test_several_limits_are_taken_together_or_not_at_all(server: Server) -> None:
    async def body(store: RedisBuckets) -> None:
        assert all([await take(store, "narrow") for _ in range(20)])
        assert not any([await take(store, "narrow", "wide") for _ in range(5)])
        assert not any([await take(store, "wide", "narrow") for _ in range(5)])
        assert await store.debt(store.place("wide", "tag")) == 0
        assert await take(store, "wide", "other")

    with_store(server.port, body)


def test_two_gateways_hold_one_exact_limit(server: Server) -> None:
    async def run() -> int:
        stores = [store_at(server.port), store_at(server.port)]
        admitted = await asyncio.gather(*[take(stores[i % 2], "key") for i in range(200)])
        for store in stores:
            await store.aclose()
        return sum(admitted)

    assert asyncio.run(run()) == 20


def test_requests_of_one_turn_of_the_loop_travel_together(server: Server) -> None:
    async def body(store: RedisBuckets) -> int:
        await take(store, "warm")
        before = server.client.info("clients")["connected_clients"]
        sent = []
        execute = store._execute

        async def counted(calls: Any) -> Any:
            sent.append(len(calls))
            return await execute(calls)

        store._execute = counted  # type: ignore[method-assign]
        await asyncio.gather(*[take(store, f"key{i}") for i in range(50)])
        assert sent == [50]
        assert server.client.info("clients")["connected_clients"] == before
        return len(sent)

    assert with_store(server.port, body) == 1


def test_the_script_is_sent_again_to_a_server_that_has_forgotten_it(server: Server) -> None:
    async def body(store: RedisBuckets) -> None:
        assert await take(store, "key")
        server.client.script_flush()
        assert await asyncio.gather(*[take(store, "key") for _ in range(20)]) == [True] * 19 + [False]
        assert store.outages == 0

    with_store(server.port, body)


def test_idle_keys_expire_by_themselves(server: Server) -> None:
    async def body(store: RedisBuckets) -> None:
        await take(store, "key", limit=Limit(10, 1, 10))
        assert 0 < server.client.pttl(store.place("key", "tag")) <= 101
        await asyncio.sleep(0.12)
        assert not server.client.exists(store.place("key", "tag"))

    with_store(server.port, body)


def test_a_correction_charges_or_gives_back_and_never_beyond_full(server: Server) -> None:
    async def body(store: RedisBuckets) -> None:
        place = store.place("key", "tag")
        assert await take(store, "key", cost=5)
        store.settle(place, -2 * HOURLY.price)
        assert abs(await store.debt(place) - 3 * HOURLY.price) < 10**9
        store.settle(place, 30 * HOURLY.price)
        assert abs(await store.debt(place) - 33 * HOURLY.price) < 10**9
        store.settle(place, -100 * HOURLY.price)
        assert await store.debt(place) == 0
        assert [await take(store, "key", cost=21), await take(store, "key", cost=20)] == [False, True]

    with_store(server.port, body)


def test_the_strategy_of_the_limits_package_works_on_it(server: Server) -> None:
    async def body(store: RedisBuckets) -> None:
        limiter, rate = AsyncTokenBucketRateLimiter(store, burst=2), parse("3/hour")
        assert await limiter.test(rate, "key", cost=2)
        assert [await limiter.hit(rate, "key") for _ in range(3)] == [True, True, False]
        assert not await limiter.test(rate, "key")
        stats = await limiter.get_window_stats(rate, "key")
        assert stats.remaining == 0
        assert stats.reset_time - time.time() == pytest.approx(2400, abs=5)
        await limiter.clear(rate, "key")
        assert await limiter.hit(rate, "key")

    with_store(server.port, body)


def test_whatever_a_client_wrote_its_key_on_the_server_is_short_and_has_one_hash_tag(server: Server) -> None:
    async def body(store: RedisBuckets) -> list[str]:
        return [store.place(key, "a{b}c") for key in ("x", "}{" * 1000, "\n é")]

    places = with_store(server.port, body)
    assert {(len(place), place.count("{"), place.index("}")) for place in places} == {(59, 1, 25)}
    assert len(set(places)) == 3


def test_a_server_that_dies_is_waited_for_once_and_found_again_when_it_returns(
    mortal: Server, caplog: pytest.LogCaptureFixture
) -> None:
    async def outage(store: RedisBuckets) -> None:
        with pytest.raises(StoreUnavailable):
            await take(store, "key")
        began = time.perf_counter()
        for _ in range(100):
            with pytest.raises(StoreUnavailable):
                await take(store, "key")
        assert time.perf_counter() - began < 0.1

    async def body(store: RedisBuckets) -> None:
        for outages in (1, 2):
            assert await take(store, "key")
            mortal.kill()
            await outage(store)
            assert store.outages == outages
            mortal.start()
            for _ in range(300):
                if store.recovery is None:
                    break
                await asyncio.sleep(0.01)
        assert await take(store, "key")

    with caplog.at_level(logging.WARNING, "gateway.stores"):
        with_store(mortal.port, body)
    assert [record.levelname for record in caplog.records] == ["ERROR", "WARNING"] * 2


def test_a_server_that_hangs_costs_one_timeout_and_its_late_answers_reach_nobody(mortal: Server) -> None:
    async def body(store: RedisBuckets) -> None:
        assert await take(store, "warm")
        os.kill(mortal.process.pid, signal.SIGSTOP)
        began = time.perf_counter()
        waiting = await asyncio.gather(*[take(store, f"key{i}") for i in range(20)], return_exceptions=True)
        elapsed = time.perf_counter() - began
        with pytest.raises(StoreUnavailable):
            await take(store, "key")
        assert time.perf_counter() - began - elapsed < 0.05
        os.kill(mortal.process.pid, signal.SIGCONT)
        assert {type(each) for each in waiting} == {StoreUnavailable}
        assert 0.05 <= elapsed < 0.3
        while store.recovery is not None:
            await asyncio.sleep(0.01)
        places = [[store.place(f"later{i}")] for i in range(20)]
        debts = await asyncio.gather(*[store.take(place, [i * 10**9], [10**12]) for i, place in enumerate(places, 1)])
        assert debts == [[i * 10**9] for i in range(1, 21)]

    with_store(mortal.port, body, timeout=0.1)


def test_a_server_that_takes_no_writes_is_one_outage_until_it_does(server: Server) -> None:
    """One without memory, or a replica that was a master: told as back and down again by every request."""

    async def body(store: RedisBuckets) -> None:
        server.client.config_set("maxmemory", "1")
        try:
            for _ in range(20):
                with pytest.raises(StoreUnavailable):
                    await take(store, "unwritten")
                await asyncio.sleep(0.01)
            assert store.outages == 1
        finally:
            server.client.config_set("maxmemory", "0")
        while store.recovery is not None:
            await asyncio.sleep(0.01)
        assert await take(store, "unwritten")

    with_store(server.port, body)


def test_a_server_that_was_never_there_is_an_outage_too() -> None:
    async def body(store: RedisBuckets) -> None:
        with pytest.raises(StoreUnavailable):
            await take(store, "key")
        store.settle(store.place("key"), 5)
        assert repr(store) == "<RedisBuckets down waiting=0 outages=1>"

    with_store(free_port(), body)


def test_a_command_that_may_have_been_carried_out_is_not_sent_again() -> None:
    """A server that reads the script's call and closes the connection, each time."""
    calls = 0

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal calls
        while data := await reader.read(65536):
            if b"EVALSHA" in data:
                calls += 1
                break
            writer.write(b"+OK\r\n" * data.count(b"*"))
        writer.close()

    async def run() -> None:
        fake = await asyncio.start_server(serve, "127.0.0.1", 0)
        store = store_at(fake.sockets[0].getsockname()[1], protocol=2, timeout=2.0)
        store._recover = lambda: asyncio.sleep(0)  # type: ignore
        with pytest.raises(StoreUnavailable):
            await take(store, "key")
        await store.aclose()
        fake.close()

    asyncio.run(run())
    assert calls == 1


def test_those_who_wait_are_bounded(server: Server) -> None:
    async def body(store: RedisBuckets) -> None:
        store.waiting = [None] * 10_000  # type: ignore[list-item]
        with pytest.raises(StoreUnavailable):
            await take(store, "key")
        assert store.outages == 0
        store.waiting = []
        assert await take(store, "key")

    with_store(server.port, body)


def test_a_client_that_leaves_while_it_waits_disturbs_nobody(server: Server) -> None:
    async def body(store: RedisBuckets) -> None:
        leaver = asyncio.ensure_future(take(store, "key"))
        other = asyncio.ensure_future(take(store, "key"))
        await asyncio.sleep(0)
        leaver.cancel()
        assert await other
        assert store.outages == 0

    with_store(server.port, body)


def test_it_runs_on_a_cluster(tmp_path: Path) -> None:
    servers = []
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        servers.append(Server(tmp_path / name, "--cluster-enabled", "yes"))
    first, second = servers
    first.client.execute_command("CLUSTER", "ADDSLOTS", *range(8192))
    second.client.execute_command("CLUSTER", "ADDSLOTS", *range(8192, 16384))
    first.client.execute_command("CLUSTER", "MEET", "127.0.0.1", second.port)
    _until(lambda: all(b"cluster_state:ok" in s.client.execute_command("CLUSTER", "INFO") for s in servers))

    async def run() -> None:
        uri = f"redis+cluster://127.0.0.1:{first.port},127.0.0.1:{second.port}"
        store = RedisClusterBuckets(uri, MemoryBuckets(keys=100), timeout=2.0)
        together = await asyncio.gather(*[take(store, "key", "model") for _ in range(25)])
        assert sum(together) == 20
        for i in range(20):
            place = store.place(f"caller{i}", f"caller{i}")
            assert await store.take([place], [10**9], [10**12]) == [10**9]
        assert store.outages == 0
        await store.aclose()

    try:
        asyncio.run(run())
        assert all(server.client.dbsize() > 0 for server in servers)
    finally:
        for server in servers:
            server.kill()


def test_it_runs_on_a_server_that_sentinels_name(tmp_path: Path) -> None:
    primary = Server(tmp_path)
    config = tmp_path / "sentinel.conf"
    config.write_text(f"sentinel monitor main 127.0.0.1 {primary.port} 1\n")
    sentinel = Server(tmp_path, str(config), "--sentinel")

    async def run() -> list[bool]:
        uri = f"redis+sentinel://127.0.0.1:{sentinel.port}/main"
        store = RedisSentinelBuckets(uri, MemoryBuckets(keys=100), timeout=2.0)
        admitted = [await take(store, "key") for _ in range(21)]
        await store.aclose()
        return admitted

    try:
        assert asyncio.run(run()) == [True] * 20 + [False]
    finally:
        sentinel.kill()
        primary.kill()


def test_each_scheme_opens_its_store(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    shared = MemoryBuckets(keys=100)
    assert open_buckets("shared://", shared) is shared
    assert isinstance(open_buckets("memory://", shared), MemoryBuckets)
    store = open_buckets(f"redis://127.0.0.1:{server.port}/0", shared)
    assert isinstance(store, RedisBuckets)
    assert store.local is shared
    assert isinstance(open_buckets("rediss://127.0.0.1:1/0", shared), RedisBuckets)
    with pytest.raises(ConfigurationError, match="'mysql' is none of shared://"):
        open_buckets("mysql://127.0.0.1", shared)


def test_a_missing_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "gateway.stores.redis")
    monkeypatch.setitem(sys.modules, "redis.asyncio.retry", None)
    with pytest.raises(ConfigurationError, match=r"install model-gateway\[redis\]"):
        open_buckets("redis://127.0.0.1", MemoryBuckets(keys=100))


def _until(condition: Callable[[], bool]) -> None:
    for _ in range(1000):
        if condition():
            return
        time.sleep(0.01)
    raise AssertionError("did not come about")
