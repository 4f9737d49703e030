"""So many requests at one time and no more, over all workers; the others wait in a line, fairly, and not for ever."""

import asyncio
import mmap
import os
from collections.abc import Awaitable, Callable, Iterator
from typing import Any

import pytest

from gateway.core.endpoint import Health
from gateway.core.gradient import Gradients
from gateway.errors import DeadlineExceeded, GatewayError, NoEndpoint, QueueFull, QueueTimeout, TooManyRequests
from gateway.model import Exchange, Principal
from gateway.stores.leases import SharedLeases, size_of
from gateway.upstream.gate import Bounds, Gate, Gates
from tests.upstream.forwarding import PATIENCE, Answer, Bench, Server, answering, hanging, run


class Zone:
    """The leases of several workers, in one process."""

    def __init__(self) -> None:
        self.fd = os.memfd_create("test")
        os.ftruncate(self.fd, size_of(100))
        self.memory = memoryview(mmap.mmap(self.fd, size_of(100)))

    def worker(self, number: int) -> SharedLeases:
        return SharedLeases(self.memory, self.fd, 0, worker=number)


@pytest.fixture
def zone() -> Iterator[Zone]:
    zone = Zone()
    yield zone
    os.close(zone.fd)


class Held:
    """A server whose answers are let go one by one."""

    def __init__(self) -> None:
        self.doors: list[asyncio.Event] = []
        self.most = 0
        self.running = 0

    async def __call__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        door = asyncio.Event()
        self.doors.append(door)
        self.running += 1
        self.most = max(self.most, self.running)
        await door.wait()
        self.running -= 1
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok")

    def let_go(self) -> None:
        next(door for door in self.doors if not door.is_set()).set()


async def until(condition: Callable[[], Any]) -> None:
    async with asyncio.timeout(PATIENCE):
        while not condition():
            await asyncio.sleep(0.005)


def gate(bench: Bench, leases: SharedLeases, gradients: Gradients | None = None, **bounds: Any) -> Gate:
    """Put one in front of the bench's pool."""
    usual = {"endpoint": 0, "version": 0, "principal": 0, "length": 100, "timeout": 10.0}
    made = Gate(bench.pool, Bounds(**(usual | bounds)), leases, gradients)
    bench.forward.gates = Gates({"v1": made}, lambda scope, exchange: int(dict(scope["headers"]).get(b"rank", 1)))
    return made


def caller(bench: Bench, name: str = "alice") -> Exchange:
    exchange = bench.exchange()
    exchange.principal = Principal(name, name, "key")
    return exchange


def ask(bench: Bench, name: str = "alice", *, rank: int = 1) -> "asyncio.Task[Answer]":
    return asyncio.create_task(bench.ask("POST", [(b"rank", b"%d" % rank)], exchange=caller(bench, name)))


async def failure(task: "asyncio.Task[Answer]") -> GatewayError:
    with pytest.raises(GatewayError) as caught:
        await task
    return caught.value


Test = Callable[..., Awaitable[None]]


@pytest.mark.parametrize("bound", ["endpoint", "version", "principal"])
def test_no_more_than_so_many_are_there_at_one_time_and_all_are_served(zone: Zone, bound: str) -> None:
    held = Held()

    async def test(bench: Bench, server: Server) -> None:
        gate(bench, zone.worker(0), **{bound: 2})
        tasks = [ask(bench) for _ in range(6)]
        for served in range(6):
            least = min(served + 2, 6)
            await until(lambda least=least: len(held.doors) == least)  # type: ignore[misc]
            held.let_go()
        assert {(await task).body for task in tasks} == {b"ok"}
        assert held.most == 2
        assert bench.endpoints[0].in_flight == 0

    run(test, held)


def test_endpoints_are_filled_each_to_its_bound(zone: Zone) -> None:
    one, two = Held(), Held()

    async def test(bench: Bench, *servers: Server) -> None:
        front = gate(bench, zone.worker(0), endpoint=2)
        tasks = [ask(bench) for _ in range(5)]
        await until(lambda: len(one.doors) == len(two.doors) == 2)
        assert len(front.line) == 1
        two.let_go()
        await until(lambda: len(two.doors) == 3)
        for held in (one, one, two, two):
            held.let_go()
        assert len(await asyncio.gather(*tasks)) == 5

    run(test, one, two)


