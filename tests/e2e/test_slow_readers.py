"""Clients that are slow to take an answer: who is merely slow gets all of it, who does not take it is let go."""

import socket
import time
from collections.abc import Iterator

import pytest

from tests.e2e.harness import Gateway, served, until
from tests.e2e.harness_upstream import Connection, RawUpstream, response
from tests.e2e.harness_wire import Truncated, Wire

SIZE = 8 * 2**20  # more than kernels hold for one connection
RATE = 100_000  # bytes a second
LATEST = 1.0  # seconds that it may have to wait for a client
LIMITS = {"write_idle": f"{LATEST}s", "write_rate": RATE, "write_bytes": "16KiB"}


def large(connection: Connection) -> None:
    while True:
        connection.read_request()
        connection.send(response(b"x" * SIZE))


def seldom(connection: Connection) -> None:
    """A stream whose server has little to say, far below the rate, and a burst now and then."""
    connection.read_request()
    connection.send(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n")
    for number in range(12):
        time.sleep(0.25)
        connection.send_chunk(b"y" * (100_000 if number % 4 == 0 else 5))
    connection.send(b"0\r\n\r\n")


@pytest.fixture(scope="module")
def gateway() -> Iterator[Gateway]:
    with RawUpstream(large) as one, RawUpstream(seldom) as two:
        models = {"large": served([one.url], auth=[]), "seldom": served([two.url], auth=[])}
        with Gateway(models, {"gateway": {"limits": LIMITS}}) as gateway:
            yield gateway


def asking(gateway: Gateway, model: str) -> Wire:
    """A client whose own kernel takes little for it."""
    sock = socket.socket()
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 32_768)
    sock.settimeout(20)
    sock.connect(("127.0.0.1", gateway.port))
    wire = Wire(gateway.context.wrap_socket(sock, server_hostname="localhost"))
    wire.send(f"GET /models/{model}/x HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n".encode())
    return wire


def test_a_client_that_takes_an_answer_too_slowly_is_let_go_however_steadily(gateway: Gateway) -> None:
    taken, began, seen = 0, time.monotonic(), len(gateway.access_log())
    with asking(gateway, "large") as client:
        while len(gateway.access_log()) == seen:
            taken += len(client.sock.recv(1_000))
            time.sleep(0.05)
            assert time.monotonic() - began < 20
        assert gateway.access_log()[-1]["status"] == 499
        assert time.monotonic() - began >= LATEST
    assert taken > 5_000
    until(lambda: gateway.in_flight() == 0, "the end of the model server's work")


def test_a_client_that_is_slow_but_not_too_slow_gets_all_of_it(gateway: Gateway) -> None:
    with asking(gateway, "large") as client:
        head = client.read_head()
        taken = len(client.buffer)
        while taken < SIZE and (data := client.sock.recv(65536)):
            taken += len(data)
            time.sleep(0.005)
    assert head.status == 200
    assert taken == SIZE


def test_a_stream_is_not_cut_off_because_its_model_server_is_slow(gateway: Gateway) -> None:
    with asking(gateway, "seldom") as client:
        answer = client.read_response()
    assert len(answer.body) == 3 * 100_000 + 9 * 5


def test_the_end_of_an_answer_is_not_lost_on_who_takes_its_time() -> None:
    """When all of an answer is written, much of it waits in buffers, the last of it in ours."""
    with RawUpstream(large) as upstream, Gateway({"large": served([upstream.url], auth=[])}) as gateway:
        with asking(gateway, "large") as client:
            client.read_head()
            taken = len(client.buffer)
            while not gateway.access_log():
                taken += len(client.sock.recv(65536))
                time.sleep(0.002)
            time.sleep(5.5)  # longer than a client has to close that has all
            while data := client.sock.recv(65536):
                taken += len(data)
        assert taken == SIZE


def test_who_takes_nothing_is_let_go_after_its_time(gateway: Gateway) -> None:
    began, seen = time.monotonic(), len(gateway.access_log())
    with asking(gateway, "large") as client:
        until(lambda: len(gateway.access_log()) > seen, "the end of it")
        assert time.monotonic() - began >= LATEST
        with pytest.raises((Truncated, OSError)):
            client.read_response()
