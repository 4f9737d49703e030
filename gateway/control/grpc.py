"""One question of gRPC's health checking protocol (grpc.health.v1, `Health/Check`), over a connection of its own.

The answer stands in the first DATA frame, so no header needs to be decoded, and HTTP/2 (RFC 9113) comes down to frames:
the preface, one HEADERS without compression (RFC 7541, 6.2.2), one DATA, and what a peer may ask for in between.
"""

import asyncio
import ssl
import struct
from typing import Final

from gateway.core.endpoint import Address

PREFACE: Final = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
DATA, HEADERS, RST_STREAM, SETTINGS, PING, GOAWAY = 0, 1, 3, 4, 6, 7
ACK, END_STREAM, END_HEADERS, PADDED = 1, 1, 4, 8
SERVING: Final = 1
STATES: Final = {0: "UNKNOWN", 1: "SERVING", 2: "NOT_SERVING", 3: "SERVICE_UNKNOWN"}
_STREAM: Final = 1
_BOUND: Final = 64 * 1024  # bytes of frames read for one answer


async def check(
    address: Address, service: str, tls: ssl.SSLContext | None, server_name: str | None
) -> tuple[bool, str]:
    """Whether it is SERVING, and what it said. Raises OSError."""
    name = (server_name or address.host) if tls else None
    reader, writer = await asyncio.open_connection(address.host, address.port, ssl=tls, server_hostname=name)
    try:
        writer.write(request(address.authority, service.encode(), b"https" if tls else b"http"))
        return await _answer(reader, writer)
    except (asyncio.IncompleteReadError, struct.error, IndexError):
        return False, "the connection ended without an answer in gRPC"
    finally:
        writer.transport.abort()


def request(authority: bytes, service: bytes, scheme: bytes) -> bytes:
    fields = [
        (b":method", b"POST"),
        (b":scheme", scheme),
        (b":path", b"/grpc.health.v1.Health/Check"),
        (b":authority", authority),
        (b"content-type", b"application/grpc"),
        (b"te", b"trailers"),
        (b"user-agent", b"gateway-probe"),
    ]
    head = b"".join(b"\x00" + _string(name) + _string(value) for name, value in fields)
    message = b"\x0a" + _number(len(service), 7) + service if service else b""  # HealthCheckRequest.service
    body = struct.pack(">BI", 0, len(message)) + message
    return (
        PREFACE
        + frame(SETTINGS, 0, 0, b"")
        + frame(HEADERS, END_HEADERS, _STREAM, head)
        + frame(DATA, END_STREAM, _STREAM, body)
    )


def frame(kind: int, flags: int, stream: int, payload: bytes) -> bytes:
    return struct.pack(">I", len(payload))[1:] + bytes((kind, flags)) + struct.pack(">I", stream) + payload


def state(message: bytes) -> int:
    """HealthCheckResponse.status of a gRPC message; 0 (UNKNOWN) is not sent."""
    body = message[5:]
    return body[1] if len(body) >= 2 and body[0] == 0x08 else 0


async def _answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> tuple[bool, str]:
    message, size = b"", 0
    while size < _BOUND:
        head = await reader.readexactly(9)
        length, kind, flags = int.from_bytes(head[:3], "big"), head[3], head[4]
        if length > _BOUND:
            break
        payload = await reader.readexactly(length)
        size += 9 + length
        if kind == SETTINGS and not flags & ACK:
            writer.write(frame(SETTINGS, ACK, 0, b""))
        elif kind == PING and not flags & ACK:
            writer.write(frame(PING, ACK, 0, payload))
        elif kind in (RST_STREAM, GOAWAY):
            return False, "gRPC: the stream was reset"
        elif kind == DATA:
            message += payload[1 : length - payload[0]] if flags & PADDED else payload
            if len(message) >= 5 and len(message) >= 5 + int.from_bytes(message[1:5], "big"):
                found = state(message)
                return found == SERVING, f"gRPC: {STATES.get(found, 'a state that is none')}"
        elif kind == HEADERS and flags & END_STREAM:
            return False, "gRPC: an error instead of a state"  # an unknown service is one: NOT_FOUND
    return False, "an answer that is not gRPC"


def _string(text: bytes) -> bytes:
    return _number(len(text), 7) + text


def _number(value: int, bits: int) -> bytes:
    """An integer with a prefix of `bits` (RFC 7541, 5.1); below 127 it is protobuf's varint as well."""
    most = (1 << bits) - 1
    if value < most:
        return bytes((value,))
    found = bytearray((most,))
    value -= most
    while value >= 128:
        found.append(value & 127 | 128)
        value >>= 7
    found.append(value)
    return bytes(found)