def test_two_workers_keep_one_bound_together_and_see_what_the_other_frees(zone: Zone) -> None:
    held = Held()

    async def test(bench: Bench, server: Server) -> None:
        other = Gate(bench.pool, Bounds(1, 0, 0, 10, 10.0), zone.worker(1))
        gate(bench, zone.worker(0), endpoint=1)
        first = ask(bench)
        await until(lambda: len(held.doors) == 1)
        bench.forward.gates = Gates({"v1": other}, lambda scope, exchange: 1)
        second = ask(bench)
        await until(lambda: len(other.line) == 1)
        held.let_go()
        await first
        await until(lambda: len(held.doors) == 2)
        held.let_go()
        assert (await second).body == b"ok"
        assert held.most == 1

    run(test, held)


def test_the_more_important_is_served_first_and_equals_take_turns(zone: Zone) -> None:
    held = Held()
    order: list[str] = []

    async def test(bench: Bench, server: Server) -> None:
        front = gate(bench, zone.worker(0), version=1)

        async def one(name: str, who: str, rank: int) -> None:
            await ask(bench, who, rank=rank)
            order.append(name)

        tasks = [asyncio.create_task(one("first", "x", 1))]
        await until(lambda: held.doors)
        wanted = [("a1", "a", 1), ("a2", "a", 1), ("a3", "a", 1), ("b1", "b", 1), ("low", "c", 2), ("high", "d", 0)]
        for count, each in enumerate(wanted, 1):
            tasks.append(asyncio.create_task(one(*each)))
            await until(lambda count=count: len(front.line) == count)  # type: ignore[misc]
        for served in range(1, 8):
            await until(lambda served=served: len(held.doors) == served)  # type: ignore[misc]
            held.let_go()
        await asyncio.gather(*tasks)
        assert order == ["first", "high", "a1", "b1", "a2", "a3", "low"]

    run(test, held)


def test_a_caller_that_has_its_fill_keeps_nobody_else_waiting(zone: Zone) -> None:
    held = Held()

    async def test(bench: Bench, server: Server) -> None:
        front = gate(bench, zone.worker(0), principal=1, version=2)
        greedy = [ask(bench, "greedy") for _ in range(4)]
        await until(lambda: len(front.line) == 3)
        modest = ask(bench, "modest")
        await until(lambda: len(held.doors) == 2)
        assert len(front.line) == 3
        await until(lambda: [door.set() for door in held.doors] and all(task.done() for task in greedy))
        assert {answer.body for answer in await asyncio.gather(modest, *greedy)} == {b"ok"}

    run(test, held)


def test_who_finds_the_line_full_is_told_when_to_come_again(zone: Zone) -> None:
    async def test(bench: Bench, server: Server) -> None:
        front = gate(bench, zone.worker(0), version=1, length=1)
        tasks = [ask(bench), ask(bench)]
        await until(lambda: len(front.line) == 1)
        error = await failure(ask(bench))
        assert isinstance(error, QueueFull)
        assert error.status == 503
        assert (b"retry-after", b"1") in error.headers
        await stop(*tasks)

    run(test, hanging)


def test_without_a_line_what_has_no_room_is_refused_at_once(zone: Zone) -> None:
    async def test(bench: Bench, server: Server) -> None:
        gate(bench, zone.worker(0), version=2, principal=1, length=0)
        task = ask(bench)
        await until(lambda: server.heads)
        assert isinstance(await failure(ask(bench)), TooManyRequests), "the caller's own bound"
        other = ask(bench, "bob")
        await until(lambda: len(server.heads) == 2)
        assert isinstance(await failure(ask(bench, "carol")), QueueFull)
        await stop(task, other)

    run(test, hanging)


def test_the_line_is_bounded_over_all_workers(zone: Zone) -> None:
    async def test(bench: Bench, server: Server) -> None:
        other = Gate(bench.pool, Bounds(0, 1, 0, 1, 10.0), zone.worker(1))
        front = gate(bench, zone.worker(0), version=1, length=1)
        tasks = [ask(bench), ask(bench)]
        await until(lambda: len(front.line) == 1)
        bench.forward.gates = Gates({"v1": other}, lambda scope, exchange: 1)
        assert isinstance(await failure(ask(bench)), QueueFull)
        await stop(*tasks)

    run(test, hanging)


