"""Requests that are wrong in every way known: what reaches the origin behind the gateway is judged, strictly.

Three questions about what the origin received: did bytes of one client's request become (part of) another (smuggled),
would a strict parser refuse any of it (unclean), is its target or method odd (minor). None may happen, whatever the
client was answered.
"""

import base64
import json
import socket
import time
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import pytest

from tests.e2e.harness import ROOT, Gateway, served
from tests.e2e.harness_strict import Clean, Unclean, parse, smuggled
from tests.e2e.harness_upstream import Connection, RawUpstream, response
from tests.e2e.harness_wire import Wire

VECTORS = ROOT / "tests" / "e2e" / "vectors" / "http1_requests.jsonl"

# What the public set does not have.
OWN: list[dict[str, Any]] = [
    {"id": f"own-{name}", "raw": raw}
    for name, raw in {
        "clean": b"GET /r HTTP/1.1\r\nHost: a\r\n\r\n",
        "two-lengths": b"POST /r HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\nContent-Length: 4\r\n\r\nabcGET /s",
        "both-framings": b"POST /r HTTP/1.1\r\nHost: a\r\nContent-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n"
        b"0\r\n\r\nGET /smuggled HTTP/1.1\r\nHost: a\r\n\r\n",
        "gzip-chunked": b"POST /r HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
        "chunked-in-1.0": b"POST /r HTTP/1.0\r\nHost: a\r\nConnection: keep-alive\r\nTransfer-Encoding: chunked\r\n\r\n"
        b"0\r\n\r\nGET /smuggled HTTP/1.1\r\nHost: a\r\n\r\n",
        "odd-query": b'GET /r?a=|"\\ HTTP/1.1\r\nHost: a\r\n\r\n',
        "forbidden-trailer": b"POST /r HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n"
        b"1\r\nZ\r\n0\r\nHost: evil\r\nX-Admin: 1\r\n\r\n",
        "rtsp": b"ANNOUNCE /r RTSP/1.0\r\nHost: a\r\n\r\n",
        "trace": b"TRACE /r HTTP/1.1\r\nHost: a\r\n\r\n",
    }.items()
]


def vectors() -> list[dict[str, Any]]:
    lines = [json.loads(line) for line in VECTORS.read_text().splitlines()]
    public = [{"id": f"{v['src']}-{v['id']}", "raw": base64.b64decode(v["b64"] + "===")} for v in lines]
    return OWN + public


def echoing(connection: Connection) -> None:
    """Answers each request with its target."""
    while True:
        connection.send(response(connection.read_request().target.encode()))


@pytest.fixture(scope="module")
def origin() -> Iterator[RawUpstream]:
    with RawUpstream(echoing) as upstream:
        yield upstream


@pytest.fixture(scope="module")
def gateway(origin: RawUpstream) -> Iterator[Gateway]:
    with Gateway({"m": served([origin.url], auth=[], match=[{"prefix": "/"}])}) as gateway:
        yield gateway


def client_at(gateway: Gateway, address: str) -> Wire:
    """A client whose own address, which the origin is told, says which vector it sends."""
    sock = socket.create_connection(("127.0.0.1", gateway.port), source_address=(address, 0))
    return Wire(gateway.context.wrap_socket(sock, server_hostname="localhost"))


def address_of(index: int) -> str:
    return f"127.1.{index // 250}.{index % 250 + 1}"


def send_all(gateway: Gateway, found: Sequence[dict[str, Any]]) -> None:
    """Every vector on a connection of its own, and beside each, requests of somebody else's, answered as they should
    be."""
    with gateway.raw() as bystander:
        for index, vector in enumerate(found):
            with client_at(gateway, address_of(index)) as client:
                client.send(vector["raw"])
                for number in range(2):
                    target = f"/bystander/{index}/{number}"
                    bystander.send(f"GET {target} HTTP/1.1\r\nHost: b\r\n\r\n".encode())
                    assert bystander.read_response().body == target.encode(), vector["id"]


def settled(origin: RawUpstream) -> list[bytes]:
    """All that the origin received, on each connection, when nothing more comes."""
    seen = -1
    while seen != (seen := sum(len(connection.received) for connection in list(origin.connections))):
        time.sleep(0.3)
    return [connection.received for connection in origin.connections]


def by_sender(received: Iterable[bytes]) -> dict[str, list[Clean]]:
    """The requests by the address of who sent them. Raises Unclean."""
    found: dict[str, list[Clean]] = defaultdict(list)
    for data in received:
        for request in parse(data):
            found[dict(request.fields)[b"x-forwarded-for"].decode()].append(request)
    return found


def test_what_reaches_the_origin_is_clean_and_is_what_each_client_sent(gateway: Gateway, origin: RawUpstream) -> None:
    found = vectors()
    send_all(gateway, found)
    received = by_sender(settled(origin))
    forwarded = [received[address_of(index)] for index in range(len(found))]
    assert sum(map(bool, forwarded)) >= len(OWN) // 4, "the judge has nothing to judge"
    assert [f"{v['id']}: {bad}" for v, f in zip(found, forwarded, strict=True) if (bad := smuggled(v["raw"], f))] == []


@pytest.mark.parametrize(
    "data",
    [
        b"GET /x HTTP/1.1\r\n\r\n",
        b"GET /x HTTP/1.1\r\nHost: a\r\nX: a\x00b\r\n\r\n",
        b"GET /x HTTP/1.1\r\nHost: a\r\nX: a\rb\r\n\r\n",
        b'GET /"x HTTP/1.1\r\nHost: a\r\n\r\n',
        b"POST /x HTTP/1.1\r\nHost: a\r\nContent-Length: 03\r\n\r\nabc",
        b"POST /x HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        b"POST /x HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n1;x\r\nZ\r\n0\r\n\r\n",
        b"POST /x HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n0\r\nX: 1\r\n\r\n",
        b"CONNECT a:1 HTTP/1.1\r\nHost: a\r\n\r\n",
        b"GET /x HTTP/1.1\r\nHost: a\r\n\r\nleft over",
    ],
)
def test_the_judge_refuses_what_a_gateway_must_not_send(data: bytes) -> None:
    with pytest.raises(Unclean):
        parse(data)


def test_the_judge_calls_a_request_that_was_hidden_in_another_smuggled() -> None:
    hidden = b"GET /s HTTP/1.1\r\nHost: a\r\n\r\n"
    carrier = b"POST /c HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n" % len(hidden)
    assert smuggled(carrier + hidden, parse(carrier + hidden)) == ""
    assert smuggled(carrier + hidden, parse(b"POST /c HTTP/1.1\r\nHost: a\r\n\r\n" + hidden)) != ""
