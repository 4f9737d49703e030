"""The doors themselves: how long a handshake may take, and that the plain one leads to https and nowhere else."""

import shutil
import socket
import ssl
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.harness import PATIENCE, DemoModel, Gateway, material, served
from tests.e2e.harness_wire import Wire
from tests.ports import free_port
from tests.tls.makers import AUTHORITY


@pytest.fixture(scope="module")
def gateway() -> Iterator[Gateway]:
    settings = {"tls": {"handshake_timeout": "500ms"}, "gateway": {"http": f"127.0.0.1:{free_port()}"}}
    with DemoModel() as model, Gateway({"demo": served([model.url], auth=[])}, settings) as gateway:
        yield gateway


def hello() -> bytes:
    outgoing = ssl.MemoryBIO()
    with pytest.raises(ssl.SSLWantReadError):
        ssl.create_default_context().wrap_bio(ssl.MemoryBIO(), outgoing, server_hostname="localhost").do_handshake()
    return outgoing.read()


def left_alone(port: int, data: bytes) -> bytes:
    """What comes from a server that is told `data` and nothing more, until it closes."""
    with socket.create_connection(("127.0.0.1", port), timeout=PATIENCE) as client:
        client.sendall(data)
        received = b""
        while data := client.recv(65536):
            received += data
        return received


@pytest.mark.parametrize("part", ["nothing", "half a hello", "a hello"])
def test_a_client_that_does_not_go_on_with_its_handshake_is_closed(gateway: Gateway, part: str) -> None:
    whole = hello()
    said = {"nothing": b"", "half a hello": whole[: len(whole) // 2], "a hello": whole}[part]
    answer = left_alone(gateway.port, said)
    assert bool(answer) == (part == "a hello")


@pytest.mark.parametrize("size", [0, 100])
def test_so_it_is_where_the_hello_is_looked_at(tmp_path: Path, size: int) -> None:
    shutil.copytree(material()[0] / "certs", tmp_path / "certs")
    (tmp_path / "ca.pem").write_bytes(AUTHORITY.pem)
    tls = {"handshake_timeout": "500ms", "client_ca": {"all": {"file": "ca.pem"}}}
    with Gateway({}, {"tls": tls}, folder=tmp_path) as gateway:
        assert left_alone(gateway.port, hello()[:size]) == b""


@pytest.mark.parametrize(
    "target", ["/", "/v1/models", "/models/demo/v2/health/ready", "/metrics", "/status", "/v1/chat/completions?a=b%20c"]
)
@pytest.mark.parametrize("method", ["GET", "HEAD", "POST", "PUT"])
def test_the_plain_door_leads_to_https_and_nowhere_else(gateway: Gateway, method: str, target: str) -> None:
    body = b"{}" if method in ("POST", "PUT") else b""
    head = f"{method} {target} HTTP/1.1\r\nhost: models.example.com:80\r\ncontent-length: {len(body)}\r\n\r\n"
    port = int(gateway.config["gateway"]["http"].rpartition(":")[2])
    with socket.create_connection(("127.0.0.1", port), timeout=PATIENCE) as raw:
        client = Wire(raw)
        client.send(head.encode() + body)
        answer = client.read_response(method)
    assert answer.status == 308
    assert answer.get("location") == f"https://models.example.com:{gateway.port}{target}"
    assert answer.body == b""


@pytest.mark.parametrize("head", [b"GET /x HTTP/1.0\r\n\r\n", b"GET /x HTTP/1.1\r\nHost:\r\n\r\n"])
def test_who_names_no_host_is_led_nowhere(gateway: Gateway, head: bytes) -> None:
    port = int(gateway.config["gateway"]["http"].rpartition(":")[2])
    with socket.create_connection(("127.0.0.1", port), timeout=PATIENCE) as raw:
        client = Wire(raw)
        client.send(head)
        answer = client.read_response()
    assert (answer.status, answer.get("location")) == (400, None)