def test_a_more_important_one_takes_the_place_of_the_least(zone: Zone) -> None:
    async def test(bench: Bench, server: Server) -> None:
        front = gate(bench, zone.worker(0), version=1, length=2)
        tasks = [ask(bench)]
        await until(lambda: server.heads)
        tasks += [ask(bench, rank=1), ask(bench, rank=2)]
        await until(lambda: len(front.line) == 2)
        better = ask(bench, rank=0)
        assert isinstance(await failure(tasks.pop()), QueueFull)
        assert len(front.line) == 2
        assert isinstance(await failure(ask(bench, rank=2)), QueueFull)
        await stop(better, *tasks)
        assert front.leases.count(front.line_place) == 0

    run(test, hanging)


def test_a_wait_in_vain_ends_and_its_reason_is_told(zone: Zone) -> None:
    async def test(bench: Bench, server: Server) -> None:
        front = gate(bench, zone.worker(0), version=2, principal=1, timeout=0.1)
        task = ask(bench)
        await until(lambda: server.heads)
        assert isinstance(await failure(ask(bench)), TooManyRequests), "the caller's own bound"
        second = ask(bench, "bob")
        await until(lambda: len(server.heads) == 2)
        exchange = caller(bench, "carol")
        error = await bench.error("POST", exchange=exchange)
        assert isinstance(error, QueueTimeout)
        assert error.status == 503
        assert exchange.extras is not None
        assert exchange.extras.queued >= 0.1
        assert exchange.attempts == 0
        assert len(front.line) == 0
        await stop(task, second)

    run(test, hanging)


def test_a_wait_ends_with_the_time_that_the_client_gave(zone: Zone) -> None:
    async def test(bench: Bench, server: Server) -> None:
        gate(bench, zone.worker(0), version=1)
        task = ask(bench)
        await until(lambda: server.heads)
        error = await bench.error("POST", [(b"x-request-timeout", b"100ms")], exchange=caller(bench))
        assert isinstance(error, DeadlineExceeded)
        await stop(task)

    run(test, hanging)


def test_what_would_wait_longer_than_it_can_is_refused_at_once(zone: Zone) -> None:
    async def test(bench: Bench, server: Server) -> None:
        front = gate(bench, zone.worker(0), version=1)
        tasks = [ask(bench), ask(bench)]
        await until(lambda: len(front.line) == 1)
        front.line.gap = 3.0  # one in three seconds goes
        error = await bench.error("POST", [(b"x-request-timeout", b"4s")], exchange=caller(bench))
        assert isinstance(error, QueueFull)
        assert (b"retry-after", b"6") in error.headers
        await stop(*tasks)

    run(test, hanging)


def test_who_leaves_the_line_leaves_nothing_behind(zone: Zone) -> None:
    held = Held()

    async def test(bench: Bench, server: Server) -> None:
        front = gate(bench, zone.worker(0), version=1, principal=5)
        first = ask(bench)
        await until(lambda: held.doors)
        waiting = [ask(bench) for _ in range(3)]
        await until(lambda: len(front.line) == 3)
        await stop(waiting[1])
        assert len(front.line) == 2
        # Let go and cancelled in one step of the loop: what it was given must go to the next.
        front.give_back([])
        held.let_go()
        await first
        await until(lambda: len(front.line) == 1 or waiting[0].done())
        await stop(waiting[0])
        await until(lambda: len(held.doors) >= 2)
        for door in held.doors:
            door.set()
        await until(lambda: len(front.line) == 0)
        for door in held.doors:
            door.set()
        await until(lambda: [door.set() for door in held.doors] and waiting[2].done())
        assert front.leases.count(front.line_place) == 0
        assert front.leases.count(front.version_place) == 0
        assert bench.endpoints[0].in_flight == 0

    run(test, held)


