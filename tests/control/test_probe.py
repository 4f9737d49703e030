"""Probing over real sockets: servers that answer well, badly, slowly, strangely or not at all."""

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from random import Random

import pytest

from gateway.config.settings import HealthSettings
from gateway.control import probe
from gateway.control.http import BODY
from gateway.control.probe import Check, Prober, Target
from gateway.core.endpoint import Health

QUICK = Check("/ready", interval=0.02, timeout=2.0, rise=2, fall=2, expect=frozenset())
OK = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok"
BROKEN = b"HTTP/1.1 500 Oh\r\ncontent-length: 0\r\n\r\n"


class Server:
    """Answers each request with `answer`, which a test may change; b"" closes, None hangs."""

    def __init__(self) -> None:
        self.answer: bytes | None = OK
        self.hangs_at: bytes | None = None  # a path that is never answered
        self.heads: list[bytes] = []
        self.connections = 0
        self.stale = 0  # so many kept connections will end as they are used again
        self.open = 0
        self.most_open = 0
        self.pause = 0.0
        self.url = ""
        self.handling: dict[asyncio.Task[None], asyncio.StreamWriter] = {}

    async def handle(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self.handling[task] = writer
        self.connections += 1
        try:
            await self._serve(reader, writer)
        except (ConnectionError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.close()
            del self.handling[task]

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        is_used = False
        while True:
            head = await reader.readuntil(b"\r\n\r\n")
            self.heads.append(head)
            if is_used and self.stale:
                self.stale -= 1
                return
            self.open += 1
            self.most_open = max(self.most_open, self.open)
            await asyncio.sleep(self.pause)
            while self.answer is None or head.split(b" ")[1] == self.hangs_at:
                await asyncio.sleep(0.005)
            self.open -= 1
            writer.write(self.answer)
            await writer.drain()
            is_used = True
            if self.answer == b"":
                return

    async def close(self) -> None:
        self.answer, self.hangs_at = OK, None
        for writer in self.handling.values():
            writer.close()
        while self.handling:
            await asyncio.wait(self.handling, timeout=5)


@asynccontextmanager
async def a_server() -> AsyncIterator[Server]:
    server = Server()
    listener = await asyncio.start_server(server.handle, "127.0.0.1", 0)
    port = listener.sockets[0].getsockname()[1]
    server.url = f"http://127.0.0.1:{port}"
    try:
        yield server
    finally:
        listener.close()
        await server.close()


class Told:
    """What the prober tells, in order."""

    def __init__(self) -> None:
        self.calls: list[tuple[str, Health, str]] = []
        self.news = asyncio.Event()

    def __call__(self, url: str, health: Health, reason: str) -> None:
        self.calls.append((url, health, reason))
        self.news.set()

    def states(self, url: str) -> list[Health]:
        return [health for known, health, _ in self.calls if known == url]

    async def until(self, url: str, health: Health) -> str:
        """Wait until `url` is told to be `health`; the reason given."""
        async with asyncio.timeout(10):
            while not self.states(url) or self.states(url)[-1] is not health:
                self.news.clear()
                await self.news.wait()
        return next(reason for known, state, reason in reversed(self.calls) if (known, state) == (url, health))


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(10):
        while not condition():
            await asyncio.sleep(0.002)


def probing(scenario: Callable[[Prober, Told, Server], Awaitable[None]]) -> None:
    """Run a scenario with a prober, what it tells, and a server."""

    async def run() -> None:
        told = Told()
        prober = Prober(told, rng=Random(1))
        async with a_server() as server:
            try:
                await scenario(prober, told, server)
            finally:
                await prober.close()

    asyncio.run(run())


def test_a_good_answer_brings_an_endpoint_up_and_bad_ones_take_it_down_and_it_comes_back() -> None:
    async def scenario(prober: Prober, told: Told, server: Server) -> None:
        prober.update([Target(server.url, QUICK)])
        assert told.calls == [(server.url, Health.CHECKING, "configured")]
        assert await told.until(server.url, Health.UP) == "status 200"
        server.answer = BROKEN
        assert await told.until(server.url, Health.DOWN) == "status 500"
        server.answer = OK
        await told.until(server.url, Health.UP)
        assert told.states(server.url) == [Health.CHECKING, Health.UP, Health.DOWN, Health.PROBATION, Health.UP]
        assert prober.states == {server.url: Health.UP}
        assert repr(prober) == "<Prober of 1 targets: 1 up>"

    probing(scenario)


def test_the_question_is_a_get_of_the_path_after_the_endpoints_own_prefix() -> None:
    async def scenario(prober: Prober, told: Told, server: Server) -> None:
        prober.update([Target(server.url + "/base/", QUICK._replace(path="/v2/health/ready?deep=1"))])
        await told.until(server.url + "/base/", Health.UP)
        lines = server.heads[0].decode().lower().split("\r\n")
        assert lines[0] == "get /base/v2/health/ready?deep=1 http/1.1"
        assert f"host: {server.url.removeprefix('http://')}" in lines

    probing(scenario)


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (BROKEN, "status 500"),
        (b"HTTP/1.1 404 No\r\ncontent-length: 0\r\n\r\n", "status 404"),
        (None, "no answer within 0.05 s"),
        (b"", "NoAnswer: the connection ended before an answer"),
        (b"SSH-2.0-OpenSSH\r\n\r\n", "NoAnswer: no answer in HTTP"),
        (bytes(BODY + 1), "NoAnswer: no "),
        (b"HTTP/1.1 200 OK\r\nx-y: " + b"z" * BODY + b"\r\n", f"NoAnswer: no end of its head within {BODY} bytes"),
        (b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nok", "no answer within 0.05 s"),
    ],
)
def test_a_bad_answer_is_bad(answer: bytes | None, reason: str, caplog: pytest.LogCaptureFixture) -> None:
    async def scenario(prober: Prober, told: Told, server: Server) -> None:
        server.answer = answer
        prober.update([Target(server.url, QUICK._replace(timeout=0.05))])
        assert (await told.until(server.url, Health.DOWN)).startswith(reason)
        server.answer = OK
        await told.until(server.url, Health.UP)

    probing(scenario)
    assert not [record for record in caplog.records if record.exc_info or record.levelno >= logging.ERROR]


def test_a_server_that_refuses_connections_is_down() -> None:
    async def scenario(prober: Prober, told: Told, server: Server) -> None:
        async with a_server() as gone:
            url = gone.url
        prober.update([Target(url, QUICK)])
        assert "refused" in (await told.until(url, Health.DOWN)).lower() or "Connect call failed" in told.calls[-1][2]
        assert told.calls[-1][2].startswith("ConnectionRefusedError: ")

    probing(scenario)


def test_redirects_count_by_their_status_and_are_not_followed() -> None:
    async def scenario(prober: Prober, told: Told, server: Server) -> None:
        server.answer = b"HTTP/1.1 302 Found\r\nlocation: /elsewhere\r\ncontent-length: 0\r\n\r\n"
        prober.update([Target(server.url, QUICK)])
        assert await told.until(server.url, Health.UP) == "status 302"
        await until(lambda: len(server.heads) > 2)
        assert not [head for head in server.heads if b"elsewhere" in head]

    probing(scenario)


def test_no_cookie_is_carried_from_check_to_check() -> None:
    async def scenario(prober: Prober, told: Told, server: Server) -> None:
        server.answer = b"HTTP/1.1 200 OK\r\nset-cookie: a=b\r\ncontent-length: 0\r\n\r\n"
        prober.update([Target(server.url, QUICK)])
        await until(lambda: len(server.heads) > 2)
        assert not [head for head in server.heads if b"cookie" in head.lower()]

    probing(scenario)


def test_only_expected_statuses_are_good_where_some_are_named() -> None:
    async def scenario(prober: Prober, told: Told, server: Server) -> None:
        server.answer = b"HTTP/1.1 401 No\r\ncontent-length: 0\r\n\r\n"
        settings = HealthSettings(path="/ready", interval="20ms", fall=2, expect=[401, 403])
        prober.update([Target.of(server.url, settings)])
        assert await told.until(server.url, Health.UP) == "status 401"
        server.answer = OK
        assert await told.until(server.url, Health.DOWN) == "status 200"

    probing(scenario)


def test_a_body_without_end_is_left_and_the_verdict_stands() -> None:
    async def scenario(prober: Prober, told: Told, server: Server) -> None:
        server.answer = b"HTTP/1.1 200 OK\r\ncontent-length: 999999999\r\n\r\n" + bytes(BODY + 1)
        prober.update([Target(server.url, QUICK)])
        assert await told.until(server.url, Health.UP) == "status 200"

    probing(scenario)


@pytest.mark.parametrize(
    "answer",
    [
        b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n",
        b"HTTP/1.1 103 Early Hints\r\nlink: </a>\r\n\r\n" + OK,
        b"HTTP/1.1 204 No Content\r\n\r\n",
    ],
)
def test_an_answer_that_says_where_it_ends_keeps_its_connection(answer: bytes) -> None:
    async def scenario(prober: Prober, told: Told, server: Server) -> None:
        server.answer = answer
        prober.update([Target(server.url, QUICK)])
        assert (await told.until(server.url, Health.UP))[:9] in ("status 20", "status 204")
        await until(lambda: len(server.heads) > 4)
        assert server.connections == 1

    probing(scenario)


@pytest.mark.parametrize(
    "answer", [OK + OK, OK + b"surplus", b"HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: 0\r\n\r\n"]
)
def test_a_connection_that_has_more_to_say_or_is_to_be_closed_is_not_used_again(answer: bytes) -> None:
    async def scenario(prober: Prober, told: Told, server: Server) -> None:
        server.answer = answer
        prober.update([Target(server.url, QUICK)])
        await until(lambda: len(server.heads) > 4)
        assert server.connections == len(server.heads)
        assert await told.until(server.url, Health.UP) == "status 200"

    probing(scenario)


def test_each_of_many_endpoints_keeps_its_connection_and_looks_at_no_others() -> None:
    """A pool of all of them was searched for each check: of 200 good endpoints a quarter had no answer in time."""

    async def scenario(prober: Prober, told: Told, server: Server) -> None:
        urls = [f"{server.url}/{number}" for number in range(200)]
        prober.update([Target(url, QUICK._replace(interval=0.2, timeout=10.0)) for url in urls])
        await until(lambda: len(server.heads) > 600)
        assert server.connections == 200

    probing(scenario)


def test_a_connection_is_used_again() -> None:
    async def scenario(prober: Prober, told: Told, server: Server) -> None:
        prober.update([Target(server.url, QUICK)])
        await until(lambda: len(server.heads) > 4)
        assert server.connections == 1

    probing(scenario)


def test_a_connection_that_went_stale_says_nothing_of_the_endpoint() -> None:
    """The server closes as the next request arrives: one bad check would be DOWN with fall = 1."""

    async def scenario(prober: Prober, told: Told, server: Server) -> None:
        prober.update([Target(server.url, QUICK._replace(fall=1))])
        await told.until(server.url, Health.UP)
        for _ in range(3):
            server.stale, seen = 1, len(server.heads)
            await until(lambda seen=seen: not server.stale and len(server.heads) > seen + 3)
        assert server.connections > 3
        assert Health.DOWN not in told.states(server.url)

    probing(scenario)


def test_without_a_check_an_endpoint_is_up_and_not_asked() -> None:
    async def scenario(prober: Prober, told: Told, server: Server) -> None:
        prober.update([Target.of(server.url, None)])
        assert told.calls == [(server.url, Health.UP, "configured")]
        await asyncio.sleep(0.05)
        assert server.connections == 0

    probing(scenario)


def test_draining_is_kept_while_it_is_configured_and_then_it_is_checked_anew() -> None:
    async def scenario(prober: Prober, told: Told, server: Server) -> None:
        prober.update([Target(server.url, QUICK)])
        await told.until(server.url, Health.UP)
        prober.update([Target(server.url, QUICK, drain=True)])
        assert told.states(server.url)[-1] is Health.DRAINING
        asked = len(server.heads)
        await asyncio.sleep(0.1)
        assert len(server.heads) <= asked + 1  # it is not asked, but for a check already under way
        assert told.states(server.url)[-1] is Health.DRAINING
        prober.update([Target(server.url, QUICK)])
        await told.until(server.url, Health.UP)
        assert told.states(server.url)[-3:] == [Health.DRAINING, Health.CHECKING, Health.UP]

    probing(scenario)


def test_one_endpoint_shared_by_pools_is_asked_once() -> None:
    async def scenario(prober: Prober, told: Told, server: Server) -> None:
        slow = QUICK._replace(interval=60.0)
        prober.update([Target(server.url, slow), Target(server.url, slow), Target(server.url, slow)])
        await told.until(server.url, Health.UP)
        prober.update([Target(server.url, slow), Target(server.url, slow)])
        await asyncio.sleep(0.05)
        assert len(server.heads) == 1

    probing(scenario)


def test_a_server_is_as_open_as_its_most_hopeful_check_says() -> None:
    async def scenario(prober: Prober, told: Told, server: Server) -> None:
        bad, good = Target(server.url, QUICK._replace(path="/a")), Target(server.url, QUICK._replace(path="/b"))
        server.answer = BROKEN
        prober.update([bad])
        await told.until(server.url, Health.DOWN)
        server.hangs_at, server.answer = b"/a", OK
        prober.update([bad, good])
        assert told.states(server.url)[-1] is Health.CHECKING
        await told.until(server.url, Health.UP)
        prober.update([good, Target(server.url, QUICK._replace(path="/a", timeout=60.0), drain=True)])
        prober.update([good, Target(server.url, QUICK._replace(path="/a", timeout=60.0))])
        await asyncio.sleep(0.05)
        assert told.states(server.url) == [Health.CHECKING, Health.DOWN, Health.CHECKING, Health.UP]

    probing(scenario)


def test_what_stays_keeps_its_state_and_what_goes_is_asked_no_more() -> None:
    async def scenario(prober: Prober, told: Told, server: Server) -> None:
        async with a_server() as other:
            kept, gone = Target(server.url, QUICK), Target(other.url, QUICK)
            prober.update([kept, gone])
            await told.until(server.url, Health.UP)
            await told.until(other.url, Health.UP)
            retimed = Target(server.url, QUICK._replace(interval=0.01, rise=5))
            prober.update([retimed])
            asked, others_asked = len(server.heads), len(other.heads)
            await until(lambda: len(server.heads) > asked + 12)
            assert told.states(server.url) == [Health.CHECKING, Health.UP]
            assert prober.states == {server.url: Health.UP}
            assert len(other.heads) <= others_asked + 1
            prober.update([retimed, gone])
            assert told.states(other.url)[-1] is Health.CHECKING

    probing(scenario)


def test_checks_under_way_at_once_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(probe, "CONCURRENCY", 3)

    async def scenario(prober: Prober, told: Told, server: Server) -> None:
        server.pause = 0.01
        urls = [f"{server.url}/{number}" for number in range(12)]
        prober.update([Target(url, QUICK._replace(interval=60.0)) for url in urls])
        for url in urls:
            await told.until(url, Health.UP)
        assert server.most_open == 3

    probing(scenario)


def test_doubt_is_resolved_quickly() -> None:
    """Three failures in the time of two fifths of an interval, not of two intervals."""

    async def scenario(prober: Prober, told: Told, server: Server) -> None:
        server.answer = BROKEN
        loop = asyncio.get_running_loop()
        began = loop.time()
        prober.update([Target(server.url, QUICK._replace(interval=0.6, fall=3))])
        await told.until(server.url, Health.DOWN)
        assert 2 * 0.12 * 0.9 <= loop.time() - began < 2 * 0.6 * 0.9

    probing(scenario)


def test_a_transition_is_one_line_in_the_log(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "gateway.control.probe")
    url = ""

    async def scenario(prober: Prober, told: Told, server: Server) -> None:
        nonlocal url
        url = server.url
        prober.update([Target(server.url, QUICK)])
        await told.until(server.url, Health.UP)
        server.answer = BROKEN
        await told.until(server.url, Health.DOWN)

    probing(scenario)
    assert [(record.levelname, record.getMessage()) for record in caplog.records] == [
        ("INFO", f"endpoint {url}: checking -> up: status 200"),
        ("WARNING", f"endpoint {url}: up -> down: status 500"),
    ]


def test_an_error_of_the_listener_ends_no_probing_and_is_told_again(caplog: pytest.LogCaptureFixture) -> None:
    async def run() -> None:
        calls: list[Health] = []

        def on_change(url: str, health: Health, reason: str) -> None:
            calls.append(health)
            if calls.count(Health.UP) == 1:
                raise RuntimeError("no room")

        prober = Prober(on_change, rng=Random(1))
        async with a_server() as server:
            prober.update([Target(server.url, QUICK)])
            await until(lambda: calls.count(Health.UP) > 1)
            await prober.close()

    asyncio.run(run())
    (record,) = [record for record in caplog.records if record.levelno == logging.ERROR]
    assert "no room" in record.getMessage()
    assert record.exc_info is None


def test_a_closed_prober_asks_and_tells_nothing_more() -> None:
    async def scenario(prober: Prober, told: Told, server: Server) -> None:
        prober.update([Target(server.url, QUICK)])
        await told.until(server.url, Health.UP)
        await prober.close()
        asked, calls = len(server.heads), len(told.calls)
        server.answer = BROKEN
        await asyncio.sleep(0.08)
        assert (len(server.heads), len(told.calls)) == (asked, calls)
        assert not [task for task in asyncio.all_tasks() if "_watch" in repr(task)]

    probing(scenario)
