"""A client that sends exactly what it is told and shows exactly what came: no HTTP library decides what is well-formed.

with connect("127.0.0.1", 8443, context) as client:
    client.send(b"GET / HTTP/1.1\\r\\nHost: a\\r\\n\\r\\n")
    assert client.read_response().status == 401
"""

import re
import socket
import ssl
import struct
import time
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Self

PATIENCE = 10.0  # seconds that a read waits before the test fails


class Truncated(AssertionError):
    """The connection ended inside a message; `partial` is what came."""

    def __init__(self, message: str, partial: "RawMessage | None" = None) -> None:
        super().__init__(message)
        self.partial = partial


@dataclass
class RawMessage:
    """One HTTP/1.1 message as it came: the start line, the fields with their case and order, the decoded body."""

    start: bytes
    fields: list[tuple[bytes, bytes]]
    body: bytes = b""
    trailers: list[tuple[bytes, bytes]] = field(default_factory=list)
    at: float = 0.0  # when an upstream had read all of it (monotonic seconds)

    @property
    def status(self) -> int:
        return int(self.start.split(b" ")[1])

    @property
    def method(self) -> str:
        return self.start.split(b" ")[0].decode()

    @property
    def target(self) -> str:
        return self.start.split(b" ")[1].decode()

    def all(self, name: str) -> list[str]:
        """Every value of a field, in order."""
        return [value.decode("latin-1") for key, value in self.fields if key.decode("latin-1").lower() == name.lower()]

    def get(self, name: str) -> str | None:
        """The field's only value, or None. Fails if it came more than once."""
        values = self.all(name)
        assert len(values) <= 1, f"{name} came {len(values)} times: {values}"
        return values[0] if values else None


class Wire:
    """A connected socket: records what it receives, reads whole messages."""

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        self.sock.settimeout(PATIENCE)
        self.received = b""  # everything, ever
        self.buffer = b""  # what no read has taken yet
        self.at_end = False

    # --- writing ---

    def send(self, data: bytes) -> None:
        self.sock.sendall(data)

    def drip(self, data: bytes, every: float = 0.01, size: int = 1) -> None:
        """Send `size` bytes at a time, `every` seconds apart."""
        for start in range(0, len(data), size):
            self.sock.sendall(data[start : start + size])
            time.sleep(every)

    def send_chunk(self, data: bytes) -> None:
        """One chunk of a chunked body; an empty one ends it."""
        self.send(b"%x\r\n%b\r\n" % (len(data), data))

    # --- reading ---

    def fill(self) -> bool:
        """Wait for bytes; False at the end of the stream. Raises TimeoutError after PATIENCE."""
        try:
            data = self.sock.recv(65536)
        except (ConnectionError, ssl.SSLEOFError, ssl.SSLZeroReturnError):
            data = b""
        self.received += data
        self.buffer += data
        self.at_end = not data
        return bool(data)

    def read_until(self, mark: bytes) -> bytes:
        while mark not in self.buffer:
            if not self.fill():
                raise Truncated(f"the stream ended before {mark!r}; it held {self.buffer!r}")
        head, _, self.buffer = self.buffer.partition(mark)
        return head + mark

    def read_exactly(self, size: int) -> bytes:
        while len(self.buffer) < size:
            if not self.fill():
                raise Truncated(f"the stream ended after {len(self.buffer)} of {size} bytes")
        data, self.buffer = self.buffer[:size], self.buffer[size:]
        return data

    def read_to_end(self) -> bytes:
        while self.fill():
            pass
        data, self.buffer = self.buffer, b""
        return data

    def read_head(self) -> RawMessage:
        """A start line and fields."""
        start, *lines = self.read_until(b"\r\n\r\n")[:-4].split(b"\r\n")
        return RawMessage(start, [_field(line) for line in lines])

    def read_request(self) -> RawMessage:
        """A whole request. Raises Truncated if the peer leaves first."""
        message = self.read_head()
        if message.get("transfer-encoding"):
            self._read_chunked(message)
        elif length := message.get("content-length"):
            message.body = self.read_exactly(int(length))
        return message

    def read_response(self, method: str = "GET") -> RawMessage:
        """A whole response (RFC 9112, 6.3), interim ones too. Raises Truncated if it is not whole."""
        message = self.read_head()
        if method == "HEAD" or message.status < 200 or message.status in (204, 304):
            return message
        if message.get("transfer-encoding"):
            self._read_chunked(message)
        elif length := message.get("content-length"):
            self._read_sized(message, int(length))
        else:
            message.body = self.read_to_end()
        return message

    def _read_sized(self, message: RawMessage, size: int) -> None:
        try:
            message.body = self.read_exactly(size)
        except Truncated as error:
            message.body, self.buffer = self.buffer, b""
            raise Truncated(str(error), message) from error

    def _read_chunked(self, message: RawMessage) -> None:
        try:
            while size := int(self.read_until(b"\r\n").partition(b";")[0], 16):
                message.body += self.read_exactly(size)
                assert self.read_exactly(2) == b"\r\n", "a chunk is longer than it says"
            while (line := self.read_until(b"\r\n")) != b"\r\n":
                message.trailers.append(_field(line[:-2]))
        except Truncated as error:
            message.body += re.sub(rb"^[0-9a-fA-F]+\r\n", b"", self.buffer)
            raise Truncated(str(error), message) from error

    def wait_closed(self, within: float = PATIENCE) -> bool:
        """True once the peer has ended the stream; what comes before that is kept."""
        deadline = time.monotonic() + within
        while not self.at_end and (left := deadline - time.monotonic()) > 0:
            self.sock.settimeout(left)
            with suppress(TimeoutError):
                self.fill()
        self.sock.settimeout(PATIENCE)
        return self.at_end

    # --- ending ---

    def reset(self) -> None:
        """End with a TCP reset instead of a FIN."""
        self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.sock.close()

    def close(self) -> None:
        with suppress(OSError):
            self.sock.shutdown(socket.SHUT_RDWR)
        self.sock.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _field(line: bytes) -> tuple[bytes, bytes]:
    name, colon, value = line.partition(b":")
    assert colon, f"{line!r} is not a field"
    return name, value.strip(b" \t")


def connect(host: str, port: int, context: ssl.SSLContext | None = None, server_name: str = "localhost") -> Wire:
    """A client: TLS if a context is given, with `server_name` in SNI."""
    sock = socket.create_connection((host, port), PATIENCE)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return Wire(context.wrap_socket(sock, server_hostname=server_name) if context else sock)
