"""A second attempt where the first is late: the faster answers, the slower is left at once, and there are few."""

import asyncio
from collections.abc import Callable
from time import monotonic
from typing import Any

import pytest

from gateway.core.quantile import Quantile
from gateway.core.retry import Budget
from gateway.errors import ClientLeft, UpstreamClosed
from gateway.upstream.hedger import Hedging
from tests.upstream.forwarding import PATIENCE, Answer, Bench, Notes, Peer, Server, answering, breaking, run

LATE = 0.05  # seconds: what the bench's routes know as a late first byte


def hedging(bench: Bench, share: float = 1.0, before: int = 100) -> Hedging:
    """The bench's route hedges, and knows of so many requests `before`, and that answers take little."""
    known = Hedging(Budget(share, 0.0, monotonic()))
    known.budget.requests = before
    known.times["v1"] = Quantile()
    for _ in range(100):
        known.times["v1"].add(LATE)
    bench.forward.hedge(known, 0.95)
    return known


async def until(condition: Callable[[], Any]) -> None:
    async with asyncio.timeout(PATIENCE):
        while not condition():
            await asyncio.sleep(0.005)


class Leaving:
    """Says nothing, and notes who leaves."""

    def __init__(self) -> None:
        self.left = 0

    async def __call__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(1)
        self.left += 1
        raise ConnectionError


def test_a_late_one_is_overtaken_and_left_at_once() -> None:
    silent, notes = Leaving(), Notes()

    async def test(bench: Bench, slow: Server, quick: Server) -> None:
        hedging(bench)
        exchange = bench.exchange()
        exchange.preferred = bench.endpoints[0]
        answer = await bench.ask(exchange=exchange)
        assert (answer.status, answer.body, answer.is_complete) == (200, b"ok", True)
        assert exchange.endpoint is bench.endpoints[1]
        assert exchange.attempts == 2
        assert exchange.extras is not None
        assert (exchange.extras.hedges, exchange.extras.hedges_won) == (1, 1)
        await until(lambda: silent.left == 1)
        assert [endpoint.in_flight for endpoint in bench.endpoints] == [0, 0]
        assert {type(outcome.error) for outcome in notes.outcomes} == {type(None), ClientLeft}
        assert not any(outcome.is_failure for outcome in notes.outcomes)

    run(test, silent, answering(), watchers=(notes,))


def test_one_in_time_has_none_beside_it() -> None:
    async def test(bench: Bench, *servers: Server) -> None:
        hedging(bench)
        for _ in range(4):
            exchange = bench.exchange()
            assert (await bench.ask(exchange=exchange)).body == b"ok"
            assert exchange.attempts == 1
        assert sum(len(server.heads) for server in servers) == 4

    run(test, answering(), answering())


def test_the_first_may_still_win_and_the_second_is_left() -> None:
    silent = Leaving()

    async def test(bench: Bench, slow: Server, other: Server) -> None:
        hedging(bench)
        exchange = bench.exchange()
        exchange.preferred = bench.endpoints[0]
        assert (await bench.ask(exchange=exchange)).body == b"slow"
        assert exchange.endpoint is bench.endpoints[0]
        assert exchange.extras is not None
        assert (exchange.extras.hedges, exchange.extras.hedges_won) == (1, 0)
        await until(lambda: silent.left == 1)

    run(test, answering(b"slow", after=0.5), silent)


@pytest.mark.parametrize("bad", [None, breaking])
def test_a_second_that_fails_leaves_the_first_alone(bad: Peer | None) -> None:
    async def test(bench: Bench, *servers: Server) -> None:
        hedging(bench)
        exchange = bench.exchange()
        exchange.preferred = bench.endpoints[0]
        assert (await bench.ask(exchange=exchange)).body == b"slow"
        assert exchange.endpoint is bench.endpoints[0]

    run(test, answering(b"slow", after=0.4), bad)


