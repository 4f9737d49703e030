"""Bytes pass through: each as it arrives, however many there are, and no faster than the slower side takes them."""

import queue
import statistics
import threading
import time
import zlib
from collections.abc import Callable, Iterator
from contextlib import ExitStack

import pytest

from tests.e2e.harness import Gateway, served, until
from tests.e2e.harness_upstream import Connection, RawUpstream, Script, response
from tests.e2e.harness_usage import MIB, Peak
from tests.e2e.harness_wire import Wire

LARGE = 256 * MIB
BLOCK = bytes(range(256)) * (MIB // 256)
MEMORY = 40 * MIB  # that a worker may grow by, whatever the size of what passes
HELD = 24 * MIB  # that may be on its way between two ends: the kernel's buffers of four sockets, and ours
OK = b"HTTP/1.1 200 OK\r\nconnection: close\r\n"
WAIT = 15.0


class Valve:
    """A model server that sends or reads only as it is told."""

    def __init__(self) -> None:
        self.chunks: queue.Queue[bytes] = queue.Queue()  # to send next; an empty one ends the stream
        self.sent_at: list[float] = []
        self.sent = 0
        self.read = 0
        self.checksum = 0
        self.is_open = threading.Event()

    def stream(self, connection: Connection) -> None:
        """Sends each chunk when the test hands it over."""
        connection.read_request()
        connection.send(OK + b"content-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n")
        while chunk := self.chunks.get(timeout=WAIT):
            self.sent_at.append(time.monotonic())
            connection.send_chunk(chunk)
        connection.send_chunk(b"")

    def pour(self, connection: Connection) -> None:
        """Sends LARGE bytes as fast as they are taken."""
        connection.read_request()
        connection.send(OK + b"content-length: %d\r\n\r\n" % LARGE)
        connection.sock.settimeout(4 * WAIT)
        for _ in range(LARGE // MIB):
            connection.send(BLOCK)
            self.sent += MIB

    def drink(self, connection: Connection) -> None:
        """Reads a body, but not before it is told, and answers with its size."""
        size = int(connection.read_head().get("content-length") or 0)
        assert self.is_open.wait(4 * WAIT)
        self.take(connection.buffer)
        while self.read < size:
            data = connection.sock.recv(MIB)
            if not data:
                return
            self.take(data)
        connection.send(response(b"%d" % self.read))

    def take(self, data: bytes) -> None:
        self.read += len(data)
        self.checksum = zlib.crc32(data, self.checksum)


@pytest.fixture
def valve() -> Valve:
    return Valve()


@pytest.fixture(scope="module")
def valves() -> dict[str, Valve]:
    return {}


@pytest.fixture(scope="module")
def gateway(valves: dict[str, Valve]) -> Iterator[Gateway]:
    def script(name: str) -> Script:
        def play(connection: Connection) -> None:
            getattr(valves["now"], name)(connection)

        return play

    names = ["stream", "pour", "drink"]
    with ExitStack() as stack:
        upstreams = {name: stack.enter_context(RawUpstream(script(name))) for name in names}
        with Gateway({name: served([upstreams[name].url], auth=[]) for name in names}) as gateway:
            yield gateway


@pytest.fixture(autouse=True)
def _use(valves: dict[str, Valve], valve: Valve) -> None:
    valves["now"] = valve


@pytest.fixture
def client(gateway: Gateway) -> Iterator[Wire]:
    with gateway.raw() as client:
        client.sock.settimeout(4 * WAIT)
        yield client


def read_large(client: Wire, size: int) -> int:
    """Read `size` bytes of a body and keep none; -> their checksum."""
    checksum = zlib.crc32(client.buffer)
    left = size - len(client.buffer)
    client.buffer = b""
    while left:
        data = client.sock.recv(min(left, MIB))
        assert data, f"the stream ended {left} bytes early"
        checksum = zlib.crc32(data, checksum)
        left -= len(data)
    return checksum


def checksum_of(size: int) -> int:
    checksum = 0
    for _ in range(size // MIB):
        checksum = zlib.crc32(BLOCK, checksum)
    return checksum


# --- as it arrives ---


def test_each_event_arrives_before_the_next_one_is_sent(client: Wire, valve: Valve) -> None:
    client.send(b"GET /models/stream/x HTTP/1.1\r\nHost: a\r\n\r\n")
    answer = client.read_head()
    assert answer.get("content-type") == "text/event-stream"
    for number in range(50):
        event = b"data: %d\n\n" % number
        valve.chunks.put(event)
        assert client.read_until(b"\n\n\r\n") == b"%x\r\n%b\r\n" % (len(event), event)
    valve.chunks.put(b"")
    assert client.read_until(b"\r\n\r\n") == b"0\r\n\r\n"


def test_the_head_of_an_answer_arrives_before_its_body_is_begun(client: Wire, valve: Valve) -> None:
    client.send(b"GET /models/stream/x HTTP/1.1\r\nHost: a\r\n\r\n")
    assert client.read_head().status == 200
    assert valve.sent_at == []
    valve.chunks.put(b"")


def test_an_event_takes_a_moment_to_pass(client: Wire, valve: Valve) -> None:
    client.send(b"GET /models/stream/x HTTP/1.1\r\nHost: a\r\n\r\n")
    client.read_head()
    arrived = []
    for _ in range(100):
        valve.chunks.put(b"data: x\n\n")
        client.read_until(b"\n\n\r\n")
        arrived.append(time.monotonic())
    valve.chunks.put(b"")
    took = [after - before for before, after in zip(valve.sent_at, arrived, strict=True)]
    assert statistics.median(took) < 0.002, sorted(took)


# --- in constant memory ---


def test_a_large_answer_passes_whole_in_little_memory(gateway: Gateway, client: Wire) -> None:
    memory = Peak(gateway.pids())
    client.send(b"GET /models/pour/x HTTP/1.1\r\nHost: a\r\n\r\n")
    assert client.read_head().get("content-length") == str(LARGE)
    assert read_large(client, LARGE) == checksum_of(LARGE)
    assert memory.growth < MEMORY


def test_a_large_request_passes_whole_in_little_memory(gateway: Gateway, client: Wire, valve: Valve) -> None:
    memory = Peak(gateway.pids())
    valve.is_open.set()
    client.send(b"POST /models/drink/x HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n" % LARGE)
    for _ in range(LARGE // MIB):
        client.send(BLOCK)
    assert client.read_response().body == b"%d" % LARGE
    assert valve.checksum == checksum_of(LARGE)
    assert memory.growth < MEMORY


# --- no faster than the slower side ---


def test_a_client_that_reads_slowly_slows_the_model_server_down(gateway: Gateway, client: Wire, valve: Valve) -> None:
    memory = Peak(gateway.pids())
    client.send(b"GET /models/pour/x HTTP/1.1\r\nHost: a\r\n\r\n")
    client.read_head()
    stalled = settled(lambda: valve.sent)
    assert stalled < HELD
    read = read_some(client, 8 * MIB)
    until(lambda: valve.sent > stalled, "the model server to go on")
    assert settled(lambda: valve.sent) < read + HELD
    assert memory.growth < MEMORY


def test_a_model_server_that_reads_slowly_slows_the_client_down(gateway: Gateway, client: Wire, valve: Valve) -> None:
    memory = Peak(gateway.pids())
    sent = 0
    done = threading.Event()

    def upload() -> None:
        nonlocal sent
        client.send(b"POST /models/drink/x HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n" % (64 * MIB))
        for _ in range(64):
            client.send(BLOCK)
            sent += MIB
        done.set()

    sender = threading.Thread(target=upload, daemon=True)
    sender.start()
    assert settled(lambda: sent) < HELD
    valve.is_open.set()
    assert done.wait(WAIT)
    assert client.read_response().body == b"%d" % (64 * MIB)
    assert valve.checksum == checksum_of(64 * MIB)
    assert memory.growth < MEMORY


def settled(read: Callable[[], int]) -> int:
    """A count when it has stood still for a while."""
    before, now = -1, read()
    while now != before or not now:
        time.sleep(0.3)
        before, now = now, read()
    return now


def read_some(client: Wire, size: int) -> int:
    left = size
    while left:
        left -= len(client.sock.recv(min(left, MIB)))
    return size
