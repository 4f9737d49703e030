"""Another attempt: only what is safe, on another endpoint, within its time and its budget, before the first byte."""

import asyncio
from math import inf
from time import monotonic

import pytest

from gateway.core.endpoint import Health
from gateway.errors import ClientLeft, ConnectFailed, UpstreamClosed, UpstreamInvalid, UpstreamTimeout
from tests.upstream.forwarding import Bench, Peer, Server, answering, breaking, hanging, run

KEY = [(b"idempotency-key", b"42")]
QUICK = {"base": "1ms", "max": "1s"}


async def babbling(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.write(b"220 smtp.example\r\n\r\n")


async def half_answering(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nhalf")
    await writer.drain()
    writer.close()


async def beginning(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Ends behind the head of its answer."""
    writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\n")
    await writer.drain()
    writer.close()


@pytest.mark.parametrize("bad", [breaking, babbling, beginning])
@pytest.mark.parametrize(("method", "fields"), [("GET", []), ("DELETE", []), ("PUT", []), ("POST", KEY)])
def test_what_may_be_acted_upon_twice_is_sent_to_another_endpoint(
    bad: Peer, method: str, fields: list[tuple[bytes, bytes]]
) -> None:
    async def test(bench: Bench, broken: Server, good: Server) -> None:
        for _ in range(4):
            assert (await bench.ask(method, fields)).body == b"ok"
        assert broken.heads
        assert len(good.heads) == 4

    run(test, bad, answering(), retry={"backoff": QUICK})


@pytest.mark.parametrize(("bad", "error"), [(breaking, UpstreamClosed), (babbling, UpstreamInvalid)])
def test_what_may_not_is_sent_once(bad: Peer, error: type[Exception]) -> None:
    async def test(bench: Bench, *servers: Server) -> None:
        assert isinstance(await bench.error("POST"), error)
        assert sum(len(server.heads) for server in servers) == 1

    run(test, bad, bad)


def test_a_route_may_say_that_its_posts_can_be_sent_twice() -> None:
    async def test(bench: Bench, broken: Server, good: Server) -> None:
        for _ in range(2):
            assert (await bench.ask("POST")).status == 200
        assert broken.heads

    run(test, breaking, answering(), retry={"methods": ["POST"], "backoff": QUICK})


@pytest.mark.parametrize("status", [429, 502, 503, 504])
def test_an_answer_that_says_not_now_is_tried_elsewhere_where_the_route_says_so(status: int) -> None:
    async def test(bench: Bench, busy: Server, good: Server) -> None:
        for _ in range(4):
            assert (await bench.ask()).body == b"ok"
        assert busy.heads

    run(test, answering(status=status), answering(), retry={"when": [str(status)], "backoff": QUICK})


def test_an_answer_that_nobody_can_better_is_passed_on_as_it_is() -> None:
    async def test(bench: Bench, *servers: Server) -> None:
        answer = await bench.ask()
        assert (answer.status, answer.body) == (503, b"busy")
        assert (b"retry-after", b"7") in answer.headers
        assert sum(len(server.heads) for server in servers) == 2
        assert (await bench.ask("POST")).status == 503
        assert sum(len(server.heads) for server in servers) == 3

    busy = answering(b"busy", 503, b"retry-after: 7\r\n")
    run(test, busy, busy, retry={"when": ["503"], "backoff": QUICK})


def test_statuses_are_answers_where_the_route_says_nothing_of_them() -> None:
    async def test(bench: Bench, *servers: Server) -> None:
        assert (await bench.ask()).status == 503
        assert sum(len(server.heads) for server in servers) == 1

    run(test, answering(status=503), answering(status=503))


def test_a_first_byte_that_does_not_come_is_tried_elsewhere_where_the_route_says_so() -> None:
    async def test(bench: Bench, silent: Server, good: Server) -> None:
        for _ in range(2):
            assert (await bench.ask()).body == b"ok"
        assert silent.heads

    retry = {"when": ["timeout"], "backoff": QUICK}
    run(test, hanging, answering(), retry=retry, timeouts={"first_byte": "200ms"})


def test_it_is_an_error_where_the_route_does_not() -> None:
    async def test(bench: Bench, *servers: Server) -> None:
        assert isinstance(await bench.error(), UpstreamTimeout)
        assert sum(len(server.heads) for server in servers) == 1

    run(test, hanging, hanging, timeouts={"first_byte": "50ms"})


def test_nothing_is_tried_again_once_the_client_was_given_a_head() -> None:
    async def test(bench: Bench, *servers: Server) -> None:
        assert (await bench.error()).owner == "upstream"
        assert sum(len(server.heads) for server in servers) == 1

    run(test, half_answering, half_answering, retry={"when": ["broken", "timeout", "503"], "backoff": QUICK})


def test_one_endpoint_alone_is_asked_again_only_where_the_route_says_so() -> None:
    async def test(bench: Bench, server: Server) -> None:
        await bench.error()
        assert len(server.heads) == 1

    async def test_again(bench: Bench, server: Server) -> None:
        await bench.error()
        assert len(server.heads) == 3

    run(test, breaking)
    run(test_again, breaking, retry={"same_endpoint": True, "backoff": QUICK})


def test_the_same_endpoint_is_asked_again_no_sooner_than_it_asked() -> None:
    async def test(bench: Bench, server: Server) -> None:
        began = monotonic()
        assert (await bench.ask()).status == 503
        assert len(server.heads) == 2
        assert monotonic() - began >= 1.0

    retry = {"when": ["503"], "attempts": 2, "same_endpoint": True, "backoff": {"base": "1ms", "max": "2s"}}
    run(test, answering(status=503, fields=b"retry-after: 1\r\n"), retry=retry)


def test_what_would_come_after_the_end_of_all_time_is_not_begun() -> None:
    async def test(bench: Bench, server: Server) -> None:
        began = monotonic()
        assert (await bench.ask()).status == 503
        assert len(server.heads) == 1
        assert monotonic() - began < 5

    retry = {"when": ["503"], "same_endpoint": True, "backoff": {"max": "1m"}}
    peer = answering(status=503, fields=b"retry-after: 10\r\n")
    run(test, peer, retry=retry, timeouts={"total": "5s"})


def test_a_body_that_streams_in_is_held_as_far_as_the_route_says() -> None:
    async def test(bench: Bench, *servers: Server) -> None:
        parts = [b"a" * 40, b"b" * 40]
        await bench.error("PUT", body=parts)
        assert sum(len(server.heads) for server in servers) == 2, "held, and sent twice"
        await bench.error("PUT", body=[b"a" * 200, b"b"])
        assert sum(len(server.heads) for server in servers) == 3, "too much, and sent once"

    run(test, breaking, breaking, retry={"buffer": 100, "backoff": QUICK})


def test_a_budget_that_is_spent_makes_the_first_failure_the_last() -> None:
    async def test(bench: Bench, *servers: Server) -> None:
        for _ in range(50):
            await bench.error()
        assert sum(len(server.heads) for server in servers) in range(56, 61), "a fifth of fifty more"
        exchange = bench.exchange()
        bench.budget.limit(0, 0)
        await bench.error(exchange=exchange)
        assert exchange.extras is not None
        assert exchange.extras.retries_denied == 1

    retry = {"attempts": 5, "budget": {"percent": 20, "min_per_second": 0}, "backoff": QUICK}
    run(test, breaking, breaking, breaking, retry=retry)


def test_a_client_that_leaves_during_a_pause_ends_the_request() -> None:
    async def test(bench: Bench, *servers: Server) -> None:
        asking = asyncio.create_task(bench.ask())
        while not any(server.heads for server in servers):
            await asyncio.sleep(0.01)
        await asyncio.sleep(0.05)
        assert [endpoint.in_flight for endpoint in bench.endpoints] == [0, 0], "a pause holds no endpoint"
        asking.cancel()  # what the server does for a request that waits for nothing of a client's
        await asyncio.wait([asking])
        assert sum(len(server.heads) for server in servers) == 1

    class Late:
        def random(self) -> float:
            return 1.0

    async def slow(bench: Bench, *servers: Server) -> None:
        bench.forward.retrier.rng = Late()  # type: ignore[assignment]
        await test(bench, *servers)

    run(slow, breaking, breaking, retry={"backoff": {"base": "1m", "max": "1m"}})


def test_a_client_that_left_is_not_tried_for_again() -> None:
    async def test(bench: Bench, *servers: Server) -> None:
        exchange = bench.exchange()
        asking = asyncio.create_task(bench.error(exchange=exchange))
        while not any(server.heads for server in servers):
            await asyncio.sleep(0.01)
        exchange.leave()
        assert isinstance(await asking, ClientLeft)
        assert sum(len(server.heads) for server in servers) == 1

    run(test, hanging, hanging)


def test_a_sessions_endpoint_that_fails_is_left_for_another() -> None:
    async def test(bench: Bench, *servers: Server) -> None:
        exchange = bench.exchange()
        exchange.preferred = bench.endpoints[0]
        assert (await bench.ask(exchange=exchange)).status == 200
        assert exchange.endpoint is bench.endpoints[1]

    run(test, None, answering(), retry={"backoff": QUICK})


def test_an_endpoint_that_went_down_in_the_meantime_is_no_other_one() -> None:
    async def test(bench: Bench, *servers: Server) -> None:
        bench.endpoints[0].row.health[:] = [Health.UP, Health.DOWN]  # type: ignore[index]
        assert isinstance(await bench.error(), ConnectFailed)
        assert bench.budget.take(inf), "what was not tried again is not paid for"

    run(test, None, answering(), retry={"budget": {"percent": 0, "min_per_second": 1}})
