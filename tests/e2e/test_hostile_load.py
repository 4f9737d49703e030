"""Many clients that mean no good, at one time: what they cost, that it is given back, and that others are served.

The long versions, marked slow, print what they measure: `python -m pytest -m slow tests/e2e/test_hostile_load.py -s`.
"""

import resource
import shutil
import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from tests.e2e.harness import Gateway, served, until
from tests.e2e.harness_upstream import RawUpstream, answering, pouring
from tests.e2e.harness_wire import Wire

MIB = 2**20
HEAD = b"GET /m/x HTTP/1.1\r\nHost: a\r\n" + (b"X-A: " + b"a" * 1000 + b"\r\n") * 60
GET = b"GET /m/x HTTP/1.1\r\nHost: a\r\n\r\n"


@pytest.fixture(scope="module")
def upstream() -> Iterator[RawUpstream]:
    with RawUpstream(answering()) as upstream:
        yield upstream


@pytest.fixture
def gateway(upstream: RawUpstream) -> Iterator[Gateway]:
    models = {"m": served([upstream.url], auth=[], match=[{"prefix": "/"}])}
    limits = {"headers_timeout": "60s", "unfinished_bytes": "2MiB", "body_idle": "10s"}
    with Gateway(models, {"gateway": {"limits": limits}}) as gateway:
        yield gateway


def resident(gateway: Gateway) -> int:
    """Bytes of its worker."""
    (pid,) = gateway.pids()
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * resource.getpagesize()


def crowd(gateway: Gateway, count: int) -> list[Wire]:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if count + 100 > soft:
        resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, count + 1000), hard))
    context = gateway.context

    def one() -> Wire:
        sock = socket.create_connection(("127.0.0.1", gateway.port), 60)
        return Wire(context.wrap_socket(sock, server_hostname="localhost"))

    return [one() for _ in range(count)]


def send_all(clients: list[Wire], data: bytes) -> None:
    for client in clients:
        with suppress(OSError):
            client.send(data)


def is_served(gateway: Gateway) -> bool:
    return is_served_at(gateway, "/m/x")


def is_served_at(gateway: Gateway, target: str) -> bool:
    with gateway.raw() as client:
        client.send(f"GET {target} HTTP/1.1\r\nHost: a\r\n\r\n".encode())
        return client.read_response().status == 200


@pytest.mark.parametrize("count", [150, pytest.param(1000, marks=pytest.mark.slow)])
def test_clients_that_stall_behind_60_kib_of_head_cost_a_bounded_memory_and_give_it_back(
    gateway: Gateway, count: int
) -> None:
    assert is_served(gateway)
    before = resident(gateway)
    clients = crowd(gateway, count)
    send_all(clients, HEAD)
    cut = 'connections_refused_total{reason="unfinished"} '
    until(lambda: cut in gateway.metrics(), "the relief")
    bound = count * 150 * MIB / 1000
    until(lambda: resident(gateway) - before < bound, "less than 150 KiB for each", 15.0, every=0.2)
    cost = resident(gateway) - before
    assert is_served(gateway)
    for client in clients:
        client.close()
    until(lambda: resident(gateway) - before < cost / 2 + 8 * MIB, "memory given back", 30.0, every=0.5)
    print(f"\n{count} stalled clients: +{cost / MIB:.0f} MiB, afterwards +{(resident(gateway) - before) / MIB:.0f} MiB")


def test_what_is_held_for_readers_that_leave_is_given_back_at_once() -> None:
    """Not when the collector of cycles comes by: an error's frames would hold all of it until then."""
    with RawUpstream(pouring) as upstream, Gateway({"m": served([upstream.url], auth=[])}) as gateway:
        assert not is_served_at(gateway, "/nothing")
        before = resident(gateway)
        readers = crowd(gateway, 110)
        send_all(readers, b"GET /models/m/x HTTP/1.1\r\nHost: a\r\n\r\n")
        until(lambda: resident(gateway) > before + 60 * MIB, "answers that wait for their readers")
        for reader in readers:
            reader.close()
        until(lambda: resident(gateway) < before + 40 * MIB, "what they held")


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_five_thousand_idle_connections_are_survived(gateway: Gateway) -> None:
    before = resident(gateway)
    clients = crowd(gateway, 5000)
    cost = resident(gateway) - before
    assert is_served(gateway)
    print(f"\n5,000 idle connections: +{cost / MIB:.0f} MiB")
    for client in clients:
        client.close()
    until(lambda: resident(gateway) - before < cost / 2, "memory given back", 60.0, every=0.5)


ATTACKS = {
    "slow heads": ["-H", "-i", "5"],
    "slow bodies": ["-B", "-i", "5", "-s", "8192"],
    "slow readers": ["-X", "-w", "512", "-y", "1024", "-n", "5", "-z", "32", "-k", "3"],
    "many ranges": ["-R", "-a", "1", "-b", "3000"],
}


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("name", ATTACKS)
def test_under_a_thousand_slow_connections_a_normal_client_is_served_as_before(gateway: Gateway, name: str) -> None:
    if shutil.which("slowhttptest") is None:
        pytest.skip("slowhttptest is not installed")
    calm = percentile_99(gateway, 10.0)
    command = ["slowhttptest", *ATTACKS[name], "-c", "1000", "-r", "200", "-l", "40", "-u", f"{gateway.base_url}/m/x"]
    attack = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        time.sleep(8)
        under = percentile_99(gateway, 20.0)
    finally:
        attack.terminate()
        attack.wait()
    print(f"\n{name}: p99 {1000 * calm:.1f} ms before, {1000 * under:.1f} ms under attack")
    assert under < 2 * calm + 0.02


def percentile_99(gateway: Gateway, seconds: float) -> float:
    """Of requests one after another on a kept connection, each of which has to succeed."""
    times: list[float] = []
    problem: list[BaseException] = []

    def ask() -> None:
        try:
            with gateway.raw() as client:
                end = time.monotonic() + seconds
                while time.monotonic() < end:
                    began = time.monotonic()
                    client.send(GET)
                    assert client.read_response().status == 200
                    times.append(time.monotonic() - began)
                    time.sleep(0.005)
        except BaseException as error:  # for the test's own thread
            problem.append(error)

    thread = threading.Thread(target=ask)
    thread.start()
    thread.join()
    assert problem == []
    return sorted(times)[int(len(times) * 0.99)]
