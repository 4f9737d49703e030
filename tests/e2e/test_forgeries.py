"""The whole table of forged tokens over real connections: each is refused, and none makes the gateway fail."""

import importlib.util
import time
from collections.abc import Iterator
from types import ModuleType

import pytest

from tests.e2e.harness import Gateway, served, temporary_folder
from tests.e2e.harness_upstream import RawUpstream, answering
from tests.edge import auth_makers, test_auth_forgeries
from tests.edge.auth_makers import ISSUER, OTHER


@pytest.fixture(scope="module")
def table() -> ModuleType:
    """The tables anew, with times around the present instead of around `NOW`."""
    spec = importlib.util.spec_from_file_location("forgeries_of_today", test_auth_forgeries.__file__)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(auth_makers, "NOW", float(int(time.time())))
        spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def upstream() -> Iterator[RawUpstream]:
    with RawUpstream(answering(b"ok")) as upstream:
        yield upstream


@pytest.fixture(scope="module")
def gateway(upstream: RawUpstream) -> Iterator[Gateway]:
    folder = temporary_folder("gateway-forgeries-")
    (folder / "ours.json").write_bytes(auth_makers.our_keys())
    (folder / "other.json").write_bytes(auth_makers.other_keys())
    entries = [
        {"issuer": ISSUER, "audience": ["models"], "jwks_file": "ours.json"},
        {"issuer": OTHER, "audience": ["models"], "jwks_file": "other.json", "algorithms": ["ES256"]},
    ]
    models = {"iris": served([upstream.url], auth=["jwt"])}
    with Gateway(models, {"auth": {"jwt": entries, "failures": {"rate": None}}}, folder=folder) as gateway:
        yield gateway


# A second beyond the leeway, which has passed by the time they are sent. Far ones are in `test_auth.py`.
CLOSE = {"not yet valid", "issued in the future"}
FLEETING = {"expired within the leeway", "expiry in a fraction"}  # good for less than a second


def ask(gateway: Gateway, token: bytes) -> int:
    """The status, by exact bytes: no client of ours mends a token."""
    with gateway.raw() as client:
        client.send(b"GET /models/iris/x HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer " + token + b"\r\n\r\n")
        return client.read_response().status


def test_every_forgery_is_refused_and_none_is_a_failure_of_the_gateway(
    gateway: Gateway, upstream: RawUpstream, table: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(auth_makers, "NOW", table.NOW)
    honest = {name: ask(gateway, make()) for name, make in table.HONEST.items() if name not in FLEETING}
    assert set(honest.values()) == {200}, honest
    before = len(upstream.requests)
    found = {name: ask(gateway, make()) for name, (_, make) in table.FORGERIES.items() if name not in CLOSE}
    assert len(found) > 100
    assert {name: status for name, status in found.items() if status not in (400, 401, 431)} == {}
    assert sum(status == 400 for status in found.values()) < 10, "nearly all are looked at as tokens"
    assert len(upstream.requests) == before
    assert "Traceback" not in gateway.output
