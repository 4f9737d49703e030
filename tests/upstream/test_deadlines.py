"""The time that a client gives a request is its end, whatever is going on; and the model server knows of it."""

import asyncio
from time import monotonic

import pytest

from gateway.core.timeouts import given
from gateway.errors import BadRequest, DeadlineExceeded, UpstreamTimeout
from tests.upstream.forwarding import Answer, Bench, Notes, Server, answering, breaking, hanging, run

HALF = [(b"x-request-timeout", b"500ms")]


async def dripping(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.write(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n")
    while True:
        writer.write(b"1\r\n.\r\n")
        await writer.drain()
        await asyncio.sleep(0.01)


def test_the_server_is_told_what_is_left_in_the_same_notation() -> None:
    async def test(bench: Bench, server: Server) -> None:
        for name, value in ((b"x-request-timeout", b"20s"), (b"x-request-timeout", b"20"), (b"grpc-timeout", b"20S")):
            exchange = bench.exchange()
            exchange.started -= 5
            await bench.ask(fields=[(name, value)], exchange=exchange)
            assert 10 < given({name: server.field(name) or b""}) <= 15

    run(test, answering())


def test_a_route_gives_no_more_than_its_own_maximum() -> None:
    async def test(bench: Bench, server: Server) -> None:
        await bench.ask(fields=[(b"x-request-timeout", b"1h")])
        assert 5 < given({b"x-request-timeout": server.field(b"x-request-timeout") or b""}) <= 10

    run(test, answering(), timeouts={"total": "10s"})


def test_a_request_whose_time_is_over_is_not_sent() -> None:
    async def test(bench: Bench, server: Server) -> None:
        exchange = bench.exchange()
        exchange.started -= 1
        assert isinstance(await bench.error(fields=HALF, exchange=exchange), DeadlineExceeded)
        assert isinstance(await bench.error(fields=[(b"grpc-timeout", b"0m")]), DeadlineExceeded)
        assert server.heads == []

    run(test, answering())


def test_what_cannot_be_read_is_refused_before_anything_is_sent() -> None:
    async def test(bench: Bench, server: Server) -> None:
        assert isinstance(await bench.error(fields=[(b"x-request-timeout", b"soon")]), BadRequest)
        assert server.heads == []

    run(test, answering())


def test_an_answer_that_does_not_come_is_504_at_its_end_and_not_the_servers_fault() -> None:
    notes = Notes()

    async def test(bench: Bench, server: Server) -> None:
        began = monotonic()
        error = await bench.error("POST", HALF)
        assert isinstance(error, DeadlineExceeded)
        assert error.status == 504
        assert monotonic() - began >= 0.5
        assert notes.outcomes[0].error is error
        assert not notes.outcomes[0].is_failure

    run(test, hanging, watchers=(notes,))


def test_an_answer_that_has_begun_is_broken_off() -> None:
    async def test(bench: Bench, server: Server) -> None:
        answer = Answer()
        error = await bench.error(fields=HALF, answer=answer)
        assert isinstance(error, DeadlineExceeded)
        assert answer.status == 200
        assert answer.body
        assert not answer.is_complete

    run(test, dripping)


def test_an_answer_in_time_is_an_answer() -> None:
    async def test(bench: Bench, server: Server) -> None:
        assert (await bench.ask(fields=[(b"grpc-timeout", b"10S")])).is_complete

    run(test, answering())


def test_no_attempt_is_begun_that_would_end_too_late() -> None:
    async def test(bench: Bench, *servers: Server) -> None:
        await bench.error(fields=HALF)
        assert sum(len(server.heads) for server in servers) == 1

    class Late:
        def random(self) -> float:
            return 1.0

    async def slow(bench: Bench, *servers: Server) -> None:
        bench.forward.retrier.rng = Late()  # type: ignore[assignment]
        await test(bench, *servers)

    run(slow, breaking, breaking, retry={"backoff": {"base": "1m", "max": "1m"}})


@pytest.mark.parametrize("name", ["first_byte", "total"])
def test_the_routes_own_times_are_the_servers_fault(name: str) -> None:
    notes = Notes()

    async def test(bench: Bench, server: Server) -> None:
        assert isinstance(await bench.error("POST", [(b"x-request-timeout", b"1m")]), UpstreamTimeout)
        assert notes.outcomes[0].is_failure

    run(test, hanging, watchers=(notes,), timeouts={name: "100ms"})


@pytest.mark.parametrize("name", ["idle", "total"])
def test_an_answer_that_takes_too_long_is_broken_off(name: str) -> None:
    async def stalling(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n1\r\n.\r\n")
        await hanging(reader, writer)

    async def test(bench: Bench, server: Server) -> None:
        answer = Answer()
        assert isinstance(await bench.error(answer=answer), UpstreamTimeout)
        assert answer.body.startswith(b".")
        assert not answer.is_complete

    run(test, stalling if name == "idle" else dripping, timeouts={name: "200ms"})
