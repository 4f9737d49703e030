"""The check by gRPC against servers that do not speak it, or say something else (tests/e2e has real ones)."""

import asyncio
from collections.abc import Iterable

import pytest
from h2.config import H2Configuration
from h2.connection import H2Connection
from h2.events import ConnectionTerminated, StreamEnded

from gateway.control import grpc
from gateway.core.endpoint import Address

OK = [(":status", "200"), ("content-type", "application/grpc")]


async def asked(server: "Server", service: str = "") -> tuple[bool, str]:
    async with await asyncio.start_server(server, "127.0.0.1", 0) as listener:
        port = listener.sockets[0].getsockname()[1]
        async with asyncio.timeout(20):
            return await grpc.check(Address.parse(f"http://127.0.0.1:{port}"), service, None, None)


class Server:
    """Sends these bytes, again and again if `endless`, and closes when the other side does."""

    def __init__(self, sent: bytes, *, endless: bool = False) -> None:
        self.sent, self.endless = sent, endless

    async def __call__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await reader.read(1)
            writer.write(self.sent)
            while self.endless:
                writer.write(self.sent)
                await writer.drain()
        except ConnectionError:
            pass
        finally:
            writer.close()


class Speaker(Server):
    """Answers by HTTP/2: head, message, and the fields behind it."""

    def __init__(self, message: bytes, trailers: Iterable[tuple[str, str]] = ()) -> None:
        super().__init__(b"")
        self.message, self.trailers = message, [*trailers]

    async def __call__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        connection = H2Connection(H2Configuration(client_side=False))
        connection.initiate_connection()
        while data := await reader.read(65536):
            for event in connection.receive_data(data):
                if isinstance(event, StreamEnded):
                    connection.send_headers(event.stream_id, OK)
                    connection.send_data(event.stream_id, self.message, end_stream=not self.trailers)
                    if self.trailers:
                        connection.send_headers(event.stream_id, self.trailers, end_stream=True)
                assert not isinstance(event, ConnectionTerminated), "the question was no good HTTP/2"
            writer.write(connection.data_to_send())
        writer.close()


@pytest.mark.parametrize(
    ("server", "said"),
    [
        (
            Server(b"HTTP/1.1 400 Bad Request\r\ncontent-length: 0\r\n\r\n"),
            "the connection ended without an answer in gRPC",
        ),
        (Server(b""), "the connection ended without an answer in gRPC"),
        (Server(b"\x00\x00\x00\x04\x00\x00\x00\x00\x00", endless=True), "an answer that is not gRPC"),  # SETTINGS
        (Speaker(b"{}"), "an answer that is not gRPC"),
        (Speaker(b"\x00\x00\x00\x00\x09\x08\x01"), "an answer that is not gRPC"),  # shorter than it says
        (Speaker(b"", [("grpc-status", "5")]), "gRPC: status 5 instead of a state"),
        (Speaker(b"\x00\x00\x00\x00\x00", [("grpc-status", "0")]), "gRPC: UNKNOWN"),
        (Speaker(b"\x00\x00\x00\x00\x02\x08\x02", [("grpc-status", "0")]), "gRPC: NOT_SERVING"),
        (Speaker(b"\x00\x00\x00\x00\x02\x08\x09"), "gRPC: a state that is none"),
    ],
)
def test_what_is_not_serving_is_told_as_what_it_is(server: Server, said: str) -> None:
    assert asyncio.run(asked(server, "inference.GRPCInferenceService")) == (False, said)


def test_serving_is_good_whether_or_not_a_service_is_named() -> None:
    server = Speaker(b"\x00\x00\x00\x00\x02\x08\x01", [("grpc-status", "0")])
    assert asyncio.run(asked(server)) == (True, "gRPC: SERVING")
    assert asyncio.run(asked(server, "s" * 100)) == (True, "gRPC: SERVING")