def test_one_that_is_given_room_as_it_leaves_gives_it_on(zone: Zone) -> None:
    held = Held()

    async def test(bench: Bench, server: Server) -> None:
        front = gate(bench, zone.worker(0), version=1)
        first = ask(bench)
        await until(lambda: held.doors)
        second, third = ask(bench), ask(bench)
        await until(lambda: len(front.line) == 2)
        waiter = front.line.next()
        assert waiter is not None
        future = waiter.what[3]
        future.add_done_callback(lambda _: second.cancel())
        held.let_go()
        await first
        await asyncio.wait([second])
        await until(lambda: len(held.doors) >= 2)
        await until(lambda: [door.set() for door in held.doors] and third.done())
        assert (await third).body == b"ok"
        assert front.leases.count(front.version_place) == 0

    run(test, held)


def test_one_that_has_left_and_not_woken_is_passed_over_when_there_is_room(zone: Zone) -> None:
    """Else what it was given was lost for ever, the answer that made the room broke off, and nobody was let go."""
    held = Held()

    async def test(bench: Bench, server: Server) -> None:
        front = gate(bench, zone.worker(0), version=1)
        first = ask(bench)
        await until(lambda: held.doors)
        second, third = ask(bench), ask(bench)
        await until(lambda: len(front.line) == 2)
        front.renew(bench.pool, Bounds(0, 2, 0, 100, 10.0), None)
        second.cancel()
        front.give_back([])
        await until(lambda: [door.set() for door in held.doors] and first.done() and third.done())
        assert second.cancelled()
        assert ((await first).body, (await third).body) == (b"ok", b"ok")
        assert front.leases.count(front.line_place) == front.leases.count(front.version_place) == 0
        assert bench.endpoints[0].in_flight == 0

    run(test, held)


def test_when_no_endpoint_is_up_nobody_waits_for_room(zone: Zone) -> None:
    async def test(bench: Bench, server: Server) -> None:
        front = gate(bench, zone.worker(0), version=1)
        tasks = [ask(bench), ask(bench)]
        await until(lambda: len(front.line) == 1)
        bench.endpoints[0].row.health[0] = Health.DOWN  # type: ignore[index]
        assert isinstance(await failure(ask(bench)), NoEndpoint)
        assert isinstance(await failure(tasks.pop()), NoEndpoint)
        await stop(*tasks)

    run(test, hanging)


def test_a_bound_that_is_found_out_bounds(zone: Zone) -> None:
    held = Held()

    async def test(bench: Bench, server: Server) -> None:
        gradients = Gradients(1, 10, 2)
        bench.pool.watchers = (gradients,)
        front = gate(bench, zone.worker(0), gradients)
        tasks = [ask(bench) for _ in range(4)]
        await until(lambda: len(front.line) == len(held.doors) == 2)
        await until(lambda: [door.set() for door in held.doors] and all(task.done() for task in tasks))
        assert gradients.of(bench.endpoints[0]).limit > 2, "it found room for more"

    run(test, held)


def test_a_reload_changes_the_bounds_for_those_who_wait(zone: Zone) -> None:
    held = Held()

    async def test(bench: Bench, server: Server) -> None:
        front = gate(bench, zone.worker(0), version=1)
        tasks = [ask(bench) for _ in range(3)]
        await until(lambda: len(front.line) == 2)
        front.renew(bench.pool, Bounds(0, 3, 0, 10, 10.0), None)
        await until(lambda: len(held.doors) == 3)
        for door in held.doors:
            door.set()
        await asyncio.gather(*tasks)

    run(test, held)


def test_a_retry_gives_back_its_room_before_it_takes_other(zone: Zone) -> None:
    async def test(bench: Bench, *servers: Server) -> None:
        front = gate(bench, zone.worker(0), version=1, endpoint=1)
        for _ in range(2):
            assert (await bench.ask(exchange=caller(bench))).body == b"ok"
        assert front.leases.count(front.version_place) == 0

    run(test, None, answering(), retry={"backoff": {"base": "1ms"}})


async def stop(*tasks: "asyncio.Task[Answer]") -> None:
    """What the server does when the client of a request leaves that waits for nothing of its own."""
    for task in tasks:
        task.cancel()
    await asyncio.wait(tasks)
