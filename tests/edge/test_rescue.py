import asyncio
import json
import logging
from collections.abc import Callable
from typing import Any

import pytest
from starlette.exceptions import HTTPException

from gateway import errors
from gateway.edge.rescue import Rescue
from gateway.errors import ClientLeft, DeadlineExceeded, Forbidden, GatewayError, TooManyRequests, UpstreamTruncated
from gateway.model import Exchange


class Wire:
    """The server's side: what was sent, and the status as the server notes it."""

    def __init__(self) -> None:
        self.exchange = Exchange("the-id", 0.0, "")
        self.exchange.answer_headers.append((b"x-request-id", b"the-id"))
        self.sent: list[dict[str, Any]] = []

    async def send(self, message: Any) -> None:
        self.sent.append(message)
        if message["type"] == "http.response.start":
            self.exchange.status = message["status"]

    def run(self, app: Callable[[Any, Any, Any], Any]) -> "Wire":
        scope = {"type": "http", "exchange": self.exchange}
        asyncio.run(Rescue(app)(scope, None, self.send))  # type: ignore[arg-type]
        return self

    @property
    def error(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self.sent[1]["body"])["error"]
        return found


def raising(error: BaseException, *, after: bool = False) -> Callable[[Any, Any, Any], Any]:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        if after:
            await send({"type": "http.response.start", "status": 200, "headers": []})
        raise error

    return app


def every_error(kind: type[GatewayError] = GatewayError) -> list[type[GatewayError]]:
    """The tree of errors.py: not what other modules derive from it for themselves."""
    own = [each for each in kind.__subclasses__() if each.__module__ == GatewayError.__module__]
    return [kind, *(deeper for each in own for deeper in every_error(each))]


@pytest.mark.parametrize("kind", every_error(), ids=lambda kind: kind.__name__)
def test_every_error_has_an_answer_in_one_shape(kind: type[GatewayError]) -> None:
    wire = Wire().run(raising(kind()))
    start, end = wire.sent
    assert start["status"] == kind.status
    fields = dict(start["headers"])
    assert fields[b"content-type"] == b"application/json"
    assert int(fields[b"content-length"]) == len(end["body"])
    assert fields[b"x-request-id"] == b"the-id"
    assert wire.error == {"message": kind.message, "type": kind.kind, "code": kind.code, "request_id": "the-id"}
    assert isinstance(wire.exchange.error, kind)


def test_every_error_says_whose_fault_it_is_and_fits_its_status() -> None:
    for kind in every_error():
        assert kind.owner in ("client", "gateway", "upstream")
        is_clients = 400 <= kind.status < 500 or kind is DeadlineExceeded  # of a time that the client itself has set
        assert (kind.owner == "client") == is_clients, kind
        assert kind.message.endswith(".")
        assert not kind.is_retryable or kind.owner == "upstream"


def test_an_error_brings_its_own_fields() -> None:
    wire = Wire().run(raising(TooManyRequests("Slow down.", headers=[(b"retry-after", b"7")])))
    assert dict(wire.sent[0]["headers"])[b"retry-after"] == b"7"
    assert wire.error["message"] == "Slow down."


@pytest.mark.parametrize(("status", "code"), [(404, "not_found"), (405, "method_not_allowed"), (418, "bad_request")])
def test_an_error_of_the_apps_own_routes_gets_the_same_shape(status: int, code: str) -> None:
    wire = Wire().run(raising(HTTPException(status, headers={"Allow": "GET"})))
    assert wire.error["code"] == code
    assert dict(wire.sent[0]["headers"])[b"allow"] == b"GET"


@pytest.mark.parametrize("bug", [ValueError("secret"), KeyError("x"), SystemExit(3), RecursionError()])
def test_a_bug_is_500_told_to_the_log_and_not_to_the_client(
    bug: BaseException, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.ERROR, "gateway.edge"):
        wire = Wire().run(raising(bug))
    assert (wire.sent[0]["status"], wire.error["code"]) == (500, "internal_error")
    assert "secret" not in json.dumps(wire.error)
    assert "the-id" in caplog.text
    assert type(bug).__name__ in caplog.text


def test_an_app_that_answers_nothing_is_500(caplog: pytest.LogCaptureFixture) -> None:
    async def silent(scope: Any, receive: Any, send: Any) -> None:
        return

    wire = Wire().run(silent)
    assert wire.error["code"] == "internal_error"
    assert "the-id" in caplog.text


@pytest.mark.parametrize("error", [UpstreamTruncated(), ValueError()])
def test_an_answer_that_has_begun_is_left_broken(error: Exception) -> None:
    wire = Wire()
    with pytest.raises(GatewayError):
        wire.run(raising(error, after=True))
    assert [message["type"] for message in wire.sent] == ["http.response.start"]
    assert isinstance(wire.exchange.error, GatewayError)


def test_nobody_is_answered_who_has_left() -> None:
    wire = Wire()
    wire.exchange.departed = True
    wire.run(raising(Forbidden()))
    assert wire.sent == []
    assert isinstance(wire.exchange.error, ClientLeft)


def test_who_failed_first_is_remembered_when_the_client_left_over_it() -> None:
    wire = Wire()
    wire.exchange.departed = True
    wire.exchange.status = 200
    wire.run(raising(UpstreamTruncated()))
    assert isinstance(wire.exchange.error, UpstreamTruncated)


@pytest.mark.parametrize(("departed", "kind"), [(True, ClientLeft), (False, GatewayError)])
def test_a_cancellation_goes_through(departed: bool, kind: type[GatewayError]) -> None:
    wire = Wire()
    wire.exchange.departed = departed
    with pytest.raises(asyncio.CancelledError):
        wire.run(raising(asyncio.CancelledError()))
    assert type(wire.exchange.error) is kind
    assert wire.sent == []


def test_what_is_no_request_passes() -> None:
    seen = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        seen.append(scope["type"])

    asyncio.run(Rescue(app)({"type": "lifespan"}, None, None))  # type: ignore[arg-type]
    assert seen == ["lifespan"]


def test_no_two_errors_are_told_apart_by_nothing() -> None:
    """A code means one thing: errors that share one share their status."""
    by_code: dict[str, set[int]] = {}
    for kind in every_error():
        by_code.setdefault(kind.code, set()).add(kind.status)
    assert {code: found for code, found in by_code.items() if len(found) > 1} == {}
    assert errors.BadRequest.code in by_code
