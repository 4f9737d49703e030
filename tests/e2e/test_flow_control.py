"""The slower side sets the pace of twenty transfers of a GiB at one time, in a memory that does not depend on their
size. Nobody waits for their end: what would be buffered is there within a moment."""

import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, suppress

import pytest

from tests.e2e.harness import Gateway, served, until
from tests.e2e.harness_upstream import Connection, RawUpstream
from tests.e2e.harness_usage import MIB, Peak, private
from tests.e2e.harness_wire import Wire

GIB = 1024 * MIB
COUNT = 20
BLOCK = bytes(MIB)
MEMORY = 100 * MIB  # of the worker: all that it has for itself, at its most
HELD = 12 * MIB  # that may be on its way of one transfer: the kernel's buffers of four sockets, and ours
SECONDS = 2.0  # that the slow side is slow for; it could take 7 GiB in that time
SIP = 16 * 1024  # of which it takes one every 50 ms


class Flow:
    """What has passed so far, at the model server's end."""

    def __init__(self) -> None:
        self.sent: dict[int, int] = {}  # by connection
        self.read: dict[int, int] = {}

    def pour(self, connection: Connection) -> None:
        """A GiB, as fast as it is taken."""
        connection.read_request()
        connection.send(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n" % GIB)
        connection.sock.settimeout(60)
        self.sent[connection.index] = 0
        while self.sent[connection.index] < GIB:
            self.sent[connection.index] += connection.sock.send(BLOCK)

    def sip(self, connection: Connection) -> None:
        """Reads a GiB, slowly."""
        connection.read_head()
        self.read[connection.index] = 0
        while data := connection.sock.recv(SIP):
            self.read[connection.index] += len(data)
            time.sleep(0.05)


class Memory:
    """The most that the worker has for itself, from here on."""

    def __init__(self, gateway: Gateway) -> None:
        (pid,) = gateway.pids()
        self.before = private(pid)
        self.peak = Peak([pid])

    @property
    def most(self) -> int:
        return self.before + self.peak.growth


@pytest.fixture
def flow() -> Flow:
    return Flow()


@pytest.fixture
def gateway(flow: Flow) -> Iterator[Gateway]:
    with ExitStack() as stack:
        urls = {name: stack.enter_context(RawUpstream(getattr(flow, name))).url for name in ("pour", "sip")}
        with Gateway({name: served([url], auth=[]) for name, url in urls.items()}) as gateway:
            yield gateway


@pytest.fixture
def clients(gateway: Gateway) -> Iterator[list[Wire]]:
    with ExitStack() as stack:
        yield [stack.enter_context(gateway.raw()) for _ in range(COUNT)]


def test_twenty_slow_readers_of_a_fast_gib_cost_a_worker_little_memory(
    gateway: Gateway, clients: list[Wire], flow: Flow
) -> None:
    memory = Memory(gateway)
    for client in clients:
        client.send(b"GET /models/pour/x HTTP/1.1\r\nHost: a\r\n\r\n")
        assert client.read_head().get("content-length") == str(GIB)
    read = 0
    end = time.monotonic() + SECONDS
    while time.monotonic() < end:
        for client in clients:
            read += len(client.sock.recv(SIP))
        time.sleep(0.05)
    assert read >= COUNT * SIP
    assert len(flow.sent) == COUNT
    assert sum(flow.sent.values()) - read < COUNT * HELD, "the model server is slowed down"
    assert memory.most < MEMORY
    for client in clients:
        client.close()
    until(lambda: gateway.in_flight() == 0, "the model server to be told that they left")


def test_a_model_server_that_reads_twenty_uploads_of_a_gib_slowly_costs_a_worker_little_memory(
    gateway: Gateway, clients: list[Wire], flow: Flow
) -> None:
    memory = Memory(gateway)
    sent = [0] * COUNT
    is_over = threading.Event()

    def upload(index: int) -> None:
        client = clients[index]
        client.send(b"POST /models/sip/x HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n" % GIB)
        client.sock.settimeout(0.2)
        with suppress(OSError):
            while not is_over.is_set() and sent[index] < GIB:
                with suppress(TimeoutError):
                    sent[index] += client.sock.send(BLOCK[: 64 * 1024])

    senders = [threading.Thread(target=upload, args=(index,), daemon=True) for index in range(COUNT)]
    for sender in senders:
        sender.start()
    until(lambda: len(flow.read) == COUNT, "all of them at the model server")
    time.sleep(SECONDS)
    is_over.set()
    for sender in senders:
        sender.join(10)
    read = sum(flow.read.values())
    assert read > 0
    assert sum(sent) - read < COUNT * HELD, "the clients are slowed down"
    assert memory.most < MEMORY
