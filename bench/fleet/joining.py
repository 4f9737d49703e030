"""How engines join a balancer that runs: as those who operate it have them join, while requests come."""

import contextlib
import json
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from http.client import HTTPConnection
from urllib.parse import quote

from bench.fleet.peers import Balancer, configure
from bench.processes import Failed

_PATIENCE = 30.0  # seconds that an answer of a balancer may take


@contextlib.contextmanager
def joining(at: float, joins: Sequence[tuple[Balancer, Sequence[int]]]) -> Iterator[None]:
    """While the block runs, at the time `at` (CLOCK_MONOTONIC), all at once, as one may take longer than another.
    Raises Failed."""
    is_over = threading.Event()

    def one(balancer: Balancer, ports: Sequence[int]) -> None:
        if not is_over.wait(max(0.0, at - time.monotonic())):
            join(balancer, ports)

    with ThreadPoolExecutor(max(1, len(joins))) as threads:
        tasks = [threads.submit(one, *each) for each in joins]
        try:
            yield
        finally:
            is_over.set()
        for task in tasks:
            task.result()


def join(balancer: Balancer, ports: Sequence[int]) -> None:
    """Engines on `ports` beside those that it has. Raises Failed if it refuses."""
    try:
        _WAYS[balancer.peer.program](balancer, ports)
    except OSError as error:
        raise Failed(f"{balancer.running.name}: nothing joins: {error}") from error


def _edit(balancer: Balancer, ports: Sequence[int]) -> None:
    """The gateway: its file, which it watches."""
    configure(balancer.peer, [*balancer.ports, *ports], balancer.folder, balancer.words)


def _reload(balancer: Balancer, ports: Sequence[int]) -> None:
    """nginx: its file, and what `nginx -s reload` sends. (Changing servers by an API is not in the open one.) The
    worker of before ends what it has, and closes what is idle, where a request may be under way; the new one counts
    from 0."""
    _edit(balancer, ports)
    balancer.running.process.send_signal(signal.SIGHUP)


def _order(balancer: Balancer, ports: Sequence[int]) -> None:
    """HAProxy: its runtime API, and not a reload: one process goes on, with all that it has counted. (A server that is
    added begins in maintenance.)"""
    for port in ports:
        for order in (f"add server pool/e{port} 127.0.0.1:{port}", f"enable server pool/e{port}"):
            with socket.socket(socket.AF_UNIX) as api:
                api.settimeout(_PATIENCE)
                api.connect(str(balancer.folder / "api"))
                api.sendall(f"{order}\n".encode())
                said = api.recv(4096).decode().strip()
            if said not in ("", "New server registered."):
                raise Failed(f"{balancer.running.name}: {order}: {said}")


def _add_worker(balancer: Balancer, ports: Sequence[int]) -> None:
    """vllm-router: answered when the engine's health was asked."""
    for port in ports:
        _post(balancer, f"/add_worker?url={quote(f'http://127.0.0.1:{port}', safe='')}")


def _workers(balancer: Balancer, ports: Sequence[int]) -> None:
    """sglang-router: answered at once; the engine is asked, and joins, behind that."""
    for port in ports:
        _post(balancer, "/workers", json.dumps({"url": f"http://127.0.0.1:{port}"}))


_WAYS: dict[str, Callable[[Balancer, Sequence[int]], None]] = {
    "gateway": _edit,
    "nginx": _reload,
    "haproxy": _order,
    "vllm-router": _add_worker,
    "sglang-router": _workers,
}


def _post(balancer: Balancer, path: str, body: str = "") -> None:
    connection = HTTPConnection("127.0.0.1", balancer.port, timeout=_PATIENCE)
    try:
        connection.request("POST", path, body, {"content-type": "application/json"} if body else {})
        answer = connection.getresponse()
        said = answer.read().decode(errors="replace")
    finally:
        connection.close()
    if not 200 <= answer.status < 300:
        raise Failed(f"{balancer.running.name}: {path}: {answer.status} {said}")
