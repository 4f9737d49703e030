"""Asking engines over real sockets: those that answer, those that do not, and those that come and go."""

import asyncio
import logging
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import pytest

from gateway.control import engines
from gateway.control.engines import Engines, Source
from gateway.core.engines import Reading


@pytest.fixture(autouse=True)
def _often(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engines, "INTERVAL", 0.02)


def metrics(waiting: int) -> bytes:
    body = b"vllm:num_requests_waiting %d\nvllm:num_requests_running 2\nvllm:kv_cache_usage_perc 0.5\n" % waiting
    return b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n%b" % (len(body), body)


class Engine:
    """Answers every request with `answer`; None hangs."""

    def __init__(self) -> None:
        self.answer: bytes | None = metrics(1)
        self.asked: list[bytes] = []
        self.url = ""

    async def handle(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while True:
                self.asked.append((await reader.readuntil(b"\r\n\r\n")).split(b" ")[1])
                while self.answer is None:
                    await asyncio.sleep(0.005)
                writer.write(self.answer)
                await writer.drain()
        except (ConnectionError, asyncio.IncompleteReadError):
            writer.close()


@asynccontextmanager
async def asked(*paths: str) -> AsyncIterator[tuple[Engine, Engines, list[tuple[str, Reading]]]]:
    """An engine, whoever asks it at `paths`, and what was told."""
    engine, told = Engine(), list[tuple[str, Reading]]()
    listener = await asyncio.start_server(engine.handle, "127.0.0.1", 0)
    engine.url = f"http://127.0.0.1:{listener.sockets[0].getsockname()[1]}"
    asking = Engines(lambda url, reading: told.append((url, reading)))
    asking.update(Source(engine.url, path) for path in paths)
    try:
        yield engine, asking, told
    finally:
        engine.answer = engine.answer or metrics(0)
        await asking.close()
        listener.close()


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(20):
        while not condition():
            await asyncio.sleep(0.005)


def test_an_engine_is_asked_again_and_again_and_what_it_says_is_told() -> None:
    async def play() -> None:
        async with asked("/metrics") as (engine, _, told):
            await until(lambda: len(told) >= 2)
            engine.answer = metrics(7)
            await until(lambda: told[-1] == (engine.url, Reading(7, 2, 0.5)))
            assert told[0] == (engine.url, Reading(1, 2, 0.5))
            assert set(engine.asked) == {b"/metrics"}

    asyncio.run(play())


@pytest.mark.parametrize(
    ("answer", "why"),
    [
        (b"HTTP/1.1 404 No\r\ncontent-length: 0\r\n\r\n", "status 404"),
        (b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nhello", "no metrics of an engine that is known"),
        (b"nonsense\r\n\r\n", "RemoteProtocolError"),
        (None, "no answer within"),
    ],
)
def test_one_that_says_nothing_is_reported_once_and_heard_when_it_speaks_again(
    answer: bytes | None, why: str, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    caplog.set_level(logging.INFO, "gateway.control.engines")
    monkeypatch.setattr(engines, "_TIMEOUT", 0.3)

    async def play() -> None:
        async with asked("/metrics") as (engine, _, told):
            engine.answer = answer
            await until(lambda: any(why in line for line in caplog.messages))
            count = len(engine.asked)
            await until(lambda: len(engine.asked) >= count + 2)
            told.clear()
            engine.answer = metrics(3)
            await until(lambda: bool(told))
            await until(lambda: "again" in caplog.messages[-1])

    asyncio.run(play())
    assert len([line for line in caplog.messages if "does not tell" in line]) == 1


def test_a_source_that_is_taken_out_is_asked_no_more_and_one_that_stays_is_not_disturbed() -> None:
    async def play() -> None:
        async with asked("/a", "/b") as (engine, asking, _):
            await until(lambda: {b"/a", b"/b"} <= set(engine.asked))
            asking.update([Source(engine.url, "/b")])
            await asyncio.sleep(0.05)
            engine.asked.clear()
            await until(lambda: len(engine.asked) >= 3)
            assert set(engine.asked) == {b"/b"}

    asyncio.run(play())


def test_metrics_may_be_on_another_port() -> None:
    async def play() -> None:
        async with asked() as (engine, asking, told):
            url, _, port = engine.url.rpartition(":")
            asking.update([Source(f"{url}:1", "/metrics", int(port))])
            await until(lambda: bool(told))
            assert told[0][0] == f"{url}:1"

    asyncio.run(play())
