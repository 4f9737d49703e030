"""How a gateway ends: what runs is finished, what comes is refused or served, nothing is dropped silently."""

import os
import signal
import socket
import time
from collections.abc import Iterator

import httpx2
import pytest

from tests.e2e.harness import DemoModel, Gateway, served, until
from tests.e2e.harness_load import READY, Load
from tests.e2e.harness_upstream import RawUpstream, streaming
from tests.ports import free_port


@pytest.fixture(scope="module")
def demo() -> Iterator[DemoModel]:
    with DemoModel(delay=0.05) as demo:
        yield demo


@pytest.fixture(scope="module")
def endless() -> Iterator[RawUpstream]:
    """A model whose answers take a minute."""
    with RawUpstream(streaming([b"1"] * 600, every=0.1)) as upstream:
        yield upstream


def gateway_of(url: str, grace: str = "30s", delay: str = "0s", **settings: object) -> Gateway:
    options = {"workers": 2, "shutdown": {"grace": grace, "delay": delay}, **settings}
    return Gateway({"demo": served([url])}, {"gateway": options})


def is_refused(port: int) -> bool:
    with socket.socket() as sock:
        return sock.connect_ex(("127.0.0.1", port)) != 0


def test_a_stop_under_load_breaks_nothing_off_and_ends_with_0(demo: DemoModel) -> None:
    plain = free_port()
    with gateway_of(demo.url, http=f"127.0.0.1:{plain}") as gateway:
        with Load(gateway, rate=200, connections=16, streams=10, tokens=40) as load:
            load.run_for(0.5)
            assert (gateway.folder / ".gateway" / "gateway.pid").read_text() == f"{gateway.pid}\n"
            gateway.popen.send_signal(signal.SIGTERM)
            until(lambda: is_refused(gateway.port) and is_refused(plain), "the listeners' end")
            assert gateway.popen.wait(20) == 0
        assert [failure for failure in load.failures if "ConnectionRefusedError" not in failure] == []
        assert load.ended >= 10
        assert not gateway.members()
        assert "Traceback" not in gateway.output
        assert not (gateway.folder / ".gateway" / "gateway.pid").exists()


def test_readiness_fails_before_the_listeners_close_and_workers_are_still_replaced(demo: DemoModel) -> None:
    with gateway_of(demo.url, delay="2s") as gateway:
        began = time.monotonic()
        gateway.popen.send_signal(signal.SIGTERM)
        answer = until(lambda: not_ready(gateway), "the failing of /readyz")
        assert answer.text == "draining\n"
        victim = gateway.pids()[0]
        os.kill(victim, signal.SIGKILL)
        until(lambda: len(set(gateway.pids()) - {victim}) == 2, "the successor")
        for _ in range(4):
            with gateway.client() as client:
                assert client.get(READY).status_code == 200
        assert time.monotonic() - began < 2.0, "the machine is too slow to tell"
        until(lambda: is_refused(gateway.port), "the listener's end", every=0.05)
        assert time.monotonic() - began >= 2.0
        assert gateway.popen.wait(20) == 0


def not_ready(gateway: Gateway) -> httpx2.Response | None:
    answer = httpx2.get(f"{gateway.admin_url}/readyz")
    return answer if answer.status_code == 503 else None


def test_open_connections_may_ask_once_more_and_are_closed(demo: DemoModel) -> None:
    with gateway_of(demo.url) as gateway, gateway.raw() as idle, gateway.raw() as asking:
        for connection in (idle, asking):
            connection.send(request_of(gateway))
            assert connection.read_response().get("connection") is None
        began = time.monotonic()
        gateway.popen.send_signal(signal.SIGTERM)
        until(lambda: is_refused(gateway.port), "the listener's end")
        asking.send(request_of(gateway))
        answer = asking.read_response()
        assert (answer.status, answer.get("connection")) == (200, "close")
        assert idle.wait_closed()
        assert idle.received.count(b"HTTP/1.1") == 1
        for client in (idle, asking):
            client.close()
        assert gateway.popen.wait(20) == 0
        assert time.monotonic() - began < 10.0


def test_a_connection_in_its_handshake_is_served_and_closed(demo: DemoModel) -> None:
    with (
        gateway_of(demo.url, workers=1) as gateway,
        socket.create_connection(("127.0.0.1", gateway.port), 10) as sock,
    ):
        gateway.popen.send_signal(signal.SIGTERM)
        until(lambda: is_refused(gateway.port), "the listener's end")
        time.sleep(0.1)
        with gateway.context.wrap_socket(sock, server_hostname="localhost") as late:
            late.sendall(request_of(gateway))
            assert late.recv(65536).startswith(b"HTTP/1.1 200")
            assert late.recv(1) == b""
        assert gateway.popen.wait(20) == 0


def request_of(gateway: Gateway) -> bytes:
    return f"GET {READY} HTTP/1.1\r\nhost: localhost\r\nauthorization: Bearer {gateway.key}\r\n\r\n".encode()


def test_what_outlasts_the_grace_is_cut_off_and_said_to_be(endless: RawUpstream) -> None:
    with gateway_of(endless.url, grace="1s") as gateway, gateway.client() as client:
        with client.stream("GET", READY) as response:
            gateway.popen.send_signal(signal.SIGTERM)
            with pytest.raises(httpx2.TransportError):  # and not a clean end
                response.read()
        assert gateway.popen.wait(20) == 0
        (line,) = gateway.access_log()
        assert (line["status"], line["error_owner"], line["error_code"]) == (200, "gateway", "gateway_stopped")
        assert "1 requests are cut off" in gateway.output
        assert "Traceback" not in gateway.output


@pytest.mark.parametrize("second", [signal.SIGTERM, signal.SIGINT])
def test_a_second_signal_ends_at_once(endless: RawUpstream, second: signal.Signals) -> None:
    with gateway_of(endless.url, delay="20s") as gateway, gateway.client() as client:
        with client.stream("GET", READY) as response:
            for number in (signal.SIGTERM, second):
                gateway.popen.send_signal(number)
                time.sleep(0.1)
            began = time.monotonic()
            with pytest.raises(httpx2.TransportError):
                response.read()
        assert gateway.popen.wait(20) == 0
        assert time.monotonic() - began < 3.0
        assert not gateway.members()
        assert "Traceback" not in gateway.output


def test_ctrl_c_is_a_graceful_stop_of_the_whole_process_group() -> None:
    with (
        RawUpstream(streaming([b"1"] * 20, every=0.05)) as slow,
        gateway_of(slow.url) as gateway,
        gateway.client() as client,
    ):
        with client.stream("GET", READY) as response:
            os.killpg(gateway.pid, signal.SIGINT)
            assert response.read().count(b"data: 1") == 20
        client.close()
        assert gateway.popen.wait(20) == 0
        assert "Traceback" not in gateway.output


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_stop_while_the_workers_start_is_a_stop(demo: DemoModel, number: signal.Signals) -> None:
    gateway = Gateway({"demo": served([demo.url])}, {"gateway": {"workers": 2}}, wait=False)
    until(lambda: len(gateway.members()) > 1, "the first child")  # it is forked behind the master's first mask
    os.killpg(gateway.pid, number)
    assert gateway.popen.wait(20) in (0, -number)
    until(lambda: not gateway.members(), "the children's end", 5)
    assert "Traceback" not in gateway.output