def test_a_first_that_fails_leaves_the_second_alone() -> None:
    async def late_to_break(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await asyncio.sleep(0.3)
        raise ConnectionError

    async def test(bench: Bench, *servers: Server) -> None:
        hedging(bench)
        exchange = bench.exchange()
        exchange.preferred = bench.endpoints[0]
        assert (await bench.ask(exchange=exchange)).body == b"second"

    run(test, late_to_break, answering(b"second", after=0.6), retry={"attempts": 1})


def test_when_both_fail_the_first_ones_error_is_told() -> None:
    async def late_to_break(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await asyncio.sleep(0.2)
        raise ConnectionError

    async def test(bench: Bench, *servers: Server) -> None:
        hedging(bench)
        assert isinstance(await bench.error(), UpstreamClosed)
        assert sum(len(server.heads) for server in servers) == 2
        assert [endpoint.in_flight for endpoint in bench.endpoints] == [0, 0]

    run(test, late_to_break, late_to_break, retry={"attempts": 1})


def test_what_may_not_be_acted_upon_twice_is_not_sent_twice() -> None:
    async def test(bench: Bench, *servers: Server) -> None:
        hedging(bench)
        assert (await bench.ask("POST", body=b"hello")).body == b"slow"
        assert sum(len(server.heads) for server in servers) == 1
        assert (await bench.ask("POST", [(b"idempotency-key", b"1")], body=b"hello")).body == b"slow"
        assert sum(len(server.heads) for server in servers) == 3

    peer = answering(b"slow", after=0.3)
    run(test, peer, peer)


def test_a_budget_bounds_how_many_there_are() -> None:
    async def test(bench: Bench, *servers: Server) -> None:
        hedging(bench, share=0.2, before=0)
        tasks = [asyncio.create_task(bench.ask()) for _ in range(20)]
        await asyncio.gather(*tasks)
        assert sum(len(server.heads) for server in servers) in range(21, 25)

    peer = answering(after=0.3)
    run(test, peer, peer)


def test_nothing_is_hedged_while_too_little_is_known_or_nobody_else_is_there() -> None:
    async def test(bench: Bench, *servers: Server) -> None:
        hedging(bench).times.clear()
        await bench.ask()
        assert sum(len(server.heads) for server in servers) == 1

    async def test_alone(bench: Bench, server: Server) -> None:
        hedging(bench)
        await bench.ask()
        assert len(server.heads) == 1

    peer = answering(after=0.3)
    run(test, peer, peer)
    run(test_alone, peer)


def test_first_bytes_are_learnt() -> None:
    async def test(bench: Bench, *servers: Server) -> None:
        known = hedging(bench)
        known.times.clear()
        for _ in range(25):
            await bench.ask()
        assert known.times["v1"].total == 25
        assert known.times["v1"].of(0.95) < 1.0

    run(test, answering(), answering())


def test_a_client_that_leaves_ends_both() -> None:
    one, two = Leaving(), Leaving()

    async def test(bench: Bench, *servers: Server) -> None:
        hedging(bench)
        exchange = bench.exchange()
        asking = asyncio.create_task(bench.error(exchange=exchange))
        await until(lambda: all(server.heads for server in servers))
        exchange.leave()
        assert isinstance(await asking, ClientLeft)
        await until(lambda: one.left == two.left == 1)
        assert [endpoint.in_flight for endpoint in bench.endpoints] == [0, 0]

    run(test, one, two)


def test_one_that_is_cancelled_cancels_both() -> None:
    one, two = Leaving(), Leaving()

    async def test(bench: Bench, *servers: Server) -> None:
        hedging(bench)
        asking = asyncio.create_task(bench.ask())
        await until(lambda: all(server.heads for server in servers))
        asking.cancel()
        await asyncio.wait([asking])
        assert asking.cancelled()
        await until(lambda: one.left == two.left == 1)
        assert [endpoint.in_flight for endpoint in bench.endpoints] == [0, 0]

    run(test, one, two)


def test_an_answer_is_one_answer_however_close_the_race() -> None:
    async def test(bench: Bench, *servers: Server) -> None:
        hedging(bench)

        async def one() -> None:
            answer = Answer()
            await bench.ask(answer=answer)
            assert (answer.status, answer.body, answer.is_complete) == (200, b"ok", True)

        await asyncio.gather(*(one() for _ in range(40)))
        assert [endpoint.in_flight for endpoint in bench.endpoints] == [0, 0]

    peer = answering(after=LATE * 1.1)
    run(test, peer, peer)
