"""The outermost layer: every exchange is named, measured, counted once and logged once, however it ends."""

import asyncio
import json
from collections.abc import Awaitable, Callable
from ipaddress import ip_network
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from gateway.core.metrics import Meter, Totals
from gateway.edge.journal import Journal
from gateway.edge.meters import Recorder
from gateway.edge.observe import Observe
from gateway.errors import ClientLeft, NoEndpoint, TooManyRequests, UpstreamTruncated
from gateway.model import Exchange

App = Callable[[Any, Any, Any], Awaitable[None]]


class Clock:
    """Seconds that pass when told to."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


class World:
    """A layer over an app, a client before it, and what both leave behind."""

    def __init__(self, app: App, folder: Path, **options: Any) -> None:
        self.folder = folder
        self.clock = Clock()
        self.recorder = Recorder(0, folder / "metrics")
        self.options = options
        self.app = app
        self.sent: list[Any] = []
        self.scopes: list[dict[str, Any]] = []

    def run(self, *scopes: dict[str, Any], messages: tuple[dict[str, Any], ...] = ()) -> None:
        asyncio.run(self._run(scopes, messages))

    async def _run(self, scopes: tuple[dict[str, Any], ...], messages: tuple[dict[str, Any], ...]) -> None:
        journal = Journal(str(self.folder / "log"))
        layer = Observe(self.app, recorder=self.recorder, journal=journal, clock=self.clock, **self.options)
        incoming = list(messages)

        async def receive() -> Any:
            return incoming.pop(0) if incoming else {"type": "http.disconnect"}

        async def send(message: Any) -> None:
            self.sent.append(message)

        for scope in scopes or (request(),):
            self.scopes.append(scope)
            try:
                await layer(scope, receive, send)
            except (ZeroDivisionError, asyncio.CancelledError, UpstreamTruncated):
                pass
        assert not layer.live
        journal.close()
        self.recorder.flush()

    @property
    def totals(self) -> Totals:
        return self.recorder.totals

    @property
    def lines(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in (self.folder / "log").read_text().splitlines()]

    @property
    def line(self) -> dict[str, Any]:
        (line,) = self.lines
        return line

    @property
    def meter(self) -> Meter:
        (meter,) = self.totals.meters.values()
        return meter


def request(*headers: tuple[bytes, bytes], peer: str = "192.0.2.1", **more: Any) -> dict[str, Any]:
    client = (peer, 4711) if peer else None
    return {"type": "http", "method": "POST", "raw_path": b"/x", "headers": list(headers), "client": client, **more}


def answer(status: int = 200, *bodies: bytes) -> App:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": status, "headers": scope["exchange"].answer_headers})
        for body in bodies:
            await send({"type": "http.response.body", "body": body, "more_body": True})
        await send({"type": "http.response.body"})

    return app


def test_an_answer_is_counted_and_logged_once(tmp_path: Path) -> None:
    world = World(answer(201, b"four", b"fivefive"), tmp_path)
    world.run()
    assert world.meter.statuses == {201: 1}
    assert world.meter.bytes_out == 12
    assert (world.line["status"], world.line["bytes_out"], world.line["error_code"]) == (201, 12, None)
    assert world.totals.errors == {}


def test_the_body_that_comes_in_is_counted(tmp_path: Path) -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        while (await receive()).get("more_body"):
            pass
        await answer()(scope, receive, send)

    world = World(app, tmp_path)
    world.run(
        messages=(
            {"type": "http.request", "body": b"abc", "more_body": True},
            {"type": "http.request", "body": b"de", "more_body": False},
        )
    )
    assert world.meter.bytes_in == world.line["bytes_in"] == 5


def test_the_first_byte_and_the_whole_are_measured(tmp_path: Path) -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        world.clock.now += 0.25
        await send({"type": "http.response.body", "body": b"a", "more_body": True})
        world.clock.now += 1.75
        await send({"type": "http.response.body", "body": b"b"})

    world = World(app, tmp_path)
    world.run()
    assert (world.line["first_byte_ms"], world.line["total_ms"]) == (250.0, 2000.0)
    assert (world.meter.first_byte.sum, world.meter.duration.sum) == (0.25, 2.0)


def test_a_server_that_counts_itself_is_not_wrapped(tmp_path: Path) -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        seen.append((receive, send))
        scope["exchange"].status = 200
        scope["exchange"].bytes_out = 77
        scope["exchange"].first_byte = 1000.5

    async def main() -> None:
        layer = Observe(app, recorder=world.recorder, journal=None, clock=world.clock)
        await layer(request(exchange=exchange), "its receive", "its send")

    seen: list[Any] = []
    world = World(app, tmp_path)
    exchange = Exchange("", 1000.0, "")
    exchange.wire_counts = True
    asyncio.run(main())
    assert seen == [("its receive", "its send")]
    assert (world.meter.statuses, world.meter.bytes_out, world.meter.first_byte.sum) == ({200: 1}, 77, 0.5)
    assert (exchange.client_ip, exchange.request_id != "") == ("192.0.2.1", True)


async def _explode(scope: Any, receive: Any, send: Any) -> None:
    raise ZeroDivisionError


async def _be_cancelled(scope: Any, receive: Any, send: Any) -> None:
    raise asyncio.CancelledError


async def _say_nothing(scope: Any, receive: Any, send: Any) -> None:
    return


async def _be_left(scope: Any, receive: Any, send: Any) -> None:
    assert (await receive())["type"] == "http.disconnect"
    raise asyncio.CancelledError


async def _be_left_in_the_middle(scope: Any, receive: Any, send: Any) -> None:
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": b"a", "more_body": True})
    await receive()


async def _be_left_after_the_end(scope: Any, receive: Any, send: Any) -> None:
    await answer(200, b"a")(scope, receive, send)
    assert (await receive())["type"] == "http.disconnect"


async def _refuse(scope: Any, receive: Any, send: Any) -> None:
    scope["exchange"].error = TooManyRequests()
    await answer(429)(scope, receive, send)


async def _fail_unanswered(scope: Any, receive: Any, send: Any) -> None:
    scope["exchange"].error = NoEndpoint()


async def _be_told_that_the_client_left(scope: Any, receive: Any, send: Any) -> None:
    await send({"type": "http.response.start", "status": 200, "headers": []})
    scope["exchange"].error = ClientLeft()


async def _break_off(scope: Any, receive: Any, send: Any) -> None:
    await send({"type": "http.response.start", "status": 200, "headers": []})
    scope["exchange"].error = UpstreamTruncated()
    scope["exchange"].leave()  # the server hangs up, so that the client sees it
    raise UpstreamTruncated


@pytest.mark.parametrize(
    ("app", "status", "owner", "code"),
    [
        (_explode, 500, "gateway", "internal_error"),
        (_be_cancelled, 500, "gateway", "internal_error"),
        (_say_nothing, 500, "gateway", "internal_error"),
        (_be_left, 499, "client", "client_closed_request"),
        (_be_left_in_the_middle, 499, "client", "client_closed_request"),
        (_be_told_that_the_client_left, 499, "client", "client_closed_request"),
        (_be_left_after_the_end, 200, None, None),
        (_refuse, 429, "client", "rate_limit_exceeded"),
        (_fail_unanswered, 503, "upstream", "no_endpoint_available"),
        (_break_off, 200, "upstream", "upstream_truncated"),
    ],
)
def test_every_end_is_counted_once_under_its_status_and_owner(
    tmp_path: Path, app: App, status: int, owner: str | None, code: str | None
) -> None:
    world = World(app, tmp_path)
    world.run()
    assert world.meter.statuses == {status: 1}
    assert (world.line["status"], world.line["error_owner"], world.line["error_code"]) == (status, owner, code)
    assert world.totals.errors == ({("", owner, code): 1} if code else {})


def test_who_waits_is_told_when_a_foreign_server_says_that_the_client_left(tmp_path: Path) -> None:
    called: list[str] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        scope["exchange"].on_leave = lambda: called.append("left")
        await receive()

    World(app, tmp_path).run()
    assert called == ["left"]


def test_counts_are_by_the_names_of_the_configuration_alone(tmp_path: Path) -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        exchange = scope["exchange"]
        exchange.version = "made-up"
        if not world.totals.meters:
            exchange.route = SimpleNamespace(name="iris")
            exchange.pool = SimpleNamespace(version="v1")
            exchange.limit_verdict = "admitted"
        await answer()(scope, receive, send)

    world = World(app, tmp_path)
    world.run(request(), request())
    assert set(world.totals.meters) == {("iris", "v1"), ("", "")}
    assert world.totals.verdicts == {("iris", "admitted"): 1}
    assert [(line["model"], line["version"]) for line in world.lines] == [("iris", "v1"), (None, None)]


def test_requests_in_flight_are_seen_by_model(tmp_path: Path) -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        scope["exchange"].route = SimpleNamespace(name="iris")
        world.recorder.flush()
        seen.append(dict(world.totals.in_flight))
        await answer()(scope, receive, send)

    seen: list[dict[str, int]] = []
    world = World(app, tmp_path)
    world.run()
    assert seen == [{"iris": 1}]
    assert world.totals.in_flight == {}


def test_lines_that_the_log_dropped_are_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gateway.edge.journal.WAITING_BYTES", 0)
    world = World(answer(), tmp_path)
    world.run(request(), request())
    assert world.totals.lines_dropped == 2
    assert world.lines == []


def test_other_protocols_pass(tmp_path: Path) -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        seen.append(scope)

    seen: list[Any] = []
    World(app, tmp_path).run({"type": "lifespan"})
    assert seen == [{"type": "lifespan"}]


# --- names ---


def test_every_request_gets_its_own_id_and_the_client_is_told(tmp_path: Path) -> None:
    world = World(answer(), tmp_path)
    world.run(*[request() for _ in range(50)])
    told = [dict(message["headers"])[b"x-request-id"].decode() for message in world.sent if "status" in message]
    assert told == [line["request_id"] for line in world.lines]
    assert len(set(told)) == 50


def test_ids_of_two_workers_differ(tmp_path: Path) -> None:
    worlds = [World(answer(), tmp_path / name) for name in ("a", "b")]
    for world in worlds:
        world.folder.mkdir(exist_ok=True)
        world.run()
    assert worlds[0].line["request_id"] != worlds[1].line["request_id"]


PROXY = {"trusted": [ip_network("10.0.0.0/8")]}


@pytest.mark.parametrize(
    ("peer", "given", "is_kept"),
    [
        ("10.0.0.1", b"theirs-1", True),
        ("::ffff:10.0.0.1", b"theirs-1", True),
        ("192.0.2.1", b"theirs-1", False),
        ("10.0.0.1", b"forged\r\nline", False),
        ("10.0.0.1", b"x" * 129, False),
        ("", b"theirs-1", False),
    ],
)
def test_an_id_is_kept_if_a_trusted_proxy_gave_a_sane_one(
    tmp_path: Path, peer: str, given: bytes, is_kept: bool
) -> None:
    world = World(answer(), tmp_path, **PROXY)
    world.run(request((b"x-request-id", given), peer=peer))
    assert (world.line["request_id"] == given.decode()) is is_kept
    assert (dict(world.sent[0]["headers"])[b"x-request-id"] == given) is is_kept


def test_a_client_behind_a_trusted_proxy_is_known_by_its_own_address(tmp_path: Path) -> None:
    world = World(answer(), tmp_path, **PROXY)
    forwarded = (b"x-forwarded-for", b"6.6.6.6, 198.51.100.7")
    world.run(request(forwarded, peer="10.0.0.1"), request(forwarded, peer="192.0.2.1"))
    assert [line["client"] for line in world.lines] == ["198.51.100.7", "192.0.2.1"]
    assert [scope["exchange"].is_trusted for scope in world.scopes] == [True, False]


def test_nobody_is_trusted_by_default(tmp_path: Path) -> None:
    world = World(answer(), tmp_path)
    world.run(request((b"x-forwarded-for", b"6.6.6.6"), (b"x-request-id", b"theirs"), peer="127.0.0.1"))
    assert world.line["client"] == "127.0.0.1"
    assert world.line["request_id"] != "theirs"
