"""One question of gRPC's health checking protocol (grpc.health.v1, `Health/Check`), over a connection of its own.

HTTP/2 is h2's; the two messages have one field each, written here: no generated code, no library of gRPC for two bytes.
"""

import asyncio
import ssl
from typing import Final

from h2.connection import H2Connection
from h2.events import (
    ConnectionTerminated,
    DataReceived,
    Event,
    ResponseReceived,
    StreamEnded,
    StreamReset,
    TrailersReceived,
)
from h2.exceptions import ProtocolError

from gateway.core.endpoint import Address

SERVING: Final = 1
STATES: Final = {0: "UNKNOWN", 1: "SERVING", 2: "NOT_SERVING", 3: "SERVICE_UNKNOWN"}
_STREAM: Final = 1
_BOUND: Final = 64 * 1024  # bytes read for one answer


async def check(
    address: Address, service: str, tls: ssl.SSLContext | None, server_name: str | None
) -> tuple[bool, str]:
    """Whether it is SERVING, and what it said; a service is named by at most 127 bytes. Raises OSError."""
    name = (server_name or address.host) if tls else None
    reader, writer = await asyncio.open_connection(address.host, address.port, ssl=tls, server_hostname=name)
    connection, answer = H2Connection(), Answer()
    try:
        _ask(connection, address.authority.decode(), service.encode(), "https" if tls else "http")
        left = _BOUND
        while not answer.is_whole and left > 0:
            writer.write(connection.data_to_send())
            data = await reader.read(left)
            if not data:
                return False, "the connection ended without an answer in gRPC"
            left -= len(data)
            for event in connection.receive_data(data):
                answer.feed(event)
    except ProtocolError:
        return False, "an answer that is not gRPC"
    finally:
        writer.transport.abort()
    return answer.verdict()


def _ask(connection: H2Connection, authority: str, service: bytes, scheme: str) -> None:
    head = [
        (":method", "POST"),
        (":scheme", scheme),
        (":path", "/grpc.health.v1.Health/Check"),
        (":authority", authority),
        ("content-type", "application/grpc"),
        ("te", "trailers"),
        ("user-agent", "gateway-probe"),
    ]
    message = bytes((0x0A, len(service))) + service if service else b""  # HealthCheckRequest: service = 1
    connection.initiate_connection()
    connection.send_headers(_STREAM, head)
    connection.send_data(_STREAM, b"\x00" + len(message).to_bytes(4, "big") + message, end_stream=True)


class Answer:
    """What came so far: the message, behind its five bytes of prefix, and the status that may come instead."""

    def __init__(self) -> None:
        self.body = b""
        self.status = b""  # `grpc-status`: 5 is NOT_FOUND, a service that the server does not know
        self.is_whole = False

    def __repr__(self) -> str:
        return f"<Answer {self.body!r} status {self.status!r}{' whole' if self.is_whole else ''}>"

    def feed(self, event: Event) -> None:
        if isinstance(event, DataReceived):
            self.body += event.data
        elif isinstance(event, ResponseReceived | TrailersReceived):
            self.status = next((value for name, value in event.headers if name == b"grpc-status"), self.status)
        elif isinstance(event, StreamEnded | StreamReset | ConnectionTerminated):
            self.is_whole = True

    def verdict(self) -> tuple[bool, str]:
        if self.status not in (b"", b"0"):
            return False, f"gRPC: status {self.status.decode('latin-1')} instead of a state"
        length = int.from_bytes(self.body[1:5], "big")
        message = self.body[5 : 5 + length]
        if len(self.body) < 5 + length or self.body[:1] != b"\x00":
            return False, "an answer that is not gRPC"
        # HealthCheckResponse: status = 1, and 0 (UNKNOWN) is not sent.
        state = message[1] if message[:1] == b"\x08" and len(message) > 1 else 0
        return state == SERVING, f"gRPC: {STATES.get(state, 'a state that is none')}"
