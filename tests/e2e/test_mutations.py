"""Mutated requests over real sockets: a gateway that runs, many clients at one time, a recording origin behind it.

`tests/server/test_requests_in_pieces.py` tries many more of them on the protocol class alone. Here the whole way is
tried: TLS, the layers, connections to the origin that clients share, and the answers on their way back. Behind each
mutant comes a last request that asks for the connection to be closed, so that each story has an end.
"""

import random
import socket
import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field

import pytest

from tests.e2e.harness import Gateway, served, until
from tests.e2e.harness_strict import Clean, meant_by, parse, smuggled
from tests.e2e.harness_upstream import Connection, RawUpstream
from tests.e2e.harness_wire import RawMessage, Wire
from tests.fuzz import mutations

CLIENTS = 12
FIRST = b"POST /first HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\nabc"  # in front of every second one
LAST = b"GET /last HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n"
# Bodies that never end are waited for; heads end, with the last request at the latest.
LIMITS = {"body_idle": "300ms", "headers_timeout": "5s", "keep_alive": "5s", "write_idle": "5s"}


@dataclass
class Recorder:
    """An origin that writes down what each request was, byte for byte, and answers who asked for what."""

    requests: list[bytes] = field(default_factory=list)

    def __call__(self, connection: Connection) -> None:
        while True:
            connection.received = connection.buffer  # behind a request: nothing, or it becomes part of the next
            try:
                request = connection.read_request()
            finally:
                if connection.received:
                    self.requests.append(connection.received)
            connection.send(echo(request))

    def by_sender(self) -> dict[str, list[Clean]]:
        """The requests by the address of who sent them, in their order. Raises Unclean."""
        found: dict[str, list[Clean]] = defaultdict(list)
        for data in self.requests:
            (request,) = parse(data)
            found[dict(request.fields)[b"x-forwarded-for"].decode()].append(request)
        return found


def echo(request: RawMessage) -> bytes:
    body = f"{request.get('x-forwarded-for')} {request.method} {request.target}".encode()
    return b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n" % len(body) + (b"" if request.method == "HEAD" else body)


def sent(gateway: Gateway, address: str, pieces: Sequence[bytes]) -> bytes:
    """All that a client at this address is answered."""
    sock = socket.create_connection(("127.0.0.1", gateway.port), 20, source_address=(address, 0))
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    with Wire(gateway.context.wrap_socket(sock, server_hostname="localhost")) as client:
        with suppress(OSError):  # it may have had its answer before it has said all
            for piece in pieces:
                client.send(piece)
                time.sleep(0)
        return client.read_to_end()


def in_pieces(dice: random.Random, raw: bytes) -> list[bytes]:
    cuts = sorted(dice.randrange(len(raw) + 1) for _ in range(dice.choice((0, 0, 1, 3))))
    return [raw[start:end] for start, end in zip([0, *cuts], [*cuts, len(raw)], strict=True) if start < end]


def answers(data: bytes, meant: Sequence[Clean]) -> list[tuple[int, bytes]]:
    """Status and body of each final answer. Fails on whatever is no answer."""
    found: list[tuple[int, bytes]] = []
    while data:
        head, end, data = data.partition(b"\r\n\r\n")
        assert end, f"an answer without an end: {head!r}"
        start, *lines = head.split(b"\r\n")
        assert start.startswith(b"HTTP/1.1 "), start
        status = int(start.split(b" ")[1])
        if status < 200:
            assert status == 100
            continue
        lengths = [int(line.partition(b":")[2]) for line in lines if line.startswith(b"content-length:")]
        assert len(lengths) == 1, head
        is_head = len(found) < len(meant) and meant[len(found)].method == b"HEAD"
        # A method is not known where the target behind it is none: such a refusal, the last answer, has its body.
        is_refusal = status >= 400 and len(data) in (0, lengths[0])
        size = len(data) if is_refusal else 0 if is_head else lengths[0]
        assert len(data) >= size, "an answer that breaks off"
        found.append((status, data[:size]))
        data = data[size:]
    return found


def problem(raw: bytes, address: str, forwarded: list[Clean], received: bytes) -> str:
    """ "" if a client's bytes became its own requests and no other, and each had its own answer and no other."""
    bad = smuggled(raw, forwarded)
    if bad:
        return bad
    meant, is_whole = meant_by(raw)
    found = answers(received, meant)
    complete = [request for request in forwarded if request.is_complete]
    expected = [
        b"" if request.method == b"HEAD" else b"%b %b %b" % (address.encode(), request.method, request.target)
        for request in complete
    ]
    if [body for status, body in found if status == 200] != expected:
        return f"answers {found} to {complete}"
    if not 1 <= len(found) <= len(meant) + (not is_whole):
        return f"{len(found)} answers to {len(meant)} requests"
    return ""


@pytest.fixture
def recorder() -> Recorder:
    return Recorder()


@pytest.fixture
def gateway(recorder: Recorder) -> Iterator[Gateway]:
    with RawUpstream(recorder) as origin:
        models = {"m": served([origin.url], auth=[], match=[{"prefix": "/"}])}
        with Gateway(models, {"gateway": {"limits": LIMITS, "workers": 2, "access_log": {"path": ""}}}) as gateway:
            yield gateway


@pytest.mark.timeout(3600)
@pytest.mark.parametrize("count", [400, pytest.param(30_000, marks=pytest.mark.slow)])
def test_no_mutants_bytes_become_anothers_and_each_request_has_one_answer_of_its_own(
    gateway: Gateway, recorder: Recorder, count: int
) -> None:
    dice = random.Random(count)
    seeds = mutations.seeds()
    raws = [dice.choice((b"", FIRST)) + mutations.mutant(dice, seeds) + LAST for _ in range(count)]
    addresses = [f"127.1.{index // 250}.{index % 250 + 1}" for index in range(count)]
    with ThreadPoolExecutor(CLIENTS) as pool:
        received = list(pool.map(sent, [gateway] * count, addresses, [in_pieces(dice, raw) for raw in raws]))
    until(lambda: gateway.in_flight() == 0, "the end of every request")
    forwarded = recorder.by_sender()
    assert sum(map(len, forwarded.values())) > count / 2, "there is something to judge"
    bad = [
        (raw, why)
        for raw, address, data in zip(raws, addresses, received, strict=True)
        if (why := problem(raw, address, forwarded.pop(address, []), data))
    ]
    assert bad == []
    assert not forwarded, "requests of nobody"
