"""A server that answers exactly as scripted, however wrong, and records every byte that reached it.

with RawUpstream(answering(b"one"), resetting) as upstream:   # every connection after the first is reset
    ...
assert upstream.connections[0].received.startswith(b"GET / HTTP/1.1")
"""

import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Self

from tests.e2e.harness_wire import PATIENCE, RawMessage, Truncated, Wire
from tests.ports import free_port


class Connection(Wire):
    """What a script gets: one connection of the gateway (or a probe) to a RawUpstream."""

    def __init__(self, sock: socket.socket, index: int) -> None:
        super().__init__(sock)
        self.index = index  # 0 for the first connection that was accepted
        self.requests: list[RawMessage] = []  # those read with read_request
        self.error: BaseException | None = None  # what ended the script, if it was not the script
        self.ended = threading.Event()

    def read_request(self) -> RawMessage:
        request = super().read_request()
        request.at = time.monotonic()
        self.requests.append(request)
        return request

    def hang(self) -> None:
        """Say nothing until the peer leaves, or the upstream is stopped."""
        self.sock.settimeout(None)
        while self.fill():
            pass


Script = Callable[[Connection], None]


class RawUpstream:
    """A TCP server whose every connection is played by a script, in a thread of its own.

    The n-th connection gets the n-th script; the last one plays all that follow. After a script returns, its
    connection is closed. A script that fails on anything but the network fails the test when the upstream is left.
    """

    def __init__(self, *scripts: Script, context: ssl.SSLContext | None = None, port: int = 0) -> None:
        self.scripts = scripts
        self.context = context
        self.connections: list[Connection] = []
        self._changed = threading.Condition()
        self._threads: list[threading.Thread] = []
        self._listener = self._listen(port)
        self.port: int = self._listener.getsockname()[1]
        self._start()

    @staticmethod
    def _listen(port: int) -> socket.socket:
        return socket.create_server(("127.0.0.1", port or free_port()), backlog=512)

    def _start(self) -> None:
        thread = threading.Thread(target=self._accept, args=(self._listener,), daemon=True)
        self._threads.append(thread)
        thread.start()

    @property
    def url(self) -> str:
        return f"{'https' if self.context else 'http'}://127.0.0.1:{self.port}"

    @property
    def requests(self) -> list[RawMessage]:
        """Every request that a script has read, of all connections, in the order of their ends."""
        found = [request for connection in list(self.connections) for request in connection.requests]
        return sorted(found, key=lambda request: request.at)

    def wait_connections(self, count: int, within: float = PATIENCE) -> None:
        """Wait until `count` connections have been accepted. Raises AssertionError after `within` seconds."""
        with self._changed:
            met = self._changed.wait_for(lambda: len(self.connections) >= count, within)
        assert met, f"{len(self.connections)} of {count} connections came in {within} s"

    def refuse(self) -> None:
        """Stop listening: the port refuses. Open connections go on."""
        with suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()

    def listen(self) -> None:
        """Listen again, on the same port, after `refuse`."""
        self._listener = self._listen(self.port)
        self._start()

    def _accept(self, listener: socket.socket) -> None:
        while True:
            try:
                sock, _ = listener.accept()
            except OSError:
                return
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            connection = Connection(sock, len(self.connections))
            thread = threading.Thread(target=self._play, args=(connection,), daemon=True)
            with self._changed:
                self.connections.append(connection)
                self._changed.notify_all()
            self._threads.append(thread)
            thread.start()

    def _play(self, connection: Connection) -> None:
        script = self.scripts[min(connection.index, len(self.scripts) - 1)]
        try:
            if self.context:
                connection.sock = self.context.wrap_socket(connection.sock, server_side=True)
            script(connection)
        except BaseException as error:  # kept for the test's own thread, which raises it
            connection.error = error
        finally:
            connection.close()
            connection.ended.set()

    def stop(self) -> None:
        self.refuse()
        for connection in list(self.connections):
            with suppress(OSError):
                connection.sock.shutdown(socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join(PATIENCE)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        self.stop()
        for connection in self.connections:
            if kind is None and not isinstance(connection.error, (OSError, Truncated, type(None))):
                raise connection.error


# --- scripts ---


def response(body: bytes = b"ok", status: int = 200, fields: Iterable[tuple[str, str]] = ()) -> bytes:
    """A well-formed response with Content-Length."""
    lines = [f"HTTP/1.1 {status} X", f"content-length: {len(body)}", *(f"{name}: {value}" for name, value in fields)]
    return "\r\n".join([*lines, "", ""]).encode("latin-1") + body


def answering(body: bytes = b"ok", status: int = 200, fields: Sequence[tuple[str, str]] = ()) -> Script:
    """A good server: answers every request of the connection, and keeps it alive."""
    return saying(response(body, status, fields))


def saying(data: bytes) -> Script:
    """Answers every request of the connection with exactly these bytes."""

    def script(connection: Connection) -> None:
        while True:
            connection.read_request()
            connection.send(data)

    return script


def saying_once(data: bytes) -> Script:
    """Reads a request, sends exactly these bytes, and closes."""

    def script(connection: Connection) -> None:
        connection.read_request()
        connection.send(data)

    return script


def streaming(events: Iterable[bytes], every: float = 0.0) -> Script:
    """Answers every request with an event stream, one chunk for each event, `every` seconds apart."""
    events = list(events)

    def script(connection: Connection) -> None:
        while True:
            connection.read_request()
            connection.send(b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n")
            for event in events:
                time.sleep(every)
                connection.send_chunk(b"data: " + event + b"\n\n")
            connection.send_chunk(b"")

    return script


def pouring(connection: Connection) -> None:
    """Sends without end, faster than anybody reads."""
    connection.read_head()
    connection.send(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n")
    connection.sock.settimeout(60)
    while True:
        connection.send_chunk(b"x" * 65536)


def resetting(connection: Connection) -> None:
    """Resets at once, before it reads anything."""
    connection.reset()


def resetting_after_request(connection: Connection) -> None:
    connection.read_request()
    connection.reset()


def closing_after_request(connection: Connection) -> None:
    connection.read_request()


def hanging(connection: Connection) -> None:
    """Takes everything, says nothing."""
    connection.hang()


@contextmanager
def refused_port() -> Iterator[int]:
    """A port on 127.0.0.1 that refuses, and that nobody else can get meanwhile: it is bound, but does not listen."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        yield sock.getsockname()[1]
