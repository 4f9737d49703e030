"""The limits of a connection with their defaults, in process: sizes that real sockets would make slow to try."""

import asyncio
from time import monotonic

import pytest

from gateway.config.settings import Limits
from tests.server.client_side import Client, Outcome, outcomes

GET = b"GET /x HTTP/1.1\r\nHost: a\r\n"
CHUNKED = b"POST /x HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n"
KIB = 1024

SIZES = {
    "a line of 16 KiB": (GET + b"X: " + b"a" * (16 * KIB - 5) + b"\r\n\r\n", 200),
    "a line over 16 KiB": (GET + b"X: " + b"a" * (16 * KIB - 4) + b"\r\n\r\n", 431),
    "a name over 16 KiB": (GET + b"X" * 17 * KIB + b": a\r\n\r\n", 431),
    "a line that never ends": (GET + b"X: " + b"a" * 40 * KIB, 431),
    "a section of 60 KiB": (GET + (b"X: " + b"a" * 1000 + b"\r\n") * 60 + b"\r\n", 200),
    "a section over 64 KiB": (GET + (b"X: " + b"a" * 1000 + b"\r\n") * 66 + b"\r\n", 431),
    "a section that never ends": (GET + (b"X: " + b"a" * 1000 + b"\r\n") * 90, 431),
    "100 fields": (GET + b"X: 1\r\n" * 99 + b"\r\n", 200),
    "101 fields": (GET + b"X: 1\r\n" * 100 + b"\r\n", 431),
    "a target of 16 KiB": (b"GET /" + b"a" * (16 * KIB - 1) + b" HTTP/1.1\r\nHost: a\r\n\r\n", 200),
    "a target over 16 KiB": (b"GET /" + b"a" * 16 * KIB + b" HTTP/1.1\r\nHost: a\r\n\r\n", 414),
    "a target that never ends": (b"GET /" + b"a" * 17 * KIB, 414),
    "trailers of 15 KiB": (CHUNKED + b"0\r\n" + (b"X: " + b"a" * 1000 + b"\r\n") * 15 + b"\r\n", 200),
    "trailers over 16 KiB": (CHUNKED + b"0\r\n" + (b"X: " + b"a" * 1000 + b"\r\n") * 17 + b"\r\n", 431),
    "an extension of 15 KiB": (CHUNKED + b"1;x=" + b"a" * 15 * KIB + b"\r\nZ\r\n0\r\n\r\n", 200),
    "an extension over 16 KiB": (CHUNKED + b"1;x=" + b"a" * 25 * KIB + b"\r\nZ\r\n0\r\n\r\n", 431),
    "extensions over 16 KiB": (CHUNKED + (b"1;x=" + b"a" * 500 + b"\r\nZ\r\n") * 60 + b"0\r\n\r\n", 431),
}


@pytest.mark.parametrize("size", [None, 4000, 1000])
@pytest.mark.parametrize("name", SIZES)
def test_each_size_has_its_limit_however_it_arrives(name: str, size: int | None) -> None:
    raw, status = SIZES[name]
    pieces = [raw[at : at + size] for at in range(0, len(raw), size)] if size else [raw]
    (outcome,) = outcomes([pieces])
    assert outcome.statuses == [status]
    assert outcome.is_closed == (status != 200)


def dripped(body: bytes, every: float, limits: Limits, pause: float = 0.0) -> Outcome:
    """The outcome of a body that comes byte by byte."""

    async def drip() -> Outcome:
        client = Client(limits=limits)
        await client.send(b"POST /x HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n" % len(body))
        for byte in body:
            await asyncio.sleep(every)
            await client.send(bytes([byte]))
        return await client.finish()

    return asyncio.run(drip())


def test_a_body_below_its_rate_is_408_and_one_above_is_not() -> None:
    limits = Limits.model_validate({"body_idle": "50ms", "body_rate": 100})
    assert dripped(b"x" * 40, 0.02, limits).statuses == [408]
    limits = Limits.model_validate({"body_idle": "50ms", "body_rate": 1})
    assert dripped(b"x" * 20, 0.01, limits).statuses == [200]


def is_cut_off(takes: list[int], pause: float = 0.0, **limits: object) -> bool:
    """Whether a client is that takes so many bytes of an answer in each `write_idle`; for `pause` seconds behind each
    there is nothing more for it to take."""

    async def read() -> bool:
        client = Client(limits=Limits.model_validate({"write_idle": "60ms", **limits}))
        protocol, transport = client.protocol, client.transport
        transport.waiting = 10**8
        for taken in takes:
            protocol.pause_writing()
            await asyncio.sleep(0.03)
            transport.waiting -= taken // 2
            await asyncio.sleep(0.04)
            transport.waiting -= taken - taken // 2
            client.deadlines.sweep(monotonic())
            if pause:
                protocol.resume_writing()
                await asyncio.sleep(pause)
                client.deadlines.sweep(monotonic())
        is_aborted = transport.is_aborted
        await client.finish()
        return is_aborted

    return asyncio.run(read())


@pytest.mark.parametrize(
    ("takes", "rate", "is_cut"),
    [
        ([10_000_000] * 3, 10_000, False),
        ([100] * 3, 10_000, True),
        ([10_000_000, 100], 10_000, True),
        ([1] * 3, 0, False),
        ([1, 0], 0, True),
    ],
)
def test_who_takes_an_answer_below_its_rate_or_not_at_all_is_cut_off(
    takes: list[int], rate: int, *, is_cut: bool
) -> None:
    assert is_cut_off(takes, write_rate=rate) is is_cut


def test_time_in_which_there_is_nothing_to_take_is_not_the_clients() -> None:
    assert not is_cut_off([10_000] * 3, pause=0.2, write_rate=40_000)


def test_a_client_cannot_begin_its_time_anew_by_taking_a_little_just_before_the_end() -> None:
    async def read() -> int:
        client = Client(limits=Limits.model_validate({"write_idle": "100ms", "write_rate": 10_000}))
        protocol, transport, rounds = client.protocol, client.transport, 0
        transport.waiting = 1000
        while not transport.is_aborted:
            protocol.pause_writing()
            await asyncio.sleep(0.04)
            transport.waiting -= 5
            client.deadlines.sweep(monotonic())
            protocol.resume_writing()
            rounds += 1
        await client.finish()
        return rounds

    assert asyncio.run(asyncio.wait_for(read(), 20)) <= 4


def test_who_waits_for_100_continue_is_not_called_late() -> None:
    async def wait() -> float:
        begun = asyncio.Event()

        async def slow(scope: object, receive: object, send: object) -> None:
            begun.set()
            await asyncio.Event().wait()

        client = Client(app=slow)
        await client.send(GET.replace(b"GET", b"POST") + b"Expect: 100-continue\r\nContent-Length: 5\r\n\r\n")
        await begun.wait()
        deadline = client.protocol.deadline
        assert client.protocol.answer is not None
        assert client.protocol.answer.task is not None
        client.protocol.answer.task.cancel()
        await client.finish()
        return deadline

    assert asyncio.run(wait()) == float("inf")


def test_requests_behind_the_last_of_a_connection_are_not_begun() -> None:
    limits = Limits.model_validate({"requests": 3})
    (outcome,) = outcomes([[(GET + b"\r\n") * 5]], limits=limits)
    assert (outcome.statuses, outcome.is_closed) == ([200] * 3, True)
    assert outcome.written.count(b"connection: close") == 1
